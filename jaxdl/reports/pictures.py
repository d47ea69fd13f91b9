"""Grids of pictures: inputs, mistakes, and the filters of a first layer."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from jaxdl.reports.page import Figure, Section
from jaxdl.reports.style import GREY, image_only, new_figure, plain


@dataclass(frozen=True)
class Tile:
    """One picture of a grid, uint8 or float in [0, 1], [H, W] or [H, W, C] with C in {1, 3}, and the lines below it."""

    image: np.ndarray
    lines: Sequence[str] = ()
    colors: Sequence[str] = ()


def draw_grid(
    tiles: Sequence[Tile], columns: int = 6, width: float = 5.2, line_height: float = 0.19, color_map: str = "gray"
):
    """A grid of pictures on one axes as a matplotlib Figure; `width` and `line_height` in inches."""
    rows = math.ceil(len(tiles) / columns)
    height, across = np.shape(tiles[0].image)[:2]
    aspect = height / across
    tile = width / (columns + 0.06 * (columns - 1))
    gap, text = 0.06 * tile, line_height * max(len(one.lines) for one in tiles)
    pitch = aspect * tile + text + gap
    figure = new_figure(width, max(rows * pitch - gap, 0.3))
    figure.set_layout_engine("none")
    axes = figure.add_axes((0.0, 0.0, 1.0, 1.0))
    image_only(axes)
    font = _font_size([line for one in tiles for line in one.lines], tile)
    for index, one in enumerate(tiles):
        left, top = (index % columns) * (tile + gap), (index // columns) * pitch
        _draw_tile(axes, one, (left, left + tile, top + aspect * tile, top), color_map)
        for number, line in enumerate(one.lines):
            color = one.colors[number] if number < len(one.colors) else "#30373f"
            place = (left + tile / 2, top + aspect * tile + (number + 0.55) * line_height)
            axes.text(*place, line, ha="center", va="center", color=color, fontsize=font)
    axes.set_xlim(0, width)
    axes.set_ylim(max(rows * pitch - gap, 0.3), 0)
    axes.set_aspect("auto")
    return figure


def as_picture(images: np.ndarray) -> np.ndarray:
    """Images [n, H, W, C] as uint8: uint8 and floats in [0, 1] as they are, others stretched from their common range.

    So standardised images can be looked at. Values that are not finite become the lowest.
    """
    images = np.asarray(images)
    if images.ndim == 3:
        images = images[..., None]
    if images.dtype == np.uint8:
        return images
    values = np.asarray(images, float)
    finite = values[np.isfinite(values)]
    low, high = (finite.min(), finite.max()) if finite.size else (0.0, 1.0)
    if low >= 0 and high <= 1:
        low, high = 0.0, 1.0
    scaled = (np.nan_to_num(values, nan=low, posinf=high, neginf=low) - low) / max(high - low, 1e-12)
    return (255 * scaled).round().astype(np.uint8)


def filter_tiles(kernel: np.ndarray, image_shape: Sequence[int] | None = None, limit: int = 64) -> list[Tile]:
    """The weights of a first layer as pictures, on one scale that is symmetric about zero.

    Args:
      kernel: convolution [kh, kw, cin, cout], or dense [in, out] or [in, units, pieces] with in = H*W*C.
      image_shape: (H, W, C) of the inputs of a dense layer.
      limit: how many filters, the first ones.

    Returns:
      For cin = 3 colour tiles in which grey is zero; else [kh, kw] tiles in [0, 1] with 0.5 as zero, where cin > 1 the
      channel with the largest norm of each filter.

    Raises:
      ValueError: the kernel has another rank, or a dense kernel does not fit `image_shape`.
    """
    kernel = np.asarray(kernel, float)
    if kernel.ndim in (2, 3):
        if image_shape is None or math.prod(image_shape) != kernel.shape[0]:
            wanted = f"an image_shape (H, W, C) whose product is {kernel.shape[0]}"
            raise ValueError(f"a dense kernel {kernel.shape} needs {wanted}, got {image_shape}")
        shape = tuple(image_shape) if len(image_shape) == 3 else (*image_shape, 1)
        kernel = kernel.reshape(*shape, -1)
    if kernel.ndim != 4:
        raise ValueError(f"a first layer's kernel is [kh, kw, cin, cout] or [in, out], got shape {kernel.shape}")
    filters = np.nan_to_num(np.moveaxis(kernel[..., :limit], -1, 0))
    if filters.shape[-1] not in (1, 3):
        strongest = np.argmax((filters**2).sum(axis=(1, 2)), axis=-1)
        filters = np.take_along_axis(filters, strongest[:, None, None, None], axis=-1)
    # the 99.5th percentile: one extreme weight must not turn all others grey
    scale = max(float(np.quantile(np.abs(filters), 0.995)), 1e-12)
    shades = np.clip(0.5 + filters / (2 * scale), 0, 1)
    return [Tile(shade if shade.shape[-1] == 3 else shade[..., 0]) for shade in shades]


def filters_section(
    kernel: np.ndarray,
    image_shape: Sequence[int] | None = None,
    limit: int = 64,
    title: str = "First-layer filters",
    path: str = "",
) -> Section:
    """The filters of the first layer; arguments as in `filter_tiles`, `path` names the layer in the caption."""
    tiles = filter_tiles(kernel, image_shape, limit)
    total = (
        int(np.asarray(kernel).size // max(np.asarray(kernel).shape[0], 1))
        if np.ndim(kernel) < 4
        else np.shape(kernel)[-1]
    )
    columns = 8 if len(tiles) > 12 else max(min(len(tiles), 6), 4)
    color = tiles[0].image.ndim == 3
    shown = f"All {total} filters" if len(tiles) == total else f"The first {len(tiles)} of {total} filters"
    scale = "grey is zero" if color else "white is zero, blue positive, red negative"
    where = f" of {path}" if path else ""
    caption = f"{shown}{where}, all on one scale: {scale}."
    draw = lambda: draw_grid(tiles, columns, color_map="RdBu")  # noqa: E731
    return Section(title, [Figure("filters", caption, draw, picture=True)])


def inputs_section(
    images: np.ndarray, labels: Sequence[str] = (), limit: int = 24, title: str = "Training inputs after augmentation"
) -> Section:
    """What the network sees: inputs [n, H, W, C] (uint8, or floats on any scale), with their labels' names."""
    pictures = as_picture(np.asarray(images)[:limit])
    if not len(pictures):
        return Section(title)
    names = [plain(name, 14) for name in labels[:limit]]
    columns = 4 if max(map(len, names), default=0) > 6 else 6
    tiles = [Tile(picture, [names[index]] if names else []) for index, picture in enumerate(pictures)]
    caption = "Examples of one training batch as the network gets them" + (", with their labels." if names else ".")
    return Section(title, [Figure("inputs", caption, lambda: draw_grid(tiles, columns), picture=True)])


def _draw_tile(axes, tile: Tile, extent: tuple[float, float, float, float], color_map: str) -> None:
    image = np.asarray(tile.image)
    if image.ndim == 3 and image.shape[-1] != 3:
        image = image[..., 0]
    high = 255 if image.dtype == np.uint8 else 1.0
    axes.imshow(image, extent=extent, cmap=color_map, vmin=0, vmax=high, interpolation="auto", origin="upper")
    if color_map != "gray":
        left, right, bottom, top = extent
        axes.plot([left, right, right, left, left], [top, top, bottom, bottom, top], color=GREY, linewidth=0.5)


def _font_size(lines: Sequence[str], tile: float) -> float:
    """Points at which the longest line fits `tile` inches: a character is about 0.58 of its size wide."""
    longest = max((len(line) for line in lines), default=1)
    return float(np.clip(72 * tile / (0.58 * max(longest, 1)), 6.0, 11.0))
