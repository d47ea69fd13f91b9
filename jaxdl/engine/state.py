"""The one pytree that training changes, and the metrics that add up."""

from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
from flax import struct

Array = jax.Array
PyTree = Any
Leaf = Any  # an array, and what stands for one: a NumPy array, a shape, an axis of vmap


class Mean(struct.PyTreeNode):
    """A metric as total and count: adds over steps, is summed over devices, and is divided last, on the host.

    Attributes:
      total: sum of the measured values, scalar float32.
      count: how many values were summed, scalar float32.
    """

    total: Leaf
    count: Leaf

    if TYPE_CHECKING:  # flax adds it

        def replace(self, **changes: Any) -> "Mean": ...

    @classmethod
    def of(cls, values: Array, mask: Array | None = None) -> "Mean":
        """The mean of `values` [B] over the rows where `mask` [B] is one (all rows without a mask)."""
        values = jnp.asarray(values, jnp.float32)
        if mask is None:
            return cls(values.sum(), jnp.asarray(float(values.size), jnp.float32))
        # where, not multiply: padding may hold NaN, and NaN times zero is NaN
        return cls(jnp.where(mask > 0, values, 0.0).sum(), mask.astype(jnp.float32).sum())


class Net(struct.PyTreeNode):
    """One network.

    Attributes:
      params: parameters.
      stats: running statistics of batch norm.
      opt: the optimiser's state.
      ema: moving averages (params, stats), or None. The statistics are averaged too, because those of the newest
        parameters do not fit averaged ones.
    """

    params: PyTree
    stats: PyTree = struct.field(default_factory=dict)
    opt: PyTree = ()
    ema: PyTree = None

    def holding(self, params: PyTree, stats: PyTree) -> "Net":
        """This network with other parameters and statistics, its averages too."""
        return self.replace(params=params, stats=stats, ema=None if self.ema is None else (params, stats))

    def averaged(self) -> "Net":
        """This network with its averages in the place of the newest parameters, where it keeps any: what is reported."""
        return self if self.ema is None else self.holding(*self.ema)

    if TYPE_CHECKING:

        def replace(self, **changes: Any) -> "Net": ...


class State(struct.PyTreeNode):
    """Everything that changes during training; what is not in it is not state.

    Attributes:
      step: int32 scalar, counts updates over all phases; the engine's.
      nets: one Net for a classifier, two for a GAN.
      local: leaves [B, ...] that are split over devices: recurrent carry, environments and their keys, replay.
      hyper: float32 scalars that a sweep may vary: learning rate, weight decay, dropout, ...
      extra: what is left, the same on every device: target networks, ...
    """

    step: Leaf
    nets: PyTree
    local: PyTree = ()
    hyper: PyTree = struct.field(default_factory=dict)
    extra: PyTree = ()

    if TYPE_CHECKING:

        def replace(self, **changes: Any) -> "State": ...
