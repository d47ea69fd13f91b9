"""What a classifier does on a test set: which classes it confuses, and where it is wrong and sure of itself."""

import math
from collections.abc import Sequence

import numpy as np

from jaxdl.reports.calibration import calibration_section
from jaxdl.reports.intervals import wilson_interval
from jaxdl.reports.page import Figure, Section, Table
from jaxdl.reports.pictures import Tile, as_picture, draw_grid
from jaxdl.reports.style import VERMILLION, compact, new_figure, percent, percent_axis, plain

_DARK = "#30373f"


def confusion_matrix(labels: np.ndarray, predictions: np.ndarray, classes: int) -> np.ndarray:
    """Counts [C, C] of examples by label (row) and prediction (column), from two [n] arrays of class numbers."""
    joint = np.asarray(labels, np.int64) * classes + np.asarray(predictions, np.int64)
    return np.bincount(joint, minlength=classes * classes).reshape(classes, classes)


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
    note = f"{left_out:,} of {len(labels):,} examples are left out: their probabilities are not finite."
    note = note if left_out else ""
    probabilities, labels = probabilities[finite], labels[finite]
    if not len(labels):
        return [Section("Predictions", text=note)]
    predictions = probabilities.argmax(axis=1)
    confidence = probabilities.max(axis=1)
    counts = confusion_matrix(labels, predictions, len(names))
    sections = [_confusion_section(counts, names, split, note)]
    if images is not None:
        numbers = np.flatnonzero(finite)
        pictures = np.asarray(images)[finite]
        sections.append(_mistakes_section(pictures, labels, predictions, confidence, numbers, names, split, mistakes))
    sections.append(calibration_section(probabilities, labels, split, bins))
    sections.append(class_table(counts, names, split))
    return sections


def class_table(counts: np.ndarray, names: Sequence[str], split: str = "test") -> Section:
    """Accuracy by class with Wilson's 95 % interval, precision and F1, from confusion counts [C, C]."""
    total, predicted, right = counts.sum(axis=1), counts.sum(axis=0), np.diag(counts)
    low, high = wilson_interval(right, total)
    rows = []
    for c, name in enumerate(names):
        recall, precision = _ratio(right[c], total[c]), _ratio(right[c], predicted[c])
        f1 = _ratio(2 * right[c], total[c] + predicted[c])
        interval = f"{percent(low[c])} – {percent(high[c])}" if total[c] else None
        rows.append([name, int(total[c]), int(right[c]), percent(recall), interval, percent(precision), percent(f1)])
    header = ["class", "examples", "right", "accuracy", "95 % interval", "precision", "F1"]
    overall = wilson_interval(right.sum(), total.sum())
    rows.append([
        "all", int(total.sum()), int(right.sum()), percent(_ratio(right.sum(), total.sum())),
        f"{percent(float(overall[0]))} – {percent(float(overall[1]))}", None, None,
    ])  # fmt: skip
    caption = f"Accuracy of a class (its recall) on the {split} split, with Wilson's interval for a proportion."
    return Section("Classes", [Table("", header, rows, caption, strong=(-1,), names=(0,), wide=True)])


def draw_confusion(counts: np.ndarray, names: Sequence[str]):
    """Confusion counts [C, C] as a matplotlib Figure: shade is the share of the row, numbers are counts."""
    from matplotlib.colors import PowerNorm

    classes = len(names)
    size = 5.2 if classes <= 12 else 6.4 if classes <= 30 else 9.0
    figure = new_figure(size, size * 0.86)
    axes = figure.add_subplot()
    with np.errstate(invalid="ignore", divide="ignore"):
        shares = np.nan_to_num(counts / counts.sum(axis=1, keepdims=True))
    # a square-root scale: one mistake in a hundred is to be seen beside the diagonal
    picture = axes.imshow(shares, cmap="Blues", norm=PowerNorm(0.5, vmin=0.0, vmax=1.0), interpolation="nearest")
    axes.grid(False)
    if _annotated(counts):
        _write_counts(axes, counts, shares, 72 * 0.68 * size / classes)
    every = math.ceil(classes / 50)
    short = [plain(name, 12) for name in names[::every]]
    label_size = 10 if classes <= 10 else 8.5 if classes <= 20 else 7
    turned = max(len(name) for name in short) > 2 or classes > 30
    axes.set_xticks(range(0, classes, every), short, fontsize=label_size, rotation=90 if turned else 0)
    axes.set_yticks(range(0, classes, every), short, fontsize=label_size)
    axes.set_xlabel("prediction")
    axes.set_ylabel("label")
    bar = figure.colorbar(picture, ax=axes, fraction=0.045, pad=0.02, ticks=[0, 0.01, 0.05, 0.25, 0.5, 1])
    percent_axis(bar.ax.yaxis)
    bar.set_label("share of the label's examples")
    bar.outline.set_visible(False)
    return figure


