"""Batches ahead of the program: resident arrays are placed once, streamed ones are read while the last chunk runs."""

import dataclasses
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np

from jaxdl.engine.devices import Layout
from jaxdl.engine.evaluation import stage_seeds


class Stager:
    """Gives the training program its source for the next steps.

    Args:
      layout: where arrays go.
    """

    def __init__(self, layout: Layout):
        self.layout = layout
        self._placed: dict[int, tuple[Any, Any]] = {}
        self._thread = ThreadPoolExecutor(1)
        self._ahead: tuple[tuple, int, Any] | None = None

    def placed(self, source: Any) -> Any:
        """A source's arrays on the devices, moved there once."""
        if id(source) not in self._placed:
            # the source is kept too, so that its id stays taken
            self._placed[id(source)] = (source, self.layout.place_source(source))
        return self._placed[id(source)][1]

    def evaluation(self, source: Any) -> Any:
        """Like `placed`, with batches rounded up to a multiple of the devices."""
        size = -(-source.batch_size // self.layout.shards) * self.layout.shards
        if getattr(source, "streamed", False):
            return source if size == source.batch_size else dataclasses.replace(source, batch_size=size)
        if size == source.batch_size:
            return self.placed(source)
        if id(source) not in self._placed:
            self._placed[id(source)] = (source, self.layout.place_source(source.replace(batch_size=size)))
        return self._placed[id(source)][1]

    def stage(self, source: Any, t: int, count: int, limit: int, keys: np.ndarray) -> Any:
        """The source for steps t .. t+count-1; `limit` is the phase's last step, `keys` [S, 2] the seeds' data streams."""
        if source is None:
            return None
        if not getattr(source, "streamed", False):
            return self.placed(source)
        name = (id(source), t, keys.tobytes())
        if self._ahead is not None and self._ahead[0] == name and self._ahead[1] >= count:
            staged = self._ahead[2].result()
        else:
            staged = self._read(source, t, count, keys)
        following = min(source.capacity, limit - t - count)
        if following > 0:
            future = self._thread.submit(self._read, source, t + count, following, keys)
            self._ahead = ((id(source), t + count, keys.tobytes()), following, future)
        return staged

    def _read(self, source, t: int, count: int, keys: np.ndarray):
        rows = self.layout.rows(source.batch_size)
        return self.layout.place_source(stage_seeds(source, t, count, keys, rows))
