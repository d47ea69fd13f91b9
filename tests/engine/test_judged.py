"""What the host measures at the end: with which networks, once a seed, and where it is written."""

import dataclasses
import json

import jax
import numpy as np
import pytest
import tiny
from runs import interrupt, record, rows, train

from jaxdl.engine.devices import typed
from jaxdl.engine.fit import evaluate, load_judged
from jaxdl.engine.folder import RunFolder
from jaxdl.engine.program import Program
from jaxdl.errors import UserError


def judged_regression(calls=None, **changes):
    """A noisy regression whose judge measures the squared error by itself and notes what it got."""
    base = tiny.regression(tiny.Regression(noise=0.8), train=tiny.train_config(eval_every=3, steps=30), rate=0.2)

    def judge(run):
        if calls is not None:
            calls.append(run)
        error = run.outputs("test")["y"] - tiny.data(37, 3, 2)["y"]
        return {"test/squared_error": np.square(error).mean(), "samples/drawn": jax.random.uniform(run.key)}

    return dataclasses.replace(base, judge=judge, **changes)


@pytest.fixture(scope="module")
def judged(tmp_path_factory):
    """(folder, calls) of one judged run."""
    folder, calls = tmp_path_factory.mktemp("run"), []
    train(judged_regression(calls), folder, seed=4)
    return folder, calls


def test_the_judge_sees_the_reported_networks_once(judged):
    folder, calls = judged
    experiment = judged_regression()
    (call,) = calls
    assert call.seed == 4
    assert record(folder)["best"]["step"] < 30
    state = load_judged(experiment, RunFolder(folder))
    for a, b in zip(jax.tree.leaves(call.state.nets), jax.tree.leaves(state.nets), strict=True):
        np.testing.assert_array_equal(a, b)
    metrics = record(folder)["metrics"]
    assert metrics["test/squared_error"] == pytest.approx(metrics["test/loss"], rel=1e-6)


def test_its_metrics_join_the_row_of_their_split(judged):
    folder, _ = judged
    found, metrics = rows(folder), record(folder)["metrics"]
    (test,) = [row for row in found if row["split"] == "test"]
    assert test["squared_error"] == metrics["test/squared_error"] and test["loss"] == metrics["test/loss"]
    (samples,) = [row for row in found if row["split"] == "samples"]
    assert samples["drawn"] == metrics["samples/drawn"]
    assert test["step"] == samples["step"] == record(folder)["best"]["step"]


def test_evaluate_judges_again_with_the_same_key(judged):
    folder, _ = judged
    found, step = evaluate(judged_regression(), RunFolder(folder), 4)
    assert step == 30
    metrics = {name: value for name, value in record(folder)["metrics"].items() if not name.startswith("train/")}
    assert found == pytest.approx(metrics, rel=1e-6)
    assert found["samples/drawn"] == metrics["samples/drawn"]


@pytest.mark.parametrize("reported", ["best", "last"])
def test_what_training_has_measured_is_not_measured_again(reported, tmp_path, monkeypatch):
    """Validation metrics of the record are those of the step that is reported; only the test split is evaluated at the end."""
    asked = []
    evaluate_in_program = Program.evaluate

    def counted(program, state, source, keys):
        asked.append(source)
        return evaluate_in_program(program, state, source, keys)

    monkeypatch.setattr(Program, "evaluate", counted)
    experiment = dataclasses.replace(judged_regression(), reported=reported)
    train(experiment, tmp_path, seeds=2, seeds_mode="loop")
    assert len(asked) == 2 * (30 // 3 + 1)  # a loop over seeds
    for seed in (0, 1):
        found = [row for row in rows(tmp_path / f"seed{seed}") if row["split"] == "validation"]
        best = min(found, key=lambda row: row["loss"]) if reported == "best" else found[-1]
        assert record(tmp_path / f"seed{seed}")["metrics"]["validation/loss"] == best["loss"]
        again, _ = evaluate(experiment, RunFolder(tmp_path / f"seed{seed}"), seed)
        assert again["validation/loss"] == pytest.approx(best["loss"], rel=1e-6)
    assert min(found, key=lambda row: row["loss"])["step"] < 30


def test_each_seed_of_a_group_is_judged_as_if_alone(judged, tmp_path):
    train(judged_regression(), tmp_path, seed=3, seeds=2, seeds_mode="map")
    assert record(tmp_path / "seed4")["metrics"] == record(judged[0])["metrics"]
    other = record(tmp_path / "seed3")["metrics"]["samples/drawn"]
    assert other != record(judged[0])["metrics"]["samples/drawn"]


def test_a_diverged_seed_is_not_judged(tmp_path):
    calls = []
    experiment = judged_regression(calls)
    task = tiny.Regression(noise=0.8, explode_at=20)
    phase = dataclasses.replace(experiment.phases[0], task=task)
    train(dataclasses.replace(experiment, phases=(phase,)), tmp_path)
    assert record(tmp_path)["status"] == "diverged" and not calls


def test_a_metric_without_a_split_is_refused(tmp_path):
    experiment = dataclasses.replace(judged_regression(), judge=lambda run: {"bleu": 0.3})
    with pytest.raises(ValueError, match="<split>/<name>, got 'bleu'"):
        train(experiment, tmp_path)


def test_a_state_and_a_template_of_other_structure_are_an_error():
    with pytest.raises(ValueError, match="zip"):
        typed({"a": np.ones(2), "b": np.ones(3)}, {"a": np.ones(2)})


def test_a_run_that_has_not_come_to_its_last_phase_is_not_judged(tmp_path):
    experiment = tiny.two_phases()
    interrupt(experiment, tmp_path, 7)
    for judge in (load_judged, lambda *args: evaluate(*args, seed=0)):
        with pytest.raises(UserError, match="has only come to phase .*: train it to the end first"):
            judge(experiment, RunFolder(tmp_path))
    path = tmp_path / "record.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "status": "diverged"}))
    with pytest.raises(UserError, match="it diverged there, train with other settings"):
        load_judged(experiment, RunFolder(tmp_path))
