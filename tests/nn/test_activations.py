import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

from jaxdl.nn.activations import ACTIVATIONS, get_activation, maxout
from jaxdl.target import compiling_for

X = np.concatenate([np.linspace(-6, 6, 41), [-1e4, 1e4]]).astype(np.float32)
GELU = np.vectorize(lambda x: x * 0.5 * (1 + __import__("math").erf(x / np.sqrt(2))))

# value and derivative in float64, written from the equations; X contains 0
REFERENCES = {
    "identity": (lambda x: x, lambda x: np.ones_like(x)),
    "step": (lambda x: np.where(x > 0, 1.0, 0.0), np.zeros_like),
    "sigmoid": (lambda x: 0.5 * (1 + np.tanh(x / 2)), lambda x: 0.25 * (1 - np.tanh(x / 2) ** 2)),
    "tanh": (np.tanh, lambda x: 1 - np.tanh(x) ** 2),
    "relu": (lambda x: np.maximum(x, 0), lambda x: (x > 0) * 1.0),
    "abs": (np.abs, np.sign),
    "leaky_relu": (lambda x: np.where(x > 0, x, 0.01 * x), lambda x: np.where(x > 0, 1, 0.01)),
    "elu": (
        lambda x: np.where(x > 0, x, np.expm1(np.minimum(x, 0))),
        lambda x: np.where(x > 0, 1, np.exp(np.minimum(x, 0))),
    ),
    "softplus": (lambda x: np.logaddexp(x, 0), lambda x: 0.5 * (1 + np.tanh(x / 2))),
    "gelu": (
        GELU,
        lambda x: GELU(x) / np.where(x == 0, 1, x) + (x == 0) * 0.5 + x * np.exp(-(x**2) / 2) / np.sqrt(2 * np.pi),
    ),
    "silu": (
        lambda x: x * 0.5 * (1 + np.tanh(x / 2)),
        lambda x: 0.5 * (1 + np.tanh(x / 2)) + x * 0.25 * (1 - np.tanh(x / 2) ** 2),
    ),
}


@pytest.mark.parametrize(("name", "platform"), [*((name, "cpu") for name in REFERENCES), ("gelu", "gpu")])
def test_value_and_derivative_equal_the_equation(name, platform):
    value, derivative = REFERENCES[name]
    f = get_activation(name)
    x = X.astype(np.float64)
    with compiling_for(platform):
        np.testing.assert_allclose(f(jnp.asarray(X), True), value(x), rtol=1e-5, atol=1e-6)
        np.testing.assert_allclose(jax.vmap(jax.grad(f))(jnp.asarray(X)), derivative(x), rtol=1e-4, atol=1e-6)


def test_the_registry_is_complete():
    assert set(ACTIVATIONS) == {*REFERENCES, "maxout", "prelu", "noisy_relu"}


def test_sigmoid_derivative_is_at_most_a_quarter():
    slopes = jax.vmap(jax.grad(get_activation("sigmoid")))(jnp.linspace(-8, 8, 1601))
    assert float(slopes.max()) == pytest.approx(0.25, abs=1e-7) and int(slopes.argmax()) == 800


def test_wide_inputs_saturate_sigmoid_and_tanh_but_not_relu():
    """Of 10 z, z standard normal, the derivative is below 1 % of its largest where |x| > 5.98 (sigmoid) or 2.99 (tanh)."""
    z = 10 * jax.random.normal(jax.random.key(0), (100_000,))
    for name, largest, edge in (("sigmoid", 0.25, np.arccosh(10.0) * 2), ("tanh", 1.0, np.arccosh(10.0))):
        slope = jax.vmap(jax.grad(get_activation(name)))(z)
        share = float((slope < 0.01 * largest).mean())
        assert share == pytest.approx(2 * stats.norm.sf(edge / 10), abs=0.01)
        assert share > 0.5
    alive = jax.vmap(jax.grad(get_activation("relu")))(z)
    assert set(np.unique(alive)) == {0.0, 1.0} and float(alive.mean()) == pytest.approx(0.5, abs=0.01)


