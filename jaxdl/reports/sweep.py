"""The page of a sweep: its table, the cells beside each other, their learning curves, and how settings go with results."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from jaxdl.reports.comparison import Contender, draw_comparison
from jaxdl.reports.curves import curve
from jaxdl.reports.intervals import interval_over_seeds
from jaxdl.reports.overview import headline, is_fraction
from jaxdl.reports.page import Figure, Section, Table, write_report
from jaxdl.reports.style import (
    GREY,
    LIGHT_GREY,
    PALETTE,
    VERMILLION,
    log_axis,
    new_figure,
    percent_axis,
    plain,
    spans_decades,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_COLOURED = 6  # more lines in colours of their own cannot be told apart
_COMPARED = 16
_LINES = ("-", "--", "-.", ":", (0, (6, 1.5, 1, 1.5, 1, 1.5)), (0, (1, 1)))


@dataclass(frozen=True)
class Point:
    """One cell of a sweep.

    Attributes:
      at: its value on each axis.
      values: the metric that cells are compared by, of each seed that is done.
      rows: metrics.jsonl of each seed.
      best: whether it is the winner.
    """

    at: Mapping[str, Any]
    values: Sequence[float]
    rows: Sequence[Sequence[Mapping[str, Any]]]
    best: bool = False

    @property
    def label(self) -> str:
        """Its settings, short enough for a legend: "learning_rate 0.001"; of several only the values, in their order."""
        if len(self.at) == 1:
            return " ".join(f"{_last(name)} {_shown(value)}" for name, value in self.at.items())
        return " · ".join(map(_shown, self.at.values()))

    @property
    def mean(self) -> float:
        """Over the seeds; NaN where none is done."""
        return float(np.mean(self.values)) if len(self.values) else math.nan


def sweep_report(
    folder: Path,
    found: Mapping[str, Any],
    metric: str,
    points: Sequence[Point],
    axes: Mapping[str, Sequence[Any]],
    header: Sequence[str],
    rows: Sequence[Sequence[str]],
) -> Path:
    """Writes sweep.html and its plots.

    Args:
      folder: the sweep's.
      found: sweep.json.
      metric: what cells are compared by, "validation/accuracy".
      points: the cells, best first.
      axes: each varied setting with its values.
      header, rows: of the table, best first.
    """
    best = next((point for point in points if point.best), None)
    seeds = found["seeds"]
    sections = [
        Section("Cells", [_table(found, header, rows)], _explanation(found, len(points))),
        Section("Compared", _compared(metric, points)),
        Section("Learning curves", _curves(metric, points)),
        Section("Settings and results", _coordinates(metric, points, axes)),
        Section("What went wrong", _troubles(found)),
    ]
    facts = {
        "recipe": found["recipe"],
        "cells": len(found["cells"]),
        "seeds": f"{seeds[0]} … {seeds[-1]} ({len(seeds)})" if len(seeds) > 1 else str(seeds[0]),
        "varied": ", ".join(axes),
        "best": best.label if best else "none yet",
        "versions": ", ".join(f"{name} {value}" for name, value in found["versions"].items()),
        "commit": (found["git"]["commit"] or "")[:12] + (" with changes" if found["git"]["dirty"] else ""),
        "command": found["command"],
    }
    heads = [headline(metric, best.values, label=f"best {metric.replace('/', ' ')}")] if best else []
    return write_report(folder, f"Sweep of {found['recipe']}", facts, sections, heads, "sweep.html")


def _explanation(found: Mapping[str, Any], shown: int) -> str:
    text = (
        f"Chosen by: {found['chosen']}." if found["chosen"] else "This recipe has no validation objective: not ranked."
    )
    if shown < len(found["cells"]):
        text += " Successive halving: each point stands on the last rung that it reached, trained from the start there."
    return text + " Each folder below the sweep's is a run folder of its own; single runs write no report.html here."


def _table(found: Mapping[str, Any], header: Sequence[str], rows: Sequence[Sequence[str]]) -> Table:
    caption = (
        "± is the half-width of the 95 % Student-t interval of the mean over seeds. p: two-sided paired t-test of the best "
        "cell against this one over the seeds that both have (for halving on the rung that both reached); p (Holm): "
        "corrected for the number of comparisons. The best one was chosen on the same values, so p is optimistic."
    )
    strong = [0] if found["best"] else []
    return Table("", header, rows, caption, strong, wide=True)


def _troubles(found: Mapping[str, Any]) -> list[Table]:
    rows = []
    for cell in found["cells"]:
        if cell["status"] == "done":
            continue
        label = ", ".join(f"{name} = {value}" for name, value in cell["overrides"].items())
        why = cell.get("error") or (f"loss not finite: seeds {_listed(cell['diverged'])}" if cell["diverged"] else "")
        rows.append([label, cell["status"], f"{cell['n']} of {len(found['seeds'])}", why, cell["folder"]])
    header = ["cell", "status", "seeds done", "why", "folder"]
    return [Table("", header, rows, names=(4,), wide=True)] if rows else []


def _listed(seeds: Sequence[int]) -> str:
    return ", ".join(map(str, seeds))


def _compared(metric: str, points: Sequence[Point]) -> list[Figure]:
    shown = [point for point in points if len(point.values)][:_COMPARED]
    if len(shown) < 2:
        return []
    contenders = [Contender(point.label, point.values, ours=point.best) for point in shown]
    rest = f" The best {len(shown)} of {len(points)} cells." if len(shown) < len(points) else ""
    caption = (
        f"{metric} of each cell, best first: means and 95 % intervals; small marks are seeds.{rest}{_order(points)}"
    )
    return [Figure("sweep_cells", caption, lambda: draw_comparison(metric, contenders))]


def _curves(metric: str, points: Sequence[Point]) -> list[Figure]:
    split, name = metric.split("/", 1) if "/" in metric else ("validation", metric)
    curves = [(point, curve(point.rows, split, name)) for point in points]
    curves = [(point, one) for point, one in curves if np.isfinite(one.values).any()]
    if not curves:
        return []
    caption = f"{metric} over steps: lines are means over seeds, bands 95 % Student-t intervals.{_order(points)}"
    if len(curves) > _COLOURED:
        caption += f" The best {_COLOURED} in colour, the others grey."
    return [Figure("sweep_curves", caption, lambda: draw_sweep_curves(metric, curves), wide=True)]


def draw_sweep_curves(metric: str, curves: Sequence[tuple[Point, Any]]):
    """A metric over steps, one line a cell, as a matplotlib Figure."""
    figure = new_figure(8.6, 3.9)
    axes = figure.add_subplot()
    means = []
    for place, (point, one) in enumerate(curves):
        mean, half, _ = interval_over_seeds(one.values)
        means.append(mean[np.isfinite(mean)])
        if place >= _COLOURED:
            axes.plot(one.steps, mean, color=GREY, linewidth=0.9, alpha=0.6, zorder=1)
            continue
        color = PALETTE[place]
        label = plain(point.label, 34) + (" (best)" if point.best else "")
        axes.plot(one.steps, mean, color=color, linestyle=_LINES[place], label=label, zorder=3)
        axes.fill_between(one.steps, mean - half, mean + half, color=color, alpha=0.15, linewidth=0, zorder=2)
    every = np.concatenate(means)
    if is_fraction(metric):
        percent_axis(axes.yaxis)
        low, high = np.quantile(every, 0.1), every.max()
        margin = 0.08 * max(high - low, 0.005)
        axes.set_ylim(max(low - 5 * margin, every.min() - margin), high + margin)
    elif spans_decades(every):
        axes.set_ylim(every.min() / 1.5, every.max() * 1.5)
        log_axis(axes)
    axes.set_xlabel("step (updates)")
    axes.set_ylabel(metric.replace("/", " ").replace("_", " "))
    axes.legend(loc="center left", bbox_to_anchor=(1.0, 0.5))
    return figure


def _coordinates(metric: str, points: Sequence[Point], axes: Mapping[str, Sequence[Any]]) -> list[Figure]:
    shown = [point for point in points if math.isfinite(point.mean)]
    if len(shown) < 2:
        return []
    caption = (
        f"Parallel coordinates: one line a cell through its settings to its mean {metric}; the same colour scale is the "
        "last axis. The thick line is the best cell."
    )
    return [Figure("sweep_coordinates", caption, lambda: draw_coordinates(metric, shown, axes), wide=True)]


def draw_coordinates(metric: str, points: Sequence[Point], axes: Mapping[str, Sequence[Any]]):
    """Parallel coordinates as a matplotlib Figure: an axis for each setting, the last one for the metric's mean."""
    import matplotlib

    figure = new_figure(max(5.6, 2.1 * (len(axes) + 1)), 4.0)
    plot = figure.add_subplot()
    plot.grid(False)
    for side in ("left", "bottom"):
        plot.spines[side].set_visible(False)
    plot.set_yticks([])
    scales = [_Scale.of(values) for values in axes.values()]
    means = np.array([point.mean for point in points])
    last = _Scale.of_range(float(means.min()), float(means.max()), is_fraction(metric))
    colours = matplotlib.colormaps["cividis"]
    for point in sorted(points, key=lambda point: point.best):
        heights = [scale.place(point.at[name]) for name, scale in zip(axes, scales, strict=True)]
        heights.append(last.place(point.mean))
        color = VERMILLION if point.best else colours(0.95 * heights[-1])
        plot.plot(
            range(len(heights)), heights, color=color, linewidth=3.0 if point.best else 1.4,
            alpha=1.0 if point.best else 0.75, zorder=4 if point.best else 2,
        )  # fmt: skip
    for place, scale in enumerate([*scales, last]):
        scale.draw(plot, place)
    names = [*(name.replace("_", " ").replace(".", "\n") for name in axes), f"mean {metric}".replace("/", "\n")]
    plot.set_xticks(range(len(names)), [name.replace("$", r"\$") for name in names])
    plot.tick_params(axis="x", length=0, pad=8)
    plot.set_xlim(-0.35, len(names) - 0.35)
    plot.set_ylim(-0.04, 1.04)
    return figure


