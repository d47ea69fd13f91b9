"""A machine small enough to go through all its states."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxdl.models.rbm import RBM, recentred, uncentred

D, H = 4, 3
VISIBLE = np.array(list(itertools.product([0.0, 1.0], repeat=D)), np.float32)
HIDDEN = np.array(list(itertools.product([0.0, 1.0], repeat=H)), np.float32)
MACHINE = RBM(D, H)


def drawn(centred, seed=0, hidden=H):
    rng = np.random.default_rng(seed)
    shapes = {"kernel": (D, hidden), "visible_bias": (D,), "hidden_bias": (hidden,)}
    params = {name: rng.normal(size=shape) for name, shape in shapes.items()}
    if centred:
        params |= {"visible_offset": rng.uniform(size=D), "hidden_offset": rng.uniform(size=hidden)}
    return {name: jnp.asarray(value, jnp.float32) for name, value in params.items()}


def joint(params):
    """p(v, h) [2^D, 2^H] by the energy written out, in double precision."""
    p = {name: np.asarray(value, np.float64) for name, value in params.items()}
    v = VISIBLE - p.get("visible_offset", 0.0)
    h = HIDDEN - p.get("hidden_offset", 0.0)
    negative = v @ p["kernel"] @ h.T + (v @ p["visible_bias"])[:, None] + (h @ p["hidden_bias"])[None]
    weights = np.exp(negative)
    return weights / weights.sum(), -negative


@pytest.mark.parametrize("centred", [False, True])
def test_energy_free_energy_and_conditionals_are_those_of_the_enumerated_joint(centred):
    params = drawn(centred)
    p, energies = joint(params)
    assert p.sum() == pytest.approx(1.0)
    pairs = [np.repeat(VISIBLE, len(HIDDEN), axis=0), np.tile(HIDDEN, (len(VISIBLE), 1))]
    found = np.asarray(MACHINE.energy(params, *map(jnp.asarray, pairs))).reshape(p.shape)
    np.testing.assert_allclose(found, energies, rtol=1e-4, atol=1e-4)
    ours = np.exp(-np.asarray(found, np.float64))
    np.testing.assert_allclose((ours / ours.sum()).sum(), 1.0, rtol=1e-6)
    free = np.asarray(MACHINE.free_energy(params, jnp.asarray(VISIBLE)), np.float64)
    np.testing.assert_allclose(free, -np.log(np.exp(-energies).sum(axis=1)), rtol=1e-4, atol=1e-4)
    marginal = p.sum(axis=1)
    np.testing.assert_allclose(np.exp(-free) / np.exp(-free).sum(), marginal, rtol=1e-4)
    given_v = (p @ HIDDEN) / marginal[:, None]
    np.testing.assert_allclose(MACHINE.hidden_mean(params, jnp.asarray(VISIBLE)), given_v, rtol=1e-4)
    given_h = (p.T @ VISIBLE) / p.sum(axis=0)[:, None]
    np.testing.assert_allclose(MACHINE.visible_mean(params, jnp.asarray(HIDDEN)), given_h, rtol=1e-4)


def test_centring_changes_neither_the_distribution_nor_what_is_found_without_offsets():
    params = drawn(True)
    moved = recentred(params, jnp.array([0.3, 0.9, -0.2, 0.1]), jnp.array([0.7, 0.0, 0.4]))
    plain = uncentred(params)
    for other in (moved, plain):
        np.testing.assert_allclose(joint(other)[0], joint(params)[0], rtol=2e-5, atol=1e-8)
    assert set(plain) == {"kernel", "visible_bias", "hidden_bias"}
    assert not np.allclose(moved["hidden_bias"], params["hidden_bias"], atol=0.05)


@pytest.mark.parametrize("centred", [False, True])
def test_gaussian_hidden_units_by_numerical_integration(centred):
    machine, params = RBM(D, 1, "gaussian"), drawn(centred, hidden=1)
    grid = np.linspace(-30, 30, 20001)
    v = jnp.asarray(VISIBLE)
    states = [
        jnp.asarray(np.repeat(VISIBLE, len(grid), axis=0)),
        jnp.asarray(np.tile(grid, len(VISIBLE))[:, None], jnp.float32),
    ]
    energy = np.asarray(machine.energy(params, *states), np.float64).reshape(len(VISIBLE), len(grid))
    weights = np.exp(-energy) * (grid[1] - grid[0])
    np.testing.assert_allclose(machine.free_energy(params, v), -np.log(weights.sum(axis=1)), rtol=1e-3, atol=1e-3)
    mean = (weights * grid).sum(axis=1) / weights.sum(axis=1)
    np.testing.assert_allclose(machine.hidden_mean(params, v)[:, 0], mean, rtol=1e-3, atol=1e-3)
    many = jnp.tile(v[5:6], (4000, 1))
    h = jax.jit(machine.sample_hidden)(params, many, jax.random.split(jax.random.key(0), 4000))
    assert float(h.mean()) == pytest.approx(mean[5], abs=0.06) and float(h.std()) == pytest.approx(1.0, abs=0.04)


def test_long_gibbs_chains_have_the_machines_marginals_and_each_row_its_own_noise():
    params = drawn(False, seed=2)
    p, _ = joint(params)
    start, keys = jnp.zeros((6000, H)), jax.random.split(jax.random.key(1), 6000)
    gibbs = jax.jit(MACHINE.gibbs, static_argnums=(3, 4))
    v, h = gibbs(params, start, keys, 25)
    numbers = np.asarray(v @ (2.0 ** jnp.arange(D)[::-1]), int)
    np.testing.assert_allclose(np.bincount(numbers, minlength=16) / 6000, p.sum(axis=1), atol=0.025)
    assert set(np.unique(h)) == {0.0, 1.0}
    again, _ = gibbs(params, start, keys[::-1], 25)
    np.testing.assert_array_equal(again[::-1], v)


def test_mean_field_gives_probabilities_and_unknown_units_are_refused():
    params = drawn(False)
    keys = jax.random.split(jax.random.key(0), 8)
    v, _ = jax.jit(MACHINE.gibbs, static_argnums=(3, 4))(params, jnp.asarray(HIDDEN), keys, 1, True)
    np.testing.assert_allclose(v, MACHINE.visible_mean(params, jnp.asarray(HIDDEN)), rtol=1e-6)
    with pytest.raises(ValueError, match="binary or gaussian, got 'softmax'"):
        RBM(2, 2, "softmax")
