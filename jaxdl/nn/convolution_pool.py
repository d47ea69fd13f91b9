"""Convolution and maximum over windows in one: on CPU a single matrix product whose columns are window positions.

XLA:CPU convolves few channels slowly (jax 0.10.2, Zen 5, one core: 60 GFLOP/s with 6 to 16 channels, 240 in a matrix
product of the same size). So both convolutions of LeNet-5 are products of tiles. An output tile of T×T positions, all
its channels side by side, is a linear function of the input under it: ⌈(T + k − 1) / T⌉² input tiles of T×T pixels.
The product does (⌈(T + k − 1) / T⌉ · T / k)² times the arithmetic, 2.6 for T = 4 and 1.4 for T = 2 with k = 5, four
times as fast, on arrays that unfold only as much. The pooled value is then the largest of a few groups of columns that
lie in one row. Forward and backward pass of both layers with 128 images: 4.1 ms of one core against 9.0.

CUDA takes it too: with many seeds in one program, a convolution would be one of as many groups, and cuDNN has no fast
kernel for these.
"""

import functools
import math
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from jaxdl.nn.convolution import Conv, Pads, convolution, explicit_padding
from jaxdl.nn.pooling import max_pool
from jaxdl.target import ANY, target_platform

Array = jax.Array

# From this many channels on one side XLA:CPU has a fast convolution.
_FAST_CHANNELS = 32
# A wider product gains nothing more, while the wasted arithmetic grows with the tile.
_MOST_COLUMNS = 128
# The product is about four times as fast; beyond this share of wasted arithmetic nothing is left of it.
_MOST_WASTE = 3.0
# elements of the unfolded input, 256 MB
_LARGEST_UNFOLDED = 1 << 26