@dataclass(frozen=True)
class _Scale:
    """One upright axis: how a value becomes a height in 0 ... 1, and which heights are labelled."""

    marks: tuple[tuple[float, str], ...]
    values: tuple[Any, ...] = ()
    low: float = 0.0
    high: float = 1.0
    log: bool = False

    @classmethod
    def of(cls, values: Sequence[Any]) -> "_Scale":
        """For a setting: numbers at their place (on a log scale where they span a factor of 8), all else evenly spaced."""
        numbers = all(isinstance(value, int | float) and not isinstance(value, bool) for value in values)
        if not numbers or len(values) < 2:
            count = max(len(values) - 1, 1)
            heights = [place / count if len(values) > 1 else 0.5 for place in range(len(values))]
            return cls(tuple(zip(heights, map(_shown, values), strict=True)), tuple(values))
        low, high = float(min(values)), float(max(values))
        scale = cls((), (), low, high, low > 0 and high / low >= 8)
        return cls(tuple((scale.place(v), _shown(v)) for v in sorted(values)), (), low, high, scale.log)

    @classmethod
    def of_range(cls, low: float, high: float, percent: bool) -> "_Scale":
        """For a metric, labelled at five places."""
        if high <= low:
            low, high = low - 0.5 * abs(low or 1.0), high + 0.5 * abs(high or 1.0)
        digits = max(0, 2 - math.floor(math.log10((high - low) * (100 if percent else 1))))
        marks = []
        for height in (0.0, 0.25, 0.5, 0.75, 1.0):
            value = low + height * (high - low)
            marks.append((height, f"{100 * value:.{digits}f} %" if percent else f"{value:.{min(digits, 8)}f}"))
        return cls(tuple(marks), (), low, high)

    def place(self, value: Any) -> float:
        """The height of a value."""
        if self.values:
            return self.marks[self.values.index(value)][0]
        if self.log:
            return math.log(value / self.low) / math.log(self.high / self.low)
        return (value - self.low) / (self.high - self.low)

    def draw(self, plot: "Axes", place: int) -> None:
        """The axis as an upright line with labelled marks."""
        plot.axvline(place, color=GREY, linewidth=1.0, zorder=1)
        shown = -1.0
        for height, text in self.marks:
            plot.plot([place], [height], "_", color=GREY, markersize=9, zorder=1)
            if height - shown < 0.045 and shown >= 0:
                continue
            shown = height
            box = {"facecolor": "white", "edgecolor": LIGHT_GREY, "linewidth": 0.5, "alpha": 0.85, "pad": 1.5}
            plot.annotate(
                plain(text, 14), (place, height), xytext=(7, 0), textcoords="offset points", fontsize=9.5,
                va="center", zorder=5, bbox=box,
            )  # fmt: skip


def _order(points: Sequence[Point]) -> str:
    names = list(points[0].at)
    return f" Labels: {' · '.join(map(_last, names))}." if len(names) > 1 else ""


def _last(name: str) -> str:
    return name.rsplit(".", 1)[-1].replace("_", " ")


def _shown(value: Any) -> str:
    if value is None:
        return "none"
    if isinstance(value, list | tuple):
        return ",".join(map(_shown, value))
    return f"{value:g}" if isinstance(value, float) else str(value)
