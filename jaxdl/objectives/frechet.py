"""The Fréchet distance between two Gaussians, and between two sets of features as if they were Gaussian."""

from dataclasses import dataclass
from typing import Any

import numpy as np


@dataclass(frozen=True)
class Gaussian:
    """Mean [D] and covariance [D, D], float64."""

    mean: np.ndarray
    covariance: np.ndarray

    @classmethod
    def of(cls, features: Any) -> "Gaussian":
        """Mean and unbiased covariance of features [n, D].

        Raises:
          ValueError: fewer than two rows, or values that are not finite.
        """
        values = np.asarray(features, np.float64)
        if values.ndim != 2 or len(values) < 2 or not np.isfinite(values).all():
            raise ValueError(f"moments need at least two rows of finite features [n, D], got shape {values.shape}")
        return cls(values.mean(0), np.cov(values, rowvar=False).reshape(values.shape[1], -1))


def frechet_distance(a: Gaussian, b: Gaussian) -> float:
    """d² = |μ_a − μ_b|² + Tr(Σ_a + Σ_b − 2 (Σ_a Σ_b)^½); Dowson and Landau 1982, Heusel et al. 2017 (FID).

    Σ_a Σ_b has the eigenvalues of the symmetric Σ_a^½ Σ_b Σ_a^½, so the trace of its root is the sum of their roots: two
    symmetric eigenvalue problems in float64, right also for singular covariances.

    Returns:
      d² ≥ 0, in squared units of the features.

    Raises:
      ValueError: if the Gaussians have different dimensions.
    """
    if a.mean.shape != b.mean.shape:
        raise ValueError(f"Gaussians of {a.mean.size} and {b.mean.size} dimensions cannot be compared")
    values, vectors = np.linalg.eigh(a.covariance)
    root = (vectors * np.sqrt(np.clip(values, 0.0, None))) @ vectors.T
    product = root @ b.covariance @ root
    shared = np.sqrt(np.clip(np.linalg.eigvalsh((product + product.T) / 2.0), 0.0, None)).sum()
    difference = a.mean - b.mean
    distance = difference @ difference + np.trace(a.covariance) + np.trace(b.covariance) - 2.0 * shared
    return max(float(distance), 0.0)