def convolution_max_pool(x: Array, kernel: Array, *, window: int = 2, padding: Any = "SAME") -> Array:
    """`max_pool(convolution(x, kernel, padding=padding), window)`: the largest value of each window, no overlap.

    B batch, S spatial axes, C input channels, O output channels, S' = ⌊(output size of the convolution) / window⌋. The
    gradient is shared by equal maxima. Reverse mode works to any order; do not count on forward mode.

    Args:
      x: [B, *S, C].
      kernel: [*K, C, O].
      window: size of the windows along each spatial axis, and the step between them.
      padding: of the convolution, see there.

    Returns:
      [B, *S', O].

    Raises:
      ValueError: as `convolution` and `max_pool` do.
    """

    def plain(x: Array, kernel: Array) -> Array:
        return max_pool(convolution(x, kernel, padding=padding), window)

    if target_platform() == ANY:
        return plain(x, kernel)
    shape = jax.eval_shape(plain, x, kernel).shape
    tile = _tile_size(kernel.shape, window) if x.ndim == 4 else 0
    if not tile or math.prod(shape) == 0 or x.size == 0:
        return plain(x, kernel)
    reach = _reach(kernel.shape, tile)
    unfolded = shape[0] * math.prod(-(-n * window // tile) * r * tile for n, r in zip(shape[1:3], reach, strict=True))
    if unfolded * x.shape[-1] > _LARGEST_UNFOLDED:
        return plain(x, kernel)
    pads = explicit_padding(padding, x.shape[1:-1], kernel.shape[:-2], (1, 1), (1, 1))
    tiled = functools.partial(_in_tiles, window=window, tile=tile, pads=pads, pooled=shape[1:3])
    return lax.platform_dependent(x, kernel, cpu=tiled, cuda=tiled, default=plain)


def _tile_size(kernel: tuple[int, ...], window: int) -> int:
    """The largest multiple of the window that is worth it; 0 if none is."""
    if max(kernel[-2:]) >= _FAST_CHANNELS:
        return 0
    best = 0
    for tile in range(window, math.isqrt(_MOST_COLUMNS // kernel[-1]) + 1, window):
        waste = math.prod(r * tile / k for r, k in zip(_reach(kernel, tile), kernel[:2], strict=True))
        if waste <= _MOST_WASTE:
            best = tile
    return best


def _reach(kernel: tuple[int, ...], tile: int) -> tuple[int, ...]:
    """How many input tiles along each axis an output tile sees."""
    return tuple(-(-(tile + k - 1) // tile) for k in kernel[:2])


def _in_tiles(x: Array, kernel: Array, *, window: int, tile: int, pads: Pads, pooled: tuple[int, int]) -> Array:
    """x [B, H, W, C] convolved with a kernel [kh, kw, C, O] and pooled to [B, *pooled, O], as one matrix product."""
    reach, inner, outputs = _reach(kernel.shape, tile), tile // window, kernel.shape[-1]
    counts = [-(-n * window // tile) for n in pooled]
    sizes = [(n + r - 1) * tile for n, r in zip(counts, reach, strict=True)]
    sides = [(lo, size - n - lo, 0) for size, n, (lo, _) in zip(sizes, x.shape[1:3], pads, strict=True)]
    x = lax.pad(x, jnp.zeros((), x.dtype), [(0, 0, 0), *sides, (0, 0, 0)])
    tiles = x.reshape(x.shape[0], sizes[0] // tile, tile, sizes[1] // tile, tile, -1).transpose(0, 1, 3, 2, 4, 5)
    tiles = tiles.reshape(*tiles.shape[:3], -1)
    seen = [tiles[:, i : i + counts[0], j : j + counts[1]] for i in range(reach[0]) for j in range(reach[1])]
    columns = jnp.concatenate(seen, axis=-1)
    matrix = _matrix(kernel, window, tile, reach)
    y = _largest(columns.reshape(-1, matrix.shape[0]) @ matrix, window * window)
    y = y.reshape(x.shape[0], *counts, inner, inner, outputs).transpose(0, 1, 3, 2, 4, 5)
    return y.reshape(x.shape[0], counts[0] * inner, counts[1] * inner, outputs)[:, : pooled[0], : pooled[1]]


def _matrix(kernel: Array, window: int, tile: int, reach: tuple[int, ...]) -> Array:
    """The kernel [kh, kw, C, O] as the linear map from the tiles that an output tile sees to its values.

    Rows: which tile, then position in it, then input channel. Columns: position in the window, then which window of the
    tile, then output channel.
    """
    (high, wide), (channels, outputs), inner = kernel.shape[:2], kernel.shape[2:], tile // window
    rest = ((0, 0),) * 2
    down = [jnp.pad(kernel, ((i, reach[0] * tile - high - i), (0, 0), *rest)) for i in range(tile)]
    across = jnp.stack(down, axis=-2)
    both = [jnp.pad(across, ((0, 0), (j, reach[1] * tile - wide - j), *rest, (0, 0))) for j in range(tile)]
    split = (reach[0], tile, reach[1], tile, channels, inner, window, inner, window, outputs)
    matrix = jnp.stack(both, axis=-2).reshape(split).transpose(0, 2, 1, 3, 4, 6, 8, 5, 7, 9)
    return matrix.reshape(-1, tile * tile * outputs)


@functools.partial(jax.custom_vjp, nondiff_argnums=(1,))
def _largest(y: Array, groups: int) -> Array:
    """The largest of each column's counterparts in `groups` equal groups of columns: y [N, groups·Q] to [N, Q]."""
    return functools.reduce(jnp.maximum, jnp.split(y, groups, axis=-1))


def _largest_forward(y: Array, groups: int) -> tuple[Array, tuple[Array, Array]]:
    largest = _largest(y, groups)
    return largest, (y, largest)


# Of the forms tried for 6272 x 96 this is the fastest: 0.4 ms; the gradient of `jnp.maximum` needs 1.6.
def _largest_backward(groups: int, saved: tuple[Array, Array], g: Array) -> tuple[Array]:
    y, largest = saved
    hits = [part == largest for part in jnp.split(y, groups, axis=-1)]
    share = g / functools.reduce(jnp.add, [hit.astype(g.dtype) for hit in hits])
    return (jnp.concatenate([jnp.where(hit, share, 0.0) for hit in hits], axis=-1),)


_largest.defvjp(_largest_forward, _largest_backward)


class ConvMaxPool(Conv):
    """`Conv` with stride 1 followed by the maximum over windows that do not overlap; parameters as those of `Conv`.

    The bias is added last, to fewer values: the maximum commutes with it.

    Attributes:
      window: size of the windows along each spatial axis.
    """

    window: int = 2

    def _convolve(self, x: Array, kernel: Array) -> Array:
        if (self.strides, self.dilation, self.groups) != (1, 1, 1):
            raise ValueError("ConvMaxPool has no strides, dilation or groups: use Conv and max_pool")
        return convolution_max_pool(x, kernel, window=self.window, padding=self.padding)
