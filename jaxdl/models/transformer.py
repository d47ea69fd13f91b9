"""Transformers: a decoder that writes on by itself, and an encoder-decoder, with caches for writing.

Shapes: `B` rows, `T` tokens, `S` source tokens, `L` positions of a cache, `V` vocabulary, `D` features.
"""

import dataclasses
import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import linen as nn

from jaxdl.models.partition import transformer_rules
from jaxdl.nn.activations import get_activation
from jaxdl.nn.attention import KeyValue, MultiHeadAttention, causal_mask, over_positions, padding_mask
from jaxdl.nn.dropout import Dropout
from jaxdl.nn.embedding import Embed
from jaxdl.nn.normalization import LayerNorm
from jaxdl.nn.positions import Positions

Array = jax.Array
Rate = Array | float | None

STD = 0.02


class FeedForward(nn.Module):
    """W_2 g(W_1 x + b_1) + b_2 at each position; Vaswani et al. 2017, 3.3.

    Attributes:
      hidden: units between.
      activation: g, see `jaxdl.nn.activations`.
      use_bias: whether there are b_1 and b_2.
      kernel_init, output_init: initialisers of W_1 and W_2.
      dtype: dtype of the computation; None for that of the input.
    """

    hidden: int
    activation: str = "gelu"
    use_bias: bool = True
    kernel_init: Callable[..., Array] = nn.initializers.lecun_normal()
    output_init: Callable[..., Array] = nn.initializers.lecun_normal()
    dtype: Any = None

    @nn.compact
    def __call__(self, x: Array) -> Array:
        """[B, T, D] -> [B, T, D]."""
        first = nn.Dense(self.hidden, self.use_bias, self.dtype, kernel_init=self.kernel_init, name="hidden")
        second = nn.Dense(x.shape[-1], self.use_bias, self.dtype, kernel_init=self.output_init, name="output")
        activation = get_activation(self.activation)
        return over_positions(lambda y: second(activation(first(y))), x)


@dataclasses.dataclass(frozen=True)
class Shape:
    """What all blocks of a Transformer have in common.

    Attributes:
      features: D.
      heads: of each attention.
      widening: hidden units of the feed-forward sublayer per feature.
      norm: "pre" normalises what a sublayer reads, x + f(norm(x)); "post" its sum, norm(x + f(x)).
      activation: of the feed-forward sublayer.
      use_bias: in all layers.
      positions: see `jaxdl.nn.positions`.
      dropout: share of attention weights and of each sublayer's outputs dropped, unless the call says another.
      dtype: dtype of the computation; None for that of the parameters.
      fused: a decoder-only Transformer attends by JAX's fused kernel, see `MultiHeadAttention`.
    """

    features: int
    heads: int
    widening: int = 4
    norm: str = "pre"
    activation: str = "gelu"
    use_bias: bool = True
    positions: str = "learned"
    dropout: float = 0.0
    dtype: Any = None
    fused: bool = False


