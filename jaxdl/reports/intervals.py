"""What several seeds say together: means with Student-t intervals, and proportions with Wilson intervals."""

import warnings

import numpy as np


def interval_over_seeds(values: np.ndarray, confidence: float = 0.95) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Mean over seeds and the half-width of its Student-t interval, t_{n-1} s / sqrt(n).

    Args:
      values: [S, ...], S seeds; NaN where a seed has no value (it stopped earlier).
      confidence: coverage, in (0, 1).

    Returns:
      (mean, half-width, n), each [...]: n is how many seeds have a value; the mean is NaN where n = 0, the half-width
      where n < 2.
    """
    from scipy.special import stdtrit

    values = np.asarray(values, float)
    count = np.isfinite(values).sum(axis=0)
    masked = np.where(np.isfinite(values), values, np.nan)
    with warnings.catch_warnings(), np.errstate(invalid="ignore", divide="ignore"):
        warnings.simplefilter("ignore", RuntimeWarning)  # columns without any value
        mean = np.nanmean(masked, axis=0)
        deviation = np.sqrt(np.nansum((masked - mean) ** 2, axis=0) / (count - 1))
        half = np.where(
            count > 1, stdtrit(np.maximum(count - 1, 1), 0.5 + confidence / 2) * deviation / np.sqrt(count), np.nan
        )
    return mean, half, count


def wilson_interval(
    successes: np.ndarray, trials: np.ndarray, confidence: float = 0.95
) -> tuple[np.ndarray, np.ndarray]:
    """Interval of a proportion, right also near 0 and 1 (Wilson 1927).

    Args:
      successes: counts, any shape.
      trials: counts of the same shape.
      confidence: coverage, in (0, 1).

    Returns:
      (low, high) in [0, 1]; NaN where there are no trials.
    """
    from scipy.special import ndtri

    z = ndtri(0.5 + confidence / 2)
    trials = np.asarray(trials, float)
    with np.errstate(invalid="ignore", divide="ignore"):
        share = np.where(trials > 0, np.asarray(successes, float) / trials, np.nan)
        centre = share + z**2 / (2 * trials)
        half = z * np.sqrt(share * (1 - share) / trials + z**2 / (4 * trials**2))
        scale = 1 + z**2 / trials
        return np.clip((centre - half) / scale, 0, 1), np.clip((centre + half) / scale, 0, 1)
