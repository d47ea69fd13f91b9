"""The same training in scikit-learn and Stable-Baselines3."""

from collections.abc import Callable
from typing import Any

import numpy as np


def missing(package: str) -> str:
    """Why a package cannot be measured here; "" if it can."""
    import importlib.util

    return "" if importlib.util.find_spec(package) else f"{package} is not installed (pip install -e '.[oracles]')"


class Machine:
    """scikit-learn's BernoulliRBM: persistent contrastive divergence, one round of Gibbs sampling an update.

    Args:
      images: uint8 [n, ...], thresholded at one half.
      hidden: units.
      batch: rows of a batch.
      learning_rate: of each update.
    """

    def __init__(self, images: np.ndarray, hidden: int, batch: int, learning_rate: float):
        from sklearn.neural_network import BernoulliRBM

        self.images, self.batch = (images.reshape(len(images), -1) > 127).astype(np.float32), batch
        self.machine = BernoulliRBM(hidden, learning_rate=learning_rate, batch_size=batch, n_iter=1, random_state=0)

    def fit(self, steps: int) -> None:
        """`steps` updates in calls of `fit`, which draws the first weights too: 4 ms for 784 x 500."""
        limit = len(self.images) // self.batch
        while steps > 0:
            count = min(steps, limit)
            self.machine.fit(self.images[: count * self.batch])
            steps -= count

    def partial_fit(self, steps: int) -> None:
        """`steps` updates, each a call of `partial_fit`."""
        for step in range(steps):
            first = step * self.batch % (len(self.images) - self.batch + 1)
            self.machine.partial_fit(self.images[first : first + self.batch])


class Agent:
    """Stable-Baselines3 on CartPole-v1 in its fastest vectorised environment for so cheap a game, in one process.

    Args:
      make: environments -> the algorithm.
      environments: how many.
      items: environment steps of one step of ours.
      threads: of PyTorch.
    """

    def __init__(self, make: Callable[[Any], Any], environments: int, items: int, threads: int):
        from stable_baselines3.common.env_util import make_vec_env

        self.model, self.items, self.threads = make(make_vec_env("CartPole-v1", environments, seed=0)), items, threads

    def __call__(self, steps: int) -> None:
        """As many environment steps as `steps` of ours, with their updates."""
        import torch

        torch.set_num_threads(self.threads)
        self.model.learn(steps * self.items, log_interval=None, reset_num_timesteps=False)


def ppo(config: Any) -> Callable[[Any], Any]:
    """PPO with the settings of recipe `cartpole_ppo`; minibatches are a shuffle of all steps instead of stretches of time."""
    agent, optimizer = config.agent, config.optimizer
    rows = config.train.batch_size * agent.rollout // agent.minibatches

    def make(environments: Any) -> Any:
        from stable_baselines3 import PPO

        return PPO(
            "MlpPolicy",
            environments,
            learning_rate=optimizer.learning_rate,
            n_steps=agent.rollout,
            batch_size=rows,
            n_epochs=agent.epochs,
            gamma=agent.discount,
            gae_lambda=agent.trace,
            clip_range=agent.clip,
            ent_coef=agent.entropy,
            vf_coef=agent.value_weight,
            max_grad_norm=optimizer.clip_norm,
            policy_kwargs={"net_arch": list(config.model.features)},
            device="cpu",
            seed=0,
        )

    return make


def dqn(config: Any) -> Callable[[Any], Any]:
    """DQN with the settings of recipe `cartpole_dqn`; it has no double Q-learning, which is less work."""
    agent, optimizer, count = config.agent, config.optimizer, config.train.batch_size

    def make(environments: Any) -> Any:
        from stable_baselines3 import DQN

        return DQN(
            "MlpPolicy",
            environments,
            learning_rate=optimizer.learning_rate,
            buffer_size=agent.capacity,
            learning_starts=agent.warmup,
            batch_size=agent.batch_size,
            gamma=agent.discount,
            train_freq=agent.rollout,
            gradient_steps=agent.updates,
            n_steps=agent.n_step,
            target_update_interval=agent.target_every * agent.rollout * count,
            exploration_fraction=agent.exploration,
            exploration_final_eps=agent.epsilon,
            max_grad_norm=optimizer.clip_norm,
            policy_kwargs={"net_arch": list(config.model.features)},
            device="cpu",
            seed=0,
        )

    return make
