"""Networks with a policy and a value for board games; Silver et al. 2018, Science 362 (AlphaZero)."""

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn

from jaxdl.models.resnet import ResidualBlock
from jaxdl.nn.convolution import Conv
from jaxdl.nn.normalization import BatchNorm

Array = jax.Array


class _Heads(nn.Module):
    """Policy logits [B, A] and value [B] in (-1, 1) of features [B, F]; both start at zero: nothing is known yet."""

    num_actions: int
    dtype: Any = None

    @nn.compact
    def __call__(self, policy: Array, value: Array) -> tuple[Array, Array]:
        zeros = nn.initializers.zeros_init()
        logits = nn.Dense(self.num_actions, kernel_init=zeros, dtype=self.dtype, name="policy")(policy)
        value = nn.Dense(1, kernel_init=zeros, dtype=self.dtype, name="value")(value)
        return logits, jnp.tanh(value[:, 0])


class PolicyValueMLP(nn.Module):
    """Dense layers with ReLU and two heads, for boards of a few cells.

    Attributes:
      num_actions: A.
      features: width of each hidden layer.
      dtype: dtype of the computation; None for that of the input.
    """

    num_actions: int
    features: Sequence[int] = (128, 128)
    dtype: Any = None

    @nn.compact
    def __call__(self, x: Array, train: bool = False) -> tuple[Array, Array]:
        """Maps observations [B, H, W, C] to policy logits [B, A] and values [B] in (-1, 1)."""
        x = x.reshape(x.shape[0], -1).astype(jnp.float32)
        for width in self.features:
            x = nn.relu(nn.Dense(width, kernel_init=nn.initializers.he_normal(), dtype=self.dtype)(x))
        return _Heads(self.num_actions, self.dtype, name="heads")(x, x)


class PolicyValueResNet(nn.Module):
    """A tower of pre-activation residual blocks without pooling, and two heads, for larger boards.

    Attributes:
      num_actions: A.
      width: maps of every block.
      blocks: residual blocks of two 3×3 convolutions each.
      dtype: dtype of the dense layers; None for that of the input.
    """

    num_actions: int
    width: int = 32
    blocks: int = 3
    dtype: Any = None

    @nn.compact
    def __call__(self, x: Array, train: bool = False) -> tuple[Array, Array]:
        """Maps observations [B, H, W, C] to policy logits [B, A] and values [B] in (-1, 1)."""
        x = Conv(self.width, (3, 3), padding=1, use_bias=False)(x.astype(jnp.float32))
        for _ in range(self.blocks):
            x = ResidualBlock(self.width, preactivation=True)(x, train)
        x = nn.relu(BatchNorm()(x, train))
        policy = nn.relu(BatchNorm()(Conv(2, (1, 1), use_bias=False, name="policy_maps")(x), train))
        value = nn.relu(BatchNorm()(Conv(1, (1, 1), use_bias=False, name="value_maps")(x), train))
        policy, value = policy.reshape(x.shape[0], -1), value.reshape(x.shape[0], -1)
        value = nn.relu(nn.Dense(self.width, kernel_init=nn.initializers.he_normal(), dtype=self.dtype)(value))
        return _Heads(self.num_actions, self.dtype, name="heads")(policy, value)
