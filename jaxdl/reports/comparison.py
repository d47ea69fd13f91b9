"""Ours beside what it is compared with: baselines, the seeds of a run, and their ensemble."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from jaxdl.reports.intervals import interval_over_seeds
from jaxdl.reports.overview import format_interval, format_metric, is_fraction
from jaxdl.reports.page import Figure, Section, Table
from jaxdl.reports.style import BLUE, GREY, VERMILLION, log_axis, new_figure, percent_axis, plain, spans_decades


@dataclass(frozen=True)
class Contender:
    """One line of a comparison.

    Attributes:
      name: what was measured: "LeNet-5", "scikit-learn SVC(rbf)".
      values: the metric, one value for each seed or repetition.
      note: where the value is from: a command, a paper.
      ours: set off from the others.
    """

    name: str
    values: float | Sequence[float]
    note: str = ""
    ours: bool = False


def comparison_section(
    metric: str,
    contenders: Sequence[Contender],
    title: str = "Comparison with baselines",
    text: str = "",
    name: str = "comparison",
) -> Section:
    """A table and a dot plot of one metric: means and 95 % t intervals where there are several values.

    Args:
      metric: its name, "test/accuracy"; shares are shown in percent.
      contenders: in the order of the table. The difference is to the mean of the first that is `ours`.
      title: heading.
      text: what a reader must know to compare (same split, same preprocessing).
      name: the figure's file name.

    Returns:
      A section with one table and, for two or more contenders, one figure; empty without contenders.
    """
    if not contenders:
        return Section(title)
    summaries = [_summary(one.values) for one in contenders]
    reference = next((mean for one, (mean, _, _) in zip(contenders, summaries, strict=True) if one.ours), math.nan)
    rows: list[list[Any]] = []
    for one, (mean, half, count) in zip(contenders, summaries, strict=True):
        difference = None if one.ours or math.isnan(mean - reference) else _difference(metric, mean - reference)
        rows.append([one.name, _with_interval(metric, mean, half), difference, count, one.note])
    label = metric.replace("/", " ").replace("_", " ")
    header = ["", label, "against ours", "runs", "how"]
    strong = [index for index, one in enumerate(contenders) if one.ours]
    used = [index for index in range(5) if index in (0, 1) or any(row[index] not in (None, "") for row in rows)]
    several = any(count > 1 for _, _, count in summaries)
    caption = "± is the half-width of the 95 % Student-t interval of the mean." if several else ""
    if any(row[2] is not None for row in rows) and is_fraction(metric):
        caption = f"{caption} Differences in percentage points.".strip()
    table = Table("", [header[i] for i in used], [[row[i] for i in used] for row in rows], caption, strong)
    if len(contenders) < 2:
        return Section(title, [table], text)
    drawn = f"{_axis_label(metric, _error_scale(metric, contenders))}."
    drawn = (
        drawn[:1].upper() + drawn[1:] + (" Means and 95 % intervals; small marks are single runs." if several else "")
    )
    noted = any(one.note for one in contenders)
    figure = Figure(name, drawn, lambda: draw_comparison(metric, contenders), wide=noted)
    return Section(title, [figure, replace(table, wide=noted)], text)


def draw_comparison(metric: str, contenders: Sequence[Contender]):
    """A dot plot as a matplotlib Figure: one line for each contender, the first one on top.

    Accuracies whose errors lie far apart (99 %, 98 % and 10 %) are drawn as errors on a log axis.
    """
    figure = new_figure(5.2, 0.95 + 0.42 * len(contenders))
    axes = figure.add_subplot()
    as_error = _error_scale(metric, contenders)
    for place, one in enumerate(contenders):
        values = np.atleast_1d(np.asarray(one.values, float))
        values = 1 - values if as_error else values
        mean, half, _ = _summary(values)
        if values.size > 1:
            axes.plot(values, np.full(values.shape, place), "|", color=GREY, markersize=9, markeredgewidth=1, zorder=2)
        bar = None if math.isnan(half) else [half]
        color = VERMILLION if one.ours else BLUE
        axes.errorbar([mean], [place], xerr=bar, fmt="o", color=color, markersize=7, capsize=3, zorder=3)
    axes.set_yticks(range(len(contenders)), [plain(one.name, 26) for one in contenders])
    axes.set_ylim(len(contenders) - 0.5, -0.5)
    axes.grid(False, axis="y")
    axes.set_xlabel(_axis_label(metric, as_error))
    if as_error:
        low, high = axes.dataLim.minposx, axes.dataLim.x1
        axes.set_xlim(low / 1.5, min(high * 1.5, 1.2))
        log_axis(axes, "x", as_percent=True)
    else:
        axes.margins(x=0.08)
        axes.locator_params(axis="x", nbins=5)
        if is_fraction(metric):
            percent_axis(axes.xaxis)
    return figure


def _error_scale(metric: str, contenders: Sequence[Contender]) -> bool:
    means = np.array([_summary(one.values)[0] for one in contenders])
    return metric.endswith("accuracy") and bool(np.nanmax(means) < 1) and spans_decades(1 - means, 8.0)


def _axis_label(metric: str, as_error: bool) -> str:
    label = metric.replace("/", " ").replace("_", " ")
    return f"{label.removesuffix('accuracy')}error, log scale (less is better)" if as_error else label


def ensemble_section(
    members: Mapping[str, Sequence[float]], ensemble: Mapping[str, float], title: str = "Ensemble over the seeds"
) -> Section:
    """The averaged prediction of several seeds beside the seeds themselves.

    Args:
      members: values of each seed by metric, {"test/accuracy": [0.981, 0.978, 0.983]}.
      ensemble: the value of the averaged prediction by metric.
      title: heading.
    """
    rows = []
    for metric, value in ensemble.items():
        values = np.asarray(members.get(metric, ()), float)
        finite = values[np.isfinite(values)]
        mean, half, _ = _summary(finite)
        low, high = (finite.min(), finite.max()) if finite.size else (math.nan, math.nan)
        cells = [_with_interval(metric, mean, half), *(format_metric(metric, bound) for bound in (low, high))]
        rows.append(
            [
                metric.replace("/", " ").replace("_", " "),
                *cells,
                format_metric(metric, value),
                _difference(metric, value - mean),
            ]
        )
    if not rows:
        return Section(title)
    count = max((len(values) for values in members.values()), default=0)
    header = ["metric", "mean of the members", "lowest", "highest", "ensemble", "gain"]
    caption = f"Ensemble: the probabilities of {count} seeds averaged. Gain: ensemble minus mean of the members."
    return Section(title, [Table("", header, rows, caption, wide=True)])


def seeds_section(
    seeds: Sequence[int],
    metrics: Mapping[str, Sequence[float]],
    facts: Mapping[str, Sequence[Any]] | None = None,
    title: str = "Seeds",
) -> Section:
    """A table of all seeds with mean and 95 % t interval below it; empty for fewer than two seeds.

    Args:
      seeds: S numbers.
      metrics: S values by name.
      facts: further columns without a mean, S cells by name: {"status": [...], "digest": [...]}.
      title: heading.
    """
    if len(seeds) < 2:
        return Section(title)
    facts = facts or {}
    rows: list[list[Any]] = [
        [
            str(seed),
            *(format_metric(name, metrics[name][index]) for name in metrics),
            *(cells[index] for cells in facts.values()),
        ]
        for index, seed in enumerate(seeds)
    ]
    summaries = {name: _summary(values) for name, values in metrics.items()}
    rows.append(
        [
            "mean",
            *(_with_interval(name, mean, half) for name, (mean, half, _) in summaries.items()),
            *([""] * len(facts)),
        ]
    )
    caption = "± is the half-width of the 95 % Student-t interval of the mean."
    header = ["seed", *(name.replace("/", " ").replace("_", " ") for name in metrics), *facts]
    return Section(title, [Table("", header, rows, caption, strong=(-1,), wide=True)])


def _summary(values: float | Sequence[float] | np.ndarray) -> tuple[float, float, int]:
    mean, half, count = interval_over_seeds(np.atleast_1d(np.asarray(values, float)))
    return float(mean), float(half), int(count)


def _with_interval(metric: str, mean: float, half: float) -> str:
    if math.isnan(half):
        return format_metric(metric, mean)
    shown, interval = format_interval(metric, mean, half)
    return f"{shown.removesuffix(' %')} ± {interval}" + (" %" if shown.endswith(" %") else "")


def _difference(metric: str, value: float) -> str | None:
    if math.isnan(value):
        return None
    shown = f"{100 * value:+.2f}" if is_fraction(metric) else f"{value:+.3g}"
    return shown.replace("-", "−")
