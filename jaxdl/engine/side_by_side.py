"""A program of stacked seeds on several devices that never wait for each other: the program of one device on each.

`jax.shard_map` would do with one program, but XLA simplifies a partitioned program further before it fuses, so that its
last bits may differ from those of the same seed alone (jax 0.10.2: a Transformer's do). Here each device runs what a single
device runs.
"""

import functools
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import jax
from jax.sharding import NamedSharding, PartitionSpec, SingleDeviceSharding

PyTree = Any


class SideBySide:
    """Takes the place of `jax.jit` for a function whose arguments lie on the devices of `mesh`.

    Args:
      function: whatever the device, of its part of each argument: leaves [S / D, ...] of those that are split over the
        mesh's axis "seed", whole leaves of the others; all its results are leaves [S / D, ...].
      mesh: D devices, axis "seed".
      donate: arguments whose buffers the results may take.
    """

    def __init__(self, function: Callable[..., PyTree], mesh: Any, donate: Sequence[int] = ()):
        self.mesh, self._jitted = mesh, jax.jit(function, donate_argnums=tuple(donate))

    def lower(self, *arguments: PyTree) -> "Lowered":
        """As `jax.jit(function).lower`; arguments are placed arrays, or ShapeDtypeStructs with their sharding."""

        def part(device):
            return lambda leaf: jax.ShapeDtypeStruct(
                leaf.sharding.shard_shape(leaf.shape), leaf.dtype, sharding=SingleDeviceSharding(device)
            )

        devices = self.mesh.devices.flat
        return Lowered([self._jitted.lower(*jax.tree.map(part(d), arguments)) for d in devices], self.mesh)


class Lowered:
    """As `jax.stages.Lowered`, one for each device; `in_tree`, `out_tree` and the text are those of one."""

    def __init__(self, parts: Sequence[jax.stages.Lowered], mesh: Any):
        self.parts, self.mesh = parts, mesh
        self.in_tree, self.out_tree = parts[0].in_tree, parts[0].out_tree

    def as_text(self) -> str:
        """The program of one device."""
        return self.parts[0].as_text()

    def compile(self, options: Any = None) -> "Compiled":
        """Compiles for all devices at the same time: XLA does so without Python's lock."""
        with ThreadPoolExecutor(len(self.parts)) as pool:
            return Compiled(list(pool.map(lambda part: part.compile(options), self.parts)), self.mesh)


class Compiled:
    """As `jax.stages.Compiled`: a call starts each device's program and puts the results together, without copies."""

    def __init__(self, parts: Sequence[jax.stages.Compiled], mesh: Any):
        self.parts, self.mesh = parts, mesh
        self._split = NamedSharding(mesh, PartitionSpec("seed"))

    def __call__(self, *arguments: PyTree) -> PyTree:
        """Results [S, ...], split over the devices."""
        # all taken apart before the first call, because a donated part counts as the whole array
        own = [jax.tree.map(functools.partial(_held, device), arguments) for device in self.mesh.devices.flat]
        return jax.tree.map(self._joined, *(part(*parts) for part, parts in zip(self.parts, own, strict=True)))

    def _joined(self, *shards: jax.Array) -> jax.Array:
        shape = (len(shards) * shards[0].shape[0], *shards[0].shape[1:])
        return jax.make_array_from_single_device_arrays(shape, self._split, list(shards))

    def as_text(self) -> str:
        """The program of one device."""
        return self.parts[0].as_text() or ""

    def cost_analysis(self) -> Any:
        """Of one device."""
        return self.parts[0].cost_analysis()

    def memory_analysis(self) -> Any:
        """Of one device."""
        return self.parts[0].memory_analysis()


def _held(device: Any, leaf: jax.Array) -> jax.Array:
    """What a device holds of an array."""
    return next(shard.data for shard in leaf.addressable_shards if shard.device == device)
