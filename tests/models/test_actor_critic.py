"""Networks of agents: shapes, first policy, torsos, and what dueling means."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxdl.models.actor_critic import ActorCritic, QNetwork

KEY = jax.random.key(0)
IMAGES = jax.random.bernoulli(KEY, 0.3, (5, 10, 10, 4)).astype(jnp.float32)


@pytest.mark.parametrize("maps", [0, 16])
@pytest.mark.parametrize("shared", [False, True])
def test_the_first_policy_is_nearly_uniform(maps, shared):
    network = ActorCritic(3, (32,), maps, "relu", shared)
    (logits, values), variables = jax.jit(network.init_with_output)(KEY, IMAGES)
    assert logits.shape == (5, 3) and values.shape == (5,)
    np.testing.assert_allclose(jax.nn.softmax(logits), 1 / 3, atol=0.03)
    assert set(variables["params"]) == ({"torso"} if shared else {"actor", "critic"}) | {"policy", "value"}
    assert ("Conv_0" in variables["params"]["torso" if shared else "actor"]) is (maps > 0)


def test_the_convolution_sees_windows_without_padding():
    network = ActorCritic(3, (8,), 16, "relu", True)
    torso = network.init(KEY, IMAGES)["params"]["torso"]
    assert torso["Conv_0"]["kernel"].shape == (3, 3, 4, 16)
    assert torso["Dense_0"]["kernel"].shape == (8 * 8 * 16, 8)


def test_the_policys_gradient_spares_the_critic():
    network = ActorCritic(2, (8, 8))
    x = jax.random.normal(KEY, (6, 4))
    params = network.init(KEY, x)["params"]
    grads = jax.jit(jax.grad(lambda p: jnp.square(network.apply({"params": p}, x)[0]).sum()))(params)
    assert all((leaf == 0).all() for leaf in jax.tree.leaves((grads["critic"], grads["value"])))
    assert all((leaf != 0).any() for leaf in jax.tree.leaves((grads["actor"], grads["policy"])))


def test_dueling_advantages_have_no_mean():
    network = QNetwork(3, (16,), dueling=True)
    x = jax.random.normal(KEY, (6, 4))
    params = network.init(KEY, x)["params"]
    values = network.apply({"params": params}, x)
    shifted = dict(params, values={**params["values"], "bias": params["values"]["bias"] + 5.0})
    np.testing.assert_allclose(network.apply({"params": shifted}, x), values, atol=1e-5)
    without = dict(params, state_value=jax.tree.map(jnp.zeros_like, params["state_value"]))
    np.testing.assert_allclose(network.apply({"params": without}, x).mean(axis=1), 0.0, atol=1e-5)
