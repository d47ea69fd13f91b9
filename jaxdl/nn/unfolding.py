"""Unfolding for the gradients of convolutions: windows side by side as channels, so that a gradient is a matrix product.

Shapes: B batch, S spatial axes, W the last of them, C channels of the input, O of the output.
"""

import functools
import itertools
from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from jaxdl.nn.stored import stored

Array = jax.Array
Pads = tuple[tuple[int, int], ...]
Ints = tuple[int, ...]


def taps(padded: Array, size: Ints, positions: Ints, strides: Ints, dilation: Ints) -> Iterator[Array]:
    """What each tap of a window sees at all positions: [B, *S', C] for each, the last axis of the window fastest.

    Args:
      padded: [B, *S, C], no window of which sticks out.
      size: taps along each axis.
      positions: S', how many windows there are along each axis.
      strides: steps between windows.
      dilation: steps between taps.
    """
    for place in itertools.product(*map(range, size)):
        first = [tap * step for tap, step in zip(place, dilation, strict=True)]
        last = [lo + (n - 1) * step + 1 for lo, n, step in zip(first, positions, strides, strict=True)]
        begin, end = (0, *first, 0), (padded.shape[0], *last, padded.shape[-1])
        yield lax.slice(padded, begin, end, (1, *strides, 1))


def number_of_parts(batch: int, least: int) -> int:
    """The smallest divisor of `batch` from `least` on and below four times as many; 1 if there is none."""
    return next((n for n in range(least, 4 * least) if batch % n == 0), 1)


def in_parts(
    function: Callable[[Array, Array], tuple[Any, Array]], x: Array, g: Array, least: int
) -> tuple[Any, Array]:
    """`function` of equal parts of a batch, computed part after part: its rows side by side, and the sum of its totals.

    Args:
      function: (x [b, ...], g [b, ...]) -> (rows [b, ...] or None, total), where the total of the whole batch is the sum
        of those of the parts.
      x, g: [B, ...].
      least: see `number_of_parts`.

    Returns:
      rows [B, ...] or None, total.
    """
    batch = x.shape[0]
    count = number_of_parts(batch, least)
    if count == 1:
        return function(x, g)
    size = batch // count

    # a part is every count-th row, so that the rows of a sharded batch stay where they are if the devices divide `size`
    def apart(array: Array) -> Array:
        return array.reshape(size, count, *array.shape[1:])

    def part(i: Array, array: Array) -> Array:
        # a copy: the loops that unfold would look every element up through `i`; of the array as it is, because what
        # makes it would be computed once more for another shape of it
        return stored(lambda array: lax.dynamic_index_in_dim(apart(array), i, 1, keepdims=False), array)

    def body(i: Array, carry: tuple[Any, Array]) -> tuple[Any, Array]:
        rows, total = function(part(i, x), part(i, g))
        place = functools.partial(lax.dynamic_update_index_in_dim, index=i, axis=1)
        return jax.tree.map(place, carry[0], rows), carry[1] + total.astype(carry[1].dtype)

    rows, total = jax.eval_shape(function, x[:size], g[:size])
    whole = jax.tree.map(lambda one: jnp.zeros((size, count, *one.shape[1:]), one.dtype), rows)
    zeros = jnp.zeros(total.shape, jnp.promote_types(total.dtype, jnp.float32))
    whole, zeros = lax.fori_loop(0, count, body, (whole, zeros))
    return jax.tree.map(lambda one: one.reshape(batch, *one.shape[2:]), whole), zeros.astype(total.dtype)


def unfold_last(x: Array, taps: int, positions: int, low: int, inflation: Ints, dilation: int) -> Array:
    """x [B, ..., W, C] to [B, ..., W', taps·C]: the window along the last spatial axis under each of W' positions."""
    channels, width = x.shape[-1], inflation[-1] * (x.shape[-2] - 1) + 1
    along = [(0, 0, step - 1) for step in inflation[:-1]]
    parts = []
    for j in range(taps):
        lo = low - j * dilation
        across = (lo, positions - width - lo, inflation[-1] - 1)
        parts.append([(0, 0, 0), *along, across, (j * channels, (taps - 1 - j) * channels, 0)])
    return _sum_of_pads(x, parts)


def unfold_leading(g: Array, x: Array, size: Ints, pads: Pads, inflation: Ints, dilation: Ints) -> Array:
    """g [B, *S', W', O] to [B, *S, W', taps·O]: under each row of x the rows of g that it met, one for each tap."""
    channels = g.shape[-1]
    taps = list(itertools.product(*(range(k) for k in size[:-1])))
    parts = []
    for t, tap in enumerate(taps):
        config = [(0, 0, 0)]
        for i, k in enumerate(tap):
            lo = k * dilation[i] - pads[i][0]
            config.append((lo, inflation[i] * (x.shape[i + 1] - 1) + 1 - g.shape[i + 1] - lo, 0))
        parts.append([*config, (0, 0, 0), (t * channels, (len(taps) - 1 - t) * channels, 0)])
    return _sum_of_pads(g, parts)


def fold_last(y: Array, taps: int, positions: int, low: int, dilation: int) -> Array:
    """The transpose of `unfold_last`: y [B, ..., W', taps·C] to [B, ..., W, C], every part added where it came from."""
    channels = y.shape[-1] // taps
    total = jnp.zeros((), y.dtype)
    for j in range(taps):
        part = lax.slice_in_dim(y, j * channels, (j + 1) * channels, axis=-1)
        lo = j * dilation - low
        across = (lo, positions - y.shape[-2] - lo, 0)
        config = [*((0, 0, 0),) * (y.ndim - 2), across, (0, 0, 0)]
        total = total + lax.pad(part, jnp.zeros((), y.dtype), config)
    return total


def _sum_of_pads(x: Array, configs: list[list[tuple[int, int, int]]]) -> Array:
    # Copies that do not overlap. XLA:CPU makes one vectorised loop of the sum, where it branches on every element of a
    # concatenation (4 against 18 ms for [128, 32, 32, 16]).
    zero = jnp.zeros((), x.dtype)
    total = lax.pad(x, zero, configs[0])
    for config in configs[1:]:
        total = total + lax.pad(x, zero, config)
    return total
