"""Regression losses against NumPy, SciPy and PyTorch."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import integrate, special, stats

from jaxdl.objectives.regression import absolute_error, gaussian_nll, mixture_density_nll, squared_error

RNG = np.random.default_rng(0)


def f32(x):
    return jnp.asarray(x, jnp.float32)


def test_squared_and_absolute_error_with_gradients():
    outputs, targets = RNG.normal(size=(4, 2, 3)), RNG.normal(size=(4, 2, 3))
    d = outputs - targets
    np.testing.assert_allclose(squared_error(f32(outputs), f32(targets)), (d**2).sum(axis=(1, 2)), rtol=1e-5)
    np.testing.assert_allclose(absolute_error(f32(outputs), f32(targets)), np.abs(d).sum(axis=(1, 2)), rtol=1e-5)
    gradient = jax.grad(lambda o: squared_error(o, f32(targets)).sum())(f32(outputs))
    np.testing.assert_allclose(gradient, 2 * d, rtol=1e-5)
    gradient = jax.grad(lambda o: absolute_error(o, f32(targets)).sum())(f32(outputs))
    np.testing.assert_allclose(gradient, np.sign(d))
    half = squared_error(jnp.asarray([300.0], jnp.bfloat16), jnp.asarray([0.0], jnp.bfloat16))
    assert half.dtype == jnp.float32 and float(half[0]) == 90_000  # bfloat16 would round the square
    with pytest.raises(ValueError, match="one shape"):
        squared_error(jnp.zeros((4, 1)), jnp.zeros(4))


def test_gaussian_nll_is_scipys():
    mean, log_scale, targets = (RNG.normal(size=(5, 3)) for _ in range(3))
    expected = -stats.norm.logpdf(targets, mean, np.exp(log_scale)).sum(axis=1)
    np.testing.assert_allclose(gaussian_nll(f32(mean), f32(log_scale), f32(targets)), expected, rtol=1e-5)
    shared = gaussian_nll(f32(mean), f32(log_scale[0, 0]), f32(targets))
    expected = -stats.norm.logpdf(targets, mean, np.exp(log_scale[0, 0])).sum(axis=1)
    np.testing.assert_allclose(shared, expected, rtol=1e-5)


def mixture(seed=1, batch=6, components=4, size=2):
    rng = np.random.default_rng(seed)
    shapes = ((batch, components), (batch, components, size), (batch, components), (batch, size))
    return [rng.normal(size=shape) for shape in shapes]


@pytest.mark.parametrize("diagonal", [False, True])
def test_mixture_density_nll_is_scipys(diagonal):
    logits, means, log_scales, targets = mixture()
    if diagonal:
        log_scales = RNG.normal(size=means.shape)
    scales = np.exp(log_scales) if diagonal else np.exp(log_scales)[..., None] * np.ones(2)
    expected = []
    for i in range(len(targets)):
        parts = [stats.multivariate_normal(means[i, k], np.diag(scales[i, k] ** 2)).pdf(targets[i]) for k in range(4)]
        expected.append(-np.log(special.softmax(logits[i]) @ parts))
    found = mixture_density_nll(f32(logits), f32(means), f32(log_scales), f32(targets))
    np.testing.assert_allclose(found, expected, rtol=1e-5)


def test_one_component_is_a_gaussian_and_the_density_integrates_to_one():
    logits, means, log_scales, targets = mixture(components=1)
    single = mixture_density_nll(f32(logits), f32(means), f32(log_scales), f32(targets))
    scales = np.broadcast_to(log_scales[:, 0, None], targets.shape)
    np.testing.assert_allclose(single, gaussian_nll(f32(means[:, 0]), f32(scales), f32(targets)), rtol=1e-5)
    logits, means, log_scales, _ = mixture(batch=1, size=1)
    grid = np.linspace(-40, 40, 40_001)

    def wide(x):
        return jnp.broadcast_to(f32(x), (len(grid), *x.shape[1:]))

    nll = mixture_density_nll(wide(logits), wide(means), wide(log_scales), f32(grid[:, None]))
    assert integrate.simpson(np.exp(-np.asarray(nll, np.float64)), x=grid) == pytest.approx(1, abs=1e-4)


def test_mixture_far_from_every_component_keeps_value_and_gradient():
    """exp(-z^2 / 2) is zero in float32 here; the loss is still z^2 / 2 and pulls the nearest mean."""
    means = f32([[[0.0], [100.0]]])
    zeros = jnp.zeros((1, 2))
    value, pull = jax.value_and_grad(lambda m: mixture_density_nll(zeros, m, zeros, f32([[1e3]])).sum())(means)
    assert float(value) == pytest.approx(900**2 / 2 + np.log(2) + 0.5 * np.log(2 * np.pi), rel=1e-6)
    np.testing.assert_allclose(pull, [[[0.0], [-900.0]]], rtol=1e-6)


def test_mixture_learns_two_branches_that_one_gaussian_cannot():
    """Targets +-1 with equal chance: the best Gaussian has nll log(2 pi e) / 2 = 1.42, the mixture goes far below."""
    targets = f32([[1.0], [-1.0]])
    best = gaussian_nll(jnp.zeros((2, 1)), jnp.zeros((2, 1)), targets).mean()
    assert float(best) == pytest.approx(0.5 * np.log(2 * np.pi * np.e), rel=1e-6)
    means = jnp.broadcast_to(f32([[1.0], [-1.0]]), (2, 2, 1))
    two = mixture_density_nll(jnp.zeros((2, 2)), means, jnp.full((2, 2), -3.0), targets).mean()
    assert float(two) == pytest.approx(np.log(2) - 3 + 0.5 * np.log(2 * np.pi), rel=1e-5)


def test_wrong_shapes_are_refused():
    with pytest.raises(ValueError, match=r"log_scale of shape \(4, 1\) does not fit"):  # would compare every pair
        gaussian_nll(jnp.zeros(4), jnp.zeros((4, 1)), jnp.zeros(4))
    logits, means, log_scales, targets = map(f32, mixture())
    with pytest.raises(ValueError, match="logits must be"):
        mixture_density_nll(logits[:, :2], means, log_scales, targets)
    with pytest.raises(ValueError, match="log_scales must be"):
        mixture_density_nll(logits, means, log_scales[:, :1], targets)
