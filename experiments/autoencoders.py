"""Learning without labels as an experiment: what autoencoders, PCA and Boltzmann machines share."""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from experiments.images import Images, sizes
from jaxdl.data.augment import AugmentConfig, Transform
from jaxdl.data.binary import Threshold
from jaxdl.data.datasets import DataConfig, load
from jaxdl.engine.experiment import Experiment, Phase
from jaxdl.optimizers import OptimizerConfig, depends_on_total_steps, describe, hyper_parameters, make_optimizer
from jaxdl.settings import setting

# Hinton & Salakhutdinov, Science 2006: squared error per test image of MNIST with 30 values
PUBLISHED = {"deep autoencoder": 3.00, "logistic PCA": 8.01, "PCA": 13.87}


@dataclass(frozen=True)
class CodeConfig:
    """An autoencoder without hidden layers."""

    code: int = setting(10, "values of the code", minimum=1)
    tied: bool = setting(False, "the decoder's weights are the encoder's, transposed")


@dataclass(frozen=True)
class BinaryImages(Images):
    """Images thresholded at one half."""

    @property
    def transform(self) -> Transform:
        """To zeros and ones."""
        return Threshold()


def open_pictures(data: DataConfig, binary: bool = False) -> Images:
    """A data set with pixels in [0, 1], or thresholded at one half."""
    kind = BinaryImages if binary else Images
    return kind(load(data), AugmentConfig(), standardise=False)


def pixels(images: Images, split: str) -> np.ndarray:
    """The images [n, D] of a split as the model sees them, on the host."""
    stored = images.dataset.splits[split]["image"]
    values = stored.reshape(len(stored), -1).astype(np.float32) / 255.0
    return (values > 0.5).astype(np.float32) if isinstance(images, BinaryImages) else values


def values_per_image(images: Images) -> int:
    """D."""
    return int(np.prod(images.dataset.image_shape))


def phase_for(config: Any, task: Any, images: Images, name: str = "train", **changes: Any) -> Phase:
    """A phase judged by the validation loss."""
    phase = Phase(
        name=name,
        task=task,
        source=images.training(config.train.batch_size),
        steps=config.train.steps,
        hyper=hyper_parameters(config.optimizer),
        evaluations={"validation": images.evaluation("validation", config.train.eval_batch_size)},
        objective=("validation/loss", "min"),
        patience=config.train.patience,
    )
    return dataclasses.replace(phase, **changes)


def experiment_for(config: Any, phases: tuple[Phase, ...], images: Images, **changes: Any) -> Experiment:
    """The experiment of a model without labels: test split at the end, files for predict."""
    from experiments.classifier_report import reader

    dataset = images.dataset
    optimizer: OptimizerConfig | None = getattr(config, "optimizer", None)
    facts = {"data": sizes(dataset)} | ({"optimiser": describe(optimizer)} if optimizer else {})
    experiment = Experiment(
        name="",
        phases=phases,
        train=config.train,
        final={"test": images.evaluation("test", config.train.eval_batch_size)},
        data={"name": dataset.name, "version": dataset.version, "fingerprint": dataset.fingerprint},
        items="images",
        read_input=reader(images),
        show=describe_outputs,
        facts=facts,
        steps_may_grow=optimizer is not None and not depends_on_total_steps(optimizer),
    )
    return dataclasses.replace(experiment, **changes)


def autoencoder(config: Any, features: Sequence[int], output: str, tied: bool = False) -> Experiment:
    """One phase of training an autoencoder to reconstruct images.

    Args:
      config: a recipe's, with `data`, `optimizer` and `train`.
      features: widths of the encoder's layers, the last one the code's.
      output: one of `jaxdl.tasks.reconstruction.OUTPUTS`.
      tied: whether the decoder has the encoder's weights.
    """
    images = open_pictures(config.data)
    task = reconstruction_task(config, images, features, output, tied)
    report = autoencoder_report(images, published_for(config, features[-1]))
    return experiment_for(config, (phase_for(config, task, images),), images, report=report)


def reconstruction_task(config: Any, images: Images, features: Sequence[int], output: str, tied: bool = False) -> Any:
    """The task of an autoencoder on a data set; arguments as in `autoencoder`."""
    from jaxdl.models.autoencoder import Autoencoder
    from jaxdl.tasks.reconstruction import reconstruction

    return reconstruction(
        Autoencoder(values_per_image(images), tuple(features), tied=tied),
        make_optimizer(config.optimizer, config.train.steps),
        images.dataset.image_shape,
        output,
        accumulate=config.train.accumulate,
        ema_decay=config.optimizer.ema_decay,
    )


def describe_outputs(outputs: dict) -> dict:
    """What a model makes of one image: {"label": "a code of 30 values", "squared_error": 3.1}; the squared error is summed
    over the pixels, "bound" and "log_likelihood" are in nats."""
    found = {name: float(outputs[name]) for name in ("squared_error", "bound", "log_likelihood") if name in outputs}
    return {"label": f"a code of {np.shape(outputs['code'])[-1]} values", **found}


# --- reports ------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Contest:
    """What a reconstruction is compared with.

    Attributes:
      mean: PCA's [D].
      components: PCA's [K, D], as many as the code has values.
    """

    mean: np.ndarray
    components: np.ndarray

    def codes(self, x: np.ndarray) -> np.ndarray:
        """[n, K] of x [n, D]."""
        return (x - self.mean) @ self.components.T

    def reconstructions(self, x: np.ndarray) -> np.ndarray:
        """[n, D] of x [n, D], not clipped."""
        return self.mean + self.codes(x) @ self.components


def fitted_pca(images: Images, values: int) -> Contest:
    """PCA with a code of `values` values, fitted on train and validation."""
    from jaxdl.models.pca import fit_pca

    x = pixels(images, "train+validation")
    return Contest(*fit_pca(x, min(values, x.shape[1])))


