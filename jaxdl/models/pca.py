"""Principal components from moments that are gathered batch by batch, without LAPACK."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from jaxdl.nn.initializers import gram_schmidt

Array = jax.Array


class Moments(NamedTuple):
    """Moments of the examples seen so far: `seen` their number, `mean` [D], `scatter` [D, D] = Σ (x − mean)(x − mean)ᵀ."""

    seen: Array
    mean: Array
    scatter: Array

    @classmethod
    def none(cls, size: int) -> "Moments":
        """Those of no example of `size` values."""
        return cls(jnp.zeros(()), jnp.zeros((size,)), jnp.zeros((size, size)))

    def merged(self, other: "Moments") -> "Moments":
        """Those of both sets together (Chan, Golub & LeVeque 1979), which keeps its digits where sums of squares do not."""
        seen = self.seen + other.seen
        share = other.seen / jnp.maximum(seen, 1.0)
        shift = other.mean - self.mean
        between = (self.seen * share) * jnp.outer(shift, shift)
        return Moments(seen, self.mean + share * shift, self.scatter + other.scatter + between)


def batch_moments(x: Array, mask: Array, axis: str | None = None) -> Moments:
    """Moments of the rows of x [B, D] where mask [B] is one, over all devices of pmap's `axis`."""

    def summed(values: Array) -> Array:
        return values if axis is None else lax.psum(values, axis)

    count = summed(mask.sum())
    mean = summed(mask @ x) / jnp.maximum(count, 1.0)
    centred = (x - mean) * mask[:, None]
    return Moments(count, mean, summed(centred.T @ centred))


def principal_components(scatter: Array, components: int, iterations: int = 200) -> Array:
    """The leading eigenvectors of a symmetric positive matrix as rows, by orthogonal iteration.

    Golub & Van Loan, Matrix Computations, 8.2.4. It works with twice as many vectors as are wanted, so that the wanted
    space converges like (λ_2K / λ_K)^iterations; within it neighbours of nearly equal eigenvalue may stay mixed. No
    LAPACK, which deadlocks under `vmap` on XLA:CPU.

    Args:
      scatter: [D, D].
      components: K, at most D.
      iterations: products with the matrix.

    Returns:
      Orthonormal rows [K, D].
    """
    size = scatter.shape[0]
    # a little of the identity keeps full rank, or rows beyond the rank would be rounding noise
    matrix = scatter / jnp.maximum(jnp.trace(scatter), 1e-30) + 1e-6 * jnp.eye(size)
    start = jax.random.normal(jax.random.key(0), (min(2 * components, size), size))
    basis = lax.fori_loop(0, iterations, lambda _, rows: gram_schmidt(rows @ matrix), gram_schmidt(start))
    return basis[:components]


def project(mean: Array, components: Array, x: Array) -> tuple[Array, Array]:
    """Codes [B, K] and reconstructions [B, D] of x [B, D] with the mean [D] and orthonormal rows `components` [K, D]."""
    code = (x - mean) @ components.T
    return code, mean + code @ components


def fit_pca(x: np.ndarray, components: int) -> tuple[np.ndarray, np.ndarray]:
    """Mean [D] and orthonormal components [K, D] of x [n, D] in closed form, on the host, for comparison in reports."""
    mean = x.mean(axis=0, dtype=np.float64).astype(np.float32)
    centred = x - mean
    _, vectors = np.linalg.eigh((centred.T @ centred).astype(np.float64))
    return mean, vectors[:, ::-1][:, :components].T.astype(np.float32)
