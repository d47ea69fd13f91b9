"""Deep Q-networks: ε-greedy acting, a replay memory, n-step double Q-learning, a target network.

Mnih et al.: Human-level control through deep reinforcement learning, 2015; van Hasselt, Guez, Silver: Deep
reinforcement learning with double Q-learning, 2016; n-step targets as in Hessel et al.: Rainbow, 2018.

Shapes: `B` environments (of this device), `K` steps of each between two iterations, `U` updates of an iteration, `m`
windows that each environment's ring gives to an update, `n` steps of a window.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import optax
from jax import lax

from jaxdl.engine.experiment import Metrics, Serving
from jaxdl.engine.state import Mean, Net, State
from jaxdl.rl.environment import Environment, for_training, row_keys
from jaxdl.rl.replay import Ring, draw_windows, empty_ring, insert
from jaxdl.rl.returns import n_step, q_target
from jaxdl.rl.rollout import first_states, greedy_metrics, play, record, rollout, serving
from jaxdl.settings import setting

Array = jax.Array
NET = "agent"


@dataclass(frozen=True)
class DQNConfig:
    """Deep Q-learning."""

    rollout: int = setting(4, "steps of each environment in one iteration", minimum=1)
    updates: int = setting(4, "updates in one iteration", minimum=1)
    batch_size: int = setting(64, "windows in one update; a multiple of the environments", minimum=1)
    capacity: int = setting(65536, "steps that the replay memory holds, over all environments", minimum=1)
    replay_dtype: str = setting(
        "float32", "of observations in the memory; uint8 for binary images", choices=("float32", "uint8")
    )
    warmup: int = setting(1024, "environment steps before the first update", minimum=0)
    n_step: int = setting(1, "steps of the target before the network's value", minimum=1)
    double: bool = setting(True, "the online network picks the target's action")
    loss: str = setting("huber", "of the error", choices=("huber", "mse"))
    target_every: int = setting(16, "iterations between two copies to the target network", minimum=1)
    discount: float = setting(0.99, "discount of rewards", minimum=0.0, maximum=1.0)
    epsilon: float = setting(0.05, "share of random actions after the exploration", minimum=0.0, maximum=1.0)
    exploration: float = setting(0.2, "share of the run in which it falls from 1 to epsilon", minimum=0.0, maximum=1.0)
    dueling: bool = setting(False, "network with a state value and advantages")

    def hyper(self) -> dict[str, float]:
        """What a sweep may vary without compiling anew."""
        return {"discount": self.discount, "epsilon": self.epsilon}


@dataclass(frozen=True)
class DQN:
    """A Task without batches: one step is K steps of all environments and U updates.

    Attributes:
      environment: what is acted in.
      network: observations [B, *O] -> values [B, A].
      optimizer: from `jaxdl.optimizers.make_optimizer`, for steps · U updates.
      config: see DQNConfig.
      environments: B over all devices.
      total_steps: iterations of the run, for the exploration's schedule.
      axis: pmap's axis name, set by the engine.
    """

    environment: Environment
    network: nn.Module
    optimizer: optax.GradientTransformationExtraArgs
    config: DQNConfig
    environments: int
    total_steps: int
    axis: str | None = None

    def __post_init__(self):
        config = self.config
        if config.batch_size % self.environments:
            raise ValueError(f"batch_size={config.batch_size} is no multiple of {self.environments} environments")
        if self.ring_size < config.rollout + config.n_step:
            raise ValueError(f"capacity={config.capacity} is too small for {self.environments} environments")

    @property
    def items_per_step(self) -> int:
        """Environment steps of one iteration."""
        return self.environments * self.config.rollout

    @property
    def ring_size(self) -> int:
        """Steps that one environment's ring holds: its share of the capacity, in whole rollouts."""
        return self.config.capacity // self.items_per_step * self.config.rollout

    def init(self, key: Array, hyper: Mapping[str, Array]) -> State:
        """Parameters, environments and an empty memory; see `Task.init`."""
        network_key, environment_key = jax.random.split(key)
        shape = self.environment.observation_shape
        params = self.network.init(network_key, jnp.zeros((2, *shape)))["params"]
        local = first_states(for_training(self.environment), environment_key, self.environments)
        local["replay"] = empty_ring(self.environments, self.ring_size, shape, jnp.dtype(self.config.replay_dtype))
        return State(
            step=jnp.int32(0),
            nets={NET: Net(params=params, opt=self.optimizer.init(params))},
            local=local,
            hyper=dict(hyper),
            extra={"target": jax.tree.map(jnp.copy, params)},
        )

    def step(self, state: State, batch: Any, key: Array) -> tuple[State, Metrics]:
        """One iteration; `key` is used for exploration, the environments and which windows are replayed."""
        del batch
        noise_key, chance_key, draw_key = jax.random.split(key, 3)
        net, local, config = state.nets[NET], state.local, self.config
        rows = local["row"]
        epsilon = self.exploration(state.step, state.hyper["epsilon"])
        states, experience = self._act(net.params, local, epsilon, noise_key, row_keys(chance_key, rows))
        ring = insert(local["replay"], experience, state.step * config.rollout)
        inserted = (state.step + 1) * config.rollout
        # state.step is one number for all seeds, also where they are vmapped: a real branch, not a select
        needed = max(config.warmup, self.environments * (config.n_step + config.rollout))
        net, metrics = lax.cond(
            inserted * self.environments >= needed,
            lambda net: self._update(net, state.extra["target"], ring, inserted, row_keys(draw_key, rows), state.hyper),
            lambda net: (net, {name: Mean(jnp.float32(0), jnp.float32(0)) for name in ("loss", "value")}),
            net,
        )
        copy = (state.step + 1) % config.target_every == 0
        target = jax.tree.map(lambda new, old: jnp.where(copy, new, old), net.params, state.extra["target"])
        local = {"environment": states, "row": rows, "replay": ring}
        state = state.replace(nets={NET: net}, local=local, extra={"target": target})
        return state, metrics | {"epsilon": Mean.of(epsilon)} | experience.episodes()

    def evaluate(self, state: State, batch: Any, key: Array) -> tuple[State, Metrics]:
        """One greedy episode a row, in environments of its own."""
        return state, greedy_metrics(self.environment, self._greedy(state), batch, key)

    def for_evaluation(self, state: State) -> State:
        """Without environments and memory."""
        return state.replace(local=())

    def predict(self, state: State, batch: Any) -> dict[str, Array]:
        """{"return", "length"} [B] of one greedy episode a row."""
        total, length = play(self.environment, self._greedy(state), row_keys(jax.random.key(0), batch["row"]))
        return {"return": total, "length": length}

    def serving(self) -> Serving:
        """{"observation" [B, *O]} -> {"values" [B, A]}; see `Task`."""

        def values(state: State, observations: Array) -> dict[str, Array]:
            return {"values": self._values(state.nets[NET].params, observations)}

        return serving(self.environment, values)

    def replay(self, state: State, batch: Any, steps: int) -> dict[str, Array]:
        """The first `steps` steps of the episodes of `predict`; see `record`."""
        return record(self.environment, self._greedy(state), row_keys(jax.random.key(0), batch["row"]), steps)

    def exploration(self, step: Array, epsilon: Array) -> Array:
        """Share of random actions in iteration `step`: linear from 1 to `epsilon`, then constant."""
        span = max(1.0, self.config.exploration * self.total_steps)
        return 1.0 - (1.0 - epsilon) * jnp.minimum(step.astype(jnp.float32) / span, 1.0)

    # --- one iteration ----------------------------------------------------------------------------------------------

    def _greedy(self, state: State):
        params = state.nets[NET].params
        return lambda observations: self._values(params, observations).argmax(axis=-1)

    def _values(self, params, observations: Array) -> Array:
        values: Any = self.network.apply({"params": params}, observations.astype(jnp.float32))
        return values

    def _pmean(self, tree):
        return tree if self.axis is None else lax.pmean(tree, self.axis)

    def _act(self, params, local, epsilon: Array, key: Array, keys: Array):
        steps, actions = self.config.rollout, self.environment.num_actions

        def draw(key):
            explore_key, action_key = jax.random.split(key)
            return jax.random.uniform(explore_key, (steps,)), jax.random.randint(action_key, (steps,), 0, actions)

        draws = jax.vmap(draw, out_axes=1)(row_keys(key, local["row"]))

        def act(observations, noise):
            uniform, action = noise
            return jnp.where(uniform < epsilon, action, self._values(params, observations).argmax(axis=-1)), ()

        return rollout(for_training(self.environment), local["environment"], act, draws, keys)

    def _update(self, net: Net, target, ring: Ring, inserted: Array, keys: Array, hyper) -> tuple[Net, Metrics]:
        """U updates, each on m windows of every environment."""
        config = self.config
        count = config.batch_size // self.environments

        def draw(key):
            places = draw_windows(key, inserted, self.ring_size, config.n_step, config.updates * count)
            return places.reshape(config.updates, count, config.n_step)

        def body(net, places):
            replayed = jax.vmap(lambda ring, places: self._replayed(ring, places, hyper))(ring, places)
            replayed = jax.tree.map(lambda leaf: leaf.reshape(-1, *leaf.shape[2:]), replayed)
            (_, found), grads = jax.value_and_grad(self._loss, has_aux=True)(net.params, target, *replayed)
            updates, opt = self.optimizer.update(self._pmean(grads), net.opt, net.params, hyper=hyper)
            return net.replace(params=optax.apply_updates(net.params, updates), opt=opt), found

        net, found = lax.scan(body, net, jax.vmap(draw, out_axes=1)(keys))
        return net, {name: Mean.of(values) for name, values in found.items()}

    def _replayed(self, ring: Ring, places: Array, hyper):
        """(observation, action, return, future discount, next observation) [m, ...] of windows [m, n] of one ring."""
        windows = places.T
        total, future, last = n_step(
            ring.reward[windows], ring.terminated[windows], ring.done[windows], hyper["discount"]
        )
        end = jnp.take_along_axis(places, last[:, None], axis=1)[:, 0]
        return ring.observation[places[:, 0]], ring.action[places[:, 0]], total, future, ring.next_observation[end]

    def _loss(self, params, target, observation, action, total, future, next_observation):
        next_q = self._values(target, next_observation)
        chooser = self._values(params, next_observation) if self.config.double else next_q
        wanted = lax.stop_gradient(q_target(total, future, next_q, chooser))
        q = jnp.take_along_axis(self._values(params, observation), action[:, None], axis=1)[:, 0]
        loss = optax.huber_loss(q, wanted) if self.config.loss == "huber" else 0.5 * jnp.square(q - wanted)
        return loss.mean(), {"loss": loss.mean(), "value": q.mean()}
