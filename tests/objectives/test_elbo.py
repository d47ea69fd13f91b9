"""The bound and its parts against closed forms and a model that can be integrated."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxdl.models.vae import VAE
from jaxdl.nn.context import batch_context
from jaxdl.objectives.elbo import kl_to_standard_normal, negative_bound


def test_kl_is_that_of_pytorch_and_zero_for_the_prior():
    torch = pytest.importorskip("torch", reason="the oracle of the KL divergence: pip install -e '.[oracles]'")
    rng = np.random.default_rng(0)
    mean, log_variance = rng.normal(size=(2, 5, 3)).astype(np.float32)
    normal = torch.distributions.Normal
    q = normal(torch.from_numpy(mean), torch.from_numpy(np.exp(0.5 * log_variance)))
    expected = torch.distributions.kl_divergence(q, normal(0.0, 1.0)).sum(-1)
    np.testing.assert_allclose(kl_to_standard_normal(mean, log_variance), expected, rtol=1e-5)
    np.testing.assert_array_equal(kl_to_standard_normal(jnp.zeros((2, 3)), jnp.zeros((2, 3))), 0.0)


def test_reparametrised_gradients_are_those_of_the_closed_form():
    """E_q[z²] = μ² + σ² has the gradients 2μ by μ and σ² by log σ²."""
    noise = jax.random.normal(jax.random.key(0), (400_000,))

    def expectation(mean, log_variance):
        return jnp.square(mean + jnp.exp(0.5 * log_variance) * noise).mean()

    mean, log_variance = 0.7, -0.4
    found = jax.grad(expectation, (0, 1))(mean, log_variance)
    np.testing.assert_allclose(found, (2 * mean, np.exp(log_variance)), rtol=0.01)


def test_the_networks_noise_is_standard_normal_for_each_row_and_none_without_a_key():
    model = VAE(inputs=3, features=(4,), latents=2)
    x = jnp.tile(jnp.array([[1.0, 0.0, 1.0]]), (4000, 1))
    variables = jax.jit(model.init)(jax.random.key(0), x[:1])
    outputs = jax.jit(model.apply)(variables, x, rngs={"noise": jax.random.key(1)})
    drawn = (outputs["latent"] - outputs["mean"]) / jnp.exp(0.5 * outputs["log_variance"])
    np.testing.assert_allclose(drawn.mean(0), 0.0, atol=0.06)
    np.testing.assert_allclose(drawn.std(0), 1.0, atol=0.05)
    still = model.apply(variables, x[:3])
    np.testing.assert_array_equal(still["latent"], still["mean"])
    with batch_context(rows=jnp.arange(3, dtype=jnp.int32) + 5):
        shifted = model.apply(variables, x[:3], rngs={"noise": jax.random.key(1)})
    np.testing.assert_allclose(shifted["latent"], outputs["latent"][5:8], rtol=1e-5)


def test_the_bound_stays_below_the_integrated_likelihood_and_reaches_it_with_the_true_posterior():
    """One latent value, two pixels: log p(x) by quadrature; E[bound] = log p(x) − KL(q || p(z | x))."""
    weights, bias = np.array([1.5, -2.0]), np.array([0.2, -0.3])
    x = np.array([1.0, 0.0])
    grid = np.linspace(-9, 9, 4001)
    step = grid[1] - grid[0]
    logits = grid[:, None] * weights + bias
    log_likelihood = (x * logits - np.logaddexp(0, logits)).sum(axis=1)
    prior = np.exp(-0.5 * grid**2) / np.sqrt(2 * np.pi)
    evidence = np.log((np.exp(log_likelihood) * prior).sum() * step)
    posterior = np.exp(log_likelihood) * prior / np.exp(evidence)
    mean = (posterior * grid).sum() * step
    variance = (posterior * (grid - mean) ** 2).sum() * step
    noise = np.random.default_rng(0).normal(size=200_000)

    def bound(mean, variance):
        z = (mean + np.sqrt(variance) * noise)[:, None]
        shape = (len(noise), 1)
        q = jnp.full(shape, mean, jnp.float32), jnp.full(shape, np.log(variance), jnp.float32)
        logits = jnp.asarray(z * weights + bias, jnp.float32)
        return -float(negative_bound(logits, jnp.tile(jnp.asarray(x, jnp.float32), (len(noise), 1)), *q).mean())

    close, far = bound(mean, variance), bound(0.0, 1.0)
    assert far < close < evidence + 2e-3
    assert close == pytest.approx(evidence, abs=0.02) and far < evidence - 0.2
