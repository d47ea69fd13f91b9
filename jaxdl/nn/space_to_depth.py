"""A strided convolution of few channels as one of stride 1 over blocks of pixels: the first layer of an ImageNet network.

An accelerator multiplies matrices whose inner sides are channels; three of them leave most of its units idle. Blocks of
s x s pixels are s²·C channels of an image s times smaller, and a convolution of stride s is one of stride 1 over these
(Ying et al. 2018: Image classification at supercomputer scale, arXiv:1811.06992, "space-to-depth").
"""

from collections.abc import Sequence

import jax
import jax.numpy as jnp

from jaxdl.nn.convolution import Conv, convolution
from jaxdl.target import target_platform

Array = jax.Array


def blocks(x: Array, size: int) -> Array:
    """Blocks of size x size pixels as channels: [B, H, W, C] to [B, H / size, W / size, size² C]."""
    batch, height, width, channels = x.shape
    x = x.reshape(batch, height // size, size, width // size, size, channels)
    return x.transpose(0, 1, 3, 2, 4, 5).reshape(batch, height // size, width // size, -1)


def blockwise_convolution(x: Array, kernel: Array, stride: int, padding: int) -> Array:
    """`convolution(x, kernel, strides=stride, padding=padding)` over blocks of stride x stride pixels.

    With y[i] = Σ_k x[s i + k - p] w[k], p = s q - r and 0 ≤ r < s, the kernel with r zeros before it has whole blocks of
    taps: y[i] = Σ_{a, b} x[s (i + a - q) + b] w[s a + b - r].

    Args:
      x: [B, H, W, C], H and W multiples of the stride.
      kernel: [K, K, C, O].
      stride: s.
      padding: p, on every side.

    Returns:
      [B, H', W', O], H' = ⌊(H + 2p − K) / s⌋ + 1 and W' likewise.
    """
    size = kernel.shape[0]
    before = -(-padding // stride)
    front = stride * before - padding
    taps = -(-(front + size) // stride)
    rest = (front, stride * taps - size - front)
    kernel = blocks(jnp.pad(kernel, (rest, rest, (0, 0), (0, 0))).transpose(3, 0, 1, 2), stride).transpose(1, 2, 3, 0)
    pads = []
    for n in x.shape[1:3]:
        outputs = (n + 2 * padding - size) // stride + 1
        pads.append((before, outputs + taps - 1 - n // stride - before))
    return convolution(blocks(x, stride), kernel, padding=pads)


class StemConv(Conv):
    """`Conv` with a square kernel, one stride and one padding; on accelerators over blocks of pixels, where they fit."""

    def _convolve(self, x: Array, kernel: Array) -> Array:
        stride, padding = self.strides, self.padding
        square = kernel.ndim == 4 and kernel.shape[0] == kernel.shape[1]
        if not square or isinstance(stride, Sequence) or not isinstance(padding, int):
            raise ValueError("StemConv has a square kernel, and one stride and one padding for both axes")
        if (self.dilation, self.groups) != (1, 1):
            raise ValueError("StemConv has neither dilation nor groups: use Conv")
        if target_platform() == "cpu" or any(n % stride for n in x.shape[1:3]):
            return super()._convolve(x, kernel)
        return blockwise_convolution(x, kernel, stride, padding)
