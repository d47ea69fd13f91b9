"""The launch scripts, offline: stand-ins for the cloud's commands record what they are called with.

The stand-in `gcloud` keeps each TPU worker as a folder and runs what is sent to it by a shell there, so that quoting,
archives and restarts are those of the scripts themselves.
"""

import os
import pathlib
import shutil
import subprocess

import pytest

LAUNCH = pathlib.Path(__file__).resolve().parents[2] / "experiments" / "launch"
# what a shell could take apart: spaces, quotes, expansions, an empty word, a line break
HARD = [
    "--recipe=char_gpt",
    '--data.dir=a b\'s "c" $HOME `id` *',
    "--note=",
    "",
    "two\nlines",
    "--model.features=64,64",
]
ADVICE = ["--workdir=runs/jaxdl", *HARD]

RECORD = r"""#!/bin/bash
name="${0##*/}"
{ printf '%s\0' "$name" "$@"; printf '\n\0'; } >>"$STAND/calls"
"""

GCLOUD = (
    RECORD
    + r"""
worker=0 command="" ; for word in "$@"; do case "$word" in
    --worker=*) worker="${word#*=}" ;; --command=*) command="${word#*=}" ;; esac; done
workers=("$worker"); [ "$worker" = all ] && workers=(0 1)
next() { head -n 1 "$STAND/$1"; sed -i 1d "$STAND/$1"; }
case "$*" in
*"tpu-vm create"* | *"queued-resources create"*)
    [ -e "$STAND/refuse" ] && { echo "no capacity" >&2; exit 1; }
    for w in 0 1; do mkdir -p "$STAND/tpu/$w/.local/bin"; ln -sf "$STAND/uv" "$STAND/tpu/$w/.local/bin/uv"; done ;;
*describe*) next states ;;
*delete*) rm -rf "$STAND/tpu" ;;
*"tpu-vm scp"*)
    for w in "${workers[@]}"; do
        case "$5" in *:*) cp "$STAND/tpu/$w/${5#*:}" "$6" ;; *) cp "$5" "$STAND/tpu/$w/${6#*:}" ;; esac || exit 1
    done ;;
"storage rsync"*) cp -r "$STAND/bucket/${5#gs://bucket/}/." "$6" ;;
*"tpu-vm ssh"*)
    for w in "${workers[@]}"; do (cd "$STAND/tpu/$w" && HOME="$PWD" bash -c "$command") || exit $?; done ;;
esac
"""
)
# makes a "python" that notes its arguments, leaves a run folder behind and ends with the next code of a list
UV = r"""#!/bin/bash
[ "$1" = venv ] || exit 0
mkdir -p ~/jaxdl-venv/bin
cat >~/jaxdl-venv/bin/python <<'PYTHON'
#!/bin/bash
worker="${HOME##*/}"
printf '%s\0' "$@" >"$STAND/python.$worker"
[ "$worker" = 0 ] || exit 0
mkdir -p runs/jaxdl/checkpoints/3
ls runs/jaxdl/checkpoints >>"$STAND/found"
mkdir -p "runs/jaxdl/checkpoints/$(wc -l <"$STAND/codes")"
echo row >>runs/jaxdl/metrics.jsonl
code="$(head -n 1 "$STAND/codes")"; sed -i 1d "$STAND/codes"; exit "$code"
PYTHON
chmod +x ~/jaxdl-venv/bin/python
"""


