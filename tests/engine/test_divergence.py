"""A loss that is not finite: the run stops, says where, keeps the last good checkpoint, and other seeds go on."""

from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny
from runs import checkpoints, record, result, rows, train

from jaxdl.engine import loop
from jaxdl.engine.checkpoint import Checkpoints
from jaxdl.engine.fit import load_judged
from jaxdl.engine.folder import RunFolder
from jaxdl.engine.payload import all_finite, without_poison
from jaxdl.engine.program import stream
from jaxdl.errors import UserError


@dataclass(frozen=True)
class Fragile(tiny.Regression):
    """A regression that explodes at a step of the global count if a number drawn at init is small."""

    explode_at: int = 7

    def init(self, key, hyper):
        return super().init(key, hyper).replace(extra=jax.random.uniform(jax.random.fold_in(key, 1)))

    def step(self, state, batch, key):
        after, metrics = super().step(state, batch, key)
        return after, metrics | {"loss": metrics["loss"].replace(total=self._maybe(state, metrics["loss"].total))}

    def _maybe(self, state, value):
        clean = jnp.where(jnp.isfinite(value), value, 1.0)
        return jnp.where(state.extra < 0.5, value, clean)


@dataclass(frozen=True)
class Poisoned(Fragile):
    """As Fragile, but the parameters are what becomes NaN; the loss shows it a step later."""

    def step(self, state, batch, key):
        net = state.nets["model"]
        bad = (state.step == self.explode_at) & (state.extra < 0.5)
        params = jax.tree.map(lambda leaf: jnp.where(bad, jnp.nan, leaf), net.params)
        metrics = tiny.Regression(explode_at=-1).step(state, batch, key)[1]
        after, _ = tiny.Regression(explode_at=-1).step(
            state.replace(nets={"model": net.replace(params=params)}), batch, key
        )
        return after, metrics


def fragile_seeds(count=8):
    """Which of the first seeds explode."""
    values = [
        jax.random.uniform(jax.random.fold_in(jax.random.wrap_key_data(stream((s,), "init", 0)[0]), 1))
        for s in range(count)
    ]
    return [float(value) < 0.5 for value in values]


def test_there_are_seeds_of_both_kinds():
    assert len(set(fragile_seeds(3))) == 2


@pytest.mark.smoke
def test_a_loss_that_is_not_finite_stops_the_run(tmp_path):
    config = tiny.train_config(checkpoint_every=5, log_every=2)
    experiment = tiny.regression(tiny.Regression(explode_at=7), train=config)
    run = train(experiment, tmp_path)
    found = run.records[0]
    assert (found["status"], found["steps"], found["metrics"]) == ("diverged", 7, {})
    assert found["params_digest"] is None and found["state_digest"] is None
    assert checkpoints(tmp_path) == [5]
    assert max(row["step"] for row in rows(tmp_path)) == 6
    assert all(value is not None for row in rows(tmp_path) for value in row.values())
    again = train(experiment, tmp_path)  # it stays diverged, and nothing is computed again
    assert not again.fresh
    assert record(tmp_path)["status"] == "diverged"
    state = load_judged(experiment, RunFolder(tmp_path))
    assert int(state.step[0]) == 5


def test_the_step_does_not_depend_on_the_chunks(tmp_path, monkeypatch):
    for largest in (1, 4096):
        monkeypatch.setattr(loop, "CHUNK_LARGEST", largest)
        experiment = tiny.regression(tiny.Regression(explode_at=37))
        assert train(experiment, tmp_path / str(largest)).records[0]["steps"] == 37
    assert result(tmp_path / "1") == result(tmp_path / "4096")
    assert checkpoints(tmp_path / "1") == [25]


def test_diverged_before_any_checkpoint(tmp_path):
    experiment = tiny.regression(tiny.Regression(explode_at=7))
    found = train(experiment, tmp_path).records[0]
    assert (found["status"], found["steps"]) == ("diverged", 7)
    assert checkpoints(tmp_path) == []
    with pytest.raises(UserError, match="has no checkpoint"):
        load_judged(experiment, RunFolder(tmp_path))