def test_elus_mean_is_nearer_zero_than_relus_and_its_slope_is_continuous():
    z = jax.random.normal(jax.random.key(0), (100_000,))
    elu, relu = get_activation("elu"), get_activation("relu")
    # of z standard normal: E relu = 1 / sqrt(2 pi), E elu = that + e^(1/2) Phi(-1) - 1/2
    expected = 1 / np.sqrt(2 * np.pi)
    assert float(relu(z).mean()) == pytest.approx(expected, abs=0.01)
    assert float(elu(z).mean()) == pytest.approx(expected + np.exp(0.5) * stats.norm.cdf(-1) - 0.5, abs=0.01)
    assert abs(float(elu(z).mean())) < 0.5 * float(relu(z).mean())
    left, right = (float(jax.grad(elu)(x)) for x in (-1e-4, 1e-4))
    assert left == pytest.approx(right, abs=2e-4)
    assert float(jax.grad(relu)(1e-4)) - float(jax.grad(relu)(-1e-4)) == 1.0


def test_options_reach_the_function():
    assert float(get_activation("leaky_relu", slope=0.3)(jnp.array(-2.0))) == pytest.approx(-0.6)
    assert float(get_activation("elu", alpha=2.0)(jnp.array(-1.0))) == pytest.approx(2 * np.expm1(-1.0))


def test_prelu_has_one_learned_slope_for_each_channel():
    x = jnp.array([[1.0, -2.0, -4.0], [-1.0, 3.0, -8.0]])
    variables = get_activation("prelu").init(jax.random.key(0), x)
    np.testing.assert_array_equal(variables["params"]["slope"], [0.25] * 3)
    slopes = {"params": {"slope": jnp.array([0.1, 0.2, 0.3])}}
    y, pull = jax.vjp(lambda p: get_activation("prelu").apply(p, x), slopes)
    np.testing.assert_allclose(y, [[1.0, -0.4, -1.2], [-0.1, 3.0, -2.4]], rtol=1e-6)
    np.testing.assert_allclose(pull(jnp.ones_like(y))[0]["params"]["slope"], [-1.0, -2.0, -12.0], rtol=1e-6)


def test_noisy_relu_has_the_distribution_of_the_paper_and_no_noise_at_evaluation():
    x = jnp.broadcast_to(jnp.array([3.0, 0.0, -3.0]), (4000, 3))
    noisy = get_activation("noisy_relu")
    y = np.asarray(noisy.apply({}, x, True, rngs={"noise": jax.random.key(0)}), np.float64)
    eps = np.random.default_rng(0).normal(size=200000)
    for column, z in enumerate([3.0, 0.0, -3.0]):
        expected = np.maximum(0, z + np.sqrt(1 / (1 + np.exp(-z))) * eps)
        assert y[:, column].mean() == pytest.approx(expected.mean(), abs=5 * expected.std() / np.sqrt(4000) + 1e-4)
        assert y[:, column].std() == pytest.approx(expected.std(), rel=0.1, abs=2e-3)
    np.testing.assert_array_equal(noisy.apply({}, x, False), jnp.maximum(x, 0))


def test_maxout_takes_the_largest_piece_and_routes_the_gradient_to_it():
    x = np.random.default_rng(0).normal(size=(5, 12)).astype(np.float32)
    y, pull = jax.vjp(lambda x: maxout(x, 4), jnp.asarray(x))
    groups = x.reshape(5, 3, 4)
    np.testing.assert_array_equal(y, groups.max(-1))
    g = np.arange(1.0, 16.0, dtype=np.float32).reshape(5, 3)
    expected = np.where(groups == groups.max(-1, keepdims=True), g[..., None], 0.0)
    np.testing.assert_array_equal(pull(jnp.asarray(g))[0], expected.reshape(5, 12))


def test_two_maxout_pieces_are_relu_and_the_absolute_value():
    z = jnp.linspace(-3, 3, 13)
    f = get_activation("maxout", pieces=2)
    np.testing.assert_array_equal(f(jnp.stack([z, 0 * z], -1))[:, 0], jnp.maximum(z, 0))
    np.testing.assert_array_equal(f(jnp.stack([z, -z], -1))[:, 0], jnp.abs(z))


def test_wrong_names_and_sizes_get_one_clear_line():
    for call, message in [
        (lambda: get_activation("rleu"), "unknown activation 'rleu'"),
        (lambda: get_activation("maxout"), "pieces"),
        (lambda: maxout(jnp.ones((2, 5)), 2), "cannot group 5"),
    ]:
        with pytest.raises(ValueError, match=message):
            call()
