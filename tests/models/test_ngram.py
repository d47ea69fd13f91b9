"""n-grams against counting by hand."""

import collections

import numpy as np
import pytest

from jaxdl.models.ngram import NGramModel


def by_hand(train, text, order, classes):
    """Witten-Bell written out with dictionaries."""
    counts = collections.Counter(
        tuple(train[i : i + n]) for n in range(1, order + 1) for i in range(len(train) - n + 1)
    )

    def p(history, x):
        lower = 1 / classes if not history and order == 0 else None
        followers = [counts[(*history, y)] for y in range(classes)]
        total, kinds = sum(followers), sum(c > 0 for c in followers)
        lower = p(history[1:], x) if history else 1 / classes
        return lower if total == 0 else (counts[(*history, x)] + kinds * lower) / (total + kinds)

    return [p(tuple(text[max(0, i - order + 1) : i]), text[i]) for i in range(len(text))]


@pytest.mark.parametrize("order", [1, 2, 3, 5])
def test_probabilities_are_those_of_counting(order):
    draw = np.random.default_rng(0)
    train, text = draw.integers(0, 4, 200) % 3 + draw.integers(0, 2, 200), draw.integers(0, 4, 50)
    model = NGramModel.fit(train, 5, 4)
    np.testing.assert_allclose(
        model.probabilities(text, order), by_hand(train.tolist(), text.tolist(), order, 4), rtol=1e-12
    )


def test_each_history_gives_a_distribution():
    train = np.random.default_rng(1).integers(0, 5, 300)
    model = NGramModel.fit(train, 3, 5)
    history = [1, 4]
    total = sum(model.probabilities(np.array([*history, x]))[-1] for x in range(5))
    assert total == pytest.approx(1.0, abs=1e-12)


def test_a_longer_window_knows_more_of_a_periodic_text():
    text = np.tile([0, 0, 1, 0, 1, 1], 200)
    model = NGramModel.fit(text, 6, 2)
    nats = [model.nats(text, n) for n in range(1, 7)]
    assert nats[0] == pytest.approx(np.log(2), abs=1e-3) and nats[5] < 0.02 and nats[1] > nats[3] > nats[5]


def test_windows_that_cannot_be_numbered_are_refused():
    with pytest.raises(ValueError, match="cannot be counted"):
        NGramModel.fit(np.arange(100), 12, 100)
