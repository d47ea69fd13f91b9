"""Optimisers inside programs (jit, map, vmap, donation), and laws of descent: rates, saddles, L-BFGS against SciPy."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax import lax

from jaxdl.optimizers import OPTIMIZERS, OptimizerConfig, hyper_parameters, make_optimizer

RNG = np.random.default_rng(0)
X = jnp.asarray(RNG.normal(size=(40, 5)), jnp.float32)
Y = jnp.asarray((RNG.normal(size=40) + X[:, 0] > 0), jnp.float32)


def start():
    return {"dense": {"kernel": jnp.full((5, 1), 0.1, jnp.float32), "bias": jnp.zeros(1)}}


def loss(params):
    z = (X @ params["dense"]["kernel"])[:, 0] + params["dense"]["bias"][0]
    return optax.losses.sigmoid_binary_cross_entropy(z, Y).mean()


def everything(name):
    """A config that switches on every link the rule allows."""
    if name == "lbfgs":
        return OptimizerConfig(name=name, l2=0.1)
    clips = {"clip_value": 0.5, "clip_norm": 0.6, "max_column_norm": 0.8, "l1": 0.01, "l2": 0.01, "ema_decay": 0.9}
    ramp = {"momentum_steps": 5, "momentum": 0.5} if name in ("momentum", "nesterov") else {}
    decay = {} if name == "adam" else {"weight_decay": 0.01}
    return OptimizerConfig(name=name, learning_rate=0.1, schedule="cosine", warmup_steps=3, **clips, **ramp, **decay)


def hyper_of(config):
    return {name: jnp.float32(value) for name, value in hyper_parameters(config).items()}


def one_step(tx, params, state, hyper):
    value, grads = jax.value_and_grad(loss)(params)
    updates, state = tx.update(grads, state, params, hyper=hyper, value=value, grad=grads, value_fn=loss)
    return optax.apply_updates(params, updates), state


def train(tx, hyper, steps=12):
    def body(carry, _):
        carry = one_step(tx, *carry, hyper)
        return carry, loss(carry[0])

    return lax.scan(body, (start(), tx.init(start())), length=steps)


def avals(tree):
    return jax.tree.map(lambda x: (x.shape, x.dtype, x.weak_type), tree)


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_state_is_final_from_the_start_and_can_be_donated(name):
    config = everything(name)
    tx, hyper = make_optimizer(config, 12), hyper_of(config)
    step = jax.jit(lambda p, s, h: one_step(tx, p, s, h), donate_argnums=(0, 1))
    for init in (tx.init, jax.jit(tx.init)):
        params, state = start(), init(start())
        before = avals(state)
        for _ in range(3):
            params, state = step(params, state, hyper)
        assert avals(state) == before
        assert avals(params) == avals(start())
    assert step._cache_size() == 1


@pytest.mark.parametrize("name", ["nesterov", "adamw", "lbfgs"])
def test_sweep_by_map_is_bit_equal_and_by_vmap_close(name):
    config = everything(name)
    tx = make_optimizer(config, 12)
    rates = jnp.float32([0.1, 0.03, 0.3])
    hypers = {k: jnp.broadcast_to(v, (3,)) for k, v in hyper_of(config).items()}
    hypers |= {"learning_rate": rates, "l2": jnp.float32([0.1, 0.2, 0.3])}
    mapped = jax.jit(lambda h: lax.map(lambda one: train(tx, one), h))
    vmapped = jax.jit(jax.vmap(lambda one: train(tx, one)))
    (params, _), losses = mapped(hypers)
    for i in range(3):
        (single, _), single_losses = mapped({k: v[i : i + 1] for k, v in hypers.items()})
        np.testing.assert_array_equal(losses[i], single_losses[0])
        np.testing.assert_array_equal(params["dense"]["kernel"][i], single["dense"]["kernel"][0])
    assert len({float(x) for x in losses[:, -1]}) == 3  # the swept values matter
    np.testing.assert_allclose(vmapped(hypers)[1], losses, atol=1e-5)


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_every_rule_lowers_a_convex_loss(name):
    (_, state), losses = jax.jit(lambda h: train(make_optimizer(everything(name), 12), h))(hyper_of(everything(name)))
    assert losses[-1] < losses[0]
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(state))


def test_lbfgs_reaches_scipys_solution():
    """Ridge logistic regression: the bias is not penalised, and the line search sees the penalised objective."""
    from scipy import optimize

    x, y = np.asarray(X, np.float64), np.asarray(Y, np.float64)

    def penalised(v):
        z = x @ v[:5] + v[5]
        return np.mean(np.logaddexp(0, z) - y * z) + 0.05 * v[:5] @ v[:5]

    expected = optimize.minimize(penalised, np.zeros(6), tol=1e-12)
    config = OptimizerConfig(name="lbfgs", l2=0.1)
    hyper = hyper_of(config)
    (params, _), losses = jax.jit(lambda h: train(make_optimizer(config, 30), h, 30))(hyper)
    found = np.concatenate([np.ravel(params["dense"]["kernel"]), params["dense"]["bias"]])
    np.testing.assert_allclose(found, expected.x, atol=2e-4)
    assert penalised(found) - expected.fun < 1e-7
    np.testing.assert_array_equal(np.isfinite(losses), True)  # it rests at the optimum without NaN


def test_lbfgs_beats_gradient_descent_on_rosenbrock():
    def rosenbrock(p):
        x, y = p["w"]
        return (1 - x) ** 2 + 100 * (y - x**2) ** 2

    config = OptimizerConfig(name="lbfgs")
    tx, hyper = make_optimizer(config, 60), hyper_of(config)

    def body(carry, _):
        params, state = carry
        value, grads = jax.value_and_grad(rosenbrock)(params)
        updates, state = tx.update(grads, state, params, hyper=hyper, value=value, grad=grads, value_fn=rosenbrock)
        return (optax.apply_updates(params, updates), state), None

    params = {"w": jnp.float32([-1.2, 1.0])}
    (params, _), _ = jax.jit(lambda: lax.scan(body, (params, tx.init(params)), length=60))()
    np.testing.assert_allclose(params["w"], 1.0, atol=1e-3)


def descend(name, gradient, w0, steps, **changes):
    config = OptimizerConfig(name=name, **changes)
    tx, hyper = make_optimizer(config, steps), hyper_of(config)

    def body(carry, _):
        w, state = carry
        updates, state = tx.update(gradient(w), state, w, hyper=hyper)
        return (w + updates, state), w + updates

    w0 = jnp.asarray(w0, jnp.float32)
    return np.asarray(jax.jit(lambda: lax.scan(body, (w0, tx.init(w0)), length=steps)[1])(), np.float64)


@pytest.mark.parametrize("rate", [0.02, 2 / 22, 0.0975])
def test_gradient_descent_on_a_quadratic_converges_at_the_known_rate(rate):
    """|w_t| = max_i |1 - lr lambda_i|^t |w_0|; the best rate 2 / (2 + 20) gives (kappa - 1) / (kappa + 1) = 9 / 11."""
    eigenvalues = jnp.float32([2.0, 20.0])
    path = np.abs(descend("sgd", lambda w: eigenvalues * w, [1.0, 1.0], 30, learning_rate=rate)).max(axis=1)
    factor = max(abs(1 - rate * 2), abs(1 - rate * 20))
    np.testing.assert_allclose(path, factor ** np.arange(1, 31), rtol=2e-4)
    if rate == 2 / 22:
        assert factor == pytest.approx(9 / 11)


def test_gradient_descent_diverges_above_two_over_the_largest_eigenvalue():
    path = np.abs(descend("sgd", lambda w: 20.0 * w, [1.0], 50, learning_rate=0.101))
    assert path[-1] > path[0] > 1


def test_momentum_continues_without_gradient():
    """One kick, then none: the steps form a geometric series, in total 1 / (1 - m) kicks."""
    path = descend("momentum", lambda w: jnp.where(w == 0, -1.0, 0.0), [0.0], 200, learning_rate=0.1, momentum=0.9)
    np.testing.assert_allclose(np.diff(path[:20, 0]), 0.1 * 0.9 ** np.arange(1, 20), rtol=1e-4)
    np.testing.assert_allclose(path[-1], 0.1 / (1 - 0.9), rtol=1e-4)


def test_sgd_is_stuck_on_a_saddle_and_adam_leaves():
    """f = x^2 - y^2 from just beside the ridge: sgd multiplies y by 1 + 2 lr, Adam moves it by lr at any gradient."""
    ends = {}
    for name in ("sgd", "momentum", "adagrad", "rmsprop", "adam"):
        path = descend(name, lambda w: w * jnp.float32([2.0, -2.0]), [1.0, 1e-4], 100, learning_rate=0.01)
        ends[name] = path[-1, 1]
        assert abs(path[-1, 0]) < abs(path[0, 0])
    assert ends["sgd"] == pytest.approx(1e-4 * 1.02**100, rel=1e-3)
    assert ends["sgd"] < 1e-3 < ends["momentum"]
    assert min(ends["adam"], ends["rmsprop"]) > 0.5
    assert ends["adagrad"] > 50 * ends["sgd"]


def test_clipping_survives_a_cliff():
    """At the edge of a cliff plain descent is thrown far away; a clipped step is no longer than lr * clip_norm."""
    slope = {"learning_rate": 0.1, "steps": 1, "w0": [0.0], "gradient": lambda w: jnp.full_like(w, 1e4)}
    assert abs(descend("sgd", **slope)[0, 0]) == pytest.approx(1e3)
    assert abs(descend("sgd", clip_norm=5.0, **slope)[0, 0]) == pytest.approx(0.5)
