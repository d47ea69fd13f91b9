"""Where a stacked State lies: one device, a mesh, pmap's replicas, or seeds spread over devices.

A State in the engine always has a leading seed axis `S`. On the host it is canonical (numpy, [S, ...], `local` leaves
[S, B, ...] with the whole batch), whatever the layout: checkpoints move freely between layouts and device counts.
"""

import functools
import re
from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from jaxdl.engine import processes
from jaxdl.engine.digest import part_name
from jaxdl.engine.state import Array, PyTree, State
from jaxdl.errors import UserError

AXIS = "data"
MODEL_AXIS = "model"
FSDP_SMALLEST = 1024
# (end of a parameter's path as a regular expression, PartitionSpec), see `Layout.rules`
Rules = tuple[tuple[str, PartitionSpec], ...]


@dataclass(frozen=True)
class Layout:
    """How programs are spread over devices.

    Attributes:
      seeds_mode: "map" (one seed after another inside the program), "vmap" or "shard" (seeds spread over the devices).
      parallel: "jit" (one global view) or "pmap" (per-device programs).
      devices: the devices that take part; data is split over them unless seeds are.
      fsdp: keep each parameter split over the devices that data are split over (jit only).
      model_parallel: N, devices that share the parameters and the work of each example (jit only). The devices are a
        mesh of (number of devices) / N x N.
      rules: which axis of which parameter N devices share: the first rule whose pattern matches the end of the path
        "nets/model/params/blocks_0/feed_forward/hidden/kernel" gives the PartitionSpec of the leaf without its seed axis.
        Optimiser moments and averages end in the same path, so they lie where their parameter does. What no rule names,
        and what N does not divide, lies whole on each of the N.
    """

    seeds_mode: str = "map"
    parallel: str = "jit"
    devices: tuple = ()
    fsdp: bool = False
    model_parallel: int = 1
    rules: Rules = ()

    def __post_init__(self):
        if self.fsdp and self.parallel != "jit":
            raise UserError("--fsdp needs --parallel=jit: pmap keeps a whole copy of the parameters on each device")
        if self.seeds_mode == "shard" and (self.parallel != "jit" or self.fsdp):
            raise UserError("--seeds_mode=shard gives each device its own seeds: use it with --parallel=jit, no --fsdp")
        if self.model_parallel > 1 and (self.parallel != "jit" or self.seeds_mode == "shard"):
            raise UserError("--model_parallel splits each example's work: use --parallel=jit and no --seeds_mode=shard")
        if len(self.devices) % self.model_parallel:
            raise UserError(
                f"--model_parallel={self.model_parallel} does not divide the number of devices, {len(self.devices)}"
            )
        if processes.count() > 1 and (self.parallel == "pmap" or self.seeds_mode == "shard"):
            raise UserError("several processes train together only with --parallel=jit and no --seeds_mode=shard")

    def in_turn(self, seeds: int) -> int:
        """How many of so many seeds each device trains one after another."""
        if self.seeds_mode == "vmap":
            return 1
        return seeds // len(self.devices) if self.seeds_mode == "shard" else seeds

    @property
    def shards(self) -> int:
        """In how many parts a batch is split."""
        return 1 if self.seeds_mode == "shard" else max(1, len(self.devices) // self.model_parallel)

    @property
    def meshed(self) -> bool:
        """Whether programs are one global view of several devices."""
        return self.parallel == "jit" and self.seeds_mode != "shard" and len(self.devices) > 1

    @property
    def axis(self) -> str | None:
        """pmap's axis name inside the program, None elsewhere."""
        return AXIS if self.parallel == "pmap" else None

    @functools.cached_property
    def mesh(self) -> Mesh:
        """The global view's devices as ("data", "model")."""
        devices = np.array(self.devices).reshape(-1, self.model_parallel)
        return Mesh(devices, (AXIS, MODEL_AXIS), axis_types=(AxisType.Auto,) * 2)

    @functools.cached_property
    def seed_mesh(self) -> Mesh:
        """The devices as the axis that seeds are spread over."""
        return Mesh(np.array(self.devices), ("seed",), axis_types=(AxisType.Auto,))

    def check_batch(self, batch_size: int, name: str) -> None:
        """Raises UserError where a batch cannot be split evenly over the devices."""
        if batch_size % self.shards:
            what = "devices" if self.model_parallel == 1 else f"groups of {self.model_parallel} devices"
            raise UserError(f"{name}={batch_size} does not divide over {self.shards} {what}: choose a multiple")

    def shardings(self, state: PyTree) -> PyTree:
        """NamedSharding of each leaf of a stacked State, or of some of its networks (jit on several devices)."""
        whole = isinstance(state, State)

        def sharding(path, leaf):
            field = path[0].name if whole else "nets"
            return NamedSharding(self.mesh, self._spec(field, "/".join(map(part_name, path)), leaf))

        return jax.tree_util.tree_map_with_path(sharding, state)

    def gathered(self, nets: PyTree) -> PyTree:
        """Networks of one seed, in a traced program, with whole parameters where FSDP keeps them split: without the
        constraint XLA may gather activations in their place, at each layer."""
        if not self.fsdp or not self.meshed:
            return nets

        def gather(path, leaf):
            spec = PartitionSpec(*self._model_axes("/".join(map(part_name, path)), leaf.shape))
            return jax.lax.with_sharding_constraint(leaf, NamedSharding(self.mesh, spec))

        return {
            name: net.replace(params=jax.tree_util.tree_map_with_path(gather, net.params)) for name, net in nets.items()
        }

    def _spec(self, field: str, name: str, leaf) -> PartitionSpec:
        if field == "local":
            return PartitionSpec(None, AXIS)
        if field not in ("nets", "extra") or leaf.ndim == 0:
            return PartitionSpec()
        axes = [None, *self._model_axes(name, leaf.shape[1:])]
        if self.fsdp and leaf.size // max(1, leaf.shape[0]) >= FSDP_SMALLEST:
            free = [axis for axis in range(1, leaf.ndim) if axes[axis] is None and leaf.shape[axis] % self.shards == 0]
            if free:
                axes[max(free, key=lambda axis: (leaf.shape[axis], axis))] = AXIS
        return PartitionSpec(*axes) if any(axes) else PartitionSpec()

    def _model_axes(self, name: str, shape: tuple[int, ...]) -> tuple[str | None, ...]:
        """The mesh axis of each axis of a leaf by `rules`."""
        found = (spec for pattern, spec in self.rules if re.search(f"(?:^|/)(?:{pattern})$", name))
        spec = next(found, PartitionSpec())
        fits = len(spec) == len(shape) and all(
            axis is None or size % self.model_parallel == 0 for axis, size in zip(spec, shape, strict=True)
        )
        return tuple(spec) if fits else (None,) * len(shape)

    def place(self, tree: PyTree, template: PyTree) -> PyTree:
        """A canonical State (or its networks) in this layout; `template` tells which leaves are random keys."""
        tree = typed(tree, template)
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


def typed(tree: PyTree, template: PyTree) -> PyTree:
    """Device arrays of what may be host arrays, as one program; random keys from their data where `template` has one."""
    leaves, structure = jax.tree.flatten(tree)
    for i, (leaf, like) in enumerate(zip(leaves, jax.tree.leaves(template), strict=True)):
        if _is_key(like) and not _is_key(leaf):
            leaves[i] = jax.random.wrap_key_data(jnp.asarray(leaf), impl=_key_impl(like))
    # copies: device_put may keep a view of numpy memory, and the step donates (overwrites) its State
    plain = [i for i, leaf in enumerate(leaves) if not _is_key(leaf)]
    for i, copy in zip(plain, _copies([leaves[i] for i in plain]), strict=True):
        leaves[i] = copy
    return jax.tree.unflatten(structure, leaves)


@jax.jit
def _copies(leaves: list[Array]) -> list[Array]:
    return [jnp.copy(leaf) for leaf in leaves]


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
