"""A multilayer perceptron on MNIST, any depth and activation.

    python -m experiments.train --recipe=mlp_mnist

Published: 1.65 % test error with one layer of 500 tanh units (Theano deep-learning tutorials). Measured here: the
README's table of recipes.
"""

from dataclasses import dataclass

from experiments.images import LossConfig, classification
from jaxdl.data.augment import AugmentConfig
from jaxdl.data.datasets import DataConfig
from jaxdl.engine.experiment import Experiment, TrainConfig
from jaxdl.nn.activations import ACTIVATIONS
from jaxdl.optimizers import OptimizerConfig
from jaxdl.settings import setting


@dataclass(frozen=True)
class ModelConfig:
    """The network."""

    features: tuple[int, ...] = setting((512, 512), "units of each hidden layer", minimum=1)
    activation: str = setting("relu", "hidden activation", choices=ACTIVATIONS)
    dropout: float = setting(0.3, "share of hidden units dropped in training", minimum=0.0, maximum=0.99)
    input_dropout: float = setting(0.1, "share of pixels dropped in training", minimum=0.0, maximum=0.99)


@dataclass(frozen=True)
class Config:
    """Everything that can change the result."""

    data: DataConfig = DataConfig(name="mnist")
    augment: AugmentConfig = AugmentConfig()
    model: ModelConfig = ModelConfig()
    optimizer: OptimizerConfig = OptimizerConfig(name="adam", learning_rate=1e-3, schedule="cosine")
    loss: LossConfig = LossConfig()
    train: TrainConfig = TrainConfig(steps=12000, batch_size=128, eval_every=500, log_every=100, checkpoint_every=2000)


def build(config: Config) -> Experiment:
    """The experiment."""
    from jaxdl.models.mlp import MLP

    model = config.model

    def network(classes: int) -> MLP:
        return MLP(model.features, classes, model.activation, dropout=model.dropout, input_dropout=model.input_dropout)

    return classification(config, network)
