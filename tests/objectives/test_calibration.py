"""Calibration: bins by hand, and the law that outcomes drawn from the stated probabilities are calibrated."""

import numpy as np
import pytest

from jaxdl.objectives.calibration import expected_calibration_error, reliability_bins


def two_class(confidence, right):
    """Class 0 is predicted with the given confidence and is right or wrong."""
    confidence = np.asarray(confidence)
    return np.stack([confidence, 1 - confidence], axis=1), np.where(right, 0, 1)


def test_bins_by_hand():
    probabilities, labels = two_class([0.55, 0.65, 0.7, 0.95, 1.0], [1, 0, 1, 1, 1])
    found = reliability_bins(probabilities, labels, bins=5)
    np.testing.assert_array_equal(found.examples, [0, 0, 1, 2, 2])  # 0.55 | 0.65 0.7 | 0.95 1.0
    np.testing.assert_allclose(found.confidence[2:], [0.55, 0.675, 0.975])
    np.testing.assert_allclose(found.accuracy[2:], [1, 0.5, 1])
    assert np.isnan(found.accuracy[:2]).all()
    expected = (1 * 0.45 + 2 * 0.175 + 2 * 0.025) / 5
    assert expected_calibration_error(probabilities, labels, bins=5) == pytest.approx(expected)


def test_borders_belong_to_the_lower_bin():
    probabilities, labels = two_class([0.5, 0.75, 1.0], [1, 1, 1])
    np.testing.assert_array_equal(reliability_bins(probabilities, labels, bins=4).examples, [0, 1, 1, 1])


def test_calibrated_and_overconfident_predictions():
    """Labels drawn from p have ECE ~ 0; the same labels under sharpened p have the mean gap as ECE."""
    rng = np.random.default_rng(0)
    p = rng.dirichlet(np.ones(4), 40_000)
    labels = (rng.uniform(size=(len(p), 1)) > p.cumsum(axis=1)).sum(axis=1)
    assert expected_calibration_error(p, labels) < 0.01
    sharp = p**3 / (p**3).sum(axis=1, keepdims=True)
    gap = (sharp.max(axis=1) - p.max(axis=1)).mean()
    assert expected_calibration_error(sharp, labels) == pytest.approx(gap, abs=0.01)
    sure = np.eye(4)[np.zeros(len(p), int)]
    assert expected_calibration_error(sure, labels) == pytest.approx(1 - (labels == 0).mean())


def test_bad_input_is_refused():
    with pytest.raises(ValueError, match="softmax"):
        reliability_bins(np.array([[3.0, -2.0]]), np.array([0]))
    with pytest.raises(ValueError, match=r"\[N, K\]"):
        reliability_bins(np.ones((3, 1)), np.zeros(2, int))
    with pytest.raises(ValueError, match="bins"):
        reliability_bins(np.ones((3, 1)), np.zeros(3, int), bins=0)
    with pytest.raises(ValueError, match="no examples"):
        expected_calibration_error(np.zeros((0, 3)), np.zeros(0, int))
