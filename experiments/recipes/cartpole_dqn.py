"""DQN balances a pole on a cart (CartPole-v1) from replayed experience.

Mnih et al.: Human-level control through deep reinforcement learning, 2015, with double Q-learning and n-step targets.

    python -m experiments.train --recipe=cartpole_dqn --seeds=5
"""

from dataclasses import dataclass

from experiments.agents import EnvironmentConfig, NetworkConfig, dqn_experiment
from jaxdl.engine.experiment import Experiment, TrainConfig
from jaxdl.optimizers import OptimizerConfig
from jaxdl.rl.dqn import DQNConfig

# a second thread is woken for products of 10 us, and waited for
THREADS = 1


@dataclass(frozen=True)
class Config:
    """Everything that can change the result."""

    environment: EnvironmentConfig = EnvironmentConfig()
    agent: DQNConfig = DQNConfig(rollout=2, updates=2, n_step=10, target_every=100, epsilon=0.1)
    model: NetworkConfig = NetworkConfig(features=(128, 128), activation="relu")
    optimizer: OptimizerConfig = OptimizerConfig(name="adam", learning_rate=5e-4, clip_norm=10.0, schedule="linear")
    train: TrainConfig = TrainConfig(
        steps=15000, batch_size=8, eval_batch_size=100, log_every=250, eval_every=500, checkpoint_every=5000
    )


def build(config: Config) -> Experiment:
    """The experiment."""
    return dqn_experiment(config)
