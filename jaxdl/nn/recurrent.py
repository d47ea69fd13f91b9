"""Recurrent layers: tanh RNN, LSTM and GRU, stacked and in both directions, over ragged batches.

The loop and its gradients are in `jaxdl.nn.recurrence`.

Shapes: `B` rows, `T` steps, `D` inputs, `H` units. A carry is (h,) or (h, c), each [B, H].
"""

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn

from jaxdl.nn.dropout import Dropout
from jaxdl.nn.recurrence import Cell, all_steps_product, get_cell, join_rows, recur, split_rows

Array = jax.Array
Carry = tuple[Array, ...]


class Recurrent(nn.Module):
    """One recurrent layer over time.

        rnn   h_t = tanh(W u_t + U h_{t-1} + b)
        lstm  z_t = tanh(W_z u_t + U_z h_{t-1} + b_z)                                     block input
              i_t = sigma(W_i u_t + U_i h_{t-1} + p_i * c_{t-1} + b_i)                     input gate
              f_t = sigma(W_f u_t + U_f h_{t-1} + p_f * c_{t-1} + b_f)                     forget gate
              c_t = i_t * z_t + f_t * c_{t-1}
              o_t = sigma(W_o u_t + U_o h_{t-1} + p_o * c_t + b_o)                         output gate
              h_t = o_t * tanh(c_t)
        gru   r_t = sigma(W_r u_t + U_r h_{t-1} + b_r)
              z_t = sigma(W_z u_t + U_z h_{t-1} + b_z)
              n_t = tanh(W_n u_t + U_n (r_t * h_{t-1}) + b_n)
              h_t = (1 - z_t) * h_{t-1} + z_t * n_t

    The LSTM is that of Greff et al. 2017 (p = 0 without peepholes), the GRU that of Cho et al. 2014; with `reset_after`
    n_t = tanh(W_n u_t + b_n + r_t * (U_n h_{t-1} + b'_n)), PyTorch's and cuDNN's form. Kernels hold the blocks in the
    order z i f o, or r z n. Input kernels start as LeCun's normal, recurrent ones uniform in +-1/sqrt(H), the forget
    gate's bias at `forget_bias` (Jozefowicz et al. 2015), other biases at 0.

    Attributes:
      features: H.
      cell: "rnn", "lstm" or "gru".
      peepholes: lstm: p is learnt, from 0.
      reset_after: gru: the reset gate acts after the product.
      reverse: runs from the last step to the first.
      learn_initial: the first carry is learnt, from 0, instead of zero.
      forget_bias: lstm: first value of b_f.
      dtype: dtype of the computation, None for that of the parameters; c_t is float32 always.
    """

    features: int
    cell: str = "lstm"
    peepholes: bool = False
    reset_after: bool = False
    reverse: bool = False
    learn_initial: bool = False
    forget_bias: float = 1.0
    dtype: Any = None

    @nn.compact
    def __call__(
        self, x: Array, carry: Carry | None = None, *, mask: Array | None = None, reset: Array | None = None
    ) -> tuple[Array, Carry]:
        """Reads a batch of sequences.

        Args:
          x: [B, T, D].
          carry: what to start from; None: a fresh one.
          mask: [B, T], 0 for padding: the state stays as it is there, and the output is 0.
          reset: [B]: rows with 1 start from a fresh carry whatever `carry` says.

        Returns:
          h [B, T, H], and the carry after the last step (the first, if `reverse`), in float32.
        """
        cell = get_cell(self.cell, self.reset_after)
        if self.peepholes and self.cell != "lstm":
            raise ValueError(f"only an LSTM has peepholes, not cell {self.cell!r}")
        size, dtype = self.features, self.dtype or jnp.float32
        scale = np.repeat(np.asarray(cell.scale, np.float32), size)
        kernel = self.param("kernel", nn.initializers.lecun_normal(), (x.shape[-1], len(cell.inputs) * size))
        recurrent = self.param("recurrent_kernel", _uniform, (size, cell.kernels[-1][1] * size))
        bias = self.param("bias", self._first_bias, (len(cell.scale) * size,))
        peepholes = self.param("peephole_scale", nn.initializers.zeros, (3, size)) if self.peepholes else None
        kernels = [
            (recurrent * scale[: recurrent.shape[1]]).astype(dtype)[:, a * size : b * size] for a, b in cell.kernels
        ]
        steps = None if mask is None else jnp.swapaxes(mask, 0, 1)
        first = self._first_carry(cell, x.shape[0], carry, reset)
        first = (first[0].astype(dtype), *first[1:])
        groups = [self._inputs(cell, part, kernel, bias) for part in split_rows(jnp.swapaxes(x, 0, 1).astype(dtype), 1)]
        last, hs = recur(
            cell,
            self.reverse,
            kernels,
            tuple(groups),
            None if peepholes is None else 0.5 * peepholes,
            tuple(zip(*(split_rows(part, 0) for part in first), strict=True)),
            None if steps is None else split_rows(steps, 1),
        )
        out = join_rows(hs, 1)
        if steps is not None:
            out = jnp.where(steps[..., None] > 0, out, 0)
        end = tuple(join_rows(parts, 0).astype(jnp.float32) for parts in zip(*last, strict=True))
        return jnp.swapaxes(out, 0, 1), end

    def _inputs(self, cell: Cell, x: Array, kernel: Array, bias: Array) -> Array:
        """W u_t + b of all steps, scaled: [T, b, blocks · H]."""
        scale = np.repeat(np.asarray(cell.scale, np.float32), self.features)
        columns = np.concatenate([np.arange(k * self.features, (k + 1) * self.features) for k in cell.inputs])
        product = all_steps_product(x, (kernel * scale[columns]).astype(x.dtype))
        if len(columns) < len(scale):
            product = jnp.zeros((*product.shape[:-1], len(scale)), x.dtype).at[..., columns].set(product)
        return product + (bias * scale).astype(x.dtype)

    def zero_carry(self, batch_size: int) -> Carry:
        """A carry of zeros for B rows."""
        states = get_cell(self.cell, self.reset_after).states
        return tuple(jnp.zeros((batch_size, self.features), jnp.float32) for _ in range(states))

    def _first_carry(self, cell: Cell, rows: int, carry: Carry | None, reset: Array | None) -> Carry:
        fresh = self.zero_carry(rows)
        if self.learn_initial:
            learnt = self.param("initial_bias", nn.initializers.zeros, (cell.states, self.features))
            fresh = tuple(jnp.broadcast_to(part, (rows, self.features)) for part in learnt)
        if carry is None:
            return fresh
        if reset is None:
            return tuple(carry)
        return tuple(jnp.where(reset[:, None] > 0, new, old) for new, old in zip(fresh, carry, strict=True))

    def _first_bias(self, key: Array, shape: tuple[int, ...]) -> Array:
        del key
        bias = jnp.zeros(shape, jnp.float32)
        return bias.at[2 * self.features : 3 * self.features].set(self.forget_bias) if self.cell == "lstm" else bias


