"""The same seed gives the same bits: again, in another process, in other chunks, from a stream, after an interruption."""

import dataclasses
import json
import signal

import numpy as np
import pytest
import tiny
from runs import Listener, files, interrupt, leaves, record, result, rows, train

from jaxdl.data.source import Streamed
from jaxdl.engine import loop
from jaxdl.engine.signals import Interrupted

# the bits that users get
pytestmark = pytest.mark.optimized


@pytest.fixture(scope="module")
def once(tmp_path_factory):
    """One uninterrupted run of each tiny experiment."""
    root = tmp_path_factory.mktemp("once")
    for name, make in tiny.EXPERIMENTS.items():
        train(make(), root / name)
    return root


@pytest.mark.smoke
@pytest.mark.parametrize("name", tiny.EXPERIMENTS)
def test_the_same_run_twice_is_equal(name, once, tmp_path):
    train(tiny.EXPERIMENTS[name](), tmp_path / "again")
    assert files(tmp_path / "again") == files(once / name)
    other = train(tiny.EXPERIMENTS[name](), tmp_path / "other", seed=1)
    assert other.records[0]["state_digest"] != record(once / name)["state_digest"]


@pytest.mark.parametrize("name", tiny.EXPERIMENTS)
@pytest.mark.parametrize(("seconds", "largest"), [(1e-9, 1), (60.0, 4096)])
def test_chunk_length_does_not_matter(name, seconds, largest, once, tmp_path, monkeypatch):
    monkeypatch.setattr(loop, "CHUNK_SECONDS", seconds)
    monkeypatch.setattr(loop, "CHUNK_LARGEST", largest)
    counts = []
    dispatch = loop._Run._dispatch
    monkeypatch.setattr(loop._Run, "_dispatch", lambda run, count: (counts.append(count), dispatch(run, count)))
    train(tiny.EXPERIMENTS[name](), tmp_path)
    if largest < 10:
        assert max(counts) == largest
    assert files(tmp_path) == files(once / name)


@pytest.mark.parametrize("at", [1, 25, 60])
@pytest.mark.smoke
def test_interrupted_and_resumed_is_uninterrupted(at, once, tmp_path):
    interrupt(tiny.regression(), tmp_path, at)
    assert record(tmp_path)["status"] == "interrupted"
    listener = Listener()
    train(tiny.regression(), tmp_path, listener)
    assert [line for line in listener.lines if "resuming" in line] or at == 60
    assert files_without_checkpoints(tmp_path) == files_without_checkpoints(once / "regression")


def files_without_checkpoints(folder):
    """An interruption saves at a step of its own, so older checkpoints may differ; the newest may not."""
    names, texts, found, steps = files(folder)
    return names, texts, found, steps[-1]


@pytest.mark.parametrize("name", ["game", "bandit", "two_phases"])
def test_interrupted_again_and_again(name, once, tmp_path):
    for at in (3, 22, 31, 45):
        interrupt(tiny.EXPERIMENTS[name](), tmp_path, at)
    train(tiny.EXPERIMENTS[name](), tmp_path)
    assert files_without_checkpoints(tmp_path) == files_without_checkpoints(once / name)


def test_an_interruption_during_the_last_evaluation_is_not_lost(once, tmp_path, monkeypatch):
    finish = loop.finish

    def late(run):
        signal.raise_signal(signal.SIGINT)
        return finish(run)

    monkeypatch.setattr(loop, "finish", late)
    with pytest.raises(Interrupted):
        train(tiny.regression(), tmp_path)
    monkeypatch.undo()
    train(tiny.regression(), tmp_path)
    assert files(tmp_path) == files(once / "regression")


def test_a_finished_run_is_left_alone(once):
    before = files(once / "regression"), (once / "regression" / "record.json").stat().st_mtime_ns
    run = train(tiny.regression(), once / "regression")
    assert not run.fresh
    assert before == (files(once / "regression"), (once / "regression" / "record.json").stat().st_mtime_ns)


def test_steps_may_grow_and_give_the_longer_run(once, tmp_path):
    long = tiny.regression(train=tiny.train_config(steps=100))
    train(long, tmp_path / "long")
    train(tiny.regression(), tmp_path / "grown")
    train(long, tmp_path / "grown")
    assert record(tmp_path / "grown")["state_digest"] == record(tmp_path / "long")["state_digest"]
    assert record(tmp_path / "grown")["metrics"] == record(tmp_path / "long")["metrics"]
    assert json.loads((tmp_path / "grown" / "config.json").read_text()) == {**leaves(long), "seed": 0}


@pytest.mark.parametrize("seeds_mode", ["loop", "map", "vmap"])
def test_streamed_data_equals_resident(seeds_mode, tmp_path):
    resident = tiny.regression()
    source = resident.phases[0].source
    arrays = {name: np.asarray(array) for name, array in source.arrays.items()}
    stream = Streamed.of(arrays, source.batch_size, shuffle=True, capacity=5)

    def on_host(sources):  # fewer batches a stage than there are, and a last stage that is not full
        return {
            name: Streamed.of(
                {k: np.asarray(v) for k, v in each.arrays.items()}, each.batch_size, shuffle=False, capacity=2
            )
            for name, each in sources.items()
        }

    splits = resident.phases[0].evaluations
    assert all(each.num_batches % 2 and each.num_batches > 2 for each in splits.values())
    phase = dataclasses.replace(resident.phases[0], source=stream, evaluations=on_host(splits))
    streamed = dataclasses.replace(resident, phases=(phase,), final=on_host(resident.final))
    for name, experiment in (("resident", resident), ("streamed", streamed)):
        train(experiment, tmp_path / name, seeds=2, seeds_mode=seeds_mode)
    for seed in ("seed0", "seed1"):
        assert result(tmp_path / "resident" / seed) == result(tmp_path / "streamed" / seed)
    assert result(tmp_path / "streamed" / "seed0") != result(tmp_path / "streamed" / "seed1")


def test_interrupted_stream_equals_resident(once, tmp_path):
    resident = tiny.regression()
    source = resident.phases[0].source
    arrays = {name: np.asarray(array) for name, array in source.arrays.items()}
    phase = dataclasses.replace(
        resident.phases[0], source=Streamed.of(arrays, source.batch_size, shuffle=True, capacity=4)
    )
    streamed = dataclasses.replace(resident, phases=(phase,))
    interrupt(streamed, tmp_path, 30)
    train(streamed, tmp_path)
    assert result(tmp_path) == result(once / "regression")


def test_rows_come_when_they_are_due(once):
    train_steps = [row["step"] for row in rows(once / "regression") if row["split"] == "train"]
    validation_steps = [row["step"] for row in rows(once / "regression") if row["split"] == "validation"]
    assert train_steps == [7, 14, 21, 28, 35, 42, 49, 56, 60]
    assert validation_steps == [20, 40, 60]
    assert [row["step"] for row in rows(once / "regression") if row["split"] == "test"] == [60]
    # two phases: the second counts its own steps from the end of the first
    fine = [row["step"] for row in rows(once / "two_phases") if row["phase"] == "fine" and row["split"] == "train"]
    assert fine == [37, 44, 51, 58, 65, 70]
