"""Likelihoods and learning against enumeration."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxdl.models.rbm import RBM
from jaxdl.objectives.energy import (
    annealed_log_partition,
    binary_states,
    contrastive_gap,
    log_partition,
    reverse_annealed_log_partition,
)

D, H = 6, 5
VISIBLE = np.array(list(itertools.product([0.0, 1.0], repeat=D)), np.float32)
MACHINE = RBM(D, H)


def drawn(seed=0, scale=1.0):
    rng = np.random.default_rng(seed)
    shapes = {"kernel": (D, H), "visible_bias": (D,), "hidden_bias": (H,)}
    return {name: jnp.asarray(scale * rng.normal(size=shape), jnp.float32) for name, shape in shapes.items()}


def exact(params):
    """log Z and p(v) [2^D] by going through the visible states."""
    negative = -np.asarray(MACHINE.free_energy(params, jnp.asarray(VISIBLE)), np.float64)
    log_z = np.log(np.exp(negative - negative.max()).sum()) + negative.max()
    return log_z, np.exp(negative - log_z)


@pytest.mark.parametrize("chunk", [1, 7, 8, 12, 4096])
def test_log_partition_by_hidden_states_is_that_by_visible_states(chunk):
    params = drawn()
    assert float(log_partition(**params, chunk=chunk)) == pytest.approx(exact(params)[0], abs=1e-4)


def test_binary_states_are_all_different_and_too_many_are_refused():
    states = np.asarray(binary_states(jnp.arange(16, dtype=jnp.uint32), 4))
    assert len({tuple(row) for row in states}) == 16 and set(np.unique(states)) == {0.0, 1.0}
    with pytest.raises(ValueError, match="AIS"):
        log_partition(jnp.zeros((2, 30)), jnp.zeros(2), jnp.zeros(30))


def test_annealing_finds_the_partition_function_from_both_sides():
    params = drawn(seed=1)
    log_z, p = exact(params)
    base = jnp.full((D,), 0.3)
    forward = jax.jit(lambda key: annealed_log_partition(key, **params, base_bias=base, chains=400, temperatures=400))
    found, spread = forward(jax.random.key(0))
    assert 0 < float(spread) < 0.05 and abs(float(found) - log_z) < 4 * float(spread) + 0.01
    samples = jnp.asarray(VISIBLE[np.random.default_rng(0).choice(len(p), 400, p=p / p.sum())])
    backward = jax.jit(
        lambda key: reverse_annealed_log_partition(key, **params, base_bias=base, samples=samples, temperatures=400)
    )
    found, spread = backward(jax.random.key(1))
    assert abs(float(found) - log_z) < 4 * float(spread) + 0.01


def test_annealing_of_independent_pixels_is_exact_with_their_own_biases():
    params = {"kernel": jnp.zeros((D, H)), "visible_bias": jnp.arange(D) / 3.0, "hidden_bias": jnp.zeros(H)}
    found, spread = annealed_log_partition(
        jax.random.key(0), **params, base_bias=params["visible_bias"], chains=5, temperatures=3
    )
    assert float(found) == pytest.approx(exact(params)[0], abs=1e-4) and float(spread) < 1e-6


def test_the_gradient_of_long_chains_is_that_of_the_exact_likelihood_and_of_short_ones_is_biased():
    params = drawn(seed=3, scale=1.2)
    data = jnp.asarray(np.random.default_rng(1).integers(0, 2, (20, D)), jnp.float32)

    def likelihood(params):
        return (MACHINE.free_energy(params, data) + log_partition(**params)).mean()

    expected = jax.grad(likelihood)(params)
    repeated = jnp.tile(data, (1000, 1))

    def estimate(steps):
        keys = jax.random.split(jax.random.key(steps), len(repeated))
        h = MACHINE.sample_hidden(params, repeated, keys)
        v, _ = MACHINE.gibbs(params, h, jax.vmap(jax.random.fold_in, (0, None))(keys, 7), steps)
        return jax.grad(lambda p: contrastive_gap(MACHINE.free_energy, p, repeated, v).mean())(params)

    errors = {}
    for steps in (1, 60):
        found = jax.jit(estimate, static_argnums=0)(steps)
        errors[steps] = max(float(jnp.abs(found[name] - expected[name]).max()) for name in params)
    assert errors[60] < 0.025 < 0.05 < errors[1]


def test_no_gradient_runs_through_the_chains():
    params, v = drawn(), jnp.asarray(VISIBLE[:4])

    def through(params, hold):
        model = jax.nn.sigmoid(MACHINE.visible_input(params, MACHINE.hidden_mean(params, v)))
        return contrastive_gap(MACHINE.free_energy, params, v, jax.lax.stop_gradient(model) if hold else model).sum()

    free, held = (jax.grad(through)(params, hold) for hold in (False, True))
    np.testing.assert_allclose(free["kernel"], held["kernel"])
