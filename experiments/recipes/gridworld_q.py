"""Tabular Q-learning finds the shortest safe way through a grid of rooms on whose floor it slips.

Watkins & Dayan: Q-learning, Machine Learning 1992. The world's transition table is known, so the report and the metrics
"regret" and "value_error" compare with the optimum by value iteration.

    python -m experiments.train --recipe=gridworld_q
    python -m experiments.train --recipe=gridworld_q --environment.map=cliff --environment.slip=0.2

Expected: regret 0, the greedy policy's value is the optimum's.
"""

from dataclasses import dataclass

from experiments.agents import agent_experiment
from jaxdl.engine.experiment import Experiment, TrainConfig
from jaxdl.rl.q_learning import QLearning, QLearningConfig
from jaxdl.settings import setting


@dataclass(frozen=True)
class GridConfig:
    """The world."""

    name: str = setting("gridworld", "the environment", choices=("gridworld",))
    map: str = setting("rooms", "its walls, pits and goal", choices=("rooms", "cliff", "russell"))
    slip: float = setting(0.1, "probability of a step at a right angle", minimum=0.0, maximum=1.0)
    step_reward: float = setting(-0.01, "reward of a step that ends nothing")
    time_limit: int = setting(100, "steps of the longest episode", minimum=1)
    random_start: bool = setting(True, "training begins anywhere on the floor; episodes that judge begin at the start")


@dataclass(frozen=True)
class Config:
    """Everything that can change the result."""

    environment: GridConfig = GridConfig()
    agent: QLearningConfig = QLearningConfig()
    train: TrainConfig = TrainConfig(
        steps=4000, batch_size=64, eval_batch_size=100, log_every=100, eval_every=200, checkpoint_every=2000
    )


def build(config: Config) -> Experiment:
    """The experiment; `train.batch_size` is the number of environments."""
    import dataclasses

    from jaxdl.rl.gridworld import MAPS, GridWorld

    grid = config.environment
    judged = GridWorld(MAPS[grid.map], grid.slip, grid.step_reward, grid.time_limit)
    training = dataclasses.replace(judged, random_start=grid.random_start)
    task = QLearning(judged, training, config.agent, config.train.batch_size)
    return agent_experiment(config, task, objective=("validation/regret", "min"))
