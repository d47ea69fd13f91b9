"""gymnax's environments behind our interface; gymnax comes with the extra [rl].

MinAtar (Young & Tian 2019) as gymnax 1.0 has it: 10×10 binary images with one channel for each kind of object, actions
without sticky repetition (the original repeats the last action with probability 0.1), and episodes truncated at 1000
steps, Freeway's at 2500 (the original has no such limit). Difficulty ramps where it does in the original: in Asterix,
Seaquest and Space Invaders.
"""

import functools
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from jaxdl.errors import UserError
from jaxdl.rl.environment import TimeStep

Array = jax.Array
PyTree = Any

MINATAR = {
    "breakout": "Breakout-MinAtar",
    "asterix": "Asterix-MinAtar",
    "freeway": "Freeway-MinAtar",
    "seaquest": "Seaquest-MinAtar",
    "space_invaders": "SpaceInvaders-MinAtar",
}


def load_gymnax() -> Any:
    """The gymnax package.

    Raises:
      UserError: it is not installed; names the command.
    """
    try:
        import gymnax
    except ModuleNotFoundError as error:
        if error.name != "gymnax":
            raise
        raise UserError("this environment needs gymnax: pip install -e '.[rl]'") from error
    return gymnax


@dataclass(frozen=True)
class Gymnax:
    """An environment of gymnax with discrete actions.

    Attributes:
      name: gymnax's, "Breakout-MinAtar".

    Raises:
      UserError: gymnax is missing, has no environment of this name, or its actions are not discrete.
    """

    name: str

    def __post_init__(self):
        gymnax = load_gymnax()
        if self.name not in gymnax.registered_envs:
            raise UserError(f"gymnax has no environment {self.name!r}; it has {', '.join(gymnax.registered_envs)}")
        environment, parameters = self._made
        if not hasattr(environment.action_space(parameters), "n"):
            raise UserError(f"{self.name} has continuous actions; choose an environment with discrete ones")

    @functools.cached_property
    def _made(self) -> tuple[Any, Any]:
        return load_gymnax().make(self.name)

    @property
    def num_actions(self) -> int:
        """How many actions there are."""
        environment, parameters = self._made
        return int(environment.action_space(parameters).n)

    @property
    def observation_shape(self) -> tuple[int, ...]:
        """*O."""
        environment, parameters = self._made
        return tuple(environment.observation_space(parameters).shape)

    @property
    def time_limit(self) -> int:
        """Steps after which an episode is truncated."""
        return int(self._made[1].max_steps_in_episode)

    def reset(self, key: Array) -> tuple[PyTree, Array]:
        """See `Environment.reset`."""
        environment, parameters = self._made
        observation, state = environment.reset_env(key, parameters)
        return _cast(state, self._types), jnp.asarray(observation, jnp.float32)

    def step(self, state: PyTree, action: Array, key: Array) -> tuple[PyTree, TimeStep]:
        """See `Environment.step`."""
        environment, parameters = self._made
        observation, state, reward, terminated, _ = environment.step_env(key, state, action, parameters)
        truncated = environment.is_truncated(state, parameters)
        found = TimeStep(
            jnp.asarray(observation, jnp.float32),
            jnp.asarray(reward, jnp.float32),
            jnp.asarray(terminated, jnp.bool_),
            jnp.asarray(truncated, jnp.bool_),
        )
        return _cast(state, self._types), found

    @functools.cached_property
    def _types(self) -> PyTree:
        # gymnax's first states hold Python numbers and other dtypes than those after a step, which a loop cannot carry
        environment, parameters = self._made

        def after_one_step(key):
            _, state = environment.reset_env(key, parameters)
            return environment.step_env(key, state, jnp.int32(0), parameters)[1]

        return jax.eval_shape(after_one_step, jax.random.key(0))


def _cast(state: PyTree, types: PyTree) -> PyTree:
    return jax.tree.map(lambda leaf, like: lax.convert_element_type(leaf, like.dtype), state, types)
