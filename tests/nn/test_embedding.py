"""Vectors of tokens against flax's, and the sum of a token's gradients in half precision."""

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn

from jaxdl.nn.embedding import Embed

TOKENS = jnp.asarray(np.random.default_rng(0).integers(0, 7, (3, 5)), jnp.int32)


def test_it_is_flaxs_layer_in_float32():
    ours, flaxs = Embed(7, 4), nn.Embed(7, 4)
    params = ours.init(jax.random.key(0), TOKENS)
    jax.tree.map(np.testing.assert_array_equal, params, flaxs.init(jax.random.key(0), TOKENS))
    np.testing.assert_array_equal(ours.apply(params, TOKENS), flaxs.apply(params, TOKENS))
    logits = jnp.ones((2, 4))
    np.testing.assert_array_equal(
        ours.apply(params, logits, method="attend"), flaxs.apply(params, logits, method="attend")
    )


def test_gradients_of_many_places_keep_their_digits_in_half_precision():
    """4096 times 2⁻⁸ to one token: added one by one in bfloat16 they stay at 2."""
    tokens = jnp.zeros((4096,), jnp.int32)
    layer = Embed(3, 2, dtype=jnp.bfloat16)
    params = layer.init(jax.random.key(0), tokens)
    assert layer.apply(params, tokens).dtype == jnp.bfloat16
    grads = jax.grad(lambda p: (layer.apply(p, tokens) * jnp.bfloat16(2.0**-8)).sum().astype(jnp.float32))(params)
    np.testing.assert_array_equal(grads["params"]["embedding"], [[16.0, 16.0], [0.0, 0.0], [0.0, 0.0]])
