"""What self-play keeps: for each game a ring of positions, whose values are filled in when the game has ended.

All functions are of one game; batches are made with `jax.vmap`. Legend: `R` positions in the ring, `A` actions,
`H`, `W`, `C` an observation's shape, `S` symmetries, `K` drawn positions.
"""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct

from jaxdl.rl.game import Game

Array = jax.Array


class Ring(struct.PyTreeNode):
    """The newest R positions of one row of self-play; the last `playing` of them belong to the game under way.

    Attributes:
      observation: [R, H, W, C].
      policy: [R, A] float32, the search's improved policy.
      value: [R] float32, the game's result for the player who was to move: 1, 0 or -1; undefined while it is under way.
      written: int32 scalar, positions recorded so far; position number i lies in slot i mod R.
      playing: int32 scalar, positions of the game under way.
    """

    observation: Any
    policy: Any
    value: Any
    written: Any
    playing: Any

    @classmethod
    def empty(cls, game: Game, capacity: int) -> "Ring":
        """A ring of `capacity` slots with nothing recorded."""
        kind = jax.eval_shape(lambda: game.observation(game.init())).dtype
        return cls(
            observation=jnp.zeros((capacity, *game.observation_shape), kind),
            policy=jnp.zeros((capacity, game.num_actions), jnp.float32),
            value=jnp.zeros(capacity, jnp.float32),
            written=jnp.int32(0),
            playing=jnp.int32(0),
        )


def recorded(ring: Ring, observation: Array, policy: Array, keep: Array) -> Ring:
    """Where `keep` (bool scalar) holds, the ring with one more position of the game under way, over the oldest one."""
    slot = ring.written % ring.value.shape[0]
    return ring.replace(  # type: ignore[attr-defined]
        observation=ring.observation.at[slot].set(jnp.where(keep, observation, ring.observation[slot])),
        policy=ring.policy.at[slot].set(jnp.where(keep, policy, ring.policy[slot])),
        written=ring.written + keep,
        playing=ring.playing + keep,
    )


def settled(ring: Ring, reward: Array, ended: Array) -> Ring:
    """Where the game has `ended`: its positions' values are filled in, and the next position starts another game.

    Args:
      ring: with all positions of the game.
      reward: scalar, of the player who moved last; z for the position i plies before the last is (−1)^i reward.
      ended: bool scalar.
    """
    capacity = ring.value.shape[0]
    age = (ring.written - 1 - jnp.arange(capacity)) % capacity
    results = jnp.where(age % 2 == 0, reward, -reward)
    return ring.replace(  # type: ignore[attr-defined]
        value=jnp.where(ended & (age < ring.playing), results, ring.value),
        playing=jnp.where(ended, 0, ring.playing),
    )


def sampled(ring: Ring, key: Array, count: int, symmetries: tuple[np.ndarray, np.ndarray]) -> dict[str, Array]:
    """Positions of finished games, drawn uniformly with replacement.

    Args:
      ring: where from.
      key: used for the choice of positions and of symmetries.
      count: K.
      symmetries: (cells [S, H·W], actions [S, A]) as in `Game`; one of them is drawn for each position.

    Returns:
      "observation" [K, H, W, C], "policy" [K, A], "value" [K] and "mask" [K], 0 if no game has ended yet.
    """
    capacity = ring.value.shape[0]
    finished = jnp.minimum(ring.written, capacity) - ring.playing
    drawn = jax.random.bits(key, (2, count), jnp.uint32)
    back = below(drawn[0], jnp.maximum(finished, 1))
    slots = (ring.written - ring.playing - 1 - back) % capacity
    cells, actions = (jnp.asarray(table) for table in symmetries)
    which = below(drawn[1], len(symmetries[0]))

    def turned(slot: Array, which: Array) -> tuple[Array, Array]:
        observation, policy = ring.observation[slot], ring.policy[slot]
        flat = observation.reshape(-1, observation.shape[-1])
        return flat[cells[which]].reshape(observation.shape), policy[actions[which]]

    observation, policy = jax.vmap(turned)(slots, which)
    mask = jnp.broadcast_to(finished > 0, (count,)).astype(jnp.float32)
    return {"observation": observation, "policy": policy, "value": ring.value[slots], "mask": mask}


def below(bits: Array, limit: Any) -> Array:
    """Random integers in 0 ... limit - 1 from random 32 bits; uneven by less than limit / 2^32."""
    # jax.random.randint removes that too, and takes four times as long to compile
    return (bits % jnp.asarray(limit, jnp.uint32)).astype(jnp.int32)
