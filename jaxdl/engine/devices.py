"""Where a stacked State lies: one device, a mesh, pmap's replicas, or seeds spread over devices.

A State in the engine always has a leading seed axis `S`. On the host it is canonical (numpy, [S, ...], `local` leaves
[S, B, ...] with the whole batch), whatever the layout: checkpoints move freely between layouts and device counts.
"""

import functools
from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from jaxdl.engine import processes
from jaxdl.engine.state import Array, PyTree, State
from jaxdl.errors import UserError

AXIS = "data"
FSDP_SMALLEST = 1024


@dataclass(frozen=True)
class Layout:
    """How programs are spread over devices.

    Attributes:
      seeds_mode: "map" (one seed after another inside the program), "vmap" or "shard" (seeds spread over the devices).
      parallel: "jit" (one global view) or "pmap" (per-device programs).
      devices: the devices that take part; data is split over them unless seeds are.
      fsdp: keep each parameter split over the devices (jit only).
    """

    seeds_mode: str = "map"
    parallel: str = "jit"
    devices: tuple = ()
    fsdp: bool = False

    def __post_init__(self):
        if self.fsdp and self.parallel != "jit":
            raise UserError("--fsdp needs --parallel=jit: pmap keeps a whole copy of the parameters on each device")
        if self.seeds_mode == "shard" and (self.parallel != "jit" or self.fsdp):
            raise UserError("--seeds_mode=shard gives each device its own seeds: use it with --parallel=jit, no --fsdp")
        if processes.count() > 1 and (self.parallel == "pmap" or self.seeds_mode == "shard"):
            raise UserError("several processes train together only with --parallel=jit and no --seeds_mode=shard")

    @property
    def shards(self) -> int:
        """How many devices share one batch."""
        return 1 if self.seeds_mode == "shard" else max(1, len(self.devices))

    @property
    def axis(self) -> str | None:
        """pmap's axis name inside the program, None elsewhere."""
        return AXIS if self.parallel == "pmap" else None

    @functools.cached_property
    def mesh(self) -> Mesh:
        """The global view's devices as ("data", "model")."""
        devices = np.array(self.devices).reshape(-1, 1)
        return Mesh(devices, (AXIS, "model"), axis_types=(AxisType.Auto,) * 2)

    @functools.cached_property
    def seed_mesh(self) -> Mesh:
        """The devices as the axis that seeds are spread over."""
        return Mesh(np.array(self.devices), ("seed",), axis_types=(AxisType.Auto,))

    def check_batch(self, batch_size: int, name: str) -> None:
        """Raises UserError where a batch cannot be split evenly over the devices."""
        if batch_size % self.shards:
            raise UserError(f"{name}={batch_size} does not divide over {self.shards} devices: choose a multiple")

    def shardings(self, state: PyTree) -> PyTree:
        """NamedSharding of each leaf of a stacked State, or of some of its networks (jit on several devices)."""
        whole = isinstance(state, State)

        def sharding(path, leaf):
            return NamedSharding(self.mesh, self._rule(path[0].name if whole else "nets", leaf))

        return jax.tree_util.tree_map_with_path(sharding, state)

    def _rule(self, field: str, leaf) -> PartitionSpec:
        if field == "local":
            return PartitionSpec(None, AXIS)
        if not self.fsdp or field not in ("nets", "extra") or leaf.size // max(1, leaf.shape[0]) < FSDP_SMALLEST:
            return PartitionSpec()
        sizes = [(size, axis) for axis, size in enumerate(leaf.shape) if axis > 0 and size % self.shards == 0]
        if not sizes:
            return PartitionSpec()
        _, axis = max(sizes)
        return PartitionSpec(*(AXIS if i == axis else None for i in range(leaf.ndim)))

    def place(self, tree: PyTree, template: PyTree) -> PyTree:
        """A canonical State (or its networks) in this layout; `template` tells which leaves are random keys."""
        tree = jax.tree.map(typed, tree, template)
        if self.parallel == "pmap":
            return self._replicate(tree)
        if self.seeds_mode == "shard":
            return jax.device_put(tree, NamedSharding(self.seed_mesh, PartitionSpec("seed")))
        if len(self.devices) > 1:
            return processes.put(tree, self.shardings(tree))
        return jax.device_put(tree, self.devices[0]) if self.devices else tree

    def place_source(self, source: PyTree) -> PyTree:
        """Data arrays where the programs read them: a whole copy on each device, of staged batches each device's rows."""
        if source is None or not jax.tree.leaves(source):
            return source
        if self.parallel == "pmap":
            return self._on_each(_whole, source)
        if self.seeds_mode == "shard":
            spec = PartitionSpec("seed") if getattr(source, "per_seed", False) else PartitionSpec()
            return jax.device_put(source, NamedSharding(self.seed_mesh, spec))
        if len(self.devices) > 1 and hasattr(source, "batch_axis"):
            source = source.replace(split=True)
            axes = (None,) * source.batch_axis + (AXIS,)
            shardings = source.replace(
                arrays=dict.fromkeys(source.arrays, NamedSharding(self.mesh, PartitionSpec(*axes))),
                start=NamedSharding(self.mesh, PartitionSpec()),
            )
            return jax.tree.map(processes.put_part, source, shardings)
        if len(self.devices) > 1:
            return processes.put(source, NamedSharding(self.mesh, PartitionSpec()))
        return jax.device_put(source, self.devices[0]) if self.devices else source

    def rows(self, batch_size: int) -> tuple[int, int] | None:
        """The rows of a global batch (first, last + 1) that this process's devices read; None: all."""
        if processes.count() == 1:
            return None
        sharding = NamedSharding(self.mesh, PartitionSpec(AXIS))
        held = [index or () for index in sharding.addressable_devices_indices_map((batch_size,)).values()]
        parts = [index[0].indices(batch_size) for index in held]
        return min(part[0] for part in parts), max(part[1] for part in parts)

    def place_sums(self, sums: PyTree) -> PyTree:
        """Metric sums [S] where the training program returns them."""
        if self.parallel == "pmap":
            return self._on_each(_whole, sums)
        if self.seeds_mode == "shard":
            return jax.device_put(sums, NamedSharding(self.seed_mesh, PartitionSpec("seed")))
        if len(self.devices) > 1:
            return processes.put(sums, NamedSharding(self.mesh, PartitionSpec()))
        return jax.device_put(sums, self.devices[0] if self.devices else None)

    def place_common(self, tree: PyTree) -> PyTree:
        """Small host values that all devices read alike (seed by seed, where seeds are spread), moved there explicitly."""
        if self.seeds_mode == "shard":
            split = NamedSharding(self.seed_mesh, PartitionSpec("seed"))
            whole = NamedSharding(self.seed_mesh, PartitionSpec())
            return jax.tree.map(lambda leaf: jax.device_put(leaf, split if np.ndim(leaf) else whole), tree)
        if len(self.devices) > 1:
            return processes.put(tree, NamedSharding(self.mesh, PartitionSpec()))
        return jax.device_put(tree, self.devices[0] if self.devices else None)

    def gather(self, state: PyTree) -> PyTree:
        """The canonical host State; copies, because a donated buffer must not be seen through a view."""
        if self.parallel == "pmap":
            local = getattr(state, "local", ())
            whole = jax.tree.map(lambda leaf: _host(leaf)[0], state)
            if jax.tree.leaves(local):
                whole = whole.replace(local=jax.tree.map(lambda leaf: _join_devices(_host(leaf)), local))
            return whole
        return jax.tree.map(_host, state)

    def _replicate(self, tree: PyTree) -> PyTree:
        if not isinstance(tree, State) or not jax.tree.leaves(tree.local):
            return self._on_each(_whole, tree)
        return self._on_each(_whole, tree.replace(local=())).replace(local=self._on_each(_own_rows, tree.local))

    def _on_each(self, function, tree: PyTree) -> PyTree:
        # what pmap itself gives out has its own sharding: any other placement makes the first step compile twice
        devices = list(self.devices)
        return jax.pmap(function, AXIS, in_axes=(0, None), devices=devices)(np.arange(len(devices)), tree)


