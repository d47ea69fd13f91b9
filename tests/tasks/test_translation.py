"""The translation task on a toy language: the target is the source, reversed."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxdl.models.seq2seq import AttentionSeq2Seq
from jaxdl.models.transformer import EncoderDecoder, Shape
from jaxdl.optimizers import OptimizerConfig, hyper_parameters, make_optimizer
from jaxdl.tasks.translation import END, PAD, START, shifted, translation

V, S, T, B = 8, 4, 5, 32
CONFIG = OptimizerConfig(name="adam", learning_rate=1e-2)
HYPER = {**hyper_parameters(CONFIG), "label_smoothing": 0.0}
KEY = jax.random.key(0)
MODELS = {
    "transformer": (EncoderDecoder(V, V, T, Shape(16, 2), 1), "decoder_0/cross_attention"),
    "seq2seq": (AttentionSeq2Seq(V, V, features=16, embedding=8), ""),
}


def batch(seed, rows=B):
    draw = np.random.default_rng(seed)
    lengths = draw.integers(1, S + 1, rows)
    source, target = np.zeros((rows, S), np.uint8), np.zeros((rows, T), np.uint8)
    for row, length in enumerate(lengths):
        word = draw.integers(3, V, length)
        source[row, :length], target[row, :length], target[row, length] = word, word[::-1], END
    arrays = {"source": source, "target": target, "mask": np.ones(rows, np.float32), "row": np.arange(rows)}
    return {name: jnp.asarray(array) for name, array in arrays.items()}


@pytest.fixture(scope="module", params=list(MODELS))
def trained(request):
    """A task and its state after some updates."""
    model, attention = MODELS[request.param]
    task = translation(model, make_optimizer(CONFIG, 300), S, T, beams=3, attention=attention, halves=not attention)
    state = jax.jit(lambda: task.init(KEY, HYPER))()
    batches = jax.tree.map(lambda *leaves: jnp.stack(leaves), *(batch(seed) for seed in range(300)))

    def body(i, state):
        one = jax.tree.map(lambda leaf: leaf[i], batches)
        return task.step(state, one, KEY)[0]

    return task, jax.jit(lambda state: jax.lax.fori_loop(0, 300, body, state))(state)


def teacher_forced(task, state, data, target):
    variables = {"params": state.nets["model"].params}
    return jax.jit(task.model.apply)(variables, data["source"].astype(jnp.int32), shifted(target))


def test_it_learns_to_reverse(trained):
    task, state = trained
    metrics = jax.jit(task.evaluate)(state, batch(1000, 64), KEY)[1]
    assert float(metrics["exact_match"].total / metrics["exact_match"].count) > 0.7
    assert int(metrics["exact_match"].count) == 64


def test_loss_and_token_accuracy_are_means_over_tokens_and_padding_counts_nothing(trained):
    task, state = trained
    data = batch(7, 6)
    data["mask"] = jnp.asarray([1.0, 1, 1, 1, 0, 0])
    data["source"] = data["source"].at[4:].set(5)  # padding rows may hold anything
    metrics = jax.jit(task.evaluate)(state, data, KEY)[1]
    logits = teacher_forced(task, state, data, data["target"])
    log_p = np.asarray(jax.nn.log_softmax(logits), np.float64)
    nats, right, count = 0.0, 0, 0
    for row in range(4):
        for t in range(T):
            token = int(data["target"][row, t])
            if token != PAD:
                nats, count = nats - log_p[row, t, token], count + 1
                right += int(log_p[row, t].argmax() == token)
    assert float(metrics["loss"].count) == float(metrics["token_accuracy"].count) == count
    np.testing.assert_allclose(metrics["loss"].total, nats, rtol=1e-5)
    assert float(metrics["token_accuracy"].total) == right and float(metrics["exact_match"].count) == 4


def test_greedy_is_the_argmax_of_teacher_forcing_on_itself(trained):
    task, state = trained
    data = batch(8, 16)
    tokens, log_p = jax.jit(lambda s: task.greedy(s, data["source"], T))(state)
    logits = teacher_forced(task, state, data, tokens)
    np.testing.assert_array_equal(jnp.where(tokens == PAD, PAD, logits.argmax(-1)), tokens)
    chosen = jnp.take_along_axis(jax.nn.log_softmax(logits), tokens[..., None], axis=-1)[..., 0]
    np.testing.assert_allclose(jnp.where(tokens == PAD, 0, chosen).sum(-1), log_p, atol=1e-4)


def test_predictions_are_ranked_hypotheses_and_attention(trained):
    task, state = trained
    data = batch(9, 16)
    found = jax.jit(task.predict)(state, data)
    assert found["hypotheses"].shape == (16, 3, T) and found["attention"].shape == (16, T, S)
    assert (np.diff(found["scores"], axis=1) <= 0).all() and float(jnp.exp(found["scores"]).sum(-1).max()) < 1.001
    one = dataclasses.replace(task, beams=1)
    np.testing.assert_array_equal(jax.jit(one.predict)(state, data)["hypotheses"][:, 0], found["greedy"])
    np.testing.assert_allclose(found["attention"].sum(-1), 1, atol=1e-4)
    assert float(jnp.where(data["source"][:, None] == PAD, found["attention"], 0).max()) == 0


def test_shifted_begins_with_start_and_forgets_the_last():
    target = jnp.asarray([[5, 6, END, PAD], [7, 3, 4, END]], jnp.uint8)
    np.testing.assert_array_equal(shifted(target), [[START, 5, 6, END], [START, 7, 3, 4]])


def test_micro_batches_of_ragged_rows_make_the_same_update():
    model, _ = MODELS["transformer"]
    tasks = [translation(model, make_optimizer(CONFIG, 10), S, T, accumulate=n) for n in (1, 4)]
    state = jax.jit(lambda: tasks[0].init(KEY, HYPER))()
    params = [jax.jit(task.step)(state, batch(3), KEY)[0].nets["model"].opt[1].mu for task in tasks]
    for a, b in zip(*map(jax.tree.leaves, params), strict=True):
        np.testing.assert_allclose(a, b, atol=1e-6)


def test_halves_side_by_side_are_the_whole_batch():
    model, _ = MODELS["transformer"]
    task = translation(model, make_optimizer(CONFIG, 10), S, T)
    state = jax.jit(lambda: task.init(KEY, HYPER))()
    found = []
    for halves in (True, False):
        one = dataclasses.replace(task, halves=halves)
        found.append(jax.jit(one.step)(state, batch(4), KEY))
    assert float(found[0][1]["loss"].count) == float(found[1][1]["loss"].count)
    np.testing.assert_allclose(found[0][1]["loss"].total, found[1][1]["loss"].total, rtol=1e-6)
    moments = [each[0].nets["model"].opt[1].mu for each in found]
    for a, b in zip(*map(jax.tree.leaves, moments), strict=True):
        np.testing.assert_allclose(a, b, atol=1e-7)
