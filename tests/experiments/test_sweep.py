"""The sweep: its cells are the runs of `train`, none is trained twice, and what it chooses it chooses on validation data."""

import json
import os
import pathlib
import re
import subprocess
import sys

import numpy as np
import pytest
from scipy import stats

sys.path.insert(0, str(pathlib.Path(__file__).parent))
sys.path.insert(0, str(pathlib.Path(__file__).parents[1] / "engine"))

import sweep_stub
from runs import result

from experiments import backend, cli, sweep, train
from experiments.sweep_cells import points, read_axes, rungs
from experiments.sweep_table import comparisons, ranked
from experiments.sweep_worker import Outcome

HERE = pathlib.Path(__file__).resolve().parent
RATES = "--grid=optimizer.learning_rate=0.01,0.05"


@pytest.fixture
def call(monkeypatch, capsys, compilation_cache):
    """Runs a binary in this process: (exit code, stdout, stderr)."""
    for name in ("quiet", "use_compilation_cache", "quiet_absl"):
        monkeypatch.setattr(backend, name, lambda: None)

    def run(*words, main=sweep.main, binary=sweep_stub.BINARY):
        code = cli.execute(main, binary, [binary.program, "--recipe=tiny_line", *map(str, words)])
        return code, *capsys.readouterr()

    return run


def read(folder):
    return json.loads((folder / "sweep.json").read_text())


def cell_of(found, **overrides):
    """The entry of sweep.json whose overrides end like these."""
    return next(
        cell
        for cell in found["cells"]
        if all(
            next(v for k, v in cell["overrides"].items() if k.endswith(name)) == value
            for name, value in overrides.items()
        )
    )


# --- the grid ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ([], "--grid=KEY=V1,V2 is necessary"),
        (["--grid=optimizer.learning_rat=1"], "did you mean optimizer.learning_rate?"),
        (["--grid=learning_rate=1"], "did you mean optimizer.learning_rate?"),
        (["--grid=optimizer.learning_rate"], "no values"),
        (["--grid=optimizer.learning_rate="], "no values"),
        (["--grid=optimizer.learning_rate=0.1,"], "'': expected a number 0 to 1000000"),
        (["--grid=optimizer.learning_rate=0.1,fast"], "'fast': expected a number 0 to 1000000"),
        (["--grid=optimizer.learning_rate=-1"], "'-1': expected a number 0 to 1000000"),
        (["--grid=optimizer.learning_rate=0.1,1e-1"], "0.1 is there twice"),
        (["--grid=optimizer.name=sgd,adma"], "did you mean adam?"),
        (["--grid=model.sizes=64,64;0"], "'0': expected comma-separated integers >= 1"),
        ([RATES, RATES], "given twice"),
        ([RATES, "--optimizer.learning_rate=0.1"], "contradict"),
        (["--grid=train.batch_size=64,256"], "must not exceed 128"),
        ([RATES, "--worker=2/2"], "expected i/n"),
        ([RATES, "--worker=two"], "expected i/n"),
        (["--grid=train.steps=1,2", "--halving"], "chooses train.steps itself"),
        ([RATES, "--random=0"], "expected an integer >= 1"),
    ],
)
def test_wrong_grids_are_one_line_and_exit_2(call, words, expected, tmp_path):
    code, out, err = call(*words, f"--workdir={tmp_path / 'sweep'}")
    assert (code, out) == (2, "")
    assert err.startswith("error: ") and err.count("\n") == 1
    assert expected in err


def test_folders_that_will_not_do(call, tmp_path):
    (tmp_path / "file").write_text("")
    code, _, err = call(RATES, f"--workdir={tmp_path / 'file' / 'sweep'}")
    assert (code, err.count("\n")) == (1, 1)
    assert "cannot make the workdir" in err
    (tmp_path / "config.json").write_text("{}")
    code, _, err = call(RATES, f"--workdir={tmp_path}")
    assert (code, err.count("\n")) == (1, 1)
    assert "holds a run, not a sweep" in err


def test_points_of_the_grid():
    from experiments.recipe_files import load

    config = load("tiny_line", "sweep_recipes").config
    axes = read_axes(["model.sizes=64,64;128", "optimizer.learning_rate=1e-3,2,0.5", "model.fail=true,false"], config)
    every = points(axes)
    assert len(every) == 12
    assert every[0] == {"model.sizes": (64, 64), "optimizer.learning_rate": 1e-3, "model.fail": True}
    assert every[1] == {"model.sizes": (64, 64), "optimizer.learning_rate": 1e-3, "model.fail": False}
    assert every[-1] == {"model.sizes": (128,), "optimizer.learning_rate": 0.5, "model.fail": False}
    drawn = points(axes, 5, seed=3)
    assert drawn == points(axes, 5, seed=3) != points(axes, 5, seed=4)
    assert len(drawn) == 5 and all(drawn.count(point) == 1 and point in every for point in drawn)
    assert points(axes, 12, seed=3) == points(axes, 99) == every
    hits = np.zeros(12)
    for seed in range(600):
        for point in points(axes, 3, seed):
            hits[every.index(point)] += 1
    assert stats.chisquare(hits).pvalue > 1e-3


