"""Sampling: which tokens may be chosen, how often each is, and that a text does not depend on how it is made."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

from jaxdl.nn.sampling import generate, restrict_logits, sample_token

LOGITS = jnp.log(jnp.array([0.1, 0.4, 0.05, 0.3, 0.15]))


def kept(logits, **choice):
    return np.flatnonzero(np.isfinite(np.asarray(restrict_logits(logits[None], **choice))[0])).tolist()


@pytest.mark.parametrize(
    ("choice", "expected"),
    [
        ({}, [0, 1, 2, 3, 4]),
        ({"top_k": 1}, [1]),
        ({"top_k": 3}, [1, 3, 4]),
        ({"top_k": 9}, [0, 1, 2, 3, 4]),
        ({"top_p": 0.39}, [1]),
        ({"top_p": 0.41}, [1, 3]),
        ({"top_p": 0.69}, [1, 3]),
        ({"top_p": 0.84}, [1, 3, 4]),
        ({"top_p": 0.96}, [0, 1, 2, 3, 4]),
        ({"top_p": 1e-6}, [1]),
        ({"top_k": 2, "top_p": 0.84}, [1, 3]),
        ({"top_k": 3, "top_p": 0.5}, [1, 3]),
    ],
)
def test_which_tokens_stay(choice, expected):
    assert kept(LOGITS, **choice) == expected


def test_ties_keep_exactly_k_and_all_means_all():
    assert kept(jnp.zeros(4), top_k=2) == [0, 1]
    assert kept(jnp.zeros(4), top_p=0.5) == [0, 1]
    many = jax.random.normal(jax.random.key(0), (5000,)) * 8
    assert len(kept(many)) == 5000


def frequencies(count=20_000, **choice):
    keys = jax.random.split(jax.random.key(1), count)
    tokens = np.asarray(sample_token(jnp.broadcast_to(LOGITS, (count, 5)), keys, **choice))
    return np.bincount(tokens, minlength=5)


@pytest.mark.parametrize(
    ("choice", "p"),
    [
        ({}, [0.1, 0.4, 0.05, 0.3, 0.15]),
        ({"temperature": 0.5}, np.array([0.1, 0.4, 0.05, 0.3, 0.15]) ** 2),
        ({"temperature": 2.0}, np.sqrt([0.1, 0.4, 0.05, 0.3, 0.15])),
        ({"top_k": 3}, [0, 0.4, 0, 0.3, 0.15]),
        ({"top_p": 0.5}, [0, 0.4, 0, 0.3, 0]),
        # the temperature comes first: at 0.5 the most probable token alone holds half
        ({"temperature": 0.5, "top_p": 0.5}, [0, 1, 0, 0, 0]),
    ],
)
def test_frequencies(choice, p):
    counts, p = frequencies(**choice), np.asarray(p, float) / np.sum(p)
    assert not counts[p == 0].any()
    if (p > 0).sum() > 1:
        assert stats.chisquare(counts[p > 0], 20_000 * p[p > 0]).pvalue > 1e-3


def test_temperature_zero_takes_the_most_probable():
    counts = frequencies(100, temperature=0.0)
    assert counts[1] == 100
    tiny = frequencies(100, temperature=1e-4)
    assert tiny[1] == 100


def count_up(token, carry):
    """Logits that favour the token after the last, and a carry that counts."""
    return 3.0 * jax.nn.one_hot((token + 1) % 5, 5), carry + 1


def test_a_text_in_pieces_is_the_text_at_once():
    keys = jax.random.split(jax.random.key(2), 3)
    logits, carry = jnp.zeros((3, 5)), jnp.int32(0)
    whole, _, end = generate(count_up, logits, carry, keys, 0, 12, temperature=1.0)
    first, logits, carry = generate(count_up, logits, carry, keys, 0, 5, temperature=1.0)
    second, _, carry = generate(count_up, logits, carry, keys, 5, 7, temperature=1.0)
    np.testing.assert_array_equal(np.concatenate([first, second], 1), whole)
    assert int(end) == int(carry) == 12
    # a row's text does not depend on the others
    alone, _, _ = generate(count_up, jnp.zeros((1, 5)), jnp.int32(0), keys[1:2], 0, 12, temperature=1.0)
    np.testing.assert_array_equal(alone[0], whole[1])
    greedy, _, _ = generate(count_up, jnp.zeros((1, 5)), jnp.int32(0), keys[:1], 0, 6, temperature=0.0)
    assert greedy[0].tolist() == [0, 1, 2, 3, 4, 0]
