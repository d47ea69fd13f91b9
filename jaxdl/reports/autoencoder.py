"""Reconstructions, codes, manifolds and samples of models that learn without labels."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from jaxdl.reports.page import Figure, Section, Table
from jaxdl.reports.pictures import Tile, draw_grid
from jaxdl.reports.style import GREY, PALETTE, image_only, new_figure, percent, plain

# shape and colour together tell ten classes apart without colour vision
_MARKERS = ("o", "s", "^", "D", "v", "P", "X", "<", ">", "*")
_MOST_DOTS = 3000


def reconstructions_section(
    rows: Mapping[str, np.ndarray],
    errors: Mapping[str, Sequence[float]] | None = None,
    title: str = "Reconstructions",
    text: str = "",
) -> Section:
    """Examples and what becomes of them, one row each.

    Args:
      rows: name -> images [n, H, W] in [0, 1] (clipped to it); the originals first.
      errors: name of a row -> a number for each of its images, written below it.
      title: heading.
      text: above the figure.
    """
    names = list(rows)
    caption = "Rows from the top: " + ", ".join(names) + "."
    if errors:
        caption += " Below each picture its squared error, summed over the pixels."

    def draw() -> Any:
        tiles = []
        for name in names:
            below = [[f"{value:.1f}"] for value in (errors or {}).get(name, [])]
            for k, image in enumerate(np.clip(rows[name], 0.0, 1.0)):
                tiles.append(Tile(image, below[k] if below else [" "] if errors else []))
        return draw_grid(tiles, columns=len(rows[names[0]]), width=7.6)

    return Section(title, [Figure("reconstructions", caption, draw, picture=True, wide=True)], text)


def samples_section(images: np.ndarray, caption: str, name: str = "samples", title: str = "Samples") -> Section:
    """A square grid of images [n, H, W] in [0, 1]."""
    columns = max(1, math.isqrt(len(images)))
    tiles = [Tile(image) for image in np.clip(images, 0.0, 1.0)]
    return Section(title, [Figure(name, caption, lambda: draw_grid(tiles, columns), picture=True)])


def manifold_section(images: np.ndarray, caption: str) -> Section:
    """Decoded images [rows, columns, H, W] of a grid in a plane of codes, without gaps between them."""
    rows, columns, height, width = images.shape
    whole = images.transpose(0, 2, 1, 3).reshape(rows * height, columns * width)

    def draw() -> Any:
        figure = new_figure(6.4, 6.4 * whole.shape[0] / whole.shape[1])
        figure.set_layout_engine("none")
        axes = figure.add_axes((0.0, 0.0, 1.0, 1.0))
        image_only(axes)
        axes.imshow(whole, cmap="gray", vmin=0.0, vmax=1.0, interpolation="nearest")
        return figure

    return Section("Manifold", [Figure("manifold", caption, draw, picture=True)])


def latent_section(
    spaces: Mapping[str, tuple[np.ndarray, np.ndarray]],
    classes: Sequence[str],
    accuracies: Mapping[str, float],
    title: str = "Codes in the plane",
) -> Section:
    """Two-dimensional codes by class, and how well their neighbourhood tells the classes.

    Args:
      spaces: name -> (codes [n, 2], labels [n]) of the test images.
      classes: names of the labels.
      accuracies: name -> accuracy of the nearest neighbours in that plane.
      title: heading.
    """
    figures = []
    for number, (name, (codes, labels)) in enumerate(spaces.items()):
        caption = f"{name}: codes of {min(len(codes), _MOST_DOTS):,} test images; a class's mean bears its name."
        draw = lambda codes=codes, labels=labels: draw_codes(codes, labels, classes)  # noqa: E731
        figures.append(Figure(f"codes_{number}", caption, draw))
    rows = [[name, percent(value)] for name, value in accuracies.items()]
    caption = "Nearest neighbours among the codes of the training images; the labels serve for nothing else."
    table = Table("", ["plane", "accuracy of 5 nearest neighbours"], rows, caption)
    return Section(title, [*figures, table])


def draw_codes(codes: np.ndarray, labels: np.ndarray, classes: Sequence[str]) -> Any:
    """A scatter plot of codes [n, 2] by class as a matplotlib Figure."""
    figure = new_figure(5.2, 4.6)
    axes = figure.add_subplot()
    codes, labels = codes[:_MOST_DOTS], labels[:_MOST_DOTS]
    for k, name in enumerate(classes):
        color = PALETTE[k] if k < len(PALETTE) else (GREY, "#7a4a1e")[k % 2]
        chosen = codes[labels == k]
        if not len(chosen):
            continue
        style: dict[str, Any] = {"s": 9, "alpha": 0.55, "linewidths": 0.0, "label": plain(name, 12)}
        axes.scatter(chosen[:, 0], chosen[:, 1], color=color, marker=_MARKERS[k % len(_MARKERS)], **style)
        centre = chosen.mean(axis=0)
        box = {"boxstyle": "round,pad=0.15", "facecolor": "white", "edgecolor": color, "alpha": 0.9}
        axes.annotate(plain(name, 12), tuple(centre), ha="center", va="center", fontsize=10.5, bbox=box)
    low, high = np.quantile(codes, 0.002, axis=0), np.quantile(codes, 0.998, axis=0)
    margin = 0.05 * (high - low) + 1e-6
    axes.set_xlim(low[0] - margin[0], high[0] + margin[0])
    axes.set_ylim(low[1] - margin[1], high[1] + margin[1])
    axes.set_xlabel("first value of the code")
    axes.set_ylabel("second value of the code")
    axes.legend(loc="center left", bbox_to_anchor=(1.0, 0.5), markerscale=2, handletextpad=0.2)
    return figure


def neighbour_accuracy(
    train_codes: np.ndarray, train_labels: np.ndarray, codes: np.ndarray, labels: np.ndarray, neighbours: int = 5
) -> float:
    """Share of `codes` [n, K] whose nearest training codes [m, K] have mostly the right label."""
    from sklearn.neighbors import KNeighborsClassifier

    model = KNeighborsClassifier(min(neighbours, len(train_codes))).fit(train_codes, train_labels)
    return float((model.predict(codes) == labels).mean())


def one_of_each(labels: np.ndarray, count: int = 10) -> np.ndarray:
    """Indices of the first example of each class, then of the next ones, `count` in all and no more than there are."""
    rank = np.zeros(len(labels), int)
    for label in np.unique(labels):
        members = np.flatnonzero(labels == label)
        rank[members] = np.arange(len(members))
    return np.lexsort((labels, rank))[:count]


def tiled(images: np.ndarray, gap: int = 2) -> np.ndarray:
    """Images [n, H, W] in [0, 1] as one picture of uint8, in a nearly square grid with `gap` dark pixels between."""
    count, height, width = images.shape
    columns = math.ceil(math.sqrt(count))
    rows = math.ceil(count / columns)
    sheet = np.zeros((rows * (height + gap) - gap, columns * (width + gap) - gap), np.uint8)
    for k, image in enumerate(np.clip(images, 0.0, 1.0)):
        top, left = (k // columns) * (height + gap), (k % columns) * (width + gap)
        sheet[top : top + height, left : left + width] = np.rint(255 * image)
    return sheet
