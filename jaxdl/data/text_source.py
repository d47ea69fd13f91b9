"""Batches of characters: shuffled windows, contiguous streams for truncated BPTT, and a split read once from end to end.

Every batch predicts each character from those before it. Shapes: `n` characters of a text, `B` rows of the global
batch, `b = B / shards` rows of one device, `T` characters of a row. All batches hold

    "tokens"  [b, T] int32    what is read
    "target"  [b, T] int32    the character after each
    "weight"  [b, T] float32  1 where the prediction counts, 0 elsewhere
    "mask"    [b] float32     0 for rows that are padding
    "row"     [b] int32       row in the global batch
"""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct

from jaxdl.data.permutation import permuted_index
from jaxdl.data.source import on_device
from jaxdl.errors import UserError

Array = jax.Array
Batch = dict[str, Array]


@struct.dataclass
class Windows:
    """Windows of T + 1 characters in shuffled epochs; for models without a carry.

    An epoch cuts the text into W windows from an offset o on and visits each once: number w reads the T characters from
    o + w T on. The offset is drawn anew each epoch from what W T leaves over, so that windows begin anywhere. Windows
    drawn with replacement would leave out a third of the text in what an epoch takes.

    Attributes:
      arrays: {"text": [n] token numbers}.
      size: W.
      batch_size: B.
      length: T.
    """

    arrays: dict[str, Array]
    size: int = struct.field(pytree_node=False)
    batch_size: int = struct.field(pytree_node=False)
    length: int = struct.field(pytree_node=False)

    @classmethod
    def of(cls, text: Any, batch_size: int, length: int) -> "Windows":
        """Puts `text` [n] on the default device. Raises UserError if it is shorter than one window."""
        _check_length(text, length + 1, length, 1)
        # one window less than fit: the offset needs room
        return cls({"text": on_device(text)}, max(1, (len(text) - 1) // length - 1), batch_size, length)

    @property
    def num_batches(self) -> int:
        """Batches that hold as many windows as an epoch: ceil(W / B)."""
        return -(-self.size // self.batch_size)

    def batch(self, step: Array | int, key: Array, shard: Array | int = 0, shards: int = 1) -> Batch:
        """Rows shard·b ... (shard + 1)·b - 1 of batch `step` of endless epochs.

        Args:
          step: int32 scalar >= 0.
          key: the data key of one seed, used for the order and the offset of each epoch.
          shard: which part of the batch; may be a traced axis index.
          shards: number of parts; static.

        Returns:
          What the top of this file lists; all predictions count.

        Raises:
          ValueError: B cannot be divided by `shards`.
        """
        rows, text = _rows(self.batch_size, shard, shards), self.arrays["text"]
        order, offsets = jax.random.split(key)
        position = jnp.asarray(step, jnp.int32) * self.batch_size + rows
        window = permuted_index(order, position, self.size)
        spare = text.shape[0] - 1 - self.size * self.length
        keys = jax.vmap(jax.random.fold_in, (None, 0))(offsets, position // self.size)
        offset = jax.vmap(lambda k: jax.random.randint(k, (), 0, spare + 1, jnp.int32))(keys)
        return _cut(text, offset + window * self.length, self.length) | _all_count(rows, self.length)

    def stage(self, step: int, count: int, key: Array) -> "Windows":
        """Itself: the text is on the device."""
        del step, count, key
        return self


@struct.dataclass
class Streams:
    """B streams that run through the text side by side, T characters a step, so that a carry may flow from batch to batch.

    An epoch has C = floor((n - 1) / (B T)) steps. With o its offset, row r of step t reads the T characters from
    o + (r C + t) T on: stream r goes through one contiguous B-th of the text. o is drawn anew each epoch from what C B T
    leaves over, so that chunks are not cut at the same places for ever. The batch also holds "reset" [b] float32: 1 in
    the first chunk of an epoch, where the carry must start afresh.

    Attributes:
      arrays: {"text": [n] token numbers}.
      size: characters that one epoch reads, C B T.
      batch_size: B.
      length: T.
    """

    arrays: dict[str, Array]
    size: int = struct.field(pytree_node=False)
    batch_size: int = struct.field(pytree_node=False)
    length: int = struct.field(pytree_node=False)

    @classmethod
    def of(cls, text: Any, batch_size: int, length: int) -> "Streams":
        """Puts `text` [n] on the default device. Raises UserError if a stream would be shorter than a chunk."""
        _check_length(text, batch_size * length + 1, length, batch_size)
        chunk = batch_size * length
        return cls({"text": on_device(text)}, (len(text) - 1) // chunk * chunk, batch_size, length)

    @property
    def num_batches(self) -> int:
        """C, the steps of an epoch."""
        return self.size // (self.batch_size * self.length)

    def batch(self, step: Array | int, key: Array, shard: Array | int = 0, shards: int = 1) -> Batch:
        """Chunk `step` of each stream, endlessly.

        Args:
          step: int32 scalar >= 0.
          key: the data key of one seed, used for the offset of each epoch.
          shard: as for `Windows.batch`.
          shards: as for `Windows.batch`.

        Returns:
          What the top of this file lists, where all predictions count, and "reset" [b].

        Raises:
          ValueError: B cannot be divided by `shards`.
        """
        rows, text = _rows(self.batch_size, shard, shards), self.arrays["text"]
        step = jnp.asarray(step, jnp.int32)
        epoch, chunk = step // self.num_batches, step % self.num_batches
        spare = text.shape[0] - 1 - self.size
        offset = jax.random.randint(jax.random.fold_in(key, epoch), (), 0, spare + 1, jnp.int32)
        batch = _cut(text, offset + (rows * self.num_batches + chunk) * self.length, self.length)
        reset = jnp.broadcast_to((chunk == 0).astype(jnp.float32), rows.shape)
        return batch | _all_count(rows, self.length) | {"reset": reset}

    def stage(self, step: int, count: int, key: Array) -> "Streams":
        """Itself."""
        del step, count, key
        return self


@struct.dataclass
class WholeText:
    """All characters of a split, each predicted exactly once, in order.

    Row w predicts characters w L ... (w + 1) L - 1. It also reads up to `context` characters before them, which do not
    count, so that a model has seen something of the text when it is judged.

    Attributes:
      arrays: {"text": [1 + n]}: the token before the first character, and n characters.
      size: rows, ceil(n / L).
      batch_size: B.
      length: L.
      context: characters that are read before those that count.
    """

    arrays: dict[str, Array]
    size: int = struct.field(pytree_node=False)
    batch_size: int = struct.field(pytree_node=False)
    length: int = struct.field(pytree_node=False)
    context: int = struct.field(pytree_node=False, default=0)

    @classmethod
    def of(cls, text: Any, batch_size: int, length: int, start: int, context: int = 0) -> "WholeText":
        """Puts `text` on the default device.

        Args:
          text: [n] token numbers.
          batch_size: B.
          length: L.
          start: the token that stands before the text.
          context: characters that are read before those that count.

        Raises:
          UserError: there is no character.
        """
        if not len(text):
            raise UserError("there is no text to read: the split is empty")
        whole = np.concatenate([np.asarray([start], text.dtype), text])
        return cls({}, 0, batch_size, length, context).over(whole)

    def over(self, text: Any) -> "WholeText":
        """The same cut of another `text` [1 + n]."""
        size = -(-(len(text) - 1) // self.length)
        return WholeText({"text": on_device(text)}, size, self.batch_size, self.length, self.context)

    @property
    def num_batches(self) -> int:
        """ceil(size / B)."""
        return -(-self.size // self.batch_size)

    def batch(self, step: Array | int, key: Array, shard: Array | int = 0, shards: int = 1) -> Batch:
        """Rows B·step ... of the split; without randomness.

        Args:
          step: int32 scalar >= 0; from `num_batches` on all rows are padding.
          key: not used.
          shard: as for `Windows.batch`.
          shards: as for `Windows.batch`.

        Returns:
          What the top of this file lists, with T = min(context + L, n).

        Raises:
          ValueError: B cannot be divided by `shards`.
        """
        del key
        text, count = self.arrays["text"], self.arrays["text"].shape[0] - 1
        rows = _rows(self.batch_size, shard, shards)
        window = jnp.asarray(step, jnp.int32) * self.batch_size + rows
        first = window * self.length
        width = min(self.context + self.length, count)
        start = jnp.clip(first - self.context, 0, count - width)
        batch = _cut(text, start, width)
        position = start[:, None] + jnp.arange(width)
        valid = window < self.size
        counts = valid[:, None] & (position >= first[:, None]) & (position < first[:, None] + self.length)
        return batch | {"weight": counts.astype(jnp.float32), "mask": valid.astype(jnp.float32), "row": rows}

    def stage(self, step: int, count: int, key: Array) -> "WholeText":
        """Itself."""
        del step, count, key
        return self


def _rows(batch_size: int, shard: Array | int, shards: int) -> Array:
    if batch_size % shards:
        raise ValueError(f"a batch of {batch_size} rows cannot be split evenly over {shards} devices")
    count = batch_size // shards
    return jnp.asarray(shard, jnp.int32) * count + jnp.arange(count, dtype=jnp.int32)


def _cut(text: Array, starts: Array, length: int) -> Batch:
    """Characters starts ... starts + T of `text` as "tokens" and "target"."""
    # a loop of slices: XLA:CPU gathers element by element
    pieces = jax.lax.map(lambda start: jax.lax.dynamic_slice(text, (start,), (length + 1,)), starts)
    pieces = pieces.astype(jnp.int32)
    return {"tokens": pieces[:, :-1], "target": pieces[:, 1:]}


def _all_count(rows: Array, length: int) -> Batch:
    ones = jnp.ones(rows.shape, jnp.float32)
    return {"weight": jnp.ones((rows.shape[0], length), jnp.float32), "mask": ones, "row": rows}


def _check_length(text: Any, needed: int, length: int, rows: int) -> None:
    if len(text) < needed:
        what = f"{rows} streams of chunks" if rows > 1 else "windows"
        raise UserError(
            f"the text has {len(text)} characters, but {what} of {length} characters need {needed}: "
            "make --data.length or --train.batch_size smaller, or --data.limit larger"
        )
