"""Published tables: runs that are missing, diverged or half-finished are said to be, and no number has another source."""

import copy
import dataclasses
import json
import os
import pathlib
import re
import shutil
import signal
import sys

import jax
import numpy as np
import pytest

sys.path.insert(0, str(pathlib.Path(__file__).parent))

import laws

from experiments import cli, ledger, recipe_files, reporting, reproduce, table_results, table_runs, tables, train
from experiments.flags import config_from_leaves, leaves
from experiments.tables import Measure, Plan, Row, Table
from jaxdl.engine.watcher import Silent
from jaxdl.errors import UserError

SHORT = {"train.steps": 40, "train.log_every": 10, "train.eval_every": 20, "train.checkpoint_every": 20}
WILD = {"optimizer.learning_rate": 1e20}
LOSS = Measure("test/loss", "test loss", digits=4)
TABLE = Table(
    title="A shop",
    source="generated",
    measure=LOSS,
    rows=(
        Row("plain", "plain", None, "0.02", "nobody", "linear_regression", SHORT, {"cpu": Plan(3)}, bar=(None, 1.0)),
        Row("wild", "too fast", recipe="linear_regression", settings=SHORT, plans={"cpu": Plan(2, WILD)}),
        Row("more", "plain, scaled", Measure("test/loss", "loss", "%", -100.0, 100.0), of="plain", bar=(0.0, None)),
        Row("big", "big", recipe="linear_regression", plans={"cpu": Plan(0, differs="too big")}, bar=(1, 2)),
    ),
    chosen="nothing was chosen",
)


class Stop(Silent):
    """Sends this process SIGTERM at the first update at or after a step."""

    def __init__(self, at):
        self.at = at

    def update(self, step, total, metrics, items_per_second):
        if self.at is not None and step >= self.at:
            self.at = None
            os.kill(os.getpid(), signal.SIGTERM)

    def close(self):
        pass


@pytest.fixture(autouse=True)
def quiet(monkeypatch):
    monkeypatch.setattr(reporting, "write_reports", lambda session, run: None)
    monkeypatch.setattr(train, "live_line", lambda experiment, stream=None: Stop(None))


@pytest.fixture(scope="module")
def place(tmp_path_factory, compilation_cache):
    """A folder with finished runs of TABLE, made once."""
    folder = tmp_path_factory.mktemp("reproduce")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setattr(reporting, "write_reports", lambda session, run: None)
        patch.setattr(train, "live_line", lambda experiment, stream=None: Stop(None))
        assert work().run() == 1  # a row diverged
    return folder


@pytest.fixture
def copied(place, tmp_path, monkeypatch):
    """A copy of it, to be changed."""
    shutil.copytree(place, tmp_path / "copy")
    monkeypatch.chdir(tmp_path / "copy")
    return tmp_path / "copy"


def work(table=TABLE, seeds=None):
    return reproduce.Work("shop", table, "cpu", pathlib.Path("results"), seeds)


def rows():
    found = json.loads(pathlib.Path("results/shop.json").read_text())["budgets"]["cpu"]["rows"]
    return {row["name"]: row for row in found}


def line(name):
    """A row's line of the page."""
    page = pathlib.Path("results/README.md").read_text()
    return next(text for text in page.splitlines() if text.startswith(f"| {name} |"))


def digests(folder="runs/tables/shop/plain"):
    return [json.loads(path.read_text())["state_digest"] for path in sorted(pathlib.Path(folder).glob("*/record.json"))]


# --- what a table's page says ---------------------------------------------------------------------------------------------


def test_the_page_is_what_the_results_files_say_byte_for_byte(copied):
    page = (copied / "results/README.md").read_text()
    (copied / "results/README.md").unlink()
    (copied / "results/other.json").write_text('{"cases": []}')  # results of another kind lie there too
    assert cli.execute(reproduce.main, reproduce.BINARY, ["reproduce", "--render", "--results=results"]) == 0
    assert (copied / "results/README.md").read_text() == page


def test_a_finished_row_shows_its_seeds_and_a_row_of_it_the_same_numbers(copied):
    values = rows()["plain"]["entry"]["metrics"]["test/loss"]
    assert len(values) == 3 and rows()["plain"]["entry"]["seeds"] == [0, 1, 2]
    mean, half = np.mean(values), 4.302653 * np.std(values, ddof=1) / np.sqrt(3)
    shown = f"{mean:.4f} ± {half:.4f} (n = 3, {min(values):.4f} to {max(values):.4f})"
    assert f"| test loss | 0.02 (nobody) | {shown} | ≤ 1: met |" in line("plain")
    assert "`python -m experiments.train --recipe=linear_regression --train.steps=40" in line("plain")
    assert f"{100 - 100 * mean:.2f} ± {100 * half:.2f} % (n = 3" in line("plain, scaled")
    assert "| not run at this budget | 1 to 2 | too big |" in line("big")


