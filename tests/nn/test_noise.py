"""Threefry against JAX's own, and the numbers made of its bits."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxdl.nn import noise
from jaxdl.nn.noise import row_below, row_bernoulli, row_bits, row_gumbel, row_uniform, threefry

# the bits that users get
pytestmark = pytest.mark.optimized

KEYS = jax.random.split(jax.random.key(0), 3)


def test_threefry_is_that_of_jax():
    from jax.extend.random import threefry_2x32

    data = jax.random.key_data(KEYS)
    counter = jnp.arange(10, dtype=jnp.uint32)
    for key in data:
        expected = threefry_2x32((key[0], key[1]), jnp.concatenate([counter, counter + 7]))
        found = threefry((key[0], key[1]), (counter, counter + 7))
        np.testing.assert_array_equal(jnp.concatenate(found), expected)


@pytest.mark.parametrize(("dtype", "size"), [(jnp.uint32, (5, 3)), (jnp.uint16, (7, 7)), (jnp.uint16, (2,))])
def test_each_row_has_its_own_bits_whatever_else_is_in_the_batch(dtype, size):
    bits = np.asarray(row_bits(KEYS, size, dtype))
    assert bits.shape == (3, *size) and bits.dtype == dtype
    np.testing.assert_array_equal(row_bits(KEYS[1:2], size, dtype)[0], bits[1])
    assert len(np.unique(bits)) == bits.size
    with pytest.raises(ValueError, match="uint32 or uint16"):
        row_bits(KEYS, size, jnp.uint8)


@pytest.mark.parametrize("dtype", [jnp.uint32, jnp.uint16])
def test_every_bit_is_fair_and_neighbours_do_not_depend_on_each_other(dtype):
    bits = np.asarray(row_bits(jax.random.split(jax.random.key(1), 64), (1024,), dtype)).astype(np.uint64)
    width = 8 * np.dtype(dtype).itemsize
    planes = (bits[..., None] >> np.arange(width, dtype=np.uint64)) & np.uint64(1)
    assert abs(planes.mean(axis=(0, 1)) - 0.5).max() < 0.01
    centred = bits / 2.0**width - 0.5
    for shift in (1, 256, 512):
        assert abs((centred[:, shift:] * centred[:, :-shift]).mean() * 12) < 0.02
    assert abs((centred[1:] * centred[:-1]).mean() * 12) < 0.02


def test_uniform_numbers_lie_in_their_interval_evenly():
    u = np.sort(np.asarray(row_uniform(jax.random.split(jax.random.key(2), 50), (400,))).reshape(-1))
    assert u[0] >= 0 and u[-1] < 1
    # Kolmogorov-Smirnov at the 0.1 % level
    assert np.abs(u - (np.arange(len(u)) + 0.5) / len(u)).max() < 1.95 / np.sqrt(len(u))


def test_gumbel_noise_has_its_distribution_and_is_finite_at_both_ends(monkeypatch):
    found = np.sort(np.asarray(row_gumbel(jax.random.split(jax.random.key(4), 50), (400,))).reshape(-1))
    cumulative = np.exp(-np.exp(-found))
    assert np.abs(cumulative - (np.arange(len(found)) + 0.5) / len(found)).max() < 1.95 / np.sqrt(len(found))
    for bits, u in ((0, 2.0**-24), (2**32 - 1, 1 - 2.0**-24)):
        monkeypatch.setattr(noise, "row_bits", lambda keys, shape, bits=bits: jnp.full((1, *shape), bits, jnp.uint32))
        np.testing.assert_allclose(row_gumbel(KEYS[:1], (1,)), -np.log(-np.log(u)), rtol=1e-5)


def test_bernoulli_keeps_its_probabilities_and_zero_and_one_are_sure():
    p = jnp.tile(jnp.array([0.0, 0.02, 0.5, 0.999, 1.0]), (20000, 1))
    found = row_bernoulli(jax.random.split(jax.random.key(3), 20000), p)
    np.testing.assert_allclose(found.mean(axis=0), p[0], atol=0.012)
    assert found[:, 0].max() == 0.0 and found[:, 4].min() == 1.0 and found.dtype == p.dtype


@pytest.mark.parametrize("shape", [(784,), (7, 3), (2,)])
@pytest.mark.parametrize("kind", ["scalar", "each", "traced", "seeds"])
def test_decisions_are_those_of_16_bits_each(shape, kind):
    bits, p = np.asarray(row_bits(KEYS, shape, jnp.uint16)), 0.3
    if kind in ("each", "seeds"):  # next to each value's own bits, where rounding decides
        p = jnp.asarray((bits + np.random.default_rng(0).choice([-0.6, 0.4, 0.6], bits.shape)) / 65536, jnp.float32)
    expected = bits < np.round(np.asarray(p, np.float32) * 65536)
    if kind == "seeds":  # a condition under vmap becomes a selection
        found = jax.vmap(lambda keys, p: row_below(keys, shape, p))(jnp.stack([KEYS, KEYS]), jnp.stack([p, p]))[1]
    else:
        found = (jax.jit(row_below, static_argnums=1) if kind == "traced" else row_below)(KEYS, shape, p)
    assert found.dtype == bool
    np.testing.assert_array_equal(found, expected)


def test_decisions_do_not_hinder_gradients():
    p = jnp.full((3, 5), 0.5)
    gradient = jax.grad(lambda x: (x * row_bernoulli(KEYS, p + 0 * x)).sum())(jnp.ones((3, 5)))
    np.testing.assert_array_equal(gradient, row_bernoulli(KEYS, p))


def test_keys_made_of_many_keys_are_those_of_jax():
    keys, data = jax.random.split(jax.random.key(5), (4, 3)), jax.random.key_data
    numbers = jnp.array([0, 7, -1], jnp.int32)
    each = jax.vmap(jax.vmap(jax.random.fold_in), in_axes=(0, None))(keys, numbers)
    np.testing.assert_array_equal(data(noise.fold_in(keys, numbers)), data(each))
    rows = jax.vmap(jax.random.fold_in, (None, 0))(keys[0, 0], numbers)
    np.testing.assert_array_equal(data(noise.fold_in(keys[0, 0], numbers)), data(rows))
    parts = jax.vmap(jax.vmap(lambda key: jax.random.split(key, 5)))(keys)
    np.testing.assert_array_equal(data(noise.split(keys, 5)), data(parts))


def test_numbers_made_of_many_keys_are_those_of_jax():
    keys = jax.random.split(jax.random.key(6), (4, 3))

    @jax.jit
    def theirs(keys):
        return jax.vmap(jax.vmap(lambda key: jax.random.uniform(key, (9,), jnp.float32, -0.05, 0.05)))(keys)

    np.testing.assert_array_equal(jax.jit(lambda keys: noise.uniform(keys, 9, -0.05, 0.05))(keys), theirs(keys))
    normal = jax.jit(jax.vmap(jax.vmap(lambda key: jax.random.normal(key, (9,)))))
    np.testing.assert_array_equal(jax.jit(lambda keys: noise.normal(keys, 9))(keys), normal(keys))
    for count in (1, 64, 1024, 1500):
        orders = jax.vmap(jax.vmap(lambda key, count=count: jax.random.permutation(key, count)))(keys)
        np.testing.assert_array_equal(noise.permutation(keys, count), orders)
