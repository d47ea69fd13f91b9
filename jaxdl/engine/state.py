"""The one pytree that training changes, and the metrics that add up."""

from typing import Any

import jax
import jax.numpy as jnp
from flax import struct

Array = jax.Array
PyTree = Any


@struct.dataclass
class Mean:
    """A metric as total and count: adds over steps, is summed over devices, and is divided last, on the host.

    Attributes:
      total: sum of the measured values, scalar float32.
      count: how many values were summed, scalar float32.
    """

    total: Array
    count: Array

    @classmethod
    def of(cls, values: Array, mask: Array | None = None) -> "Mean":
        """The mean of `values` [B] over the rows where `mask` [B] is one (all rows without a mask)."""
        values = jnp.asarray(values, jnp.float32)
        if mask is None:
            return cls(values.sum(), jnp.asarray(float(values.size), jnp.float32))
        # where, not multiply: padding may hold NaN, and NaN times zero is NaN
        return cls(jnp.where(mask > 0, values, 0.0).sum(), mask.astype(jnp.float32).sum())


@struct.dataclass
class Net:
    """One network: parameters, running statistics, optimiser state and, where asked for, the parameters' moving average."""

    params: PyTree
    stats: PyTree = struct.field(default_factory=dict)
    opt: PyTree = ()
    ema: PyTree = None


@struct.dataclass
class State:
    """Everything that changes during training; what is not in it is not state.

    Attributes:
      step: int32 scalar, counts updates over all phases; the engine's.
      nets: one Net for a classifier, two for a GAN.
      local: leaves [B, ...] that are split over devices: recurrent carry, environments and their keys, replay.
      hyper: float32 scalars that a sweep may vary: learning rate, weight decay, dropout, ...
      extra: what is left, the same on every device: target networks, ...
    """

    step: Array
    nets: dict[str, Net]
    local: PyTree = ()
    hyper: dict[str, Array] = struct.field(default_factory=dict)
    extra: PyTree = ()
