"""Targets for values: generalised advantages, n-step returns and double Q-learning.

Shapes: `T` time, `n` steps of a window, `A` actions; all functions are elementwise over trailing axes `*B`.
"""

import jax
import jax.numpy as jnp
from jax import lax

from jaxdl.rl.environment import TimeStep

Array = jax.Array


def generalized_advantages(
    found: TimeStep, values: Array, next_values: Array, discount: Array | float, trace: Array | float
) -> Array:
    """Generalised advantage estimates (Schulman et al. 2016, eq. 16):

        δ_t = r_t + γ (1 - terminated_t) V(s'_t) - V(s_t)
        A_t = δ_t + γ λ (1 - done_t) A_{t+1},  A_T = 0

    s'_t is what the action led to: where a time limit cut the episode it is the terminal observation, whose value
    counts; the sum ends there all the same, because step t + 1 belongs to another episode.

    Args:
      found: leaves [T, *B]; the observation is not used.
      values: V(s_t), [T, *B].
      next_values: V(s'_t), [T, *B].
      discount: γ in [0, 1].
      trace: λ in [0, 1].

    Returns:
      A, [T, *B]; A + values are the critic's targets.
    """
    deltas = found.reward + discount * jnp.where(found.terminated, 0.0, next_values) - values
    keeps = discount * trace * (1.0 - found.done.astype(jnp.float32))

    def body(advantage, inputs):
        delta, keep = inputs
        advantage = delta + keep * advantage
        return advantage, advantage

    return lax.scan(body, jnp.zeros_like(deltas[0]), (deltas, keeps), reverse=True, unroll=8)[1]


def n_step(reward: Array, terminated: Array, done: Array, discount: Array | float) -> tuple[Array, Array, Array]:
    """What n consecutive steps of one environment add up to, up to the end of the episode.

        R = Σ_{k < m} γ^k r_k,  m = 1 + the first k with done_k, or n where there is none

    Args:
      reward: [n, *B].
      terminated: [n, *B] bool.
      done: [n, *B] bool, terminated or truncated.
      discount: γ in [0, 1].

    Returns:
      R [*B], the discount of the value that follows [*B], γ^m or 0 where step m - 1 terminated, and m - 1 [*B] int32,
      the step whose next observation that value belongs to.
    """
    n = reward.shape[0]
    before = jnp.cumprod(jnp.concatenate([jnp.ones_like(reward[:1]), 1.0 - done[:-1].astype(jnp.float32)]), axis=0)
    powers = jnp.asarray(discount, jnp.float32) ** jnp.arange(n + 1, dtype=jnp.float32)
    shape = (n,) + (1,) * (reward.ndim - 1)
    total = (before * powers[:n].reshape(shape) * reward).sum(axis=0)
    last = before.sum(axis=0).astype(jnp.int32) - 1
    ended = ((before > 0) & terminated).any(axis=0)
    return total, jnp.where(ended, 0.0, powers[last + 1]), last


def q_target(total: Array, future: Array, next_q: Array, chooser: Array) -> Array:
    """R + γ^m Q_target(s', argmax_a Q(s', a)): double Q-learning (van Hasselt, Guez, Silver 2016).

    Args:
      total: R [*B].
      future: the value's discount [*B], 0 where the episode terminated.
      next_q: the target network's values at s', [*B, A].
      chooser: values whose largest picks the action, [*B, A]: the online network's, or `next_q` itself for plain DQN.
    """
    action = jnp.argmax(chooser, axis=-1)
    return total + future * jnp.take_along_axis(next_q, action[..., None], axis=-1)[..., 0]
