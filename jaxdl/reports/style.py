"""How figures look: one size, one palette, and text that a phone can show."""

import math
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure as MatplotlibFigure

# Okabe & Ito (2008), "Color Universal Design": distinguishable with every common colour vision deficiency
BLUE, VERMILLION, GREEN, ORANGE = "#0072B2", "#D55E00", "#009E73", "#E69F00"
SKY, PURPLE, YELLOW, BLACK = "#56B4E9", "#CC79A7", "#F0E442", "#000000"
PALETTE = (BLUE, VERMILLION, GREEN, ORANGE, PURPLE, SKY, BLACK, YELLOW)
SPLIT_COLORS = {"train": BLUE, "validation": VERMILLION, "test": GREEN}
GREY, LIGHT_GREY = "#6b7480", "#dfe3e8"

WIDTH, HEIGHT = 5.2, 3.6  # inches; two stand side by side on a desktop, and 10 pt can still be read at 390 px
DPI = 192  # two device pixels for each CSS pixel

RC: dict[Any, Any] = {
    "font.family": ["DejaVu Sans"],
    "font.size": 11.5,
    "axes.titlesize": 12,
    "axes.labelsize": 11.5,
    "axes.labelcolor": "#30373f",
    "axes.edgecolor": "#8b949e",
    "axes.linewidth": 0.8,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "axes.unicode_minus": True,
    "axes.formatter.useoffset": False,
    "grid.color": LIGHT_GREY,
    "grid.linewidth": 0.7,
    "xtick.color": "#4a525b",
    "ytick.color": "#4a525b",
    "xtick.labelsize": 10.5,
    "ytick.labelsize": 10.5,
    "legend.fontsize": 10.5,
    "legend.frameon": True,
    "legend.framealpha": 0.9,
    "legend.edgecolor": "none",
    "legend.facecolor": "white",
    "lines.linewidth": 1.8,
    "lines.solid_capstyle": "round",
    "figure.facecolor": "white",
    "axes.facecolor": "white",
    "savefig.facecolor": "white",
    "text.usetex": False,
    "path.simplify": True,
}


def new_figure(width: float = WIDTH, height: float = HEIGHT) -> "MatplotlibFigure":
    """An empty figure of `width` x `height` inches, outside pyplot's global list of figures."""
    from matplotlib.figure import Figure as MatplotlibFigure

    return MatplotlibFigure(figsize=(width, height), layout="constrained")


def plain(text: object, limit: int = 24) -> str:
    """`text` as matplotlib shall show it: one line, at most `limit` characters, dollars not read as mathematics."""
    line = " ".join("".join(c if c.isprintable() else " " for c in str(text)).split())
    if len(line) > limit:
        line = line[: limit - 1] + "…"
    return line.replace("$", r"\$")


def image_only(axes: "Axes") -> None:
    """Takes ticks, grid and frame away, for axes that show pictures."""
    axes.set_xticks([])
    axes.set_yticks([])
    axes.grid(False)
    for spine in axes.spines.values():
        spine.set_visible(False)


def percent_axis(axis: object) -> None:
    """Shows fractions on a matplotlib axis (`axes.xaxis` or `axes.yaxis`) as percent."""
    axis.set_major_formatter(lambda value, place: f"{round(100 * value, 6):g} %")  # type: ignore[attr-defined]


def log_axis(axes: "Axes", which: str = "y", as_percent: bool = False) -> None:
    """A log axis with its present limits, labelled with plain numbers: the powers of ten, and more if these are few."""
    from matplotlib.ticker import LogLocator, NullFormatter

    low, high = axes.get_ylim() if which == "y" else axes.get_xlim()
    axes.set(**{f"{which}scale": "log"})
    axis = axes.yaxis if which == "y" else axes.xaxis
    decades = math.log10(high / low) if 0 < low < high else 2.0
    subs = (1.0, 2.0, 5.0) if decades < 1.5 else (1.0, 3.0) if decades < 2.5 else (1.0,)
    axis.set_major_locator(LogLocator(10, subs))
    axis.set_minor_formatter(NullFormatter())
    if as_percent:
        percent_axis(axis)
    else:
        axis.set_major_formatter(lambda value, place: f"{value:g}")


def spans_decades(values: np.ndarray, ratio: float = 30.0) -> bool:
    """Whether positive `values` (any shape, NaN ignored) lie so far apart that only a log axis shows them all."""
    finite = np.asarray(values, float)
    finite = finite[np.isfinite(finite)]
    return finite.size > 0 and bool(finite.min() > 0 and finite.max() / finite.min() >= ratio)


def percent(share: float, digits: int = 1) -> str:
    """A share as text, "97.2 %"; a dash for NaN."""
    return f"{100 * share:.{digits}f} %" if math.isfinite(share) else "–"


def compact(count: float) -> str:
    """A count in at most four characters or so: 360, 9.8k, 1.2M."""
    for unit, name in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if abs(count) >= unit:
            return f"{count / unit:.3g}{name}"
    return f"{count:g}"
