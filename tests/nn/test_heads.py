import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import linen as nn
from scipy import stats

from jaxdl.nn.heads import Head, get_head, register_head

RNG = np.random.default_rng(0)
FEATURES = jnp.asarray(RNG.normal(size=(6, 5)), jnp.float32)


def outputs_of(head):
    return head.init_with_output(jax.random.key(0), FEATURES)[0]


def test_bernoulli():
    head = get_head("bernoulli", dims=3)
    z = outputs_of(head)
    y = RNG.integers(0, 2, (6, 3))
    p = 1 / (1 + np.exp(-np.asarray(z, np.float64)))
    np.testing.assert_allclose(head.nll(z, jnp.asarray(y)), -stats.bernoulli.logpmf(y, p).sum(-1), rtol=1e-5)
    np.testing.assert_allclose(head.mean(z), p, rtol=1e-5)
    assert np.isfinite(head.nll(jnp.array([[1e4, -1e4]]), jnp.array([[0, 1]]))).all()


def test_categorical():
    head = get_head("categorical", num_classes=4)
    z = outputs_of(head)
    y = RNG.integers(0, 4, 6)
    p = np.exp(np.asarray(z, np.float64))
    p /= p.sum(-1, keepdims=True)
    np.testing.assert_allclose(head.nll(z, jnp.asarray(y)), -np.log(p[np.arange(6), y]), rtol=1e-5)
    np.testing.assert_allclose(head.mean(z), p, rtol=1e-5)
    np.testing.assert_allclose(head.nll(jnp.array([[1e4, -1e4]]), jnp.array([1])), [2e4])
    slope = jax.grad(lambda z: head.nll(z, jnp.asarray(y)).sum())(z)
    np.testing.assert_allclose(slope, p - np.eye(4)[y], atol=1e-6)


def test_gaussian_with_unit_and_with_learned_scale():
    y = jnp.asarray(RNG.normal(size=(6, 2)), jnp.float32)
    unit = get_head("gaussian", dims=2)
    z = outputs_of(unit)
    squared = np.square(np.asarray(y - z["mean"])).sum(-1)
    np.testing.assert_allclose(unit.nll(z, y), 0.5 * squared + np.log(2 * np.pi), rtol=1e-5)
    learned = get_head("gaussian", dims=2, learn_scale=True)
    z = outputs_of(learned)
    assert float(jnp.abs(z["log_scale"]).min()) > 0
    expected = -stats.norm.logpdf(y, z["mean"], np.exp(z["log_scale"])).sum(-1)
    np.testing.assert_allclose(learned.nll(z, y), expected, rtol=1e-4)
    np.testing.assert_array_equal(learned.mean(z), z["mean"])


def test_mixture():
    head = get_head("mixture", dims=2, components=3)
    z = outputs_of(head)
    y = RNG.normal(size=(6, 2))
    weights = np.exp(np.asarray(z["logits"], np.float64))
    weights /= weights.sum(-1, keepdims=True)
    density = np.zeros(6)
    for k in range(3):
        scale = np.exp(np.asarray(z["log_scale"][:, k]))[:, None]
        density += weights[:, k] * stats.norm.pdf(y, np.asarray(z["mean"][:, k]), scale).prod(-1)
    np.testing.assert_allclose(head.nll(z, jnp.asarray(y, jnp.float32)), -np.log(density), rtol=1e-4)
    expected = (weights[..., None] * np.asarray(z["mean"])).sum(1)
    np.testing.assert_allclose(head.mean(z), expected, rtol=1e-4, atol=1e-6)


def inverse_sine(count, seed):
    """Bishop's toy (1994, figure 6): x = t + 0.3 sin(2 pi t) + noise, to be told back from x: several t fit one x."""
    draw = np.random.default_rng(seed)
    t = draw.uniform(0, 1, (count, 1))
    x = t + 0.3 * np.sin(2 * np.pi * t) + draw.uniform(-0.1, 0.1, (count, 1))
    return jnp.asarray(x, jnp.float32), jnp.asarray(t, jnp.float32)


def test_a_trained_mixture_is_likelier_than_a_trained_gaussian_on_the_inverse_sine():
    class Network(nn.Module):
        head: Head

        @nn.compact
        def __call__(self, x):
            return self.head(nn.tanh(nn.Dense(20)(nn.tanh(nn.Dense(20)(4 * x - 2)))))

    (x, t), held_out = inverse_sine(500, 0), inverse_sine(2000, 1)
    optimizer = optax.adam(1e-2)

    def trained(head):
        network = Network(head)
        params = network.init(jax.random.key(0), x)

        def loss(params, x, t):
            return head.nll(network.apply(params, x), t).mean()

        def step(_, carry):
            params, state = carry
            updates, state = optimizer.update(jax.grad(loss)(params, x, t), state)
            return optax.apply_updates(params, updates), state

        params, _ = jax.lax.fori_loop(0, 1500, step, (params, optimizer.init(params)))
        return loss(params, *held_out)

    heads = get_head("mixture", dims=1, components=3), get_head("gaussian", dims=1, learn_scale=True)
    mixture, gaussian = (float(jax.jit(trained, static_argnums=0)(head)) for head in heads)
    assert gaussian < 0.0  # better than the targets' own spread: t is uniform on [0, 1]
    assert mixture < gaussian - 0.2


def test_a_later_head_joins_by_its_class():
    class Exponential(Head):
        def __call__(self, features):
            return features[:, :1]

        def nll(self, outputs, target):
            return (jnp.exp(outputs) * target - outputs)[:, 0]

    register_head("exponential_for_test")(Exponential)
    head = get_head("exponential_for_test")
    z = head.apply({}, FEATURES)
    expected = -stats.expon.logpdf(2.0, scale=np.exp(-np.asarray(z[:, 0])))
    np.testing.assert_allclose(head.nll(z, jnp.full((6, 1), 2.0)), expected, rtol=1e-5)
    with pytest.raises(ValueError, match="exists already"):
        register_head("exponential_for_test")(Exponential)
    with pytest.raises(ValueError, match="unknown head"):
        get_head("poisson")
