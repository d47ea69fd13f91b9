"""The variational autoencoder of Kingma & Welling (2014) with dense layers."""

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn

from jaxdl.nn.activations import get_activation
from jaxdl.nn.context import row_keys
from jaxdl.nn.noise import normal

Array = jax.Array


class VAE(nn.Module):
    """q(z | x) = N(μ(x), diag σ²(x)), p(z) = N(0, I), p(x | z) = Bernoulli(σ(decoder(z))).

    z = μ + σ ε with ε ~ N(0, I) drawn for each example from the rng collection "noise" and the example's row
    (`jaxdl.nn.context`); without that collection z = μ.

    Attributes:
      inputs: D, values of one example.
      features: widths of the encoder's hidden layers; the decoder has them in reverse.
      latents: L, length of z.
      activation: of the hidden layers, a name from `jaxdl.nn.activations.PLAIN_ACTIVATIONS`.
      gated: hidden layers are (W x + b) σ(V x + c) instead (gated linear units, Dauphin et al. 2017).
      dtype: dtype of the computation; None for that of the input.
    """

    inputs: int
    features: Sequence[int] = (400,)
    latents: int = 20
    activation: str = "relu"
    gated: bool = False
    dtype: Any = None

    def setup(self) -> None:
        """The layers that `encode` and `decode` use."""
        parts = 2 if self.gated else 1
        self.encoder = [nn.Dense(parts * width, dtype=self.dtype) for width in self.features]
        self.posterior = nn.Dense(2 * self.latents, dtype=self.dtype)
        self.decoder = [nn.Dense(parts * width, dtype=self.dtype) for width in reversed(self.features)]
        self.likelihood = nn.Dense(self.inputs, dtype=self.dtype)

    def _activate(self, h: Array, train: bool) -> Array:
        return jax.nn.glu(h) if self.gated else get_activation(self.activation)(h, train)

    def encode(self, x: Array, train: bool = False) -> tuple[Array, Array]:
        """μ and log σ², [B, L] each, of x [B, ...]."""
        h = x.reshape(x.shape[0], -1)
        for layer in self.encoder:
            h = self._activate(layer(h), train)
        mean, log_variance = jnp.split(self.posterior(h), 2, axis=-1)
        return mean, log_variance

    def decode(self, z: Array, train: bool = False) -> Array:
        """Logits [B, D] of the pixels, from z [B, L]."""
        h = z
        for layer in self.decoder:
            h = self._activate(layer(h), train)
        return self.likelihood(h)

    def __call__(self, x: Array, train: bool = False) -> dict[str, Array]:
        """{"mean", "log_variance" and "latent": [B, L], "logits": [B, D]} of x [B, ...]."""
        mean, log_variance = self.encode(x, train)
        z = mean
        if self.has_rng("noise"):
            keys = row_keys(self.make_rng("noise"), x.shape[0])
            noise = normal(keys, self.latents)
            z = mean + jnp.exp(0.5 * log_variance) * noise.astype(mean.dtype)
        return {"mean": mean, "log_variance": log_variance, "latent": z, "logits": self.decode(z, train)}
