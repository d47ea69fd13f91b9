"""A recurrent encoder-decoder with additive attention.

Shapes: `B` rows, `S` source tokens, `T` target tokens, `V` target vocabulary, `H` units.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import linen as nn

from jaxdl.nn.attention import AdditiveAttention, over_positions
from jaxdl.nn.dropout import Dropout
from jaxdl.nn.embedding import Embed
from jaxdl.nn.recurrent import Carry, Recurrent, RecurrentStack

Array = jax.Array
Rate = Array | float | None


class Memory(NamedTuple):
    """A source that was read.

    Attributes:
      states: m_s of the encoder's last layer, both directions beside each other, [B, S, 2 H].
      keys: their projections for the attention, [B, S, A].
      valid: [B, S], which tokens are no padding.
      first: the decoder's first state, [B, H].
    """

    states: Array
    keys: Array
    valid: Array
    first: Array


class AttentionSeq2Seq(nn.Module):
    """Bidirectional encoder, decoder with additive attention; Bahdanau, Cho and Bengio 2015.

        m_s  the encoder's states of both directions after source token s
        d_0 = tanh(W m'),                 m' the encoder's last state of both directions
        c_t = sum_s a_ts m_s,             a_t = softmax_s(v · tanh(W_a d_{t-1} + U_a m_s))
        d_t = cell(d_{t-1}, [e(y_{t-1}), c_t])
        p(y_t) = softmax(W_y tanh(W_o [d_t, c_t, e(y_{t-1})]))

    Their output layer has maxout where this one has tanh. Token 0 of the source is padding. In training dropout acts on
    embeddings, between encoder layers and before the scores. Weights a [B, 1, T, S] are sown as "weights" in the
    collection "intermediates".

    Attributes:
      source_vocabulary, target_vocabulary: V of each side.
      features: H of each encoder direction and of the decoder, and the attention's hidden size A.
      embedding: size of the tokens' vectors.
      cell: "gru", "lstm" or "rnn".
      layers: of the encoder.
      dropout: share dropped, unless the call says another.
      dtype: dtype of the computation; None for that of the parameters.
    """

    source_vocabulary: int
    target_vocabulary: int
    features: int = 128
    embedding: int = 64
    cell: str = "gru"
    layers: int = 1
    dropout: float = 0.0
    dtype: Any = None

    def setup(self):
        """The layers that reading a source and writing a target use."""

        def dense(size: int, bias: bool = True) -> nn.Dense:
            return nn.Dense(size, bias, self.dtype)

        self.source_embedding = Embed(self.source_vocabulary, self.embedding, dtype=self.dtype)
        self.target_embedding = Embed(self.target_vocabulary, self.embedding, dtype=self.dtype)
        sizes = (self.features,) * self.layers
        self.encoder = RecurrentStack(sizes, self.cell, bidirectional=True, dtype=self.dtype)
        self.bridge = dense(self.features)
        self.attention = AdditiveAttention(self.features, dtype=self.dtype)
        self.decoder = Recurrent(self.features, self.cell, dtype=self.dtype)
        self.readout = dense(self.embedding)
        self.scores = dense(self.target_vocabulary)
        self.drop = Dropout(0.0)

    def __call__(self, source: Array, before: Array, train: bool = False, dropout: Rate = None) -> Array:
        """Logits [B, T, V] of the target token after each of `before` [B, T], for sources [B, S].

        Args:
          source: [B, S] int32, 0 for padding.
          before: [B, T] int32, the target shifted by one: the start token and all but the last.
          train: whether to drop.
          dropout: replaces the attribute; may be traced.
        """
        rate = self.dropout if dropout is None else dropout
        memory = self.read(source, train, rate)
        embedded = self.drop(self.target_embedding(before), train, rate)

        def step(self: "AttentionSeq2Seq", carry: Carry, token: Array) -> tuple[Carry, tuple[Array, Array]]:
            carry, outputs, weights = self._step(token, memory, carry)
            return carry, (outputs, weights)

        over_time = nn.scan(step, variable_broadcast="params", split_rngs={"params": False}, in_axes=1, out_axes=1)
        _, (outputs, weights) = over_time(self, self._first(memory.first), embedded)
        self.sow("intermediates", "weights", weights[:, None])
        return self._scores(self.drop(outputs, train, rate))

    def read(self, source: Array, train: bool = False, dropout: Rate = None) -> Memory:
        """What the decoder needs of sources [B, S]."""
        rate = self.dropout if dropout is None else dropout
        valid = (source > 0).astype(jnp.float32)
        embedded = self.drop(self.source_embedding(source), train, rate)
        states, carries = self.encoder(embedded, mask=valid, train=train, dropout=rate)
        last = jnp.concatenate([carries[-2][0], carries[-1][0]], axis=-1).astype(states.dtype)
        return Memory(states, self.attention.read(states), valid, jnp.tanh(self.bridge(last)))

    def begin(self, memory: Memory, length: int) -> Carry:
        """The carry before the first token; `length` is of no use to a recurrent decoder."""
        del length
        return self._first(memory.first)

    def decode(self, token: Array, memory: Memory, carry: Carry) -> tuple[Array, Carry]:
        """Logits [B, V] of the token after `token` [B], and the carry that holds it."""
        carry, outputs, _ = self._step(self.target_embedding(token), memory, carry)
        return self._scores(outputs[:, None])[:, 0], carry

    def _first(self, state: Array) -> Carry:
        first = state.astype(jnp.float32)
        return (first, *(jnp.zeros_like(first) for _ in range(self.cell == "lstm")))

    def _step(self, embedded: Array, memory: Memory, carry: Carry) -> tuple[Carry, Array, Array]:
        """One token [B, E] -> carry, [d_t, c_t, e(y_{t-1})] and the weights [B, S]."""
        query = carry[0].astype(embedded.dtype)
        context, weights = self.attention(query, memory.states, memory.keys, memory.valid)
        outputs, carry = self.decoder(jnp.concatenate([embedded, context], axis=-1)[:, None], carry)
        return carry, jnp.concatenate([outputs[:, 0], context, embedded], axis=-1), weights

    def _scores(self, outputs: Array) -> Array:
        return over_positions(lambda y: self.scores(jnp.tanh(self.readout(y))), outputs)
