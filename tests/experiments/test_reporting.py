"""What a finished run says of itself."""

import io
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments import agents, mfu
from experiments.reporting import View, header, wall_time
from experiments.sample import MOST_SAMPLES, SampleRequest
from experiments.train import live_line
from jaxdl.engine.devices import Layout
from jaxdl.engine.options import Options
from jaxdl.engine.watcher import Compiled


@pytest.mark.parametrize(
    ("times", "expected"),
    [
        ([(44.5, 8.0)] * 4, 44.5),  # seeds of one program
        ([(10.0, 8.0), (3.0, 0.0), (3.5, 0.0)], 16.5),  # one after another
        ([(10.0, 8.0), (10.0, 8.0), (3.0, 1.0)], 13.0),  # one more seed later
    ],
)
def test_seeds_of_one_program_took_its_time_once(times, expected):
    records = [{"wall_time_s": wall, "compile_time_s": compilation} for wall, compilation in times]
    assert wall_time(records) == expected


def line_of(**changes):
    """The live line of an experiment with one phase, and its stream."""
    stream = io.StringIO()
    phases = (SimpleNamespace(name="train"),)
    return live_line(SimpleNamespace(items="images", phases=phases, **changes), stream), stream


def square(size):
    """A compiled product of two matrices: 2 size^3 operations."""
    return jax.jit(jnp.matmul).lower(*(jax.ShapeDtypeStruct((size, size), jnp.float32),) * 2).compile()


def test_what_is_compiled_is_said_and_utilisation_shown_where_the_peak_is_known(monkeypatch):
    line, stream = line_of()
    line.compiled(Compiled("train", 39742, 13.14, 32, square(64)))
    line.update(1, 10, {"train/loss": 1.0}, 1000.0)
    line.close()
    assert "39,742 parameters, compiled in 13.1 s\n" in stream.getvalue()
    assert "MFU" not in stream.getvalue()  # no peak is known of a CPU
    monkeypatch.setattr(mfu, "known_peak", lambda kind: mfu.Peak(4 * 2 * 64**3 / 0.5, "a test"))
    line, stream = line_of()
    line.compiled(Compiled("train", 39742, 0.0, 32, square(64)))
    line.update(1, 10, {"train/loss": 1.0}, 0.25 * 4 * 32 / 0.5)  # a quarter of four steps of 32 items in half a second
    line.close()
    assert "MFU 25%" in stream.getvalue()
    assert "compiled" not in stream.getvalue()


@pytest.mark.parametrize("error", [NotImplementedError("no"), jax.errors.JaxRuntimeError("UNIMPLEMENTED: no")])
def test_a_backend_that_counts_no_operations_costs_the_utilisation_not_the_run(error, monkeypatch):
    def uncounted():
        raise error

    monkeypatch.setattr(mfu, "known_peak", lambda kind: mfu.Peak(1e12, "a test"))
    line, stream = line_of()
    line.compiled(Compiled("train", 39742, 13.14, 32, SimpleNamespace(cost_analysis=uncounted)))
    line.update(1, 10, {"train/loss": 1.0}, 1000.0)
    line.close()
    assert "compiled in 13.1 s" in stream.getvalue() and "MFU" not in stream.getvalue()


def test_a_seeds_line_has_no_numbers_of_the_seed_before():
    line, stream = line_of()
    line.update(10, 10, {"train/loss": 1.0, "validation/loss": 2.0}, 1000.0)
    line.update(1, 10, {"train/loss": 3.0}, 1000.0)
    line.close()
    assert "validation/loss 2.0000" in stream.getvalue().splitlines()[0]
    assert "validation" not in stream.getvalue().splitlines()[1]


@pytest.mark.parametrize(("statuses", "first"), [(["done", "done"], 0), (["running", "done"], 1), (["diverged"], 0)])
def test_the_first_seed_is_the_first_that_ended_well(statuses, first):
    assert View(None, [], [{"status": status} for status in statuses], []).first == first


@pytest.mark.parametrize(("mode", "said"), [("auto", "3 to 4 (loop)"), ("map", "3 to 4 (map)")])
def test_the_header_names_the_mode_that_was_chosen(mode, said, capsys):
    options = Options("runs/x", seed=3, seeds=2, seeds_mode=mode)
    session = SimpleNamespace(recipe=SimpleNamespace(title="x"), experiment=SimpleNamespace(facts={}))
    header(session, options, Layout(devices=tuple(jax.devices()[:1])))
    assert said in capsys.readouterr().out


def test_episodes_of_agents_are_whole_and_their_own_for_each_seed(tmp_path, monkeypatch):
    asked = []

    def episodes(view, i, count, start, steps):
        asked.append((start, steps))
        return {"observation": np.zeros((count, 4, 2)), "reward": np.ones((count, 3)), "length": np.full(count, 3)}

    monkeypatch.setattr(agents, "episodes", episodes)
    task = SimpleNamespace(environment=SimpleNamespace(observation_shape=(2,)))
    view = SimpleNamespace(first=0, experiment=SimpleNamespace(phases=[SimpleNamespace(task=task)]))
    for seed in (0, 1, 2**31 - 1):
        agents.sample(view, SampleRequest(tmp_path, lambda text: None, count=2, seed=seed))
    starts, steps = zip(*asked, strict=True)
    assert set(steps) == {None}  # as many as the environment allows
    assert starts[1] - starts[0] == MOST_SAMPLES
    assert all(0 < start <= 2**31 - 1 - MOST_SAMPLES for start in starts)
