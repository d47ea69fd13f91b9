"""The command line as people and scripts meet it: one-line errors, exit codes, --help, --flagfile, --recipe=list."""

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

HERE = Path(__file__).parent
ROOT = HERE.parents[1]


@pytest.fixture
def stub(monkeypatch):
    monkeypatch.syspath_prepend(str(HERE))
    # what a real process sets for itself must not leak into the other tests
    for name in ("XLA_FLAGS", "TF_CPP_MIN_LOG_LEVEL", "GRPC_VERBOSITY"):
        monkeypatch.setenv(name, os.environ.get(name, ""))
    monkeypatch.setenv("JAX_COMPILATION_CACHE_DIR", os.environ.get("JAX_COMPILATION_CACHE_DIR", ""))
    import stub_binary

    return stub_binary


@pytest.fixture
def call(stub, capsys):
    """Runs the stub in this process: (exit code, stdout, stderr)."""
    from experiments import backend, cli

    def run(*words, binary=stub.BINARY, main=stub.main):
        saved = backend.quiet, backend.use_compilation_cache, backend.quiet_absl
        backend.quiet = backend.use_compilation_cache = backend.quiet_absl = lambda: None
        try:
            code = cli.execute(main, binary, ["stub.py", *words])
        finally:
            backend.quiet, backend.use_compilation_cache, backend.quiet_absl = saved
        out, err = capsys.readouterr()
        return code, out, err

    return run


def process(*words, **environment):
    env = {**os.environ, "PYTHONPATH": f"{ROOT}{os.pathsep}{HERE}", **environment}
    return subprocess.run(
        [sys.executable, str(HERE / "stub_binary.py"), *words], env=env, capture_output=True, text=True, timeout=60
    )


def test_flags_reach_main(call):
    code, out, err = call("--train.steps=5", "--workdir=w", "--seed", "3", "--smoke")
    got = json.loads(out)
    assert (code, err) == (0, "")
    assert got["title"] == got["folder"] == "line"
    assert got["config"]["train.steps"] == 5
    assert (got["flags"]["workdir"], got["flags"]["seed"], got["flags"]["smoke"]) == ("w", 3, True)
    assert got["flags"]["seeds"] is None
    assert got["given"] == ["seed", "smoke", "train.steps", "workdir"]


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (
            ["--optimizer.learning_rat=1"],
            "unknown flag --optimizer.learning_rat; did you mean --optimizer.learning_rate?",
        ),
        (["--learning_rate=1"], "did you mean --optimizer.learning_rate?"),
        (["--optimizer.learning-rate=1"], "did you mean --optimizer.learning_rate?"),
        (["--nosmok"], "did you mean --smoke?"),
        (["--qqqq"], "unknown flag --qqqq; --help lists all flags"),
        (["--train.steps=1.5"], "--train.steps=1.5: expected an integer >= 1"),
        (["--parallel=xla"], "one of: jit, pmap"),
        (["--seeds=0"], "expected an integer >= 1"),
        (["--seed=-1"], "0 to 2147483647"),
        (["--workdir"], "--workdir needs a value"),
        (["--workdir", "--smoke"], "--workdir needs a value"),
        (["word"], "unexpected argument 'word'"),
        (["--smoke", "false"], "unexpected argument 'false'"),
        (["--recipe=lin"], "unknown recipe 'lin'; did you mean line?"),
        (["--recipe=line:wid"], "did you mean line:wide?"),
        (["--recipe=line:"], "line:wide or line:long"),
        (["--flagfile=/no/such/file"], "No such file"),
        (["--train.steps=5", "--train.warmup_steps=6"], "must not exceed"),
    ],
)
def test_usage_errors_are_one_line_and_exit_2(call, words, expected):
    code, out, err = call(*words)
    assert (code, out) == (2, "")
    assert err.startswith("error: ")
    assert err.count("\n") == 1
    assert expected in err


@pytest.mark.parametrize(
    ("kind", "expected"),
    [
        ("user", "error: the run folder is in use by process 7\n"),
        ("value", "error: bad value\n"),
        ("file", "error: digits.png: No such file or directory\n"),
        ("type", "error: TypeError: a bug (--debug shows where)\n"),
        ("memory", "turn down --train.batch_size"),
    ],
)
def test_run_errors_are_one_line_and_exit_1(call, kind, expected):
    code, _, err = call(f"--fail={kind}")
    assert code == 1
    assert err.count("\n") == 1
    assert expected in err


def test_debug_shows_the_traceback(call):
    code, _, err = call("--fail=user", "--debug")
    assert code == 1
    assert "Traceback" in err


def test_main_decides_the_exit_code(call):
    assert call(main=lambda _: 75)[0] == 75
    assert call(main=lambda _: None)[0] == 0


def test_variants(call):
    assert json.loads(call("--recipe=line:wide")[1])["config"]["model.features"] == [512]
    got = json.loads(call("--recipe=line:long", "--note=x")[1])
    assert (got["config"]["train.steps"], got["config"]["note"], got["folder"]) == (9000, "x", "line-long")