def test_a_worker_begins_elsewhere():
    slurm = {"SLURM_ARRAY_TASK_ID": "7", "SLURM_ARRAY_TASK_COUNT": "4", "SLURM_ARRAY_TASK_MIN": "5"}
    assert sweep.worker_of("", {}) == (0, 1)
    assert sweep.worker_of("1/3", slurm) == (1, 3)
    assert sweep.worker_of("", slurm) == (2, 4)
    assert sweep.worker_of("", {**slurm, "SLURM_ARRAY_TASK_COUNT": "0"}) == (0, 1)


@pytest.mark.parametrize(
    ("cells", "steps", "keep", "expected"),
    [
        (9, 900, 1 / 3, [(100, 9), (300, 3), (900, 1)]),
        (8, 1000, 0.5, [(125, 8), (250, 4), (500, 2), (1000, 1)]),
        (5, 100, 0.5, [(12, 5), (25, 3), (50, 2), (100, 1)]),
        (2, 100, 0.9, [(90, 2), (100, 1)]),
        (1, 100, 0.5, [(100, 1)]),
        (8, 3, 0.5, [(2, 8), (3, 4)]),
    ],
)
def test_rungs(cells, steps, keep, expected):
    assert rungs(cells, steps, keep) == expected


# --- cells are the runs of train -----------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def swept(tmp_path_factory, compilation_cache):
    """A sweep over what lies in the State, what is baked into programs, what fails and what diverges."""
    folder = tmp_path_factory.mktemp("swept")
    words = ["--seeds=2", "--seed=3", "--grid=optimizer.learning_rate=0.01,0.05,1000", "--grid=model.fail=false,true"]
    before = {name: getattr(backend, name) for name in ("quiet", "use_compilation_cache", "quiet_absl")}
    for name in before:
        setattr(backend, name, lambda: None)
    try:
        argv = ["sweep", "--recipe=tiny_line", "--model.noise=0.2", *words, f"--workdir={folder}"]
        assert cli.execute(sweep.main, sweep_stub.BINARY, argv) == 1
    finally:
        for name, value in before.items():
            setattr(backend, name, value)
    return folder, words


def test_a_cell_is_the_same_train_command(swept, call, tmp_path):
    folder, _ = swept
    for rate in (0.01, 0.05):
        cell = folder / cell_of(read(folder), learning_rate=rate, fail=False)["folder"]
        flags = [f"--optimizer.learning_rate={rate}", "--model.noise=0.2"]
        place = tmp_path / str(rate)
        assert (
            call(*flags, "--seeds=2", "--seed=3", f"--workdir={place}", main=train.main, binary=sweep_stub.TRAIN)[0]
            == 0
        )
        for seed in (3, 4):
            assert result(cell / f"seed{seed}") == result(place / f"seed{seed}")
            old, new = (json.loads((root / f"seed{seed}" / "record.json").read_text()) for root in (cell, place))
            times = ("command", "wall_time_s", "compile_time_s", "items_per_second")
            assert {k: v for k, v in old.items() if k not in times} == {k: v for k, v in new.items() if k not in times}
            name = f"seed{seed}/config.json"
            assert (cell / name).read_text() == (place / name).read_text()
        for name in ("config.json", "summary.json"):
            assert (cell / name).read_text() == (place / name).read_text()
    single = tmp_path / "single"
    assert call(*flags, "--seed=4", f"--workdir={single}", main=train.main, binary=sweep_stub.TRAIN)[0] == 0
    assert result(single) == result(cell / "seed4")


def test_cells_that_are_rows_of_one_program_are_the_same_train_command(call, tmp_path):
    words = ["--seeds=2", "--seeds_mode=map"]
    grid = ["--grid=optimizer.learning_rate=0.01,0.05", "--grid=model.noise=0.1,0.3"]
    code, out, _ = call(*words, *grid, f"--workdir={tmp_path / 'sweep'}")
    assert code == 0
    assert out.count("2 cells together") == 2 and "not together" not in out and "cell 1" not in out
    found = read(tmp_path / "sweep")
    assert [cell["status"] for cell in found["cells"]] == ["done"] * 4
    flags = ["--optimizer.learning_rate=0.05", "--model.noise=0.3"]
    place = tmp_path / "train"
    assert call(*flags, *words, f"--workdir={place}", main=train.main, binary=sweep_stub.TRAIN)[0] == 0
    cell = tmp_path / "sweep" / cell_of(found, learning_rate=0.05, noise=0.3)["folder"]
    for seed in (0, 1):
        assert result(cell / f"seed{seed}") == result(place / f"seed{seed}")
    assert (cell / "summary.json").read_text() == (place / "summary.json").read_text()
    assert "together" not in call(*words, *grid, f"--workdir={tmp_path / 'sweep'}")[1]


