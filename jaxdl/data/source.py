"""Batches as a pure function of (key, step): nothing to save on a checkpoint, nothing to seek on resume.

`Resident` keeps the examples on the device and gathers inside the XLA program; `Streamed` keeps them on the host and
stages a few batches at a time. Both give the same batches, bit for bit.

Shapes: `n` examples, `B` rows of the global batch, `b = B / shards` rows of one device, `K` staged batches.
"""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any, Protocol

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct

from jaxdl.data.permutation import permuted_index
from jaxdl.target import target_platform

Array = jax.Array
Batch = dict[str, Array]

# bytes of a batch that XLA:CPU copies row by row inside one kernel
_SMALL = 4096


class BatchTransform(Protocol):
    """What happens to a batch inside the program: to float, augmentation, standardisation.

    It must be hashable (a frozen dataclass), because it is part of the compiled program. `keys` [b] holds one random
    key per row. A transform that mixes rows 2i and 2i + 1 sets `pairs_rows`; one that sets `alternates` also gets
    "mirrored" [b] bool: drawn for each example in its first epoch, the opposite in each one that follows.
    """

    def __call__(self, batch: Batch, keys: Array) -> Batch: ...


class _Batches:
    """What all sources share: the position of each row, and what is done to a gathered batch.

    `plain` tells the engine that making a batch is only reading and a little arithmetic, not worth a buffer of its own.
    """

    size: int
    batch_size: int
    shuffle: bool
    transform: BatchTransform | None

    @property
    def num_batches(self) -> int:
        """Batches that show every example once: ceil(n / B)."""
        return -(-self.size // self.batch_size)

    @property
    def plain(self) -> bool:
        """Whether nothing happens to a gathered batch but scaling."""
        return self.transform is None or getattr(self.transform, "plain", False)

    def _rows(self, shard: Array | int, shards: int) -> Array:
        if self.batch_size % shards:
            raise ValueError(f"a batch of {self.batch_size} examples cannot be split evenly over {shards} devices")
        rows = self.batch_size // shards
        if rows % 2 and shards > 1 and getattr(self.transform, "pairs_rows", False):
            raise ValueError(f"mixup needs an even number of examples on each device, got {rows}: change the batch")
        return jnp.asarray(shard, jnp.int32) * rows + jnp.arange(rows, dtype=jnp.int32)

    def _finish(self, batch: Batch, rows: Array, step: Array | int, key: Array) -> Batch:
        if self.shuffle:
            mask = jnp.ones(rows.shape, jnp.float32)
        else:
            mask = (_position(step, self.batch_size, rows) < np.uint32(self.size)).astype(jnp.float32)
        if getattr(self.transform, "alternates", False):
            batch = {**batch, "mirrored": self._mirrored(rows, step, key)}
        return _transformed({**batch, "mask": mask, "row": rows}, self.transform, jax.random.fold_in(key, 1), step)

    def _mirrored(self, rows: Array, step: Array | int, key: Array) -> Array:
        index = example_index(step, rows, key, self.size, self.batch_size, self.shuffle)
        keys = jax.vmap(jax.random.fold_in, (None, 0))(jax.random.fold_in(key, 2), index)
        epoch = _position(step, self.batch_size, rows) // np.uint32(self.size)
        return jax.vmap(jax.random.bernoulli)(keys) ^ (epoch % 2 == 1)


@struct.dataclass
class Resident(_Batches):
    """Examples that lie on the device; a pytree whose arrays are arguments of the compiled program.

    Several seeds may share one: the arrays are the same, only the key differs. Make it with `Resident.of`.

    Attributes:
      arrays: name -> [n, ...].
      size: n.
      batch_size: B.
      shuffle: training order (endless shuffled epochs, no padding) or evaluation order (first to last, once).
      transform: applied to each gathered batch, or None.
    """

    arrays: dict[str, Array]
    size: int = struct.field(pytree_node=False)
    batch_size: int = struct.field(pytree_node=False)
    shuffle: bool = struct.field(pytree_node=False, default=False)
    transform: Any = struct.field(pytree_node=False, default=None)

    @classmethod
    def of(cls, arrays: Mapping[str, Any], batch_size: int, *, shuffle: bool, transform: Any = None) -> "Resident":
        """Puts `arrays` (name -> [n, ...]) on the default device.

        Raises:
          ValueError: no examples, or arrays of different length.
        """
        size = _common_length(arrays)
        return cls({k: on_device(v) for k, v in arrays.items()}, size, batch_size, shuffle, transform)

    def batch(self, step: Array | int, key: Array, shard: Array | int = 0, shards: int = 1) -> Batch:
        """Rows shard·b ... (shard + 1)·b - 1 of global batch `step`.

        Args:
          step: int32 scalar >= 0; with shuffle=False, batches from `num_batches` on are all padding.
          key: the data key of one seed; its stream 0 orders the examples, its stream 1 feeds the transform, its stream 2
            draws which examples are mirrored first.
          shard: which part of the batch; may be a traced axis index.
          shards: number of parts; static.

        Returns:
          name -> [b, ...], "mask" [b] float32 (0: padding) and "row" [b] int32 (row in the global batch).

        Raises:
          ValueError: B cannot be divided by `shards`.
        """
        rows = self._rows(shard, shards)
        index = example_index(step, rows, key, self.size, self.batch_size, self.shuffle)
        return self._finish({name: _gather(array, index) for name, array in self.arrays.items()}, rows, step, key)

    def take(self, indices: Any) -> Batch:
        """The examples `indices` [b] as one batch, all rows valid; without randomness beyond a constant key."""
        indices = jnp.asarray(indices, jnp.int32)
        rows = jnp.arange(indices.shape[0], dtype=jnp.int32)
        batch = {name: array[indices] for name, array in self.arrays.items()}
        batch |= {"mask": jnp.ones(rows.shape, jnp.float32), "row": rows}
        return _transformed(batch, self.transform, jax.random.key(0), 0)

    def stage(self, step: int, count: int, key: Array) -> "Resident":
        """Itself: all examples are there already."""
        del step, count, key
        return self


@struct.dataclass
class Staged(_Batches):
    """K gathered batches of one key, for use inside the program in place of the `Streamed` they come from.

    Attributes:
      arrays: name -> [K, B, ...].
      start: int32 scalar, the step of the first batch.
      split: each device holds its rows of every batch, in one global view: a batch is read as it lies, for any other row
        order would make the devices exchange them.
    """

    per_seed = True  # each seed has its own order, so its own staged examples
    batch_axis = 2  # of arrays stacked over seeds, [S, K, B, ...]

    arrays: dict[str, Any]
    start: Any
    size: int = struct.field(pytree_node=False)
    batch_size: int = struct.field(pytree_node=False)
    shuffle: bool = struct.field(pytree_node=False, default=False)
    transform: Any = struct.field(pytree_node=False, default=None)
    split: bool = struct.field(pytree_node=False, default=False)

    def batch(self, step: Array | int, key: Array, shard: Array | int = 0, shards: int = 1) -> Batch:
        """As `Resident.batch`, for steps start ... start + K - 1 and the key that was staged with."""
        rows = self._rows(shard, shards)
        local = jnp.asarray(step, jnp.int32) - self.start
        taken = {}
        for name, array in self.arrays.items():
            if self.split and shards == 1:
                taken[name] = _whole_batch(array, local)
            else:
                taken[name] = _gather(array.reshape(-1, *array.shape[2:]), local * self.batch_size + rows)
        return self._finish(taken, rows, step, key)

    def stage(self, step: int, count: int, key: Array) -> "Staged":
        """Itself: it is staged already."""
        del step, count, key
        return self


@dataclasses.dataclass(frozen=True, eq=False)
class Streamed(_Batches):
    """Examples that stay on the host, in the same order as a `Resident` of the same arrays would give them.

    Attributes:
      fetch: name -> [n, ...] (NumPy arrays or memory maps), or a function of int32 indices [m] that returns
        name -> [m, ...].
      size: n.
      batch_size: B.
      shuffle: training or evaluation order.
      transform: applied on the device to each batch, or None.
      capacity: K, the most batches of one `stage`; all stages have this shape, so that programs compile once.
    """

    streamed = True  # it must be staged; programs cannot take it as it is

    fetch: Mapping[str, Any] | Callable[[np.ndarray], Mapping[str, np.ndarray]]
    size: int
    batch_size: int
    shuffle: bool = False
    transform: Any = None
    capacity: int = 8

    @classmethod
    def of(
        cls, arrays: Mapping[str, Any], batch_size: int, *, shuffle: bool, transform: Any = None, capacity: int = 8
    ) -> "Streamed":
        """A stream from host `arrays` (name -> [n, ...]). Raises ValueError as `Resident.of` does."""
        return cls(arrays, _common_length(arrays), batch_size, shuffle, transform, capacity)

    def stage(self, step: int, count: int, key: Array, rows: tuple[int, int] | None = None) -> Staged:
        """Gathers batches step ... step + count - 1 of one key on the host.

        Args:
          step: first step, >= 0.
          count: number of batches, 1 ... capacity.
          key: the data key of one seed, as for `Resident.batch`.
          rows: first and last + 1 of the rows of each batch that are wanted here; None: all.

        Returns:
          A Staged with NumPy leaves (the caller places them), arrays [K, b, ...] of these rows; batches from `count` on
          are zeros.

        Raises:
          ValueError: more batches than `capacity`.
        """
        if not 1 <= count <= self.capacity:
            raise ValueError(f"a stage holds 1 to {self.capacity} batches, {count} were asked for")
        steps = step + np.arange(count, dtype=np.uint32)[:, None]
        wanted = np.arange(*(rows or (0, self.batch_size)), dtype=np.uint32)
        # the key may lie on an accelerator; to read it is wanted, whatever guard the caller's loop has
        with jax.transfer_guard("allow"):
            index = example_index(steps, wanted, key, self.size, self.batch_size, self.shuffle).reshape(-1)
        fetched = self.fetch(index) if callable(self.fetch) else {k: v[index] for k, v in self.fetch.items()}
        arrays = {}
        for name, values in fetched.items():
            stack = np.zeros((self.capacity, len(wanted), *values.shape[1:]), values.dtype)
            stack[:count] = np.asarray(values).reshape(count, len(wanted), *values.shape[1:])
            arrays[name] = stack
        return Staged(arrays, np.int32(step), self.size, self.batch_size, self.shuffle, self.transform)

    def batch(self, step: int, key: Array, shard: int = 0, shards: int = 1) -> Batch:
        """One batch on its own; inside a program use `stage`."""
        return self.stage(int(step), 1, key).batch(step, key, shard, shards)


@struct.dataclass
class Rounds:
    """No data, only row numbers: for tasks that are judged on what they make themselves (episodes, samples).

    Attributes:
      size: how many rows are wanted in all, n.
      batch_size: B.
      start: number of the first row; splits that start elsewhere draw other noise.
    """

    size: int = struct.field(pytree_node=False)
    batch_size: int = struct.field(pytree_node=False)
    start: Any = np.int32(0)  # an argument of the program, so that validation and test share one

    @property
    def num_batches(self) -> int:
        """ceil(n / B)."""
        return -(-self.size // self.batch_size)

    def batch(self, step: Array | int, key: Array, shard: Array | int = 0, shards: int = 1) -> Batch:
        """ "row" [b] int32, start + B·step + row in the batch, and "mask" [b] float32; see `Resident.batch`."""
        del key
        count = self.batch_size // shards
        rows = jnp.asarray(shard, jnp.int32) * count + jnp.arange(count, dtype=jnp.int32)
        rows = jnp.asarray(step, jnp.int32) * self.batch_size + rows
        return {"row": self.start + rows, "mask": (rows < self.size).astype(jnp.float32)}

    def stage(self, step: int, count: int, key: Array) -> "Rounds":
        """Itself."""
        del step, count, key
        return self


def on_device(values: Any) -> Array:
    """Values that nobody writes to any more on the default device. `jnp.asarray` would compile a program for each new shape of a
    host array, 12 ms and more."""
    return jnp.asarray(values) if isinstance(values, jax.Array) else jax.device_put(np.array(values))


def example_index(step: Any, rows: Any, key: Array, size: int, batch_size: int, shuffle: bool) -> Any:
    """Which example stands in which row of which batch; in XLA for JAX rows, in NumPy for NumPy rows.

    Args:
      step: number of the batch, >= 0; several broadcast against `rows`.
      rows: [b] numbers of rows in the global batch.
      key: the data key of one seed, whose stream 0 orders the examples; not used without shuffling.
      size: n.
      batch_size: B.
      shuffle: training order; else first to last, with the last example in all rows behind it.

    Returns:
      int32 in [0, n), of the shape that `step` and `rows` broadcast to.
    """
    position = _position(step, batch_size, rows)
    if shuffle:
        return permuted_index(jax.random.fold_in(key, 0), position, size)
    if isinstance(position, np.ndarray):
        return np.minimum(position, np.uint32(size - 1)).astype(np.int32)
    return jnp.minimum(position, np.uint32(size - 1)).astype(jnp.int32)


def _gather(array: Array, index: Array) -> Array:
    """`array[index]` for int32 `index` [b] within bounds, in a buffer of its own: what uses the rows compiles alike
    for every source, so that a step gives the same bits."""
    shape = (index.shape[0], *array.shape[1:])
    if target_platform() != "cpu":
        return jax.lax.optimization_barrier(array[index])
    # XLA:CPU drops barriers before it fuses; loops and conditions that it cannot know to hold stay
    # as [n, values]: a gather of rows with several axes computes the place of each value from all of them
    array = array.reshape(array.shape[0], -1)
    zeros = jnp.zeros((index.shape[0], array.shape[1]), array.dtype)
    if zeros.nbytes > _SMALL:
        rows = jax.lax.cond(index[0] >= 0, lambda: array.at[index].get(mode="promise_in_bounds"), lambda: zeros)
        return rows.reshape(shape)

    # a loop over this little is one kernel: 1 us where the gather needs 14
    def copy(i, rows):
        row = jax.lax.dynamic_index_in_dim(array, index[i], keepdims=True)
        return jax.lax.dynamic_update_index_in_dim(rows, row, i, 0)

    return jax.lax.fori_loop(0, shape[0], copy, zeros).reshape(shape)


def _whole_batch(array: Array, index: Array) -> Array:
    """`array[index]` for a scalar within bounds, in a buffer of its own as in `_gather`."""
    if target_platform() != "cpu":
        return jax.lax.optimization_barrier(jax.lax.dynamic_index_in_dim(array, index, keepdims=False))
    zeros = jnp.zeros(array.shape[1:], array.dtype)
    return jax.lax.cond(index >= 0, lambda: jax.lax.dynamic_index_in_dim(array, index, keepdims=False), lambda: zeros)


def _position(step: Any, batch_size: int, rows: Any) -> Any:
    # uint32: an int32 would turn negative, and a negative index silently counts from the end
    if isinstance(rows, np.ndarray):
        return np.asarray(step).astype(np.uint32) * np.uint32(batch_size) + rows.astype(np.uint32)
    return jnp.asarray(step).astype(jnp.uint32) * np.uint32(batch_size) + rows.astype(jnp.uint32)


def _transformed(batch: Batch, transform: Any, key: Array, step: Array | int) -> Batch:
    if transform is None:
        return batch
    keys = jax.vmap(jax.random.fold_in, (None, 0))(jax.random.fold_in(key, step), batch["row"])
    return transform(batch, keys)


def _common_length(arrays: Mapping[str, Any]) -> int:
    lengths = {name: len(array) for name, array in arrays.items()}
    if not lengths or len(set(lengths.values())) > 1 or min(lengths.values()) < 1:
        raise ValueError(f"a source needs arrays of one common length of at least 1, got {lengths}")
    return next(iter(lengths.values()))