def reconstruction_sections(view: Any, images: Images, published: Mapping[str, float] | None = None) -> list:
    """Originals above reconstructions and PCA's, squared errors beside PCA's, and the plane of two-dimensional codes."""
    from jaxdl.reports.autoencoder import one_of_each, reconstructions_section
    from jaxdl.reports.comparison import Contender, comparison_section, seeds_section

    outputs = view.outputs(view.done[0], "test")
    count, code = len(outputs["reconstruction"]), outputs["code"].shape[-1]
    x, labels = pixels(images, "test")[:count], images.dataset.splits["test"]["label"][:count]
    pca = fitted_pca(images, code)
    theirs, ours = pca.reconstructions(x), outputs["reconstruction"]
    errors = {name: np.square(found - x).sum(axis=1) for name, found in (("ours", ours), ("PCA", theirs))}
    chosen = one_of_each(labels)
    shape = images.dataset.image_shape[:2]
    rows = {"originals": x, view.records[0]["recipe"]: ours, f"PCA with {code} values": theirs}
    shown = {name: values[chosen].reshape(-1, *shape) for name, values in rows.items()}
    below = dict(zip(list(rows)[1:], (errors["ours"][chosen], errors["PCA"][chosen]), strict=True))
    sections = [reconstructions_section(shown, below)]
    contenders = [Contender(view.records[0]["recipe"], _squared_errors(view, errors["ours"]), ours=True)]
    contenders.append(
        Contender(f"PCA, {code} values", float(errors["PCA"].mean()), "closed form, train and validation")
    )
    for name, value in (published or {}).items():
        contenders.append(Contender(f"{name}, published", value, "Hinton & Salakhutdinov 2006, 30 values"))
    text = "Squared error per test image, summed over its pixels in 0 ... 1."
    sections.append(comparison_section("test/squared_error", contenders, "Comparison", text))
    if len(view.records) > 1:
        seeds = [view.records[i]["seed"] for i in view.done]
        names = [name for name in view.records[view.done[0]]["metrics"] if not name.startswith("train/")]
        sections.append(seeds_section(seeds, {name: view.values(name) for name in names}))
    if code == 2:
        sections.append(plane_section(view, images, pca, outputs["code"]))
    return sections


def _squared_errors(view: Any, first: np.ndarray) -> list[float]:
    return view.values("test/squared_error") or [float(first.mean())]


def plane_section(view: Any, images: Images, pca: Contest, codes: np.ndarray) -> Any:
    """Two-dimensional codes of the test images by class, ours and PCA's, with the accuracy of nearest neighbours."""
    from jaxdl.engine.compiled import collect
    from jaxdl.reports.autoencoder import latent_section, neighbour_accuracy

    splits, task = images.dataset.splits, view.experiment.phases[-1].task
    batch = view.experiment.final["test"].batch_size
    found = collect(task, view.state(view.done[0]), images.evaluation("train", batch))["code"]
    x, x_train = pixels(images, "test")[: len(codes)], pixels(images, "train")
    labels = splits["test"]["label"][: len(codes)]
    spaces = {view.records[0]["recipe"]: (found, codes), "PCA": (pca.codes(x_train), pca.codes(x))}
    accuracies = {
        name: neighbour_accuracy(train, splits["train"]["label"], test, labels)
        for name, (train, test) in spaces.items()
    }
    shown = {name: (test, labels) for name, (_, test) in spaces.items()}
    return latent_section(shown, images.dataset.classes, accuracies)


def weights_section(kernel: np.ndarray, images: Images, path: str) -> Any:
    """Weights [D, units] of a first layer as pictures."""
    from jaxdl.reports.pictures import filters_section

    return filters_section(np.asarray(kernel), images.dataset.image_shape, path=path)


def layers_section(view: Any) -> Any:
    """The table of a Flax model's layers."""
    from jaxdl.nn.summary import layer_table
    from jaxdl.reports.norms import parameter_section

    task = view.experiment.phases[-1].task
    rows = layer_table(task.model, (1, *task.example))
    return parameter_section([dataclasses.replace(row, output_shape=row.output_shape[1:]) for row in rows])


def autoencoder_report(images: Images, published: Mapping[str, float] | None = None) -> Callable[[Any], list]:
    """The report of an `Autoencoder`: reconstructions, comparison, plane, first-layer weights, layers."""

    def report(view: Any) -> list:
        params = view.state(view.done[0]).nets["model"].params
        sections = reconstruction_sections(view, images, published)
        sections.append(weights_section(params["encoder_0"]["kernel"][0], images, "encoder_0"))
        return [*sections, layers_section(view)]

    return report


def published_for(config: Any, values: int) -> dict[str, float]:
    """The published errors, where they can be compared: MNIST and 30 values."""
    return PUBLISHED if config.data.name == "mnist" and values == 30 else {}


# --- samples ------------------------------------------------------------------------------------------------------------


def wanted(request: Any) -> int:
    """How many pictures: as asked for, or a grid of 64 where nobody asked for more than one."""
    return request.count if request.count > 1 else 64


def write_samples(images: np.ndarray, request: Any) -> None:
    """Writes images [n, H, W] in [0, 1] as samples.png and samples.npy into the request's folder."""
    from PIL import Image

    from jaxdl.reports.autoencoder import tiled

    np.save(request.folder / "samples.npy", images.astype(np.float32))
    sheet = Image.fromarray(tiled(images))
    scale = max(1, 56 // images.shape[1])
    sheet.resize((sheet.width * scale, sheet.height * scale), Image.Resampling.NEAREST).save(
        request.folder / "samples.png"
    )
    request.emit(f"{len(images)} samples: samples.png, samples.npy\n")
