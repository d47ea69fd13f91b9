"""Every update rule against its equation in float64, and against PyTorch where the conventions are the same."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax import lax

from jaxdl.optimizers import (
    OPTIMIZERS,
    OptimizerConfig,
    depends_on_total_steps,
    describe,
    freeze_after,
    hyper_parameters,
    make_optimizer,
    update_ema,
)

STEPS = 60
SHAPE = (3, 4)


def hyper_of(config):
    return {name: jnp.float32(value) for name, value in hyper_parameters(config).items()}


def problem(steps=STEPS, seed=0):
    """Start w0 and noise n_t of the gradient g_t = w - 0.3 + n_t."""
    rng = np.random.default_rng(seed)
    return rng.normal(size=SHAPE), rng.normal(size=(steps, *SHAPE))


def run(config, w0, noise, hyper=None, name="kernel"):
    """All parameters after each update, [T, ...], through jit and scan as in the engine."""
    tx = make_optimizer(config, total_steps=len(noise))
    hyper = hyper_of(config) if hyper is None else hyper

    def step(carry, n):
        w, state = carry
        params = {name: w}
        updates, state = tx.update({name: w - 0.3 + n}, state, params, hyper=hyper)
        w = optax.apply_updates(params, updates)[name]
        return (w, state), w

    w0 = jnp.asarray(w0, jnp.float32)
    return np.asarray(jax.jit(lambda: lax.scan(step, (w0, tx.init({name: w0})), jnp.asarray(noise, jnp.float32))[1])())


def sgd(w, g, t, s):
    return w - 0.05 * g


def momentum(w, g, t, s):
    s["v"] = 0.8 * s.get("v", 0.0) - 0.05 * g
    return w + s["v"]


def adagrad(w, g, t, s):
    s["G"] = s.get("G", 0.0) + g**2
    return w - 0.05 * g / np.sqrt(s["G"] + 1e-8)


def rmsprop(w, g, t, s):
    s["E"] = 0.9 * s.get("E", 0.0) + 0.1 * g**2
    return w - 0.05 * g / np.sqrt(s["E"] + 1e-8)


def adadelta(w, g, t, s):
    s["E"] = 0.9 * s.get("E", 0.0) + 0.1 * g**2
    u = g * np.sqrt(s.get("D", 0.0) + 1e-6) / np.sqrt(s["E"] + 1e-6)
    s["D"] = 0.9 * s.get("D", 0.0) + 0.1 * u**2
    return w - 0.05 * u


def adam(w, g, t, s):
    s["M"] = 0.9 * s.get("M", 0.0) + 0.1 * g
    s["V"] = 0.999 * s.get("V", 0.0) + 0.001 * g**2
    mean, square = s["M"] / (1 - 0.9 ** (t + 1)), s["V"] / (1 - 0.999 ** (t + 1))
    return w - 0.05 * mean / (np.sqrt(square) + 1e-8)


EQUATIONS = {
    "sgd": sgd,
    "momentum": momentum,
    "adagrad": adagrad,
    "rmsprop": rmsprop,
    "adadelta": adadelta,
    "adam": adam,
    "adamw": lambda w, g, t, s: adam(w, g, t, s) - 0.05 * 0.02 * w,
}


def config_of(name, **changes):
    decay = 0.02 if name == "adamw" else 0.0
    return OptimizerConfig(**{"name": name, "learning_rate": 0.05, "momentum": 0.8, "weight_decay": decay, **changes})


@pytest.mark.smoke
@pytest.mark.parametrize("name", sorted(EQUATIONS))
def test_equation_in_float64(name):
    steps = 1000 if name.startswith("adam") else STEPS
    w, noise = problem(steps)
    found, state = run(config_of(name), w, noise), {}
    for t in range(steps):
        w = EQUATIONS[name](w, w - 0.3 + noise[t], t, state)
        np.testing.assert_allclose(found[t], w, rtol=0, atol=2e-5, err_msg=f"{name}, update {t}")


def test_nesterov_looks_ahead():
    """Our w is the look-ahead point theta + m v; theta obeys v <- m v - lr grad(theta + m v), theta <- theta + v."""
    w0, noise = problem()
    ramp = {"momentum": 0.5, "momentum_final": 0.9, "momentum_steps": 40}

    def m(t):
        return 0.5 + 0.4 * min(t / 40, 1)

    found = run(config_of("nesterov", **ramp), w0, noise)
    theta, v = w0, np.zeros(SHAPE)
    for t in range(STEPS):
        v = m(t) * v - 0.05 * (theta + m(t) * v - 0.3 + noise[t])
        theta = theta + v
        np.testing.assert_allclose(found[t], theta + m(t + 1) * v, atol=1e-5)


def test_momentum_schedule_with_falling_rate_is_pylearn2s_rule():
    """v <- m_t v - lr_t g with the maxout recipe's momentum ramp and decaying rate (inside the velocity)."""
    w, noise = problem()
    config = config_of(
        "momentum",
        momentum=0.5,
        momentum_final=0.7,
        momentum_steps=30,
        schedule="exponential",
        decay_rate=0.9,
        decay_steps=1,
    )
    found, v = run(config, w, noise), 0.0
    for t in range(STEPS):
        v = (0.5 + 0.2 * min(t / 30, 1)) * v - 0.05 * 0.9**t * (w - 0.3 + noise[t])
        w = w + v
        np.testing.assert_allclose(found[t], w, atol=1e-5)