def test_diverged_seeds_are_named_with_their_step(copied):
    steps = rows()["wild"]["entry"]["steps"]
    assert rows()["wild"]["entry"]["metrics"] == {}
    assert f"**diverged**: seed 0 at step {steps[0]}; **diverged**: seed 1 at step {steps[1]} |" in line("too fast")


def test_missing_runs_are_said_to_be_missing(copied):
    shutil.rmtree("runs/tables/shop/plain/seed1")
    shutil.rmtree("runs/tables/shop/wild")
    shutil.rmtree("results")
    work().write()
    assert "(n = 2, " in line("plain") and "; **missing**: 1 of 3 seeds |" in line("plain")
    assert "| **missing**: not run yet |" in line("too fast")


def test_a_killed_table_says_what_is_half_finished_and_goes_on(copied, monkeypatch, capsys):
    whole = digests()
    shutil.rmtree("runs/tables/shop/plain")
    shutil.rmtree("results")
    monkeypatch.setattr(train, "live_line", lambda experiment, stream=None: Stop(20))
    only = dataclasses.replace(TABLE, rows=(TABLE.row("plain"),))
    assert work(only).run() == 75
    assert "the same command goes on from here" in capsys.readouterr().err
    assert "| **half-finished**: seed 0 at step 20; **missing**: 2 of 3 seeds |" in line("plain")
    monkeypatch.setattr(train, "live_line", lambda experiment, stream=None: Stop(None))
    assert work(only).run() == 0
    assert digests() == whole and "(n = 3, " in line("plain")


def test_a_row_that_fails_does_not_stop_the_others(copied, capsys):
    shutil.rmtree("results")
    path = pathlib.Path("runs/tables/shop/plain/seed2/config.json")
    config = json.loads(path.read_text())
    path.write_text(json.dumps({**config, "optimizer.learning_rate": 0.2}))
    assert work().run() == 1
    assert "seed2 holds a run that is not row plain's (optimizer.learning_rate: 0.2 there" in capsys.readouterr().err
    assert "failed: " in line("plain") and "n = " not in line("plain")
    assert "**diverged**" in line("too fast")


def test_a_row_shows_the_seeds_in_its_range_or_their_ensemble():
    zeros, accuracy = [0.2, 0.5, 0.79, 0.8, None], [0.9, 0.8, 0.7, None, 0.5]
    entry = {
        "metrics": {"zeros": zeros, "accuracy": accuracy},
        "ensemble": {"accuracy": 0.95},
        "seeds": [0, 1, 2, 3, 4],
    }
    runs = {"entry": {**entry, "diverged": [], "unfinished": [], "steps": [1] * 5}, "asked": 5, "problem": ""}

    def shown(**changes):
        return {"measure": dataclasses.asdict(Measure("accuracy", "error", "%", -100.0, 100.0, **changes))}

    assert table_results.values_of(shown(within=("zeros", 0.5, 0.8)), runs) == pytest.approx([20.0, 30.0])
    assert table_results.ours(shown(within=("zeros", 0.9, 1.0)), runs) == "none in this range"
    assert (
        table_results.ours(shown(within=("zeros", 0.8, 0.9)), runs) == "none in this range"
    )  # its accuracy is no number
    assert table_results.ours(shown(ensemble=True), runs) == "5.00 % (5 networks)"


def test_the_ensemble_of_a_rows_seeds_is_kept_with_its_runs(copied, monkeypatch):
    calls = []
    monkeypatch.setattr(table_runs, "ensembles", lambda job: calls.append(job.row.name) or {"test/loss": 0.5})
    together = Row("together", "together", dataclasses.replace(LOSS, ensemble=True), of="plain")
    made = work(dataclasses.replace(TABLE, rows=(*TABLE.rows, together)))
    made.write()
    made.write()
    assert calls == ["plain"] and "| 0.5000 (3 networks) |" in line("together")
    assert rows()["plain"]["entry"]["ensemble"] == {"test/loss": 0.5} and "ensemble" not in rows()["wild"]["entry"]


# --- running ----------------------------------------------------------------------------------------------------------------


