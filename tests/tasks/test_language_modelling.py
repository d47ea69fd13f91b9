"""Language modelling: truncated backpropagation through time, exact counts, and one Task for models with and without carry."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxdl.data.text import Vocabulary
from jaxdl.data.text_source import Streams, WholeText, Windows
from jaxdl.engine.compiled import collect
from jaxdl.engine.program import means
from jaxdl.models.rnn import RecurrentLM, WindowLM
from jaxdl.objectives.classification import softmax_cross_entropy
from jaxdl.optimizers import OptimizerConfig, hyper_parameters, make_optimizer
from jaxdl.tasks.language_modelling import language_modelling

V, B, T = 7, 4, 6
TEXT = np.random.default_rng(0).integers(0, V, 200)
KEY = jax.random.key(0)
SGD = OptimizerConfig(name="sgd", learning_rate=1.0)


def task_of(model, optimizer=SGD, batch_size=B, length=T, **changes):
    return language_modelling(model, make_optimizer(optimizer, 10), batch_size, length, **changes)


def state_of(task, optimizer=SGD):
    hyper = {**hyper_parameters(optimizer), "dropout": 0.0}
    return jax.jit(task.init)(jax.random.key(1), {name: jnp.float32(value) for name, value in hyper.items()})


LSTM = RecurrentLM(V, (5, 5), "lstm", 3)


PROGRAMS = {}


def step_of(task):
    """`task.step` as one program."""
    return PROGRAMS.setdefault(id(task), (jax.jit(task.step), task))[0]


@functools.cache
def logits_of(model):
    """`model.apply` as one program."""
    return jax.jit(functools.partial(model.apply, train=False))


def test_the_carry_flows_over_the_boundary_and_no_gradient_does():
    task = task_of(LSTM)
    state, source = state_of(task), Streams.of(TEXT, B, T)
    first, second = source.batch(0, KEY), source.batch(1, KEY)
    after, _ = step_of(task)(state, first, KEY)
    _, carry = logits_of(LSTM)({"params": state.nets["model"].params}, first["tokens"])
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-6), after.local, carry)

    def second_loss(tokens, local):
        batch = {**second, "tokens": second["tokens"]}
        _, metrics = step_of(task)(state.replace(local=local), batch, KEY)
        return metrics["loss"].total

    # what the second chunk says depends on what the first left behind ...
    elsewhere = jax.tree.map(lambda leaf: leaf + 0.5, after.local)
    assert abs(float(second_loss(None, after.local) - second_loss(None, elsewhere))) > 1e-3

    # ... but its gradient is that of a chunk that begins with a constant
    moved, _ = step_of(task)(after, second, KEY)
    update = jax.tree.map(lambda a, b: a - b, after.nets["model"].params, moved.nets["model"].params)

    def truncated(params):
        logits, _ = logits_of(LSTM)({"params": params}, second["tokens"], carry=jax.lax.stop_gradient(after.local))
        return softmax_cross_entropy(logits, second["target"]).mean()

    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, atol=1e-6),
        update,
        jax.jit(jax.grad(truncated))(after.nets["model"].params),
    )

    # and through the first chunk exactly nothing comes back
    embedded = jax.grad(lambda params: _loss_of_second(task, state, params, first, second))(state.nets["model"].params)
    assert all(not np.asarray(leaf).any() for leaf in jax.tree.leaves(embedded))


def _loss_of_second(task, state, params, first, second):
    """Loss of the second chunk as a function of the parameters that read the first: only the carry could connect them."""
    with_params = state.replace(nets={"model": state.nets["model"].replace(params=params)})
    between, _ = step_of(task)(with_params, first, KEY)
    fixed = state.nets["model"]
    connected = state.replace(local=jax.lax.stop_gradient(between.local), nets={"model": fixed})
    return step_of(task)(connected, second, KEY)[1]["loss"].total


def test_reset_rows_begin_afresh():
    task = task_of(LSTM)
    state, source = state_of(task), Streams.of(TEXT, B, T)
    after, _ = step_of(task)(state, source.batch(0, KEY), KEY)
    last = source.num_batches - 1
    wrapped = {**source.batch(last, KEY), "reset": source.batch(last + 1, KEY)["reset"]}
    carried = after.replace(nets=state.nets)
    fresh = state
    _, a = step_of(task)(carried, wrapped, KEY)
    _, b = step_of(task)(fresh, wrapped, KEY)
    assert float(a["loss"].total) == float(b["loss"].total)


@pytest.mark.parametrize("learn_initial", [False, True])
def test_micro_batches_keep_each_row_its_own_carry(learn_initial):
    model = dataclasses.replace(LSTM, learn_initial=learn_initial)
    source = Streams.of(TEXT, B, T)
    results = []
    for accumulate in (1, 2, 4):
        task = task_of(model, accumulate=accumulate)
        state = state_of(task)
        for step in range(3):
            state, metrics = step_of(task)(state, source.batch(step, KEY), KEY)
        results.append((state.local, state.nets["model"].params, metrics))
    for other in results[1:]:
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=2e-5), other, results[0])


@pytest.mark.parametrize("model", [LSTM, WindowLM(V, 3, 8, 4)], ids=["carry", "window"])
def test_evaluation_counts_each_character_once_whatever_the_batch(model):
    task = task_of(model)
    state = state_of(task)
    found = []
    for rows, length in ((3, 10), (16, 10), (2, 50)):
        source = WholeText.of(TEXT, rows, length, 0, context=0)
        sums, evaluate = None, jax.jit(task.evaluate)
        for i in range(source.num_batches):
            _, metrics = evaluate(task.for_evaluation(state), source.batch(i, KEY), KEY)
            sums = metrics if sums is None else jax.tree.map(jnp.add, sums, metrics)
        assert all(float(mean.count) == len(TEXT) for mean in sums.values())
        found.append({k: float(m.total / m.count) for k, m in sums.items()})
    assert found[0] == pytest.approx(found[1], rel=1e-5)
    assert found[0]["bits"] == pytest.approx(found[0]["loss"] / np.log(2), rel=1e-6)


def test_with_enough_context_a_row_is_judged_as_in_the_whole_text():
    model = WindowLM(V, 3, 8, 4)
    task = task_of(model)
    state = state_of(task)

    def loss(length, context):
        source = WholeText.of(TEXT, 8, length, 0, context)
        stacked = jax.tree.map(lambda leaf: leaf[None], state)
        outputs = collect(task, stacked, source)
        return outputs["nats"][outputs["weight"] > 0]

    whole = loss(len(TEXT), 0)
    np.testing.assert_allclose(loss(10, 2), whole, atol=1e-5)  # a window of three needs two characters before
    assert np.abs(loss(10, 0) - whole).max() > 1e-3


def test_a_model_without_a_carry_cannot_see_the_future_nor_the_far_past():
    model = WindowLM(V, 3, 8, 4)
    params = model.init(KEY, jnp.zeros((1, T), jnp.int32))
    tokens = jnp.asarray(TEXT[None, :20])
    logits = logits_of(model)(params, tokens)
    changed = logits_of(model)(params, tokens.at[0, 10].set((tokens[0, 10] + 1) % V))
    different = np.flatnonzero(np.abs(np.asarray(changed - logits)).max(axis=-1)[0] > 0)
    assert different.tolist() == [10, 11, 12]


@pytest.mark.parametrize("cell", ["rnn", "lstm", "gru"])
def test_hello_is_learnt(cell):
    """The example of the lecture: h, e, l, l, o; only a state tells the first l from the second."""
    vocabulary = Vocabulary("helo")
    text = vocabulary.encode("hello" * 12 + "h")
    adam = OptimizerConfig(name="adam", learning_rate=2e-2)
    task = task_of(RecurrentLM(4, (8,), cell, 4), adam, 2, 10)
    source = Streams.of(text, 2, 10)

    def body(step, state):
        return task.step(state, source.batch(step, KEY), KEY)[0]

    state = jax.jit(lambda state: jax.lax.fori_loop(0, 150, body, state))(state_of(task, adam))
    sums = task.evaluate(state, WholeText.of(text, 1, len(text), int(text[-2])).batch(0, KEY), KEY)[1]
    values = means(jax.tree.map(lambda leaf: np.asarray(leaf)[None], sums), 0)
    assert values["accuracy"] > 0.95 and values["loss"] < 0.15


def test_windows_and_streams_make_one_step_alike_on_a_model_without_carry():
    task = task_of(WindowLM(V, 3, 8, 4), arguments=("dropout",))
    state = state_of(task)
    for source in (Windows.of(TEXT, B, T), Streams.of(TEXT, B, T)):
        after, metrics = step_of(task)(state, source.batch(0, KEY), KEY)
        assert float(metrics["loss"].count) == B * T and after.local == ()
    assert task.items_per_step == B * T and task.streams == 0


def test_dropout_noise_belongs_to_the_row():
    task = task_of(LSTM, arguments=("dropout",))
    state = state_of(task)
    state = state.replace(hyper={**state.hyper, "dropout": jnp.float32(0.5)})
    batch = Streams.of(TEXT, B, T).batch(0, KEY)
    turned = jax.tree.map(lambda leaf: leaf[::-1], batch)
    _, a = step_of(task)(state, batch, KEY)
    _, b = step_of(task)(state.replace(local=jax.tree.map(lambda leaf: leaf[::-1], state.local)), turned, KEY)
    assert float(a["loss"].total) == pytest.approx(float(b["loss"].total), rel=1e-5)
    _, other = step_of(task)(state, batch, jax.random.key(9))
    assert abs(float(other["loss"].total - a["loss"].total)) > 1e-3


def test_gradients_are_those_of_the_unrolled_network():
    """Backpropagation through time by scan = the network written out step by step."""
    model = RecurrentLM(V, (5,), "rnn", 3)
    params = model.init(KEY, jnp.zeros((1, T), jnp.int32))["params"]
    tokens, target = jnp.asarray(TEXT[:T])[None], jnp.asarray(TEXT[1 : T + 1])[None]

    def scanned(params):
        return softmax_cross_entropy(model.apply({"params": params}, tokens)[0], target).mean()

    def unrolled(params):
        cell, scores = params["layers"]["layer_0"], params["scores"]
        h, total = jnp.zeros((1, 5)), 0.0
        for t in range(T):
            e = params["Embed_0"]["embedding"][tokens[:, t]]
            h = jnp.tanh(e @ cell["kernel"] + h @ cell["recurrent_kernel"] + cell["bias"])
            s = h @ scores["kernel"] + scores["bias"]
            total += optax.softmax_cross_entropy_with_integer_labels(s, target[:, t]).mean() / T
        return total

    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, atol=1e-6),
        jax.jit(jax.grad(scanned))(params),
        jax.jit(jax.grad(unrolled))(params),
    )
