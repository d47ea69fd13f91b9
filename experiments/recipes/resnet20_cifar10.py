"""ResNet-20 on CIFAR-10 with the published schedule; depth 56 and 110, pre-activation by flags.

He, Zhang, Ren, Sun: Deep residual learning for image recognition, CVPR 2016, section 4.2: SGD with momentum 0.9, weight
decay 1e-4, batches of 128, learning rate 0.1 divided by 10 after 32,000 and 48,000 of 64,000 updates, crops of images
padded by 4, horizontal flips.

    python -m experiments.train --recipe=resnet20_cifar10              # a GPU's work
    python -m experiments.train --recipe=resnet20_cifar10:epochs2      # two epochs, minutes on a CPU

Published: 8.75 % test error on CIFAR-10.
"""

from dataclasses import dataclass, replace

from experiments.images import LossConfig, classification
from jaxdl.data.augment import AugmentConfig
from jaxdl.data.datasets import DataConfig
from jaxdl.engine.experiment import Experiment, TrainConfig
from jaxdl.optimizers import OptimizerConfig
from jaxdl.settings import setting


@dataclass(frozen=True)
class ModelConfig:
    """The network."""

    depth: int = setting(20, "layers with weights: 6 n + 2", choices=(8, 14, 20, 32, 44, 56, 110))
    preactivation: bool = setting(False, "batch norm and ReLU before each convolution (He et al. 2016b)")


@dataclass(frozen=True)
class Config:
    """Everything that can change the result."""

    data: DataConfig = DataConfig(name="cifar10")
    augment: AugmentConfig = AugmentConfig(crop=4, flip=True)
    model: ModelConfig = ModelConfig()
    optimizer: OptimizerConfig = OptimizerConfig(
        name="momentum",
        learning_rate=0.1,
        momentum=0.9,
        l2=1e-4,
        schedule="step",
        boundaries=(32000, 48000),
        decay_rate=0.1,
    )
    loss: LossConfig = LossConfig()
    train: TrainConfig = TrainConfig(
        steps=64000, batch_size=128, eval_every=1000, log_every=100, checkpoint_every=1000, eval_batch_size=500
    )


VARIANTS = {
    "epochs2": lambda: replace(
        Config(),
        optimizer=OptimizerConfig(name="momentum", learning_rate=0.1, momentum=0.9, l2=1e-4, schedule="one_cycle"),
        train=replace(Config().train, steps=704, eval_every=176, log_every=22, checkpoint_every=176),
    )
}


def build(config: Config) -> Experiment:
    """The experiment."""
    from jaxdl.models.resnet import CifarResNet

    def network(classes: int) -> CifarResNet:
        return CifarResNet(depth=config.model.depth, num_classes=classes, preactivation=config.model.preactivation)

    return classification(config, network, reported="last")
