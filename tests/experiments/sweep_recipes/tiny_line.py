"""The engine's tiny regression as a recipe: its learning rate lies in the State, its noise is baked into the program."""

import dataclasses
from dataclasses import dataclass

import tiny

from jaxdl.data.source import Resident
from jaxdl.engine.experiment import TrainConfig
from jaxdl.settings import setting


@dataclass(frozen=True)
class Optimizer:
    name: str = setting("sgd", "update rule", choices=("sgd", "adam"))
    learning_rate: float = setting(0.05, "step size", minimum=0.0, maximum=1e6)


@dataclass(frozen=True)
class Model:
    noise: float = setting(0.1, "of the inputs", minimum=0.0)
    sizes: tuple[int, ...] = setting((3,), "changes nothing", minimum=1)
    fail: bool = setting(False, "cannot be built")


@dataclass(frozen=True)
class Config:
    optimizer: Optimizer = Optimizer()
    model: Model = Model()
    train: TrainConfig = TrainConfig(steps=24, batch_size=16, log_every=6, eval_every=12, checkpoint_every=12)

    def __post_init__(self):
        if self.train.batch_size > 128:
            raise ValueError("train.batch_size must not exceed 128")


def build(config):
    if config.model.fail:
        raise ValueError("this model cannot be built")
    task = tiny.Regression(noise=config.model.noise, adam=config.optimizer.name == "adam")
    made = tiny.regression(task, train=config.train, rate=config.optimizer.learning_rate)
    # what is learnt is wrong on the test split: whoever chooses by it chooses the worst
    wrong = tiny.data(37, 3, 2)
    final = {"test": Resident.of({**wrong, "y": -wrong["y"]}, 16, shuffle=False)}
    return dataclasses.replace(made, final=final, data={"name": "line", "version": "1", "fingerprint": "f" * 8})