def test_adam_is_optax_adam():
    w, noise = problem(1000)
    found = run(config_of("adam"), w, noise)
    tx = optax.adam(0.05)

    def step(carry, n):
        w, state = carry
        updates, state = tx.update(w - 0.3 + n, state, w)
        return (w + updates, state), w + updates

    w = jnp.asarray(w, jnp.float32)
    expected = jax.jit(lambda: lax.scan(step, (w, tx.init(w)), jnp.asarray(noise, jnp.float32))[1])()
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-6)


@pytest.mark.parametrize("name", [n for n in OPTIMIZERS if n != "lbfgs"])
def test_same_as_pytorch(name):
    torch = pytest.importorskip("torch", reason="the oracle PyTorch is not installed")
    make = {
        "sgd": lambda p: torch.optim.SGD(p, 0.05),
        "momentum": lambda p: torch.optim.SGD(p, 0.05, momentum=0.8),
        "nesterov": lambda p: torch.optim.SGD(p, 0.05, momentum=0.8, nesterov=True),
        "adagrad": lambda p: torch.optim.Adagrad(p, 0.05, eps=1e-8),
        "adadelta": lambda p: torch.optim.Adadelta(p, 0.05, rho=0.9, eps=1e-6),
        "rmsprop": lambda p: torch.optim.RMSprop(p, 0.05, alpha=0.9, eps=1e-8),
        "adam": lambda p: torch.optim.Adam(p, 0.05),
        "adamw": lambda p: torch.optim.AdamW(p, 0.05, weight_decay=0.02),
    }[name]
    w0, noise = problem()
    w = torch.nn.Parameter(torch.tensor(w0, dtype=torch.float64))
    solver = make([w])
    found = run(config_of(name), w0, noise)
    for t in range(STEPS):
        w.grad = w.detach() - 0.3 + torch.tensor(noise[t])
        solver.step()
        np.testing.assert_allclose(found[t], w.detach().numpy(), rtol=0, atol=2e-5)


def test_coupled_l2_in_pytorch_and_l1_by_hand():
    torch = pytest.importorskip("torch", reason="the oracle PyTorch is not installed")
    w0, noise = problem()
    w = torch.nn.Parameter(torch.tensor(w0, dtype=torch.float64))
    solver = torch.optim.Adam([w], 0.05, weight_decay=0.1)
    found = run(config_of("adam", l2=0.1, l1=0.03), w0, noise)
    for t in range(STEPS):
        w.grad = w.detach() - 0.3 + torch.tensor(noise[t]) + 0.03 * torch.sign(w.detach())
        solver.step()
        np.testing.assert_allclose(found[t], w.detach().numpy(), rtol=0, atol=2e-5)


def test_decoupled_and_coupled_decay():
    """For sgd both shrink by (1 - lr c); Adam divides a coupled decay by the gradient's size, a decoupled one not."""
    w0 = np.full(SHAPE, 2.0)
    big = 1000.0 * np.sign(problem(1)[1])  # gradients dwarf the penalty
    sgd_coupled, sgd_decoupled = (run(config_of("sgd", **{k: 0.1}), w0, big)[0] for k in ("l2", "weight_decay"))
    np.testing.assert_allclose(sgd_coupled, sgd_decoupled, rtol=1e-6)
    plain = run(config_of("adam"), w0, big)[0]
    coupled = run(config_of("adam", l2=0.1), w0, big)[0]
    decoupled = run(config_of("adamw", weight_decay=0.1), w0, big)[0]
    np.testing.assert_allclose(coupled, plain, atol=1e-6)  # the first step of Adam is lr * sign(g), whatever l2
    np.testing.assert_allclose(plain - decoupled, 0.05 * 0.1 * w0, atol=1e-6)


