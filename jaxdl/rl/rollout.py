"""Acting: stretches of experience for training, and whole greedy episodes for evaluation and the report.

Shapes: `B` environments, `T` steps, `*O` axes of an observation.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from jaxdl.engine.experiment import Metrics, Serving
from jaxdl.engine.state import Mean, State
from jaxdl.nn.noise import fold_in, split
from jaxdl.rl.environment import Counted, Environment, EpisodeStatistics, TimeStep, row_keys

Array = jax.Array
PyTree = Any


class Experience(NamedTuple):
    """What B environments went through in T steps, time first.

    Attributes:
      observation: [T, B, *O], what the agent saw.
      action: [T, B] int32.
      kept: leaves [T, B, ...], what the agent wants to know of its decision later.
      found: TimeStep of [T, B, ...], what the action led to, terminal observations included.
      total: [T, B], return of the episode up to here.
      length: [T, B], its length up to here.
    """

    observation: Array
    action: Array
    kept: PyTree
    found: TimeStep
    total: Array
    length: Array

    def episodes(self) -> Metrics:
        """Mean "return" and "length" of the episodes that ended here."""
        ended = self.found.done.astype(jnp.float32)
        return {"return": Mean.of(self.total, ended), "length": Mean.of(self.length, ended)}


def first_states(environment: EpisodeStatistics, key: Array, count: int) -> dict[str, PyTree]:
    """`State.local` of an agent: environments in which episodes begin.

    Args:
      environment: see `for_training`.
      key: used for where the episodes begin, with the environments' numbers.
      count: B.

    Returns:
      "environment", states with leaves [B, ...], and "row" [B] int32, the environments' numbers.
    """
    rows = jnp.arange(count, dtype=jnp.int32)
    states, _ = jax.vmap(environment.reset)(row_keys(key, rows))
    return {"environment": states, "row": rows}


def rollout(
    environment: EpisodeStatistics,
    states: Counted,
    act: Callable[[Array, PyTree], tuple[Array, PyTree]],
    noise: PyTree,
    keys: Array,
) -> tuple[Counted, Experience]:
    """T steps of B environments.

    Args:
      environment: see `for_training`.
      states: [B, ...].
      act: (observations [B, *O], one step's noise) -> actions [B] int32 and what to keep, leaves [B, ...].
      noise: leaves [T, B, ...], what exploration needs, drawn beforehand in one piece.
      keys: [B], used for the environments' own chance.

    Returns:
      States after the last step and what happened.
    """
    length = jax.tree.leaves(noise)[0].shape[0]
    chances = jnp.swapaxes(split(keys, length), 0, 1)
    # all at once: random numbers in the loop would take longer than everything else in it
    fresh = jax.vmap(jax.vmap(environment.fresh))(chances)

    def body(states, inputs):
        noise, keys, fresh = inputs
        observation = states.observation
        action, kept = act(observation, noise)
        states, found = jax.vmap(environment.step)(states, action, keys, fresh)
        return states, Experience(observation, action, kept, found, states.total, states.length)

    return lax.scan(body, states, (noise, chances, fresh))


def play(environment: Environment, act: Callable[[Array], Array], keys: Array) -> tuple[Array, Array]:
    """One whole episode in each of B environments.

    Args:
      environment: as it is, without wrappers.
      act: observations [B, *O] -> actions [B] int32.
      keys: [B], used for the environments' chance.

    Returns:
      (undiscounted returns [B] float32, lengths [B] int32). Ends with the longest episode.
    """
    states, observations = jax.vmap(environment.reset)(step_keys(keys, -1))
    size = keys.shape[0]
    alive = jnp.ones(size, jnp.bool_)

    def going(carry):
        return carry[2].any() & (carry[0] < environment.time_limit)

    def body(carry):
        t, (states, observations), alive, total, length = carry
        states, found = jax.vmap(environment.step)(states, act(observations), step_keys(keys, t))
        total, length = total + jnp.where(alive, found.reward, 0.0), length + alive
        return t + 1, (states, found.observation), alive & ~found.done, total, length

    first = (jnp.int32(0), (states, observations), alive, jnp.zeros(size), jnp.zeros(size, jnp.int32))
    *_, total, length = lax.while_loop(going, body, first)
    return total, length


def serving(environment: Environment, call: Callable[[State, Array], dict[str, Array]]) -> Serving:
    """`Task.serving` of an agent: its input is "observation" [B, *O]; `call`: (state, observations) -> outputs."""
    shape = jax.ShapeDtypeStruct(environment.observation_shape, jnp.float32)
    return Serving(lambda state, inputs: call(state, inputs["observation"]), {"observation": shape})


def record(environment: Environment, act: Callable[[Array], Array], keys: Array, steps: int) -> dict[str, Array]:
    """The same episodes as `play`'s, kept for pictures: the first `steps` steps of each.

    Returns:
      "observation" [B, steps + 1, *O] (the last one of an ended episode is repeated), "reward" [B, steps],
      "action" [B, steps] and "length" [B] int32, at most `steps`.
    """
    states, first = jax.vmap(environment.reset)(step_keys(keys, -1))

    def body(carry, t):
        states, observations, alive = carry
        actions = act(observations)
        states, found = jax.vmap(environment.step)(states, actions, step_keys(keys, t))
        shape = (-1,) + (1,) * (first.ndim - 1)
        observations = jnp.where(alive.reshape(shape), found.observation, observations)
        kept = (observations, jnp.where(alive, found.reward, 0.0), actions, alive)
        return (states, observations, alive & ~found.done), kept

    alive = jnp.ones(keys.shape[0], jnp.bool_)
    _, (observations, rewards, actions, lived) = lax.scan(body, (states, first, alive), jnp.arange(steps))
    observations = jnp.concatenate([first[None], observations])
    found = {"observation": observations, "reward": rewards, "action": actions}
    return {name: jnp.swapaxes(leaf, 0, 1) for name, leaf in found.items()} | {"length": lived.sum(0, jnp.int32)}


def step_keys(keys: Array, t: Array | int) -> Array:
    """Keys [B] of step `t`, made of each episode's key; t = -1 for the reset."""
    return fold_in(keys, t + 1)


def greedy_metrics(
    environment: Environment, act: Callable[[Array], Array], batch: dict[str, Array], key: Array
) -> Metrics:
    """Mean "return" and "length" of one greedy episode for each row of a batch.

    Args:
      environment: as it is, without wrappers.
      act: observations [B, *O] -> actions [B] int32.
      batch: "row" [B] int32, which episodes, and "mask" [B], 0 for those that do not count.
      key: used for the environments' chance, with the rows' numbers.
    """
    total, length = play(environment, act, row_keys(key, batch["row"]))
    return {"return": Mean.of(total, batch["mask"]), "length": Mean.of(length, batch["mask"])}
