"""A restricted Boltzmann machine whose likelihood is exact: few hidden units, so that all their states can be counted.

Centred, by persistent contrastive divergence, on images thresholded at one half (Melchior, Fischer, Wiskott: How to
center deep Boltzmann machines, JMLR 2016; PyDeep's example). With more than 20 hidden units the likelihood is estimated
at the end by annealed importance sampling instead, forwards (a little high) and backwards (a little low).

    python -m experiments.train --recipe=rbm          # 8x8 digits, 16 hidden units
    python -m experiments.train --recipe=rbm:mnist    # MNIST, 16 hidden units
    python -m experiments.sample --workdir=runs/rbm

Published for MNIST with 16 hidden units: test log-likelihood -142.56 (PyDeep; -149.05 without centring). Measured here:
the README's table of recipes.
"""

from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from jaxdl.data.datasets import DataConfig
from jaxdl.engine.experiment import Experiment, TrainConfig
from jaxdl.optimizers import OptimizerConfig
from jaxdl.settings import setting

MOST_EXACT = 20


@dataclass(frozen=True)
class ModelConfig:
    """The machine."""

    hidden: int = setting(16, "binary hidden units", minimum=1)
    centred: bool = setting(True, "offsets are subtracted from all units")
    initial_scale: float = setting(0.01, "standard deviation of the first weights", minimum=0.0)


@dataclass(frozen=True)
class LearningConfig:
    """How the model's share of the gradient is drawn."""

    persistent: bool = setting(True, "chains go on from update to update (PCD); otherwise they start at the data (CD)")
    k: int = setting(1, "rounds of Gibbs sampling in one update", minimum=1)
    offset_rate: float = setting(0.01, "how fast the offsets follow the means", minimum=0.0, maximum=1.0)


@dataclass(frozen=True)
class EvaluationConfig:
    """Annealed importance sampling, where counting is too much."""

    chains: int = setting(100, "chains of annealed importance sampling", minimum=2)
    temperatures: int = setting(5000, "steps from the base to the machine", minimum=1)


@dataclass(frozen=True)
class Config:
    """Everything that can change the result."""

    data: DataConfig = DataConfig(name="digits")
    model: ModelConfig = ModelConfig()
    learning: LearningConfig = LearningConfig()
    evaluation: EvaluationConfig = EvaluationConfig()
    optimizer: OptimizerConfig = OptimizerConfig(name="sgd", learning_rate=0.05, schedule="linear")
    train: TrainConfig = TrainConfig(steps=6000, batch_size=64, eval_every=500, log_every=100, checkpoint_every=2000)


VARIANTS = {
    "mnist": replace(
        Config(),
        data=DataConfig(name="mnist"),
        optimizer=OptimizerConfig(name="sgd", learning_rate=0.05, schedule="linear"),
        train=TrainConfig(
            steps=30000, batch_size=100, eval_batch_size=500, eval_every=2500, log_every=500, checkpoint_every=10000
        ),
    )
}


def build(config: Config) -> Experiment:
    """The experiment."""
    from experiments.autoencoders import experiment_for, open_pictures, phase_for, pixels, values_per_image
    from jaxdl.models.rbm import RBM
    from jaxdl.optimizers import hyper_parameters, make_optimizer
    from jaxdl.tasks.energy import Energy

    images = open_pictures(config.data, binary=True)
    mean = pixels(images, "train").mean(axis=0, dtype=np.float64)
    exact = config.model.hidden <= MOST_EXACT
    task = Energy(
        stack=(RBM(values_per_image(images), config.model.hidden),),
        optimizer=make_optimizer(config.optimizer, config.train.steps),
        chains=config.train.batch_size,
        k=config.learning.k,
        persistent=config.learning.persistent,
        centred=config.model.centred,
        initial_scale=config.model.initial_scale,
        initial_mean=tuple(map(float, mean)),
        exact=exact,
    )
    hyper = {**hyper_parameters(config.optimizer), "offset_rate": config.learning.offset_rate}
    return experiment_for(
        config,
        (phase_for(config, task, images, hyper=hyper),),
        images,
        judge=None if exact else lambda judged: annealed_likelihood(judged, mean, config.evaluation),
        report=lambda view: report(view, images),
        sample=lambda view, request: sample(view, request, images),
    )


