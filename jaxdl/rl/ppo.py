"""Proximal policy optimisation: a rollout of all environments, then a few epochs over it.

Schulman et al.: Proximal policy optimization algorithms, 2017; details after Huang et al.: The 37 implementation details
of PPO, 2022. Minibatches are stretches of time of all environments, not a shuffle over both: so each device has its part
of every minibatch, and one device and many compute the same.

Shapes: `B` environments (of this device), `T` steps of a rollout, `M` minibatches, `N` = T / M · B rows of a minibatch.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import optax
from jax import lax

from jaxdl.engine.experiment import Metrics, Serving
from jaxdl.engine.state import Mean, Net, State
from jaxdl.nn.noise import permutation, row_gumbel, split
from jaxdl.rl.environment import Environment, for_training, row_keys
from jaxdl.rl.returns import generalized_advantages
from jaxdl.rl.rollout import Experience, first_states, greedy_metrics, play, record, rollout, serving
from jaxdl.settings import setting
from jaxdl.target import target_platform

Array = jax.Array
NET = "agent"
LOSSES = ("loss", "policy_loss", "value_loss", "entropy", "clipped", "kl")


@dataclass(frozen=True)
class PPOConfig:
    """Proximal policy optimisation."""

    rollout: int = setting(128, "steps of each environment between two updates", minimum=1)
    epochs: int = setting(4, "passes over a rollout", minimum=1)
    minibatches: int = setting(4, "updates in one pass; divides rollout", minimum=1)
    discount: float = setting(0.99, "discount of rewards", minimum=0.0, maximum=1.0)
    trace: float = setting(0.95, "lambda of the advantages: 0 one step, 1 Monte Carlo", minimum=0.0, maximum=1.0)
    clip: float = setting(0.2, "how far the probability ratio may leave 1", minimum=0.0)
    entropy: float = setting(0.0, "weight of the entropy bonus", minimum=0.0)
    value_weight: float = setting(0.5, "weight of the value loss", minimum=0.0)

    def hyper(self) -> dict[str, float]:
        """What a sweep may vary without compiling anew."""
        names = ("discount", "trace", "clip", "entropy", "value_weight")
        return {name: getattr(self, name) for name in names}


class Rollout(NamedTuple):
    """A rollout as the updates read it, [B, T, ...]: environments first, so that devices keep their own."""

    observation: Array
    action: Array
    log_probability: Array
    advantage: Array
    target: Array


def clipped_objective(log_ratio: Array, advantage: Array, clip: Array | float) -> Array:
    """min(ρ A, clip(ρ, 1 - ε, 1 + ε) A) with ρ = exp(log_ratio), [N]: eq. 7 of Schulman et al. 2017, to be maximised."""
    ratio = jnp.exp(log_ratio)
    return jnp.minimum(ratio * advantage, jnp.clip(ratio, 1.0 - clip, 1.0 + clip) * advantage)


@dataclass(frozen=True)
class PPO:
    """A Task without batches: one step is a rollout and `epochs` · `minibatches` updates.

    Attributes:
      environment: what is acted in.
      network: observations [B, *O] -> (logits [B, A], values [B]).
      optimizer: from `jaxdl.optimizers.make_optimizer`, for steps · epochs · minibatches updates.
      config: see PPOConfig.
      environments: B over all devices.
      axis: pmap's axis name, set by the engine.
    """

    environment: Environment
    network: nn.Module
    optimizer: optax.GradientTransformationExtraArgs
    config: PPOConfig
    environments: int
    axis: str | None = None

    def __post_init__(self):
        if self.config.rollout % self.config.minibatches:
            raise ValueError(f"minibatches={self.config.minibatches} must divide rollout={self.config.rollout}")

    @property
    def items_per_step(self) -> int:
        """Environment steps of one update."""
        return self.environments * self.config.rollout

    def init(self, key: Array, hyper: Mapping[str, Array]) -> State:
        """Parameters and environments; see `Task.init`."""
        network_key, environment_key = jax.random.split(key)
        example = jnp.zeros((2, *self.environment.observation_shape))
        params = self.network.init(network_key, example)["params"]
        return State(
            step=jnp.int32(0),
            nets={NET: Net(params=params, opt=self.optimizer.init(params))},
            local=first_states(for_training(self.environment), environment_key, self.environments),
            hyper=dict(hyper),
        )

    def step(self, state: State, batch: Any, key: Array) -> tuple[State, Metrics]:
        """One rollout and its updates; `key` is used for actions, the environments and the order of minibatches."""
        del batch
        noise_key, chance_key, order_key = jax.random.split(key, 3)
        net, rows = state.nets[NET], state.local["row"]
        states, experience = self._act(net.params, state.local, noise_key, row_keys(chance_key, rows))
        data = self._prepare(net.params, experience, states.observation, state.hyper)
        net, losses = self._update(net, data, order_key, state.hyper)
        state = state.replace(nets={NET: net}, local={"environment": states, "row": rows})
        return state, losses | experience.episodes()

    def evaluate(self, state: State, batch: Any, key: Array) -> tuple[State, Metrics]:
        """One greedy episode a row, in environments of its own."""
        return state, greedy_metrics(self.environment, self._greedy(state), batch, key)

    def for_evaluation(self, state: State) -> State:
        """Without the environments of training."""
        return state.replace(local=())

    def predict(self, state: State, batch: Any) -> dict[str, Array]:
        """{"return", "length"} [B] of one greedy episode a row."""
        total, length = play(self.environment, self._greedy(state), row_keys(jax.random.key(0), batch["row"]))
        return {"return": total, "length": length}

    def serving(self) -> Serving:
        """{"observation" [B, *O]} -> {"logits" [B, A], "value" [B]}; see `Task`."""

        def policy(state: State, observations: Array) -> dict[str, Array]:
            logits, value = self._apply(state.nets[NET].params, observations)
            return {"logits": logits, "value": value}

        return serving(self.environment, policy)

    def replay(self, state: State, batch: Any, steps: int) -> dict[str, Array]:
        """The first `steps` steps of the episodes of `predict`; see `record`."""
        return record(self.environment, self._greedy(state), row_keys(jax.random.key(0), batch["row"]), steps)

    # --- one iteration ----------------------------------------------------------------------------------------------

    def _greedy(self, state: State):
        params = state.nets[NET].params
        return lambda observations: self._apply(params, observations)[0].argmax(axis=-1)

    def _apply(self, params, observations: Array) -> tuple[Array, Array]:
        found: Any = self.network.apply({"params": params}, observations)
        return found

    def _pmean(self, tree):
        return tree if self.axis is None else lax.pmean(tree, self.axis)

    def _act(self, params, local, key: Array, keys: Array):
        """A rollout with actions argmax_a (logit_a + Gumbel noise), which is a draw from the softmax; keeps the logits."""
        shape = (self.config.rollout, self.environment.num_actions)
        draws = row_gumbel(row_keys(key, local["row"]), shape)

        def act(observations, noise):
            logits = self._apply(params, observations)[0]
            return (logits + noise).argmax(axis=-1), logits

        environment = for_training(self.environment)
        return rollout(environment, local["environment"], act, jnp.swapaxes(draws, 0, 1), keys)

    def _prepare(self, params, experience: Experience, last: Array, hyper) -> Rollout:
        """Old log-probabilities, advantages and value targets of a rollout; `last` [B, *O] is what is seen after it."""
        found = experience.found

        def values_of(observations):  # [*, B, *O] -> [*, B]
            return self._apply(params, observations.reshape(-1, *last.shape[1:]))[1].reshape(observations.shape[:2])

        # where an episode ends, the next observation is not the one that it led to; only a time limit asks for its value
        cut = found.truncated & ~found.terminated
        first_cut = jnp.take_along_axis(found.observation, _as_index(cut.argmax(axis=0), found.observation), axis=0)
        values = values_of(jnp.concatenate([experience.observation, last[None], first_cut]))
        # an accelerator's seeds are batched, where both branches would run
        often = (cut.sum(axis=0) > 1).any() if target_platform() == "cpu" else jnp.bool_(True)
        ends = lax.cond(often, lambda: values_of(found.observation), lambda: jnp.broadcast_to(values[-1], cut.shape))
        values, next_values = values[:-2], jnp.where(found.done, ends, values[1:-1])
        advantage = generalized_advantages(found, values, next_values, hyper["discount"], hyper["trace"])
        log_probability = log_probability_of(experience.kept, experience.action)
        data = Rollout(experience.observation, experience.action, log_probability, advantage, advantage + values)
        return jax.tree.map(lambda leaf: jnp.swapaxes(leaf, 0, 1), data)

    def _update(self, net: Net, data: Rollout, key: Array, hyper) -> tuple[Net, Metrics]:
        """`epochs` passes over the rollout, each in a new order of time."""
        config = self.config

        orders = permutation(split(key, config.epochs), config.rollout)
        times = orders.reshape(config.epochs * config.minibatches, -1)

        def body(net, times):
            part = jax.tree.map(lambda leaf: leaf[:, times].reshape(-1, *leaf.shape[2:]), data)
            (_, losses), grads = jax.value_and_grad(self._loss, has_aux=True)(net.params, part, hyper)
            updates, opt = self.optimizer.update(self._pmean(grads), net.opt, net.params, hyper=hyper)
            return net.replace(params=optax.apply_updates(net.params, updates), opt=opt), losses

        net, losses = lax.scan(body, net, times)
        return net, {name: Mean.of(values) for name, values in losses.items()}

    def _loss(self, params, part: Rollout, hyper) -> tuple[Array, dict[str, Array]]:
        """-objective + value_weight · ½ squared error - entropy · H, means over the minibatch."""
        logits, values = self._apply(params, part.observation)
        # moments over the whole minibatch, whatever part of it this device holds
        mean = self._pmean(part.advantage.mean())
        deviation = jnp.sqrt(self._pmean(jnp.square(part.advantage - mean).mean()))
        advantage = (part.advantage - mean) / (deviation + 1e-8)
        log_ratio = log_probability_of(logits, part.action) - part.log_probability
        policy_loss = -clipped_objective(log_ratio, advantage, hyper["clip"]).mean()
        value_loss = 0.5 * jnp.square(values - part.target).mean()
        log_p = jax.nn.log_softmax(logits)
        entropy = -(jnp.exp(log_p) * log_p).sum(axis=-1).mean()
        loss = policy_loss + hyper["value_weight"] * value_loss - hyper["entropy"] * entropy
        clipped = (jnp.abs(jnp.exp(log_ratio) - 1.0) > hyper["clip"]).astype(jnp.float32).mean()
        kl = (jnp.expm1(log_ratio) - log_ratio).mean()
        return loss, dict(zip(LOSSES, (loss, policy_loss, value_loss, entropy, clipped, kl), strict=True))


def _as_index(times: Array, leaf: Array) -> Array:
    """`times` [B] for `jnp.take_along_axis` over the first axis of `leaf` [T, B, ...]."""
    return times.reshape(1, -1, *(1,) * (leaf.ndim - 2))


def log_probability_of(logits: Array, action: Array) -> Array:
    """Log softmax [...] of `logits` [..., A] at `action` [...]."""
    # a sum, because a gather's gradient is a slow scatter
    chosen = action[..., None] == jnp.arange(logits.shape[-1])
    return jnp.where(chosen, jax.nn.log_softmax(logits), 0.0).sum(axis=-1)
