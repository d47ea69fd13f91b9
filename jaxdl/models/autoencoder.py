"""Autoencoders of any depth: dense layers down to a code and back."""

from collections.abc import Mapping, Sequence
from typing import Any

import jax
from flax import linen as nn

from jaxdl.nn.activations import get_activation

Array = jax.Array


class Transposed(nn.Module):
    """y = x Wᵀ + b with the W of another layer, so that only b is its own.

    Attributes:
      dtype: dtype of the computation; None for that of the input.
    """

    dtype: Any = None

    @nn.compact
    def __call__(self, x: Array, kernel: Array) -> Array:
        """Maps x [B, out] to [B, in] with kernel [in, out]."""
        bias = self.param("bias", nn.initializers.zeros_init(), (kernel.shape[0],))
        x, kernel, bias = nn.dtypes.promote_dtype(x, kernel, bias, dtype=self.dtype)
        return x @ kernel.T + bias


class Autoencoder(nn.Module):
    """h = g(Wx + b) in each layer down to the code, which is linear, and mirrored back (Hinton & Salakhutdinov 2006).

    Without hidden layers it is linear up to the output unit: with a linear one it finds the space of the principal
    components, with a logistic one it is logistic PCA with a linear encoder.

    Attributes:
      inputs: D, values of one example.
      features: widths of the encoder's layers; the last one is that of the code, K.
      activation: of the hidden layers, a name from `jaxdl.nn.activations.ACTIVATIONS`.
      tied: whether each decoder layer uses the transposed weights of its encoder layer.
      dtype: dtype of the computation; None for that of the input.
    """

    inputs: int
    features: Sequence[int] = (30,)
    activation: str = "sigmoid"
    tied: bool = False
    dtype: Any = None

    def setup(self) -> None:
        """The layers that `encode` and `decode` use."""
        widths = (self.inputs, *self.features)
        self.encoder = [nn.Dense(width, dtype=self.dtype) for width in self.features]
        decoder: list[Any] = [nn.Dense(width, dtype=self.dtype) for width in reversed(widths[:-1])]
        self.decoder = [Transposed(dtype=self.dtype) for _ in self.features] if self.tied else decoder

    def encode(self, x: Array, train: bool = False) -> Array:
        """The code [B, K] of x [B, ...]."""
        h = x.reshape(x.shape[0], -1)
        for i, layer in enumerate(self.encoder):
            h = layer(h)
            h = get_activation(self.activation)(h, train) if i + 1 < len(self.features) else h
        return h

    def decode(self, code: Array, train: bool = False) -> Array:
        """What goes into the output units [B, D], from codes [B, K]."""
        h = code
        for i, layer in enumerate(self.decoder):
            if self.tied:
                h = layer(h, self.encoder[-1 - i].variables["params"]["kernel"])
            else:
                h = layer(h)
            h = get_activation(self.activation)(h, train) if i + 1 < len(self.features) else h
        return h

    def __call__(self, x: Array, train: bool = False) -> dict[str, Array]:
        """{"code": [B, K], "output": what goes into the output units, [B, D]} of x [B, ...]."""
        code = self.encode(x, train)
        return {"code": code, "output": self.decode(code, train)}


def unrolled(layers: Sequence[Mapping[str, Array]], tied: bool = False) -> dict[str, Any]:
    """A stack of RBMs as an `Autoencoder`'s parameters: up by W and the hidden biases, down by Wᵀ and the visible ones.

    The code layer is linear in the autoencoder, so that a stack with Gaussian hidden units on top gives exactly its
    mean-field passes.

    Args:
      layers: from the lowest on, each with "kernel" [D, H], "hidden_bias" [H], "visible_bias" [D] and, if centred,
        "visible_offset" [D] and "hidden_offset" [H] (see `jaxdl.models.rbm.uncentred`).
      tied: whether the autoencoder's weights are.
    """
    params: dict[str, Any] = {}
    for i, layer in enumerate(layers):
        down = {"bias": layer["visible_bias"]} if tied else {"kernel": layer["kernel"].T, "bias": layer["visible_bias"]}
        params[f"encoder_{i}"] = {"kernel": layer["kernel"], "bias": layer["hidden_bias"]}
        params[f"decoder_{len(layers) - 1 - i}"] = down
    return params
