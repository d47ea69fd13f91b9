"""Cross entropy and its relatives against float64, PyTorch and their identities, also for extreme logits."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import special

from jaxdl.objectives.classification import (
    accuracy,
    bernoulli_nll,
    binary_accuracy,
    error,
    softmax_cross_entropy,
    top_k_accuracy,
)
from jaxdl.target import compiling_for

RNG = np.random.default_rng(0)
LOGITS = RNG.normal(size=(8, 5)) * 3
LABELS = RNG.integers(0, 5, 8)


def reference(logits, labels, smoothing=0.0):
    log_p = special.log_softmax(np.asarray(logits, np.float64), axis=-1)
    q = (1 - smoothing) * np.eye(log_p.shape[-1])[labels] + smoothing / log_p.shape[-1]
    return -(q * log_p).sum(axis=-1)


@pytest.mark.smoke
@pytest.mark.parametrize("smoothing", [0.0, 0.1, 0.9])
def test_cross_entropy_in_float64(smoothing):
    expected = reference(LOGITS, LABELS, smoothing)
    found = softmax_cross_entropy(jnp.float32(LOGITS), jnp.asarray(LABELS), smoothing)
    np.testing.assert_allclose(found, expected, rtol=2e-6)
    traced = jax.jit(softmax_cross_entropy)(jnp.float32(LOGITS), jnp.asarray(LABELS), jnp.float32(smoothing))
    np.testing.assert_allclose(traced, expected, rtol=2e-6)


def test_cross_entropy_of_sequences_and_in_pytorch():
    torch = pytest.importorskip("torch", reason="the oracle PyTorch is not installed")
    logits, labels = RNG.normal(size=(3, 7, 5)), RNG.integers(0, 5, (3, 7))
    found = softmax_cross_entropy(jnp.float32(logits), jnp.asarray(labels), 0.2)
    expected = torch.nn.functional.cross_entropy(
        torch.tensor(logits).movedim(-1, 1), torch.tensor(labels), reduction="none", label_smoothing=0.2
    )
    np.testing.assert_allclose(found, expected.numpy(), rtol=1e-5)


@pytest.mark.parametrize("smoothing", [0.0, 0.3])
def test_gradient_of_softmax_and_cross_entropy_is_p_minus_q(smoothing):
    gradient = jax.grad(lambda z: softmax_cross_entropy(z, jnp.asarray(LABELS), smoothing).sum())(jnp.float32(LOGITS))
    q = (1 - smoothing) * np.eye(5)[LABELS] + smoothing / 5
    np.testing.assert_allclose(gradient, special.softmax(LOGITS, axis=-1) - q, atol=1e-6)


@pytest.mark.parametrize(("smoothing", "offset"), [(0.0, 0.0), (0.3, 0.0), (0.3, 1e4)])
def test_a_gpus_form_for_many_classes_is_the_same_function(smoothing, offset):
    """Gradients by the logits and by the smoothing, a label that does not exist, logits of a forbidden class, large ones."""
    logits = jnp.float32(RNG.normal(size=(3, 4, 1500)) * 5 + offset).at[0, 0, 7].set(-jnp.inf)
    labels = jnp.asarray(RNG.integers(8, 1500, (3, 4))).at[1, 1].set(1500)
    weights = jnp.float32(RNG.normal(size=(3, 4)))

    def total(z, s):
        losses = softmax_cross_entropy(z, labels, s)
        if smoothing:
            losses = losses.at[0, 0].set(0.0)  # infinite there
        return (jnp.where(jnp.isnan(losses), 0.0, losses) * weights).sum(), losses

    def found():
        return jax.value_and_grad(total, (0, 1), has_aux=True)(logits, jnp.float32(smoothing))

    (wanted, plain), plain_gradients = found()
    with compiling_for("gpu"):
        (ours, losses), gradients = found()
    assert np.isnan(losses[1, 1]) and np.isnan(plain[1, 1])
    np.testing.assert_allclose(ours, wanted, rtol=1e-5)
    np.testing.assert_allclose(losses, plain, rtol=1e-5)
    np.testing.assert_allclose(gradients[1], plain_gradients[1], rtol=1e-4)
    np.testing.assert_allclose(gradients[0], plain_gradients[0], atol=1e-6)


def test_softmax_jacobian():
    """ds_i / dz_j = s_i (delta_ij - s_j), and its product with the gradient of -log s_y is s - y."""
    s = special.softmax(LOGITS[0])
    jacobian = jax.jacobian(jax.nn.softmax)(jnp.float32(LOGITS[0]))
    np.testing.assert_allclose(jacobian, np.diag(s) - np.outer(s, s), atol=1e-6)
    np.testing.assert_allclose(np.asarray(jacobian).sum(axis=0), 0, atol=1e-6)  # probabilities stay normalised


@pytest.mark.parametrize("shift", [-1e4, 100.0, 1e4])
def test_shift_invariance_and_extreme_logits(shift):
    quarter = np.round(LOGITS * 4) / 4  # still exact in float32 after adding 1e4
    base = softmax_cross_entropy(jnp.float32(quarter), jnp.asarray(LABELS))
    moved = softmax_cross_entropy(jnp.float32(quarter + shift), jnp.asarray(LABELS))
    np.testing.assert_array_equal(moved, base)


def test_stable_at_ten_thousand():
    logits = jnp.float32([[1e4, -1e4, 0.0], [1e4, -1e4, 0.0], [-1e4, -1e4, -1e4]])
    labels = jnp.asarray([0, 1, 2])
    value, gradient = jax.value_and_grad(lambda z: softmax_cross_entropy(z, labels).sum())(logits)
    np.testing.assert_allclose(softmax_cross_entropy(logits, labels), [0, 2e4, np.log(3)], rtol=1e-6)
    np.testing.assert_allclose(gradient, [[0, 0, 0], [1, -1, 0], [1 / 3, 1 / 3, -2 / 3]], atol=1e-6)
    assert np.isfinite(value)
    bound = jax.nn.logsumexp(logits, axis=-1) - logits.max(axis=-1)  # max <= logsumexp <= max + log K
    assert (np.asarray(bound) >= 0).all() and (np.asarray(bound) <= np.log(3) + 1e-3).all()


def test_bfloat16_logits_are_computed_in_float32():
    logits = jnp.asarray(LOGITS, jnp.bfloat16)
    found = softmax_cross_entropy(logits, jnp.asarray(LABELS))
    assert found.dtype == jnp.float32
    np.testing.assert_allclose(found, reference(logits.astype(jnp.float32), LABELS), rtol=1e-5)
    extreme = softmax_cross_entropy(jnp.asarray([[1e4, -1e4]], jnp.bfloat16), jnp.asarray([1]))
    np.testing.assert_allclose(extreme, 2e4, rtol=1e-2)
    units = bernoulli_nll(logits, jnp.ones_like(logits))
    assert units.dtype == jnp.float32


def test_forbidden_classes_and_wrong_labels():
    """A logit of -inf is a class that cannot be; labels outside [0, K) are noticed."""
    logits = jnp.float32([[1.0, -jnp.inf, 2.0]])
    value, gradient = jax.value_and_grad(lambda z: softmax_cross_entropy(z, jnp.asarray([0])).sum())(logits)
    np.testing.assert_allclose(value, np.log(1 + np.e), rtol=1e-6)
    p = 1 / (1 + np.e)
    np.testing.assert_allclose(gradient, [[p - 1, 0, 1 - p]], atol=1e-6)
    assert np.isnan(softmax_cross_entropy(jnp.zeros((2, 3)), jnp.asarray([-1, 3]))).all()


def test_loss_is_zero_only_at_certainty():
    assert (np.asarray(softmax_cross_entropy(jnp.float32(LOGITS), jnp.asarray(LABELS))) > 0).all()
    assert float(softmax_cross_entropy(jnp.float32([[200.0, 0.0]]), jnp.asarray([0]))[0]) == 0.0


def test_two_classes_are_one_sigmoid():
    """softmax((0, z)) and cross entropy are the sigmoid of z and its negative log-likelihood, gradients too."""
    z, labels = jnp.asarray(RNG.normal(size=64) * 5, jnp.float32), jnp.asarray(RNG.integers(0, 2, 64))

    def by_softmax(z):
        return softmax_cross_entropy(jnp.stack([jnp.zeros_like(z), z], axis=-1), labels)

    def by_sigmoid(z):
        return bernoulli_nll(z, labels.astype(jnp.float32))

    np.testing.assert_allclose(by_softmax(z), by_sigmoid(z), rtol=1e-5, atol=1e-6)
    ours, theirs = (jax.grad(lambda z, f=f: f(z).sum())(z) for f in (by_softmax, by_sigmoid))
    np.testing.assert_allclose(ours, theirs, atol=1e-6)


def test_bernoulli_nll_in_float64_and_scipy():
    from scipy import stats

    logits, targets = RNG.normal(size=(6, 2, 3)) * 4, RNG.integers(0, 2, (6, 2, 3))
    expected = -stats.bernoulli.logpmf(targets, special.expit(logits)).sum(axis=(1, 2))
    np.testing.assert_allclose(bernoulli_nll(jnp.float32(logits), jnp.asarray(targets)), expected, rtol=1e-5)
    soft = RNG.uniform(size=(6, 2, 3))
    gradient = jax.grad(lambda z: bernoulli_nll(z, jnp.float32(soft)).sum())(jnp.float32(logits))
    np.testing.assert_allclose(gradient, special.expit(logits) - soft, atol=1e-6)


def test_bernoulli_nll_keeps_its_digits_at_every_size():
    logits = np.linspace(-80, 80, 4001).astype(np.float32)[:, None]
    found = jax.jit(bernoulli_nll)(jnp.asarray(logits), jnp.ones_like(logits))
    np.testing.assert_allclose(found, np.logaddexp(0, -logits[:, 0].astype(np.float64)), rtol=1e-6)


def test_bernoulli_nll_in_the_tails():
    z = jnp.float32([1e4, -1e4, 1e4, -1e4, 30.0])
    t = jnp.float32([1, 0, 0, 1, 1])
    values = bernoulli_nll(z, t)
    np.testing.assert_allclose(values, [0, 0, 1e4, 1e4, np.log1p(np.exp(-30))], rtol=1e-6)
    gradient = jax.grad(lambda z: bernoulli_nll(z, t).sum())(z)
    np.testing.assert_allclose(gradient[:4], [0, 0, 1, -1], atol=1e-7)


def test_squared_error_saturates_where_cross_entropy_does_not():
    """A sigmoid unit that is surely wrong (z = 10, target 0): MSE's gradient is 2 p sigma' ~ 1e-4, CE's is 1."""
    z, t = jnp.float32([10.0]), jnp.float32([0.0])
    by_mse = jax.grad(lambda z: jnp.sum((jax.nn.sigmoid(z) - t) ** 2))(z)
    by_ce = jax.grad(lambda z: bernoulli_nll(z, t).sum())(z)
    p = special.expit(10.0)
    np.testing.assert_allclose(by_mse, 2 * p * p * (1 - p), rtol=1e-3)
    np.testing.assert_allclose(by_ce, p, rtol=1e-6)