def annealed_likelihood(judged: Any, mean: np.ndarray, config: EvaluationConfig) -> dict[str, float]:
    """Test log-likelihood in nats by AIS, forwards and backwards; the backward one starts at the machine's chains."""
    import jax
    import jax.numpy as jnp

    from jaxdl.models.rbm import uncentred
    from jaxdl.objectives.energy import annealed_log_partition, reverse_annealed_log_partition

    task = judged.experiment.phases[-1].task
    state = jax.tree.map(lambda leaf: leaf[0], judged.state)
    machine = uncentred(task.machine(state))
    clipped = np.clip(mean, 1e-3, 1 - 1e-3)
    base = jnp.asarray(np.log(clipped) - np.log1p(-clipped), jnp.float32)
    forward, backward, chains = jax.random.split(judged.key, 3)
    log_z, spread = annealed_log_partition(
        forward, **machine, base_bias=base, chains=config.chains, temperatures=config.temperatures
    )
    first, rest = jax.random.split(chains)
    start = jax.random.bernoulli(first, 0.5, (config.chains, task.rbm.hidden)).astype(jnp.float32)
    keys = jax.random.split(rest, config.chains)
    particles, _ = task.rbm.gibbs(machine, start, keys, config.temperatures)
    reverse, _ = reverse_annealed_log_partition(
        backward, **machine, base_bias=base, samples=particles, temperatures=config.temperatures
    )
    free_energy = float(np.mean(judged.outputs("test")["free_energy"]))
    return {
        "test/ais_log_likelihood": -free_energy - float(log_z),
        "test/ais_standard_error": float(spread),
        "test/reverse_ais_log_likelihood": -free_energy - float(reverse),
    }


def particles(view: Any, i: int, count: int, rounds: int, seed: int, images: Any) -> np.ndarray:
    """p(v = 1 | h) [count, H, W] of chains that ran `rounds` rounds of Gibbs sampling from random hidden units."""
    import jax

    from jaxdl.models.rbm import uncentred

    task = view.experiment.phases[-1].task
    machine = uncentred(task.machine(jax.tree.map(lambda leaf: leaf[0], view.state(i))))
    first, rest = jax.random.split(jax.random.key(seed))
    h = jax.random.bernoulli(first, 0.5, (count, task.rbm.hidden)).astype("float32")
    _, h = task.rbm.gibbs(machine, h, jax.random.split(rest, count), rounds)
    return np.asarray(task.rbm.visible_mean(machine, h)).reshape(count, *images.dataset.image_shape[:2])


def report(view: Any, images: Any) -> list:
    """Weights, chains, fantasy particles of new chains, reconstructions."""
    import jax

    from experiments.autoencoders import reconstruction_sections, weights_section
    from jaxdl.reports.autoencoder import samples_section

    first = view.done[0]
    task, shape = view.experiment.phases[-1].task, images.dataset.image_shape[:2]
    state = jax.tree.map(lambda leaf: leaf[0], view.state(first))
    sections = [weights_section(state.nets[task.name].params["kernel"], images, "the machine's weights")]
    if task.persistent:
        chains = np.asarray(task.rbm.visible_mean(task.machine(state), state.local["hidden"][:64])).reshape(-1, *shape)
        caption = "Fantasy particles: p(v = 1 | h) of the persistent chains at the end of training."
        sections.append(samples_section(chains, caption, "particles", "Persistent chains"))
    caption = "p(v = 1 | h) of new chains after 2000 rounds of Gibbs sampling from random hidden units."
    sections.append(samples_section(particles(view, first, 64, 2000, 0, images), caption))
    return [*sections, *reconstruction_sections(view, images)]


def sample(view: Any, request: Any, images: Any) -> None:
    """p(v = 1 | h) of new chains; `--length` gives their rounds of Gibbs sampling (at least 1000)."""
    from experiments.autoencoders import wanted, write_samples

    rounds = max(1000, request.length or 0)
    write_samples(particles(view, view.first, wanted(request), rounds, request.seed, images), request)
