"""What an image classifier's report, its predictions and its baselines show."""

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np

from jaxdl.engine.digest import part_name

# baselines that fit in less than a second up to here
_SMALL = 5000
# numbers in all images: more take longer than the report may (13 s for 256 and 10,000 of CIFAR-10)
_PIXELS = 5_000_000


def report(view: Any, images: Any) -> list:
    """Sections: comparison with baselines, ensemble, confusion, mistakes, calibration, filters, inputs, layers."""
    from jaxdl.engine.inspect import first_batch
    from jaxdl.nn.summary import layer_table
    from jaxdl.reports.classifier import classifier_sections
    from jaxdl.reports.comparison import Contender, comparison_section, ensemble_section, seeds_section
    from jaxdl.reports.norms import parameter_section
    from jaxdl.reports.pictures import filters_section, inputs_section

    dataset = images.dataset
    outputs = [view.outputs(i, "test")["probabilities"] for i in view.done]
    test = {name: array[: len(outputs[0])] for name, array in dataset.splits["test"].items()}  # a smoke run reads a few
    shown = view.records[view.done[0]]
    sections = []
    if len(view.records) > 1:
        seeds = [view.records[i]["seed"] for i in view.done]
        names = [name for name in shown["metrics"] if not name.startswith("train/")]
        sections.append(seeds_section(seeds, {name: view.values(name) for name in names}))
    if len(outputs) > 1:
        accuracies = view.values("test/accuracy")
        together = ensemble_accuracy(outputs, test["label"])
        sections.append(ensemble_section({"test/accuracy": accuracies}, {"test/accuracy": together}))
    contenders = [Contender(shown["recipe"], view.values("test/accuracy"), ours=True)]
    contenders += [Contender(name, value, note) for name, value, note in baselines(dataset)]
    notes = " ".join(f"{note[0].upper()}{note[1:]}." for note in dataset.notes)
    sections.append(comparison_section("test/accuracy", contenders, text=notes))
    sections += classifier_sections(outputs[0], test["label"], test["image"], dataset.classes)
    task = view.experiment.phases[-1].task
    shape = tuple(test["image"].shape[1:])
    layers = layer_table(task.model, (1, *shape))
    layers = [dataclasses.replace(row, output_shape=row.output_shape[1:]) for row in layers]
    path, kernel = first_kernel(view.state(view.done[0]).nets["model"].params, [row.path for row in layers])
    if kernel is not None:
        sections.append(filters_section(kernel, shape, path=path))
    batch = first_batch(view.experiment.phases[-1].source, shown["seed"])
    names = [dataset.classes[int(label)] for label in batch["label"]]
    sections.append(inputs_section(np.asarray(batch["image"]), names))
    sections.append(parameter_section(layers))
    return sections


def ensemble_metrics(view: Any, dataset: Any) -> dict[str, float]:
    """Test accuracy of the averaged probabilities of all seeds."""
    outputs = [view.outputs(i, "test")["probabilities"] for i in view.done]
    labels = dataset.splits["test"]["label"]
    return {"test/accuracy": ensemble_accuracy(outputs, labels[: len(outputs[0])])} if outputs else {}


def ensemble_accuracy(probabilities: Sequence[np.ndarray], labels: np.ndarray) -> float:
    """Accuracy of the members' averaged probabilities, each [n, K]."""
    return float((np.mean(probabilities, axis=0).argmax(axis=1) == labels).mean())


def first_kernel(params: Any, order: Sequence[str]) -> tuple[str, np.ndarray | None]:
    """Path and weights [...] of the first layer in `order` that has a kernel, from stacked parameters [1, ...]."""
    found: dict[str, np.ndarray] = {}
    for path, leaf in jax.tree_util.tree_flatten_with_path(params)[0]:
        if part_name(path[-1]) == "kernel":
            found["/".join(part_name(key) for key in path[:-1])] = np.asarray(leaf)[0]
    for name in [*order, *found]:
        if name in found:
            return name, found[name]
    return "", None


def baselines(dataset: Any) -> list[tuple[str, float, str]]:
    """(name, test accuracy, note) of what a network must beat, fitted on the training split; of large data sets only the
    majority class."""
    train, test = dataset.splits["train"], dataset.splits["test"]
    majority = np.bincount(train["label"]).argmax()
    found = [("majority class", float((test["label"] == majority).mean()), "")]
    if len(train["label"]) > _SMALL or train["image"].size + test["image"].size > _PIXELS:
        return found
    import warnings

    from sklearn.linear_model import LogisticRegression
    from sklearn.svm import SVC

    x, y = train["image"].reshape(len(train["label"]), -1) / 255.0, train["label"]
    x_test = test["image"].reshape(len(test["label"]), -1) / 255.0
    for name, model, note in (
        ("logistic regression", LogisticRegression(max_iter=500), "scikit-learn, default settings"),
        ("support vector machine", SVC(gamma="scale"), "scikit-learn, RBF kernel, default settings"),
    ):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # not converged is good enough for a baseline
            model.fit(x, y)
        found.append((name, float(model.score(x_test, test["label"])), note))
    return found


def reader(images: Any) -> Callable[[str], dict]:
    """A user's image file -> {"image": uint8 [H, W, C]} as the data set has them."""

    def read(path: str) -> dict:
        from jaxdl.data.images import read_image

        dataset = images.dataset
        options = {"light_on_dark": dataset.light_on_dark, "margin": dataset.ink_margin}
        return {"image": read_image(path, *dataset.image_shape, **options)}

    return read


def describe_prediction(classes: Sequence[str]) -> Callable[[dict], dict]:
    """Probabilities [K] of one example -> label, confidence and the five most probable classes."""

    def describe(outputs: dict) -> dict:
        found = np.asarray(outputs["probabilities"], np.float64)
        order = np.argsort(-found, kind="stable")[:5]
        top = [{"label": classes[int(k)], "confidence": float(found[k])} for k in order]
        return {"label": top[0]["label"], "confidence": top[0]["confidence"], "top": top}

    return describe
