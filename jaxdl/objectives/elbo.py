"""The evidence lower bound of a variational autoencoder (Kingma & Welling 2014), one value per example, in nats.

    log p(x) >= E_q[log p(x | z)] − KL(q(z | x) || p(z))

Shapes: `B` batch, `L` latent values, `D` pixels.
"""

import jax
import jax.numpy as jnp

from jaxdl.objectives.classification import bernoulli_nll

Array = jax.Array


def kl_to_standard_normal(mean: Array, log_variance: Array) -> Array:
    """KL(N(μ, diag σ²) || N(0, I)) = ½ Σ (μ² + σ² − 1 − log σ²) (appendix B).

    Args:
      mean: [B, L].
      log_variance: log σ², [B, L].

    Returns:
      float32 [B].
    """
    mean, log_variance = mean.astype(jnp.float32), log_variance.astype(jnp.float32)
    # expm1: near σ = 1 the difference of exponential and one would lose its digits
    return 0.5 * (jnp.square(mean) + jnp.expm1(log_variance) - log_variance).sum(axis=-1)


def negative_bound(logits: Array, x: Array, mean: Array, log_variance: Array) -> Array:
    """−log p(x | z) + KL, the one-sample estimate of the negative bound [B] with pixels that are Bernoulli.

    Args:
      logits: of the pixels given one z ~ q(z | x), [B, D].
      x: [B, D], 0 or 1.
      mean: of q, [B, L].
      log_variance: of q, [B, L].

    Raises:
      ValueError: logits and x have different shapes.
    """
    return bernoulli_nll(logits, x) + kl_to_standard_normal(mean, log_variance)