def test_sweep_json_says_how_each_cell_ended(swept):
    folder, _ = swept
    found = read(folder)
    assert len(found["cells"]) == 6
    for cell in found["cells"]:
        assert {"overrides", "digest", "folder", "status", "n", "metrics"} <= set(cell)
        assert set(cell["overrides"]) == {"optimizer.learning_rate", "model.fail"}
        fails, rate = cell["overrides"]["model.fail"], cell["overrides"]["optimizer.learning_rate"]
        assert cell["status"] == ("failed" if fails else "diverged" if rate == 1000 else "done")
        assert cell["n"] == (2 if cell["status"] == "done" else 0)
        if fails:
            assert cell["error"] == "this model cannot be built"
            continue
        config = json.loads((folder / cell["folder"] / "config.json").read_text())
        assert cell["digest"].startswith(cell["folder"])
        from experiments.session import config_digest

        assert cell["digest"] == config_digest(config)
        if cell["status"] == "done":
            assert cell["metrics"] == json.loads((folder / cell["folder"] / "summary.json").read_text())["metrics"]
        else:
            assert cell["diverged"] == [3, 4]


def test_the_best_is_chosen_on_validation_data_alone(swept):
    """The test split of this recipe says the opposite."""
    found = read(swept[0])
    slow, fast = (cell_of(found, learning_rate=rate, fail=False) for rate in (0.01, 0.05))
    assert fast["metrics"]["validation/loss"]["mean"] < slow["metrics"]["validation/loss"]["mean"]
    assert fast["metrics"]["test/loss"]["mean"] > slow["metrics"]["test/loss"]["mean"]
    assert found["best"] == fast["digest"]
    assert found["order"][:2] == [fast["digest"], slow["digest"]]
    test = slow["against_best"]
    values = [cell["metrics"]["validation/loss"]["values"] for cell in (fast, slow)]
    expected = stats.ttest_rel(*values)
    assert test["p_value"] == pytest.approx(expected.pvalue)
    assert test["statistic"] == pytest.approx(expected.statistic)
    assert test["difference"] == pytest.approx(np.subtract(*values).mean())


def test_a_second_call_trains_nothing_that_is_finished(swept, call):
    folder, words = swept
    before, table = read(folder), {}
    for path in folder.glob("*/seed*/*"):
        table[path] = path.stat().st_mtime_ns
    code, out, _ = call("--model.noise=0.2", *words, f"--workdir={folder}")
    assert code == 1
    assert len(re.findall("^cell ", out, re.MULTILINE)) == 3  # those that failed are tried again
    assert {path: path.stat().st_mtime_ns for path in folder.glob("*/seed*/*")} == table
    assert read(folder) == before
    for text in ("diverged: optimizer.learning_rate=1000.0 model.fail=false, seeds 3, 4", "cannot be built", "best"):
        assert text in out
    more = call("--model.noise=0.2", *words[1:2], "--seeds=3", words[2], f"--workdir={folder}")[1]
    assert more.count("cell ") == 3 and more.count("\nseed ") == 3 + 1  # one seed each; one says that it diverged


def test_cells_that_differ_in_rates_compile_once(call, tmp_path):
    grids = {
        "one": "optimizer.learning_rate=0.01",
        "three": "optimizer.learning_rate=0.01,0.02,0.03",
        "noise": "model.noise=0.1,0.2",
    }
    said = [call(f"--grid={grid}", f"--workdir={tmp_path / name}")[1] for name, grid in grids.items()]
    counts = [int(re.search(r"programs compiled\s+(\d+)", out).group(1)) for out in said]
    assert counts[0] == counts[1] < counts[2]


