"""Experiments that differ only in what lies in the State share compiled programs, and nothing else is ever shared."""

import os
import signal

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny
from runs import leaves, result, train

from jaxdl.engine.executables import Executables
from jaxdl.engine.fit import Options, fit
from jaxdl.engine.signals import Signals


def fitted(experiment, folder, executables=None, **options):
    fit(experiment, leaves(experiment), Options(str(folder), **options), executables=executables)
    return result(folder if "seeds" not in options else folder / f"seed{options.get('seed', 0)}")


@pytest.mark.parametrize("mode", ["loop", "map"])
def test_other_rates_and_seeds_need_no_compilation_and_give_the_same_bits(mode, tmp_path):
    shared = Executables()
    compiled = []
    for place, (rate, seed) in enumerate([(0.05, 0), (0.01, 0), (0.2, 5)]):
        options = {"seed": seed, "seeds": 2, "seeds_mode": mode}
        together = fitted(tiny.regression(rate=rate), tmp_path / f"shared{place}", shared, **options)
        compiled.append(shared.count)
        assert together == fitted(tiny.regression(rate=rate), tmp_path / f"alone{place}", **options)
    assert len(set(compiled)) == 1
    rates = [result(tmp_path / f"shared{place}" / "seed0")[0]["params_digest"] for place in (0, 1)]
    assert rates[0] != rates[1]


@pytest.mark.parametrize(
    "other",
    [tiny.Regression(noise=0.3), tiny.Regression(adam=True), tiny.Regression(features=4)],
    ids=["constant", "optimiser", "shape"],
)
def test_what_is_baked_into_a_program_is_not_shared(other, tmp_path):
    shared = Executables()
    fitted(tiny.regression(), tmp_path / "first", shared)
    before = shared.count
    second = fitted(tiny.regression(other), tmp_path / "second", shared)
    assert shared.count > before
    assert second == fitted(tiny.regression(other), tmp_path / "alone")


def test_an_experiment_that_is_trained_again_is_not_traced_again(tmp_path):
    """Tracing runs the task's Python; another experiment, even if equal, is traced for itself and gives the same bits."""
    traced = []

    class Counted(tiny.Regression):
        def step(self, state, batch, key):
            traced.append(1)
            return super().step(state, batch, key)

    shared, experiment = Executables(), tiny.regression(Counted())
    first = fitted(experiment, tmp_path / "first", shared)
    assert len(traced) == 1
    assert fitted(experiment, tmp_path / "again", shared) == first
    assert len(traced) == 1
    assert fitted(tiny.regression(Counted()), tmp_path / "equal", shared) == first
    assert len(traced) == 2


def test_what_was_made_for_an_object_is_forgotten_with_it():
    class Owner:
        pass

    shared, owners = Executables(), [Owner(), Owner()]
    values = [shared.once(owner, key, lambda: object()) for owner in owners for key in ("a", "b")]
    assert len(set(values)) == 4
    assert shared.once(owners[0], "a", lambda: None) is values[0]
    remembered = shared._once
    assert len(remembered) == 2
    owners.pop()
    assert len(remembered) == 1


def test_large_constants_are_told_apart():
    """A table that a program closes over stands in its text in full."""
    shared, made = Executables(), []

    def lowered(seed):
        table = jnp.asarray(np.random.default_rng(seed).normal(size=(100, 100)))
        return jax.jit(lambda x: x @ table).lower(jnp.zeros(100))

    for seed in (0, 1, 0):
        shared.compiled(lowered(seed), (), lambda low, seed=seed: made.append(seed))
    assert made == [0, 1]
    shared.compiled(lowered(0), ("another device",), lambda low: made.append("device"))
    assert made == [0, 1, "device"]


def test_signals_reach_the_context_around_and_the_one_inside():
    with Signals() as outer:
        with Signals() as inner:
            os.kill(os.getpid(), signal.SIGTERM)
            assert inner.pending
        assert outer.pending
        with Signals() as late:
            assert late.pending
    with Signals() as fresh:
        assert not fresh.pending


def test_train_is_unchanged_without_them(tmp_path):
    train(tiny.regression(), tmp_path / "a")
    assert result(tmp_path / "a") == fitted(tiny.regression(), tmp_path / "b", Executables())
