"""Lookahead: slow weights that follow the optimiser's; Zhang, Lucas, Hinton, Ba 2019, arXiv:1907.08610."""

from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp

PyTree = Any


@dataclass(frozen=True)
class Lookahead:
    """After each `every` updates the slow weights move towards the fast ones, which go on from there.

    With t = 1, 2, ... the number of updates made, whenever t is a multiple of k = `every`

        slow <- a_t slow + (1 - a_t) fast,   fast <- slow,   a_t = decay^k (t / T)^3

    so that the slow weights are hardly slower at first and average over the last updates (the schedule of Jordan 2024,
    arXiv:2404.00498, section 3.4; Zhang et al. keep a_t = 1/2).

    Attributes:
      every: k.
      decay: of the slow weights per update at the end, in [0, 1].
      total: T, updates of the run.
    """

    every: int
    decay: float
    total: int

    def __call__(self, slow: PyTree, fast: PyTree, step: jax.Array) -> tuple[PyTree, PyTree]:
        """Slow and fast weights after the update that follows `step` = 0, 1, ... others."""
        made = jnp.asarray(step, jnp.int32) + 1
        due = made % self.every == 0
        share = self.decay**self.every * (made.astype(jnp.float32) / self.total) ** 3
        kept = jnp.where(due, share, 1.0)
        slow = jax.tree.map(lambda s, f: (kept * s + (1 - kept) * f).astype(s.dtype), slow, fast)
        return slow, jax.tree.map(lambda s, f: jnp.where(due, s, f), slow, fast)
