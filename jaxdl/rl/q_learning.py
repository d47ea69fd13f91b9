"""Tabular Q-learning in many environments at once.

Watkins & Dayan: Q-learning, Machine Learning 1992. The step size of a pair's n-th update is (h + 1) / (h + n), which
reaches the optimum at a polynomial rate where constant or 1 / n steps do not (Jin et al.: Is Q-learning provably
efficient?, 2018, with h the horizon).

Shapes: `S` states, `A` actions, `B` environments (of this device), `T` steps of each in one iteration.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from jaxdl.engine.experiment import Metrics, Serving
from jaxdl.engine.state import Mean, Net, State
from jaxdl.rl.environment import for_training, row_keys
from jaxdl.rl.gridworld import GridWorld, value_iteration
from jaxdl.rl.rollout import Experience, first_states, greedy_metrics, play, record, rollout, serving
from jaxdl.settings import setting

Array = jax.Array
NET = "agent"
_ROUNDING = 1e-5  # of float32 in a policy's value


@dataclass(frozen=True)
class QLearningConfig:
    """Tabular Q-learning."""

    rollout: int = setting(16, "steps of each environment between two updates of the table", minimum=1)
    discount: float = setting(0.97, "discount of rewards", minimum=0.0, maximum=0.9999)
    epsilon: float = setting(1.0, "share of random actions", minimum=0.0, maximum=1.0)
    horizon: float = setting(10.0, "h of the step size (h + 1) / (h + n) at a pair's n-th update", minimum=0.0)

    def hyper(self) -> dict[str, float]:
        """What a sweep may vary without compiling anew."""
        return {"epsilon": self.epsilon, "horizon": self.horizon}


@dataclass(frozen=True)
class QLearning:
    """A Task without batches: one step is T steps of all environments and one update of every pair that was met.

    Attributes:
      environment: what is judged; its observations are one-hot over states.
      training: the same world, perhaps with other starts.
      config: see QLearningConfig.
      environments: B over all devices.
      axis: pmap's axis name, set by the engine.
    """

    environment: GridWorld
    training: GridWorld
    config: QLearningConfig
    environments: int
    axis: str | None = None

    @property
    def items_per_step(self) -> int:
        """Environment steps of one update."""
        return self.environments * self.config.rollout

    def init(self, key: Array, hyper: Mapping[str, Array]) -> State:
        """A table of zeros; `key` is used for where the environments begin."""
        shape = (self.environment.num_cells, self.environment.num_actions)
        net = Net(params={"values": jnp.zeros(shape)}, opt={"updates": jnp.zeros(shape)})
        local = first_states(for_training(self.training), key, self.environments)
        return State(step=jnp.int32(0), nets={NET: net}, local=local, hyper=dict(hyper))

    def step(self, state: State, batch: Any, key: Array) -> tuple[State, Metrics]:
        """One iteration; `key` is used for exploration and the environments."""
        del batch
        noise_key, chance_key = jax.random.split(key)
        rows = state.local["row"]
        states, experience = self._act(state, noise_key, row_keys(chance_key, rows))
        net, error = self._update(state.nets[NET], experience, state.hyper["horizon"])
        state = state.replace(nets={NET: net}, local={"environment": states, "row": rows})
        return state, {"error": Mean.of(jnp.abs(error))} | experience.episodes()

    def evaluate(self, state: State, batch: Any, key: Array) -> tuple[State, Metrics]:
        """A greedy episode a row; "regret", how much the greedy policy's exact value falls short of the optimum at the
        start, and "value_error", the largest |Q - Q*| of a floor cell."""
        metrics = greedy_metrics(self.environment, self._greedy(state), batch, key)
        values = state.nets[NET].params["values"]
        optimal, floor = jnp.asarray(self.optimal_values, jnp.float32), jnp.asarray(self._floor)
        start = jnp.asarray(self.environment.starts)
        regret = (optimal.max(axis=1) - self._policy_values(values.argmax(axis=1)))[start].mean()
        regret = jnp.where(regret < _ROUNDING, 0.0, regret)
        wrong = jnp.where(floor[:, None], jnp.abs(values - optimal), 0.0).max()
        # each row counts the same number, so that devices and rounds add up
        return state, metrics | {
            name: Mean.of(jnp.broadcast_to(value, batch["mask"].shape), batch["mask"])
            for name, value in (("regret", regret), ("value_error", wrong))
        }

    def for_evaluation(self, state: State) -> State:
        """Without the environments of training."""
        return state.replace(local=())

    def predict(self, state: State, batch: Any) -> dict[str, Array]:
        """{"return", "length"} [B] of one greedy episode a row."""
        total, length = play(self.environment, self._greedy(state), row_keys(jax.random.key(0), batch["row"]))
        return {"return": total, "length": length}

    def serving(self) -> Serving:
        """{"observation" [B, *O]} -> {"values" [B, A]}, for one-hot cells; see `Task`."""

        def values(state: State, observations: Array) -> dict[str, Array]:
            return {"values": observations @ state.nets[NET].params["values"]}

        return serving(self.environment, values)

    def replay(self, state: State, batch: Any, steps: int) -> dict[str, Array]:
        """The first `steps` steps of the episodes of `predict`; see `record`."""
        return record(self.environment, self._greedy(state), row_keys(jax.random.key(0), batch["row"]), steps)

    @property
    def optimal_values(self) -> np.ndarray:
        """Q* [S, A] by value iteration."""
        return value_iteration(*self.environment.transitions(), self.environment.ends, self.config.discount)

    # --- one iteration ----------------------------------------------------------------------------------------------

    def _greedy(self, state: State):
        values = state.nets[NET].params["values"]
        return lambda observations: (observations @ values).argmax(axis=-1)

    def _act(self, state: State, key: Array, keys: Array):
        values, epsilon = state.nets[NET].params["values"], state.hyper["epsilon"]
        steps, actions = self.config.rollout, self.environment.num_actions

        def draw(key):
            explore_key, action_key = jax.random.split(key)
            return jax.random.uniform(explore_key, (steps,)), jax.random.randint(action_key, (steps,), 0, actions)

        draws = jax.vmap(draw, out_axes=1)(row_keys(key, state.local["row"]))

        def act(observations, noise):
            uniform, action = noise
            return jnp.where(uniform < epsilon, action, (observations @ values).argmax(axis=-1)), ()

        return rollout(for_training(self.training), state.local["environment"], act, draws, keys)

    def _update(self, net: Net, experience: Experience, horizon: Array) -> tuple[Net, Array]:
        """Q(s, a) += (h + 1) / (h + n) · mean over its visits of r + γ max Q(s', ·) - Q(s, a)."""
        values, updates = net.params["values"], net.opt["updates"]
        found = experience.found
        cell, after = experience.observation.argmax(axis=-1), found.observation.argmax(axis=-1)
        future = jnp.where(found.terminated, 0.0, values.max(axis=1)[after])
        error = found.reward + self.config.discount * future - values[cell, experience.action]
        place = (cell.reshape(-1), experience.action.reshape(-1))
        total = jnp.zeros_like(values).at[place].add(error.reshape(-1))
        visits = jnp.zeros_like(values).at[place].add(1.0)
        if self.axis is not None:
            total, visits = lax.psum((total, visits), self.axis)
        updates = updates + (visits > 0)
        rate = (horizon + 1.0) / (horizon + jnp.maximum(updates, 1.0))
        values = values + rate * total / jnp.maximum(visits, 1.0)
        return net.replace(params={"values": values}, opt={"updates": updates}), error

    @property
    def _floor(self) -> np.ndarray:
        return ~self.environment.ends & (self.environment.letters != "#")

    def _policy_values(self, policy: Array) -> Array:
        """V of a deterministic policy [S], as exact as γ^k / (1 - γ) < 1e-6 makes it after k sweeps."""
        probability, rewards = (jnp.asarray(array, jnp.float32) for array in self.environment.transitions())
        states, discount = jnp.arange(policy.shape[0]), self.config.discount
        moves = jnp.where(jnp.asarray(self.environment.ends)[:, None], 0.0, probability[states, policy])
        sweeps = int(np.ceil(np.log(1e-6 * (1 - discount)) / np.log(discount))) if discount > 0 else 1
        gains = rewards[states, policy]
        return lax.fori_loop(0, sweeps, lambda _, v: gains + discount * moves @ v, jnp.zeros_like(gains))
