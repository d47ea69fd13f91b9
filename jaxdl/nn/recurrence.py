"""Recurrent cells and the loop over time, with gradients that are fast on CPU.

A cell adds the products of its recurrent kernels to parts of x_t = W u_t + b, which is computed for all steps at once.
So the gradient of a recurrent kernel is one product after the backward loop, dU = sum_t v_t^T dx_t with v_t what was
multiplied, where autodiff would add up a matrix in every step. For the LSTM all factors of the backward loop that do
not depend on later steps are computed beforehand, for all steps at once.

A logistic gate is sigma(z) = tanh(z/2)/2 + 1/2 with the half folded into the weights, so that one tanh serves all gates.
The rows come in groups: while XLA:CPU computes the gates of one group in one thread, another one multiplies the other.

Shapes: `B` rows, `b` rows of one group, `T` steps, `H` units. A carry is (h,) or (h, c), each [b, H].
"""

import functools
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from jaxdl.target import target_platform

Array = jax.Array
Carry = tuple[Array, ...]
Groups = tuple[Any, ...]
CELLS = ("rnn", "lstm", "gru")
# steps of the loop that are written out: with four XLA:CPU overlaps the end of one with the beginning of the next
_UNROLL = 4
_SMALLEST_GROUP = 8


class Cell(NamedTuple):
    """What the loop needs to know of a cell.

    Attributes:
      name: key of the table of steps.
      states: arrays of the carry.
      scale: for each block of H columns of x, 1 or 1/2 (a logistic gate).
      kernels: for each recurrent kernel the blocks (first, end) of x that its product is added to.
      inputs: blocks of x that come from the input; the others hold a bias alone.
    """

    name: str
    states: int
    scale: tuple[float, ...]
    kernels: tuple[tuple[int, int], ...]
    inputs: tuple[int, ...]


def get_cell(name: str, reset_after: bool = False) -> Cell:
    """A cell by name; `reset_after` chooses PyTorch's GRU.

    Raises:
      ValueError: an unknown name.
    """
    if name == "rnn":
        return Cell("rnn", 1, (1.0,), ((0, 1),), (0,))
    if name == "lstm":
        return Cell("lstm", 2, (1.0, 0.5, 0.5, 0.5), ((0, 4),), (0, 1, 2, 3))
    if name == "gru" and reset_after:
        return Cell("gru_after", 1, (0.5, 0.5, 1.0, 1.0), ((0, 3),), (0, 1, 3))
    if name == "gru":
        return Cell("gru", 1, (0.5, 0.5, 1.0), ((0, 2), (2, 3)), (0, 1, 2))
    raise ValueError(f"unknown recurrent cell {name!r}; choose one of {', '.join(CELLS)}")


