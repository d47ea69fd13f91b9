"""How signals and gradients fare in each layer over time, and what each layer costs."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, is_dataclass
from typing import Any

import numpy as np

from jaxdl.reports.curves import Curve, Row, curve
from jaxdl.reports.intervals import interval_over_seeds
from jaxdl.reports.page import Figure, Section, Table
from jaxdl.reports.style import log_axis, new_figure, percent, plain

_TITLES = {
    "gradient_norm": ("Gradient", "Norm of the loss gradient by layer, a probe batch at each evaluation."),
    "activation_norm": ("Activation", "Norm of each layer's output, a probe batch at each evaluation."),
}


def layer_names(runs: Sequence[Sequence[Row]], quantity: str, order: Sequence[str] = ()) -> list[str]:
    """Layers with a value of `quantity`: those in `order` first, the others by name, conv_2 before conv_10."""
    prefix = f"{quantity}/"
    found = {key.removeprefix(prefix) for rows in runs for row in rows for key in row if key.startswith(prefix)}
    depth = {name: index for index, name in enumerate(order)}

    def natural(name: str) -> list[tuple[int, int, str]]:
        return [(0, int(part), "") if part.isdigit() else (1, 0, part) for part in re.split(r"(\d+)", name) if part]

    return sorted(found, key=lambda name: (depth.get(name, len(depth)), natural(name)))


def norms_section(
    runs: Sequence[Sequence[Row]],
    order: Sequence[str] = (),
    split: str = "probe",
    title: str = "Gradient and activation norms",
) -> Section:
    """Norms of gradients and activations by layer over steps, on a log axis.

    Args:
      runs: S lists of metrics rows, one for each seed, with keys "gradient_norm/<layer>" and "activation_norm/<layer>"
        in the rows of `split`; over several seeds the geometric mean is drawn.
      order: layer names from the input to the output; layers not in it follow by name.
      split: which rows.
      title: heading of the section.

    Returns:
      A section with figures "gradient_norm" and "activation_norm", as far as there are values; empty without any.
    """
    figures = []
    for quantity, (label, caption) in _TITLES.items():
        layers = {name: curve(runs, split, f"{quantity}/{name}") for name in layer_names(runs, quantity, order)}
        layers = {name: one for name, one in layers.items() if (one.values > 0).any()}
        if not layers:
            continue
        seeds = f" Geometric means over {len(runs)} seeds." if len(runs) > 1 else ""
        figures.append(
            Figure(
                quantity,
                f"{caption} The legend and the shades run from the input to the output.{seeds}",
                lambda label=label, layers=layers: draw_norms(f"{label} norm", layers),  # type: ignore[misc]
            )
        )
    return Section(title, figures)


def draw_norms(label: str, layers: Mapping[str, Curve]):
    """One line a layer as a matplotlib Figure, shaded from the input to the output, on a log axis."""
    from matplotlib import colormaps
    from matplotlib.cm import ScalarMappable
    from matplotlib.colors import Normalize

    many = len(layers) > 10
    figure = new_figure(5.2, 3.6 if many else 3.3 + 0.2 * ((len(layers) + 1) // 2))
    axes = figure.add_subplot()
    shades = colormaps["viridis"](np.linspace(0.0, 0.78, max(len(layers), 1)))
    for (name, one), shade in zip(layers.items(), shades, strict=True):
        logs = np.log(np.where(one.values > 0, one.values, np.nan))
        mean = np.exp(interval_over_seeds(logs)[0])
        kept = np.isfinite(mean)
        marker = "o" if kept.sum() == 1 else None
        axes.plot(
            one.steps[kept], mean[kept], color=shade, linewidth=1.4, marker=marker, markersize=4, label=plain(name, 26)
        )
    low, high = axes.dataLim.intervaly
    axes.set_ylim(low / 1.3, high * 1.3)
    log_axis(axes)
    axes.set_xlabel("step (updates)")
    axes.set_ylabel(f"{label} (log scale)")
    if many:
        scale = ScalarMappable(Normalize(1, len(layers) / 0.78), "viridis")
        bar = figure.colorbar(scale, ax=axes, pad=0.02, boundaries=np.linspace(1, len(layers), 128))
        bar.set_ticks(np.unique(np.linspace(1, len(layers), 6).round()).tolist())
        bar.set_label("layer, from the input")
        bar.outline.set_visible(False)
    else:
        figure.legend(loc="outside lower center", ncols=1 if max(map(len, layers)) > 22 else 2)
    return figure


def parameter_section(rows: Sequence[Any], title: str = "Layers and parameters") -> Section:
    """The table of layers with totals.

    Args:
      rows: one for each layer without layers of its own, dataclasses or dicts with path, kind, output_shape, parameters
        and flops (of one example's forward pass; None where unknown).
      title: heading of the section.
    """
    layers = [asdict(row) if is_dataclass(row) and not isinstance(row, type) else dict(row) for row in rows]
    if not layers:
        return Section(title)
    total = sum(int(layer["parameters"] or 0) for layer in layers)
    flops = sum(int(layer.get("flops") or 0) for layer in layers)
    cells = [
        [
            layer["path"] or "(whole model)",
            layer["kind"],
            _shape(layer["output_shape"]),
            int(layer["parameters"] or 0),
            percent(int(layer["parameters"] or 0) / max(total, 1)),
            None if layer.get("flops") is None else int(layer["flops"]),
        ]
        for layer in layers
    ]
    cells.append(["total", "", "", total, "100.0 %" if total else None, flops])
    header = ["layer", "kind", "output shape", "parameters", "share", "FLOPs"]
    caption = (
        "FLOPs: floating-point operations of one example's forward pass (a multiply-add counts as two), without "
        "attention's products of queries, keys and values."
    )
    return Section(title, [Table("", header, cells, caption, strong=(-1,), wide=True)])


def _shape(shape: Any) -> str:
    return " × ".join(str(size) for size in shape) if isinstance(shape, tuple | list) else str(shape)