class Stand:
    """A git checkout with the scripts in it, and a PATH whose first folder holds the stand-ins."""

    def __init__(self, root: pathlib.Path):
        self.root = root
        (root / "bin").mkdir()
        self.checkout = root / "check out"
        shutil.copytree(LAUNCH, self.checkout / "experiments" / "launch")
        for name in ("train", "sweep"):
            (self.checkout / "experiments" / f"{name}.py").write_text("")
        (self.checkout / "constraints.txt").write_text("")
        git = ["git", "-C", str(self.checkout), "-c", "user.name=a", "-c", "user.email=a@b"]
        for words in (["init", "-q"], ["add", "-A"], ["commit", "-qm", "all"]):
            subprocess.run([*git, *words], check=True)
        self.stand_in("gcloud", GCLOUD)
        for name in ("python3", "scontrol", "sleep"):
            self.stand_in(name, RECORD)
        self.write("uv", UV).chmod(0o755)

    def write(self, name, text):
        path = self.root / name
        path.write_text(text)
        return path

    def stand_in(self, name, text):
        self.write(f"bin/{name}", text).chmod(0o755)

    def script(self, name, *arguments, path=None):
        path = f"{self.root / 'bin'}:{os.environ['PATH']}" if path is None else path
        names = {name: value for name, value in os.environ.items() if name != "VIRTUAL_ENV"}
        environment = {**names, "PATH": path, "STAND": str(self.root)}
        command = ["bash", str(self.checkout / "experiments" / "launch" / name), *arguments]
        return subprocess.run(command, cwd=self.root, env=environment, capture_output=True, text=True, timeout=60)

    def calls(self, name=None):
        """What the stand-ins were called with, program first."""
        path = self.root / "calls"
        found = path.read_text().split("\n\0")[:-1] if path.exists() else []
        calls = [call.split("\0")[:-1] for call in found]
        return [call for call in calls if name in (None, call[0])]

    def words(self, name):
        """Arguments that a stand-in wrote down, each ended by a NUL."""
        return (self.root / name).read_text().split("\0")[:-1]


@pytest.fixture
def stand(tmp_path):
    return Stand(tmp_path)


def steps(stand):
    """The calls of gcloud by their verbs."""
    return [call[4] for call in stand.calls("gcloud")]


def test_the_whole_way_on_a_tpu_passes_every_argument_and_brings_the_run_home(stand):
    stand.write("codes", "0\n")
    done = stand.script("tpu_vm.sh", "all", "--zone=z", "--project=my project", "--", *HARD)
    assert done.returncode == 0, done.stderr
    assert steps(stand) == ["create", "scp", "ssh", "ssh", "ssh", "scp", "delete"]
    for call in stand.calls("gcloud"):
        assert "--zone=z" in call and "--project=my project" in call
    for worker in (0, 1):
        assert stand.words(f"python.{worker}") == ["-m", "experiments.train", *ADVICE]
    assert (stand.root / "runs/jaxdl/metrics.jsonl").read_text() == "row\n"
    assert (stand.root / "runs/jaxdl/checkpoints/3").is_dir()
    assert not (stand.root / "tpu").exists()


def test_a_spot_tpu_that_is_taken_away_is_made_anew_and_goes_on_from_the_copy(stand):
    stand.write("codes", "0\n")
    assert stand.script("tpu_vm.sh", "all", "--zone=z").returncode == 0  # a copy of this run is here now
    stand.write("calls", "")
    stand.write("found", "")
    stand.write("codes", "255\n0\n")
    stand.write("states", "WAITING_FOR_RESOURCES\nACTIVE\nPREEMPTED\nACTIVE\n")
    flags = ["--zone=z", "--spot", "--queued", "--poll=7", "--fetch_every=0"]
    done = stand.script("tpu_vm.sh", "all", *flags, "--", *HARD)
    assert done.returncode == 0, done.stderr
    made = [call for call in stand.calls("gcloud") if call[4] == "create"]
    assert len(made) == 2 and all("--spot" in call and call[3] == "queued-resources" for call in made)
    assert ["sleep", "7"] in stand.calls("sleep")
    assert "was interrupted (code 255, state PREEMPTED)" in done.stdout
    # the second TPU began with the run folder's copy
    assert (stand.root / "found").read_text().split() == ["3", "1", "3"]
    assert stand.words("python.1") == ["-m", "experiments.train", *ADVICE]
    assert (stand.root / "runs/jaxdl/metrics.jsonl").read_text() == "row\nrow\n"


def test_an_interrupted_training_goes_on_where_the_tpu_is_still_there(stand):
    stand.write("codes", "75\n75\n0\n")
    stand.write("states", "READY\nREADY\n")
    for command in ("create", "setup"):
        assert stand.script("tpu_vm.sh", command, "--zone=z").returncode == 0
    done = stand.script("tpu_vm.sh", "run", "--zone=z", "--spot", "--fetch_every=0")
    assert done.returncode == 0, done.stderr
    assert steps(stand).count("create") == 1


