"""PPO balances a pole on a cart (CartPole-v1); 500 is the most an episode can give.

Schulman et al.: Proximal policy optimization algorithms, 2017. Environment: jaxdl/rl/cartpole.py.

    python -m experiments.train --recipe=cartpole_ppo --seeds=5
"""

from dataclasses import dataclass

from experiments.agents import EnvironmentConfig, NetworkConfig, ppo_experiment
from jaxdl.engine.experiment import Experiment, TrainConfig
from jaxdl.optimizers import OptimizerConfig
from jaxdl.rl.ppo import PPOConfig

# a second thread is woken for products of 10 us, and waited for
THREADS = 1


@dataclass(frozen=True)
class Config:
    """Everything that can change the result."""

    environment: EnvironmentConfig = EnvironmentConfig()
    agent: PPOConfig = PPOConfig(rollout=64, epochs=4, minibatches=4)
    model: NetworkConfig = NetworkConfig()
    optimizer: OptimizerConfig = OptimizerConfig(
        name="adam", learning_rate=2e-3, epsilon=1e-5, clip_norm=0.5, schedule="linear"
    )
    train: TrainConfig = TrainConfig(
        steps=240, batch_size=16, eval_batch_size=100, log_every=5, eval_every=20, checkpoint_every=120
    )


def build(config: Config) -> Experiment:
    """The experiment."""
    return ppo_experiment(config)
