"""Sparse rectifier networks: an L1 price on activations, drawn by each seed, and what it costs in accuracy.

Glorot, Bordes, Bengio: Deep sparse rectifier neural networks, AISTATS 2011, figure 3: 200 rectifier networks on MNIST with
L1 penalties from 0 to 0.01 on the activations; the test error stays flat up to about 85 % zeros. Here three layers of 100
units instead of 1000. Each seed draws its penalty from U(0, penalty.activation_l1); all run as one program:

    python -m experiments.train --recipe=sparsity --seeds=200 --seeds_mode=map
    python -m experiments.reproduce --table=sparsity

Metrics: "test/zeros", the share of hidden units that are exactly zero; "test/activation_l1", the penalty that was drawn.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np

from experiments.images import LossConfig
from jaxdl.data.augment import AugmentConfig
from jaxdl.data.datasets import DataConfig
from jaxdl.engine.experiment import Experiment, TrainConfig
from jaxdl.optimizers import OptimizerConfig
from jaxdl.settings import setting


@dataclass(frozen=True)
class ModelConfig:
    """The network."""

    features: tuple[int, ...] = setting((100, 100, 100), "rectifier units of each hidden layer", minimum=1)


@dataclass(frozen=True)
class PenaltyConfig:
    """The price of active units."""

    activation_l1: float = setting(0.01, "largest penalty on the sum of an image's hidden activations", minimum=0.0)


@dataclass(frozen=True)
class Config:
    """Everything that can change the result."""

    data: DataConfig = DataConfig(name="mnist")
    augment: AugmentConfig = AugmentConfig()
    model: ModelConfig = ModelConfig()
    penalty: PenaltyConfig = PenaltyConfig()
    optimizer: OptimizerConfig = OptimizerConfig(name="adam", learning_rate=1e-3, schedule="cosine")
    loss: LossConfig = LossConfig()
    train: TrainConfig = TrainConfig(
        steps=4000, batch_size=100, eval_batch_size=500, log_every=200, eval_every=500, checkpoint_every=2000
    )


def build(config: Config) -> Experiment:
    """The experiment."""
    from experiments.images import experiment_for, open_images, phase_for
    from jaxdl.models.mlp import CountingMLP
    from jaxdl.optimizers import make_optimizer
    from jaxdl.tasks.sparse import PRICE, sparse_classification

    images = open_images(config.data, config.augment)
    task = sparse_classification(
        CountingMLP(config.model.features, len(images.dataset.classes)),
        make_optimizer(config.optimizer, config.train.steps),
        images.dataset.image_shape,
        accumulate=config.train.accumulate,
        ema_decay=config.optimizer.ema_decay,
    )
    phase = phase_for(config, task, images)
    phase = phase_for(config, task, images, hyper={**phase.hyper, PRICE: config.penalty.activation_l1})
    return experiment_for(config, (phase,), images, judge=judge, report=report)


def judge(judged: Any) -> dict[str, float]:
    """The penalty that the seed drew."""
    return {"test/activation_l1": float(judged.state.hyper["activation_l1"][0])}


def report(view: Any) -> list:
    """Glorot's figure: test error against the share of zeros, one point a network."""
    from jaxdl.reports.page import Figure, Section

    zeros, accuracy = (100 * np.array(view.values(f"test/{name}")) for name in ("zeros", "accuracy"))
    caption = f"Test error against the share of hidden units that are exactly zero, {len(zeros)} networks."
    return [Section("Sparsity and accuracy", [Figure("sparsity", caption, lambda: draw(zeros, 100 - accuracy))])]


def draw(zeros: np.ndarray, errors: np.ndarray) -> Any:
    """The scatter as a matplotlib Figure; both [n] in %."""
    from jaxdl.reports.style import PALETTE, new_figure

    figure = new_figure()
    axes = figure.add_subplot()
    axes.plot(zeros, errors, "o", color=PALETTE[0], markersize=3.5, alpha=0.7)
    axes.set_xlabel("hidden units that are zero (%)")
    axes.set_ylabel("test error (%)")
    return figure
