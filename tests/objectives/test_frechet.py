"""The Fréchet distance of Gaussians: closed forms, laws, and the matrix root of SciPy."""

import numpy as np
import pytest

from jaxdl.objectives.frechet import Gaussian, frechet_distance


def covariance(size, seed, rank=None):
    factor = np.random.default_rng(seed).normal(size=(size, rank or size))
    return factor @ factor.T


def test_the_closed_forms():
    """Equal: 0. Shifted: |shift|². Diagonal: Σ (σ_a − σ_b)². One dimension. All together."""
    a = Gaussian(np.zeros(4), covariance(4, 0))
    assert frechet_distance(a, a) == pytest.approx(0.0, abs=1e-9)
    shift = np.array([1.0, -2.0, 0.0, 2.0])
    assert frechet_distance(a, Gaussian(shift, a.covariance)) == pytest.approx(9.0)
    s, t = np.array([1.0, 2.0, 0.5, 0.0]), np.array([3.0, 2.0, 0.0, 1.0])
    wanted = ((s - t) ** 2).sum()
    assert frechet_distance(Gaussian(shift, np.diag(s**2)), Gaussian(shift, np.diag(t**2))) == pytest.approx(wanted)
    one = Gaussian(np.array([1.0]), np.array([[4.0]]))
    assert frechet_distance(one, Gaussian(np.array([4.0]), np.array([[25.0]]))) == pytest.approx(9.0 + 9.0)
    scaled = Gaussian(shift, 9.0 * a.covariance)
    assert frechet_distance(a, scaled) == pytest.approx(9.0 + 4.0 * np.trace(a.covariance))


@pytest.mark.parametrize("rank", [6, 3])
def test_against_the_matrix_root_of_scipy(rank):
    linalg = pytest.importorskip("scipy.linalg", reason="SciPy is the oracle")
    a = Gaussian(np.arange(6.0), covariance(6, 1))
    b = Gaussian(np.ones(6), covariance(6, 2, rank) + 1e-8 * np.eye(6))
    root = linalg.sqrtm(a.covariance @ b.covariance).real
    wanted = ((a.mean - b.mean) ** 2).sum() + np.trace(a.covariance + b.covariance - 2 * root)
    assert frechet_distance(a, b) == pytest.approx(wanted, rel=1e-6)


def test_it_is_symmetric_invariant_and_a_squared_metric():
    gaussians = [Gaussian(np.random.default_rng(k).normal(size=5), covariance(5, k, 3)) for k in range(3)]
    rotation = np.linalg.qr(np.random.default_rng(9).normal(size=(5, 5)))[0]
    turned = [Gaussian(rotation @ g.mean + 2.0, rotation @ g.covariance @ rotation.T) for g in gaussians]
    d = np.array([[frechet_distance(a, b) for b in gaussians] for a in gaussians])
    np.testing.assert_allclose(d, d.T, rtol=1e-6)
    np.testing.assert_allclose(d, [[frechet_distance(a, b) for b in turned] for a in turned], rtol=1e-6, atol=1e-7)
    root = np.sqrt(d)
    assert root[0, 1] <= root[0, 2] + root[2, 1]


def test_moments_are_numpys_and_bad_features_are_refused():
    features = np.random.default_rng(0).normal(size=(50, 3)).astype(np.float32)
    found = Gaussian.of(features)
    np.testing.assert_allclose(found.mean, features.astype(float).mean(0))
    np.testing.assert_allclose(found.covariance, np.cov(features.astype(float).T))
    assert Gaussian.of(features[:, :1]).covariance.shape == (1, 1)
    for bad in (features[:1], features[0], np.full((5, 2), np.nan)):
        with pytest.raises(ValueError, match="two rows of finite features"):
            Gaussian.of(bad)
    with pytest.raises(ValueError, match="3 and 1 dimensions"):
        frechet_distance(found, Gaussian.of(features[:, :1]))
