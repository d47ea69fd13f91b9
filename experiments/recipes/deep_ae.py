"""A deep autoencoder: RBMs layer by layer, unrolled and fine-tuned, in one run of several phases.

Hinton, Salakhutdinov: Reducing the dimensionality of data with neural networks, Science 2006. Each layer is an RBM that
learns by CD-1 from the hidden means of the one below (the code layer has Gaussian hidden units); then the stack is
unrolled into encoder and decoder, which learn by cross entropy. They fine-tuned by conjugate gradients; here by Adam.

    python -m experiments.train --recipe=deep_ae:pretrained   # 8x8 digits; deep_ae is the same
    python -m experiments.train --recipe=deep_ae:random       # without pre-training
    python -m experiments.train --recipe=deep_ae:2d           # a code of two values
    python -m experiments.train --recipe=deep_ae:mnist        # MNIST, 784-1000-500-250-30, pre-trained
    python -m experiments.train --recipe=deep_ae:mnist_random # MNIST, without pre-training
    python -m experiments.train --recipe=deep_ae:mnist_2d     # MNIST, a code of two values, pre-trained

Published: squared error 3.00 per test image of MNIST with 784-1000-500-250-30. Measured here: the README's table of
recipes.
"""

from dataclasses import dataclass, replace
from typing import Any

from jaxdl.data.datasets import DataConfig
from jaxdl.engine.experiment import Experiment, Phase, TrainConfig
from jaxdl.optimizers import OptimizerConfig
from jaxdl.settings import setting


@dataclass(frozen=True)
class ModelConfig:
    """The network."""

    features: tuple[int, ...] = setting(
        (128, 64, 10), "units of the encoder's layers, the last one the code", minimum=1
    )
    tied: bool = setting(False, "the decoder's weights are the encoder's, transposed")


@dataclass(frozen=True)
class PretrainingConfig:
    """The restricted Boltzmann machines; the defaults are those of the paper, but that momentum climbs over the first
    epochs, where the paper's steps up after them."""

    epochs: int = setting(10, "passes over the images for each layer; 0: start from random weights", minimum=0)
    batch_size: int = setting(100, "images in one update", minimum=1)
    learning_rate: float = setting(0.1, "of layers with binary hidden units", minimum=0.0)
    code_learning_rate: float = setting(0.001, "of the code layer, whose hidden units are Gaussian", minimum=0.0)
    momentum: float = setting(0.5, "at first", minimum=0.0, maximum=0.99)
    momentum_final: float = setting(0.9, "after momentum_epochs", minimum=0.0, maximum=0.99)
    momentum_epochs: int = setting(5, "passes over which momentum rises", minimum=0)
    weight_cost: float = setting(2e-4, "L2 penalty of the weights", minimum=0.0)
    k: int = setting(1, "rounds of Gibbs sampling in one update (CD-k)", minimum=1)
    initial_scale: float = setting(0.1, "standard deviation of the first weights", minimum=0.0)


@dataclass(frozen=True)
class Config:
    """Everything that can change the result; `train` and `optimizer` are those of the fine-tuning."""

    data: DataConfig = DataConfig(name="digits")
    model: ModelConfig = ModelConfig()
    pretraining: PretrainingConfig = PretrainingConfig(epochs=40, batch_size=40)
    optimizer: OptimizerConfig = OptimizerConfig(name="adam", learning_rate=2e-3, schedule="cosine")
    train: TrainConfig = TrainConfig(steps=4000, batch_size=64, eval_every=100, log_every=50, checkpoint_every=1000)


_RANDOM = PretrainingConfig(epochs=0)
_MNIST = replace(
    Config(),
    data=DataConfig(name="mnist"),
    model=ModelConfig(features=(1000, 500, 250, 30)),
    pretraining=PretrainingConfig(epochs=15),
    optimizer=OptimizerConfig(name="adam", learning_rate=1e-3, schedule="cosine"),
    train=TrainConfig(
        steps=25000, batch_size=256, eval_batch_size=500, eval_every=1000, log_every=250, checkpoint_every=5000
    ),
)

