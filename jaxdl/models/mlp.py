"""Multi-layer perceptron with any hidden unit."""

import functools
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn

from jaxdl.nn.activations import get_activation
from jaxdl.nn.dense import product
from jaxdl.nn.dropout import Dropout
from jaxdl.nn.normalization import BatchNorm

Array = jax.Array

INITIALIZERS = ("he_normal", "lecun_normal", "glorot_normal", "glorot_uniform", "normal", "uniform", "fan_in_normal")


def get_initializer(name: str, scale: float = 0.05) -> Callable[..., Array]:
    """The initialiser of a weight matrix, by name.

    Args:
      name: one of `INITIALIZERS`; "normal" is N(0, scale²), "uniform" is U(−scale, scale), "fan_in_normal" is N(0, 1 / n_in)
        (lecun_normal has the same variance, but its tails are cut off).
      scale: width of normal and uniform, not used by the others.

    Raises:
      ValueError: for an unknown name.
    """
    if name == "uniform":
        return lambda key, shape, dtype: jax.random.uniform(key, shape, dtype, -scale, scale)
    if name == "normal":
        return nn.initializers.normal(scale)
    if name == "fan_in_normal":
        return nn.initializers.variance_scaling(1.0, "fan_in", "normal")
    if name not in INITIALIZERS:
        raise ValueError(f"unknown initialiser {name!r}; choose one of {', '.join(INITIALIZERS)}")
    return getattr(nn.initializers, name)()


class MLP(nn.Module):
    """Dense layers with a non-linearity between them: [B, ...] to logits [B, num_classes].

    Attributes:
      features: width of each hidden layer; none for softmax regression.
      num_classes: number of outputs.
      activation: name from `jaxdl.nn.activations.ACTIVATIONS`.
      pieces: number of linear pieces of each unit if activation is "maxout".
      dropout: probability of dropping a hidden unit, one for all hidden layers or one each.
      input_dropout: probability of dropping an input value.
      input_rescale: whether the inputs that are kept are scaled by 1 / (1 − input_dropout).
      batch_norm: whether to normalise each hidden layer before its non-linearity.
      initializer: name of the initialiser of all weights, see `get_initializer`.
      initial_scale: width of the normal or uniform initialiser.
      initial_bias: biases start as N(0, initial_bias²).
      dtype: dtype of the computation; None for that of the input.
    """

    features: Sequence[int] = (512, 512)
    num_classes: int = 10
    activation: str = "relu"
    pieces: int = 2
    dropout: float | Sequence[float] = 0.0
    input_dropout: float = 0.0
    input_rescale: bool = True
    batch_norm: bool = False
    initializer: str = "he_normal"
    initial_scale: float = 0.05
    initial_bias: float = 0.0
    dtype: Any = None

    @nn.compact
    def __call__(self, x: Array, train: bool = False) -> Array:
        """Maps x [B, ...] to logits [B, num_classes].

        Raises:
          ValueError: if dropout names another number of rates than there are hidden layers.
        """
        rates = (self.dropout,) * len(self.features) if isinstance(self.dropout, (int, float)) else tuple(self.dropout)
        if len(rates) != len(self.features):
            raise ValueError(f"dropout needs one rate or {len(self.features)}, got {rates}")
        pieces = self.pieces if self.activation == "maxout" else 1
        options = {"pieces": pieces} if self.activation == "maxout" else {}
        init = get_initializer(self.initializer, self.initial_scale)
        bias = nn.initializers.normal(self.initial_bias) if self.initial_bias else nn.initializers.zeros
        dense = functools.partial(nn.Dense, kernel_init=init, bias_init=bias, dtype=self.dtype, dot_general=product)
        x = Dropout(self.input_dropout, rescale=self.input_rescale)(x.reshape(x.shape[0], -1), train)
        for width, rate in zip(self.features, rates, strict=True):
            x = dense(width * pieces, use_bias=not self.batch_norm)(x)
            if self.batch_norm:
                x = BatchNorm()(x, train)
            x = get_activation(self.activation, **options)(x, train)
            x = Dropout(rate)(x, train)
        return dense(self.num_classes)(x)


class CountingMLP(nn.Module):
    """Rectifier network that tells how sparse its hidden layers are.

    Attributes:
      features: width of each hidden layer, H units in all.
      num_classes: number of outputs.
    """

    features: Sequence[int] = (100, 100, 100)
    num_classes: int = 10

    @nn.compact
    def __call__(self, x: Array, train: bool = False) -> dict[str, Array]:
        """x [B, ...] to {"logits" [B, K], "zeros" [B]: share of the H units that are exactly 0, "activation" [B]: Σ h}."""
        del train
        x, hidden = x.reshape(x.shape[0], -1), []
        for width in self.features:
            x = nn.relu(nn.Dense(width, kernel_init=nn.initializers.he_normal())(x))
            hidden.append(x)
        units = jnp.concatenate(hidden, axis=1)
        logits = nn.Dense(self.num_classes, kernel_init=nn.initializers.he_normal())(x)
        return {"logits": logits, "zeros": (units == 0).mean(axis=1), "activation": units.sum(axis=1)}
