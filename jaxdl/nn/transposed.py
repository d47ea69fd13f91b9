"""A transposed convolution that doubles a map, by sub-pixel: the pixels of each 2×2 block as channels of a convolution.

By its definition it runs over a map that is three quarters zeros, and XLA:CPU spends its time on them. Each pixel of a
block sees four of the sixteen taps, the same four inputs at every block, so all four pixels are one convolution with a
2×2 kernel and four times the channels (Shi et al. 2016, arXiv:1609.05158). The values are those of the definition, the
arithmetic a quarter. Its gradients are those of the convolution that it is the adjoint of, with stride 2.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn

from jaxdl.nn.convolution import convolution

Array = jax.Array
_TAPS = 4


def doubling_convolution(x: Array, kernel: Array) -> Array:
    """Transposed convolution, kernel 4, stride 2, padding 1: y[b, o, e] = Σ_{i, k: o = 2i + k − 1} x[b, i, c] · kernel[k, c, e].

    With p = ⌊o / 2⌋ the pixel o = 2p sees x[p − 1] with kernel[3] and x[p] with kernel[1], the pixel o = 2p + 1 sees
    x[p] with kernel[2] and x[p + 1] with kernel[0]: windows of two, one for each of the two phases.

    It is `torch.nn.ConvTranspose2d(C, E, 4, stride=2, padding=1)` with its weight [C, E, 4, 4] as [4, 4, C, E]. Reverse
    mode works to any order; there is no forward mode, as for `convolution`.

    Args:
      x: [B, H, W, C].
      kernel: [4, 4, C, E].

    Returns:
      [B, 2H, 2W, E].

    Raises:
      ValueError: for arrays of other shapes.
    """
    if x.ndim != 4 or kernel.ndim != 4 or kernel.shape[:3] != (_TAPS, _TAPS, x.shape[-1]):
        raise ValueError(f"needs x [B, H, W, C] and a kernel [4, 4, C, E], got {x.shape} and {kernel.shape}")
    return _double(x, kernel)


@jax.custom_vjp
def _double(x: Array, kernel: Array) -> Array:
    batch, height, width, channels = x.shape
    outputs = kernel.shape[-1]
    # window u, v of phase a, b uses tap 3 − 2u − a, 3 − 2v − b
    phases = jnp.flip(kernel, (0, 1)).reshape(2, 2, 2, 2, channels, outputs).transpose(0, 2, 4, 1, 3, 5)
    y = convolution(x, phases.reshape(2, 2, channels, 4 * outputs), padding=1)
    y = y.reshape(batch, height + 1, width + 1, 2, 2, outputs)
    rows = [y[:, a : a + height, :, a] for a in (0, 1)]
    blocks = jnp.stack([jnp.stack([row[:, :, b : b + width, b] for b in (0, 1)], axis=3) for row in rows], axis=2)
    return blocks.reshape(batch, 2 * height, 2 * width, outputs)


def _forward(x: Array, kernel: Array) -> tuple[Array, tuple[Array, Array]]:
    return _double(x, kernel), (x, kernel)


def _backward(saved: tuple[Array, Array], g: Array) -> tuple[Array, Array]:
    # <double(x, k), g> = <x, halve(g, k')> with k' the kernel with its channels exchanged
    x, kernel = saved

    def halve(turned: Array) -> Array:
        return convolution(g, turned, strides=2, padding=1)

    by_x, pull_back = jax.vjp(halve, jnp.swapaxes(kernel, 2, 3))
    return by_x, jnp.swapaxes(pull_back(x)[0], 2, 3)


_double.defvjp(_forward, _backward)


class DoublingConv(nn.Module):
    """Layer of `doubling_convolution` with a kernel [4, 4, C, features] and, unless a batch norm follows, a bias [features].

    Parameters: 16·C·features + features.

    Attributes:
      features: number of output channels.
      use_bias: False before batch norm, which would take a constant away again.
      dtype: dtype of the computation; None for that of the input and the parameters.
      kernel_init: initialiser of the kernel.
      bias_init: initialiser of the bias.
    """

    features: int
    use_bias: bool = True
    dtype: Any = None
    kernel_init: Callable[..., Array] = nn.initializers.he_normal()
    bias_init: Callable[..., Array] = nn.initializers.zeros_init()

    @nn.compact
    def __call__(self, x: Array) -> Array:
        """Maps x [B, H, W, C] to [B, 2H, 2W, features]."""
        kernel = self.param("kernel", self.kernel_init, (_TAPS, _TAPS, x.shape[-1], self.features), jnp.float32)
        bias = self.param("bias", self.bias_init, (self.features,), jnp.float32) if self.use_bias else None
        x, kernel, bias = nn.dtypes.promote_dtype(x, kernel, bias, dtype=self.dtype)
        y = doubling_convolution(x, kernel)
        return y if bias is None else y + bias
