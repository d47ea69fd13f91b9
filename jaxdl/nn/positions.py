"""Where a token stands: sinusoidal, learned and rotary positions.

Shapes: `B` rows, `H` heads, `T` positions, `D` features, `d` features of one head.
"""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn

from jaxdl.target import target_platform

Array = jax.Array

POSITIONS = ("learned", "sinusoidal", "rotary", "none")
_BASE = 10_000.0


def sinusoidal(length: int, features: int) -> Array:
    """PE[t, 2i] = sin(t / 10000^(2i/D)), PE[t, 2i + 1] = cos(t / 10000^(2i/D)); Vaswani et al. 2017, section 3.5.

    Returns:
      [T, D] float32.

    Raises:
      ValueError: an odd number of features.
    """
    if features % 2:
        raise ValueError(f"sinusoidal positions need an even number of features, got {features}")
    angles = np.arange(length)[:, None] * _frequencies(features)
    return jnp.asarray(np.stack([np.sin(angles), np.cos(angles)], axis=-1).reshape(length, features), jnp.float32)


def rotary(x: Array, positions: Array) -> Array:
    """Turns each pair (x_i, x_{i + d/2}) by the angle t / 10000^(2i/d); Su et al. 2021.

    The product of a query turned by t with a key turned by s depends on t - s alone.

    Args:
      x: queries or keys [..., T, d].
      positions: t, [T].

    Raises:
      ValueError: an odd number of features.
    """
    size = x.shape[-1]
    if size % 2:
        raise ValueError(f"rotary positions need an even number of features in a head, got {size}")
    angles = positions.astype(jnp.float32)[:, None] * jnp.asarray(_frequencies(size), jnp.float32)
    sin, cos = jnp.sin(angles), jnp.cos(angles)
    first, second = jnp.split(x.astype(jnp.float32), 2, axis=-1)
    turned = jnp.concatenate([first * cos - second * sin, first * sin + second * cos], axis=-1)
    return turned.astype(x.dtype)


class Positions(nn.Module):
    """Adds a vector for the position to each token's vector; for "rotary" and "none" it adds nothing.

    Attributes:
      kind: one of `POSITIONS`; "learned" starts normal with `std`.
      length: the most positions.
      std: standard deviation of learned vectors at the start.
      dtype: dtype of the computation; None for that of the input.
    """

    kind: str
    length: int
    std: float = 0.02
    dtype: Any = None

    @nn.compact
    def __call__(self, x: Array, start: Array | int = 0) -> Array:
        """x [B, T, D] whose first token stands at position `start` (int32 scalar, at most length - T: later ones count as that).

        Raises:
          ValueError: an unknown kind, or tokens beyond `length`, where `start` is known in tracing.
        """
        if self.kind not in POSITIONS:
            raise ValueError(f"unknown positions {self.kind!r}; choose one of {', '.join(POSITIONS)}")
        end = x.shape[1] + (start if isinstance(start, int) else 0)
        if end > self.length:
            raise ValueError(f"{end} tokens are more than the {self.length} positions that there are")
        if self.kind == "learned":
            table = self.param("embedding", nn.initializers.normal(self.std), (self.length, x.shape[-1]), jnp.float32)
        elif self.kind == "sinusoidal":
            table = sinusoidal(self.length, x.shape[-1])
        else:
            return x
        if target_platform() == "gpu":
            # the gradient of a broadcast, a sum over rows, would make XLA:GPU keep all that x becomes with the rows last
            first = jnp.clip(start, 0, self.length - x.shape[1])
            places = jnp.broadcast_to(first + jnp.arange(x.shape[1]), x.shape[:2])
            return x + jnp.take(table, places, axis=0, mode="clip").astype(x.dtype)
        return x + jax.lax.dynamic_slice_in_dim(table, start, x.shape[1]).astype(x.dtype)


def _frequencies(features: int) -> np.ndarray:
    return _BASE ** (-np.arange(0, features, 2) / features)
