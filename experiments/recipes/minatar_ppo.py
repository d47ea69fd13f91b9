"""PPO plays MinAtar's small Atari games, Breakout unless a variant says another; needs the extra [rl].

Young & Tian: MinAtar, an Atari-inspired testbed for thorough and reproducible reinforcement learning experiments, 2019,
in gymnax's JAX version: 10×10 binary images, one channel for each kind of object. It differs from the original: no
sticky actions (there: the last action is repeated with probability 0.1), the minimal set of actions, and a time limit
of 1000 steps (Freeway 2500). Breakout gives 1 for each brick and 30 bricks a wall; it has no ramp of difficulty.

    pip install -e '.[rl]'
    python -m experiments.train --recipe=minatar_ppo:breakout         # bricks, a paddle and a ball
    python -m experiments.train --recipe=minatar_ppo:asterix          # collect treasure, avoid enemies
    python -m experiments.train --recipe=minatar_ppo:freeway          # cross a road of ten lanes
    python -m experiments.train --recipe=minatar_ppo:seaquest         # a submarine with divers and oxygen
    python -m experiments.train --recipe=minatar_ppo:space_invaders   # aliens that advance row by row
"""

import dataclasses
from dataclasses import dataclass

from experiments.agents import EnvironmentConfig, NetworkConfig, ppo_experiment
from jaxdl.engine.experiment import Experiment, TrainConfig
from jaxdl.optimizers import OptimizerConfig
from jaxdl.rl.ppo import PPOConfig


@dataclass(frozen=True)
class Config:
    """Everything that can change the result."""

    environment: EnvironmentConfig = EnvironmentConfig(name="breakout")
    agent: PPOConfig = PPOConfig(rollout=128, epochs=4, minibatches=8, entropy=0.03)
    model: NetworkConfig = NetworkConfig(features=(64, 64), activation="relu")
    optimizer: OptimizerConfig = OptimizerConfig(
        name="adam", learning_rate=3e-3, epsilon=1e-5, clip_norm=0.5, schedule="linear"
    )
    train: TrainConfig = TrainConfig(
        steps=244, batch_size=64, eval_batch_size=100, log_every=4, eval_every=20, checkpoint_every=122
    )


def _variant(name: str) -> Config:
    return dataclasses.replace(Config(), environment=EnvironmentConfig(name=name))


VARIANTS = {
    "breakout": _variant("breakout"),
    "asterix": _variant("asterix"),
    "freeway": _variant("freeway"),
    "seaquest": _variant("seaquest"),
    "space_invaders": _variant("space_invaders"),
}


def build(config: Config) -> Experiment:
    """The experiment."""
    return ppo_experiment(config)
