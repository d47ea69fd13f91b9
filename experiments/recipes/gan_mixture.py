"""A GAN on eight Gaussians in a ring: whether it finds all modes can be counted.

Goodfellow et al., Generative adversarial nets, NIPS 2014; the ring as in Metz et al., Unrolled generative adversarial
networks, ICLR 2017 (arXiv:1611.02163), where the plain game loses most modes.

    python -m experiments.train --recipe=gan_mixture --seeds=5
    python -m experiments.train --recipe=gan_mixture --gan.gradient_penalty=0 --workdir=runs/collapsed
    python -m experiments.sample --workdir=runs/gan_mixture --count=1000

The discriminator pays for its gradient at real points (R1, Mescheder et al. 2018, arXiv:1801.04406); without that (second
command) the generator falls into one mode after another.

A mode counts as found if at least a tenth of its fair share of the samples lies within 3σ of its centre. Expected: 8 of
8 modes and at least 90 % of the samples within 3σ, for every seed. Measured: the README's table of recipes.
"""

import dataclasses
from dataclasses import dataclass
from typing import Any

from experiments.gans import GanConfig
from jaxdl.engine.experiment import Experiment, TrainConfig
from jaxdl.optimizers import OptimizerConfig
from jaxdl.settings import setting


@dataclass(frozen=True)
class DataConfig:
    """The mixture; its points are made inside the program."""

    modes: int = setting(8, "Gaussians on the ring", minimum=2)
    radius: float = setting(2.0, "of the ring", minimum=0.1)
    sigma: float = setting(0.05, "standard deviation of each Gaussian, along each axis", minimum=0.001)


@dataclass(frozen=True)
class ModelConfig:
    """The networks."""

    generator: tuple[int, ...] = setting((96, 96, 96), "units of the generator's hidden layers", minimum=1)
    discriminator: tuple[int, ...] = setting((96, 96, 96), "units of the discriminator's hidden layers", minimum=1)


@dataclass(frozen=True)
class Config:
    """Everything that can change the result."""

    data: DataConfig = DataConfig()
    gan: GanConfig = GanConfig(latent=16, gradient_penalty=0.1)
    model: ModelConfig = ModelConfig()
    optimizer: OptimizerConfig = OptimizerConfig(
        name="adam", learning_rate=5e-3, beta1=0.5, beta2=0.99, schedule="cosine", ema_decay=0.999
    )
    train: TrainConfig = TrainConfig(
        steps=5000, batch_size=256, eval_batch_size=2000, log_every=100, eval_every=500, checkpoint_every=1000
    )


def build(config: Config) -> Experiment:
    """The experiment."""
    from experiments.gans import adversarial, hyper
    from jaxdl.data.mixtures import GaussianRing, mode_coverage
    from jaxdl.engine.experiment import Phase
    from jaxdl.models.gan import MLPDiscriminator, MLPGenerator
    from jaxdl.optimizers import depends_on_total_steps, describe

    data, train = config.data, config.train
    ring = GaussianRing(train.batch_size * config.gan.discriminator_steps, 0, data.modes, data.radius, data.sigma)
    task = adversarial(
        config,
        MLPGenerator(2, config.model.generator),
        MLPDiscriminator(config.model.discriminator),
        (2,),
        inputs="x",
        measure=lambda points: mode_coverage(points, ring.centres, data.sigma),
        groups="modes",
        previews=500,
    )
    held, final = (
        dataclasses.replace(ring, batch_size=count, size=count)
        for count in (train.eval_batch_size, 5 * train.eval_batch_size)
    )
    phase = Phase("train", task, ring, train.steps, hyper(config.optimizer, config.gan), {"validation": held})
    return Experiment(
        name="gan_mixture",
        phases=(phase,),
        train=train,
        reported="last",
        final={"test": final},
        data={"name": "ring", "version": "1", "fingerprint": None},
        report=lambda view: report(view, ring),
        sample=lambda view, request: sample(view, request, ring),
        facts={"data": f"ring: {data.modes} Gaussians, σ = {data.sigma:g}", "optimiser": describe(config.optimizer)},
        steps_may_grow=not depends_on_total_steps(config.optimizer),
    )


def report(view: Any, ring: Any) -> list:
    """The samples, through training and at the end, mode by mode."""
    import jax

    from experiments.gans import draw
    from jaxdl.reports.gan import game_section, mixture_sections
    from jaxdl.tasks.adversarial import shown_previews

    i = view.done[0]
    state, task = view.state(i), view.experiment.phases[-1].task
    samples = draw(task, state, 2000, jax.random.key(0))["samples"]
    previews = shown_previews(state, view.records[i]["steps"])
    return [game_section(view.rows), *mixture_sections(samples, previews, ring.centres, ring.sigma)]


def sample(view: Any, request: Any, ring: Any) -> None:
    """New points as samples.npy [n, 2] and a picture."""
    import jax

    from experiments.gans import draw, write_samples
    from jaxdl.reports.gan import draw_points

    task = view.experiment.phases[-1].task
    points = draw(task, view.state(view.first), request.count, jax.random.key(request.seed))["samples"]
    write_samples(points, request, lambda points: draw_points([("", points)], ring.centres, ring.sigma))
