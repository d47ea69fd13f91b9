import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxdl.nn.beam import beam_search, greedy_search

PAD, END, LENGTH, V, B = 0, 2, 4, 4, 3
START = jnp.asarray([1, 1, 3])


@pytest.fixture(scope="module")
def model():
    """(decode, carry): a random model whose logits depend on everything before, by a hash of it, and log p by hand."""
    table = np.random.default_rng(0).normal(scale=1.5, size=(B, 997, V)).astype(np.float32)

    def mixed(history, token):
        return (history * 31 + token * 7 + 3) % 997

    def decode(token, carry):
        history = mixed(carry["history"], token)
        logits = jnp.asarray(table)[carry["row"], history]
        return logits, {"history": history, "row": carry["row"], "count": carry["count"] + 1}

    def log_p(row, tokens):
        history, before, total = 0, int(START[row]), 0.0
        for token in tokens:
            history = mixed(history, before)
            logits = table[row, history].astype(np.float64)
            total += logits[token] - np.log(np.exp(logits).sum())
            before = token
        return total

    return decode, {"history": jnp.zeros(B, jnp.int32), "row": jnp.arange(B), "count": jnp.int32(0)}, log_p


def sequences():
    """All sequences that end, or are as long as may be, without their padding."""
    for length in range(1, LENGTH + 1):
        for tokens in itertools.product(range(V), repeat=length):
            ended = END in tokens
            if (ended and tokens.index(END) == length - 1) or (not ended and length == LENGTH):
                yield tokens


def padded(tokens):
    return [*tokens, *[PAD] * (LENGTH - len(tokens))]


@pytest.mark.parametrize("penalty", [0.0, 1.0])
def test_a_wide_beam_finds_what_enumeration_finds(model, penalty):
    decode, carry, log_p = model
    beams = V**LENGTH
    tokens, scores = jax.jit(lambda c: beam_search(decode, c, START, beams, LENGTH, END, PAD, penalty))(carry)
    for row in range(B):
        ranked = sorted(sequences(), key=lambda s: -log_p(row, s) / ((5 + len(s)) / 6) ** penalty)
        for place, best in enumerate(ranked[:20]):
            assert tokens[row, place].tolist() == padded(best)
            expected = log_p(row, best) / ((5 + len(best)) / 6) ** penalty
            np.testing.assert_allclose(scores[row, place], expected, atol=1e-4)
        assert (scores[row, len(ranked) :] < -1e20).all()


@pytest.mark.parametrize("beams", [2, 3])
def test_a_narrow_beam_is_the_beam_search_of_plain_python(model, beams):
    decode, carry, log_p = model
    tokens, scores = jax.jit(lambda c: beam_search(decode, c, START, beams, LENGTH, END, PAD))(carry)
    for row in range(B):
        kept = [((), 0.0)]
        for _ in range(LENGTH):
            grown = []
            for prefix, score in kept:
                if END in prefix:
                    grown.append((prefix, score))
                else:
                    grown += [((*prefix, v), log_p(row, (*prefix, v))) for v in range(V)]
            kept = sorted(grown, key=lambda each: -each[1])[:beams]
        assert [tokens[row, k].tolist() for k in range(beams)] == [padded(prefix) for prefix, _ in kept]
        np.testing.assert_allclose(scores[row], [score for _, score in kept], atol=1e-4)


def test_a_beam_of_one_is_greedy(model):
    decode, carry, log_p = model
    tokens, scores = jax.jit(lambda c: beam_search(decode, c, START, 1, LENGTH, END, PAD))(carry)
    greedy, total = jax.jit(lambda c: greedy_search(decode, c, START, LENGTH, END, PAD))(carry)
    np.testing.assert_array_equal(tokens[:, 0], greedy)
    np.testing.assert_allclose(scores[:, 0], total, atol=1e-5)
    for row in range(B):
        made = [int(token) for token in greedy[row]]
        size = made.index(END) + 1 if END in made else LENGTH
        assert made[size:] == [PAD] * (LENGTH - size)
        np.testing.assert_allclose(total[row], log_p(row, made[:size]), atol=1e-4)
        for t in range(size):
            assert made[t] == max(range(V), key=lambda v, t=t, made=made: log_p(row, [*made[:t], v]))
