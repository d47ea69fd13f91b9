"""Pooling over windows and over whole maps."""

import functools
import itertools
import math
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from jaxdl.nn.convolution import Padding, Pads, explicit_padding, per_axis
from jaxdl.nn.unfolding import taps
from jaxdl.target import target_platform

Array = jax.Array
Window = int | Sequence[int]

# each tap of a window is one term of the gradient
_FEW_TAPS = 16


def max_pool(x: Array, window: Window, strides: Window | None = None, padding: Padding = "VALID") -> Array:
    """The largest value of each window of x [B, *S, C]; [B, *S', C], sizes as for `convolution`.

    Padding never wins. Where windows do not overlap, the gradient is shared by equal maxima.

    Args:
      x: [B, *S, C] with 1 to 3 spatial axes.
      window: size of the window, one for all axes or one each.
      strides: step between windows; that of the window by default.
      padding: as for `convolution`.

    Raises:
      ValueError: for an unknown padding, wrong numbers of axes, a window that does not fit into the maps, or padding that
        a whole window would fit into.
    """
    window, strides, pads = _geometry(x, window, strides, padding)
    if _is_whole(window, strides, pads):
        # maxima of slices: their gradients are faster on CPU than those of reduce_window
        for axis, (taps, size) in enumerate(zip(window, x.shape[1:-1], strict=True), start=1):
            stop = size // taps * taps
            parts = [lax.slice_in_dim(x, k, stop, taps, axis) for k in range(taps)]
            x = functools.reduce(jnp.maximum, parts)
        return x
    if target_platform() == "gpu" and math.prod(window) <= _FEW_TAPS and x.size > 0:
        return _max_of_taps(x, window, strides, pads)
    # a constant, not a traced value: only so does JAX see the maximum, which has a gradient
    return lax.reduce_window(x, _lowest(x.dtype), lax.max, *_reach(window, strides, pads))


def _lowest(dtype: Any) -> np.ndarray:
    return np.asarray(-np.inf if jnp.issubdtype(dtype, jnp.floating) else jnp.iinfo(dtype).min, dtype)


@functools.partial(jax.custom_vjp, nondiff_argnums=(1, 2, 3))
def _max_of_taps(x: Array, window: tuple[int, ...], strides: tuple[int, ...], pads: Pads) -> Array:
    """The maximum over windows that overlap, with a gradient of elementwise operations: XLA:GPU makes a scatter with one
    atomic addition a window of that of `reduce_window`. Of equal maxima the first gets the gradient, as there."""
    return _largest_tap(x, window, strides, pads)[0]


