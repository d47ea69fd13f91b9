"""Logistic PCA with a linear encoder: codes by one matrix, pixels by logistic units, trained by cross entropy.

Hinton, Salakhutdinov: Reducing the dimensionality of data with neural networks, Science 2006, where "logistic PCA" is
one of the yardsticks. Codes come from the encoder; codes optimised for each test image would give far smaller errors.

    python -m experiments.train --recipe=logistic_ae         # 8x8 digits, 10 values
    python -m experiments.train --recipe=logistic_ae:mnist   # MNIST, 30 values

Published: squared error 8.01 per test image of MNIST with 30 values. Measured here: the README's table of recipes.
"""

from dataclasses import dataclass, replace

from experiments.autoencoders import CodeConfig, autoencoder
from jaxdl.data.datasets import DataConfig
from jaxdl.engine.experiment import Experiment, TrainConfig
from jaxdl.optimizers import OptimizerConfig


@dataclass(frozen=True)
class Config:
    """Everything that can change the result."""

    data: DataConfig = DataConfig(name="digits")
    model: CodeConfig = CodeConfig()
    optimizer: OptimizerConfig = OptimizerConfig(name="adam", learning_rate=3e-3, schedule="cosine")
    train: TrainConfig = TrainConfig(steps=4000, batch_size=128, eval_every=250, log_every=100, checkpoint_every=1000)


VARIANTS = {
    "mnist": replace(
        Config(),
        data=DataConfig(name="mnist"),
        model=CodeConfig(code=30),
        optimizer=OptimizerConfig(name="adam", learning_rate=1e-2, schedule="cosine"),
        train=TrainConfig(
            steps=30000, batch_size=256, eval_batch_size=512, eval_every=2000, log_every=500, checkpoint_every=10000
        ),
    )
}


def build(config: Config) -> Experiment:
    """The experiment."""
    return autoencoder(config, (config.model.code,), "logistic", config.model.tied)
