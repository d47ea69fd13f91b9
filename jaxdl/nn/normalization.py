"""Batch normalisation that knows of padding and of other devices; layer normalisation that is fast on CPU."""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn
from jax import lax

from jaxdl.nn.context import current_batch
from jaxdl.target import target_platform

Array = jax.Array


class BatchNorm(nn.Module):
    """y = scale · (x − E[x]) / √(Var[x] + ε) + bias for each channel; Ioffe and Szegedy 2015.

    In training the moments are those of the batch: over all axes but the last, without the rows that the current
    `batch_context` masks, averaged over its pmap axis. Otherwise they are the running ones of collection
    "batch_stats", r ← momentum · r + (1 − momentum) · moment. Both use the biased variance. Moments are computed in
    float32 in one pass, shifted by the running mean against cancellation (Chan, Golub and LeVeque 1983).

    Attributes:
      momentum: weight of the old running moments, in [0, 1).
      epsilon: added to the variance.
      use_scale, use_bias: whether to learn scale and bias.
      scale_init: initialiser of the scale; zeros make a residual block the identity.
      dtype: dtype of the output; None for that of the input.
    """

    momentum: float = 0.9
    epsilon: float = 1e-5
    use_scale: bool = True
    use_bias: bool = True
    scale_init: Callable[..., Array] = nn.initializers.ones_init()
    dtype: Any = None

    @nn.compact
    def __call__(self, x: Array, train: bool) -> Array:
        """Normalises x [B, ..., C]; with `train` it also updates the running moments if they are mutable."""
        channels = x.shape[-1:]
        mean = self.variable("batch_stats", "mean", jnp.zeros, channels, jnp.float32)
        variance = self.variable("batch_stats", "var", jnp.ones, channels, jnp.float32)
        if train:
            batch_mean, batch_variance = batch_moments(x, mean.value)
            if not self.is_initializing() and self.is_mutable_collection("batch_stats"):
                mean.value = self.momentum * mean.value + (1.0 - self.momentum) * batch_mean
                variance.value = self.momentum * variance.value + (1.0 - self.momentum) * batch_variance
        else:
            batch_mean, batch_variance = mean.value, variance.value
        factor = lax.rsqrt(batch_variance + self.epsilon)
        if self.use_scale:
            factor = factor * self.param("scale", self.scale_init, channels, jnp.float32)
        offset = -batch_mean * factor
        if self.use_bias:
            offset = offset + self.param("bias", nn.initializers.zeros_init(), channels, jnp.float32)
        y = x.astype(jnp.float32) * factor + offset
        return y.astype(x.dtype if self.dtype is None else self.dtype)


def batch_moments(x: Array, shift: Array) -> tuple[Array, Array]:
    """Mean and biased variance of each channel over the batch that `batch_context` describes.

    Args:
      x: [B, ..., C].
      shift: [C], a guess of the mean; the nearer, the less is lost to rounding.

    Returns:
      mean [C] and variance [C], float32, the same on all devices of the context's axis.
    """
    batch = current_batch()
    shift = lax.stop_gradient(shift)
    centred = x.astype(jnp.float32) - shift
    axes = tuple(range(x.ndim - 1))
    count = jnp.asarray(float(x.size // x.shape[-1]), jnp.float32)
    if batch.mask is not None:
        mask = batch.mask.reshape(-1, *(1,) * (x.ndim - 1))
        # where, not multiply: padding may hold NaN
        centred = jnp.where(mask > 0, centred, 0.0)
        count = batch.mask.astype(jnp.float32).sum() * (x.size // (x.shape[0] * x.shape[-1]))
    totals = (centred.sum(axes), jnp.square(centred).sum(axes), count)
    if batch.axis is not None:
        totals = lax.pmean(totals, batch.axis)
    first, second, count = totals
    count = jnp.maximum(count, 1e-6)
    mean = first / count
    return mean + shift, jnp.maximum(second / count - jnp.square(mean), 0.0)


class LayerNorm(nn.Module):
    """y = scale · (x − E[x]) / √(Var[x] + ε) + bias for each position, over its channels; Ba, Kiros and Hinton 2016.

    Moments and gradient are computed in float32. Do not count on forward mode (`jax.jvp`): it has its own gradient.

    Attributes:
      epsilon: added to the variance.
      use_bias: whether to learn a bias.
      dtype: dtype of the output; None for that of the input.
    """

    epsilon: float = 1e-5
    use_bias: bool = True
    dtype: Any = None

    @nn.compact
    def __call__(self, x: Array) -> Array:
        """Normalises x [..., C]."""
        scale = self.param("scale", nn.initializers.ones_init(), x.shape[-1:], jnp.float32)
        y = layer_norm(x.astype(jnp.float32), scale, self.epsilon)
        if self.use_bias:
            y = y + self.param("bias", nn.initializers.zeros_init(), x.shape[-1:], jnp.float32)
        return y.astype(x.dtype if self.dtype is None else self.dtype)


@functools.partial(jax.custom_vjp, nondiff_argnums=(2,))
def layer_norm(x: Array, scale: Array, epsilon: float) -> Array:
    """scale [C] · (x − E[x]) / √(Var[x] + ε) over the last axis of x [..., C] float32."""
    return _layer_norm_forward(x, scale, epsilon)[0]


# On CPU means over channels are products with a vector: XLA:CPU would compute a reduction anew for every element that uses
# it (2.5 times the whole step of a small Transformer, jax 0.10.2). Accelerators fuse reductions, but no products.
def _mean_over_channels(x: Array) -> Array:
    if target_platform() != "cpu":
        return x.mean(-1, keepdims=True)
    return x @ jnp.full((x.shape[-1], 1), 1.0 / x.shape[-1], jnp.float32)


def _layer_norm_forward(x, scale, epsilon):
    mean = _mean_over_channels(x)
    centred = x - mean
    factor = lax.rsqrt(_mean_over_channels(jnp.square(centred)) + epsilon)
    normal = centred * factor
    # an accelerator reads the input again, which is there in half as many bytes, sooner than it keeps another array
    kept = normal if target_platform() == "cpu" else (x, mean)
    return normal * scale, (kept, factor, scale)


def _layer_norm_backward(epsilon, kept, gradient):
    normal, factor, scale = kept
    apart = normal
    if isinstance(normal, tuple):
        x, mean = normal
        normal = (x - mean) * factor
        # computed twice rather than written out in float32 for the sum over rows
        centre, width = lax.optimization_barrier((mean, factor))
        apart = (x - centre) * width
    rows = (gradient * apart).reshape(-1, gradient.shape[-1])
    dscale = (jnp.ones((1, len(rows))) @ rows)[0] if target_platform() == "cpu" else rows.sum(0)
    product, scaled = gradient * normal, gradient * scale
    dx = factor * (scaled - _mean_over_channels(scaled) - normal * _mean_over_channels(product * scale))
    return dx, dscale


layer_norm.defvjp(_layer_norm_forward, _layer_norm_backward)
