"""What the loop does on the host: one dispatch a chunk, few in flight, nothing compiled or copied behind its back."""

import contextlib
import dataclasses
import threading
import types

import jax
import numpy as np
import pytest
import tiny
from runs import interrupt, rows, train

from jaxdl.data.source import Resident
from jaxdl.engine import loop
from jaxdl.engine.devices import Layout
from jaxdl.engine.program import Program, means, stream
from jaxdl.engine.state import Mean


@contextlib.contextmanager
def compilations():
    """A list that grows by one with each program that this thread compiles, or reads from the cache."""
    seen, thread = [], threading.get_ident()
    open_ = [True]

    def listen(event, duration, **_):
        if open_[0] and "backend_compile" in event and threading.get_ident() == thread:
            seen.append(event)

    jax.monitoring.register_event_duration_secs_listener(listen)
    try:
        yield seen
    finally:
        open_[0] = False


@pytest.mark.smoke
def test_a_chunk_is_one_dispatch_of_one_program(tmp_path, monkeypatch):
    """With empty caches any other program that a dispatch starts would have to be compiled again; its own is compiled ahead."""
    calls, compiled, made = [], [], []
    dispatch, call, executable = loop._Run._dispatch, Program.call, Program._executable

    def noted(self, name, build, args):
        made.append(name)
        return executable(self, name, build, args)

    def counted(self, name, build, args):
        calls[-1].append(name)
        return call(self, name, build, args)

    def watched(run, count):
        calls.append([])
        if len(calls) > 1:
            jax.clear_caches()
        with compilations() as seen:
            dispatch(run, count)
        compiled.append(len(seen))

    monkeypatch.setattr(loop._Run, "_dispatch", watched)
    calls.append([])
    monkeypatch.setattr(Program, "call", counted)
    monkeypatch.setattr(Program, "_executable", noted)
    train(tiny.regression(), tmp_path)
    inside = [names[:1] for names in calls[1:]]
    assert len(inside) >= 12
    assert inside == [["train"]] * len(inside)
    assert made.count("train") == 1
    assert compiled == [0] * len(compiled)


def test_no_more_than_two_chunks_are_in_flight(tmp_path, monkeypatch):
    waiting = []
    dispatch = loop._Run._dispatch

    def watched(run, count):
        dispatch(run, count)
        waiting.append(len(run.pending))

    monkeypatch.setattr(loop._Run, "_dispatch", watched)
    monkeypatch.setattr(loop, "CHUNK_LARGEST", 1)
    train(tiny.regression(), tmp_path)
    assert len(waiting) == 60
    assert max(waiting) == 2


@pytest.mark.parametrize(
    ("seeds", "mode", "devices", "longer"),
    [(1, "map", 1, 1), (3, "map", 1, 3), (32, "map", 1, 8), (8, "vmap", 1, 1), (8, "shard", 2, 4)],
)
def test_chunks_are_longer_where_seeds_take_turns(seeds, mode, devices, longer):
    """A step that takes 10 ms: 25 steps a chunk for a seed alone, no more than eight times that for many."""

    class Run(loop._Run):
        phase = types.SimpleNamespace(source=None, steps=10_000)

    run = object.__new__(Run)
    run.seeds, run.step_seconds, run.position = tuple(range(seeds)), 0.01, types.SimpleNamespace(t=0)
    run.layout = Layout(seeds_mode=mode, devices=tuple(jax.devices()[:1]) * devices)
    run.experiment = types.SimpleNamespace(
        train=tiny.train_config(log_every=5000, eval_every=5000, checkpoint_every=5000)
    )
    assert run._chunk_length() == 25 * longer


@pytest.mark.smoke
def test_a_hidden_copy_to_the_device_is_an_error():
    phase = tiny.regression().phases[0]
    layout = Layout(devices=tuple(jax.devices()[:1]))
    program = Program(phase, layout, 1)
    keys = stream((0,), "init", 0)
    state = layout.place(program.init(keys), program.template)
    source = layout.place_source(phase.source)
    args = (state, program.zero_sums(), source)
    common = (keys, keys, np.zeros(1, np.int32), np.ones(1, np.int32))
    state, _, bad = program.train(*args, *common)  # places them itself
    assert program.host_bad(bad) == [-1]
    with pytest.raises(Exception, match="isallowed host-to-device transfer"):
        program.call("train", None, (state, *args[1:], *common))


def test_everything_is_compiled_after_the_first_evaluation(tmp_path, monkeypatch):
    counts = []
    evaluate = loop._Run._evaluate
    with compilations() as seen:

        def watched(run):
            evaluate(run)
            counts.append(len(seen))

        monkeypatch.setattr(loop._Run, "_evaluate", watched)
        finish = loop.finish
        monkeypatch.setattr(loop, "finish", lambda run: (counts.append(len(seen)), finish(run))[1])
        jax.clear_caches()
        train(tiny.regression(), tmp_path)
    assert len(counts) == 4
    assert counts[0] > 0
    assert counts[1:] == [counts[0]] * 3


@pytest.mark.smoke
@pytest.mark.parametrize("batch_size", [1, 7, 15, 45, 64])
def test_the_last_partial_batch_is_counted_once(batch_size):
    """45 examples in batches of any size: the mean that NumPy gives, and a count of 45."""
    held_out = tiny.data(45, seed=1)
    phase = tiny.regression().phases[0]
    program = Program(phase, Layout(devices=tuple(jax.devices()[:1])), 2)
    state = program.init(stream((0, 1), "init", 0))
    source = Resident.of(held_out, batch_size, shuffle=False)
    sums = program.evaluate(state, source, stream((0, 1), "evaluation", 0))
    np.testing.assert_array_equal(sums["loss"].count, [45, 45])
    for seed in range(2):
        params = jax.tree.map(lambda leaf, seed=seed: np.asarray(leaf, np.float64)[seed], state.nets["model"].params)
        expected = np.square(held_out["x"] @ params["w"] + params["b"] - held_out["y"]).mean()
        assert means(sums, seed)["loss"] == pytest.approx(expected, rel=1e-5)


