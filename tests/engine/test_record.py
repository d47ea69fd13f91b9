"""record.json and the pure parts of the engine's bookkeeping."""

import dataclasses
import json

import jax
import numpy as np
import pytest
import tiny
from runs import interrupt, record, rows, train

from jaxdl.engine.digest import digest
from jaxdl.engine.fit import load_judged, load_networks
from jaxdl.engine.folder import RunFolder, differences, plain
from jaxdl.engine.position import Position

KEYS = {
    "recipe",
    "status",
    "seed",
    "steps",
    "reported",
    "metrics",
    "best",
    "params_digest",
    "state_digest",
    "parameters",
    "program",
    "wall_time_s",
    "compile_time_s",
    "items_per_second",
    "versions",
    "git",
    "command",
    "data",
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A run of the regression whose best evaluation is not its last."""
    folder = tmp_path_factory.mktemp("run")
    train(best_is_early(), folder, command="python -m experiments.train")
    return folder


def best_is_early():
    """So noisy that the last evaluation is not the best."""
    return tiny.regression(tiny.Regression(noise=0.8), train=tiny.train_config(eval_every=3, steps=30), rate=0.2)


@pytest.mark.smoke
def test_a_record_has_the_keys_of_the_contract(folder):
    found = json.loads((folder / "record.json").read_text())
    assert set(found) == KEYS
    assert set(found["best"]) == {"step", "metric", "value"}
    assert {"devices", "platform", "threads", "xla_flags", "parallel", "seeds_mode", "precision"} <= set(
        found["program"]
    )
    assert set(found["git"]) == {"commit", "dirty"}
    assert {"python", "jax", "jaxlib", "flax", "optax", "orbax-checkpoint"} <= set(found["versions"])
    assert (found["status"], found["seed"], found["steps"], found["reported"]) == ("done", 0, 30, "best")
    assert found["parameters"] == 4
    assert found["command"] == "python -m experiments.train"
    assert set(found["metrics"]) == {"train/loss", "train/gradient", "validation/loss", "test/loss"}
    for name in ("wall_time_s", "compile_time_s", "items_per_second"):
        assert found[name] > 0
    assert found["compile_time_s"] < found["wall_time_s"]


def test_best_is_the_best_evaluation_and_what_is_reported(folder):
    found = record(folder)
    rows = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    validation = {row["step"]: row["loss"] for row in rows if row["split"] == "validation"}
    best = min(validation, key=validation.get)
    assert best != 30
    assert found["best"] == {"step": best, "metric": "validation/loss", "value": validation[best]}
    assert found["metrics"]["validation/loss"] == pytest.approx(validation[best], rel=1e-6)
    assert [row["step"] for row in rows if row["split"] == "test"] == [best]
    state = load_judged(best_is_early(), RunFolder(folder))
    assert (
        digest({name: {k: v[0] for k, v in net.params.items()} for name, net in state.nets.items()})
        == found["params_digest"]
    )


def test_last_is_reported_where_the_experiment_says_so(tmp_path):
    train(dataclasses.replace(best_is_early(), reported="last"), tmp_path)
    rows = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    last = [row["loss"] for row in rows if row["split"] == "validation"][-1]
    assert record(tmp_path)["metrics"]["validation/loss"] == pytest.approx(last, rel=1e-6)
    assert record(tmp_path)["reported"] == "last"


@dataclasses.dataclass(frozen=True)
class Averaged(tiny.Regression):
    """The regression with a moving average of its parameters, which it is judged by."""

    def init(self, key, hyper):
        state = super().init(key, hyper)
        net = state.nets["model"]
        return state.replace(nets={"model": net.replace(ema=(net.params, net.stats))})

    def step(self, state, batch, key):
        after, metrics = super().step(state, batch, key)
        net = after.nets["model"]
        ema = jax.tree.map(lambda old, new: 0.9 * old + 0.1 * new, net.ema, (net.params, net.stats))
        return after.replace(nets={"model": net.replace(ema=ema)}), metrics

    def for_evaluation(self, state):
        return state.replace(nets={"model": state.nets["model"].averaged()})


def test_averages_are_what_is_reported_of_the_last_step(tmp_path):
    """Metrics, digest, what is loaded and what another run would start from are of the same parameters."""
    experiment = dataclasses.replace(best_is_early(), reported="last")
    phase = dataclasses.replace(experiment.phases[0], task=Averaged(noise=0.8))
    experiment = dataclasses.replace(experiment, phases=(phase,))
    train(experiment, tmp_path)
    found = record(tmp_path)
    state = load_judged(experiment, RunFolder(tmp_path))
    params = {name: values[0] for name, values in state.nets["model"].params.items()}
    assert digest({"model": params}) == found["params_digest"]
    networks, _ = load_networks(str(tmp_path))
    assert set(networks) == {"model/params/w", "model/params/b"}
    held_out = experiment.final["test"].arrays
    error = np.square(held_out["x"] @ networks["model/params/w"] + networks["model/params/b"] - held_out["y"])
    assert found["metrics"]["test/loss"] == pytest.approx(float(error.mean()), rel=1e-5)
    assert all(np.array_equal(networks[f"model/params/{name}"], params[name]) for name in params)


@pytest.mark.smoke
def test_best_and_patience_of_a_position():
    position = Position.first(2)
    position.start = [0, 10]
    values = [3.0, 4.0, None, 2.0, float("nan"), 2.0]
    improved = []
    for t, value in enumerate(values, 1):
        position.t = t
        improved.append(position.judge(1, value, "min"))
    assert improved == [True, False, False, True, False, False]
    assert (position.best_value[1], position.best_step[1], position.waiting[1]) == (2.0, 14, 2)
    assert position.best_value[0] is None
    highest = Position.first(1)
    assert [highest.judge(0, value, "max") for value in (1.0, 2.0, 2.0, float("inf"))] == [True, True, False, False]


def test_a_position_survives_json():
    position = Position.first(3)
    position.t, position.stopped[1], position.diverged[2] = 40, 30, 35
    position.history = [[{"validation/loss": 0.1 * i} for i in range(3)]]
    again = Position.from_json(json.loads(json.dumps(position.to_json())))
    assert again == position
    assert [position.active(i) for i in range(3)] == [True, False, False]
    assert [position.global_step(i) for i in range(2)] == [40, 30]
    alone = position.of_seed(1)
    assert (alone.seeds, alone.t, alone.stopped, alone.diverged) == (1, 30, [30], [-1])
    assert alone.history == [[{"validation/loss": 0.1}]]
    position.next_phase()
    assert (position.phase, position.t, position.start[:2], position.best_value) == (1, 0, [40, 30], [None] * 3)


def test_differences_of_two_configurations():
    old = {"train.steps": 100, "a": 1, "gone": True}
    assert differences(old, {"train.steps": 200, "a": 1, "gone": True}, may_grow=True) == []
    assert differences(old, {"train.steps": 200, "a": 1, "gone": True}, may_grow=False) == [
        "train.steps: 100 there, 200 here"
    ]
    assert differences(old, {"train.steps": 50, "a": 2, "new": 1}, may_grow=True) == [
        "a: 1 there, 2 here",
        "gone: True there, (none) here",
        "new: (none) there, 1 here",
        "train.steps: 100 there, 50 here",
    ]


def test_json_has_no_numbers_that_are_none():
    assert plain({"a": float("nan"), 1: [float("inf"), 2.5], "c": (1, None)}) == {
        "a": None,
        "1": [None, 2.5],
        "c": [1, None],
    }


def test_how_often_a_run_logs_and_saves_may_change_when_it_is_resumed(tmp_path):
    """The same parameters; other rows and checkpoints from there on."""

    def experiment(**changes):
        return tiny.regression(train=tiny.train_config(**changes))

    def config(found):
        train = {f"train.{name}": value for name, value in dataclasses.asdict(found.train).items()}
        return {"recipe": found.name, **train}

    seldom, often = experiment(), experiment(log_every=3, checkpoint_every=10)
    train(seldom, tmp_path / "whole", config=config(seldom))
    interrupt(seldom, tmp_path / "parts", 28, config=config(seldom))
    train(often, tmp_path / "parts", config=config(often))
    for name in ("params_digest", "state_digest", "best"):
        assert record(tmp_path / "parts")[name] == record(tmp_path / "whole")[name]
    steps = [row["step"] for row in rows(tmp_path / "parts") if row["split"] == "train"]
    assert steps[:4] == [7, 14, 21, 28]
    assert set(steps[-5:]) == {48, 51, 54, 57, 60}
    assert not train(seldom, tmp_path / "parts", config=config(seldom)).fresh


def test_a_finished_group_keeps_the_configuration_that_it_was_trained_with(tmp_path):
    experiment = tiny.regression()
    config = {"recipe": "tiny", "train.steps": 60, "train.log_every": 7}
    train(experiment, tmp_path, config=config, seeds=2)
    assert not train(experiment, tmp_path, config={**config, "train.log_every": 3}, seeds=2).fresh
    assert json.loads((tmp_path / "config.json").read_text())["train.log_every"] == 7
