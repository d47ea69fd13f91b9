"""Multinomial logistic regression on MNIST: the linear baseline.

    python -m experiments.train --recipe=logistic_mnist

Published: 7.489 % test error (Theano deep-learning tutorials). Measured here: the README's table of recipes.
"""

from dataclasses import dataclass

from experiments.images import LossConfig, classification
from jaxdl.data.augment import AugmentConfig
from jaxdl.data.datasets import DataConfig
from jaxdl.engine.experiment import Experiment, TrainConfig
from jaxdl.optimizers import OptimizerConfig


@dataclass(frozen=True)
class Config:
    """Everything that can change the result."""

    data: DataConfig = DataConfig(name="mnist")
    augment: AugmentConfig = AugmentConfig()
    optimizer: OptimizerConfig = OptimizerConfig(name="adam", learning_rate=1e-3, schedule="cosine")
    loss: LossConfig = LossConfig()
    train: TrainConfig = TrainConfig(steps=8000, batch_size=250, eval_every=400, log_every=100, checkpoint_every=2000)


def build(config: Config) -> Experiment:
    """The experiment."""
    from jaxdl.models.mlp import MLP

    return classification(config, lambda classes: MLP(features=(), num_classes=classes))
