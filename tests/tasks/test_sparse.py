"""The price on activations: what is counted and charged, against NumPy, and that each network draws its own."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxdl.models.mlp import CountingMLP
from jaxdl.optimizers import OptimizerConfig, hyper_parameters, make_optimizer
from jaxdl.tasks.sparse import PRICE, sparse_classification

SGD = OptimizerConfig(name="sgd", learning_rate=0.1)
HYPER = {**hyper_parameters(SGD), "label_smoothing": 0.0, PRICE: 0.5}
HYPER = {name: jnp.float32(value) for name, value in HYPER.items()}
X = np.random.default_rng(0).normal(size=(6, 5)).astype(np.float32)
BATCH = {"image": X, "label": np.arange(6) % 3, "mask": np.ones(6, np.float32), "row": np.arange(6, dtype=np.int32)}
TASK = sparse_classification(CountingMLP((7, 4), 3), make_optimizer(SGD, 1), (5,))


@pytest.fixture(scope="module")
def states():
    return jax.jit(jax.vmap(TASK.init, (0, None)))(jax.random.split(jax.random.key(0), 200), HYPER)


def test_each_network_draws_a_price_from_zero_to_the_largest(states):
    prices = np.sort(np.asarray(states.hyper[PRICE]))
    assert prices[0] >= 0 and prices[-1] < 0.5
    assert np.abs(prices - 0.5 * (np.arange(200) + 0.5) / 200).max() < 0.5 * 1.36 / np.sqrt(200)  # Kolmogorov, 5 %


def test_the_loss_charges_what_the_units_give_and_zeros_are_counted(states):
    state = jax.tree.map(lambda leaf: leaf[3], states)
    _, metrics = jax.jit(TASK.evaluate)(state, BATCH, jax.random.key(1))
    h, units = X, []
    layers = [jax.tree.map(np.asarray, state.nets["model"].params[f"Dense_{i}"]) for i in range(3)]
    for layer in layers[:-1]:
        h = np.maximum(h @ layer["kernel"] + layer["bias"], 0)
        units.append(h)
    logits = h @ layers[-1]["kernel"] + layers[-1]["bias"]
    entropy = np.log(np.exp(logits).sum(axis=1)) - logits[np.arange(6), BATCH["label"]]
    units = np.concatenate(units, axis=1)
    found = {name: float(mean.total / mean.count) for name, mean in metrics.items()}
    assert found["zeros"] == pytest.approx((units == 0).mean(), abs=1e-6) and 0.2 < found["zeros"] < 0.8
    assert found["activation"] == pytest.approx(units.sum(axis=1).mean(), rel=1e-5)
    price = float(state.hyper[PRICE])
    assert found["loss"] == pytest.approx((entropy + price * units.sum(axis=1)).mean(), rel=1e-5)