class Block(nn.Module):
    """Attention to itself, perhaps to a memory, and a feed-forward sublayer, each with its residual connection.

    Attributes:
      shape: see `Shape`.
      depth: residual sums in the whole stack; projections into them start with 0.02 / sqrt(depth) (GPT-2).
      cross: whether it attends to a memory.
      causal: its mask is the causal one where it is called without a cache.

    Raises:
      ValueError: once it is used, if `shape.norm` is neither "pre" nor "post".
    """

    shape: Shape
    depth: int
    cross: bool = False
    causal: bool = False

    def setup(self):
        shape = self.shape
        if shape.norm not in ("pre", "post"):
            raise ValueError(f"norm is 'pre' or 'post', got {shape.norm!r}")
        init = nn.initializers.normal(STD)
        inits: dict[str, Any] = {
            "kernel_init": init,
            "output_init": nn.initializers.normal(STD / math.sqrt(self.depth)),
        }

        def attention(memory: bool) -> MultiHeadAttention:
            positions = "none" if memory else shape.positions
            return MultiHeadAttention(
                shape.features,
                shape.heads,
                memory,
                positions,
                shape.use_bias,
                shape.dropout,
                dtype=shape.dtype,
                fused=shape.fused and self.causal and not memory,
                **inits,
            )

        self.attention = attention(False)
        self.attention_norm = LayerNorm(use_bias=shape.use_bias)
        if self.cross:
            self.cross_attention = attention(True)
            self.cross_norm = LayerNorm(use_bias=shape.use_bias)
        hidden = shape.widening * shape.features
        self.feed_forward = FeedForward(hidden, shape.activation, shape.use_bias, dtype=shape.dtype, **inits)
        self.feed_forward_norm = LayerNorm(use_bias=shape.use_bias)
        self.drop = Dropout(0.0)

    def __call__(
        self,
        x: Array,
        mask: Array | None = None,
        cache: KeyValue | None = None,
        start: Array | int = 0,
        memory: KeyValue | None = None,
        memory_mask: Array | None = None,
        train: bool = False,
        dropout: Rate = None,
    ) -> tuple[Array, KeyValue]:
        """x [B, T, D] -> the same shape, and keys and values of its attention to itself; see `MultiHeadAttention`."""
        rate = self.shape.dropout if dropout is None else dropout

        def residual(x: Array, norm: LayerNorm, f: Callable[[Array], Array]) -> Array:
            y = self.drop(f(norm(x) if self.shape.norm == "pre" else x), train, rate)
            return x + y if self.shape.norm == "pre" else norm(x + y)

        kept: list[KeyValue] = []

        def attend(x: Array) -> Array:
            y, found = self.attention(x, cache, mask, start, train, rate)
            kept.append(found)
            return y

        def cross(x: Array) -> Array:
            return self.cross_attention(x, memory, memory_mask, 0, train, rate)[0]

        x = residual(x, self.attention_norm, attend)
        if self.cross:
            x = residual(x, self.cross_norm, cross)
        return residual(x, self.feed_forward_norm, self.feed_forward), kept[0]

    def read(self, memory: Array) -> KeyValue:
        """Keys and values of a memory [B, S, D] for `memory`."""
        return self.cross_attention.read(memory)


class Cache(NamedTuple):
    """What a decoder has read.

    Attributes:
      layers: keys and values of each block, [B, H, L, d] each.
      tokens: [B, L] int32.
      filled: how many of the L positions are filled, int32 scalar, the same for all rows.
    """

    layers: tuple[KeyValue, ...]
    tokens: Array
    filled: Array


