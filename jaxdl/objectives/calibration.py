"""Whether a classifier's confidence equals its accuracy; NumPy, on the host."""

from typing import NamedTuple

import numpy as np


class ReliabilityBins(NamedTuple):
    """The reliability diagram's numbers, one entry per bin of confidence.

    Attributes:
      edges: [M + 1] borders in [0, 1]; bin m holds edges[m] < confidence <= edges[m + 1], the first one also 0.
      examples: [M] int, how many fell into the bin.
      confidence: [M] mean confidence; NaN in an empty bin.
      accuracy: [M] share of right answers; NaN in an empty bin.
    """

    edges: np.ndarray
    examples: np.ndarray
    confidence: np.ndarray
    accuracy: np.ndarray


def reliability_bins(probabilities: np.ndarray, labels: np.ndarray, bins: int = 15) -> ReliabilityBins:
    """Sorts predictions into bins of equal width by the confidence of the predicted class.

    Args:
      probabilities: [N, K], rows sum to one.
      labels: int [N] in [0, K).
      bins: M, number of bins.

    Raises:
      ValueError: shapes do not fit, rows are no distributions, or there is no bin.
    """
    probabilities, labels = np.asarray(probabilities, np.float64), np.asarray(labels)
    if bins < 1:
        raise ValueError(f"bins must be at least 1, got {bins}")
    if probabilities.ndim != 2 or labels.shape != probabilities.shape[:1]:
        raise ValueError(f"probabilities must be [N, K] and labels [N]; got {probabilities.shape} and {labels.shape}")
    if not np.allclose(probabilities.sum(axis=1), 1, atol=1e-2) or (probabilities < 0).any():
        raise ValueError("each row of probabilities must be non-negative and sum to one: apply softmax to logits first")
    confidence = probabilities.max(axis=1)
    right = probabilities.argmax(axis=1) == labels
    edges = np.linspace(0, 1, bins + 1)
    index = np.clip(np.searchsorted(edges, confidence, side="left") - 1, 0, bins - 1)
    count = np.bincount(index, minlength=bins)
    with np.errstate(invalid="ignore"):
        return ReliabilityBins(
            edges=edges,
            examples=count,
            confidence=np.bincount(index, confidence, bins) / count,
            accuracy=np.bincount(index, right, bins) / count,
        )


def expected_calibration_error(probabilities: np.ndarray, labels: np.ndarray, bins: int = 15) -> float:
    """ECE = sum_m (n_m / N) |accuracy_m - confidence_m|, in [0, 1]  (Guo et al. 2017, eq. 5); arguments as above.

    Raises:
      ValueError: as `reliability_bins`; or there is no example.
    """
    found = reliability_bins(probabilities, labels, bins)
    if found.examples.sum() == 0:
        raise ValueError("the calibration error of no examples is not defined")
    filled = found.examples > 0
    gap = np.abs(found.accuracy[filled] - found.confidence[filled])
    return float((found.examples[filled] * gap).sum() / found.examples.sum())
