"""A replay memory on the device: one ring for each environment, overwritten in the order of time.

Inside the training program, whose State is donated, a ring is updated in place. The steps of one environment lie one
after another, so that a window of n of them is a stretch of its life; `done` says where an episode in it ends.

Shapes: `B` environments, `C` steps a ring holds, `K` new steps, `m` windows of one environment, `n` steps of a window.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from jaxdl.rl.rollout import Experience

Array = jax.Array


class Ring(NamedTuple):
    """Leaves [B, C, ...]; see `Experience` and `TimeStep`."""

    observation: Array
    action: Array
    reward: Array
    terminated: Array
    done: Array
    next_observation: Array


def empty_ring(count: int, capacity: int, observation_shape: tuple[int, ...], dtype: Any = jnp.float32) -> Ring:
    """Rings of `capacity` steps for `count` environments; observations are kept in `dtype`."""

    def zeros(shape=(), dtype=dtype):
        return jnp.zeros((count, capacity, *shape), dtype)

    observations = zeros(observation_shape), zeros(observation_shape)
    flags = zeros(dtype=jnp.bool_), zeros(dtype=jnp.bool_)
    return Ring(observations[0], zeros(dtype=jnp.int32), zeros(dtype=jnp.float32), *flags, observations[1])


def insert(ring: Ring, experience: Experience, inserted: Array) -> Ring:
    """The ring with K further steps in the place of the oldest.

    Args:
      ring: C must be a multiple of K.
      experience: leaves [K, B, ...].
      inserted: int32, how many steps each environment has inserted before, a multiple of K.
    """
    found = experience.found
    new = Ring(experience.observation, experience.action, found.reward, found.terminated, found.done, found.observation)
    head = inserted % ring.action.shape[1]

    def write(old, leaf):
        leaf = jnp.swapaxes(leaf, 0, 1).astype(old.dtype)
        return lax.dynamic_update_slice_in_dim(old, leaf, head, axis=1)

    return jax.tree.map(write, ring, new)


def draw_windows(key: Array, inserted: Array, capacity: int, n: int, count: int) -> Array:
    """Places of `count` random windows of n consecutive steps in one environment's ring.

    Args:
      key: used for which windows, all alike.
      inserted: int32, how many steps the environment has inserted, at least n.
      capacity: C.
      n: steps of a window.
      count: m.

    Returns:
      [m, n] int32 in 0 ... C - 1, each row in the order of time, none across the newest step.
    """
    size = jnp.minimum(inserted, capacity)
    start = jax.random.randint(key, (count,), 0, size - n + 1)
    oldest = inserted - size
    return (oldest + start[:, None] + jnp.arange(n)) % capacity
