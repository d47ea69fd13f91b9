"""Learning curves from the rows of metrics.jsonl, of one seed or of several."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from jaxdl.reports.intervals import interval_over_seeds
from jaxdl.reports.overview import is_fraction
from jaxdl.reports.page import Figure, Section, Table
from jaxdl.reports.style import (
    GREY,
    PALETTE,
    SPLIT_COLORS,
    log_axis,
    new_figure,
    percent,
    percent_axis,
    plain,
    spans_decades,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes

Row = Mapping[str, Any]
_NOT_METRICS = {"step", "phase", "split", "seed", "time", "wall_time_s", "items_per_second", "epoch"}
_SPLITS = ("train", "validation", "test")
# by the end of the name: "squared_error", "digit_error_rate"
_FALLING = ("loss", "error", "error_rate", "perplexity", "mse", "rmse", "mae")


@dataclass(frozen=True)
class Curve:
    """One metric of one split over S seeds: `steps` [N] ascending, `values` [S, N] with NaN where a seed has none."""

    steps: np.ndarray
    values: np.ndarray


def curve(runs: Sequence[Sequence[Row]], split: str, metric: str) -> Curve:
    """Collects a metric from metrics rows.

    Args:
      runs: S lists of rows, one for each seed, like {"step": 100, "phase": "train", "split": "train", "loss": 0.1}.
      split: which rows.
      metric: which value; rows without it are passed over, values that are not finite become NaN. If a step occurs
        twice, its last row counts.

    Returns:
      The values of all seeds over the union of their steps.
    """
    found = [
        {
            int(row["step"]): _number(row[metric])
            for row in rows
            if row.get("split") == split and metric in row and "step" in row
        }
        for rows in runs
    ]
    steps = sorted(set().union(*found)) if found else []
    values = np.array([[one.get(step, math.nan) for step in steps] for one in found], float).reshape(
        len(found), len(steps)
    )
    return Curve(np.array(steps, int), values)


def metric_names(runs: Sequence[Sequence[Row]]) -> list[str]:
    """Metrics that occur in the rows of train, validation and test: loss first, then accuracy, then by name."""
    names = {
        name
        for rows in runs
        for row in rows
        if row.get("split") in _SPLITS
        for name, value in row.items()
        if name not in _NOT_METRICS and "/" not in name and isinstance(value, int | float | None)
    }
    return sorted(names, key=lambda name: (name != "loss", name != "accuracy", name))


def phase_spans(runs: Sequence[Sequence[Row]]) -> list[tuple[str, int, int]]:
    """(name, first step, last step) of each phase, in their order in time, over all seeds."""
    spans: dict[str, tuple[int, int]] = {}
    for row in (row for rows in runs for row in rows if row.get("phase") is not None and "step" in row):
        step = int(row["step"])
        low, high = spans.get(str(row["phase"]), (step, step))
        spans[str(row["phase"])] = (min(low, step), max(high, step))
    return [(name, low, high) for name, (low, high) in sorted(spans.items(), key=lambda item: item[1])]


def learning_curves(
    runs: Sequence[Sequence[Row]],
    best_steps: Sequence[int | None] | int | None = None,
    metrics: Sequence[str] | None = None,
    units: Mapping[str, str] | None = None,
    title: str = "Learning curves",
) -> Section:
    """Training, validation and test metrics over steps; over several seeds the mean and its 95 % t interval.

    Args:
      runs: S lists of metrics rows, one for each seed.
      best_steps: step whose parameters are reported, for each seed (an int for all of them); None: not marked.
      metrics: which metrics, one figure each; default: all that occur.
      units: unit by metric, for the axis: {"loss": "nats"}.
      title: heading of the section.

    Returns:
      A section with one figure for each metric that has a finite value, named "curve_<metric>"; empty if there is none.
    """
    if best_steps is None or isinstance(best_steps, int):
        best_steps = [best_steps] * len(runs)
    names = metric_names(runs) if metrics is None else metrics
    figures = []
    for name in names:
        curves = {split: curve(runs, split, name) for split in _SPLITS}
        curves = {split: one for split, one in curves.items() if np.isfinite(one.values).any()}
        if not curves:
            continue
        unit = (units or {}).get(name, "")
        figures.append(
            Figure(
                f"curve_{_file_name(name)}",
                _caption(name, curves, len(runs), best_steps),
                lambda name=name, curves=curves, unit=unit: draw_curves(  # type: ignore[misc]
                    name, curves, unit, phase_spans(runs), best_steps
                ),
            )
        )
    return Section(title, figures)


def draw_curves(
    name: str,
    curves: Mapping[str, Curve],
    unit: str = "",
    phases: Sequence[tuple[str, int, int]] = (),
    best_steps: Sequence[int | None] = (),
):
    """One metric over steps as a matplotlib Figure: line of the mean by split, band of the 95 % t interval.

    Args:
      name: the metric.
      curves: by split; a split with one step is drawn as a point.
      unit: unit of the metric, for the axis.
      phases: as from `phase_spans`; separated by vertical lines where there are several.
      best_steps: step to be marked on the validation line (on the training line without one) for each seed.
    """
    figure = new_figure()
    axes = figure.add_subplot()
    fraction = is_fraction(name)
    means = []
    for index, (split, one) in enumerate(curves.items()):
        color = SPLIT_COLORS.get(split, PALETTE[index % len(PALETTE)])
        mean, half, _ = interval_over_seeds(one.values)
        means.append(mean)
        _draw_split(axes, split, one.steps, mean, half, color)
    log = not fraction and spans_decades(np.concatenate(means))
    if log:
        low, high = np.nanmin(np.concatenate(means)), np.nanmax(np.concatenate(means))
        axes.set_ylim(low / 1.8, high * 1.8)  # the lower edge of a band may be negative
        log_axis(axes)
    elif fraction:
        percent_axis(axes.yaxis)
        _limit_fraction(axes, np.concatenate(means))
    _mark_best(axes, curves, best_steps)
    _mark_phases(axes, phases)
    axes.set_xlabel("step (updates)")
    label = name.replace("_", " ")
    remarks = ", ".join(filter(None, [unit, "log scale" if log else ""]))
    axes.set_ylabel(f"{label} ({remarks})" if remarks else label)
    handles, labels = axes.get_legend_handles_labels()
    ranks = {label: rank for rank, label in enumerate(_SPLITS)}
    entries: list[Any] = sorted(zip(labels, handles, strict=True), key=lambda entry: ranks.get(entry[0], len(ranks)))
    place: Any = "upper right" if name.endswith(_FALLING) or log else "lower right"
    axes.legend([handle for _, handle in entries], [label for label, _ in entries], loc=place)
    return figure


def phases_section(runs: Sequence[Sequence[Row]], title: str = "Phases") -> Section:
    """A table of the phases with the last training loss and the best validation values; empty for a single phase."""
    spans = phase_spans(runs)
    if len(spans) < 2:
        return Section(title)
    names = [name for name in metric_names(runs) if np.isfinite(curve(runs, "validation", name).values).any()]
    header = ["phase", "from step", "to step", "last training loss"]
    header += [
        f"{'lowest' if name.endswith(_FALLING) else 'highest'} validation {name.replace('_', ' ')}" for name in names
    ]
    rows = []
    for phase, first, last in spans:
        inside = [[row for row in rows_ if str(row.get("phase")) == phase] for rows_ in runs]
        train = curve(inside, "train", "loss").values
        cells: list[Any] = [phase, first, last, _last_mean(train)]
        for name in names:
            values = curve(inside, "validation", name).values
            best = [_extreme(seed, name.endswith(_FALLING)) for seed in values]
            value = float(interval_over_seeds(np.array(best))[0]) if best else math.nan
            cells.append(percent(value, 2) if is_fraction(name) else value)
        rows.append(cells)
    caption = f"Means over {len(runs)} seeds." if len(runs) > 1 else ""
    return Section(title, [Table("", header, rows, caption, wide=True)])


def _draw_split(axes: "Axes", split: str, steps: np.ndarray, mean: np.ndarray, half: np.ndarray, color: str) -> None:
    kept = np.isfinite(mean)
    banded = kept & np.isfinite(half)
    if kept.sum() == 1:
        error = half[kept] if banded.any() else None
        axes.errorbar(
            steps[kept],
            mean[kept],
            yerr=error,
            fmt="D",
            color=color,
            markersize=6,
            capsize=4,
            label=split,
            zorder=4,
            clip_on=False,
        )
        return
    axes.plot(steps[kept], mean[kept], color=color, label=split, zorder=3)
    if banded.any():
        axes.fill_between(
            steps[kept],
            (mean - half)[kept],
            (mean + half)[kept],
            where=banded[kept],
            color=color,
            alpha=0.2,
            linewidth=0,
            zorder=2,
        )


def _mark_best(axes: "Axes", curves: Mapping[str, Curve], best_steps: Sequence[int | None]) -> None:
    split = "validation" if "validation" in curves else next(iter(curves))
    one = curves[split]
    points = []
    for seed, best in zip(one.values, best_steps, strict=False):
        at = np.flatnonzero(one.steps == best)
        if len(at) and math.isfinite(seed[at[0]]):
            points.append((one.steps[at[0]], seed[at[0]]))
    if points:
        several = len(best_steps) > 1
        label = "best step of each seed" if several else f"best: step {points[0][0]:,}"
        axes.plot(
            *zip(*points, strict=True), "*", color="#E69F00", markeredgecolor="#30373f", markeredgewidth=0.7,
            markersize=9 if several else 13, label=label, zorder=5, clip_on=False,
        )  # fmt: skip


def _mark_phases(axes: "Axes", phases: Sequence[tuple[str, int, int]]) -> None:
    if len(phases) < 2:
        return
    for index, (name, first, _) in enumerate(phases):
        start = phases[index - 1][2] if index else first
        if index:
            axes.axvline(start, color=GREY, linestyle=(0, (4, 3)), linewidth=1, zorder=1)
        axes.annotate(
            plain(name, 16), (start, 1.0), xycoords=("data", "axes fraction"),
            xytext=(3, 3), textcoords="offset points", fontsize=10, color=GREY, ha="left", va="bottom",
        )  # fmt: skip


def _limit_fraction(axes: "Axes", means: np.ndarray) -> None:
    """Leaves the first, untrained points of a good run outside: the end is what is compared."""
    finite = means[np.isfinite(means)]
    low, high = finite.min(), finite.max()
    typical = float(np.quantile(finite, 0.2))
    if typical > 0.8 and low < typical - 0.25:
        low = 2 * typical - 1
    margin = 0.05 * max(high - low, 0.01)
    axes.set_ylim(max(low - margin, -0.02), min(high + margin, 1 + 0.3 * margin))


def _caption(name: str, curves: Mapping[str, Curve], seeds: int, best_steps: Sequence[int | None]) -> str:
    label = name.replace("_", " ")
    parts = [f"{label[:1].upper()}{label[1:]} over steps: {', '.join(curves)}."]
    if seeds > 1:
        parts.append(f"Lines are means over {seeds} seeds, bands their 95 % Student-t intervals.")
    if any(best is not None for best in best_steps):
        parts.append("Stars mark the reported steps." if seeds > 1 else "The star marks the reported step.")
    return " ".join(parts)


def _number(value: Any) -> float:
    try:
        number = float(value)
    except (TypeError, ValueError):
        return math.nan
    return number if math.isfinite(number) else math.nan


def _last_mean(values: np.ndarray) -> float:
    last = [seed[np.isfinite(seed)][-1] for seed in values if np.isfinite(seed).any()]
    return float(np.mean(last)) if last else math.nan


def _extreme(values: np.ndarray, lowest: bool) -> float:
    finite = values[np.isfinite(values)]
    return math.nan if not finite.size else float(finite.min() if lowest else finite.max())


def _file_name(name: str) -> str:
    return "".join(c if c.isalnum() and c.isascii() else "_" for c in name)