@pytest.mark.parametrize(
    ("codes", "states", "flags", "said"),
    [
        ("1\n", "READY\n", [], "training on jaxdl ended with code 1"),
        ("1\n", "READY\n", ["--spot"], "training on jaxdl ended with code 1, and jaxdl is still there"),
        ("75\n75\n", "READY\nREADY\n", ["--spot", "--restarts=1"], "taken away more than 1 times"),
    ],
)
def test_a_training_that_fails_fails_and_gives_the_tpu_back(stand, codes, states, flags, said):
    stand.write("codes", codes)
    stand.write("states", states)
    done = stand.script("tpu_vm.sh", "all", "--zone=z", "--fetch_every=0", *flags)
    assert done.returncode == 1
    assert said in done.stderr.splitlines()[-1]
    assert steps(stand)[-1] == "delete" and not (stand.root / "tpu").exists()
    assert (stand.root / "runs/jaxdl/metrics.jsonl").exists()


def test_keep_leaves_the_tpu_and_says_that_it_costs(stand):
    stand.write("codes", "0\n")
    done = stand.script("tpu_vm.sh", "all", "--zone=z", "--keep")
    assert done.returncode == 0 and "delete" not in steps(stand)
    assert "costs money" in done.stdout


def test_a_spot_run_is_copied_while_it_trains(stand):
    stand.write("codes", "0\n")
    for command in ("create", "setup"):
        assert stand.script("tpu_vm.sh", command, "--zone=z").returncode == 0
    python = stand.root / "tpu/0/jaxdl-venv/bin/python"
    waits = 'for i in $(seq 300); do [ -e "$STAND/runs/jaxdl/record.json" ] && exit 0; /bin/sleep 0.1; done; exit 9\n'
    python.write_text("#!/bin/bash\nmkdir -p runs/jaxdl; echo {} >runs/jaxdl/record.json\n" + waits)
    stand.stand_in("sleep", "#!/bin/bash\nexec /bin/sleep 0.2\n")
    done = stand.script("tpu_vm.sh", "run", "--zone=z", "--spot")
    assert done.returncode == 0, done.stderr  # the training ended because the copy arrived


def test_a_run_in_a_bucket_needs_no_copies_until_the_end(stand):
    stand.write("codes", "255\n0\n")
    stand.write("states", "PREEMPTED\n")
    folder = stand.root / "bucket" / "my runs" / "one"
    folder.mkdir(parents=True)
    (folder / "metrics.jsonl").write_text("row\n")
    address = "--workdir=gs://bucket/my runs/one"
    done = stand.script("tpu_vm.sh", "all", "--zone=z", "--spot", f"{address}/", "--", *HARD)
    assert done.returncode == 0, done.stderr
    made_twice = ["create", "scp", "ssh", "ssh", "describe", "delete", "create", "scp", "ssh", "ssh"]
    assert [call[4] if call[1] == "compute" else call[1] for call in stand.calls("gcloud")] == [
        *made_twice,
        "storage",
        "delete",
    ]
    assert stand.words("python.1") == ["-m", "experiments.train", address, *HARD]
    assert (stand.root / "runs" / "one" / "metrics.jsonl").read_text() == "row\n"


