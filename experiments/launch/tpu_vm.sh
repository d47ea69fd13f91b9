#!/usr/bin/env bash
# Trains on a Cloud TPU VM: create, set up, run on all workers, fetch the results, delete. --help says how.
set -euo pipefail

usage() {
    cat <<'TEXT'
Trains on a Cloud TPU VM (one slice of one or more workers) with the gcloud command.

    experiments/launch/tpu_vm.sh all --zone=us-west4-a --type=v5litepod-16 --spot --queued -- --recipe=char_gpt
    experiments/launch/tpu_vm.sh COMMAND [--flag=value ...] [-- flags of experiments.train]

Commands:
  create   ask for the TPU and wait until it is there
  setup    copy the committed code to all workers and install it
  run      train on all workers; with --spot, make the TPU anew and go on whenever it is taken away
  fetch    copy the run folder from worker 0
  delete   give the TPU back
  all      create, setup, run, fetch, delete (also after a failure, unless --keep)

Flags:
  --zone=ZONE          where the TPU is (necessary)
  --name=jaxdl         what it is called
  --project=PROJECT    whose it is; where not set, gcloud's own setting
  --type=v5litepod-8   accelerator type
  --version=v2-alpha-tpuv5-lite
                       runtime version
  --queued             ask by a queued resource, which waits for capacity
  --spot               cheaper, may be taken away at any time; training then restarts by itself
  --restarts=20        how often at most
  --workdir=runs/NAME  run folder on worker 0, or gs://BUCKET/FOLDER, which needs no copies while a spot TPU trains
  --results=WORKDIR    where it is copied to, here
  --fetch_every=300    seconds between two copies while a spot TPU trains; it goes on from the newest one
  --poll=20            seconds between two looks at the TPU's state
  --keep               `all` does not delete the TPU
  --dry_run            show the commands, run none
TEXT
}

say() { echo "tpu_vm: $*"; }
fail() {
    echo "error: $*" >&2
    exit 1
}
wrong() {
    echo "error: $*" >&2
    exit 2
}

quoted() { # words as a shell reads them back
    local text
    printf -v text '%q ' "$@"
    printf '%s' "${text% }"
}

call() { # runs a command, or only shows it
    if $dry_run; then
        quoted "$@"
        echo
    else
        "$@"
    fi
}

vm() { call gcloud compute tpus tpu-vm "$@" "${where[@]}"; }
on() { vm ssh "$name" --worker="$1" --command="$2" --quiet; } # WORKER COMMAND
state_of() { # queued-resources|tpu-vm FIELD
    gcloud compute tpus "$1" describe "$name" --format="value($2)" "${where[@]}" 2>/dev/null || echo GONE
}

create() {
    local extra=()
    if $spot; then extra+=(--spot); fi
    if ! $queued; then
        vm create "$name" --accelerator-type="$type" --version="$version" "${extra[@]}" --quiet ||
            fail "the TPU $name could not be made in $zone (gcloud says why above)"
        return
    fi
    call gcloud compute tpus queued-resources create "$name" --node-id="$name" --accelerator-type="$type" \
        --runtime-version="$version" "${extra[@]}" "${where[@]}" --quiet ||
        fail "the queued resource $name could not be made in $zone (gcloud says why above)"
    if $dry_run; then return; fi
    say "waiting for the queued resource $name"
    while true; do
        case "$(state_of queued-resources state.state)" in
        ACTIVE) return ;;
        FAILED | SUSPENDED | SUSPENDING | DELETING | GONE)
            fail "the queued resource $name will not become active: gcloud compute tpus queued-resources describe $name"
            ;;
        esac
        sleep "$poll"
    done
}