def split_rows(array: Array, axis: int) -> Groups:
    """`array` as the groups of rows that the loop takes: two on CPU where that leaves enough rows, else one.

    Rows go to the groups in turn, so that each device keeps its own.
    """
    rows = array.shape[axis]
    if target_platform() != "cpu" or rows % 2 or rows // 2 < _SMALLEST_GROUP:
        return (array,)
    pairs = array.reshape(*array.shape[:axis], rows // 2, 2, *array.shape[axis + 1 :])
    return tuple(lax.index_in_dim(pairs, g, axis + 1, keepdims=False) for g in range(2))


def join_rows(groups: Groups, axis: int) -> Array:
    """The opposite of `split_rows`."""
    if len(groups) == 1:
        return groups[0]
    stacked = jnp.stack(groups, axis + 1)
    return stacked.reshape(*stacked.shape[:axis], -1, *stacked.shape[axis + 2 :])


def recur(
    cell: Cell,
    reverse: bool,
    kernels: Sequence[Array],
    x: Groups,
    peepholes: Array | None,
    carry: Groups,
    mask: Groups | None,
) -> tuple[Groups, Groups]:
    """Runs a cell over time.

    Args:
      cell: from `get_cell`.
      reverse: from the last step to the first.
      kernels: the cell's recurrent kernels, scaled as `cell.scale` says.
      x: for each group of rows [T, b, blocks · H], scaled.
      peepholes: lstm: [3, H], scaled; or None.
      carry: for each group the first carry; c is float32, h of x's type.
      mask: for each group [T, b], 0 where the state stays as it is; or None.

    Returns:
      For each group the last carry, and h of all steps [T, b, H].
    """
    if cell.name == "lstm" and peepholes is None and mask is None:
        return _recur_lstm(reverse, kernels[0], x, carry)
    return _recur(cell, reverse, tuple(kernels), x, peepholes, carry, mask)


@jax.custom_vjp
def all_steps_product(x: Array, kernel: Array) -> Array:
    """x [T, b, D] times kernel [D, K] as one matrix product, whose gradients are such products too."""
    return (x.reshape(-1, x.shape[-1]) @ kernel).reshape(*x.shape[:2], -1)


def _all_steps_backward(kept, gradient):
    x, kernel = kept
    # written out: autodiff's form makes XLA:CPU transpose the gradient of all steps first
    return (gradient.reshape(-1, gradient.shape[-1]) @ kernel.T).reshape(x.shape), _product(x, gradient)


all_steps_product.defvjp(lambda x, kernel: (all_steps_product(x, kernel), (x, kernel)), _all_steps_backward)


# --- the cells: (x_t, carry, kernels, peepholes) -> (carry, what the kernels after the first were multiplied with) -----


def _rnn_step(x: Array, carry: Carry, kernels: Sequence[Array], peepholes: Array | None) -> tuple[Carry, Carry]:
    del peepholes
    (h,) = carry
    return (jnp.tanh(x + h @ kernels[0]),), ()


def _lstm_step(x: Array, carry: Carry, kernels: Sequence[Array], peepholes: Array | None) -> tuple[Carry, Carry]:
    if peepholes is None:
        carry, _ = _lstm_gates(x, carry, kernels[0])
        return carry, ()
    h, c = carry
    z, i, f, o = jnp.split(x + h @ kernels[0], 4, axis=-1)
    i, f = _gate(jnp.tanh(i + peepholes[0] * c)), _gate(jnp.tanh(f + peepholes[1] * c))
    c = f * c + i * jnp.tanh(z)
    o = _gate(jnp.tanh(o + peepholes[2] * c))
    return ((o * jnp.tanh(c)).astype(x.dtype), c), ()


def _lstm_gates(x: Array, carry: Carry, kernel: Array) -> tuple[Carry, Array]:
    """(carry, tanh of all four scaled blocks) of an LSTM without peepholes."""
    h, c = carry
    # else XLA:CPU would compute the tanh again for each of its slices
    a = lax.optimization_barrier(jnp.tanh(x + h @ kernel))
    z, i, f, o = jnp.split(a, 4, axis=-1)
    c = _gate(f) * c + _gate(i) * z
    return ((_gate(o) * jnp.tanh(c)).astype(x.dtype), c), a


def _gru_step(x: Array, carry: Carry, kernels: Sequence[Array], peepholes: Array | None) -> tuple[Carry, Carry]:
    del peepholes
    (h,) = carry
    size = h.shape[-1]
    a = lax.optimization_barrier(_gate(jnp.tanh(x[:, : 2 * size] + h @ kernels[0])))
    r, z = a[:, :size], a[:, size:]
    past = r * h
    new = jnp.tanh(x[:, 2 * size :] + past @ kernels[1])
    return ((1.0 - z) * h + z * new,), (past,)


def _gru_after_step(x: Array, carry: Carry, kernels: Sequence[Array], peepholes: Array | None) -> tuple[Carry, Carry]:
    del peepholes
    (h,) = carry
    size = h.shape[-1]
    y = x[:, : 3 * size] + h @ kernels[0]
    a = lax.optimization_barrier(_gate(jnp.tanh(y[:, : 2 * size])))
    r, z = a[:, :size], a[:, size:]
    new = jnp.tanh(x[:, 3 * size :] + r * y[:, 2 * size :])
    return ((1.0 - z) * h + z * new,), ()


def _gate(a: Array) -> Array:
    return 0.5 * a + 0.5


_STEPS = {"rnn": _rnn_step, "lstm": _lstm_step, "gru": _gru_step, "gru_after": _gru_after_step}


# --- any cell: autodiff through the loop, and the kernels' gradients after it ---------------------------------------------


def _loop(cell, reverse, kernels, x, peepholes, carry, mask):
    """((last carries, h of all steps), factors): for each group what kernels after the first were multiplied with."""

    def one(x: Array, carry: Carry, mask: Array | None) -> tuple[Carry, Carry]:
        new, factors = _STEPS[cell.name](x, carry, kernels, peepholes)
        if mask is not None:
            new = tuple(jnp.where(mask[:, None] > 0, a, b) for a, b in zip(new, carry, strict=True))
        return new, factors

    def body(carry: Groups, inputs: tuple[Groups, Groups]) -> tuple[Groups, tuple[Groups, Groups]]:
        found = [one(*group) for group in zip(inputs[0], carry, inputs[1], strict=True)]
        carries = tuple(new for new, _ in found)
        return carries, (tuple(new[0] for new in carries), tuple(factors for _, factors in found))

    masks = (None,) * len(x) if mask is None else mask
    carry, (hs, factors) = lax.scan(body, carry, (x, masks), reverse=reverse, unroll=_unroll())
    return (carry, hs), factors


@functools.partial(jax.custom_vjp, nondiff_argnums=(0, 1))
def _recur(cell, reverse, kernels, x, peepholes, carry, mask):
    return _loop(cell, reverse, kernels, x, peepholes, carry, mask)[0]


def _recur_forward(cell, reverse, kernels, x, peepholes, carry, mask):
    def run(x, peepholes, carry):
        return _loop(cell, reverse, kernels, x, peepholes, carry, mask)

    outputs, backward, factors = jax.vjp(run, x, peepholes, carry, has_aux=True)
    multiplied = tuple(
        (_before(first[0], hs, reverse), *rest) for first, hs, rest in zip(carry, outputs[1], factors, strict=True)
    )
    return outputs, (backward, multiplied)


def _recur_backward(cell, reverse, kept, gradient):
    del reverse
    backward, multiplied = kept
    dx, dpeepholes, dcarry = backward(gradient)
    size = multiplied[0][0].shape[-1]
    dkernels = []
    for k, (first, end) in enumerate(cell.kernels):
        groups = zip(multiplied, dx, strict=True)
        dkernels.append(sum(_product(factors[k], part[..., first * size : end * size]) for factors, part in groups))
    return tuple(dkernels), dx, dpeepholes, dcarry, None


_recur.defvjp(_recur_forward, _recur_backward)


# --- the LSTM without peepholes over whole rows ---------------------------------------------------------------------------


def _lstm_loop(reverse, kernel, x, carry):
    """(last carries, and for each group h, c and the tanh of the gates at all steps)."""

    def body(carry: Groups, x: Groups) -> tuple[Groups, Groups]:
        found = [_lstm_gates(part, group, kernel) for part, group in zip(x, carry, strict=True)]
        return tuple(new for new, _ in found), tuple((*new, a) for new, a in found)

    return lax.scan(body, carry, x, reverse=reverse, unroll=_unroll())


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _recur_lstm(reverse, kernel, x, carry):
    last, found = _lstm_loop(reverse, kernel, x, carry)
    return last, tuple(h for h, _, _ in found)


def _recur_lstm_forward(reverse, kernel, x, carry):
    last, found = _lstm_loop(reverse, kernel, x, carry)
    return (last, tuple(h for h, _, _ in found)), (kernel, carry, found)


def _recur_lstm_backward(reverse, kept, gradient):
    kernel, first, found = kept
    dlast, dhs = gradient
    factors = []
    for (_, c0), (_, c, a) in zip(first, found, strict=True):
        factors.append(lax.optimization_barrier(_lstm_factors(a, c, _before(c0, c, reverse))))
    transposed = kernel.T

    def body(carry: Groups, inputs: tuple[Groups, Groups]) -> tuple[Groups, Groups]:
        carries, dxs = [], []
        for (dh, dc), (by_gate, by_h, forget), dh_out in zip(carry, *inputs, strict=True):
            dh = dh.astype(jnp.float32) + dh_out
            dc = dc + dh * by_h
            # barriers: each of these is then one plain loop over contiguous numbers
            dh, dc = lax.optimization_barrier((dh, dc))
            both = lax.optimization_barrier(jnp.concatenate([dc, dc, dc, dh], axis=-1))
            dx = lax.optimization_barrier((both * by_gate).astype(dh_out.dtype))
            carries.append(((dx @ transposed).astype(dh_out.dtype), dc * forget))
            dxs.append(dx)
        return tuple(carries), tuple(dxs)

    dfirst, dx = lax.scan(body, dlast, (tuple(factors), dhs), reverse=not reverse, unroll=_unroll())
    before = [_before(h0, h, reverse) for (h0, _), (h, _, _) in zip(first, found, strict=True)]
    dkernel = sum(_product(h, part) for h, part in zip(before, dx, strict=True))
    return dkernel, dx, dfirst


def _lstm_factors(a: Array, c: Array, c_before: Array) -> tuple[Array, Array, Array]:
    """What the gradients by h_t and c_t are multiplied with, from the tanh of the gates [T, b, 4 H] and c [T, b, H].

    Returns:
      [T, b, 4 H]: d(scaled x_t)/d(c_t, c_t, c_t, h_t); [T, b, H]: dc_t through h_t; [T, b, H]: the forget gate.
    """
    a = a.astype(jnp.float32)
    z, i, f, o = jnp.split(a, 4, axis=-1)
    squashed = jnp.tanh(c)
    inner = jnp.concatenate([_gate(i), 0.5 * z, 0.5 * c_before, 0.5 * squashed], axis=-1)
    return inner * (1.0 - a * a), _gate(o) * (1.0 - squashed * squashed), _gate(f)


_recur_lstm.defvjp(_recur_lstm_forward, _recur_lstm_backward)


def _before(first: Array, states: Array, reverse: bool) -> Array:
    """The state before each step, [T, b, H], from the first and those after each step."""
    first = first[None].astype(states.dtype)
    return jnp.concatenate([states[1:], first] if reverse else [first, states[:-1]])


def _product(multiplied: Array, gradient: Array) -> Array:
    """sum_t v_t^T g_t of [T, b, H] and [T, b, K]: [H, K]."""
    return multiplied.reshape(-1, multiplied.shape[-1]).T @ gradient.reshape(-1, gradient.shape[-1])


def _unroll() -> int:
    return _UNROLL if target_platform() == "cpu" else 1