def _whole(device: Array, tree: PyTree) -> PyTree:
    return tree


def _own_rows(device: Array, local: PyTree) -> PyTree:
    """This device's part of leaves [S, B, ...]."""

    def part(leaf):
        rows = leaf.shape[1] // jax.lax.axis_size(AXIS)
        return jax.lax.dynamic_slice_in_dim(leaf, device * rows, rows, axis=1)

    return jax.tree.map(part, local)


def _is_key(leaf) -> bool:
    return hasattr(leaf, "dtype") and jax.dtypes.issubdtype(leaf.dtype, jax.dtypes.prng_key)


def typed(leaf: Array, template: Array) -> Array:
    """A device array of what may be a host array; random keys from their data where `template` is one."""
    if _is_key(template) and not _is_key(leaf):
        return jax.random.wrap_key_data(jnp.asarray(leaf), impl=_key_impl(template))
    # a copy: device_put may keep a view of numpy memory, and the step donates (overwrites) its State
    return leaf if _is_key(leaf) else jnp.array(leaf)


def _key_impl(template) -> str:
    found: list = []
    jax.eval_shape(
        lambda key: found.append(jax.random.key_impl(key)), template
    )  # a mere shape tells it only to a tracer
    return found[0]


def _host(leaf) -> np.ndarray:
    return processes.whole(jax.random.key_data(leaf) if _is_key(leaf) else leaf)


def _join_devices(array: np.ndarray) -> np.ndarray:
    devices, seeds, batch, *rest = array.shape
    return np.moveaxis(array, 0, 1).reshape(seeds, devices * batch, *rest)
