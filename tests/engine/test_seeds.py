"""Seed k of many is the run of seed k alone."""

import dataclasses
import json
import signal

import numpy as np
import pytest
import tiny
from runs import Listener, checkpoints, interrupt, leaves, record, result, rows, train
from scipy import stats

from jaxdl.engine import ending
from jaxdl.engine import seeds as engine_seeds
from jaxdl.engine.checkpoint import Checkpoints
from jaxdl.engine.record import summary
from jaxdl.engine.signals import Interrupted
from jaxdl.errors import UserError

# the bits that users get
pytestmark = pytest.mark.optimized
SEEDS = (0, 1, 2)


@pytest.fixture(scope="module")
def single(tmp_path_factory):
    """Single runs of the regression, seeds 0 to 2."""
    root = tmp_path_factory.mktemp("single")
    for seed in SEEDS:
        train(tiny.regression(), root / f"seed{seed}", seed=seed)
    return root


def patient():
    """A regression whose seeds lose patience at different evaluations."""
    return tiny.regression(tiny.Regression(noise=0.8), 1, tiny.train_config(eval_every=4), 0.2)


def coarse_to_fine():
    """Two phases; the first ends when its patience is lost, the second starts from its best."""
    experiment = tiny.two_phases()
    first, second = experiment.phases
    first = dataclasses.replace(first, task=tiny.Regression(noise=0.8), hyper={"learning_rate": 0.2}, patience=1)
    return dataclasses.replace(experiment, phases=(first, second), train=tiny.train_config(eval_every=4, steps=40))


@pytest.mark.smoke
@pytest.mark.parametrize("mode", ["loop", "map"])
def test_seeds_equal_single_runs(mode, single, tmp_path):
    run = train(tiny.regression(), tmp_path, seeds=3, seeds_mode=mode)
    for seed in SEEDS:
        assert result(tmp_path / f"seed{seed}") == result(single / f"seed{seed}")
        assert checkpoints(tmp_path / f"seed{seed}")[-1] == 60
    assert not (tmp_path / "checkpoints").exists()
    assert run.summary["seeds"] == [0, 1, 2]
    assert [found["program"]["seeds_mode"] for found in run.records] == [mode] * 3


@pytest.mark.parametrize("name", ["game", "bandit", "two_phases"])
def test_mapped_seeds_of_other_tasks_equal_single_runs(name, tmp_path):
    train(tiny.EXPERIMENTS[name](), tmp_path / "all", seed=3, seeds=2, seeds_mode="map")
    for seed in (3, 4):
        train(tiny.EXPERIMENTS[name](), tmp_path / str(seed), seed=seed)
        assert result(tmp_path / "all" / f"seed{seed}") == result(tmp_path / str(seed))


@pytest.mark.smoke
def test_vmapped_seeds_agree_over_the_first_steps(tmp_path):
    short = tiny.train_config(steps=3, log_every=1, eval_every=1)
    train(tiny.regression(train=short), tmp_path / "vmap", seeds=3, seeds_mode="vmap")
    for seed in SEEDS:
        train(tiny.regression(train=short), tmp_path / str(seed), seed=seed)
        together, alone = rows(tmp_path / "vmap" / f"seed{seed}"), rows(tmp_path / str(seed))
        assert [row["step"] for row in together] == [row["step"] for row in alone]
        for a, b in zip(together, alone, strict=True):
            assert a["loss"] == pytest.approx(b["loss"], rel=1e-5, abs=1e-5)
            assert a.get("gradient", 0) == pytest.approx(b.get("gradient", 0), rel=1e-5, abs=1e-5)


def test_more_seeds_compute_only_the_missing_ones(single, tmp_path):
    train(tiny.regression(), tmp_path, seeds=1, seeds_mode="map")
    before = (tmp_path / "seed0" / "record.json").stat().st_mtime_ns
    run = train(tiny.regression(), tmp_path, seeds=3, seeds_mode="map")
    assert (tmp_path / "seed0" / "record.json").stat().st_mtime_ns == before
    assert run.fresh
    for seed in SEEDS:
        assert result(tmp_path / f"seed{seed}") == result(single / f"seed{seed}")
    again = train(tiny.regression(), tmp_path, seeds=3, seeds_mode="loop")
    assert not again.fresh
    assert again.summary == run.summary


def test_layouts_are_not_mixed(single, tmp_path):
    with pytest.raises(UserError, match="single run.*--seeds"):
        train(tiny.regression(), single / "seed0", seeds=2)
    train(tiny.regression(train=tiny.train_config(steps=1)), tmp_path, seeds=1)
    with pytest.raises(UserError, match="over seeds"):
        train(tiny.regression(train=tiny.train_config(steps=1)), tmp_path)


