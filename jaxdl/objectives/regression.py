"""Losses of regression, one value per example; an example's elements are summed.

Shapes: `B` batch, `D` target elements, `K` mixture components, `...` any axes of one example. Computed in float32.
"""

import jax
import jax.numpy as jnp

Array = jax.Array

_LOG_2_PI = 1.8378770664093453


def squared_error(outputs: Array, targets: Array) -> Array:
    """sum_d (output_d - target_d)^2; its gradient by the outputs is 2 (output - target).

    Args:
      outputs: [B, ...].
      targets: [B, ...] of the same shape.

    Returns:
      float32 [B].

    Raises:
      ValueError: the shapes differ (broadcasting [B] against [B, 1] would silently compare every pair).
    """
    return _summed(jnp.square(_difference(outputs, targets)))


def absolute_error(outputs: Array, targets: Array) -> Array:
    """sum_d |output_d - target_d|; shapes and errors as in `squared_error`."""
    return _summed(jnp.abs(_difference(outputs, targets)))


def gaussian_nll(mean: Array, log_scale: Array, targets: Array) -> Array:
    """-log N(target; mean, diag(scale^2)), scale = exp(log_scale): sum_d z^2 / 2 + log_scale + log(2 pi) / 2.

    Args:
      mean: [B, ...].
      log_scale: log of the standard deviation, [B, ...] or broadcastable to it.
      targets: [B, ...].

    Returns:
      float32 [B], in nats; a density, so it may be negative.

    Raises:
      ValueError: mean and targets have different shapes, or log_scale cannot be broadcast to them.
    """
    if jnp.broadcast_shapes(log_scale.shape, mean.shape) != mean.shape:
        raise ValueError(f"log_scale of shape {log_scale.shape} does not fit outputs of shape {mean.shape}")
    log_scale = log_scale.astype(jnp.float32)
    z = _difference(mean, targets) * jnp.exp(-log_scale)
    return _summed(0.5 * jnp.square(z) + log_scale + 0.5 * _LOG_2_PI)


def mixture_density_nll(logits: Array, means: Array, log_scales: Array, targets: Array) -> Array:
    """-log sum_k pi_k N(target; mean_k, diag(scale_k^2)), pi = softmax(logits), scale = exp(log_scale).

    Source: Bishop, Mixture density networks, 1994, eq. 22-29. The sum over components is a logsumexp, so that targets
    far from every component still have a finite loss and a gradient.

    Args:
      logits: [B, K] mixing logits.
      means: [B, K, D].
      log_scales: [B, K] (one scale per component, Bishop's case) or [B, K, D].
      targets: [B, D].

    Returns:
      float32 [B], in nats.

    Raises:
      ValueError: shapes do not fit.
    """
    batch, components, size = means.shape
    if logits.shape != (batch, components) or targets.shape != (batch, size):
        raise ValueError(
            f"means {means.shape} are [B, K, D]; logits must be [B, K] and targets [B, D], "
            f"got {logits.shape} and {targets.shape}"
        )
    if log_scales.shape not in ((batch, components), (batch, components, size)):
        raise ValueError(f"log_scales must be [B, K] or [B, K, D] for means {means.shape}; got {log_scales.shape}")
    log_scales = log_scales.astype(jnp.float32)
    if log_scales.ndim == 2:
        log_scales = log_scales[..., None]
    z = (targets[:, None, :].astype(jnp.float32) - means.astype(jnp.float32)) * jnp.exp(-log_scales)
    log_density = -(0.5 * jnp.square(z) + log_scales + 0.5 * _LOG_2_PI).sum(axis=-1)
    return -jax.nn.logsumexp(jax.nn.log_softmax(logits.astype(jnp.float32)) + log_density, axis=-1)


def _difference(outputs: Array, targets: Array) -> Array:
    if outputs.shape != targets.shape:
        raise ValueError(f"outputs {outputs.shape} and targets {targets.shape} must have one shape")
    return outputs.astype(jnp.float32) - targets.astype(jnp.float32)


def _summed(values: Array) -> Array:
    return values.reshape(values.shape[0], -1).sum(axis=-1)
