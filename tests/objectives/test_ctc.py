"""CTC against optax, PyTorch and all paths written out; its decoders against all labellings; the edit distance."""

import itertools
import math

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxdl.objectives import ctc
from jaxdl.objectives.ctc import best_path, collapse
from jaxdl.objectives.edit_distance import edit_distance

# compiled once for a shape, where an eager call would compile each operation
ctc_loss = jax.jit(ctc.ctc_loss)
prefix_beam_search = jax.jit(ctc.prefix_beam_search, static_argnums=(2, 3))


def value_and_gradient(loss, logits):
    """(loss(logits), its gradient summed over the batch)."""
    (_, values), gradient = jax.jit(jax.value_and_grad(lambda z: (jnp.sum(v := loss(z)), v), has_aux=True))(logits)
    return values, gradient


def example(seed=0, batch=5, frames=12, outputs=6, longest=4, scale=2.0):
    """Logits, ragged frames, labels with repeats, ragged counts."""
    draw = np.random.default_rng(seed)
    logits = (scale * draw.normal(size=(batch, frames, outputs))).astype(np.float32)
    counts = draw.integers(0, longest + 1, batch).astype(np.int32)
    counts[0], counts[-1] = longest, 0
    labels = draw.integers(0, outputs - 1, (batch, longest)).astype(np.int32)
    labels[0, 1] = labels[0, 0]
    return logits, draw.integers(max(1, frames - 4), frames + 1, batch).astype(np.int32), labels, counts


def collapsed(path, blank):
    """M by its definition: merge repeats, then drop blanks."""
    merged = [symbol for symbol, _ in itertools.groupby(path)]
    return tuple(symbol for symbol in merged if symbol != blank)


def labellings(log_p):
    """P of every labelling, from the probabilities of all paths of log_p [T, C]."""
    found = {}
    blank = log_p.shape[1] - 1
    for path in itertools.product(range(blank + 1), repeat=len(log_p)):
        probability = math.exp(sum(log_p[t, symbol] for t, symbol in enumerate(path)))
        labels = collapsed(path, blank)
        found[labels] = found.get(labels, 0.0) + probability
    return found


def log_softmax(logits):
    shifted = np.asarray(logits, np.float64) - logits.max(-1, keepdims=True)
    return shifted - np.log(np.exp(shifted).sum(-1, keepdims=True))


def test_repeats_are_merged_before_blanks_are_dropped():
    a, b, blank = 0, 1, 2
    for path in ([a, a, blank, a, b, b], [a, blank, a, b, blank], [blank, a, a, blank, blank, a, b, b]):
        kept = np.asarray(collapse(jnp.array(path), blank))
        assert np.array(path)[kept].tolist() == [a, a, b]
        assert collapsed(path, blank) == (a, a, b)
    # without a blank between them two equal labels are one
    assert np.asarray(collapse(jnp.array([a, a, a, b]), blank)).sum() == 2


def test_loss_and_gradient_equal_optax_on_ragged_batches():
    logits, frames, labels, counts = example()
    blank = logits.shape[-1] - 1
    time = (np.arange(logits.shape[1]) >= frames[:, None]).astype(np.float32)
    behind = (np.arange(labels.shape[1]) >= counts[:, None]).astype(np.float32)

    def theirs(z):
        return optax.ctc_loss(z, time, labels, behind, blank_id=blank)

    def ours(z):
        return ctc_loss(z, frames, labels, counts)

    (value, gradient), (wanted, direction) = (value_and_gradient(each, logits) for each in (ours, theirs))
    np.testing.assert_allclose(value, wanted, rtol=1e-5)
    np.testing.assert_allclose(gradient, direction, atol=2e-5)
    assert np.all(gradient[np.arange(logits.shape[1]) >= frames[:, None]] == 0)


def test_loss_and_gradient_equal_pytorch():
    torch = pytest.importorskip("torch", reason="PyTorch is the oracle")
    logits, frames, labels, counts = example(seed=3, batch=7)
    z = torch.tensor(logits, requires_grad=True)
    log_p = torch.log_softmax(z, -1).transpose(0, 1)
    losses = torch.nn.functional.ctc_loss(
        log_p, *map(torch.tensor, (labels, frames, counts)), blank=logits.shape[-1] - 1, reduction="none"
    )
    losses.sum().backward()
    losses = losses.detach()
    values, gradient = value_and_gradient(lambda z: ctc_loss(z, frames, labels, counts), logits)
    np.testing.assert_allclose(values, losses.numpy(), rtol=1e-5)
    np.testing.assert_allclose(gradient, z.grad.numpy(), atol=2e-5)


def test_loss_is_the_sum_over_all_paths():
    logits, _, _, _ = example(seed=1, batch=1, frames=5, outputs=3)
    truth = labellings(log_softmax(logits)[0])
    assert sum(truth.values()) == pytest.approx(1.0)
    every = [labels for length in range(6) for labels in itertools.product(range(2), repeat=length)]
    padded = np.array([labels + (-1,) * (5 - len(labels)) for labels in every], np.int32)
    counts = np.array([len(labels) for labels in every], np.int32)
    losses = ctc_loss(np.repeat(logits, len(every), 0), np.full(len(every), 5, np.int32), padded, counts)
    for labels, loss in zip(every, np.asarray(losses), strict=True):
        # e.g. (0, 0, 0, 1) needs two blanks between: six frames
        assert math.exp(-loss) == pytest.approx(truth.get(labels, 0.0), rel=1e-4), labels
        assert np.isinf(loss) == (labels not in truth)