def test_halving_keeps_what_is_best_on_validation_data(call, tmp_path):
    words = ["--seeds=2", "--train.steps=24", "--grid=optimizer.learning_rate=0.001,0.05,0.004,0.016", "--halving"]
    assert call(*words, f"--workdir={tmp_path}")[0] == 0
    found = read(tmp_path)
    rungs_of = {}
    for cell in found["cells"]:
        steps = cell["overrides"]["train.steps"]
        assert json.loads((tmp_path / cell["folder"] / "config.json").read_text())["train.steps"] == steps
        rungs_of.setdefault((cell["rung"], steps), []).append(cell)
    assert [(key, len(cells)) for key, cells in rungs_of.items()] == [((0, 6), 4), ((1, 12), 2), ((2, 24), 1)]
    before = None
    for cells in rungs_of.values():
        rates = {cell["overrides"]["optimizer.learning_rate"] for cell in cells}
        if before is not None:
            # an oracle of its own: the values in the records
            losses = {}
            for cell in before:
                records = [json.loads(p.read_text()) for p in (tmp_path / cell["folder"]).glob("seed*/record.json")]
                rate = cell["overrides"]["optimizer.learning_rate"]
                losses[rate] = np.mean([record["metrics"]["validation/loss"] for record in records])
            assert rates == set(sorted(losses, key=losses.get)[: len(cells)])
        before = cells
    assert rates == {0.05}
    order = [cell_of({"cells": [c for c in found["cells"] if c["digest"] == d]})["rung"] for d in found["order"]]
    assert order == [2, 1, 0, 0]
    assert "against_best" in next(cell for cell in found["cells"] if cell["digest"] == found["order"][1])
    again = call(*words, f"--workdir={tmp_path}")[1]
    assert "cell " not in again
    assert read(tmp_path) == found


# --- kills and workers ---------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def told(tmp_path_factory, compilation_cache):
    """What sweep_killed.py did."""
    environment = {
        **os.environ,
        "JAX_PLATFORMS": "cpu",
        "JAX_COMPILATION_CACHE_DIR": str(compilation_cache),
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
    }
    command = [sys.executable, str(HERE / "sweep_killed.py"), str(tmp_path_factory.mktemp("killed"))]
    done = subprocess.run(command, capture_output=True, text=True, timeout=280, env=environment)
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(done.stdout.splitlines()[-1])


def test_a_sweep_that_was_killed_five_times_ends_with_the_same_table(told):
    happened = told["killed"]
    assert [event["code"] for event in happened["events"]].count(-9) >= 3
    assert 75 in [event["code"] for event in happened["events"]]
    assert happened["code"] == 0
    assert happened["same"]
    assert happened["touched"] == []


def test_two_workers_train_each_cell_once(told):
    assert told["claims"] == {"trials": 20, "once": 20, "complete": 20}


def test_two_workers_that_really_train(told):
    together = told["together"]
    assert together["codes"] == [0, 0]
    assert sorted(together["trained"]) == [0, 1, 2, 3]
    assert together["statuses"] == ["done"] * 4


# --- order, tests, table ---------------------------------------------------------------------------------------------------


class Fake:
    """A cell of the tests: a name, and values of the metric by seed."""

    def __init__(self, name, values, rung=None):
        self.digest, self.rung, self.overrides = name, rung, {"x": name}
        self.found = Outcome("done", tuple(values), {"v/m": {"values": list(values.values())}} if values else {})


@pytest.fixture
def fakes(monkeypatch):
    from experiments import sweep_table

    monkeypatch.setattr(sweep_table, "outcome", lambda cell, seeds: cell.found)


def test_cells_without_all_their_seeds_come_last(fakes):
    nan = float("nan")
    cells = [
        Fake("half", {0: 9.0}),
        Fake("low", {0: 1.0, 1: 2.0}),
        Fake("none", {}),
        Fake("odd", {0: nan, 1: 1.0}),
        Fake("high", {0: 4.0, 1: 3.0}),
    ]
    for mode, expected in (
        ("max", ["high", "low", "half", "none", "odd"]),
        ("min", ["low", "high", "half", "none", "odd"]),
    ):
        assert [cell.digest for cell, _ in ranked(cells, range(2), ("v/m", mode))] == expected
    assert [cell.digest for cell, _ in ranked(cells, range(2), None)] == [cell.digest for cell in cells]


def test_the_tests_are_scipys_and_pair_by_seed(fakes):
    values = np.random.default_rng(0).normal(size=(3, 6))
    best, second, third = (Fake(str(i), dict(enumerate(row))) for i, row in enumerate(values))
    third.found = Outcome("diverged", (1, 2, 5), {"v/m": {"values": list(values[2][[1, 2, 5]])}}, (0, 3, 4))
    cells = [best, second, third, Fake("one", {0: 1.0})]
    found = comparisons(cells, [(cell, cell.found) for cell in cells], best, range(6), "v/m")
    assert set(found) == {"1", "2"}
    assert found["1"]["p_value"] == pytest.approx(stats.ttest_rel(values[0], values[1]).pvalue)
    assert found["2"]["p_value"] == pytest.approx(stats.ttest_rel(values[0][[1, 2, 5]], values[2][[1, 2, 5]]).pvalue)
    assert found["2"]["n"] == 3
    assert sorted(each["p_holm"] for each in found.values())[0] == pytest.approx(
        2 * min(each["p_value"] for each in found.values())
    )
