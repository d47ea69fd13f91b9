"""A variational autoencoder on digits that are binarised anew each time they are seen.

Kingma, Welling: Auto-encoding variational Bayes, ICLR 2014. A pixel is one with its grey level as probability; the
binarisation is drawn afresh for every image and pass, in training and in evaluation. "bound" is the one-sample bound on
log p(x) in nats, averaged over ten passes.

    python -m experiments.train --recipe=vae            # 8x8 digits
    python -m experiments.train --recipe=vae:2d         # two latent values: the manifold can be seen
    python -m experiments.train --recipe=vae:mnist      # MNIST, 50 latent values
    python -m experiments.train --recipe=vae:mnist_2d   # MNIST, two latent values
    python -m experiments.sample --workdir=runs/vae

Published on dynamically binarised MNIST: log-likelihood -86.76 (Burda, Grosse, Salakhutdinov 2016, one sample, 3,280
epochs; by importance sampling, which lies above the bound). Measured here: the README's table of recipes.
"""

from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from jaxdl.data.datasets import DataConfig
from jaxdl.engine.experiment import Experiment, TrainConfig
from jaxdl.nn.activations import PLAIN_ACTIVATIONS
from jaxdl.optimizers import OptimizerConfig
from jaxdl.settings import setting


@dataclass(frozen=True)
class ModelConfig:
    """The network."""

    features: tuple[int, ...] = setting((200, 100), "units of the encoder's hidden layers", minimum=1)
    latents: int = setting(10, "latent values", minimum=1)
    activation: str = setting("relu", "hidden activation", choices=PLAIN_ACTIVATIONS)
    gated: bool = setting(False, "gated linear units in the hidden layers instead")


@dataclass(frozen=True)
class EvaluationConfig:
    """How the bound is measured."""

    passes: int = setting(10, "passes that the bound is averaged over, each with new noise", minimum=1)


@dataclass(frozen=True)
class Config:
    """Everything that can change the result."""

    data: DataConfig = DataConfig(name="digits")
    model: ModelConfig = ModelConfig()
    evaluation: EvaluationConfig = EvaluationConfig()
    optimizer: OptimizerConfig = OptimizerConfig(name="adam", learning_rate=2e-3, schedule="cosine")
    train: TrainConfig = TrainConfig(steps=5000, batch_size=128, eval_every=250, log_every=50, checkpoint_every=1000)


_MNIST = replace(
    Config(),
    data=DataConfig(name="mnist"),
    model=ModelConfig(features=(300, 300), latents=50, gated=True),
    optimizer=OptimizerConfig(name="adam", learning_rate=1e-3, schedule="cosine"),
    train=TrainConfig(
        steps=60000, batch_size=128, eval_batch_size=500, eval_every=5000, log_every=500, checkpoint_every=10000
    ),
)

VARIANTS = {
    "2d": replace(Config(), model=ModelConfig(latents=2)),
    "mnist": _MNIST,
    "mnist_2d": replace(_MNIST, model=replace(_MNIST.model, latents=2), train=replace(_MNIST.train, steps=30000)),
}


def build(config: Config) -> Experiment:
    """The experiment."""
    from experiments.autoencoders import experiment_for, open_pictures, phase_for, values_per_image
    from jaxdl.models.vae import VAE
    from jaxdl.optimizers import make_optimizer
    from jaxdl.tasks.reconstruction import variational

    images = open_pictures(config.data)
    shape = config.model
    model = VAE(values_per_image(images), shape.features, shape.latents, shape.activation, shape.gated)
    task = variational(
        model,
        make_optimizer(config.optimizer, config.train.steps),
        images.dataset.image_shape,
        passes=config.evaluation.passes,
        accumulate=config.train.accumulate,
        ema_decay=config.optimizer.ema_decay,
    )
    return experiment_for(
        config,
        (phase_for(config, task, images),),
        images,
        report=lambda view: report(view, images),
        sample=lambda view, request: sample(view, request, images),
    )


def decoded(view: Any, i: int, z: np.ndarray, images: Any) -> np.ndarray:
    """p(x = 1 | z) as images [n, H, W], by the decoder of seed number `i`, of z [n, L]."""
    import jax

    task, net = view.experiment.phases[-1].task, view.state(i).nets["model"]
    params = jax.tree.map(lambda leaf: leaf[0], net.params if net.ema is None else net.ema[0])
    logits = task.model.apply({"params": params}, z, method="decode")
    return np.asarray(jax.nn.sigmoid(logits)).reshape(-1, *images.dataset.image_shape[:2])


def report(view: Any, images: Any) -> list:
    """Samples, reconstructions, the manifold and plane of two latent values, first-layer weights, layers."""
    from experiments.autoencoders import layers_section, reconstruction_sections, weights_section
    from jaxdl.reports.autoencoder import manifold_section, samples_section

    first = view.done[0]
    latents = view.experiment.phases[-1].task.model.latents
    drawn = np.random.default_rng(0).normal(size=(100, latents)).astype(np.float32)
    caption = "p(x = 1 | z) of 100 draws z from the prior N(0, I)."
    sections = [samples_section(decoded(view, first, drawn, images), caption)]
    if latents == 2:
        sections.append(manifold_section(manifold(view, first, images), _MANIFOLD))
    sections += reconstruction_sections(view, images)
    kernel = view.state(first).nets["model"].params["encoder_0"]["kernel"][0]
    return [*sections, weights_section(kernel, images, "encoder_0"), layers_section(view)]


_MANIFOLD = (
    "The decoder over the plane of codes: 20 x 20 values z at the 2.5 % to 97.5 % quantiles of the prior, the first value "
    "from left to right, the second from bottom to top."
)


def manifold(view: Any, i: int, images: Any, side: int = 20) -> np.ndarray:
    """Decoded images [side, side, H, W] at evenly spaced quantiles of the prior."""
    from scipy.stats import norm

    ends = norm.ppf(np.linspace(0.025, 0.975, side)).astype(np.float32)
    plane = np.stack(np.meshgrid(ends, ends[::-1]), axis=-1).reshape(-1, 2)
    found = decoded(view, i, plane, images)
    return found.reshape(side, side, *found.shape[1:])


def sample(view: Any, request: Any, images: Any) -> None:
    """p(x = 1 | z) of draws from the prior; see `write_samples`."""
    from experiments.autoencoders import wanted, write_samples

    latents = view.experiment.phases[-1].task.model.latents
    z = np.random.default_rng(request.seed).normal(size=(wanted(request), latents)).astype(np.float32)
    write_samples(decoded(view, view.first, z, images), request)
