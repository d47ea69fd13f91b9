"""A line through points.

Longer text that --recipe=list must not show.
"""

import dataclasses
from dataclasses import dataclass, field

from jaxdl.settings import setting


@dataclass(frozen=True)
class Optimizer:
    """How parameters are updated."""

    name: str = setting("adam", "update rule", choices=("sgd", "momentum", "adam"))
    learning_rate: float = setting(1e-3, "peak learning rate", minimum=0.0)
    nesterov: bool = setting(False, "look ahead along the momentum")
    clip_norm: float | None = setting(None, "largest global norm of a gradient", minimum=0.0)
    temperature: float = setting(float("inf"), "a value that may be infinite")


@dataclass(frozen=True)
class Model:
    features: tuple[int, ...] = setting((64, 64), "width of each hidden layer", minimum=1)
    rates: tuple[float, ...] = setting((0.5,), "dropout of each hidden layer", minimum=0.0, maximum=1.0)
    layers: tuple[str, ...] = setting(("dense",), "kinds of layers", choices=("dense", "conv"))


@dataclass(frozen=True)
class Train:
    """How long to train."""

    steps: int = setting(100, "updates to make", minimum=1)
    warmup_steps: int = setting(0, "updates during which the learning rate rises", minimum=0)


@dataclass(frozen=True)
class Config:
    note: str = setting("", "free text")
    optimizer: Optimizer = field(default_factory=Optimizer)
    model: Model = field(default_factory=Model)
    train: Train = field(default_factory=Train)

    def __post_init__(self):
        if self.train.warmup_steps > self.train.steps:
            raise ValueError("train.warmup_steps must not exceed train.steps")


def long() -> Config:
    return dataclasses.replace(Config(), train=Train(steps=9000))


VARIANTS = {"wide": Config(model=Model(features=(512,))), "long": long}


def build(config: Config) -> Config:
    return config
