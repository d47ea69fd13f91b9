"""What a regression does on a test set, and what a threshold network computes."""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from jaxdl.reports.page import Figure, Section, Table
from jaxdl.reports.style import BLUE, GREY, VERMILLION, new_figure, plain

_POINTS = 5000  # more dots than that are a blot, and slow


def regression_sections(
    predictions: np.ndarray,
    targets: np.ndarray,
    inputs: np.ndarray | None = None,
    deviations: np.ndarray | None = None,
    names: Sequence[str] = (),
    unit: str = "",
    split: str = "test",
) -> list[Section]:
    """Predictions against targets, residuals and, for one input, the fitted curve.

    Args:
      predictions: [n] or [n, D].
      targets: of the same shape; rows that are not finite are left out.
      inputs: [n] or [n, 1]: the fitted curve is drawn; with more columns it is not.
      deviations: predicted standard deviations, as predictions: drawn as a band of twice their size.
      names: D names of the targets.
      unit: unit of the targets.
      split: what the examples are called in the text.

    Returns:
      One section for each target with figures "predicted", "residuals" and "fit" (with a suffix for D > 1).

    Raises:
      ValueError: predictions and targets differ in shape, or the number of inputs or names does not fit.
    """
    predictions, targets = (_columns(values) for values in (predictions, targets))
    if predictions.shape != targets.shape:
        raise ValueError(
            f"predictions {predictions.shape} and targets {targets.shape} must have one shape, [n] or [n, D]"
        )
    if names and len(names) != targets.shape[1]:
        raise ValueError(f"{len(names)} names for {targets.shape[1]} targets: give one for each")
    if inputs is not None and len(inputs) != len(targets):
        raise ValueError(f"{len(inputs)} inputs for {len(targets)} targets: give one for each, or none")
    line = _columns(inputs) if inputs is not None else None
    spread = _columns(deviations) if deviations is not None else None
    sections = []
    for d in range(targets.shape[1]):
        name = str(names[d]) if names else "target" if targets.shape[1] == 1 else f"target {d + 1}"
        kept = np.isfinite(predictions[:, d]) & np.isfinite(targets[:, d])
        if not kept.any():
            continue
        one_input = line[kept, 0] if line is not None and line.shape[1] == 1 else None
        one_spread = spread[kept, d] if spread is not None else None
        suffix = "" if targets.shape[1] == 1 else f"_{d + 1}"
        sections.append(
            _target_section(predictions[kept, d], targets[kept, d], one_input, one_spread, name, unit, split, suffix)
        )
    return sections


def truth_table_section(
    inputs: np.ndarray,
    outputs: np.ndarray,
    expected: np.ndarray | None = None,
    names: Sequence[str] = (),
    title: str = "Truth table",
    text: str = "",
) -> Section:
    """What a threshold network answers to each input.

    Args:
      inputs: [n, k], zeros and ones.
      outputs: [n] or [n, m], what the network says.
      expected: as outputs, what it should say.
      names: k names of the inputs; default x1 ... xk.
      title: heading.
      text: the function and the weights, in words.
    """
    inputs, outputs = _columns(inputs), _columns(outputs)
    wanted = _columns(expected) if expected is not None else None
    header = [*(names or [f"x{index + 1}" for index in range(inputs.shape[1])])]
    header += ["output"] if outputs.shape[1] == 1 else [f"output {index + 1}" for index in range(outputs.shape[1])]
    header += [] if wanted is None else ["expected", "right"]
    rows, right = [], 0
    for index in range(len(inputs)):
        row: list[Any] = [_bit(value) for value in (*inputs[index], *outputs[index])]
        if wanted is not None:
            equal = bool(np.array_equal(outputs[index], wanted[index]))
            right += equal
            row += [" ".join(_bit(value) for value in wanted[index]), "yes" if equal else "NO"]
        rows.append(row)
    caption = "" if wanted is None else f"{right} of {len(rows)} rows are right."
    return Section(title, [Table("", header, rows, caption)] if rows else (), text)


def draw_predicted(predictions: np.ndarray, targets: np.ndarray, name: str = "target", unit: str = ""):
    """Predictions [n] over targets [n] with the diagonal, as a matplotlib Figure."""
    figure = new_figure(5.2, 4.4)
    axes = figure.add_subplot()
    shown = _thinned(len(targets))
    axes.plot(targets[shown], predictions[shown], "o", color=BLUE, **_dots(len(shown)), label="examples")
    ends = np.array([min(targets.min(), predictions.min()), max(targets.max(), predictions.max())])
    axes.plot(ends, ends, color=GREY, linestyle=(0, (4, 3)), linewidth=1.2, label="prediction = target")
    axes.set_xlabel(_axis(f"true {plain(name)}", unit))
    axes.set_ylabel(_axis(f"predicted {plain(name)}", unit))
    axes.legend(loc="upper left")
    return figure


