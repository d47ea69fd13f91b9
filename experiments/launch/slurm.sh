#!/usr/bin/env bash
# Submits a binary to SLURM: on one node or several, or as an array for a sweep. --help says how.
set -euo pipefail

usage() {
    cat <<'TEXT'
Submits a binary of experiments/ to SLURM with sbatch.

    experiments/launch/slurm.sh train --nodes=2 --gpus_per_node=8 --time=4:00:00 -- --recipe=resnet20_cifar10
    experiments/launch/slurm.sh sweep --array=16 -- --recipe=mlp_mnist --seeds=8 --grid=optimizer.learning_rate=1e-3,3e-3
    experiments/launch/slurm.sh BINARY [--flag=value ...] [-- flags of experiments.BINARY]

One process is started for each GPU (one a node where there are none); they find each other by SLURM's variables. Ten
minutes before the time limit, or on preemption, the run saves, ends with code 75 and is queued again.

Flags:
  --nodes=1            nodes of the run; all processes must see the same --workdir
  --gpus_per_node=0    GPUs of each
  --tasks_per_node=N   processes on each; where not set, one for each GPU
  --cpus_per_task=N    CPU cores of a process
  --memory=SIZE        of a node: 64G
  --time=TIME          limit: 4:00:00
  --partition=NAME, --account=NAME, --qos=NAME
  --array=N            N jobs; a sweep's worker takes its part from SLURM's array index
  --grace=600          seconds before the limit at which the run saves and ends
  --name=jaxdl         job name
  --logs=runs/slurm    folder of the jobs' output
  --venv=DIR           virtual environment to use; where not set, the one that is active
  --sbatch=FLAG        a further flag for sbatch; may be repeated
  --dry_run            show the job, submit nothing
TEXT
}

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

number() { [[ "$2" =~ ^[1-9][0-9]*$ ]] || wrong "--$1 must be a whole number above 0, not '$2'"; }

job() { # the batch script
    cat <<TEXT
#!/bin/bash
set -euo pipefail
cd $(quoted "$root")
TEXT
    if [[ -n "$venv" ]]; then echo "export PATH=$(quoted "$venv/bin"):\"\$PATH\""; fi
    cat <<TEXT
code=0
# processes that save and end with 75 do so one shortly after another; one that dies alone takes the others along
srun --kill-on-bad-exit=0 --wait=120 $(quoted python -m "experiments.$binary" "${arguments[@]}") || code=\$?
if [ "\$code" -eq 75 ]; then scontrol requeue "\$SLURM_JOB_ID"; fi
exit "\$code"
TEXT
}

binary="" nodes=1 gpus_per_node=0 tasks_per_node="" cpus_per_task="" memory="" time="" partition="" account="" qos=""
array="" grace=600 name=jaxdl logs=runs/slurm venv="${VIRTUAL_ENV:-}" dry_run=false
arguments=() more=()
while (($#)); do
    case "$1" in
    --help | -h)
        usage
        exit 0
        ;;
    --sbatch=*) more+=("${1#--sbatch=}") ;;
    --nodes=* | --gpus_per_node=* | --tasks_per_node=* | --cpus_per_task=* | --memory=* | --time=* | --partition=* | \
        --account=* | --qos=* | --array=* | --grace=* | --name=* | --logs=* | --venv=*)
        flag="${1#--}"
        [[ -n "${flag#*=}" ]] || wrong "--${flag%%=*} needs a value"
        printf -v "${flag%%=*}" '%s' "${flag#*=}"
        ;;
    --dry_run) dry_run=true ;;
    --)
        shift
        arguments=("$@")
        break
        ;;
    -*) wrong "unknown flag $1 (--help lists all; flags of the binary come after --)" ;;
    *)
        [[ -z "$binary" ]] || wrong "one binary at a time, got $binary and $1"
        binary="$1"
        ;;
    esac
    shift
done
root="$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)"
[[ -n "$binary" ]] || wrong "a binary is necessary: train, sweep, ... (--help says more)"
[[ "$binary" =~ ^[a-z_]+$ && -f "$root/experiments/$binary.py" ]] || wrong "there is no binary experiments.$binary"
number nodes "$nodes"
number grace "$grace"
[[ "$gpus_per_node" == 0 ]] || number gpus_per_node "$gpus_per_node"
if [[ -z "$tasks_per_node" ]]; then tasks_per_node=$((gpus_per_node > 0 ? gpus_per_node : 1)); fi
number tasks_per_node "$tasks_per_node"
if [[ -n "$cpus_per_task" ]]; then number cpus_per_task "$cpus_per_task"; fi
if [[ -n "$array" ]]; then
    number array "$array"
    ((nodes * tasks_per_node == 1)) || wrong "--array gives each job one process: leave --nodes and --tasks_per_node at 1"
fi
if [[ -n "$venv" && ! -x "$venv/bin/python" ]]; then wrong "$venv is no virtual environment (no bin/python)"; fi

output="$logs/%x-%j.out"
if [[ -n "$array" ]]; then output="$logs/%x-%A_%a.out"; fi
options=(--job-name="$name" --nodes="$nodes" --ntasks-per-node="$tasks_per_node" --output="$output"
    --signal="TERM@$grace" --requeue --open-mode=append)
if ((gpus_per_node > 0)); then options+=(--gpus-per-node="$gpus_per_node"); fi
if [[ -n "$cpus_per_task" ]]; then options+=(--cpus-per-task="$cpus_per_task"); fi
if [[ -n "$memory" ]]; then options+=(--mem="$memory"); fi
if [[ -n "$time" ]]; then options+=(--time="$time"); fi
if [[ -n "$partition" ]]; then options+=(--partition="$partition"); fi
if [[ -n "$account" ]]; then options+=(--account="$account"); fi
if [[ -n "$qos" ]]; then options+=(--qos="$qos"); fi
if [[ -n "$array" ]]; then options+=(--array="0-$((array - 1))"); fi
options+=("${more[@]}")

if $dry_run; then
    quoted sbatch "${options[@]}"
    echo " <<'JOB'"
    job
    echo JOB
    exit 0
fi
command -v sbatch >/dev/null || fail "sbatch is not on the PATH: run this on a node that submits jobs"
mkdir -p "$logs" 2>/dev/null || fail "cannot make the folder $logs: choose another --logs"
job | sbatch "${options[@]}" || fail "sbatch refused the job (it says why above)"
