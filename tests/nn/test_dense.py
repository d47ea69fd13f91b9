"""The product of small dense layers against the plain one, with its derivatives."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

from jaxdl.nn.dense import JointDense, product

KEY = jax.random.key(0)


def both(shape, outputs):
    """A layer with the product and without, its parameters and inputs."""
    layers = nn.Dense(outputs, dot_general=product), nn.Dense(outputs)
    x = jax.random.normal(KEY, shape)
    return layers, layers[0].init(jax.random.key(1), x), x


@pytest.mark.parametrize(
    ("shape", "outputs"),
    [((6, 5), 3), ((6, 5), 8), ((7, 4), 1), ((2, 3, 5), 5), ((0, 5), 3), ((4, 512), 70), ((3, 300), 120)],
)
def test_values_and_gradients_are_those_of_the_plain_layer(shape, outputs):
    layers, params, x = both(shape, outputs)

    def loss(layer, params, x):
        return jnp.sin(layer.apply(params, x)).sum()

    found, wanted = (jax.jit(jax.value_and_grad(loss, (1, 2)), static_argnums=0)(layer, params, x) for layer in layers)
    for one, other in zip(jax.tree.leaves(found), jax.tree.leaves(wanted), strict=True):
        np.testing.assert_allclose(one, other, atol=2e-6)


def test_second_derivatives_and_vmap_are_those_of_the_plain_layer():
    layers, params, x = both((6, 5), 3)

    def slope(layer, params, x):
        grads = jax.grad(lambda params: jnp.sin(layer.apply(params, x)).sum())(params)
        return sum(jnp.square(leaf).sum() for leaf in jax.tree.leaves(grads))

    many = jax.tree.map(lambda leaf: jnp.stack([leaf, 2 * leaf]), params)
    found, wanted = (
        jax.jit(jax.vmap(jax.grad(slope, 1), (None, 0, None)), static_argnums=0)(layer, many, x) for layer in layers
    )
    for one, other in zip(jax.tree.leaves(found), jax.tree.leaves(wanted), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("use_bias", [True, False])
def test_joint_layers_are_flaxs_general_one_with_its_parts_apart(use_bias):
    """The same parameters under the same names from the same key, and gradients by them."""
    x = jax.random.normal(KEY, (6, 5))
    ours, flaxs = JointDense(3, 4, use_bias), nn.DenseGeneral((3, 4), use_bias=use_bias)
    params = ours.init(jax.random.key(1), x)
    jax.tree.map(np.testing.assert_array_equal, params, flaxs.init(jax.random.key(1), x))
    params = jax.tree.map(lambda leaf: leaf + 0.1, params)

    parts = ours.apply(params, x)
    assert [part.shape for part in parts] == [(6, 4)] * 3
    np.testing.assert_allclose(jnp.stack(parts, 1), flaxs.apply(params, x), atol=1e-6)
    grads = jax.grad(lambda p: jnp.sin(jnp.stack(ours.apply(p, x))).sum())(params)
    wanted = jax.grad(lambda p: jnp.sin(flaxs.apply(p, x)).sum())(params)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-5), grads, wanted)
