"""Networks of agents: a policy with a value, and action values; on vectors or on small images."""

import functools
import math
from collections.abc import Sequence

import jax
import jax.numpy as jnp
from flax import linen as nn

from jaxdl.nn.activations import get_activation
from jaxdl.nn.convolution import Conv
from jaxdl.nn.dense import product
from jaxdl.nn.initializers import orthogonal

Array = jax.Array

_HIDDEN_GAIN = math.sqrt(2.0)
_dense = functools.partial(nn.Dense, dot_general=product)


class Torso(nn.Module):
    """Observations [B, *O] to features [B, F]: dense layers, after one 3×3 convolution where `maps` > 0.

    The convolution without padding and its 16 maps are those of MinAtar's reference networks (Young & Tian 2019).

    Attributes:
      features: width of each dense layer.
      maps: output channels of the convolution; 0: no convolution, images are flattened.
      activation: name from `jaxdl.nn.activations.ACTIVATIONS`.
    """

    features: Sequence[int] = (64, 64)
    maps: int = 0
    activation: str = "tanh"

    @nn.compact
    def __call__(self, x: Array, train: bool = False) -> Array:
        """Maps x [B, *O] to [B, features[-1]]."""
        act = get_activation(self.activation)
        if self.maps:
            x = Conv(self.maps, (3, 3), padding="VALID", kernel_init=orthogonal(_HIDDEN_GAIN))(x)
            x = act(x, train)
        x = x.reshape(x.shape[0], -1)
        for width in self.features:
            x = act(_dense(width, kernel_init=orthogonal(_HIDDEN_GAIN))(x), train)
        return x


class ActorCritic(nn.Module):
    """A policy's logits and the value of a state, from two torsos or a shared one.

    Weights are orthogonal, biases zero; the last layers have gains 0.01 and 1, so that the first policy is near uniform
    (Andrychowicz et al.: What matters in on-policy reinforcement learning?, 2021).

    Attributes:
      num_actions: A.
      features, maps, activation: of each `Torso`.
      shared: one torso for both.
    """

    num_actions: int
    features: Sequence[int] = (64, 64)
    maps: int = 0
    activation: str = "tanh"
    shared: bool = False

    @nn.compact
    def __call__(self, x: Array, train: bool = False) -> tuple[Array, Array]:
        """Maps observations [B, *O] to (logits [B, A], values [B])."""
        shape = (self.features, self.maps, self.activation)
        actor = critic = Torso(*shape, name="torso" if self.shared else "actor")(x, train)
        if not self.shared:
            critic = Torso(*shape, name="critic")(x, train)
        logits = _dense(self.num_actions, kernel_init=orthogonal(0.01), name="policy")(actor)
        values = _dense(1, kernel_init=orthogonal(1.0), name="value")(critic)
        return logits, values[:, 0]


class QNetwork(nn.Module):
    """Action values.

    Attributes:
      num_actions: A.
      features, maps, activation: of the `Torso`.
      dueling: a value and advantages whose mean over actions is taken away (Wang et al. 2016).
    """

    num_actions: int
    features: Sequence[int] = (128, 128)
    maps: int = 0
    activation: str = "relu"
    dueling: bool = False

    @nn.compact
    def __call__(self, x: Array, train: bool = False) -> Array:
        """Maps observations [B, *O] to values [B, A]."""
        x = Torso(self.features, self.maps, self.activation, name="torso")(x, train)
        values = _dense(self.num_actions, kernel_init=orthogonal(1.0), name="values")(x)
        if not self.dueling:
            return values
        state_value = _dense(1, kernel_init=orthogonal(1.0), name="state_value")(x)
        return state_value + values - jnp.mean(values, axis=-1, keepdims=True)
