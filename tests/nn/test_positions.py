import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxdl.nn.positions import Positions, rotary, sinusoidal
from jaxdl.target import compiling_for


def test_sinusoidal_is_the_papers_formula_number_by_number():
    table = sinusoidal(50, 12)
    for t in (0, 1, 17, 49):
        for i in range(6):
            angle = t / 10000 ** (2 * i / 12)
            np.testing.assert_allclose(table[t, 2 * i], np.sin(angle), atol=1e-6)
            np.testing.assert_allclose(table[t, 2 * i + 1], np.cos(angle), atol=1e-6)


def test_a_shift_of_sinusoidal_positions_is_one_linear_map():
    table, shift, size = np.asarray(sinusoidal(40, 8), np.float64), 5, 8
    shifted = np.linalg.lstsq(table[:-shift], table[shift:], rcond=None)
    np.testing.assert_allclose(table[:-shift] @ shifted[0], table[shift:], atol=1e-5)
    assert shifted[0].shape == (size, size)


def test_rotary_products_depend_on_the_distance_alone():
    draw = np.random.default_rng(0)
    q, k = draw.normal(size=(2, 8)).astype(np.float32)

    def product(t, s):
        return float(rotary(q[None], jnp.asarray([t]))[0] @ rotary(k[None], jnp.asarray([s]))[0])

    for distance in (0, 3, -7):
        found = [product(t + distance, t) for t in (7, 20, 101)]
        np.testing.assert_allclose(found, found[0], atol=2e-5)
    assert abs(product(7, 0) - product(0, 0)) > 1e-2
    np.testing.assert_allclose(product(4, 4), q @ k, atol=1e-5)


def test_rotary_is_a_turn_of_each_pair_in_the_plane():
    x = np.random.default_rng(1).normal(size=(3, 6)).astype(np.float32)
    found = rotary(x, jnp.arange(3) + 10)
    for t in range(3):
        for i in range(3):
            turned = (x[t, i] + 1j * x[t, i + 3]) * np.exp(1j * (t + 10) / 10000 ** (2 * i / 6))
            np.testing.assert_allclose([found[t, i], found[t, i + 3]], [turned.real, turned.imag], atol=1e-5)


@pytest.mark.parametrize("kind", ["learned", "sinusoidal", "rotary", "none"])
def test_a_later_start_adds_the_later_vectors(kind):
    module, x = Positions(kind, 9), jnp.ones((2, 9, 4))
    variables = module.init(jax.random.key(0), x)
    whole = module.apply(variables, x)
    np.testing.assert_array_equal(module.apply(variables, x[:, :3], 5), whole[:, 5:8])
    assert bool((whole == x).all()) == (kind in ("rotary", "none"))


def test_what_cannot_be_is_said():
    with pytest.raises(ValueError, match="even"):
        sinusoidal(4, 3)
    with pytest.raises(ValueError, match="even"):
        rotary(jnp.ones((2, 3)), jnp.arange(2))
    with pytest.raises(ValueError, match="'absolute'"):
        Positions("absolute", 4).init(jax.random.key(0), jnp.ones((1, 2, 4)))
    with pytest.raises(ValueError, match="5 tokens"):
        Positions("learned", 4).init(jax.random.key(0), jnp.ones((1, 5, 4)))


@pytest.mark.parametrize("start", [0, 3])
def test_a_gpu_looks_positions_up_and_adds_the_same(start):
    module, x = Positions("learned", 9), jnp.asarray(np.random.default_rng(3).normal(size=(4, 5, 6)), jnp.float32)
    params = module.init(jax.random.key(0), x)

    def both(params):
        return jax.value_and_grad(lambda params: jnp.sin(module.apply(params, x, start)).sum())(params)

    wanted = both(params)
    with compiling_for("gpu"):
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-6), both(params), wanted)


@pytest.mark.parametrize("platform", ["cpu", "gpu"])
def test_tokens_beyond_the_last_position_are_refused_or_moved_back_together(platform):
    module = Positions("sinusoidal", 8)
    x = jnp.zeros((2, 3, 4))
    with compiling_for(platform):
        with pytest.raises(ValueError, match="9 tokens are more than the 8 positions"):
            module.apply({}, x, 6)
        moved = jax.jit(lambda start: module.apply({}, x, start))(jnp.int32(7))
    np.testing.assert_allclose(moved[0], sinusoidal(8, 4)[5:], atol=1e-6)
