"""Attention: scaled dot products in several heads with masks and a cache, and Bahdanau's additive form.

Shapes: `B` rows, `H` heads, `T` queries, `S` keys, `D` features, `d = D / H` features of one head. Masks are true where
a query may look.
"""

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import linen as nn
from jax import lax

from jaxdl.nn.dense import JointDense
from jaxdl.nn.dropout import Dropout
from jaxdl.nn.positions import rotary
from jaxdl.target import target_platform

Array = jax.Array
Initializer = Callable[..., Array]

# finite: a query that may look nowhere gets equal weights, not NaN
_FORBIDDEN = -1e30


class KeyValue(NamedTuple):
    """Keys and values of all heads, [B, H, S, d] each: what is attended to, and a cache of what was read."""

    keys: Array
    values: Array


def attend(query: Array, memory: KeyValue, mask: Array | None = None, drop: Callable[[Array], Array] | None = None):
    """softmax(q k^T / sqrt(d)) v for each head; Vaswani et al. 2017, equation 1.

    Args:
      query: [B, H, T, d].
      memory: S keys and values.
      mask: bool, broadcast to [B, H, T, S].
      drop: applied to the weights before the sum over values.

    Returns:
      [B, H, T, d] and the weights [B, H, T, S], which sum to one over S. A query that may look nowhere gets the mean.
    """
    scores = jnp.einsum("bhtd,bhsd->bhts", query * (1.0 / math.sqrt(query.shape[-1])), memory.keys)
    if mask is not None:
        scores = jnp.where(mask, scores, jnp.asarray(_FORBIDDEN, scores.dtype))
    weights = jax.nn.softmax(scores.astype(jnp.float32)).astype(query.dtype)
    used = weights if drop is None else drop(weights)
    return jnp.einsum("bhts,bhsd->bhtd", used, memory.values), weights


def fused_causal(query: Array, memory: KeyValue) -> Array:
    """`attend` with the causal mask, [B, H, T, d], by JAX's fused kernel where there is one (cuDNN: GPU, bfloat16).

    The weights [B, H, T, T] are then never written to memory; elsewhere JAX computes the same by way of them.
    """
    fast = target_platform() == "gpu" and query.dtype == jnp.bfloat16
    arrays = (jnp.swapaxes(part, 1, 2) for part in (query, memory.keys, memory.values))
    found = jax.nn.dot_product_attention(*arrays, is_causal=True, implementation="cudnn" if fast else "xla")
    return jnp.swapaxes(found, 1, 2)


def causal_mask(queries: int, keys: int, start: Array | int = 0) -> Array:
    """[T, S], true where key s is not after query t, which stands at position `start` + t."""
    return jnp.arange(keys) <= jnp.asarray(start) + jnp.arange(queries)[:, None]


def padding_mask(valid: Array) -> Array:
    """[B, 1, 1, S] of `valid` [B, S]: nobody looks at padding."""
    return (valid > 0)[:, None, None, :]


def split_heads(x: Array, heads: int) -> Array:
    """[B, T, D] -> [B, H, T, d]: head h holds features h·d ... (h + 1)·d - 1.

    Raises:
      ValueError: H does not divide D.
    """
    if x.shape[-1] % heads:
        raise ValueError(
            f"{x.shape[-1]} features cannot be split into {heads} heads of equal size: heads must divide features"
        )
    return jnp.swapaxes(x.reshape(*x.shape[:-1], heads, -1), 1, 2)


def join_heads(x: Array) -> Array:
    """[B, H, T, d] -> [B, T, D], the inverse of `split_heads`."""
    x = jnp.swapaxes(x, 1, 2)
    return x.reshape(*x.shape[:2], -1)