def test_finished_runs_are_not_run_again_and_more_seeds_run_alone(copied):
    before = {path: path.stat().st_mtime_ns for path in copied.glob("runs/**/record.json")}
    assert work().run() == 1
    assert {path: path.stat().st_mtime_ns for path in copied.glob("runs/**/record.json")} == before
    only = dataclasses.replace(TABLE, rows=(TABLE.row("plain"),))
    assert work(only, seeds=4).run() == 0
    assert {path: path.stat().st_mtime_ns for path in before} == before and "(n = 4, " in line("plain")


def test_the_shown_train_command_makes_the_same_run(copied):
    job = work().jobs["plain"]
    words = job.command.split()[3:]
    assert cli.execute(train.main, train.BINARY, ["train", *words, "--workdir=alone"]) == 0
    assert digests("alone") == digests()


def test_a_run_folder_is_adopted_by_the_row_whose_configuration_it_has(copied, capsys):
    whole = digests()
    shutil.move("runs/tables/shop/plain", "elsewhere")
    shutil.move("runs/tables/shop/wild/seed0", "elsewhere/seed7")  # diverged: it may not be left out
    shutil.rmtree("results")
    made = work()
    config = pathlib.Path("elsewhere/seed1/config.json")
    text = config.read_text()
    config.write_text(text.replace('"train.steps": 40', '"train.steps": 30'))
    with pytest.raises(UserError, match=r"no row .* nearest is .*train.steps: 30 there, 40 here"):
        made.adopt("elsewhere")
    assert not pathlib.Path("runs/tables/shop/plain").exists()
    config.write_text(text)
    made.adopt("elsewhere")
    made.adopt("elsewhere/seed1")
    said = capsys.readouterr().out
    assert said.count("is now runs/tables/shop/plain/seed") == 3 and "seed1 is there already" in said
    assert "elsewhere/seed7 is now runs/tables/shop/wild/seed7" in said
    made.run()
    assert digests() == whole and "(n = 3, " in line("plain")


def test_a_result_on_file_stays_until_as_many_seeds_are_there_again(copied):
    shutil.rmtree("runs")
    work().write()
    assert "(n = 3, " in line("plain") and "**diverged**" in line("too fast")
    only = dataclasses.replace(TABLE, rows=(TABLE.row("plain"),))
    faster = dataclasses.replace(TABLE.row("plain"), settings={**SHORT, "train.steps": 20})
    work(only, seeds=1).run()
    assert "(n = 3, " in line("plain")
    work(dataclasses.replace(TABLE, rows=(faster,))).write()  # of another configuration: the old number is not its own
    assert "n = 3" not in line("plain")


# --- what is refused ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda entry: entry.pop("config_digest"), "has no config_digest"),
        (lambda entry: entry.update(config_digest="0" * 64), "config_digest is not that of its config"),
        (lambda entry: entry["config"].update({"train.steps": 41}), "config_digest is not that of its config"),
        (lambda entry: entry.pop("seeds"), "has no seeds"),
        (lambda entry: entry.update(seeds=[], diverged=[]), "has no seeds"),
        (lambda entry: entry["metrics"]["test/loss"].pop(), "not every seed's value is there (test/loss)"),
        (lambda entry: entry.update(metrics={}), "not every seed's value is there (no metrics)"),
        (lambda entry: entry.update(chosen=" "), "does not say how the settings were chosen"),
    ],
)
def test_a_result_that_cannot_be_checked_is_refused(copied, change, said):
    path = pathlib.Path("results/shop.json")
    found = json.loads(path.read_text())
    entry = found["budgets"]["cpu"]["rows"][0]["entry"]
    ledger.check(copy.deepcopy(entry), "here")
    change(entry)
    path.write_text(json.dumps(found))
    with pytest.raises(UserError, match=re.escape(said)):
        table_results.page(path.parent)


@pytest.mark.parametrize(
    ("flags", "code", "said"),
    [
        ([], 2, "--table=NAME is necessary"),
        (["--table=vanishing_gradient"], 2, "unknown table 'vanishing_gradient'; did you mean vanishing_gradients?"),
        (["--table=vae", "--budget=tpu"], 2, "one of: smoke, cpu, gpu"),
        (["--table=vae", "--seeds=0"], 2, "--seeds"),
        (["--table=mnist_ladder", "--data.dir=nowhere"], 1, "run: python -m experiments.prepare --dataset=mnist"),
        (["--table=dates", "--results=file/results"], 1, "choose another --results"),
        (["--table=dates", "--adopt=nowhere"], 1, "nowhere is no run folder"),
    ],
)
def test_bad_input_is_one_line(flags, code, said, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "file").write_text("")
    assert cli.execute(reproduce.main, reproduce.BINARY, ["reproduce", *flags]) == code
    error = capsys.readouterr().err.strip()
    assert error.startswith("error: ") and said in error and "\n" not in error
    assert not (tmp_path / "runs").exists()


