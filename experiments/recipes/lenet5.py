"""LeNet-5 on handwritten digits: the first network to train; `lenet5:mnist` is the published setting.

LeCun, Bottou, Bengio, Haffner: Gradient-based learning applied to document recognition, Proc. IEEE 1998.

    python -m experiments.train                                   # scikit-learn's 8x8 digits, nothing to download
    python -m experiments.train --recipe=lenet5:mnist --seeds=5   # MNIST

Published: 0.95 % test error on MNIST. Measured here: the README's table of recipes.
"""

from dataclasses import dataclass, replace

from experiments.images import LossConfig, classification
from jaxdl.data.augment import AugmentConfig
from jaxdl.data.datasets import DataConfig
from jaxdl.engine.experiment import Experiment, TrainConfig
from jaxdl.nn.activations import LAYER_ACTIVATIONS
from jaxdl.optimizers import OptimizerConfig
from jaxdl.settings import setting


@dataclass(frozen=True)
class ModelConfig:
    """The network."""

    features: tuple[int, ...] = setting(
        (16, 32, 120, 84), "maps of both convolutions, units of both dense layers", minimum=1
    )
    dropout: float = setting(0.0, "share of units dropped after the first dense layer", minimum=0.0, maximum=0.99)
    activation: str = setting("relu", "hidden activation", choices=LAYER_ACTIVATIONS)


@dataclass(frozen=True)
class Config:
    """Everything that can change the result."""

    data: DataConfig = DataConfig(name="digits")
    augment: AugmentConfig = AugmentConfig(shift=1.0, rotate=10.0, scale=0.1)
    model: ModelConfig = ModelConfig()
    optimizer: OptimizerConfig = OptimizerConfig(name="adam", learning_rate=2e-3, schedule="cosine")
    loss: LossConfig = LossConfig()
    train: TrainConfig = TrainConfig(steps=2000, batch_size=64, eval_every=50, log_every=25, checkpoint_every=250)


VARIANTS = {
    "mnist": replace(
        Config(),
        data=DataConfig(name="mnist"),
        augment=AugmentConfig(crop=1),
        model=ModelConfig(features=(6, 16, 120, 84)),
        optimizer=OptimizerConfig(
            name="adam", learning_rate=2e-3, schedule="cosine", warmup_steps=100, ema_decay=0.999
        ),
        train=TrainConfig(steps=8000, batch_size=128, eval_every=400, log_every=100, checkpoint_every=1000),
    )
}


def build(config: Config) -> Experiment:
    """The experiment."""
    from jaxdl.models.lenet import LeNet5

    model = config.model

    def network(classes: int) -> LeNet5:
        return LeNet5(model.features, classes, model.activation, dropout=model.dropout)

    return classification(config, network)