VARIANTS = {
    "pretrained": Config(),
    "random": replace(Config(), pretraining=_RANDOM),
    "2d": replace(Config(), model=ModelConfig(features=(128, 64, 2))),
    "mnist": _MNIST,
    "mnist_random": replace(_MNIST, pretraining=_RANDOM),
    "mnist_2d": replace(_MNIST, model=ModelConfig(features=(1000, 500, 250, 2))),
}


def build(config: Config) -> Experiment:
    """The experiment: phases "rbm_0", "rbm_1", ... and "finetune"."""
    from experiments.autoencoders import (
        autoencoder_report,
        experiment_for,
        open_pictures,
        phase_for,
        published_for,
        reconstruction_task,
    )

    images, features = open_pictures(config.data), config.model.features
    task = reconstruction_task(config, images, features, "logistic", config.model.tied)
    last = phase_for(config, task, images, name="finetune")
    phases: tuple[Phase, ...] = (last,)
    if config.pretraining.epochs:
        phases = (*pretraining(config, images), replace(last, transfer=Unroll(len(features), config.model.tied)))
    report = autoencoder_report(images, published_for(config, features[-1]))
    return experiment_for(config, phases, images, report=report)


def pretraining(config: Config, images: Any) -> list[Phase]:
    """One phase for each layer, from the bottom up."""
    from experiments.autoencoders import values_per_image
    from jaxdl.models.rbm import RBM
    from jaxdl.optimizers import hyper_parameters, make_optimizer
    from jaxdl.tasks.energy import Energy, layer_name

    settings, features = config.pretraining, config.model.features
    source = images.training(settings.batch_size)
    steps = settings.epochs * source.num_batches
    widths = (values_per_image(images), *features)
    kinds = ["binary"] * (len(features) - 1) + ["gaussian"]
    stack = [RBM(widths[i], widths[i + 1], kind) for i, kind in enumerate(kinds)]
    phases = []
    for i, kind in enumerate(kinds):
        optimizer = OptimizerConfig(
            name="momentum",
            learning_rate=settings.code_learning_rate if kind == "gaussian" else settings.learning_rate,
            momentum=settings.momentum,
            momentum_final=settings.momentum_final,
            momentum_steps=settings.momentum_epochs * source.num_batches,
            l2=settings.weight_cost,
        )
        task = Energy(
            stack=tuple(stack[: i + 1]),
            optimizer=make_optimizer(optimizer, steps),
            chains=source.batch_size,
            k=settings.k,
            mean_field=True,
            initial_scale=settings.initial_scale,
        )
        phase = Phase(
            name=layer_name(i),
            task=task,
            source=source,
            steps=steps,
            hyper=hyper_parameters(optimizer),
            evaluations={"validation": images.evaluation("validation", config.train.eval_batch_size)},
            transfer=keep_lower_layers if i else None,
        )
        phases.append(phase)
    return phases


def keep_lower_layers(old: Any, fresh: Any, key: Any) -> Any:
    """The next layer's first state: its own machine is new, those below are as they were learnt."""
    del key
    nets = {name: net.replace(params=old.nets[name].params) for name, net in fresh.nets.items() if name in old.nets}
    return fresh.replace(nets={**fresh.nets, **nets})


@dataclass(frozen=True)
class Unroll:
    """The fine-tuning's first state: the stack of machines unrolled into encoder and decoder.

    Attributes:
      layers: how many machines there are.
      tied: whether the decoder has the encoder's weights.
    """

    layers: int
    tied: bool

    def __call__(self, old: Any, fresh: Any, key: Any) -> Any:
        """See `Phase.transfer`."""
        from jaxdl.models.autoencoder import unrolled
        from jaxdl.tasks.energy import layer_name
        from jaxdl.tasks.supervised import NET

        del key
        params = unrolled([old.nets[layer_name(i)].params for i in range(self.layers)], self.tied)
        net = fresh.nets[NET]
        return fresh.replace(nets={NET: net.holding(params, net.stats)})
