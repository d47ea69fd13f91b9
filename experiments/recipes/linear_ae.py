"""A linear autoencoder, trained by gradients: it finds the space of the principal components.

Baldi, Hornik: Neural networks and principal component analysis, Neural Networks 1989.

    python -m experiments.train --recipe=linear_ae         # 8x8 digits, 10 values
    python -m experiments.train --recipe=linear_ae:mnist   # MNIST, 30 values

Expected: the squared error of `pca` with as many components, within 0.5 %. Measured here: the README's table of recipes.
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
    train: TrainConfig = TrainConfig(steps=6000, batch_size=128, eval_every=500, log_every=100, checkpoint_every=2000)


VARIANTS = {
    "mnist": replace(
        Config(),
        data=DataConfig(name="mnist"),
        model=CodeConfig(code=30),
        optimizer=OptimizerConfig(name="adam", learning_rate=2e-3, schedule="cosine"),
        train=TrainConfig(
            steps=15000, batch_size=256, eval_batch_size=512, eval_every=1000, log_every=250, checkpoint_every=5000
        ),
    )
}


def build(config: Config) -> Experiment:
    """The experiment."""
    return autoencoder(config, (config.model.code,), "linear", config.model.tied)