def test_flagfile_is_read_and_its_recipe_honoured(call, tmp_path):
    (tmp_path / "inner").write_text("--recipe=line:long\n")
    (tmp_path / "flags").write_text(f"# a comment\n\n--flagfile={tmp_path}/inner\n--optimizer.name=sgd\n--smoke\n")
    got = json.loads(call(f"--flagfile={tmp_path}/flags", "--train.warmup_steps=8999")[1])
    assert got["title"] == "line:long"
    assert got["config"]["optimizer.name"] == "sgd"
    assert got["flags"]["smoke"] is True
    # what comes later wins
    got = json.loads(call(f"--flagfile={tmp_path}/flags", "--recipe=line:wide", "--nosmoke")[1])
    assert (got["title"], got["flags"]["smoke"]) == ("line:wide", False)


def test_list_imports_no_recipe(call):
    code, out, _ = call("--recipe=list")  # importing `broken` would raise
    lines = out.splitlines()
    assert code == 0
    assert [row.split()[0] for row in lines] == ["broken", "line", "line:wide", "line:long"]
    assert "A line through points." in lines[1]
    assert "Longer text" not in out


def test_help_is_complete_and_fits(call, stub, monkeypatch):
    from experiments.flags import walk
    from experiments.recipe_files import load

    for columns in (80, 100):
        monkeypatch.setenv("COLUMNS", str(columns))
        code, out, err = call("--help")
        assert (code, err) == (0, "")
        assert max(map(len, out.splitlines())) <= columns
        words = out.split()
        config = load("line", "stub_recipes").config
        for leaf in [*stub.BINARY.leaves, *walk(config)]:
            assert f"--{leaf.name}" in words
            assert " ".join(leaf.metadata["help"].split()) in " ".join(words)
    assert "--flagfile" in words
    assert "[one of sgd, momentum, adam; default: adam]" in out
    assert "[int,...; >= 1; default: 64,64]" in out
    assert "[float,...; 0 to 1; default: 0.5]" in out
    assert "optimizer: How parameters are updated" in out
    for noise in ("--verbosity", "--logtostderr", "--pdb", "--undefok"):
        assert noise not in out


def test_help_shows_the_chosen_variants_defaults(call):
    assert "default: 512]" in call("--recipe=line:wide", "--help")[1]


def test_a_binary_without_a_recipe(call, stub):
    from experiments import cli

    seen = {}

    def main(arguments):
        seen["input"], seen["recipe"], seen["command"] = arguments.flags.input, arguments.recipe, arguments.command

    binary = cli.Binary(program="predict", summary="Predicts.", flags=("workdir", "input"))
    code, _, err = call("--workdir=w", "--input=a.png", "--input", "b c.png", "d.png", binary=binary, main=main)
    assert (code, err) == (0, "")
    assert seen["input"] == ("a.png", "b c.png", "d.png")
    assert seen["recipe"] is None
    assert seen["command"] == "python -m experiments.predict --workdir=w --input=a.png --input 'b c.png' d.png"


def test_a_recipe_is_necessary_without_a_default(call, stub):
    from experiments import cli

    code, _, err = call(binary=cli.Binary(program="sweep", summary="", flags=("recipe",), package="stub_recipes"))
    assert code == 2
    assert "--recipe=NAME is necessary" in err


def test_processes_exit_with_the_right_code_and_quickly():
    start = time.monotonic()
    done = process("--help")
    seconds = time.monotonic() - start
    assert (done.returncode, done.stderr) == (0, "")
    assert seconds < 2.5  # measured 0.07 s: nothing heavy is imported
    wrong = process("--train.stepz=3")
    assert (wrong.returncode, wrong.stdout) == (2, "")
    assert wrong.stderr == "error: unknown flag --train.stepz; did you mean --train.steps?\n"
    failed = process("--fail=user")
    assert (failed.returncode, failed.stderr) == (1, "error: the run folder is in use by process 7\n")
    assert json.loads(process().stdout)["jax"] is False


def test_a_closed_pipe_is_no_traceback():
    command = f"{sys.executable} {HERE / 'stub_binary.py'} --help | head -1"
    env = {**os.environ, "PYTHONPATH": f"{ROOT}{os.pathsep}{HERE}"}
    done = subprocess.run(command, shell=True, env=env, capture_output=True, text=True, timeout=60)
    assert done.stderr == ""


def test_what_needs_too_much_memory_is_told_flags_that_its_command_has():
    from experiments import cli, evaluate, play, predict, sample

    for module in (evaluate, play, predict, sample):
        said = cli.message(MemoryError(), module.BINARY.smaller)
        assert said.startswith("out of memory: turn down ")
        named = {word.strip(",") for word in said.split() if word.startswith("--")}
        assert named <= {f"--{leaf.name}" for leaf in module.BINARY.leaves}


def test_a_search_has_an_upper_limit():
    from experiments import cli, play
    from experiments.flags import UsageError

    with pytest.raises(UsageError, match="--simulations"):
        cli.parse(play.BINARY, ["play", "--workdir=run", "--simulations=10001"])