class MultiHeadAttention(nn.Module):
    """Queries from x, keys and values from x itself or from a memory, in H heads, and a projection of their outputs.

        head_h = attend(x W_q^h, y W_k^h, y W_v^h),   output = [head_1 ... head_H] W_o        (Vaswani et al. 2017, 3.2.2)

    The weights [B, H, T, S] are sown as "weights" in the collection "intermediates".

    Attributes:
      features: D.
      heads: H.
      memory: keys and values come from a memory (see `read`) instead of from x.
      positions: "rotary" turns queries and keys by their positions; others change nothing here.
      use_bias: whether projections have a bias.
      dropout: share of the weights dropped in training, unless the call says another.
      kernel_init, output_init: initialisers of the projections to heads and from them.
      dtype: dtype of the computation; None for that of the input.
      fused: the mask is the causal one wherever x attends to itself without a cache, so that `fused_causal` serves; no
        weights are sown then. Where weights are dropped it changes nothing.
    """

    features: int
    heads: int
    memory: bool = False
    positions: str = "none"
    use_bias: bool = True
    dropout: float = 0.0
    kernel_init: Initializer = nn.initializers.lecun_normal()
    output_init: Initializer = nn.initializers.lecun_normal()
    dtype: Any = None
    fused: bool = False

    def setup(self):
        """The projections, which `read` and a call share."""

        def project(init: Initializer) -> nn.Dense:
            return nn.Dense(self.features, self.use_bias, self.dtype, kernel_init=init)

        def project_together(parts: int) -> JointDense:
            # a part of the last axis holds the same heads of each
            return JointDense(parts, self.features, self.use_bias, self.dtype, self.kernel_init)

        if self.memory:
            self.query, self.key_value = project(self.kernel_init), project_together(2)
        else:
            self.query_key_value = project_together(3)
        self.output = project(self.output_init)
        self.drop = Dropout(0.0)

    def __call__(
        self,
        x: Array,
        memory: KeyValue | None = None,
        mask: Array | None = None,
        start: Array | int = 0,
        train: bool = False,
        dropout: Array | float | None = None,
    ) -> tuple[Array, KeyValue]:
        """Attends from x [B, T, D].

        Args:
          x: [B, T, D], the first token at position `start`.
          memory: of a module with `memory`: what `read` gave. Else a cache of L positions, into which the keys and
            values of x are written at `start`; None: x attends to itself.
          mask: bool, broadcast to [B, H, T, S]; None: everything may be seen.
          start: int32 scalar.
          train: whether to drop weights.
          dropout: replaces the attribute; may be traced.

        Returns:
          [B, T, D], and the keys and values that were attended to: with a cache the cache to go on with.
        """
        rate = self.dropout if dropout is None else dropout
        fused = self.fused and memory is None and (not train or (isinstance(rate, float) and rate == 0.0))
        if self.memory:
            query = split_heads(over_positions(self.query, x), self.heads)
            assert memory is not None, "attention to a memory needs one"
        else:
            query, keys, values = self._heads(self.query_key_value, x)
            if self.positions == "rotary":
                places = jnp.asarray(start) + jnp.arange(x.shape[1])
                query, keys = rotary(query, places), rotary(keys, places)
            if memory is not None:
                place = (0, 0, start, 0)
                keys = lax.dynamic_update_slice(memory.keys, keys.astype(memory.keys.dtype), place)
                values = lax.dynamic_update_slice(memory.values, values.astype(memory.values.dtype), place)
            memory = KeyValue(keys, values)
        if fused:
            return over_positions(self.output, join_heads(fused_causal(query, memory))), memory
        outputs, weights = attend(query, memory, mask, lambda w: self.drop(w, train, rate))
        self.sow("intermediates", "weights", weights)
        return over_positions(self.output, join_heads(outputs)), memory

    def read(self, memory: Array) -> KeyValue:
        """Keys and values of a memory [B, S, D], to be computed once for all queries."""
        return KeyValue(*self._heads(self.key_value, memory))

    def _heads(self, project: JointDense, x: Array) -> list[Array]:
        """[B, T, D] -> [B, H, T, d] for each part that is projected together."""
        parts = project(x.reshape(-1, x.shape[-1]))
        return [split_heads(part.reshape(*x.shape[:-1], -1), self.heads) for part in parts]


class AdditiveAttention(nn.Module):
    """e_s = v · tanh(W q + U m_s), weights softmax(e), context sum_s weights_s m_s; Bahdanau, Cho and Bengio 2015.

    Attributes:
      features: A, size of the hidden layer that scores.
      dtype: dtype of the computation; None for that of the input.
    """

    features: int
    dtype: Any = None

    def setup(self):
        """W, U and v, which `read` and a call share."""
        self.query = nn.Dense(self.features, use_bias=False, dtype=self.dtype)
        self.key = nn.Dense(self.features, use_bias=True, dtype=self.dtype)
        self.score = nn.Dense(1, use_bias=False, dtype=self.dtype)

    def read(self, memory: Array) -> Array:
        """U m, [B, S, A], of a memory [B, S, E]: to be computed once for all queries."""
        return over_positions(self.key, memory)

    def __call__(self, query: Array, memory: Array, keys: Array, mask: Array) -> tuple[Array, Array]:
        """One query for each row.

        Args:
          query: [B, D].
          memory: [B, S, E].
          keys: what `read` made of it.
          mask: [B, S], 0 for padding.

        Returns:
          context [B, E] and weights [B, S].
        """
        hidden = jnp.tanh(self.query(query)[:, None] + keys)
        scores = over_positions(self.score, hidden)[..., 0].astype(jnp.float32)
        weights = jax.nn.softmax(jnp.where(mask > 0, scores, _FORBIDDEN)).astype(memory.dtype)
        return jnp.einsum("bs,bse->be", weights, memory), weights


def over_positions(layer: Callable[[Array], Array], x: Array) -> Array:
    """`layer` on x [B, T, ...] with B and T as one axis.

    The gradient by its weights then is a product of two matrices, which XLA:CPU would otherwise transpose first.
    """
    y = layer(x.reshape(-1, x.shape[-1]))
    return y.reshape(*x.shape[:-1], *y.shape[1:])