@pytest.mark.parametrize("kind", ["weight_decay", "l1", "l2"])
def test_biases_and_scales_are_not_decayed(kind):
    config = OptimizerConfig(name="sgd", learning_rate=0.5, **{kind: 0.1})
    tx = make_optimizer(config, 10)
    params = {
        "dense": {"kernel": jnp.full((3, 2), 2.0), "bias": jnp.full(2, 2.0)},
        "norm": {"gain": jnp.full(2, 2.0), "bias": jnp.full(2, 2.0)},
        "stacked": {"bias": jnp.full((5, 2), 2.0), "scale": jnp.full((5, 2), 2.0), "embedding": jnp.full((5, 2), 2.0)},
    }
    zero = jax.tree.map(jnp.zeros_like, params)
    updates, _ = tx.update(zero, tx.init(params), params, hyper=hyper_of(config))
    moved = {
        "/".join(k.key for k in path) for path, u in jax.tree_util.tree_leaves_with_path(updates) if (u != 0).any()
    }
    assert moved == {"dense/kernel", "stacked/embedding"}
    expected = -0.5 * 0.1 * (1.0 if kind == "l1" else 2.0)
    np.testing.assert_allclose(updates["dense"]["kernel"], expected, rtol=1e-6)


def clipped(gradient, **changes):
    config = OptimizerConfig(name="sgd", learning_rate=1.0, **changes)
    tx = make_optimizer(config, 10)
    params = {"a": jnp.zeros(2), "b": jnp.zeros(1)}
    grads = {"a": jnp.asarray(gradient[:2], jnp.float32), "b": jnp.asarray(gradient[2:], jnp.float32)}
    updates, _ = tx.update(grads, tx.init(params), params, hyper=hyper_of(config))
    return -np.concatenate([updates["a"], updates["b"]])


def test_value_clip_turns_the_gradient_and_norm_clip_does_not():
    g = np.array([3.0, -40.0, 12.0])

    def cosine(a, b):
        return a @ b / np.linalg.norm(a) / np.linalg.norm(b)

    by_value, by_norm = clipped(g, clip_value=5.0), clipped(g, clip_norm=5.0)
    np.testing.assert_allclose(by_value, [3.0, -5.0, 5.0], rtol=1e-6)
    np.testing.assert_allclose(by_norm, g * 5 / np.linalg.norm(g), rtol=1e-6)
    assert cosine(by_value, g) < 0.9
    assert cosine(by_norm, g) > 1 - 1e-6
    np.testing.assert_allclose(clipped(g, clip_norm=100.0), g)  # short gradients are left alone


def test_penalties_are_added_after_clipping():
    config = OptimizerConfig(name="sgd", learning_rate=1.0, clip_norm=1e-3, l2=1.0)
    w0 = np.full(SHAPE, 5.0)
    moved = w0 - run(config, w0, np.zeros((1, *SHAPE)))[0]
    np.testing.assert_allclose(moved, 5.0 + 1e-3 / np.sqrt(12), rtol=1e-5)


def test_max_column_norm():
    """Columns of a dense kernel and output channels of a convolution end within the limit; all else is unchanged."""
    rng = np.random.default_rng(0)
    params = {
        "dense": {"kernel": rng.normal(size=(20, 6)), "bias": np.full(6, 9.0)},
        "conv": {"kernel": rng.normal(size=(3, 3, 4, 5))},
        "table": {"embedding": rng.normal(size=(20, 6))},
    }
    params["dense"]["kernel"][:, 0] *= 1e-3
    params = jax.tree.map(jnp.float32, params)
    grads = jax.tree.map(jnp.ones_like, params)
    news = []
    for limit in (0.0, 1.9365):
        config = OptimizerConfig(name="sgd", learning_rate=0.1, max_column_norm=limit)
        tx = make_optimizer(config, 10)
        updates, _ = tx.update(grads, tx.init(params), params, hyper=hyper_of(config))
        news.append(jax.tree.map(np.asarray, optax.apply_updates(params, updates)))
    free, held = news
    for name, axes in (("dense", 0), ("conv", (0, 1, 2))):
        a, b = free[name]["kernel"], held[name]["kernel"]
        norm = np.sqrt((a.astype(np.float64) ** 2).sum(axis=axes))
        assert (norm > 1.9365).any()
        np.testing.assert_allclose(b, a * np.minimum(1, 1.9365 / norm), atol=1e-6)
        assert np.sqrt((b.astype(np.float64) ** 2).sum(axis=axes)).max() <= 1.9365 * (1 + 1e-6)
    np.testing.assert_array_equal(
        held["dense"]["kernel"][:, 0], free["dense"]["kernel"][:, 0]
    )  # short column: same bits
    np.testing.assert_array_equal(held["dense"]["bias"], free["dense"]["bias"])
    np.testing.assert_array_equal(held["table"]["embedding"], free["table"]["embedding"])


