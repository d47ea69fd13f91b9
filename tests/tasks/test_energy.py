"""The task of Boltzmann machines: updates by hand, centring, chains, frozen layers, exact likelihood."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxdl.models.rbm import RBM, uncentred
from jaxdl.objectives.energy import log_partition
from jaxdl.optimizers import OptimizerConfig, hyper_parameters, make_optimizer
from jaxdl.tasks.energy import Energy

D, H, B = 6, 3, 8
SGD = OptimizerConfig(name="sgd", learning_rate=0.5)
HYPER = {name: jnp.float32(value) for name, value in {**hyper_parameters(SGD), "offset_rate": 0.1}.items()}
# compiled, because an eager Threefry compiles each of its operations
GIBBS = jax.jit(RBM.gibbs, static_argnums=(0, 4, 5))
SAMPLE = jax.jit(RBM.sample_hidden, static_argnums=0)


def task(**changes):
    return Energy(
        **{"stack": (RBM(D, H),), "optimizer": make_optimizer(SGD, 1), "chains": B, "initial_scale": 0.5, **changes}
    )


def batch(mask=None, seed=0):
    images = np.random.default_rng(seed).integers(0, 2, (B, 2, 3, 1)).astype(np.float32)
    mask = np.ones(B, np.float32) if mask is None else np.asarray(mask, np.float32)
    return {"image": jnp.asarray(images), "mask": jnp.asarray(mask), "row": jnp.arange(B, dtype=jnp.int32)}


def sigmoid(x):
    return 1 / (1 + np.exp(-np.asarray(x, np.float64)))


def test_an_update_is_the_difference_of_both_phases_statistics():
    """Δ W = rate (⟨v p(h)ᵀ⟩_data − ⟨v p(h)ᵀ⟩_model) / N over the rows that count, and so for the biases."""
    machine, rows, key = task(persistent=True), batch(mask=[1] * 6 + [0] * 2), jax.random.key(3)
    state = jax.jit(machine.init)(jax.random.key(0), HYPER)
    after, _ = jax.jit(machine.step)(state, rows, key)
    params = jax.tree.map(np.asarray, state.nets["rbm_0"].params)
    keys = jax.vmap(jax.random.fold_in, (None, 0))(jax.random.split(jax.random.fold_in(key, 0))[1], rows["row"])
    model, hidden = GIBBS(machine.rbm, params, state.local["hidden"], keys, 1)
    np.testing.assert_array_equal(after.local["hidden"], hidden)
    expected = {name: np.zeros_like(leaf, np.float64) for name, leaf in params.items()}
    data = np.asarray(rows["image"]).reshape(B, D)
    for v, sign in ((data[:6], 1), (np.asarray(model)[:6], -1)):
        p = sigmoid(v @ params["kernel"] + params["hidden_bias"])
        expected["kernel"] += sign * v.T @ p / 6
        expected["visible_bias"] += sign * v.sum(axis=0) / 6
        expected["hidden_bias"] += sign * p.sum(axis=0) / 6
    for name, leaf in params.items():
        change = after.nets["rbm_0"].params[name] - leaf
        np.testing.assert_allclose(change, 0.5 * expected[name], rtol=1e-3, atol=1e-5)


def test_centred_updates_are_those_of_melchior_et_al():
    machine, rows, key = task(centred=True, mean_field=True), batch(), jax.random.key(3)
    state = jax.jit(machine.init)(jax.random.key(0), HYPER)
    after, _ = jax.jit(machine.step)(state, rows, key)
    params = jax.tree.map(lambda leaf: np.asarray(leaf, np.float64), machine.machine(state))
    v = np.asarray(rows["image"]).reshape(B, D).astype(np.float64)
    p = sigmoid((v - params["visible_offset"]) @ params["kernel"] + params["hidden_bias"])
    offsets = {
        "visible_offset": 0.9 * params["visible_offset"] + 0.1 * v.mean(axis=0),
        "hidden_offset": 0.9 * params["hidden_offset"] + 0.1 * p.mean(axis=0),
    }
    for name, expected in offsets.items():
        np.testing.assert_allclose(after.nets["rbm_0"].stats[name], expected, rtol=1e-4)
    moved = {
        "kernel": params["kernel"],
        "hidden_bias": params["hidden_bias"]
        + (offsets["visible_offset"] - params["visible_offset"]) @ params["kernel"],
        "visible_bias": params["visible_bias"]
        + params["kernel"] @ (offsets["hidden_offset"] - params["hidden_offset"]),
    }
    start = [
        jax.vmap(jax.random.fold_in, (None, 0))(k, rows["row"]) for k in jax.random.split(jax.random.fold_in(key, 0))
    ]
    whole = {name: jnp.asarray(leaf, jnp.float32) for name, leaf in {**moved, **offsets}.items()}
    h = SAMPLE(machine.rbm, whole, jnp.asarray(v, jnp.float32), start[0])
    model = np.asarray(GIBBS(machine.rbm, whole, h, start[1], 1, True)[0], np.float64)
    q = sigmoid((model - offsets["visible_offset"]) @ moved["kernel"] + moved["hidden_bias"])
    mu, lam = offsets["visible_offset"], offsets["hidden_offset"]
    change = ((v - mu).T @ (p - lam) - (model - mu).T @ (q - lam)) / B
    np.testing.assert_allclose(
        after.nets["rbm_0"].params["kernel"], moved["kernel"] + 0.5 * change, rtol=1e-3, atol=1e-5
    )
    change = (p - q).mean(axis=0)
    np.testing.assert_allclose(
        after.nets["rbm_0"].params["hidden_bias"], moved["hidden_bias"] + 0.5 * change, rtol=1e-3, atol=1e-5
    )


def test_first_biases_are_the_log_odds_of_the_data_and_centring_starts_without_changing_the_machine():
    mean = tuple(np.linspace(0.1, 0.9, D))
    state = task(initial_mean=mean, centred=True).init(jax.random.key(0), HYPER)
    net = state.nets["rbm_0"]
    np.testing.assert_allclose(sigmoid(net.params["visible_bias"]), mean, rtol=1e-5)
    np.testing.assert_allclose(net.stats["visible_offset"], mean, rtol=1e-6)
    plain = uncentred({**net.params, **net.stats})
    assert np.isfinite(plain["visible_bias"]).all()


@pytest.mark.parametrize("centred", [False, True])
def test_the_likelihood_in_evaluation_is_exact(centred):
    machine, rows = task(centred=centred, exact=True), batch(mask=[1] * 5 + [0] * 3)
    state = machine.init(jax.random.key(1), HYPER)
    _, metrics = jax.jit(lambda s: machine.evaluate(machine.for_evaluation(s), rows, jax.random.key(0)))(state)
    params = uncentred(machine.machine(state))
    every = jnp.asarray(list(itertools.product([0.0, 1.0], repeat=D)), jnp.float32)
    log_z = float(jax.nn.logsumexp(-machine.rbm.free_energy(params, every)))
    v = rows["image"].reshape(B, D)[:5]
    expected = float((-machine.rbm.free_energy(params, v) - log_z).mean())
    found = {name: float(mean.total / mean.count) for name, mean in metrics.items()}
    assert found["log_likelihood"] == pytest.approx(expected, abs=1e-4) == -found["loss"]
    up = sigmoid(v @ params["kernel"] + params["hidden_bias"])
    down = sigmoid(up @ np.asarray(params["kernel"]).T + params["visible_bias"])
    assert found["squared_error"] == pytest.approx(float(((np.asarray(v) - down) ** 2).sum(axis=1).mean()), rel=1e-4)


def test_lower_layers_are_frozen_and_the_top_one_sees_their_means():
    stack = (RBM(D, 5), RBM(5, H, "gaussian"))
    machine, rows = task(stack=stack, mean_field=True), batch()
    state = jax.jit(machine.init)(jax.random.key(0), HYPER)
    after, _ = jax.jit(machine.step)(state, rows, jax.random.key(1))
    for old, new in zip(*(jax.tree.leaves(s.nets["rbm_0"]) for s in (state, after)), strict=True):
        np.testing.assert_array_equal(old, new)
    assert not np.array_equal(state.nets["rbm_1"].params["kernel"], after.nets["rbm_1"].params["kernel"])
    assert state.nets["rbm_0"].opt == ()
    below = state.nets["rbm_0"].params
    expected = sigmoid(np.asarray(rows["image"]).reshape(B, D) @ below["kernel"] + below["hidden_bias"])
    np.testing.assert_allclose(machine.features(state, rows), expected, rtol=1e-5)


def test_persistent_chains_learn_as_much_as_the_exact_gradient():
    """Noisy copies of three patterns: PCD ends within 0.05 nats of gradient ascent on the exact likelihood."""
    rng = np.random.default_rng(0)
    patterns = np.array([[1, 1, 0, 0, 1, 0], [0, 0, 1, 1, 0, 0], [1, 0, 0, 1, 1, 1]], np.float32)
    x = np.abs(np.tile(patterns, (40, 1)) - (rng.uniform(size=(120, D)) < 0.15)).astype(np.float32)
    machine = task(persistent=True, centred=True, exact=True, initial_scale=0.1, chains=120)
    rows = {
        "image": jnp.asarray(x.reshape(-1, 2, 3, 1)),
        "mask": jnp.ones(120),
        "row": jnp.arange(120, dtype=jnp.int32),
    }
    hyper = {**HYPER, "learning_rate": jnp.float32(0.1)}
    first = machine.init(jax.random.key(0), hyper)

    def sampled(state):
        def body(i, state):
            return machine.step(state, rows, jax.random.fold_in(jax.random.key(2), i))[0]

        state = jax.lax.fori_loop(0, 2000, body, state)
        return machine.evaluate(machine.for_evaluation(state), rows, jax.random.key(0))[1]["log_likelihood"]

    def exact(params):
        def likelihood(params):
            return -(machine.rbm.free_energy(params, jnp.asarray(x)) + log_partition(**params)).mean()

        def body(_, params):
            return jax.tree.map(lambda p, g: p + 0.1 * g, params, jax.grad(likelihood)(params))

        return likelihood(params), likelihood(jax.lax.fori_loop(0, 2000, body, params))

    found = jax.jit(sampled)(first)
    start, best = jax.jit(exact)(uncentred(machine.machine(first)))
    assert float(found.total / found.count) > float(best) - 0.05 > float(start) + 0.3
