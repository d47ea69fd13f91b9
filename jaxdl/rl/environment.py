"""Environments as pure functions, and wrappers that begin episodes anew and measure them.

An environment is written for one agent, without a batch axis, and is vectorised by `jax.vmap`. It never resets itself:
the TimeStep at the end of an episode holds the terminal observation, from which a time limit is bootstrapped. The
wrapper `AutoReset` begins the next episode inside the program and keeps that observation too.

Shapes: `*O` axes of an observation. All other values of one environment are scalars.
"""

from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

import jax
import jax.numpy as jnp

from jaxdl.nn.noise import fold_in

Array = jax.Array
PyTree = Any


class TimeStep(NamedTuple):
    """What an action led to.

    Attributes:
      observation: [*O] float32, after the action; at the end of an episode still that episode's.
      reward: float32.
      terminated: bool, the episode ended by the rules: nothing comes after it, its value is 0.
      truncated: bool, a time limit cut the episode: what would have come after it still has a value.
    """

    observation: Array
    reward: Array
    terminated: Array
    truncated: Array

    @property
    def done(self) -> Array:
        """bool, the episode is over for whatever reason."""
        return self.terminated | self.truncated


class Environment(Protocol):
    """A Markov decision process with `num_actions` actions 0, 1, ...

    `time_limit` is the number of steps after which an episode is truncated at the latest.
    """

    @property
    def observation_shape(self) -> tuple[int, ...]:
        """*O."""
        ...

    @property
    def num_actions(self) -> int:
        """How many actions there are."""
        ...

    @property
    def time_limit(self) -> int:
        """Steps after which an episode is truncated at the latest."""
        ...

    def reset(self, key: Array) -> tuple[PyTree, Array]:
        """The first (state, observation [*O]) of an episode; `key` is used for where it begins."""
        ...

    def step(self, state: PyTree, action: Array, key: Array) -> tuple[PyTree, TimeStep]:
        """(state, TimeStep) after `action` (int32); `key` is used for the environment's own chance."""
        ...


class Running(NamedTuple):
    """State of `AutoReset`.

    Attributes:
      inner: the environment's.
      observation: [*O], what the agent sees now: the first one of the next episode where the last has ended.
    """

    inner: PyTree
    observation: Array


class _Wrapper:
    """What a wrapper leaves as it is."""

    environment: Any

    @property
    def observation_shape(self) -> tuple[int, ...]:
        """*O."""
        return self.environment.observation_shape

    @property
    def num_actions(self) -> int:
        """How many actions there are."""
        return self.environment.num_actions

    @property
    def time_limit(self) -> int:
        """Steps after which an episode is truncated."""
        return self.environment.time_limit


@dataclass(frozen=True)
class AutoReset(_Wrapper):
    """Begins the next episode in the step that ends one.

    The TimeStep keeps the terminal observation; the next episode's first one stands in the state (see `Running`).
    """

    environment: Any

    def reset(self, key: Array) -> tuple[Running, Array]:
        """See `Environment.reset`."""
        inner, observation = self.environment.reset(key)
        return Running(inner, observation), observation

    def fresh(self, key: Array) -> Running:
        """Where the next episode begins if the step with this `key` ends one."""
        return Running(*self.environment.reset(fold_in(key, 1)))

    def step(self, state: Running, action: Array, key: Array, fresh: Running | None = None) -> tuple[Running, TimeStep]:
        """See `Environment.step`; `fresh` is `self.fresh(key)`, where that was computed before."""
        inner, found = self.environment.step(state.inner, action, key)
        fresh = self.fresh(key) if fresh is None else fresh
        same = Running(inner, found.observation)
        return jax.tree.map(lambda new, old: jnp.where(found.done, new, old), fresh, same), found


class Counted(NamedTuple):
    """State of `EpisodeStatistics`.

    Attributes:
      inner: the wrapped environment's.
      total: float32, undiscounted return of the episode so far, its last step included.
      length: int32, steps of the episode so far.
      ended: bool, the last step ended the episode.
    """

    inner: Any
    total: Array
    length: Array
    ended: Array

    @property
    def observation(self) -> Array:
        """What the agent sees now, [*O]."""
        return self.inner.observation


@dataclass(frozen=True)
class EpisodeStatistics(_Wrapper):
    """Counts return and length; after a step that ends an episode the state holds those of the whole episode."""

    environment: AutoReset

    def reset(self, key: Array) -> tuple[Counted, Array]:
        """See `Environment.reset`."""
        inner, observation = self.environment.reset(key)
        return Counted(inner, jnp.float32(0.0), jnp.int32(0), jnp.bool_(False)), observation

    def fresh(self, key: Array) -> Running:
        """See `AutoReset.fresh`."""
        return self.environment.fresh(key)

    def step(self, state: Counted, action: Array, key: Array, fresh: Running | None = None) -> tuple[Counted, TimeStep]:
        """See `AutoReset.step`."""
        inner, found = self.environment.step(state.inner, action, key, fresh)
        total = jnp.where(state.ended, 0.0, state.total) + found.reward
        length = jnp.where(state.ended, 0, state.length) + 1
        return Counted(inner, total, length, found.done), found


def for_training(environment: Environment) -> EpisodeStatistics:
    """The environment as algorithms train in it: endless, with each episode's return and length."""
    return EpisodeStatistics(AutoReset(environment))


def row_keys(key: Array, rows: Array) -> Array:
    """A key for each environment [B], made of `key` and its number in the global batch, `rows` [B] int32.

    So the same environment sees the same chance on one device and on many.
    """
    return fold_in(key, rows)
