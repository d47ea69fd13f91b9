"""Levenshtein's distance inside the XLA program: how many symbols a hypothesis has wrong."""

import jax
import jax.numpy as jnp
from jax import lax

Array = jax.Array


def edit_distance(hypothesis: Array, kept: Array, reference: Array, counts: Array) -> Array:
    """Fewest insertions, deletions and substitutions that turn each hypothesis into its reference.

    d[i, j] = min(d[i-1, j] + 1, d[i, j-1] + 1, d[i-1, j-1] + [h_i ≠ r_j]). A row of the table is made at once: with m
    the minimum over the first and the last case, d[i, j] = j + min_{k <= j} (m_k - k). Levenshtein 1966.

    Args:
      hypothesis: int [B, T].
      kept: bool [B, T], which of them count; the others are skipped, so that frames need not be packed.
      reference: int [B, L]; what lies behind its count is ignored.
      counts: int [B], symbols of each reference, 0 ... L.

    Returns:
      int32 [B].
    """
    places = jnp.arange(reference.shape[1] + 1)

    def add(row: Array, symbol: tuple[Array, Array]) -> tuple[Array, None]:
        value, keep = symbol
        diagonal = row[:, :-1] + (reference != value[:, None])
        best = jnp.concatenate([row[:, :1] + 1, jnp.minimum(row[:, 1:] + 1, diagonal)], axis=1)
        new = places + lax.cummin(best - places, axis=1)
        return jnp.where(keep[:, None], new, row), None

    first = jnp.broadcast_to(places, (reference.shape[0], len(places))).astype(jnp.int32)
    row, _ = lax.scan(add, first, (hypothesis.T, kept.T))
    return jnp.take_along_axis(row, counts[:, None].astype(jnp.int32), axis=1)[:, 0]