def draw_residuals(residuals: np.ndarray, name: str = "target", unit: str = ""):
    """A histogram of residuals [n], prediction minus target, as a matplotlib Figure."""
    figure = new_figure()
    axes = figure.add_subplot()
    bins = int(np.clip(math.ceil(2 * len(residuals) ** (1 / 3)), 5, 60))  # Rice's rule
    axes.hist(residuals, bins=bins, color=BLUE, alpha=0.85, edgecolor="white", linewidth=0.6)
    axes.axvline(0.0, color=GREY, linestyle=(0, (4, 3)), linewidth=1.2)
    axes.axvline(float(residuals.mean()), color=VERMILLION, linewidth=1.8, label=f"mean {residuals.mean():.3g}")
    axes.set_xlabel(_axis(f"residual of {plain(name)}", unit))
    axes.set_ylabel("examples")
    axes.legend(loc="upper right")
    return figure


def draw_fit(
    inputs: np.ndarray,
    predictions: np.ndarray,
    targets: np.ndarray,
    deviations: np.ndarray | None = None,
    name: str = "target",
    unit: str = "",
):
    """Targets and the predicted curve over one input, all [n], as a matplotlib Figure."""
    figure = new_figure()
    axes = figure.add_subplot()
    order = np.argsort(inputs, kind="stable")
    shown = _thinned(len(inputs))
    axes.plot(inputs[shown], targets[shown], "o", color=GREY, **_dots(len(shown)), label="data")
    if deviations is not None:
        low, high = predictions - 2 * deviations, predictions + 2 * deviations
        axes.fill_between(
            inputs[order], low[order], high[order], color=VERMILLION, alpha=0.18, linewidth=0, label="± 2 std"
        )
    axes.plot(inputs[order], predictions[order], color=VERMILLION, label="prediction")
    axes.set_xlabel("input")
    axes.set_ylabel(_axis(plain(name), unit))
    axes.legend(loc="best")
    return figure


def _target_section(
    predictions: np.ndarray,
    targets: np.ndarray,
    inputs: np.ndarray | None,
    deviations: np.ndarray | None,
    name: str,
    unit: str,
    split: str,
    suffix: str,
) -> Section:
    residuals = predictions - targets
    total = float(((targets - targets.mean()) ** 2).sum())
    r2 = 1 - float((residuals**2).sum()) / total if total > 0 else None
    items: list[Figure | Table] = []
    if inputs is not None:
        caption = f"The fitted curve and the {split} data."
        items.append(
            Figure(f"fit{suffix}", caption, lambda: draw_fit(inputs, predictions, targets, deviations, name, unit))
        )
    caption = f"Predicted over true values of {len(targets):,} {split} examples; on the dashed line both are equal."
    items.append(Figure(f"predicted{suffix}", caption, lambda: draw_predicted(predictions, targets, name, unit)))
    caption = "Residuals: prediction minus target."
    items.append(Figure(f"residuals{suffix}", caption, lambda: draw_residuals(residuals, name, unit)))
    rows: list[list[Any]] = [
        ["examples", len(targets)],
        [_axis("root mean squared error", unit), float(np.sqrt((residuals**2).mean()))],
        [_axis("mean absolute error", unit), float(np.abs(residuals).mean())],
        [_axis("mean residual", unit), float(residuals.mean())],
        [_axis("largest absolute error", unit), float(np.abs(residuals).max())],
        ["R²", r2],
    ]
    items.append(Table("", ["measure", "value"], rows))
    return Section(f"Predictions of {name}" if name != "target" else "Predictions", items)


def _columns(values: Any) -> np.ndarray:
    array = np.asarray(values, float)
    return array[:, None] if array.ndim == 1 else array.reshape(len(array), -1)


def _thinned(count: int) -> np.ndarray:
    return np.unique(np.linspace(0, count - 1, min(count, _POINTS)).round().astype(int))


def _dots(count: int) -> dict[str, Any]:
    return {
        "markersize": float(np.clip(90 / math.sqrt(max(count, 1)), 1.5, 5)),
        "alpha": 0.7 if count < 300 else 0.35,
        "markeredgewidth": 0,
    }


def _axis(label: str, unit: str) -> str:
    return f"{label} ({unit})" if unit else label


def _bit(value: float) -> str:
    return f"{value:g}"
