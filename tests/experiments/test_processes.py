"""Two processes train like one: the same losses, and after kill -9 and SIGTERM the bits of an undisturbed run."""

import json
import os
import pathlib
import shutil
import signal
import socket
import subprocess
import sys
import time

import pytest

from experiments import cli, spawn, train
from jaxdl.engine import processes
from jaxdl.engine.devices import Layout
from jaxdl.errors import UserError

ROOT = pathlib.Path(__file__).resolve().parents[2]
FLAGS = (
    "--recipe=linear_regression",
    "--train.steps=120",
    "--train.batch_size=32",
    "--train.log_every=5",
    "--train.eval_every=50",
    "--train.checkpoint_every=5",
)


class Run:
    """`train --processes=2` on a folder."""

    def __init__(self, folder, cache, flags=FLAGS, **environment):
        self.folder = pathlib.Path(folder)
        known = {"PYTHONPATH": str(ROOT), "JAX_PLATFORMS": "cpu", "JAX_COMPILATION_CACHE_DIR": str(cache)}
        command = [sys.executable, "-m", "experiments.train", *flags, f"--workdir={folder}", "--processes=2"]
        self.parent = subprocess.Popen(
            command,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env={**os.environ, **known, **environment},
        )

    def children(self):
        """Their process ids, in order."""
        return [
            int(pid)
            for pid in pathlib.Path(f"/proc/{self.parent.pid}/task/{self.parent.pid}/children").read_text().split()
        ]

    def wait_for(self, step):
        """Until a checkpoint of `step` or later is there."""
        end = time.monotonic() + 120
        while not any(int(p.name) >= step for p in self.folder.glob("checkpoints/*") if p.name.isdigit()):
            assert self.parent.poll() is None and time.monotonic() < end, self.parent.communicate()
            time.sleep(0.05)

    def end(self):
        """Exit code, standard output, standard error."""
        out, error = self.parent.communicate(timeout=120)
        return self.parent.returncode, out, error

    def record(self):
        return json.loads((self.folder / "record.json").read_text())

    def rows(self):
        return [json.loads(line) for line in (self.folder / "metrics.jsonl").read_text().splitlines()]


@pytest.fixture(scope="module")
def whole(tmp_path_factory, compilation_cache):
    """An undisturbed run of two processes."""
    run = Run(tmp_path_factory.mktemp("processes") / "whole", compilation_cache)
    code, out, error = run.end()
    assert (code, error) == (0, ""), error
    # one process speaks, and no library does
    assert out.count("run folder") == 1 and out.count("done: 120 steps") == 1 and "Gloo" not in out
    return run


def agree(folder, rows, flags):
    """Whether the rows of two processes are those of one, which trains here; how many there are."""
    assert cli.execute(train.main, train.BINARY, ["train", *flags, f"--workdir={folder}"]) == 0
    one = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    for a, b in zip(one, rows, strict=True):
        names = [name for name in a if name not in ("step", "phase", "split")]
        assert [a["step"], a["split"], *sorted(a)] == [b["step"], b["split"], *sorted(b)]
        assert [a[name] for name in names] == pytest.approx([b[name] for name in names], rel=1e-5, abs=1e-5)
    return len(one)


def test_two_processes_agree_with_one(whole, tmp_path):
    assert agree(tmp_path / "one", whole.rows(), FLAGS) > 25
    program = whole.record()["program"]
    assert (program["processes"], program["devices"]) == (2, 2)
    assert (whole.folder / "report.html").exists()
    assert "processes" not in json.loads((tmp_path / "one" / "record.json").read_text())["program"]


def test_two_processes_that_share_each_layer_of_a_transformer_agree_with_one(tmp_path, compilation_cache):
    text = tmp_path / "text.txt"
    text.write_text("the quick brown fox jumps over the lazy dog; pack my box with five dozen liquor jugs. " * 120)
    flags = (
        *("--recipe=char_gpt", "--model.layers=1", "--model.heads=2", "--model.features=32", "--data.length=32"),
        *("--train.steps=20", "--train.batch_size=8", "--train.log_every=1", "--train.eval_every=20"),
        *("--data.name=file", f"--data.dir={text}"),
    )
    run = Run(tmp_path / "two", compilation_cache, (*flags, "--model_parallel=2"), JAX_DISABLE_MOST_OPTIMIZATIONS="1")
    code, _, error = run.end()
    assert (code, error) == (0, ""), error
    program = run.record()["program"]
    assert (program["processes"], program["devices"], program["model_parallel"]) == (2, 2, 2)
    assert agree(tmp_path / "one", run.rows(), flags) > 20


def test_killed_and_interrupted_processes_go_on_to_the_same_bits(whole, tmp_path, compilation_cache):
    run = Run(tmp_path / "parts", compilation_cache)
    run.wait_for(10)
    children = run.children()
    assert len(children) == 2
    began = time.monotonic()
    os.kill(children[1], signal.SIGKILL)
    code, _, error = run.end()
    assert time.monotonic() - began < processes.HEARTBEAT_SECONDS + 10
    assert code == 1 and error.count("\n") == 1
    assert error.startswith("error: process 1 of 2 was ended by SIGKILL")
    for child in children:  # none is left behind
        with pytest.raises(ProcessLookupError):
            os.kill(child, 0)

    run = Run(tmp_path / "parts", compilation_cache)
    run.wait_for(50)
    run.parent.send_signal(signal.SIGTERM)
    code, out, error = run.end()
    assert "resuming from step" in out
    assert code == 75 and error.startswith("interrupted: ") and error.count("\n") == 1
    assert run.record()["status"] == "interrupted"

    run = Run(tmp_path / "parts", compilation_cache)
    code, _, error = run.end()
    assert (code, error) == (0, "")
    for name in ("status", "params_digest", "state_digest", "metrics", "best", "steps"):
        assert run.record()[name] == whole.record()[name]
    assert run.rows() == whole.rows()