def test_training_rows_are_the_means_of_their_steps(tmp_path):
    """Rows every 7 steps against rows of each step, and the sum over the steps of each row against NumPy."""
    every = tiny.train_config(steps=20, log_every=1, eval_every=100)
    train(tiny.regression(train=every), tmp_path / "each")
    train(tiny.regression(train=dataclasses.replace(every, log_every=7)), tmp_path / "some")
    single = [row["loss"] for row in rows(tmp_path / "each") if row["split"] == "train"]
    assert len(single) == 20
    some = [(row["step"], row["loss"]) for row in rows(tmp_path / "some") if row["split"] == "train"]
    for (step, loss), part in zip(some, (slice(0, 7), slice(7, 14), slice(14, 20)), strict=True):
        assert step == part.stop
        assert loss == pytest.approx(np.mean(single[part]), rel=1e-6)


def test_the_first_update_is_numpys(tmp_path):
    """One step of SGD from the initial parameters on the first batch, by hand."""
    experiment = tiny.regression(tiny.Regression(noise=0.0), train=tiny.train_config(steps=1, log_every=1))
    phase = experiment.phases[0]
    program = Program(phase, Layout(devices=tuple(jax.devices()[:1])), 1)
    params = jax.tree.map(
        lambda leaf: np.asarray(leaf, np.float64)[0], program.init(stream((0,), "init", 0)).nets["model"].params
    )
    batch = phase.source.batch(0, jax.random.wrap_key_data(stream((0,), "data", 0)[0]))
    x, y = np.asarray(batch["x"], np.float64), np.asarray(batch["y"], np.float64)
    error = x @ params["w"] + params["b"] - y
    gradient = {"w": 2 * (error[:, None] * x).mean(0), "b": 2 * error.mean()}
    train(experiment, tmp_path)
    row = rows(tmp_path)[0]
    assert row["loss"] == pytest.approx(np.square(error).mean(), rel=1e-5)
    norm = np.sqrt(np.square(gradient["w"]).sum() + gradient["b"] ** 2)
    assert row["gradient"] == pytest.approx(norm, rel=1e-5)


def test_seeds_phases_and_kinds_have_keys_of_their_own():
    kinds = ("init", "data", "step", "evaluation", "transfer")
    keys = {tuple(stream((seed,), kind, phase)[0]) for seed in range(4) for kind in kinds for phase in range(3)}
    assert len(keys) == 4 * 5 * 3
    np.testing.assert_array_equal(stream((3, 5), "data", 1)[1], stream((5,), "data", 1)[0])


@dataclasses.dataclass(frozen=True)
class Dice(tiny.Regression):
    """Shows what it is given: a number drawn from each key, the batch's first example, the step."""

    def step(self, state, batch, key):
        after, metrics = super().step(state, batch, key)
        shown = {"key": jax.random.uniform(key), "first": batch["x"][0, 0], "counted": state.step}
        return after, metrics | {name: Mean.of(value[None]) for name, value in shown.items()}


def test_each_step_has_a_key_a_batch_and_a_number_of_its_own(tmp_path):
    """Over two phases, interrupted in the second: the keys and batches that the streams say."""
    config = tiny.train_config(steps=10, log_every=1, eval_every=100, checkpoint_every=3)
    experiment = tiny.two_phases()
    phases = tuple(dataclasses.replace(phase, task=Dice(), steps=10) for phase in experiment.phases)
    experiment = dataclasses.replace(experiment, phases=phases, train=config)
    interrupt(experiment, tmp_path, 14, seed=5)
    train(experiment, tmp_path, seed=5)
    found = [row for row in rows(tmp_path) if row["split"] == "train"]
    assert [row["counted"] for row in found] == list(range(20))
    assert len({row["key"] for row in found}) == 20
    for index, row in enumerate(found):
        phase, t = divmod(index, 10)
        key = jax.random.fold_in(jax.random.wrap_key_data(stream((5,), "step", phase)[0]), index)
        assert row["key"] == float(jax.random.uniform(key))
        batch = phases[phase].source.batch(t, jax.random.wrap_key_data(stream((5,), "data", phase)[0]))
        assert row["first"] == float(batch["x"][0, 0])


def test_training_is_compiled_beside_the_first_state_and_evaluations_beside_training(tmp_path, monkeypatch):
    made, executable = {}, Program._executable
    begun = {name: threading.Event() for name in ("init", "train")}

    def noted(self, name, build, arguments):
        name = name if isinstance(name, str) else name[0]
        made[name] = threading.get_ident()
        for other in begun.keys() - {name} if name in begun else ():
            begun[name].set()
            assert begun[other].wait(60), f"{name} was compiled alone"
        return executable(self, name, build, arguments)

    monkeypatch.setattr(Program, "_executable", noted)
    train(tiny.regression(), tmp_path)
    here = threading.get_ident()
    assert made["init"] == here and here not in (made["train"], made["evaluate"])


def test_what_fails_beside_training_fails_the_run(tmp_path, monkeypatch):
    def broken(self, *_, **__):
        raise ZeroDivisionError("no metrics")

    monkeypatch.setattr(Program, "_evaluate", broken)
    with pytest.raises(ZeroDivisionError, match="no metrics"):
        train(tiny.regression(), tmp_path)
