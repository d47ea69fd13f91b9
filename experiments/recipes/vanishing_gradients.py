"""Vanishing gradients: how fast each layer of a deep sigmoid network learns, epoch by epoch.

Nielsen: Neural networks and deep learning, chapter 5, 2015; settings of his fig/generate_gradient.py: 784-30-30-30-30-10
logistic units, cross entropy, weights N(0, 1 / n_in), biases N(0, 1), 1000 MNIST training images in one batch (an update
is an epoch), rate 0.1, L2 with λ = 5 (w <- w (1 - 0.1 λ / 1000): `l2` is λ / 1000), 500 epochs. What is shown is
||mean over the images of δ^l|| of each hidden layer l before each update.

    python -m experiments.train --recipe=vanishing_gradients            # four hidden layers
    python -m experiments.train --recipe=vanishing_gradients:layers2    # two hidden layers
    python -m experiments.train --recipe=vanishing_gradients:layers3    # three hidden layers
    python -m experiments.reproduce --table=vanishing_gradients         # all three, five seeds each

Here the images are the first 1000 in the order of the prepared TFDS set, which TFDS has shuffled: not Nielsen's.
Published: the median over the epochs of layer 4's norm over layer 1's is 74 (his figure's data file). Metrics:
"delta/layer_4_over_1" and so on. Measured here: experiments/results/README.md.
"""

from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from jaxdl.data.datasets import DataConfig
from jaxdl.engine.experiment import Experiment, Phase, TrainConfig
from jaxdl.nn.activations import PLAIN_ACTIVATIONS
from jaxdl.optimizers import OptimizerConfig
from jaxdl.settings import setting

# medians over 500 epochs of ||δ^l|| / ||δ^1||, by the number of hidden layers (Nielsen's norms_during_training files)
PUBLISHED = {2: (1.0, 2.0), 3: (1.0, 3.0, 15.9), 4: (1.0, 2.7, 16.0, 74.0)}


@dataclass(frozen=True)
class ModelConfig:
    """The network."""

    features: tuple[int, ...] = setting((30, 30, 30, 30), "units of each hidden layer", minimum=1)
    activation: str = setting("sigmoid", "hidden activation", choices=PLAIN_ACTIVATIONS)


@dataclass(frozen=True)
class Config:
    """Everything that can change the result; data.limit images are taken in the set's order, none are held out."""

    data: DataConfig = DataConfig(name="mnist", limit=1000)
    model: ModelConfig = ModelConfig()
    optimizer: OptimizerConfig = OptimizerConfig(name="sgd", learning_rate=0.1, l2=5.0 / 1000)
    train: TrainConfig = TrainConfig(
        steps=500, batch_size=1000, eval_batch_size=500, log_every=1, eval_every=50, checkpoint_every=250
    )


VARIANTS = {
    "layers2": replace(Config(), model=ModelConfig(features=(30, 30))),
    "layers3": replace(Config(), model=ModelConfig(features=(30, 30, 30))),
}


def build(config: Config) -> Experiment:
    """The experiment."""
    from experiments.images import experiment_for, open_images
    from jaxdl.data.augment import AugmentConfig
    from jaxdl.data.source import Resident
    from jaxdl.models.mlp import MLP
    from jaxdl.optimizers import describe, hyper_parameters, make_optimizer
    from jaxdl.tasks.gradient_flow import gradient_flow

    images = open_images(replace(config.data, limit=0), AugmentConfig(), standardise=False)
    whole = images.dataset.splits["train+validation"]
    first = {name: array[: config.data.limit or None] for name, array in whole.items()}
    model = MLP(
        features=config.model.features,
        num_classes=len(images.dataset.classes),
        activation=config.model.activation,
        initializer="fan_in_normal",
        initial_bias=1.0,
    )
    traced = tuple(f"Dense_{i}" for i in range(len(config.model.features)))
    task = gradient_flow(
        model,
        make_optimizer(config.optimizer, config.train.steps),
        images.dataset.image_shape,
        traced=traced,
        updates=config.train.steps,
        accumulate=config.train.accumulate,
    )
    source = Resident.of(first, config.train.batch_size, shuffle=True, transform=images.transform)
    phase = Phase("train", task, source, config.train.steps, hyper_parameters(config.optimizer))
    tested = len(images.dataset.splits["test"]["label"])
    return experiment_for(
        config,
        (phase,),
        images,
        reported="last",
        judge=judge,
        report=report,
        ensemble=None,
        expected_loss=None,
        facts={
            "data": f"{images.dataset.name}: the first {source.size:,} training images, {tested:,} test",
            "optimiser": describe(config.optimizer),
        },
        steps_may_grow=False,
    )


def judge(judged: Any) -> dict[str, float]:
    """Medians over the epochs of ||δ^l|| / ||δ^1||, l = 2, 3, ..., of one seed."""
    trace = np.asarray(judged.state.extra["delta_norms"][0], np.float64)
    medians = np.median(trace / trace[:, :1], axis=0)
    return {f"delta/layer_{number}_over_1": float(value) for number, value in enumerate(medians[1:], 2)}


def report(view: Any) -> list:
    """Nielsen's figure, and the ratios beside his."""
    from jaxdl.reports.curves import curve
    from jaxdl.reports.norms import draw_norms
    from jaxdl.reports.page import Figure, Section, Table

    layers = view.experiment.phases[-1].task.traced
    curves = {f"hidden layer {i}": curve(view.rows, "train", f"delta_norm/{n}") for i, n in enumerate(layers, 1)}
    seeds = f" Geometric means over {len(view.rows)} seeds." if len(view.rows) > 1 else ""
    caption = f"Norm of the images' mean δ in each hidden layer, before each update (an update is an epoch).{seeds}"
    figure = Figure("delta_norm", caption, lambda: draw_norms("Mean-δ norm", curves))
    published = PUBLISHED.get(len(layers), ())
    rows: list[list[Any]] = []
    for number in range(2, len(layers) + 1):
        values = view.values(f"delta/layer_{number}_over_1")
        rows.append(
            [
                f"layer {number} over layer 1",
                float(np.mean(values)),
                f"{min(values):.1f} – {max(values):.1f}",
                published[number - 1] if published else None,
            ]
        )
    header = ["median over the epochs", f"mean of {len(view.done)} seeds", "lowest – highest", "Nielsen, one seed"]
    return [Section("Speed of learning by layer", [figure, Table("", header, rows)])]