def test_a_dry_run_shows_commands_and_runs_none(stand):
    done = stand.script("tpu_vm.sh", "all", "--zone=z", "--spot", "--queued", "--dry_run", "--", *HARD)
    assert done.returncode == 0, done.stderr
    assert stand.calls("gcloud") == [] and not (stand.root / "runs").exists()
    for words in ("queued-resources create jaxdl", "scp", "experiments.train", "queued-resources delete jaxdl"):
        assert words in done.stdout
    again = subprocess.run(["bash", "-n"], input=done.stdout, text=True, capture_output=True)
    assert again.returncode == 0, again.stderr


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        ([], 2, "a command is necessary"),
        (["begin", "--zone=z"], 2, "unknown command 'begin'"),
        (["create", "setup", "--zone=z"], 2, "one command at a time"),
        (["create"], 2, "--zone=ZONE is necessary"),
        (["create", "--zone="], 2, "--zone needs a value"),
        (["create", "--zone=z", "--restarts=many"], 2, "--restarts must be a whole number"),
        (["create", "--zone=z", "--recipe=lenet5"], 2, "flags of experiments.train come after --"),
        (["run", "--zone=z", "--", "--workdir=x"], 2, "give --workdir before the --"),
        (["run", "--zone=z", "--workdir=../x"], 2, "must lie below"),
        (["run", "--zone=z", "--workdir=gs://bucket"], 2, "or be gs://BUCKET/FOLDER"),
        (["run", "--zone=z", "--workdir=s3://bucket/x"], 2, "or be gs://BUCKET/FOLDER"),
        (["fetch", "--zone=z"], 1, "could not be fetched from jaxdl"),
    ],
)
def test_what_is_wrong_is_said_in_one_line(stand, arguments, code, said):
    done = stand.script("tpu_vm.sh", *arguments)
    assert done.returncode == code
    assert done.stderr.splitlines()[-1].startswith("error: ") and said in done.stderr.splitlines()[-1]
    assert code == 1 or len(done.stderr.splitlines()) == 1


def test_no_capacity_is_an_error_with_gclouds_reason(stand):
    stand.write("refuse", "")
    done = stand.script("tpu_vm.sh", "all", "--zone=z")
    assert done.returncode == 1 and steps(stand) == ["create"]
    assert "no capacity" in done.stderr and "could not be made in z" in done.stderr.splitlines()[-1]
    (stand.root / "refuse").unlink()
    stand.write("states", "FAILED\n")
    done = stand.script("tpu_vm.sh", "create", "--zone=z", "--queued")
    assert done.returncode == 1 and "will not become active" in done.stderr


# --- SLURM ------------------------------------------------------------------------------------------------------------

SBATCH = RECORD + 'cat >"$STAND/job"; [ ! -e "$STAND/refuse" ] && echo "Submitted batch job 7"\n'
SRUN = RECORD + 'for word in "$@"; do shift; case "$word" in --*) ;; *) "$word" "$@"; exit $? ;; esac; done\n'
PYTHON = RECORD + 'pwd >"$STAND/where"; exit "$(cat "$STAND/code")"\n'


@pytest.fixture
def slurm(stand):
    for name, text in {"sbatch": SBATCH, "srun": SRUN, "python": PYTHON}.items():
        stand.stand_in(name, text)
    stand.write("code", "0")
    return stand


def run_job(stand):
    """What SLURM would do on the first node."""
    environment = {"PATH": f"{stand.root / 'bin'}:{os.environ['PATH']}", "STAND": str(stand.root), "SLURM_JOB_ID": "7"}
    return subprocess.run(["bash", str(stand.root / "job")], env=environment, capture_output=True, text=True, cwd="/")


def test_a_job_of_several_nodes_passes_every_argument_to_srun(slurm):
    flags = ["--nodes=2", "--gpus_per_node=4", "--time=1:00:00", "--partition=gpu", "--sbatch=--constraint=a b"]
    done = slurm.script("slurm.sh", "train", *flags, "--", *HARD)
    assert done.returncode == 0, done.stderr
    (call,) = slurm.calls("sbatch")
    for word in ("--nodes=2", "--ntasks-per-node=4", "--gpus-per-node=4", "--time=1:00:00", "--partition=gpu"):
        assert word in call
    assert {"--constraint=a b", "--requeue", "--signal=TERM@600"} <= set(call)
    assert not any(word.startswith("--array") for word in call)
    assert run_job(slurm).returncode == 0
    (call,) = slurm.calls("srun")
    assert call[call.index("python") :] == ["python", "-m", "experiments.train", *HARD]
    assert slurm.calls("python") == [["python", "-m", "experiments.train", *HARD]]
    assert pathlib.Path((slurm.root / "where").read_text().strip()) == slurm.checkout
    assert slurm.calls("scontrol") == []