def test_accuracy_and_top_k():
    sklearn = pytest.importorskip("sklearn.metrics", reason="scikit-learn is not installed")
    logits, labels = RNG.normal(size=(200, 7)), RNG.integers(0, 7, 200)
    for k in (1, 2, 3, 6):
        found = top_k_accuracy(jnp.float32(logits), jnp.asarray(labels), k)
        expected = sklearn.top_k_accuracy_score(labels, logits, k=k, normalize=False)
        assert float(found.sum()) == expected
    np.testing.assert_array_equal(accuracy(jnp.float32(logits), jnp.asarray(labels)), logits.argmax(1) == labels)
    np.testing.assert_array_equal(error(jnp.float32(logits), jnp.asarray(labels)), logits.argmax(1) != labels)
    assert accuracy(jnp.zeros((2, 3, 4)), jnp.zeros((2, 3), int)).shape == (2, 3)


def test_ties_and_nan_are_not_rewarded():
    labels = jnp.arange(4)
    np.testing.assert_array_equal(accuracy(jnp.zeros((4, 4)), labels), [1, 0, 0, 0])
    np.testing.assert_array_equal(top_k_accuracy(jnp.zeros((4, 4)), labels, 2), [1, 1, 0, 0])
    assert float(top_k_accuracy(jnp.full((4, 4), jnp.nan), labels, 3).sum()) == 0
    assert float(top_k_accuracy(jnp.zeros((2, 4)), jnp.asarray([-1, 4]), 4).sum()) == 0
    with pytest.raises(ValueError, match="k must be between"):
        top_k_accuracy(jnp.zeros((1, 3)), jnp.zeros(1, int), 4)


def test_binary_accuracy_and_shapes():
    logits = jnp.float32([[1.0, -1.0], [jnp.nan, 2.0]])
    np.testing.assert_allclose(binary_accuracy(logits, jnp.float32([[1, 1], [1, 1]])), [0.5, 0.5])
    with pytest.raises(ValueError, match="one shape"):
        bernoulli_nll(jnp.zeros((3, 1)), jnp.zeros(3))
