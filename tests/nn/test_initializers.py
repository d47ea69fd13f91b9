"""Orthogonal matrices against their definition and NumPy's QR."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxdl.nn.initializers import gram_schmidt, orthogonal

KEY = jax.random.key(0)


@pytest.mark.parametrize("shape", [(64, 64), (300, 16), (16, 300), (3, 3, 4, 16), (1, 5), (5, 1)])
def test_the_shorter_side_is_orthonormal(shape):
    matrix = np.asarray(orthogonal(2.0)(KEY, shape), np.float64).reshape(-1, shape[-1])
    short = matrix if matrix.shape[0] <= matrix.shape[1] else matrix.T
    np.testing.assert_allclose(short @ short.T, 4.0 * np.eye(len(short)), atol=1e-5)


def test_gram_schmidt_is_qr_with_a_positive_diagonal():
    vectors = np.asarray(jax.random.normal(KEY, (20, 50)))
    q, r = np.linalg.qr(vectors.T.astype(np.float64))
    np.testing.assert_allclose(gram_schmidt(jnp.asarray(vectors)), (q * np.sign(np.diag(r))).T, atol=1e-5)


def test_nearly_dependent_vectors_still_become_orthogonal():
    base = np.asarray(jax.random.normal(KEY, (1, 40)))
    vectors = base + 1e-3 * np.asarray(jax.random.normal(jax.random.key(1), (12, 40)))
    basis = np.asarray(gram_schmidt(jnp.asarray(vectors)), np.float64)
    np.testing.assert_allclose(basis @ basis.T, np.eye(12), atol=1e-5)


def test_it_works_under_vmap_and_seeds_differ():
    keys = jax.random.split(KEY, 3)
    many = jax.jit(jax.vmap(lambda key: orthogonal()(key, (30, 30))))(keys)
    for key, one in zip(keys, many, strict=True):
        np.testing.assert_allclose(one, orthogonal()(key, (30, 30)), atol=1e-5)
    assert np.abs(many[0] - many[1]).max() > 0.1


def test_the_distribution_has_no_preferred_direction():
    many = np.asarray(jax.vmap(lambda key: orthogonal()(key, (3, 3)))(jax.random.split(KEY, 4000)))
    assert np.abs(many.mean(axis=0)).max() < 0.04  # a QR without the sign's correction has a diagonal of one sign
    np.testing.assert_allclose(np.square(many).mean(axis=0), 1 / 3, atol=0.03)


def test_a_vector_is_refused():
    with pytest.raises(ValueError, match="two axes"):
        orthogonal()(KEY, (5,))
