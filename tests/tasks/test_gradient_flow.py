"""The trace of error signals against Nielsen's own algorithm, written out in NumPy, and over two devices."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxdl.models.mlp import MLP
from jaxdl.optimizers import OptimizerConfig, hyper_parameters, make_optimizer
from jaxdl.tasks.gradient_flow import gradient_flow

N, D, K, UPDATES, RATE, PENALTY = 8, 12, 3, 6, 0.1, 5.0
WIDTHS = (5, 4, 6)
SGD = OptimizerConfig(name="sgd", learning_rate=RATE, l2=PENALTY / N)
HYPER = {name: jnp.float32(value) for name, value in hyper_parameters(SGD).items()}
DRAWN = np.random.default_rng(0)
IMAGES, LABELS = DRAWN.random((N, D)).astype(np.float32), DRAWN.integers(0, K, N)
BATCH = {"image": IMAGES, "label": LABELS, "mask": np.ones(N, np.float32), "row": np.arange(N, dtype=np.int32)}
TRACED = tuple(f"Dense_{i}" for i in range(len(WIDTHS)))


@pytest.fixture(scope="module")
def task():
    model = MLP(WIDTHS, K, "sigmoid", initializer="fan_in_normal", initial_bias=1.0)
    return gradient_flow(model, make_optimizer(SGD, UPDATES), (D,), traced=TRACED, updates=UPDATES)


@pytest.fixture(scope="module")
def first(task):
    return jax.jit(task.init)(jax.random.key(0), HYPER)


def nielsen(weights, biases):
    """||mean δ^l|| before each of the updates, by backpropagation example by example, and the last weights."""

    def sigmoid(z):
        return 1 / (1 + np.exp(-z))

    norms = []
    for _ in range(UPDATES):
        slopes = [np.zeros_like(w) for w in weights], [np.zeros_like(b) for b in biases]
        for x, label in zip(IMAGES.astype(np.float64), LABELS, strict=True):
            a = [x]
            for w, b in zip(weights, biases, strict=True):
                a.append(sigmoid(a[-1] @ w + b))
            delta = a[-1] - np.eye(K)[label]
            for i in reversed(range(len(weights))):
                slopes[0][i] += np.outer(a[i], delta) / N
                slopes[1][i] += delta / N
                delta = (weights[i] @ delta) * a[i] * (1 - a[i])
        norms.append([np.linalg.norm(slope) for slope in slopes[1][:-1]])
        weights = [w * (1 - RATE * PENALTY / N) - RATE * g for w, g in zip(weights, slopes[0], strict=True)]
        biases = [b - RATE * g for b, g in zip(biases, slopes[1], strict=True)]
    return np.array(norms), weights


def test_the_trace_and_the_weights_are_nielsens(task, first):
    layers = [first.nets["model"].params[f"Dense_{i}"] for i in range(len(WIDTHS) + 1)]
    norms, weights = nielsen(*([np.asarray(layer[n], np.float64) for layer in layers] for n in ("kernel", "bias")))
    state, step = first, jax.jit(task.step)
    for t in range(UPDATES):
        state, metrics = step(state.replace(step=jnp.int32(t)), BATCH, jax.random.key(t))
        shown = [float(metrics[f"delta_norm/{name}"].total) for name in TRACED]
        np.testing.assert_allclose(shown, norms[t], rtol=2e-5)
    np.testing.assert_allclose(state.extra["delta_norms"], norms, rtol=2e-5)
    np.testing.assert_allclose(state.nets["model"].params["Dense_0"]["kernel"], weights[0], atol=1e-6)


def test_two_devices_trace_what_one_does(task, first):
    one, _ = jax.jit(task.step)(first, BATCH, jax.random.key(0))
    spread = dataclasses.replace(task, axis="data")
    halves = jax.tree.map(lambda leaf: jnp.asarray(leaf).reshape(2, N // 2, *leaf.shape[1:]), BATCH)
    step = jax.jit(jax.vmap(spread.step, in_axes=(None, 0, None), axis_name="data"))
    two, metrics = step(first, halves, jax.random.key(0))
    for part in two.extra["delta_norms"]:
        np.testing.assert_allclose(part, one.extra["delta_norms"], rtol=1e-5)
    mean = metrics["delta_norm/Dense_0"]
    assert float(mean.total.sum() / mean.count.sum()) == pytest.approx(float(one.extra["delta_norms"][0, 0]), rel=1e-5)