@pytest.mark.parametrize(("code", "requeued"), [(75, [["scontrol", "requeue", "7"]]), (1, []), (137, [])])
def test_an_interrupted_job_is_queued_again_and_a_failed_one_is_not(slurm, code, requeued):
    assert slurm.script("slurm.sh", "train").returncode == 0
    slurm.write("code", str(code))
    assert run_job(slurm).returncode == code
    assert slurm.calls("scontrol") == requeued


def test_a_sweep_becomes_an_array(slurm):
    done = slurm.script("slurm.sh", "sweep", "--array=16", "--", "--grid=optimizer.name=adam,sgd")
    assert done.returncode == 0, done.stderr
    (call,) = slurm.calls("sbatch")
    assert "--array=0-15" in call and "--output=runs/slurm/%x-%A_%a.out" in call
    assert run_job(slurm).returncode == 0
    assert slurm.calls("python") == [["python", "-m", "experiments.sweep", "--grid=optimizer.name=adam,sgd"]]


def test_a_virtual_environment_with_a_space_in_its_path_is_used(slurm):
    (slurm.root / "my env/bin").mkdir(parents=True)
    shutil.copy(slurm.root / "bin/python", slurm.root / "my env/bin/python")
    (slurm.root / "bin/python").unlink()
    assert slurm.script("slurm.sh", "train", f"--venv={slurm.root / 'my env'}").returncode == 0
    assert run_job(slurm).returncode == 0
    assert len(slurm.calls("python")) == 1


def test_a_dry_run_of_a_job_submits_nothing(slurm):
    done = slurm.script("slurm.sh", "train", "--dry_run", "--", *HARD)
    assert done.returncode == 0 and slurm.calls() == [] and not (slurm.root / "runs").exists()
    assert "sbatch " in done.stdout and "srun " in done.stdout
    # what it shows does, typed into a shell, what the script does
    environment = {"PATH": f"{slurm.root / 'bin'}:{os.environ['PATH']}", "STAND": str(slurm.root)}
    subprocess.run(["bash"], input=done.stdout, text=True, env=environment, check=True, capture_output=True)
    assert run_job(slurm).returncode == 0
    assert slurm.calls("python") == [["python", "-m", "experiments.train", *HARD]]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ([], "a binary is necessary"),
        (["trian"], "there is no binary experiments.trian"),
        (["../train"], "there is no binary"),
        (["train", "--nodes=0"], "--nodes must be a whole number above 0"),
        (["train", "--recipe=lenet5"], "flags of the binary come after --"),
        (["sweep", "--array=4", "--nodes=2"], "--array gives each job one process"),
        (["train", "--venv=nowhere"], "nowhere is no virtual environment"),
        (["train", "sweep"], "one binary at a time"),
    ],
)
def test_what_is_wrong_with_a_job_is_said_in_one_line(slurm, arguments, said):
    done = slurm.script("slurm.sh", *arguments)
    assert done.returncode == 2 and slurm.calls() == []
    assert done.stderr.startswith("error: ") and said in done.stderr and done.stderr.count("\n") == 1


def test_a_refused_job_is_an_error(slurm):
    slurm.write("refuse", "")
    done = slurm.script("slurm.sh", "train")
    assert done.returncode == 1 and "sbatch refused the job" in done.stderr


@pytest.mark.parametrize("script", ["tpu_vm.sh", "slurm.sh"])
def test_the_commands_that_are_not_installed_are_named_and_help_needs_none(stand, script):
    tools = stand.root / "few"
    tools.mkdir()
    for name in ("bash", "cat", "dirname", "mktemp", "rm", "git", "mkdir"):
        (tools / name).symlink_to(shutil.which(name))
    program, arguments = ("gcloud", ["create", "--zone=z"]) if script == "tpu_vm.sh" else ("sbatch", ["train"])
    done = stand.script(script, *arguments, path=str(tools))
    assert done.returncode == 1 and program in done.stderr and done.stderr.count("\n") == 1
    done = stand.script(script, "--help", path=str(tools))
    assert done.returncode == 0 and "--dry_run" in done.stdout and done.stderr == ""