def test_list_names_every_table(capsys):
    assert cli.execute(reproduce.main, reproduce.BINARY, ["reproduce", "--table=list"]) == 0
    said = capsys.readouterr().out.splitlines()
    assert [text.split()[0] for text in said] == tables.names() and all(len(text.split()) > 3 for text in said)


# --- the tables and results that are there ----------------------------------------------------------------------------------


@pytest.mark.parametrize("name", tables.names())
def test_every_row_names_a_recipe_settings_and_a_metric_that_exist(name, monkeypatch):
    monkeypatch.setenv("TFDS_DATA_DIR", str(laws.SHARED))
    table = tables.load(name)
    names = [row.name for row in table.rows]
    assert len(set(names)) == len(names) and table.chosen and table.source
    for row in table.rows:
        measure, runs = table.measure_of(row), table.runs_of(row)
        assert runs.recipe and not runs.of and runs.plans and set(row.plans) <= {"cpu", "gpu"}
        assert row.source or not row.published
        for plan in runs.plans.values():  # raises at an unknown setting or an impossible value
            config = recipe_files.load(runs.recipe).config
            config_from_leaves(config, {**leaves(config), **table_runs.settings_of(runs, plan)})
        if not laws.missing(runs.recipe):
            wanted = [measure.metric, *([measure.within[0]] if measure.within else [])]
            assert set(wanted) <= metrics_of(runs, wanted), row.name


def metrics_of(row, wanted):
    """Names "<split>/<metric>" that a row's recipe evaluates, and those of `wanted` that its judge's source names."""
    experiment = table_runs.open_row(row, table_runs.plan_for(row, "smoke"), True, "").experiment
    phase, key = experiment.phases[-1], jax.random.key(0)
    hyper = {name: jax.ShapeDtypeStruct((), np.float32) for name in phase.hyper}
    state = jax.eval_shape(lambda hyper: phase.task.for_evaluation(phase.task.init(key, hyper)), hyper)
    found = set()
    for split, source in {**phase.evaluations, **experiment.final}.items():
        batch = jax.eval_shape(lambda source=source: source.batch(0, key))
        found |= {f"{split}/{name}" for name in jax.eval_shape(phase.task.evaluate, state, batch, key)[1]}
    if experiment.judge is not None:
        source = "".join(
            path.read_text() for path in (laws.ROOT / "experiments").glob("**/*.py") if path.parent.name != "tables"
        )
        found |= {name for name in wanted if f'"{re.split("[0-9]", name)[0]}' in source}
    return found


def test_the_committed_page_is_what_its_results_files_say():
    assert (reproduce.RESULTS / "README.md").read_text() == table_results.page(reproduce.RESULTS)
    for found in table_results.read(reproduce.RESULTS):
        assert found["table"] in tables.names()


# --- intervals --------------------------------------------------------------------------------------------------------------


def test_the_intervals_on_the_page_cover_the_truth_as_often_as_they_say():
    draw = np.random.default_rng(0)
    inside, trials = 0, 2000
    for values in draw.normal(3.0, 2.0, (trials, 5)):
        mean, half = map(float, re.match(r"(\S+) ± (\S+) \(n = 5\)", ledger.spread(values.tolist(), digits=6)).groups())
        inside += abs(mean - 3.0) <= half
    assert inside / trials == pytest.approx(0.95, abs=0.015)


@pytest.mark.parametrize(("errors", "said"), [((1.01, 1.12, 1.02), "met"), ((1.01, 1.12, 1.0201), "missed")])
def test_a_mean_at_the_bar_reaches_it(errors, said):
    """1 - 0.9899 and the like: their mean is 1.0500000000000018 in floating point."""
    measure = dataclasses.asdict(Measure("test/accuracy", "error", "%", -100.0, 100.0))
    entry = {"seeds": [0, 1, 2], "diverged": [], "metrics": {"test/accuracy": [1 - error / 100 for error in errors]}}
    row = {"bar": (None, 1.05), "measure": measure}
    assert table_results.bar(row, {"entry": entry, "ensemble": {}}) == f"≤ 1.05: {said}"