def test_seeds_that_lose_patience_equal_single_runs(tmp_path):
    run = train(patient(), tmp_path / "all", seeds=3, seeds_mode="map")
    steps = [found["steps"] for found in run.records]
    assert len(set(steps)) > 1
    assert min(steps) < 60
    for seed in SEEDS:
        train(patient(), tmp_path / str(seed), seed=seed)
        assert result(tmp_path / "all" / f"seed{seed}") == result(tmp_path / str(seed))
        losses = [row["loss"] for row in rows(tmp_path / str(seed)) if row["split"] == "validation"]
        # patience 1: the first evaluation that is no improvement is the last one
        improved = [b < min(losses[: i + 1]) for i, b in enumerate(losses[1:])]
        assert all(improved[:-1])
        assert improved[-1] == (steps[seed] == 60)
    with pytest.raises(UserError, match="vmap cannot end seeds"):
        train(patient(), tmp_path / "vmap", seeds=3, seeds_mode="vmap")


def test_a_rule_ends_a_phase_that_has_no_objective(tmp_path):
    experiment = tiny.regression(train=tiny.train_config(eval_every=5))
    phase = dataclasses.replace(experiment.phases[0], objective=None, stop=lambda history: len(history) == 3)
    train(dataclasses.replace(experiment, phases=(phase,)), tmp_path)
    assert record(tmp_path)["steps"] == 15


def test_a_patience_that_ends_is_resumed(tmp_path):
    whole = train(patient(), tmp_path / "whole", seeds=3, seeds_mode="map")
    for at in sorted({found["steps"] for found in whole.records} - {60}):
        interrupt(patient(), tmp_path / "parts", at, seeds=3, seeds_mode="map")
    train(patient(), tmp_path / "parts", seeds=3, seeds_mode="map")
    for seed in SEEDS:
        assert result(tmp_path / "parts" / f"seed{seed}") == result(tmp_path / "whole" / f"seed{seed}")


def test_phases_of_different_length_equal_single_runs(tmp_path):
    run = train(coarse_to_fine(), tmp_path / "all", seeds=3, seeds_mode="map")
    assert len({found["steps"] for found in run.records}) > 1
    for seed in SEEDS:
        train(coarse_to_fine(), tmp_path / str(seed), seed=seed)
        assert result(tmp_path / "all" / f"seed{seed}") == result(tmp_path / str(seed))


def test_the_second_phase_starts_from_the_best_of_the_first(tmp_path):
    """With a rate of zero the second phase's parameters are the ones that were best in the first."""
    experiment = coarse_to_fine()
    still = dataclasses.replace(experiment.phases[1], hyper={"learning_rate": 0.0})
    run = train(dataclasses.replace(experiment, phases=(experiment.phases[0], still)), tmp_path)
    losses = {
        row["step"]: row["loss"] for row in rows(tmp_path) if (row["phase"], row["split"]) == ("coarse", "validation")
    }
    assert min(losses.values()) < list(losses.values())[-1]  # the best was not the last
    assert run.records[0]["metrics"]["validation/loss"] == min(losses.values())


@pytest.mark.parametrize(("first", "then"), [("map", "loop"), ("loop", "map"), ("map", "map")])
def test_interrupted_seeds_go_on_where_they_were_in_any_mode(first, then, single, tmp_path):
    interrupt(tiny.regression(), tmp_path, 30, seeds=2, seeds_mode=first)
    listener = Listener()
    train(tiny.regression(), tmp_path, listener, seeds=3, seeds_mode=then)
    resumed = [int(line.split()[-1]) for line in listener.lines if line.startswith("resuming")]
    assert resumed and min(resumed) >= 30
    for seed in SEEDS:
        assert result(tmp_path / f"seed{seed}") == result(single / f"seed{seed}")
    assert not (tmp_path / "checkpoints").exists()


def test_fewer_seeds_than_were_begun(single, tmp_path):
    interrupt(tiny.regression(), tmp_path, 30, seeds=3, seeds_mode="map")
    listener = Listener()
    train(tiny.regression(), tmp_path, listener, seeds=2, seeds_mode="map")
    assert len([line for line in listener.lines if line.startswith("resuming")]) == 2
    train(tiny.regression(), tmp_path, listener, seeds=3, seeds_mode="map")
    assert len([line for line in listener.lines if line.startswith("resuming")]) == 3
    for seed in SEEDS:
        assert result(tmp_path / f"seed{seed}") == result(single / f"seed{seed}")


class Killed(BaseException):
    """Stands for kill -9 at a place that a test chooses."""


