"""Decoding: the most probable continuation, greedily or with a beam, as pure functions inside one program.

Shapes: `B` rows, `K` hypotheses of each row, `V` tokens, `L` tokens at most.

A model is a function `decode(token, carry) -> (logits, carry)`: token [N] int32, logits [N, V] of the next one. Leaves of
the carry are [N, ...]; scalars (a position) are the same for all rows.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

Array = jax.Array
Decode = Callable[[Array, Any], tuple[Array, Any]]

_NEVER = -1e30


def greedy_search(decode: Decode, carry: Any, start: Array, length: int, end: int, pad: int = 0) -> tuple[Array, Array]:
    """The most probable token again and again.

    Args:
      decode: see above, N = B.
      carry: before the first token.
      start: [B] int32, what stands before the first token.
      length: L.
      end: token that ends a sequence.
      pad: what stands after it.

    Returns:
      tokens [B, L] int32 and log p [B] of each sequence up to its end.
    """

    def step(state, _):
        token, carry, ended, total = state
        logits, carry = decode(token, carry)
        log_p = jax.nn.log_softmax(logits.astype(jnp.float32))
        best = jnp.argmax(log_p, axis=-1).astype(jnp.int32)
        total = jnp.where(ended, total, total + log_p.max(axis=-1))
        token = jnp.where(ended, pad, best)
        return (token, carry, ended | (token == end), total), token

    rows = start.shape[0]
    state = (start.astype(jnp.int32), carry, jnp.zeros(rows, bool), jnp.zeros(rows, jnp.float32))
    (_, _, _, total), tokens = lax.scan(step, state, None, length=length)
    return tokens.T, total


def beam_search(
    decode: Decode,
    carry: Any,
    start: Array,
    beams: int,
    length: int,
    end: int,
    pad: int = 0,
    length_penalty: float = 0.0,
) -> tuple[Array, Array]:
    """The K best sequences among those whose every beginning was among the K best.

    A sequence that has ended keeps its place and its score log p. At the end sequences y are ranked by
    log p(y) / ((5 + |y|) / 6)^a with a the length penalty (Wu et al. 2016, equation 14), |y| with the end token.

    Args:
      decode: see above, N = B K, the hypotheses of a row next to one another.
      carry: of the B rows, before the first token.
      start: [B] int32.
      beams: K.
      length: L.
      end: token that ends a sequence.
      pad: what stands after it.
      length_penalty: a >= 0; 0 ranks by log p.

    Returns:
      tokens [B, K, L] int32, best first, and their ranking scores [B, K] (log p for a = 0). A place that no sequence
      fills, because there are fewer than K, has a score below -1e20.
    """
    rows, first_parent = start.shape[0], jnp.arange(start.shape[0])[:, None] * beams

    def repeat(leaf):
        return leaf if jnp.ndim(leaf) == 0 else jnp.repeat(leaf, beams, axis=0)

    def step(i, state):
        tokens, scores, ended, last, carry = state
        logits, carry = decode(last.reshape(-1), carry)
        log_p = jax.nn.log_softmax(logits.astype(jnp.float32)).reshape(rows, beams, -1)
        classes = log_p.shape[-1]
        only_pad = jnp.where(jnp.arange(classes) == pad, 0.0, _NEVER)
        totals = scores[..., None] + jnp.where(ended[..., None], only_pad, log_p)
        scores, chosen = lax.top_k(totals.reshape(rows, -1), beams)
        parent, last = chosen // classes, (chosen % classes).astype(jnp.int32)
        tokens = jnp.take_along_axis(tokens, parent[..., None], axis=1).at[:, :, i].set(last)
        ended = jnp.take_along_axis(ended, parent, axis=1) | (last == end)
        origin = (first_parent + parent).reshape(-1)
        carry = jax.tree.map(lambda leaf: leaf if jnp.ndim(leaf) == 0 else leaf[origin], carry)
        return tokens, scores, ended, last, carry

    # of K equal beginnings one alone may go on
    scores = jnp.broadcast_to(jnp.where(jnp.arange(beams) == 0, 0.0, _NEVER), (rows, beams)).astype(jnp.float32)
    state = (
        jnp.full((rows, beams, length), pad, jnp.int32),
        scores,
        jnp.zeros((rows, beams), bool),
        jnp.broadcast_to(start.astype(jnp.int32)[:, None], (rows, beams)),
        jax.tree.map(repeat, carry),
    )
    tokens, scores, *_ = lax.fori_loop(0, length, step, state)
    return ranked(tokens, scores, end, length_penalty) if length_penalty else (tokens, scores)


def ranked(tokens: Array, log_p: Array, end: int, length_penalty: float) -> tuple[Array, Array]:
    """Sequences [B, K, L] in the order of log p / ((5 + |y|) / 6)^a, best first, and that score [B, K]."""
    sizes = jnp.argmax(tokens == end, axis=-1) + 1
    sizes = jnp.where((tokens == end).any(axis=-1), sizes, tokens.shape[-1])
    scores = log_p / ((5.0 + sizes) / 6.0) ** length_penalty
    order = jnp.argsort(-scores, axis=-1, stable=True)
    tokens = jnp.take_along_axis(tokens, order[..., None], axis=1)
    return tokens, jnp.take_along_axis(scores, order, axis=1)