def _annotated(counts: np.ndarray) -> bool:
    # more numbers nobody reads, and they take long to draw
    return len(counts) <= 30 and int(np.count_nonzero(counts)) <= 300


def _write_counts(axes, counts: np.ndarray, shares: np.ndarray, cell: float) -> None:
    """The counts [C, C] that are not zero, as large as cells of `cell` points allow, white on dark shades."""
    for row, column in zip(*np.nonzero(counts), strict=True):
        text = str(counts[row, column])
        if cell / len(text) < 4:
            text = compact(int(counts[row, column]))
        size = min(max(cell / (0.72 * len(text)), 5.0), 11.0)
        color = "white" if shares[row, column] > 0.35 else "#1b2129"
        axes.text(column, row, text, ha="center", va="center", color=color, fontsize=size)


def _confusion_section(counts: np.ndarray, names: Sequence[str], split: str, note: str) -> Section:
    total, right = int(counts.sum()), int(np.trace(counts))
    errors = counts - np.diag(np.diag(counts))
    numbers = ", a number a count" if _annotated(counts) else ""
    caption = (
        f"Confusion matrix of the {total:,} {split} examples: a row is a label, a column a prediction{numbers}. "
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
            rows.append([names[row], names[column], int(errors[row, column]), percent(share)])
        header = ["label", "taken for", "count", "of the label"]
        items.append(Table("Most frequent confusions", header, rows, names=(0, 1)))
    text = f"{right:,} of {total:,} {split} examples are right, {total - right:,} are wrong."
    return Section("Confusion matrix", items, f"{text} {note}".strip())


def _mistakes_section(
    images: np.ndarray,
    labels: np.ndarray,
    predictions: np.ndarray,
    confidence: np.ndarray,
    numbers: np.ndarray,
    names: Sequence[str],
    split: str,
    limit: int,
) -> Section:
    wrong = np.flatnonzero(predictions != labels)
    title = "Most confident mistakes"
    if not len(wrong):
        return Section(title, text=f"There are none: every {split} example is right.")
    order = wrong[np.argsort(-confidence[wrong], kind="stable")][:limit]
    tiles, rows = [], []
    longest = max(len(name) for name in names)
    for picture, index in zip(as_picture(images[order]), order, strict=True):
        label, prediction, sure = names[labels[index]], names[predictions[index]], _confidence(confidence[index])
        if longest <= 4:
            lines, colors = [f"{plain(prediction)} ({sure})", f"is {plain(label)}"], [VERMILLION, _DARK]
        else:
            lines = [plain(prediction, 14), f"({sure})", f"is {plain(label, 14)}"]
            colors = [VERMILLION, VERMILLION, _DARK]
        tiles.append(Tile(picture, lines, colors))
        rows.append([int(numbers[index]), label, prediction, sure])
    many = f"The {len(order)} most confident of {len(wrong):,} mistakes" if len(order) < len(wrong) else "All mistakes"
    caption = f"{many}, the most confident first: prediction (confidence), below it the label."
    figure = Figure("mistakes", caption, lambda: draw_grid(tiles, 4), picture=True)
    note = f"The first column is the number of the example in the {split} split."
    table = Table("", ["example", "label", "prediction", "confidence"], rows, note, names=(1, 2))
    return Section(title, [figure, table])


def _confidence(value: float) -> str:
    # a mistake is never shown as certain when it is not
    return "> 99.9 %" if 0.9995 <= value < 1 else percent(value)


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
