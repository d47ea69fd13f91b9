"""What a classifier does on a test set: where it errs, how sure it is, and whether it may be."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from jaxdl.reports.intervals import wilson_interval
from jaxdl.reports.page import Figure, Headline, Section, Table
from jaxdl.reports.pictures import Tile, as_picture, draw_grid
from jaxdl.reports.style import BLUE, GREY, VERMILLION, compact, new_figure, percent_axis, plain


@dataclass(frozen=True)
class Calibration:
    """Confidence against accuracy in M bins of equal width over (0, 1].

    Attributes:
      edges: [M + 1].
      count: [M] examples whose confidence lies in (edges[m], edges[m + 1]].
      confidence: [M] their mean confidence, NaN in an empty bin.
      accuracy: [M] the share of them that is right, NaN in an empty bin.
      error: expected calibration error, sum_m count_m / n |accuracy_m - confidence_m| (Guo et al. 2017, eq. 3).
    """

    edges: np.ndarray
    count: np.ndarray
    confidence: np.ndarray
    accuracy: np.ndarray
    error: float


def confusion_matrix(labels: np.ndarray, predictions: np.ndarray, classes: int) -> np.ndarray:
    """Counts [C, C] of examples by label (row) and prediction (column), from two [n] arrays of class numbers."""
    joint = np.asarray(labels, np.int64) * classes + np.asarray(predictions, np.int64)
    return np.bincount(joint, minlength=classes * classes).reshape(classes, classes)


def calibration(confidence: np.ndarray, correct: np.ndarray, bins: int = 15) -> Calibration:
    """Bins the confidence [n] in [0, 1] of predictions that are `correct` [n] or not; see Calibration."""
    confidence, correct = np.asarray(confidence, float), np.asarray(correct, float)
    edges = np.linspace(0.0, 1.0, bins + 1)
    index = np.clip(np.searchsorted(edges, confidence, side="left") - 1, 0, bins - 1)
    count = np.bincount(index, minlength=bins)
    with np.errstate(invalid="ignore"):
        mean = np.bincount(index, confidence, bins) / count
        accuracy = np.bincount(index, correct, bins) / count
    filled = count > 0
    gaps = np.abs(accuracy - mean)[filled]
    error = float((count[filled] * gaps).sum() / max(count.sum(), 1))
    return Calibration(edges, count, mean, accuracy, error)


def classifier_sections(
    probabilities: np.ndarray,
    labels: np.ndarray,
    images: np.ndarray | None = None,
    classes: Sequence[str] | None = None,
    split: str = "test",
    mistakes: int = 20,
    bins: int = 15,
) -> list[Section]:
    """The pages of a classifier: confusion matrix, most confident mistakes, calibration and a table of its classes.

    Args:
      probabilities: [n, C], rows sum to 1. Rows that are not finite are left out, and the report says so.
      labels: [n] in 0 .. C-1.
      images: uint8 [n, H, W, C'] as a person would look at them (floats are stretched); None: no grid of mistakes.
      classes: C names; default: the numbers.
      split: what the examples are called in the text.
      mistakes: the most to be shown.
      bins: number of bins of the reliability diagram and of the calibration error.

    Returns:
      Up to four sections with figures "confusion", "mistakes" and "reliability"; empty ones without any finite row.

    Raises:
      ValueError: shapes that do not fit each other, or labels outside 0 .. C-1.
    """
    probabilities, labels = np.asarray(probabilities, float), np.asarray(labels, np.int64)
    names = [str(name) for name in classes] if classes is not None else [str(c) for c in range(probabilities.shape[-1])]
    _check(probabilities, labels, images, names)
    finite = np.isfinite(probabilities).all(axis=1)
    left_out = int((~finite).sum())
    note = (
        f"{left_out:,} of {len(labels):,} examples are left out: their probabilities are not finite."
        if left_out
        else ""
    )
    probabilities, labels = probabilities[finite], labels[finite]
    if not len(labels):
        return [Section("Predictions", text=note)]
    predictions = probabilities.argmax(axis=1)
    confidence = probabilities.max(axis=1)
    counts = confusion_matrix(labels, predictions, len(names))
    sections = [_confusion_section(counts, names, split, note)]
    if images is not None:
        sections.append(
            _mistakes_section(np.asarray(images)[finite], labels, predictions, confidence, names, split, mistakes)
        )
    sections.append(_calibration_section(calibration(confidence, predictions == labels, bins), split))
    sections.append(class_table(counts, names, split))
    return sections


def calibration_headline(probabilities: np.ndarray, labels: np.ndarray, bins: int = 15) -> Headline:
    """The expected calibration error of probabilities [n, C] as a number for the head of the report."""
    kept = np.isfinite(probabilities).all(axis=1)
    probabilities, labels = np.asarray(probabilities)[kept], np.asarray(labels)[kept]
    if not len(labels):
        return Headline("calibration error (ECE)", "–")
    right = probabilities.argmax(axis=1) == labels
    error = calibration(probabilities.max(axis=1), right, bins).error
    return Headline(
        "calibration error (ECE)", f"{error:.2%}".replace("%", " %"), note=f"{bins} bins, {len(labels):,} examples"
    )


def class_table(counts: np.ndarray, names: Sequence[str], split: str = "test") -> Section:
    """Accuracy by class with Wilson's 95 % interval, precision and F1, from confusion counts [C, C]."""
    total, predicted, right = counts.sum(axis=1), counts.sum(axis=0), np.diag(counts)
    low, high = wilson_interval(right, total)
    rows = []
    for c, name in enumerate(names):
        recall, precision = _ratio(right[c], total[c]), _ratio(right[c], predicted[c])
        f1 = _ratio(2 * right[c], total[c] + predicted[c])
        interval = f"{low[c]:.1%} – {high[c]:.1%}".replace("%", " %") if total[c] else None
        rows.append([name, int(total[c]), int(right[c]), _percent(recall), interval, _percent(precision), _percent(f1)])
    header = ["class", "examples", "right", "accuracy", "95 % interval", "precision", "F1"]
    overall = wilson_interval(right.sum(), total.sum())
    rows.append([
        "all", int(total.sum()), int(right.sum()), _percent(_ratio(right.sum(), total.sum())),
        f"{float(overall[0]):.1%} – {float(overall[1]):.1%}".replace("%", " %"), None, None,
    ])  # fmt: skip
    caption = f"Accuracy of a class (its recall) on the {split} split, with Wilson's interval for a proportion."
    return Section("Classes", [Table("", header, rows, caption, strong=(-1,), wide=True)])


def draw_confusion(counts: np.ndarray, names: Sequence[str]):
    """Confusion counts [C, C] as a matplotlib Figure: shade is the share of the row, numbers are counts."""
    from matplotlib.colors import PowerNorm

    classes = len(names)
    size = 5.2 if classes <= 12 else 6.4 if classes <= 30 else 9.0
    figure = new_figure(size, size * 0.96)
    axes = figure.add_subplot()
    with np.errstate(invalid="ignore", divide="ignore"):
        shares = np.nan_to_num(counts / counts.sum(axis=1, keepdims=True))
    # a square-root scale: one mistake in a hundred is to be seen beside the diagonal
    picture = axes.imshow(shares, cmap="Blues", norm=PowerNorm(0.5, vmin=0.0, vmax=1.0), interpolation="nearest")
    axes.grid(False)
    font = 10 if classes <= 10 else 8 if classes <= 16 else 6
    if classes <= 30:
        for row, column in zip(*np.nonzero(counts), strict=True):
            color = "white" if shares[row, column] > 0.4 else "#1b2129"
            text = compact(int(counts[row, column]))
            axes.text(
                column, row, text, ha="center", va="center", color=color, fontsize=font if len(text) < 4 else font - 1.5
            )
    every = math.ceil(classes / 50)
    short = [plain(name, 12) for name in names[::every]]
    label_size = 10 if classes <= 10 else 8.5 if classes <= 20 else 7
    turned = max(len(name) for name in short) > 2 or classes > 30
    axes.set_xticks(range(0, classes, every), short, fontsize=label_size, rotation=90 if turned else 0)
    axes.set_yticks(range(0, classes, every), short, fontsize=label_size)
    axes.set_xlabel("prediction")
    axes.set_ylabel("label")
    bar = figure.colorbar(picture, ax=axes, fraction=0.045, pad=0.02, ticks=[0, 0.01, 0.05, 0.25, 0.5, 1])
    percent_axis(bar.ax.yaxis, 0)
    bar.set_label("share of the label's examples")
    bar.outline.set_visible(False)
    return figure


def draw_reliability(result: Calibration):
    """A reliability diagram over a histogram of confidence as a matplotlib Figure."""
    figure = new_figure(5.2, 5.0)
    upper, lower = figure.subplots(2, 1, sharex=True, height_ratios=(2.2, 1))
    centres, width = (result.edges[:-1] + result.edges[1:]) / 2, np.diff(result.edges)
    filled = result.count > 0
    upper.bar(
        centres[filled],
        result.accuracy[filled],
        width[filled] * 0.92,
        color=BLUE,
        alpha=0.85,
        label="accuracy in the bin",
    )
    upper.plot([0, 1], [0, 1], color=GREY, linestyle=(0, (4, 3)), linewidth=1.2, label="perfectly calibrated")
    upper.plot(
        result.confidence[filled], result.accuracy[filled], "o", color=VERMILLION, markeredgecolor="white", markersize=6.5,
        label="at the bin's mean confidence", clip_on=False, zorder=4,
    )  # fmt: skip
    upper.set_ylim(0, 1)
    upper.set_xlim(0, 1)
    upper.set_ylabel("accuracy")
    percent_axis(upper.yaxis, 0)
    upper.legend(loc="upper left")
    upper.set_title(f"ECE = {result.error:.2%}".replace("%", " %"), loc="right")
    bars = lower.bar(centres, result.count, width * 0.92, color=GREY)
    lower.bar_label(bars, [compact(count) if count else "" for count in result.count], fontsize=8, padding=1.5)
    lower.set_ylim(0, max(result.count.max(), 1) * 1.22)
    lower.set_ylabel("examples")
    lower.set_xlabel("confidence (probability of the predicted class)")
    lower.locator_params(axis="y", nbins=4)
    percent_axis(lower.xaxis, 0)
    return figure


def _confusion_section(counts: np.ndarray, names: Sequence[str], split: str, note: str) -> Section:
    total, right = int(counts.sum()), int(np.trace(counts))
    errors = counts - np.diag(np.diag(counts))
    caption = (
        f"Confusion matrix of the {total:,} {split} examples: a row is a label, a column a prediction, a number a count. "
        "Shading: share of the row, on a square-root scale."
    )
    items: list[Figure | Table] = [
        Figure("confusion", caption, lambda: draw_confusion(counts, names), wide=len(names) > 30)
    ]
    order = [flat for flat in np.argsort(-errors, axis=None, kind="stable")[:12] if errors.flat[flat] > 0]
    if order:
        rows = []
        for row, column in (divmod(int(flat), len(names)) for flat in order):
            share = errors[row, column] / counts[row].sum()
            rows.append([names[row], names[column], int(errors[row, column]), _percent(share)])
        header = ["label", "taken for", "count", "of the label"]
        items.append(Table("Most frequent confusions", header, rows))
    text = f"{right:,} of {total:,} {split} examples are right, {total - right:,} are wrong."
    return Section("Confusion matrix", items, f"{text} {note}".strip())


def _mistakes_section(
    images: np.ndarray,
    labels: np.ndarray,
    predictions: np.ndarray,
    confidence: np.ndarray,
    names: Sequence[str],
    split: str,
    limit: int,
) -> Section:
    wrong = np.flatnonzero(predictions != labels)
    title = "Most confident mistakes"
    if not len(wrong):
        return Section(title, text=f"There are none: every {split} example is right.")
    order = wrong[np.argsort(-confidence[wrong], kind="stable")][:limit]
    pictures = as_picture(images[order])
    tiles = []
    for picture, index in zip(pictures, order, strict=True):
        # rounded down: a mistake is never shown as certain when it is not
        percent = f"{math.floor(1000 * confidence[index]) / 10:g} %"
        lines = [f"{plain(names[predictions[index]], 14)} ({percent})", f"is {plain(names[labels[index]], 14)}"]
        tiles.append(Tile(picture, lines, (VERMILLION, "#30373f")))
    caption = f"The {len(order)} of {len(wrong):,} mistakes with the highest confidence: prediction (confidence), below it the label."
    figure = Figure("mistakes", caption, lambda: draw_grid(tiles, 5), picture=True)
    header = ["example", "label", "prediction", "confidence"]
    rows = [[int(i), names[labels[i]], names[predictions[i]], f"{confidence[i]:.1%}".replace("%", " %")] for i in order]
    note = f"Numbers of the examples in the {split} split."
    return Section(title, [figure, Table("", header, rows, note)])


def _calibration_section(result: Calibration, split: str) -> Section:
    caption = (
        "Accuracy over confidence: on the diagonal a confidence of 90 % is right in nine cases of ten, below it the network is "
        f"too sure of itself. Below, how many of the {int(result.count.sum()):,} {split} examples fall into each bin."
    )
    rows = [
        [f"{low:.0%} – {high:.0%}".replace("%", " %"), int(count), _percent(mean), _percent(accuracy)]
        for low, high, count, mean, accuracy in zip(
            result.edges, result.edges[1:], result.count, result.confidence, result.accuracy, strict=False
        )
        if count
    ]
    text = (
        f"Expected calibration error: {result.error:.2%} (mean distance of confidence and accuracy over {len(result.count)} bins, "
        "weighted by their size)."
    ).replace("%", " %", 1)
    table = Table("", ["confidence", "examples", "mean confidence", "accuracy"], rows)
    return Section("Calibration", [Figure("reliability", caption, lambda: draw_reliability(result)), table], text)


def _check(probabilities: np.ndarray, labels: np.ndarray, images: np.ndarray | None, names: Sequence[str]) -> None:
    if probabilities.ndim != 2 or labels.shape != probabilities.shape[:1]:
        raise ValueError(f"probabilities must be [n, C] and labels [n], got {probabilities.shape} and {labels.shape}")
    if len(names) != probabilities.shape[1]:
        raise ValueError(f"{len(names)} class names for {probabilities.shape[1]} classes: give one for each")
    if images is not None and len(images) != len(labels):
        raise ValueError(f"{len(images)} images for {len(labels)} labels: give one for each, or none")
    if len(labels) and (labels.min() < 0 or labels.max() >= len(names)):
        raise ValueError(f"labels must lie in 0 .. {len(names) - 1}, got {labels.min()} .. {labels.max()}")


def _ratio(part: float, whole: float) -> float:
    return float(part) / float(whole) if whole else math.nan


def _percent(value: float) -> str | None:
    return f"{value:.1%}".replace("%", " %") if math.isfinite(value) else None