@pytest.mark.parametrize("place", ["split", "record", "remove"])
def test_killed_while_the_stacked_checkpoint_is_taken_apart(place, single, tmp_path, monkeypatch):
    calls = []

    def killed_at(name, number, method):
        def wrapped(self, *args, **kwargs):
            calls.append(name)
            if calls.count(name) == number:
                raise Killed
            return method(self, *args, **kwargs)

        return wrapped

    if place == "split":  # saves: 25 and 50 together, then one a seed
        monkeypatch.setattr(Checkpoints, "save", killed_at("save", 4, Checkpoints.save))
    elif place == "record":  # three at the beginning, then one a finished seed
        write = engine_seeds.SeedRuns._write_record
        monkeypatch.setattr(engine_seeds.SeedRuns, "_write_record", killed_at("write", 5, write))
    else:
        monkeypatch.setattr(Checkpoints, "remove", killed_at("remove", 1, Checkpoints.remove))
    with pytest.raises(Killed):
        train(tiny.regression(), tmp_path, seeds=3, seeds_mode="map")
    monkeypatch.undo()
    train(tiny.regression(), tmp_path, seeds=3, seeds_mode="map")
    for seed in SEEDS:
        assert result(tmp_path / f"seed{seed}") == result(single / f"seed{seed}")


@pytest.mark.parametrize("how", ["signal", "disk"])
def test_what_happens_while_seeds_are_saved_apart(how, single, tmp_path, monkeypatch):
    """Their checkpoints are written while the last evaluation runs: a signal waits for them, an error is not lost."""
    if how == "signal":
        evaluated = ending._evaluated

        def late(run):
            signal.raise_signal(signal.SIGINT)
            return evaluated(run)

        monkeypatch.setattr(ending, "_evaluated", late)
    else:
        save = Checkpoints.save

        def full(self, step, *arguments):
            if step == 60 and self.folder.parent.name == "seed1":
                raise UserError("the disk is full")
            save(self, step, *arguments)

        monkeypatch.setattr(Checkpoints, "save", full)
    with pytest.raises(
        Interrupted if how == "signal" else UserError, match=None if how == "signal" else "disk is full"
    ):
        train(tiny.regression(), tmp_path, seeds=3, seeds_mode="map")
    # nothing is lost: the common checkpoint goes when each seed has its own
    assert (tmp_path / "checkpoints").exists() == (how == "disk")
    assert checkpoints(tmp_path / "seed0") == [60] and (tmp_path / "seed2" / "checkpoints").exists() == (
        how == "signal"
    )
    monkeypatch.undo()
    train(tiny.regression(), tmp_path, seeds=3, seeds_mode="map")
    for seed in SEEDS:
        assert result(tmp_path / f"seed{seed}") == result(single / f"seed{seed}")


@pytest.mark.smoke
def test_summary_is_students_interval():
    found = summary([4, 5, 6, 7], [{"a": 1.0, "b": 2.0}, {"a": 2.0}, {"a": 4.0}, {"a": 4.5}])
    values = np.array([1.0, 2.0, 4.0, 4.5])
    low, high = stats.t.interval(0.95, 3, loc=values.mean(), scale=stats.sem(values))
    assert found["seeds"] == [4, 5, 6, 7]
    assert set(found["metrics"]["a"]) == {"mean", "std", "ci95", "values"}
    assert found["metrics"]["a"]["mean"] == pytest.approx(values.mean())
    assert found["metrics"]["a"]["std"] == pytest.approx(np.sqrt(((values - values.mean()) ** 2).sum() / 3))
    assert found["metrics"]["a"]["ci95"] == pytest.approx((high - low) / 2)
    assert found["metrics"]["a"]["values"] == [1.0, 2.0, 4.0, 4.5]
    assert found["metrics"]["b"] == {"mean": 2.0, "std": None, "ci95": None, "values": [2.0]}


def test_summary_file_holds_the_records_metrics(tmp_path):
    experiment = tiny.regression(train=tiny.train_config(steps=5))
    train(experiment, tmp_path, seed=7, seeds=2, config={**leaves(experiment), "rate": 0.05})
    found = json.loads((tmp_path / "summary.json").read_text())
    assert set(found) == {"seeds", "metrics"}
    assert found["seeds"] == [7, 8]
    for name, values in found["metrics"].items():
        assert values["values"] == [record(tmp_path / f"seed{seed}")["metrics"][name] for seed in (7, 8)]
    assert json.loads((tmp_path / "config.json").read_text())["seed"] == 7
    assert json.loads((tmp_path / "seed8" / "config.json").read_text()) == {
        **leaves(experiment),
        "rate": 0.05,
        "seed": 8,
    }
