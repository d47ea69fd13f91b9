"""Image classification as an experiment: what the recipes on digits, MNIST and CIFAR-10 share."""

import dataclasses
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import flax.linen as nn

from jaxdl.data.augment import AugmentConfig, Transform
from jaxdl.data.datasets import DataConfig, Dataset, load
from jaxdl.data.source import Resident
from jaxdl.engine.experiment import Experiment, Phase, TrainConfig
from jaxdl.optimizers import OptimizerConfig, depends_on_total_steps, describe, hyper_parameters, make_optimizer
from jaxdl.settings import setting
from jaxdl.tasks.classification import classification as classifier
from jaxdl.tasks.supervised import Supervised

OBJECTIVE = ("validation/accuracy", "max")


@dataclass(frozen=True)
class LossConfig:
    """What is minimised."""

    label_smoothing: float = setting(0.0, "share of the target spread over all classes", minimum=0.0, maximum=0.999)


@dataclass(frozen=True)
class Images:
    """A data set with the transforms that its training statistics give."""

    dataset: Dataset
    augment: AugmentConfig
    standardise: bool = True

    @property
    def transform(self) -> Transform:
        """For evaluation: to float and, with training statistics only, standardised."""
        if not self.standardise:
            return Transform()
        return Transform(tuple(map(float, self.dataset.mean)), tuple(map(float, self.dataset.std)))

    def training(self, batch_size: int, split: str = "train") -> Resident:
        """Endless shuffled epochs with augmentation."""
        transform = dataclasses.replace(self.transform, augment=self.augment)
        return Resident.of(self.dataset.splits[split], batch_size, shuffle=True, transform=transform)

    def evaluation(self, split: str, batch_size: int) -> Resident:
        """All of a split, once."""
        return Resident.of(self.dataset.splits[split], batch_size, shuffle=False, transform=self.transform)


def open_images(data: DataConfig, augment: AugmentConfig, standardise: bool = True) -> Images:
    """Loads a data set; see `jaxdl.data.datasets.load`."""
    return Images(load(data), augment, standardise)


def task_for(images: Images, model: nn.Module, optimizer: OptimizerConfig, train: TrainConfig) -> Supervised:
    """The classification task of a model on a data set."""
    return classifier(
        model,
        make_optimizer(optimizer, train.steps),
        images.dataset.image_shape,
        accumulate=train.accumulate,
        ema_decay=optimizer.ema_decay,
    )


def classification(config: Any, model_for: Callable[[int], nn.Module], **changes: Any) -> Experiment:
    """One phase of training by softmax cross entropy, judged by validation accuracy.

    Args:
      config: a recipe's, with `data`, `augment`, `optimizer`, `loss` and `train`.
      model_for: number of classes K -> a model with logits [B, K].
      **changes: fields of Experiment that differ.
    """
    images = open_images(config.data, config.augment)
    task = task_for(images, model_for(len(images.dataset.classes)), config.optimizer, config.train)
    phase = phase_for(config, task, images)
    return experiment_for(config, (phase,), images, **changes)


def phase_for(
    config: Any, task: Supervised, images: Images, name: str = "train", split: str = "train", **changes
) -> Phase:
    """A phase on `split`, evaluated on the validation split."""
    hyper = {**hyper_parameters(config.optimizer), "label_smoothing": config.loss.label_smoothing}
    phase = Phase(
        name=name,
        task=task,
        source=images.training(config.train.batch_size, split),
        steps=config.train.steps,
        hyper=hyper,
        evaluations={"validation": images.evaluation("validation", config.train.eval_batch_size)},
        objective=OBJECTIVE,
        patience=config.train.patience,
    )
    return dataclasses.replace(phase, **changes)


def experiment_for(config: Any, phases: tuple[Phase, ...], images: Images, **changes: Any) -> Experiment:
    """The experiment of a classifier: test split at the end, baselines for --check, files for predict, the report."""
    from experiments.classifier_report import baselines, describe_prediction, ensemble_metrics, reader, report

    dataset = images.dataset
    experiment = Experiment(
        name="",
        phases=phases,
        train=config.train,
        final={"test": images.evaluation("test", config.train.eval_batch_size)},
        data={"name": dataset.name, "version": dataset.version, "fingerprint": dataset.fingerprint},
        items="images",
        report=lambda view: report(view, images),
        read_input=reader(images),
        show=describe_prediction(dataset.classes),
        check=lambda: baselines(dataset),
        ensemble=lambda view: ensemble_metrics(view, dataset),
        expected_loss=math.log(len(dataset.classes)),
        facts={"data": sizes(dataset), "optimiser": describe(config.optimizer)},
        steps_may_grow=not depends_on_total_steps(config.optimizer),
    )
    return dataclasses.replace(experiment, **changes)


def sizes(dataset: Dataset) -> str:
    """ "digits: 1,077 train, 360 validation, 360 test"."""
    parts = [f"{len(dataset.splits[name]['label']):,} {name}" for name in ("train", "validation", "test")]
    return f"{dataset.name}: " + ", ".join(parts)
