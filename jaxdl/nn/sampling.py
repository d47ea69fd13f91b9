"""Choosing the next token: temperature, top-k, top-p, and generation inside one program.

Shapes: `B` texts, `V` tokens of the vocabulary, `N` tokens generated.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

Array = jax.Array
Decode = Callable[[Array, Any], tuple[Array, Any]]


def restrict_logits(logits: Array, top_k: Array | int = 0, top_p: Array | float = 1.0) -> Array:
    """Logits with -inf for the tokens that are not to be chosen.

    Of the tokens by falling probability (of equal ones the lower number first) those stay that are among the first
    top_k (Fan et al. 2018) and before which less than top_p of the probability lies: the smallest set that holds top_p
    (nucleus sampling, Holtzman et al. 2020). The most probable token always stays. Apply the temperature before.

    Args:
      logits: [B, V].
      top_k: how many; 0: all. May be traced.
      top_p: in (0, 1]; 1: all. May be traced.

    Returns:
      [B, V] float32.
    """
    logits = logits.astype(jnp.float32)
    order = jnp.argsort(-logits, axis=-1, stable=True)
    rank = jnp.argsort(order, axis=-1)
    sorted_p = jnp.take_along_axis(jax.nn.softmax(logits), order, axis=-1)
    before = jnp.take_along_axis(jnp.cumsum(sorted_p, axis=-1) - sorted_p, rank, axis=-1)
    kept = jnp.where(jnp.asarray(top_k) > 0, rank < jnp.asarray(top_k), True)
    # not before < 1: rounding may bring the sum of the others to one, and top_p = 1 means all
    kept &= jnp.where(jnp.asarray(top_p) < 1.0, before < jnp.asarray(top_p), True) | (rank == 0)
    return jnp.where(kept, logits, -jnp.inf)


def sample_token(
    logits: Array, keys: Array, temperature: Array | float = 1.0, top_k: Array | int = 0, top_p: Array | float = 1.0
) -> Array:
    """Draws a token of each row from softmax(logits / temperature), restricted by `restrict_logits`.

    Args:
      logits: [B, V].
      keys: [B], one key per row, so that a row's draw does not depend on the others.
      temperature: >= 0; 0: the most probable token. May be traced.
      top_k: see `restrict_logits`.
      top_p: likewise.

    Returns:
      [B] int32.
    """
    temperature = jnp.asarray(temperature, jnp.float32)
    scaled = logits.astype(jnp.float32) / jnp.where(temperature > 0, temperature, 1.0)
    drawn = jax.vmap(jax.random.categorical)(keys, restrict_logits(scaled, top_k, top_p))
    return jnp.where(temperature > 0, drawn, jnp.argmax(logits, axis=-1)).astype(jnp.int32)


def generate(
    decode: Decode, logits: Array, carry: Any, keys: Array, start: Array | int, length: int, **choice: Any
) -> tuple[Array, Array, Any]:
    """N tokens, one after another, each chosen from what the model says after those before it.

    Args:
      decode: (tokens [B] int32, carry) -> (logits [B, V] of the next token, carry).
      logits: [B, V] of the first token.
      carry: the model's memory of what came before: a recurrent state, a cache of keys and values.
      keys: [B]; token number i of a row is drawn with fold_in(its key, i).
      start: number of the first token, so that a text made in pieces is the text made at once.
      length: N; static.
      **choice: temperature, top_k and top_p of `sample_token`.

    Returns:
      tokens [B, N] int32, and the logits and carry to go on with.
    """

    def step(state: tuple[Array, Any], i: Array) -> tuple[tuple[Array, Any], Array]:
        logits, carry = state
        token = sample_token(logits, jax.vmap(jax.random.fold_in, (0, None))(keys, i), **choice)
        return decode(token, carry), token

    numbers = jnp.asarray(start, jnp.int32) + jnp.arange(length, dtype=jnp.int32)
    (logits, carry), tokens = lax.scan(step, (logits, carry), numbers)
    return tokens.T, logits, carry