@pytest.mark.parametrize("decay", [0.0, 0.9, 0.9999])
@pytest.mark.parametrize("traced", [False, True])
def test_ema_closed_form(decay, traced):
    p = np.random.default_rng(0).normal(size=(50, 3))
    start = np.full(3, 7.0)
    update = jax.jit(update_ema, static_argnames=["debias"] if traced else ["debias", "decay"])
    plain = debiased = {"w": jnp.float32(start)}
    for t in range(50):
        params, d = {"w": jnp.float32(p[t])}, jnp.float32(decay) if traced else decay
        plain = update(plain, params, d, jnp.int32(t), debias=False)
        debiased = update(debiased, params, d, jnp.int32(t), debias=True)
        weights = (1 - decay) * decay ** np.arange(t, -1, -1.0)
        expected = weights @ p[: t + 1]
        np.testing.assert_allclose(plain["w"], expected + decay ** (t + 1) * start, rtol=2e-5, atol=2e-5)
        np.testing.assert_allclose(debiased["w"], expected / weights.sum(), rtol=2e-5, atol=2e-5)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"name": "adma"}, "name must be one of"),
        ({"schedule": "sine"}, "schedule must be one of"),
        ({"learning_rate": -1.0}, "learning_rate must be"),
        ({"learning_rate": float("nan")}, "learning_rate must be"),
        ({"momentum": 1.0}, "momentum must be below 1"),
        ({"momentum": 1.5}, "momentum must be between"),
        ({"beta2": 1.0}, "beta1, beta2"),
        ({"ema_decay": 1.0}, "ema_decay"),
        ({"decay_rate": 0.0}, "decay_rate"),
        ({"peak_fraction": 0.0}, "peak_fraction"),
        ({"schedule": "step", "boundaries": (5, 3)}, "boundaries must increase"),
        ({"boundaries": (5,)}, "belong to schedule=step"),
        ({"momentum_steps": 5}, "momentum_steps"),
        ({"weight_decay": 0.1}, "adamw"),
        ({"name": "lbfgs", "schedule": "cosine"}, "lbfgs"),
        ({"name": "lbfgs", "clip_norm": 1.0}, "lbfgs"),
    ],
)
def test_impossible_settings_are_refused(changes, message):
    with pytest.raises(ValueError, match=message):
        make_optimizer(OptimizerConfig(**changes), 10)


def test_a_call_without_what_is_needed_says_so():
    for name, given in (("sgd", {}), ("lbfgs", {"hyper": {"l1": 0.0, "l2": 0.0}, "value": 1.0})):
        tx = make_optimizer(OptimizerConfig(name=name), 10)
        params = {"w": jnp.ones(2)}
        with pytest.raises(ValueError, match="needs `value_fn`" if given else "needs `hyper`"):
            tx.update(params, tx.init(params), params, **given)


def test_what_is_frozen_stays_and_the_rest_moves_on():
    config = OptimizerConfig(name="momentum", learning_rate=0.1)
    optimizer = optax.chain(make_optimizer(config, 10), freeze_after(2, "bias"))
    params = {"layer": {"bias": jnp.zeros(2), "kernel": jnp.zeros((2, 2))}}
    state, seen = optimizer.init(params), []
    hyper = {name: jnp.float32(value) for name, value in hyper_parameters(config).items()}
    for _ in range(4):
        updates, state = optimizer.update(jax.tree.map(jnp.ones_like, params), state, params, hyper=hyper)
        params = optax.apply_updates(params, updates)
        seen.append((float(params["layer"]["bias"][0]), float(params["layer"]["kernel"][0, 0])))
    # v <- 0.9 v - 0.1
    np.testing.assert_allclose(seen, [(-0.1, -0.1), (-0.29, -0.29), (-0.29, -0.561), (-0.29, -0.9049)], rtol=1e-5)


def test_describe_and_total_steps():
    config = OptimizerConfig(name="adamw", schedule="cosine", warmup_steps=100, weight_decay=0.01, clip_norm=1.0)
    text = "adamw, learning rate 0.001 (cosine, warm-up 100), weight decay 0.01, clip norm 1"
    assert describe(config) == text
    assert depends_on_total_steps(config)
    assert not depends_on_total_steps(OptimizerConfig(schedule="exponential", warmup_steps=5))
    assert hyper_parameters(config) == {"learning_rate": 1e-3, "weight_decay": 0.01, "l1": 0.0, "l2": 0.0}