def test_verify_trains_them_again(whole, compilation_cache, tmp_path):
    known = {"PYTHONPATH": str(ROOT), "JAX_PLATFORMS": "cpu", "JAX_COMPILATION_CACHE_DIR": str(compilation_cache)}
    changed = tmp_path / "changed"
    shutil.copytree(whole.folder, changed)
    record = json.loads((changed / "record.json").read_text())
    (changed / "record.json").write_text(json.dumps({**record, "params_digest": "0" * 64}))
    for folder, code, said in ((whole.folder, 0, "seed 0: equal"), (changed, 1, "seed 0: different in params_digest")):
        command = [sys.executable, "-m", "experiments.verify", f"--workdir={folder}"]
        done = subprocess.run(command, capture_output=True, text=True, timeout=120, env={**os.environ, **known})
        assert (done.returncode, done.stderr) == (code, "") and said in done.stdout


def test_streamed_data_are_read_by_those_whose_devices_need_them(tmp_path, compilation_cache):
    """Two processes that read half of each batch train like one that reads it whole, and neither reads more."""
    known = {"PYTHONPATH": str(ROOT), "JAX_PLATFORMS": "cpu", "JAX_COMPILATION_CACHE_DIR": str(compilation_cache)}
    rows = {}
    for count in (1, 2):
        command = [sys.executable, str(pathlib.Path(__file__).parent / "streamed_run.py"), str(count), str(tmp_path)]
        done = subprocess.run(command, capture_output=True, text=True, timeout=120, env={**os.environ, **known})
        assert done.returncode == 0, done.stderr
        lines = (tmp_path / str(count) / "metrics.jsonl").read_text().splitlines()
        rows[count] = [json.loads(line) for line in lines]
        read = json.loads((tmp_path / f"read{count}.json").read_text())
        assert read == {"train": 32 // count, "validation": 32 // count}
    assert len(rows[1]) == len(rows[2]) > 8
    for one, two in zip(rows[1], rows[2], strict=True):
        names = [name for name in one if name not in ("phase", "split")]
        assert [one["split"], *sorted(one)] == [two["split"], *sorted(two)]
        assert [one[name] for name in names] == pytest.approx([two[name] for name in names], rel=1e-5, abs=1e-5)


# --- without starting any ----------------------------------------------------------------------------------------------


@pytest.fixture
def two(monkeypatch):
    monkeypatch.setattr(processes, "_group", processes._Group(count=2))


def test_what_several_processes_cannot_do_is_refused(two):
    for options in ({"parallel": "pmap"}, {"seeds_mode": "shard"}):
        with pytest.raises(UserError, match="--parallel=jit"):
            Layout(**options)


def test_processes_and_distributed_off_exclude_each_other(capsys, tmp_path):
    flags = [*FLAGS, f"--workdir={tmp_path / 'none'}", "--processes=2", "--distributed=off"]
    assert cli.execute(train.main, train.BINARY, ["train", *flags]) == 2
    error = capsys.readouterr().err
    assert "--distributed=off" in error and error.count("\n") == 1


@pytest.mark.parametrize(
    ("environment", "expected"),
    [
        ({}, False),
        ({"SLURM_JOB_ID": "7"}, False),  # in a job, but not started by srun
        ({"SLURM_NTASKS": "1"}, False),
        ({"SLURM_NTASKS": "4"}, True),
        ({"OMPI_COMM_WORLD_SIZE": "2"}, True),
        ({processes.COORDINATOR: "localhost:1"}, True),
    ],
)
def test_the_environment_says_whether_there_are_others(environment, expected, monkeypatch):
    for name in [*os.environ]:
        if name.startswith(("SLURM_", "OMPI_", "JAXDL_PROCESS", "JAXDL_COORDINATOR")):
            monkeypatch.delenv(name)
    monkeypatch.setattr(processes, "_has_libtpu", lambda: False)
    if "SLURM_NTASKS" in environment:
        environment |= {"SLURM_JOB_ID": "7", "SLURM_STEP_NODELIST": "n[1-2]", "SLURM_PROCID": "0", "SLURM_LOCALID": "0"}
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    assert processes.expected() == expected


CLASH = """
import os, sys, time
if os.environ["JAXDL_PROCESS"] == "1": time.sleep(60)
if os.environ["JAXDL_COORDINATOR"] == "localhost:%d":
    sys.exit("E1125 18:44:52 add_port.cc:83] Failed to add port to server")
os.kill(os.getppid(), 0)
sys.exit("error: it was port " + os.environ["JAXDL_COORDINATOR"])
"""


def test_a_port_that_was_taken_is_left_for_another(monkeypatch, capsys):
    taken = socket.socket()
    taken.bind(("", 0))
    port = taken.getsockname()[1]
    free = iter([port, port, 4711])
    monkeypatch.setattr(spawn, "_free_port", lambda: next(free))
    monkeypatch.setattr(spawn, "_GRACE", 0.2)
    script = ["python", "-c", CLASH % port]
    import shlex
    from types import SimpleNamespace

    arguments = SimpleNamespace(command=shlex.join(script), flags=SimpleNamespace(debug=False))
    began = time.monotonic()
    assert spawn.spawn(arguments, 2) == 1
    assert capsys.readouterr().err == "error: it was port localhost:4711\n"
    assert time.monotonic() - began < 30
    taken.close()
