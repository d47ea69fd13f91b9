"""Maxout with dropout on permutation-invariant MNIST, in two phases: 50,000 images, then all 60,000.

Goodfellow, Warde-Farley, Mirza, Courville, Bengio: Maxout networks, ICML 2013; settings of pylearn2's mnist_pi.yaml:
784 -> 240 x 5 -> 240 x 5 -> 10, dropout 0.2 of the inputs (the others keep their size) and 0.5 of the hidden units,
weights U(-0.005, 0.005), columns of norm at most 1.9365, SGD with momentum 0.5 -> 0.7, batches of 100, until the
validation error has not fallen for 100 epochs; then on from the best of these with all 60,000 images, at the rate and
momentum of mnist_pi_continued.yaml. There the second phase ends when its loss reaches the first one's, here after a
fixed number of epochs.

    python -m experiments.train --recipe=maxout_mnist          # the published schedule: about 350 epochs, then 100
    python -m experiments.train --recipe=maxout_mnist:cpu      # a shorter schedule, of averaged parameters: 80 epochs, then 30

Published: 0.94 % test error. Measured here: the README's table of recipes.
"""

import dataclasses
from dataclasses import dataclass, replace
from typing import Any

from experiments.images import LossConfig, experiment_for, open_images, phase_for, task_for
from jaxdl.data.augment import AugmentConfig
from jaxdl.data.datasets import DataConfig
from jaxdl.engine.experiment import Experiment, TrainConfig
from jaxdl.optimizers import OptimizerConfig
from jaxdl.settings import setting

EPOCH = 500


@dataclass(frozen=True)
class ModelConfig:
    """The network."""

    features: tuple[int, ...] = setting((240, 240), "maxout units of each hidden layer", minimum=1)
    pieces: int = setting(5, "linear pieces of one maxout unit", minimum=1)
    dropout: float = setting(0.5, "share of hidden units dropped in training", minimum=0.0, maximum=0.99)
    input_dropout: float = setting(0.2, "share of pixels dropped in training", minimum=0.0, maximum=0.99)
    input_rescale: bool = setting(False, "scale the pixels that are kept, so that their mean stays")
    init_range: float = setting(0.005, "weights start in U(-init_range, init_range)", minimum=0.0)


@dataclass(frozen=True)
class PhasesConfig:
    """The second phase, on training and validation images together."""

    continue_steps: int = setting(100 * EPOCH, "most updates of the second phase; 0: no second phase", minimum=0)
    continue_rate: float = setting(
        0.0615082606673, "learning rate of the second phase; 0: the first one's", minimum=0.0
    )


@dataclass(frozen=True)
class Config:
    """Everything that can change the result."""

    data: DataConfig = DataConfig(name="mnist", validation_fraction=1 / 6)
    augment: AugmentConfig = AugmentConfig()
    model: ModelConfig = ModelConfig()
    phases: PhasesConfig = PhasesConfig()
    optimizer: OptimizerConfig = OptimizerConfig(
        name="momentum",
        learning_rate=0.1,
        momentum=0.5,
        momentum_final=0.7,
        momentum_steps=250 * EPOCH,
        schedule="exponential",
        decay_steps=1,
        decay_rate=1 / 1.000004,
        schedule_floor=1e-5,
        max_column_norm=1.9365,
    )
    loss: LossConfig = LossConfig()
    train: TrainConfig = TrainConfig(
        steps=1000 * EPOCH,
        batch_size=100,
        eval_every=EPOCH,
        log_every=EPOCH // 5,
        checkpoint_every=10 * EPOCH,
        patience=100,
        eval_batch_size=500,
    )


VARIANTS = {
    "cpu": lambda: replace(
        Config(),
        optimizer=replace(Config().optimizer, momentum_steps=50 * EPOCH, ema_decay=0.9995),
        train=replace(Config().train, steps=80 * EPOCH, patience=0),
        phases=PhasesConfig(continue_steps=30 * EPOCH),
    )
}


def build(config: Config) -> Experiment:
    """The experiment: phase "50k" judged by validation accuracy, then phase "60k" from its best parameters on."""
    from jaxdl.models.mlp import MLP
    from jaxdl.tasks.supervised import NET

    images = open_images(config.data, config.augment, standardise=False)
    model = MLP(
        features=config.model.features,
        activation="maxout",
        pieces=config.model.pieces,
        dropout=config.model.dropout,
        input_dropout=config.model.input_dropout,
        input_rescale=config.model.input_rescale,
        initializer="uniform",
        initial_scale=config.model.init_range,
        num_classes=len(images.dataset.classes),
    )
    first = phase_for(config, task_for(images, model, config.optimizer, config.train), images, name="50k")
    if not config.phases.continue_steps:
        return experiment_for(config, (first,), images)

    def from_best(old: Any, fresh: Any, key: Any) -> Any:
        del key
        # holding: a moving average goes on from the best parameters too
        return fresh.replace(nets={NET: fresh.nets[NET].holding(old.nets[NET].params, old.nets[NET].stats)})

    again = _continued(config)
    task = task_for(images, model, again.optimizer, again.train)
    second = phase_for(
        again, task, images, name="60k", split="train+validation", transfer=from_best, objective=None, patience=0
    )
    return experiment_for(config, (first, second), images, reported="last", steps_may_grow=False)


def _continued(config: Config) -> Config:
    rate = config.phases.continue_rate or config.optimizer.learning_rate
    momentum = config.optimizer.momentum_final
    optimizer = dataclasses.replace(config.optimizer, learning_rate=rate, momentum=momentum, momentum_steps=0)
    return replace(config, optimizer=optimizer, train=replace(config.train, steps=config.phases.continue_steps))
