"""Principal component analysis, exact, in one pass over the images: the yardstick of the autoencoders.

Hinton, Salakhutdinov: Reducing the dimensionality of data with neural networks, Science 2006 (their Matlab code fixes
what is measured: squared error summed over the pixels of a test image, pixels in [0, 1], not clipped).

    python -m experiments.train --recipe=pca         # 8x8 digits, 10 components
    python -m experiments.train --recipe=pca:mnist   # MNIST, 30 components, fitted on all 60,000 images

Published: 13.87 for MNIST with 30 components. Measured here: the README's table of recipes.
"""

from dataclasses import dataclass, replace
from typing import Any

from jaxdl.data.datasets import DataConfig
from jaxdl.engine.experiment import Experiment, TrainConfig
from jaxdl.settings import setting


@dataclass(frozen=True)
class ModelConfig:
    """The components."""

    components: int = setting(10, "how many components are kept", minimum=1)


@dataclass(frozen=True)
class FitConfig:
    """What the components are fitted on."""

    split: str = setting(
        "train+validation",
        "nothing has to be chosen, so that by default nothing is held out",
        choices=("train", "train+validation"),
    )


@dataclass(frozen=True)
class Config:
    """Everything that can change the result; training is one pass over the images, cut short by train.steps."""

    data: DataConfig = DataConfig(name="digits")
    model: ModelConfig = ModelConfig()
    fit: FitConfig = FitConfig()
    train: TrainConfig = TrainConfig(steps=1000, batch_size=64, log_every=5, eval_every=5, checkpoint_every=100)


VARIANTS = {
    "mnist": replace(
        Config(),
        data=DataConfig(name="mnist"),
        model=ModelConfig(components=30),
        train=TrainConfig(
            steps=1000, batch_size=512, eval_batch_size=512, log_every=20, eval_every=20, checkpoint_every=1000
        ),
    )
}


def build(config: Config) -> Experiment:
    """The experiment."""
    import dataclasses

    from experiments.autoencoders import experiment_for, open_pictures, published_for, values_per_image
    from jaxdl.engine.experiment import Phase
    from jaxdl.errors import UserError
    from jaxdl.tasks.components import PrincipalComponents

    images = open_pictures(config.data)
    inputs, components = values_per_image(images), config.model.components
    if components > inputs:
        raise UserError(f"--model.components={components}: an image of {config.data.name} has only {inputs} values")
    whole = images.evaluation(config.fit.split, config.train.batch_size)
    steps = min(config.train.steps, whole.num_batches)
    phase = Phase(
        name="pass",
        task=PrincipalComponents(inputs, components, steps, config.train.eval_every),
        source=whole,
        steps=steps,
        evaluations={"validation": images.evaluation("validation", config.train.eval_batch_size)},
    )
    experiment = experiment_for(config, (phase,), images, reported="last")
    published = published_for(config, components)
    return dataclasses.replace(experiment, report=lambda view: report(view, images, published))


def report(view: Any, images: Any, published: dict[str, float]) -> list:
    """Reconstructions, comparison and the components as pictures."""
    from experiments.autoencoders import reconstruction_sections, weights_section

    components = view.state(view.done[0]).nets["pca"].params["components"][0]
    return [*reconstruction_sections(view, images, published), weights_section(components.T, images, "the components")]