setup() {
    local archive="$scratch/code.tar.gz"
    git -C "$root" rev-parse --verify --quiet HEAD >/dev/null || fail "$root is no git checkout: setup copies what is committed"
    if [[ -n "$(git -C "$root" status --porcelain --untracked-files=no)" ]]; then
        say "changes that are not committed are not copied"
    fi
    call git -C "$root" archive --format=tar.gz --output="$archive" HEAD
    vm scp "$archive" "$name:jaxdl.tar.gz" --worker=all --quiet || fail "the code could not be copied to $name"
    # the TPU's own Python is older than jaxdl needs; uv brings one
    on all 'set -e; rm -rf ~/jaxdl.new; mkdir -p ~/jaxdl.new ~/jaxdl/runs; tar -xzf ~/jaxdl.tar.gz -C ~/jaxdl.new;
        mv ~/jaxdl/runs ~/jaxdl.new/; rm -rf ~/jaxdl; mv ~/jaxdl.new ~/jaxdl; cd ~/jaxdl;
        python3 -m pip install --user --quiet uv; ~/.local/bin/uv venv --quiet --allow-existing --python=3.11 ~/jaxdl-venv;
        ~/.local/bin/uv pip install --quiet --python ~/jaxdl-venv/bin/python -c constraints.txt ".[tpu,gcs]"' ||
        fail "jaxdl could not be installed on $name"
}