class RecurrentStack(nn.Module):
    """Recurrent layers, one above the other (Graves 2013); each may run in both directions (Schuster and Paliwal 1997).

    Attributes:
      features: H of each layer; of each direction, where there are two.
      bidirectional: each layer reads forwards and backwards, and its output is both beside each other, [B, T, 2 H].
      dropout: share of the values dropped between layers (never within the state), unless the call says another.
      cell, peepholes, reset_after, learn_initial, dtype: see `Recurrent`.
    """

    features: Sequence[int]
    cell: str = "lstm"
    bidirectional: bool = False
    dropout: float = 0.0
    peepholes: bool = False
    reset_after: bool = False
    learn_initial: bool = False
    dtype: Any = None

    @nn.compact
    def __call__(
        self,
        x: Array,
        carry: Sequence[Carry] | None = None,
        *,
        mask: Array | None = None,
        reset: Array | None = None,
        train: bool = False,
        dropout: Array | float | None = None,
    ) -> tuple[Array, tuple[Carry, ...]]:
        """[B, T, D] -> [B, T, H] of the last layer ([B, T, 2 H]), and the carry of each layer and direction.

        Args:
          x: [B, T, D].
          carry: one for each layer, or each layer's forward and backward direction in turn; None: fresh ones.
          mask: see `Recurrent`.
          reset: likewise.
          train: whether to drop.
          dropout: replaces the attribute; may be traced.
        """
        rate = self.dropout if dropout is None else dropout
        carries: list[Carry] = []
        given = iter(carry) if carry is not None else None
        for number in range(len(self.features)):
            if number:
                x = Dropout(0.0)(x, train, rate)
            outputs = []
            for layer in self._directions(number):
                h, last = layer(x, None if given is None else next(given), mask=mask, reset=reset)
                outputs.append(h)
                carries.append(last)
            x = jnp.concatenate(outputs, axis=-1) if self.bidirectional else outputs[0]
        return x, tuple(carries)

    def zero_carry(self, batch_size: int) -> tuple[Carry, ...]:
        """Carries of zeros for B rows."""
        layers = [Recurrent(size, self.cell, parent=None) for size in self.features]
        return tuple(layer.zero_carry(batch_size) for layer in layers for _ in range(1 + self.bidirectional))

    def _directions(self, number: int) -> list[Recurrent]:
        def layer(reverse: bool) -> Recurrent:
            return Recurrent(
                self.features[number],
                self.cell,
                self.peepholes,
                self.reset_after,
                reverse,
                self.learn_initial,
                dtype=self.dtype,
                name=f"{'backward' if reverse else 'layer'}_{number}",
            )

        return [layer(False), layer(True)] if self.bidirectional else [layer(False)]


def _uniform(key: Array, shape: tuple[int, ...]) -> Array:
    bound = shape[0] ** -0.5
    return jax.random.uniform(key, shape, jnp.float32, -bound, bound)