def _largest_tap(x: Array, window: tuple[int, ...], strides: tuple[int, ...], pads: Pads) -> tuple[Array, Array]:
    """The maxima, and the number of the tap of each window that holds it, uint8."""
    padded = lax.pad(x, _lowest(x.dtype), [(0, 0, 0), *((lo, hi, 0) for lo, hi in pads), (0, 0, 0)])
    positions = tuple((n - w) // s + 1 for n, w, s in zip(padded.shape[1:-1], window, strides, strict=True))
    first, *others = taps(padded, window, positions, strides, (1,) * len(window))
    best, place = first, jnp.zeros(first.shape, jnp.uint8)
    for number, part in enumerate(others, 1):
        place = jnp.where(part > best, jnp.uint8(number), place)
        best = jnp.maximum(part, best)
    return best, place


def _max_forward(x, window, strides, pads):
    best, place = _largest_tap(x, window, strides, pads)
    return best, (place, x)


def _max_backward(window, strides, pads, kept, g):
    place, x = kept
    sizes = [n + lo + hi for n, (lo, hi) in zip(x.shape[1:-1], pads, strict=True)]
    total = jnp.zeros((), jnp.float32)
    for number, first in enumerate(itertools.product(*map(range, window))):
        spread = [
            (f, size - f - (n - 1) * s - 1, s - 1)
            for f, size, n, s in zip(first, sizes, g.shape[1:-1], strides, strict=True)
        ]
        part = jnp.where(place == number, g, jnp.zeros((), g.dtype)).astype(jnp.float32)
        total = total + lax.pad(part, jnp.float32(0), [(0, 0, 0), *spread, (0, 0, 0)])
    inner = tuple(slice(lo, lo + n) for n, (lo, _) in zip(x.shape[1:-1], pads, strict=True))
    return (total[(slice(None), *inner)].astype(x.dtype),)


_max_of_taps.defvjp(_max_forward, _max_backward)


def avg_pool(x: Array, window: Window, strides: Window | None = None, padding: Padding = "VALID") -> Array:
    """The mean of each window of x [B, *S, C], padding left out; arguments and shapes as for `max_pool`.

    Raises:
      ValueError: as `max_pool`.
    """
    window, strides, pads = _geometry(x, window, strides, padding)
    if _is_whole(window, strides, pads):
        return _windows(x, window).mean(tuple(range(2, 2 * len(window) + 1, 2)))
    zero = np.zeros((), x.dtype)
    total = lax.reduce_window(x, zero, lax.add, *_reach(window, strides, pads))
    if all(pad == (0, 0) for pad in pads):
        return total / math.prod(window)
    counted = jnp.ones((1, *x.shape[1:-1], 1), x.dtype)
    return total / lax.reduce_window(counted, zero, lax.add, *_reach(window, strides, pads))


def lp_pool(x: Array, window: Window, p: float, strides: Window | None = None, padding: Padding = "VALID") -> Array:
    """(Σ |x|^p)^(1/p) over each window of x [B, *S, C]; p = 1 adds, p → ∞ takes the maximum of |x|.

    The gradient at an all-zero window is 0.

    Raises:
      ValueError: for p < 1.
    """
    if p < 1:
        raise ValueError(f"lp_pool needs p >= 1, got {p}")
    window, strides, pads = _geometry(x, window, strides, padding)
    powers = jnp.abs(x) ** p
    total = lax.reduce_window(powers, np.zeros((), x.dtype), lax.add, *_reach(window, strides, pads))
    positive = total > 0
    return jnp.where(positive, jnp.where(positive, total, 1.0) ** (1.0 / p), 0.0)


def global_avg_pool(x: Array) -> Array:
    """The mean of each map: [B, *S, C] to [B, C]."""
    return x.mean(tuple(range(1, x.ndim - 1)))


def global_max_pool(x: Array) -> Array:
    """The largest value of each map: [B, *S, C] to [B, C]."""
    return x.max(tuple(range(1, x.ndim - 1)))


Geometry = tuple[tuple[int, ...], tuple[int, ...], Pads]


def _geometry(x: Array, window: Window, strides: Window | None, padding: Padding) -> Geometry:
    rank = x.ndim - 2
    window = per_axis(window, rank, "window")
    strides = window if strides is None else per_axis(strides, rank, "strides")
    pads = explicit_padding(padding, x.shape[1:-1], window, strides, (1,) * rank)
    if any(n + lo + hi < w for n, (lo, hi), w in zip(x.shape[1:-1], pads, window, strict=True)):
        raise ValueError(
            f"a window of {window} does not fit into maps of {x.shape[1:-1]}; use padding or a smaller one"
        )
    if any(max(pad) >= w for pad, w in zip(pads, window, strict=True)):
        raise ValueError(f"padding of {pads} leaves windows of {window} without a value; use less padding")
    return window, strides, pads


def _is_whole(window: Sequence[int], strides: Sequence[int], pads: Pads) -> bool:
    return tuple(window) == tuple(strides) and all(pad == (0, 0) for pad in pads)


def _windows(x: Array, window: Sequence[int]) -> Array:
    sizes = [n // w for n, w in zip(x.shape[1:-1], window, strict=True)]
    x = x[(slice(None), *(slice(n * w) for n, w in zip(sizes, window, strict=True)))]
    split = [m for pair in zip(sizes, window, strict=True) for m in pair]
    return x.reshape(x.shape[0], *split, x.shape[-1])


def _reach(window: Sequence[int], strides: Sequence[int], pads: Pads) -> tuple:
    return (1, *window, 1), (1, *strides, 1), ((0, 0), *pads, (0, 0))
