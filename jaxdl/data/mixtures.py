"""Points from a mixture of Gaussians on a ring, whose modes can be counted."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct

Array = jax.Array


@struct.dataclass
class GaussianRing:
    """A source of points [B, 2] from `modes` Gaussians of standard deviation `sigma` on a circle about the origin.

    Points are made inside the program, each from its own key: batch `step` is a pure function of (key, step), and there
    is no end of new points.

    Attributes:
      batch_size: B.
      size: n, how many points a round of evaluation draws; 0: no end, for training.
      modes: K, equally likely; mode m lies at angle 2πm / K.
      radius: of the circle.
      sigma: standard deviation along each axis.
    """

    batch_size: int = struct.field(pytree_node=False)
    size: int = struct.field(pytree_node=False, default=0)
    modes: int = struct.field(pytree_node=False, default=8)
    radius: float = struct.field(pytree_node=False, default=2.0)
    sigma: float = struct.field(pytree_node=False, default=0.05)

    @property
    def num_batches(self) -> int:
        """ceil(n / B); 0 without an end."""
        return -(-self.size // self.batch_size)

    def batch(self, step: Array | int, key: Array, shard: Array | int = 0, shards: int = 1) -> dict[str, Array]:
        """Rows shard·b ... (shard + 1)·b − 1 of global batch `step`.

        Args:
          step: int32 scalar.
          key: of one seed; the point in row r is drawn from fold_in(fold_in(key, step), r).
          shard: which part of the batch; may be a traced axis index.
          shards: number of parts b = B / shards.

        Returns:
          "x" [b, 2] float32, "mode" [b] int32, "mask" [b] float32 (0 from point n on) and "row" [b] int32.
        """
        count = self.batch_size // shards
        rows = jnp.asarray(shard, jnp.int32) * count + jnp.arange(count, dtype=jnp.int32)
        keys = jax.vmap(jax.random.fold_in, (None, 0))(jax.random.fold_in(key, step), rows)
        x, mode = jax.vmap(self._point)(keys)
        inside = jnp.asarray(step, jnp.int32) * self.batch_size + rows < self.size
        mask = inside.astype(jnp.float32) if self.size else jnp.ones(count, jnp.float32)
        return {"x": x, "mode": mode, "mask": mask, "row": rows}

    def stage(self, step: int, count: int, key: Array) -> "GaussianRing":
        """Itself."""
        del step, count, key
        return self

    @property
    def centres(self) -> np.ndarray:
        """[K, 2] float32."""
        return ring_centres(self.modes, self.radius)

    def _point(self, key: Array) -> tuple[Array, Array]:
        mode_key, noise_key = jax.random.split(key)
        mode = jax.random.randint(mode_key, (), 0, self.modes)
        return jnp.asarray(self.centres)[mode] + self.sigma * jax.random.normal(noise_key, (2,)), mode


def ring_centres(modes: int, radius: float) -> np.ndarray:
    """Centres [K, 2] float32 of K modes on a circle about the origin."""
    angles = 2.0 * np.pi * np.arange(modes) / modes
    return (radius * np.stack([np.cos(angles), np.sin(angles)], axis=1)).astype(np.float32)


def nearest_mode(points: Any, centres: Any) -> tuple[Array, Array]:
    """(index int32, distance) of the nearest of `centres` [K, D] for each of `points` [B, D]: [B] each."""
    distances = jnp.sqrt(jnp.square(points[:, None, :] - jnp.asarray(centres)[None]).sum(-1))
    return jnp.argmin(distances, axis=1).astype(jnp.int32), distances.min(axis=1)


def mode_coverage(points: Array, centres: Any, sigma: float) -> tuple[dict[str, Array], Array]:
    """How good samples [B, D] of a mixture with `centres` [K, D] are.

    Returns:
      {"within_3_sigma": [B], 1 where the nearest centre is at most 3σ away} and groups [B, K] with a one at the nearest
      mode of each such sample.
    """
    mode, distance = nearest_mode(points, centres)
    good = (distance <= 3.0 * sigma).astype(jnp.float32)
    return {"within_3_sigma": good}, jax.nn.one_hot(mode, len(centres)) * good[:, None]
