"""Initialisers that Flax has not, or not in a form that works under `vmap` on CPU."""

import math
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

Array = jax.Array


def orthogonal(scale: float = 1.0) -> Callable[..., Array]:
    """Random matrices with orthonormal columns (or rows, where there are fewer), times `scale`.

    Saxe, McClelland, Ganguli: Exact solutions to the nonlinear dynamics of learning in deep linear networks, 2014. The
    same distribution as `flax.linen.initializers.orthogonal`, uniform over all such matrices, but by Gram-Schmidt
    instead of LAPACK's QR, which deadlocks under `vmap` on XLA:CPU.

    Returns:
      (key, shape [..., in, out], dtype) -> array; all axes but the last are the matrix's rows.

    Raises:
      ValueError: by the initialiser that is returned, for a shape of fewer than two axes.
    """

    def init(key: Array, shape: Sequence[int], dtype: Any = jnp.float32) -> Array:
        if len(shape) < 2:
            raise ValueError(f"an orthogonal matrix has at least two axes, got shape {tuple(shape)}")
        rows, columns = math.prod(shape[:-1]), shape[-1]
        long, short = max(rows, columns), min(rows, columns)
        basis = gram_schmidt(jax.random.normal(key, (short, long), jnp.float32))
        matrix = basis.T if rows >= columns else basis
        return (scale * matrix).reshape(shape).astype(dtype)

    return init


def gram_schmidt(vectors: Array) -> Array:
    """Orthonormal rows that span the same space as the rows of `vectors` [K, N], K <= N, row by row.

    Each row is made orthogonal to those before it twice, which leaves no more than rounding (Giraud et al. 2005).
    The result is Q of the QR factorisation whose R has a positive diagonal, transposed.
    """

    def body(k: Array, basis: Array) -> Array:
        row = vectors[k]
        for _ in range(2):
            row = row - (basis @ row) @ basis  # rows from k on are still zero
        return basis.at[k].set(row / jnp.linalg.norm(row))

    return lax.fori_loop(0, vectors.shape[0], body, jnp.zeros_like(vectors))