class TransformerLM(nn.Module):
    """A decoder-only Transformer: scores of the next token from those before it; Radford et al. 2019 (GPT-2).

    Kernels and embeddings start normal with standard deviation 0.02, projections into the residual stream with
    0.02 / sqrt(2 layers), biases at 0, as in nanoGPT.

    Attributes:
      vocabulary: V.
      context: the most tokens that are seen; for writing at least 2.
      shape: of the blocks.
      layers: blocks.
      tied: scores are products with the tokens' vectors (Press and Wolf 2017); else a matrix of their own.
    """

    vocabulary: int
    context: int
    shape: Shape
    layers: int
    tied: bool = True

    def setup(self):
        shape = self.shape
        init = nn.initializers.normal(STD)
        self.embedding = Embed(self.vocabulary, shape.features, dtype=shape.dtype, embedding_init=init)
        self.place = Positions(shape.positions, self.context, dtype=shape.dtype)
        self.blocks = [Block(shape, 2 * self.layers, causal=True) for _ in range(self.layers)]
        if shape.norm == "pre":
            self.norm = LayerNorm(use_bias=shape.use_bias)
        if not self.tied:
            self.scores = nn.Dense(self.vocabulary, False, shape.dtype, kernel_init=init)
        self.drop = Dropout(0.0)

    def __call__(self, tokens: Array, train: bool = False, dropout: Rate = None) -> Array:
        """Logits [B, T, V] of the token after each of `tokens` [B, T] int32; T is at most `context`.

        Args:
          tokens: [B, T].
          train: whether to drop.
          dropout: replaces the attribute; may be traced.
        """
        return self._read(tokens, train=train, dropout=dropout)[0]

    def partition_rules(self, parts: int) -> tuple:
        """See `jaxdl.models.partition`."""
        return transformer_rules(self.shape.heads, parts)

    def prefill(self, tokens: Array) -> tuple[Array, Cache]:
        """Logits [B, V] of the token after `tokens` [B, P], and a cache to go on with.

        Of more tokens than fit beside one more, the last half of the context is read.
        """
        if tokens.shape[1] >= self.context:
            tokens = tokens[:, -(self.context // 2) :]
        count, room = tokens.shape[1], self.context - tokens.shape[1]
        logits, layers = self._read(tokens)
        grown = jax.tree.map(lambda leaf: jnp.pad(leaf, ((0, 0), (0, 0), (0, room), (0, 0))), layers)
        return logits[:, -1], Cache(grown, jnp.pad(tokens, ((0, 0), (0, room))), jnp.int32(count))

    def decode(self, token: Array, cache: Cache) -> tuple[Array, Cache]:
        """Logits [B, V] of the token after `token` [B], and the cache that holds it.

        Once the cache is full, its last half is read anew from position 0: a token is judged by L / 2 to L before it.
        """

        def refilled(self: "TransformerLM", cache: Cache) -> Cache:
            read = self.prefill(cache.tokens[:, -(self.context // 2) :])[1]
            return jax.tree.map(lambda new, old: new.astype(old.dtype), read, cache)

        full = cache.filled == self.context
        cache = nn.cond(full, refilled, lambda self, cache: cache, self, cache)
        logits, layers = self._read(token[:, None], cache.layers, cache.filled)
        tokens = jax.lax.dynamic_update_slice(
            cache.tokens, token[:, None].astype(cache.tokens.dtype), (0, cache.filled)
        )
        return logits[:, -1], Cache(layers, tokens, cache.filled + 1)

    def _read(
        self,
        tokens: Array,
        caches: Sequence[KeyValue] | None = None,
        start: Array | int = 0,
        train: bool = False,
        dropout: Rate = None,
    ) -> tuple[Array, tuple[KeyValue, ...]]:
        """Logits [B, T, V], and each block's keys and values."""
        rate = self.shape.dropout if dropout is None else dropout
        length = tokens.shape[1]
        mask = causal_mask(length, length if caches is None else self.context, start)
        x = self.drop(self.place(self.embedding(tokens), start), train, rate)
        kept = []
        for number, block in enumerate(self.blocks):
            cache = None if caches is None else caches[number]
            x, found = block(x, mask, cache, start, train=train, dropout=rate)
            kept.append(found)
        x = self.norm(x) if self.shape.norm == "pre" else x
        return over_positions(self.embedding.attend if self.tied else self.scores, x), tuple(kept)


class Memory(NamedTuple):
    """A source that was read: each decoder block's keys and values of it, and which of its tokens are no padding."""

    layers: tuple[KeyValue, ...]
    valid: Array


class EncoderDecoder(nn.Module):
    """The Transformer of Vaswani et al. 2017: an encoder of the source, and a decoder that attends to it.

    Token 0 of the source is padding. Vectors of tokens are multiplied by sqrt(D) (their 3.4) where positions are
    sinusoidal, so that neither drowns the other.

    Attributes:
      source_vocabulary, target_vocabulary: V of each side.
      length: the most tokens of either side.
      shape: of the blocks.
      layers: blocks of the encoder, and of the decoder.
      tied: scores are products with the target tokens' vectors.
    """

    source_vocabulary: int
    target_vocabulary: int
    length: int
    shape: Shape
    layers: int
    tied: bool = True

    def setup(self):
        shape = self.shape
        std = shape.features**-0.5 if shape.positions == "sinusoidal" else STD
        init = nn.initializers.normal(std)

        def embedding(size: int) -> Embed:
            return Embed(size, shape.features, dtype=shape.dtype, embedding_init=init)

        self.source_embedding = embedding(self.source_vocabulary)
        self.target_embedding = embedding(self.target_vocabulary)
        self.source_place = Positions(shape.positions, self.length, dtype=shape.dtype)
        self.target_place = Positions(shape.positions, self.length, dtype=shape.dtype)
        self.encoder = [Block(shape, 2 * self.layers) for _ in range(self.layers)]
        self.decoder = [Block(shape, 3 * self.layers, cross=True) for _ in range(self.layers)]
        if shape.norm == "pre":
            self.encoder_norm = LayerNorm(use_bias=shape.use_bias)
            self.decoder_norm = LayerNorm(use_bias=shape.use_bias)
        if not self.tied:
            self.scores = nn.Dense(self.target_vocabulary, False, shape.dtype, kernel_init=nn.initializers.normal(STD))
        self.drop = Dropout(0.0)

    def __call__(self, source: Array, before: Array, train: bool = False, dropout: Rate = None) -> Array:
        """Logits [B, T, V] of the target token after each of `before` [B, T], for sources [B, S].

        Args:
          source: [B, S] int32, 0 for padding.
          before: [B, T] int32, the target shifted by one: the start token and all but the last.
          train: whether to drop.
          dropout: replaces the attribute; may be traced.
        """
        memory = self.read(source, train, dropout)
        mask = causal_mask(before.shape[1], before.shape[1])
        return self._write(before, memory, mask, train=train, dropout=dropout)[0]

    def partition_rules(self, parts: int) -> tuple:
        """See `jaxdl.models.partition`."""
        return transformer_rules(self.shape.heads, parts)

    def read(self, source: Array, train: bool = False, dropout: Rate = None) -> Memory:
        """What the decoder needs of sources [B, S]."""
        rate = self.shape.dropout if dropout is None else dropout
        x = self.drop(self.source_place(self._scaled(self.source_embedding(source))), train, rate)
        mask = padding_mask(source)
        for block in self.encoder:
            x, _ = block(x, mask, train=train, dropout=rate)
        x = self.encoder_norm(x) if self.shape.norm == "pre" else x
        return Memory(tuple(block.read(x) for block in self.decoder), source > 0)

    def begin(self, memory: Memory, length: int) -> tuple[tuple[KeyValue, ...], Array]:
        """An empty carry for `decode`, with room for `length` tokens."""
        keys = memory.layers[0].keys
        empty = jnp.zeros((*keys.shape[:2], length, keys.shape[-1]), keys.dtype)
        return tuple(KeyValue(empty, empty) for _ in self.decoder), jnp.int32(0)

    def decode(self, token: Array, memory: Memory, carry: tuple[tuple[KeyValue, ...], Array]) -> tuple[Array, Any]:
        """Logits [B, V] of the token after `token` [B], and the carry that holds it."""
        caches, count = carry
        mask = causal_mask(1, caches[0].keys.shape[2], count)
        logits, caches = self._write(token[:, None], memory, mask, caches, count)
        return logits[:, 0], (caches, count + 1)

    def _write(
        self,
        before: Array,
        memory: Memory,
        mask: Array,
        caches: Sequence[KeyValue] | None = None,
        start: Array | int = 0,
        train: bool = False,
        dropout: Rate = None,
    ) -> tuple[Array, tuple[KeyValue, ...]]:
        """Logits [B, T, V], and each decoder block's keys and values."""
        rate = self.shape.dropout if dropout is None else dropout
        x = self.drop(self.target_place(self._scaled(self.target_embedding(before)), start), train, rate)
        seen = padding_mask(memory.valid)
        kept = []
        for number, block in enumerate(self.decoder):
            cache = None if caches is None else caches[number]
            x, found = block(x, mask, cache, start, memory.layers[number], seen, train, rate)
            kept.append(found)
        x = self.decoder_norm(x) if self.shape.norm == "pre" else x
        return over_positions(self.target_embedding.attend if self.tied else self.scores, x), tuple(kept)

    def _scaled(self, x: Array) -> Array:
        return x * math.sqrt(self.shape.features) if self.shape.positions == "sinusoidal" else x