def test_impossible_strings_cost_infinity_without_a_gradient_and_wrong_labels_are_noticed():
    logits = np.zeros((5, 2, 3), np.float32)
    labels = np.array([[0, 0, -1], [0, 1, 0], [2, -1, -1], [-1, 0, 0], [0, 1, -1]], np.int32)
    counts = np.array([2, 3, 1, 1, 2], np.int32)

    def total(z):
        loss = ctc_loss(z, np.full(5, 2, np.int32), labels, counts)
        return jnp.where(jnp.isfinite(loss), loss, 0.0).sum(), loss

    gradient, losses = jax.jit(jax.grad(total, has_aux=True))(logits)
    assert np.isinf(losses[:2]).all() and np.isnan(losses[2:4]).all()
    assert losses[4] == pytest.approx(2 * math.log(3), rel=1e-6)
    assert np.isfinite(gradient).all() and not gradient[:4].any() and gradient[4].any()


def test_a_second_derivative_equals_finite_differences():
    logits, frames, labels, counts = example(seed=5, batch=1, frames=8, scale=0.5)
    counts[0] = 2
    direction = np.random.default_rng(0).normal(size=logits.shape).astype(np.float32)
    gradient = jax.jit(jax.grad(lambda z: ctc_loss(z, frames, labels, counts).sum()))
    exact = jax.jit(jax.grad(lambda z: (gradient(z) * direction).sum()))(logits)
    step = 1e-2
    numeric = (gradient(logits + step * direction) - gradient(logits - step * direction)) / (2 * step)
    np.testing.assert_allclose(exact, numeric, atol=2e-3)


def test_the_best_path_ignores_padding_and_collapses():
    path = [0, 0, 3, 0, 1, 1, 2, 2]
    logits = 5.0 * np.eye(4)[np.array([path])]
    found, kept = best_path(logits, jnp.array([6]))
    assert np.asarray(found[0])[np.asarray(kept[0])].tolist() == [0, 0, 1]


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_a_wide_beam_finds_the_most_probable_labellings(seed):
    logits, _, _, _ = example(seed=seed, batch=3, frames=5, outputs=3, scale=1.5)
    frames = np.array([5, 4, 2], np.int32)
    # 63 labellings of up to five labels: all fit
    labels, counts, scores = map(np.asarray, prefix_beam_search(logits, frames, 70, 5))
    for row in range(3):
        truth = labellings(log_softmax(logits)[row, : frames[row]])
        order = sorted(truth, key=truth.get, reverse=True)
        for beam in range(3):
            found = tuple(labels[row, beam, : counts[row, beam]])
            assert found == order[beam]
            assert scores[row, beam] == pytest.approx(math.log(truth[found]), abs=1e-4)
        assert (scores[row] > -1e20).sum() == len(truth)
        assert np.all(labels[row, 0, counts[row, 0] :] == -1)


def test_summing_over_paths_beats_the_best_path():
    # P(-) = 0.36 is the best path, but a has the probability 0.24 + 0.24 + 0.16
    logits = jnp.log(jnp.array([[[0.4, 0.6], [0.4, 0.6]]]))
    _, kept = best_path(logits, jnp.array([2]))
    assert not np.asarray(kept).any()
    labels, counts, scores = prefix_beam_search(logits, jnp.array([2]), 2, 2)
    assert counts[0, 0] == 1 and labels[0, 0, 0] == 0
    assert math.exp(scores[0, 0]) == pytest.approx(0.64, rel=1e-5)


def test_a_narrow_beam_keeps_probabilities_below_the_truth_and_prefixes_apart():
    logits, _, _, _ = example(seed=4, batch=2, frames=12, outputs=5)
    frames = np.array([12, 12], np.int32)
    labels, counts, scores = map(np.asarray, prefix_beam_search(logits, frames, 6, 4))
    assert len({tuple(each) for each in labels[0]}) == 6 and counts.max() <= 4
    for row in range(2):
        losses = ctc_loss(np.repeat(logits[row : row + 1], 6, 0), np.repeat(frames[:1], 6), labels[row], counts[row])
        assert np.all(scores[row] <= -np.asarray(losses) + 1e-4)
        assert np.all(np.diff(scores[row]) <= 0)


def distance(a, b):
    """Levenshtein's table in full."""
    table = np.zeros((len(a) + 1, len(b) + 1), int)
    table[:, 0], table[0] = np.arange(len(a) + 1), np.arange(len(b) + 1)
    for i, j in itertools.product(range(1, len(a) + 1), range(1, len(b) + 1)):
        substituted = table[i - 1, j - 1] + (a[i - 1] != b[j - 1])
        table[i, j] = min(table[i - 1, j] + 1, table[i, j - 1] + 1, substituted)
    return table[-1, -1]


def test_edit_distance_equals_the_table_on_scattered_hypotheses():
    draw = np.random.default_rng(0)
    hypothesis, kept = draw.integers(0, 3, (60, 9)), draw.random((60, 9)) < 0.6
    kept[0] = False
    reference, counts = draw.integers(0, 3, (60, 6)), draw.integers(0, 7, 60)
    found = edit_distance(jnp.array(hypothesis), jnp.array(kept), jnp.array(reference), jnp.array(counts))
    truth = [distance(h[k], r[:n]) for h, k, r, n in zip(hypothesis, kept, reference, counts, strict=True)]
    assert np.asarray(found).tolist() == truth