push() { # what was fetched before, back to worker 0
    if [[ "$workdir" == gs://* || ! -d "$results" ]]; then return; fi
    local archive="$scratch/run.tar.gz"
    call tar -czf "$archive" -C "$results" .
    vm scp "$archive" "$name:run.tar.gz" --worker=0 --quiet &&
        on 0 "mkdir -p ~/jaxdl/$(quoted "$workdir") && tar -xzf ~/run.tar.gz -C ~/jaxdl/$(quoted "$workdir")"
}

fetch() {
    local archive="$scratch/fetched.tar" folder
    if [[ "$workdir" == gs://* ]]; then
        call mkdir -p "$results"
        call gcloud storage rsync --recursive --exclude='\.lease$' "$workdir" "$results"
        return
    fi
    folder="$(quoted "$workdir")"
    # checkpoints first, because metrics.jsonl must hold the rows that they count; 1: a file changed while tar read it
    on 0 "cd ~/jaxdl/$folder && pack() { tar \"\$@\" || [ \$? -eq 1 ]; } &&
        { ls -d checkpoints seed*/checkpoints 2>/dev/null | pack -cf ~/fetched.tar -T -; } &&
        pack -rf ~/fetched.tar --exclude=checkpoints --exclude=.lock ." &&
        vm scp "$name:fetched.tar" "$archive" --worker=0 --quiet || return 1
    call rm -rf "$results.new"
    call mkdir -p "$results.new"
    call tar -xf "$archive" -C "$results.new" || return 1
    call rm -rf "$results"
    call mv "$results.new" "$results"
}

train() { # once; its exit code
    local command watcher="" code=0
    command="cd ~/jaxdl && exec ~/jaxdl-venv/bin/python -m experiments.train $(quoted "--workdir=$workdir" "${arguments[@]}")"
    if $spot && ! $dry_run && [[ "$workdir" != gs://* ]] && ((fetch_every > 0)); then
        (while sleep "$fetch_every"; do fetch || true; done) >/dev/null 2>&1 &
        watcher=$!
    fi
    on all "$command" || code=$?
    if [[ -n "$watcher" ]]; then
        kill "$watcher" 2>/dev/null || true
        wait "$watcher" 2>/dev/null || true
    fi
    return "$code"
}

run() {
    local left=$restarts code state
    while true; do
        code=0
        train || code=$?
        if ((code == 0)); then return 0; fi
        state="$(state_of tpu-vm state)"
        if ((code == 255)) && [[ "$state" == READY ]]; then # a lost connection shows before the TPU's new state does
            sleep "$poll"
            state="$(state_of tpu-vm state)"
        fi
        if ! $spot; then fail "training on $name ended with code $code"; fi
        if [[ "$state" == READY ]] && ((code != 75)); then fail "training on $name ended with code $code, and $name is still there"; fi
        if ((left-- <= 0)); then fail "$name was taken away more than $restarts times: run again to go on"; fi
        say "$name was interrupted (code $code, state $state): going on from the newest copy of the run folder"
        if [[ "$state" != READY ]]; then
            delete || true
            create
            setup
            push || fail "the run folder could not be copied back to $name"
        fi
    done
}

delete() {
    if $queued; then
        call gcloud compute tpus queued-resources delete "$name" --force "${where[@]}" --quiet
    else
        vm delete "$name" --quiet
    fi
}

all() {
    create
    local code=0
    # a subshell, so that a failure below still gives the TPU back
    (setup && run) || code=$?
    fetch || { ((code != 0)) || code=1 && say "the run folder could not be fetched"; }
    if $keep; then
        say "$name is still there and costs money: $0 delete --name=$name --zone=$zone"
    else
        delete || fail "$name could not be deleted and costs money: try $0 delete --name=$name --zone=$zone again"
    fi
    return "$code"
}

number() { [[ "$2" =~ ^[0-9]+$ ]] || wrong "--$1 must be a whole number, not '$2'"; }

command="" zone="" name=jaxdl project="" type=v5litepod-8 version=v2-alpha-tpuv5-lite
queued=false spot=false keep=false dry_run=false restarts=20 fetch_every=300 poll=20 workdir="" results=""
arguments=()
while (($#)); do
    case "$1" in
    --help | -h)
        usage
        exit 0
        ;;
    --zone=* | --name=* | --project=* | --type=* | --version=* | --restarts=* | --fetch_every=* | --poll=* | \
        --workdir=* | --results=*)
        flag="${1#--}"
        [[ -n "${flag#*=}" ]] || wrong "--${flag%%=*} needs a value"
        printf -v "${flag%%=*}" '%s' "${flag#*=}"
        ;;
    --queued | --spot | --keep | --dry_run) printf -v "${1#--}" true ;;
    --)
        shift
        arguments=("$@")
        break
        ;;
    -*) wrong "unknown flag $1 (--help lists all; flags of experiments.train come after --)" ;;
    *)
        [[ -z "$command" ]] || wrong "one command at a time, got $command and $1"
        command="$1"
        ;;
    esac
    shift
done
case "$command" in
create | setup | run | fetch | delete | all) ;;
"") wrong "a command is necessary: create, setup, run, fetch, delete or all (--help says more)" ;;
*) wrong "unknown command '$command': create, setup, run, fetch, delete or all" ;;
esac
[[ -n "$zone" ]] || wrong "--zone=ZONE is necessary"
number restarts "$restarts"
number fetch_every "$fetch_every"
number poll "$poll"
for argument in "${arguments[@]}"; do
    case "$argument" in
    --workdir | --workdir=*) wrong "give --workdir before the --, so that fetch knows it too" ;;
    esac
done
workdir="${workdir:-runs/$name}"
[[ "$workdir" == gs://*/* || ("$workdir" != /* && "$workdir" != *..* && "$workdir" != *://*) ]] ||
    wrong "--workdir must lie below the code's folder or be gs://BUCKET/FOLDER, not '$workdir'"
workdir="${workdir%/}"
if [[ "$workdir" == gs://* ]]; then results="${results:-runs/${workdir##*/}}"; else results="${results:-$workdir}"; fi
results="${results%/}"
where=(--zone="$zone")
if [[ -n "$project" ]]; then where+=(--project="$project"); fi
$dry_run || command -v gcloud >/dev/null || fail "gcloud is not installed: https://cloud.google.com/sdk/docs/install"
root="$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)"
scratch="$(mktemp -d)"
trap 'rm -rf "$scratch"' EXIT
trap 'fail "stopped; $name may still be there and cost money: $0 delete --name=$name --zone=$zone"' INT TERM

case "$command" in
fetch) fetch || fail "the run folder $workdir could not be fetched from $name" ;;
delete) delete || fail "$name could not be deleted" ;;
*) "$command" ;;
esac
