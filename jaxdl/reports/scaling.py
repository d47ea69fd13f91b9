"""Cost curves: seconds of a step against the size of something, on two log axes."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

from jaxdl.reports.style import GREY, PALETTE, log_axis, new_figure, plain

if TYPE_CHECKING:
    from matplotlib.figure import Figure

# a smaller range would make noise look like a slope
_LEAST_RANGE = 8.0
_MARKERS = ("o", "s", "^", "D")


def draw_scaling(
    title: str,
    x_label: str,
    sizes: Sequence[float],
    series: Mapping[str, np.ndarray],
    ideal: Sequence[float],
    ideal_label: str,
) -> "Figure":
    """Medians with quartiles of each series, and the ideal line.

    Args:
      title: what is trained.
      x_label: what grows, with its unit.
      sizes: [N] ascending.
      series: label -> seconds a step [N, R] of R repetitions; NaN where a size was not measured.
      ideal: [N] seconds a step.
      ideal_label: what the ideal line stands for.
    """
    figure = new_figure()
    axes = figure.add_subplot()
    x = np.asarray(sizes, float)
    axes.plot(x, 1e3 * np.asarray(ideal, float), color=GREY, linestyle="--", linewidth=1.2, label=ideal_label)
    for (label, seconds), color, marker in zip(series.items(), PALETTE, _MARKERS, strict=False):
        low, median, high = 1e3 * np.nanquantile(np.asarray(seconds, float), (0.25, 0.5, 0.75), axis=1)
        spread = np.stack([median - low, high - median])
        axes.errorbar(x, median, spread, color=color, marker=marker, markersize=5, capsize=3, label=label)
    axes.set_title(plain(title, 60))
    axes.set_xlabel(x_label)
    axes.set_ylabel("milliseconds a step")
    low, high = axes.get_ylim()
    low = max(low, high / 1e5)
    if high / low < _LEAST_RANGE:
        middle = np.sqrt(low * high)
        axes.set_ylim(middle / np.sqrt(_LEAST_RANGE), middle * np.sqrt(_LEAST_RANGE))
    log_axis(axes, "y")
    log_axis(axes, "x")
    axes.set_xticks(x, [f"{size:g}" for size in sizes])
    axes.minorticks_off()
    low, high = axes.get_ylim()
    axes.set_ylim(low, high * (high / low) ** 0.25)  # room for the legend
    axes.legend(loc="upper left")
    return figure