@pytest.mark.parametrize("mode", ["loop", "map", "vmap"])
def test_only_the_seed_that_explodes_diverges(mode, tmp_path):
    config = tiny.train_config(checkpoint_every=5, steps=20)
    experiment = tiny.regression(Fragile(), train=config)
    run = train(experiment, tmp_path / "all", seeds=3, seeds_mode=mode)
    expected = ["diverged" if fragile else "done" for fragile in fragile_seeds(3)]
    assert [found["status"] for found in run.records] == expected
    assert run.summary["seeds"] == [seed for seed in range(3) if expected[seed] == "done"]
    for seed in range(3):
        train(experiment, tmp_path / str(seed), seed=seed)
        folder = tmp_path / "all" / f"seed{seed}"
        assert (
            checkpoints(folder)[-1]
            == checkpoints(tmp_path / str(seed))[-1]
            == (5 if expected[seed] == "diverged" else 20)
        )
        if mode != "vmap":
            assert result(folder) == result(tmp_path / str(seed))
        stored = Checkpoints(folder / "checkpoints")
        for step in stored.steps():
            assert all_finite(stored.load(step)[0], 0)


@pytest.mark.parametrize("mode", ["loop", "map"])
def test_poisoned_parameters_are_never_saved(mode, tmp_path, monkeypatch):
    """Step 24 poisons them, the checkpoint at 25 is due before any loss shows it."""
    saved = []
    save = Checkpoints.save

    def watched(self, step, arrays, metadata):
        for name, array in arrays.items():
            if name.startswith("state/nets") or name.startswith("best"):
                assert np.isfinite(array).all(), (step, name)
        saved.append(step)
        return save(self, step, arrays, metadata)

    monkeypatch.setattr(Checkpoints, "save", watched)
    config = tiny.train_config(checkpoint_every=5, steps=40)
    experiment = tiny.regression(Poisoned(explode_at=24), train=config)
    run = train(experiment, tmp_path, seeds=3, seeds_mode=mode)
    expected = [("diverged", 25) if fragile else ("done", 40) for fragile in fragile_seeds(3)]
    assert [(found["status"], found["steps"]) for found in run.records] == expected
    assert saved
    for seed, (status, _) in enumerate(expected):
        if status == "diverged":
            assert checkpoints(tmp_path / f"seed{seed}")[-1] == 20


def test_a_diverged_seed_stays_so_over_an_interruption(tmp_path):
    from runs import interrupt

    experiment = tiny.regression(Fragile(), train=tiny.train_config(checkpoint_every=5))
    train(experiment, tmp_path / "whole", seeds=3, seeds_mode="map")
    interrupt(experiment, tmp_path / "parts", 30, seeds=3, seeds_mode="map")
    train(experiment, tmp_path / "parts", seeds=3, seeds_mode="map")
    for seed in range(3):
        assert result(tmp_path / "parts" / f"seed{seed}") == result(tmp_path / "whole" / f"seed{seed}")
        assert (
            checkpoints(tmp_path / "parts" / f"seed{seed}")[-1] == checkpoints(tmp_path / "whole" / f"seed{seed}")[-1]
        )


def test_what_counts_as_poison():
    good = {
        "state/nets/a/params/w": np.ones((2, 3), np.float32),
        "state/nets/a/opt/0/best": np.array([np.inf, 1.0], np.float32),  # a schedule's best loss so far
        "state/local": np.array([np.nan, 1.0], np.float32),
        "state/nets/a/opt/0/count": np.zeros(2, np.int32),
    }
    assert all_finite(good, 0) and all_finite(good, 1)
    for name, value in (("params/w", np.inf), ("params/w", np.nan), ("opt/0/best", np.nan), ("stats/mean", -np.inf)):
        array = np.zeros(2, np.float32)
        array[1] = value
        assert all_finite({**good, f"state/nets/a/{name}": array}, 0)
        assert not all_finite({**good, f"state/nets/a/{name}": array}, 1)
    cleaned = without_poison({"x": np.array([[np.nan, 1.0], [np.nan, 2.0]], jnp.bfloat16), "n": np.arange(2)}, [0])
    np.testing.assert_array_equal(cleaned["x"].astype(np.float32), [[0.0, 1.0], [np.nan, 2.0]])
