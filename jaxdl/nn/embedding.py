"""Vectors of tokens."""

import jax
import jax.numpy as jnp
from flax import linen as nn

Array = jax.Array


class Embed(nn.Embed):
    """`nn.Embed` that looks up before it rounds: the gradients of a token's many places are added in float32.

    In bfloat16 they would lose their digits one after another, and XLA:GPU has atomic additions of float32 alone.
    """

    def __call__(self, inputs: Array) -> Array:
        """Tokens [...] int to vectors [..., features] of `dtype`, else of the parameters' type."""
        if self.num_embeddings == 1 or not jnp.issubdtype(inputs.dtype, jnp.integer):
            return super().__call__(inputs)
        vectors = jnp.take(jnp.asarray(self.embedding), inputs, axis=0)
        return vectors if self.dtype is None else vectors.astype(self.dtype)
