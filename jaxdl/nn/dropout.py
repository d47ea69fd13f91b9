"""Dropout whose noise belongs to the example, not to the device."""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
from flax import linen as nn

from jaxdl.nn.context import row_keys
from jaxdl.nn.noise import LEVELS, row_below

Array = jax.Array


class Dropout(nn.Module):
    """Sets a random part of the values to zero and scales the rest by 1 / (1 − rate); Srivastava et al. 2014.

    The noise of example i is drawn with the key of the rng collection "noise" folded with the example's row
    (`jaxdl.nn.context`).

    Attributes:
      rate: probability of zero, in [0, 1).
      broadcast: axes along which all values share one draw, e.g. (1, 2) drops whole channels of [B, H, W, C].
      rescale: False keeps the rest as it is: what follows is trained on less than it gets in evaluation.
    """

    rate: float
    broadcast: Sequence[int] = ()
    rescale: bool = True

    @nn.compact
    def __call__(self, x: Array, train: bool, rate: Array | float | None = None) -> Array:
        """Drops values of x [B, ...] if `train`; the identity otherwise.

        Args:
          x: [B, ...].
          train: whether to drop.
          rate: replaces the attribute; may be traced.

        Raises:
          ValueError: if a rate known while tracing is outside [0, 1).
        """
        rate = self.rate if rate is None else rate
        if isinstance(rate, (int, float)):
            if not 0.0 <= rate < 1.0:
                raise ValueError(f"dropout rate must be in [0, 1), got {rate}")
            if rate == 0.0:
                return x
        if not train:
            return x
        shape = tuple(1 if axis in self.broadcast else n for axis, n in enumerate(x.shape))[1:]
        keys = row_keys(self.make_rng("noise"), x.shape[0])
        # 16 bits a value are half the cost of 32, and the probability is exact to 2^-17
        kept = jnp.maximum(jnp.round((1.0 - jnp.asarray(rate, jnp.float32)) * LEVELS), 1.0) / LEVELS
        left = x * (1.0 / kept).astype(x.dtype) if self.rescale else x
        return jnp.where(row_below(keys, shape, kept), left, jnp.zeros((), x.dtype))
