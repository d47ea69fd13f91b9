"""What a learned agent does: return against environment steps, episodes, a map of its policy, and moving pictures."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from jaxdl.reports.curves import Curve, curve
from jaxdl.reports.intervals import interval_over_seeds
from jaxdl.reports.page import Figure, Section
from jaxdl.reports.style import (
    BLACK,
    BLUE,
    GREY,
    ORANGE,
    PALETTE,
    SPLIT_COLORS,
    VERMILLION,
    compact,
    image_only,
    new_figure,
)

_LABELS = {"train": "training episodes, with exploration", "validation": "greedy episodes"}
# rows and columns by which the actions up, right, down, left move
_ARROWS = ((-1, 0), (0, 1), (1, 0), (0, -1))


def return_section(
    runs: Sequence[Sequence[Mapping[str, Any]]], items_per_step: int, best_steps: Sequence[int | None] = ()
) -> Section:
    """Return against environment steps: mean over seeds, its 95 % t interval, and each seed as a thin line.

    Args:
      runs: S lists of metrics rows, one for each seed.
      items_per_step: environment steps of one update.
      best_steps: update whose parameters are reported, for each seed.
    """
    curves = {split: curve(runs, split, "return") for split in _LABELS}
    curves = {split: one for split, one in curves.items() if np.isfinite(one.values).any()}
    if not curves:
        return Section("Return")
    several = f"; bands are 95 % t intervals over {len(runs)} seeds, thin lines the seeds" if len(runs) > 1 else ""
    caption = f"Undiscounted return of an episode against environment steps{several}."
    draw = lambda: draw_returns(curves, items_per_step, best_steps)  # noqa: E731
    return Section("Return against environment steps", [Figure("return", caption, draw, wide=True)])


def draw_returns(curves: Mapping[str, Curve], items_per_step: int, best_steps: Sequence[int | None] = ()):
    """The figure of `return_section`."""
    figure = new_figure(8.0, 3.8)
    axes = figure.add_subplot()
    for split, one in curves.items():
        steps, color = one.steps * items_per_step, SPLIT_COLORS[split]
        mean, half, count = interval_over_seeds(one.values)
        kept = np.isfinite(mean)
        axes.plot(
            steps[kept], mean[kept], color=color, label=_LABELS[split], zorder=3, marker="." if kept.sum() < 3 else ""
        )
        banded = np.isfinite(half) & (count > 1)
        axes.fill_between(
            steps[banded], (mean - half)[banded], (mean + half)[banded], color=color, alpha=0.2, linewidth=0
        )
        if len(one.values) > 1 and split == "validation":
            for seed in one.values:
                axes.plot(steps, seed, color=color, alpha=0.35, linewidth=0.7, zorder=2)
    judged = curves.get("validation")
    if judged is not None:
        _mark_reported(axes, judged, items_per_step, best_steps)
    axes.set_xlabel("environment steps")
    axes.set_ylabel("return of an episode")
    axes.xaxis.set_major_formatter(lambda value, place: compact(value))
    axes.legend(loc="best")
    return figure


def _mark_reported(axes: Any, one: Curve, items_per_step: int, best_steps: Sequence[int | None]) -> None:
    points = []
    for seed, best in zip(one.values, best_steps, strict=False):
        at = np.flatnonzero(one.steps == best)
        if len(at):
            points.append((best * items_per_step, seed[at[0]]))  # type: ignore[operator]
    if points:
        axes.plot(
            *zip(*points, strict=True), "*", color=ORANGE, markeredgecolor="#30373f", markeredgewidth=0.7, markersize=11,
            label="reported", zorder=5, clip_on=False,
        )  # fmt: skip


def episodes_section(
    returns: Sequence[np.ndarray], lengths: Sequence[np.ndarray], time_limit: int, name: str = "test"
) -> Section:
    """Histograms of greedy episodes, all seeds together.

    Args:
      returns: one [n] for each seed.
      lengths: one [n] for each seed, in steps.
      time_limit: steps after which an episode is cut.
      name: whose episodes, for the captions.
    """
    total, length = np.concatenate(list(returns)), np.concatenate(list(lengths))
    if not total.size:
        return Section("Episodes")
    cut = float((length >= time_limit).mean())
    text = (
        f"{total.size} greedy {name} episodes: return {total.mean():.4g} on average, {total.min():.4g} to {total.max():.4g}; "
        f"{100 * cut:.3g} % last until the time limit of {time_limit} steps."
    )
    figures = [
        Figure(
            "episode_lengths",
            f"How long the {name} episodes are; the dashed line is the time limit.",
            lambda: draw_histogram(length, "length of an episode (steps)", limit=time_limit),
        )
    ]
    if not np.allclose(total, length):
        figures.append(
            Figure(
                "episode_returns",
                f"What the {name} episodes give.",
                lambda: draw_histogram(total, "return of an episode"),
            )
        )
    return Section("Episodes", figures, text)


def draw_histogram(values: np.ndarray, label: str, limit: float | None = None):
    """Counts of `values` [n]; `limit` is drawn as a dashed line."""
    figure = new_figure()
    axes = figure.add_subplot()
    low, high = float(values.min()), float(values.max())
    if limit is not None:
        low, high = min(low, 0.0), max(high, limit)
    whole = bool(np.all(values == np.round(values)))
    width = max(1.0, np.ceil((high - low + 1) / 30)) if whole else max((high - low) / 30, 1e-6)
    start = low - 0.5 if whole else low
    edges = np.arange(start, high + 1.5 * width, width)
    axes.hist(values, list(edges), color=BLUE, edgecolor="white", linewidth=0.4)
    if limit is not None:
        axes.axvline(limit, color=GREY, linestyle=(0, (4, 3)), linewidth=1.2, label=f"time limit: {limit:,}")
        axes.legend(loc="upper left")
    axes.set_xlabel(label)
    axes.set_ylabel("episodes")
    return figure


def policy_section(rows: Sequence[str], learned: np.ndarray, optimal: np.ndarray) -> Section:
    """A grid world's learned values and policy beside the optimum.

    Args:
      rows: the map.
      learned: Q [cells, 4] of up, right, down, left.
      optimal: Q* [cells, 4].
    """
    floor = np.array([letter in ".S" for letter in "".join(rows)])
    best = optimal.max(axis=1)
    chosen = optimal[np.arange(len(optimal)), learned.argmax(axis=1)]
    right = chosen[floor] > best[floor] - 1e-6
    wrong = np.abs(learned - optimal)[floor]
    text = (
        f"The learned policy takes an optimal action on {right.sum()} of {right.size} floor cells. |Q - Q*| is "
        f"{wrong.max():.3g} at most and {wrong.mean():.3g} on average over floor cells and actions."
    )
    caption = (
        "Colour and number: value of the best action; arrows: the best actions (several where they tie). Left what was "
        "learned, right the optimum by value iteration. S start, G goal (reward 1), X pit (reward -1), grey walls."
    )
    draw = lambda: draw_policies(rows, {"learned": learned, "optimal": optimal})  # noqa: E731
    return Section("Policy", [Figure("policy", caption, draw, wide=True)], text)


def draw_policies(rows: Sequence[str], tables: Mapping[str, np.ndarray]):
    """The figure of `policy_section`: one panel for each table of action values [cells, 4]."""
    height, width = len(rows), len(rows[0])
    figure = new_figure(4.2 * len(tables), 4.2 * height / width + 0.1)
    floor = np.array([letter in ".S" for letter in "".join(rows)])
    shown = np.concatenate([table.max(axis=1)[floor] for table in tables.values()])
    panels = figure.subplots(1, len(tables), squeeze=False)[0]
    image: Any = None
    for axes, (title, table) in zip(panels, tables.items(), strict=True):
        values = np.where(floor, table.max(axis=1), np.nan).reshape(height, width)
        image = axes.imshow(values, cmap="cividis", vmin=shown.min(), vmax=shown.max())
        middle = (shown.min() + shown.max()) / 2
        for cell, letter in enumerate("".join(rows)):
            _draw_cell(axes, divmod(cell, width), letter, table[cell], middle)
        image_only(axes)
        axes.set_title(title)
    figure.colorbar(image, ax=list(panels), shrink=0.85, label="value")
    return figure


def _draw_cell(axes: Any, place: tuple[int, int], letter: str, values: np.ndarray, middle: float) -> None:
    from matplotlib.patches import Rectangle

    row, column = place
    if letter not in ".S":
        color = {"#": GREY, "G": "#b7e4d3", "X": "#f3c6ae"}[letter]
        axes.add_patch(Rectangle((column - 0.5, row - 0.5), 1, 1, color=color, zorder=2))
    if letter in "GX":
        axes.text(column, row, letter, ha="center", va="center", fontsize=13, fontweight="bold", zorder=3)
    if letter not in ".S":
        return
    ink = "white" if values.max() < middle else BLACK
    for action in np.flatnonzero(values > values.max() - 1e-6):
        down, right = _ARROWS[action]
        tip = {"xy": (column + 0.4 * right, row + 0.4 * down), "xytext": (column, row)}
        axes.annotate("", **tip, arrowprops={"arrowstyle": "->", "color": ink, "linewidth": 1.3}, zorder=3)
    corner = {"va": "top", "color": ink, "zorder": 3}
    axes.text(column - 0.46, row - 0.45, f"{values.max():.2f}", ha="left", fontsize=7, **corner)
    if letter == "S":
        axes.text(column + 0.46, row - 0.45, "S", ha="right", fontsize=10, fontweight="bold", **corner)


# --- moving pictures: each frame is drawn from one observation -------------------------------------------------------


def cartpole_frames(observations: np.ndarray, every: int = 1) -> np.ndarray:
    """The cart and its pole from observations [N, 4] (position, speed, angle, spin): uint8 [M, 160, 400, 3]."""
    from PIL import Image, ImageDraw

    width, height, scale, rail = 400, 160, 400 / 5.2, 130
    frames = []
    for number, (x, _, angle, _) in enumerate(observations[::every]):
        # drawn twice as large and made smaller, for smooth edges
        image = Image.new("RGB", (2 * width, 2 * height), "white")
        draw = ImageDraw.Draw(image)
        for bound in (-2.4, 2.4):
            place = 2 * (width / 2 + bound * scale)
            draw.line([(place, 2 * rail - 20), (place, 2 * rail + 20)], fill=GREY, width=4)
        draw.line([(0, 2 * rail), (2 * width, 2 * rail)], fill=GREY, width=4)
        cart = 2 * (width / 2 + x * scale)
        draw.rectangle([cart - 44, 2 * rail - 44, cart + 44, 2 * rail - 6], fill=BLUE)
        tip = (cart + 2 * scale * np.sin(angle), 2 * rail - 40 - 2 * scale * np.cos(angle))
        draw.line([(cart, 2 * rail - 40), tip], fill=VERMILLION, width=16)
        draw.text((8, 8), f"step {number * every}", fill=GREY, font_size=24)
        frames.append(np.asarray(image.resize((width, height), Image.Resampling.LANCZOS)))
    return np.stack(frames)


def gridworld_frames(rows: Sequence[str], observations: np.ndarray, size: int = 36) -> np.ndarray:
    """The agent on its map from one-hot observations [N, cells]: uint8 [N, H, W, 3], `size` pixels a cell."""
    from PIL import Image, ImageDraw

    height, width = len(rows), len(rows[0])
    colors = {"#": GREY, "G": "#009E73", "X": VERMILLION, "S": "#dfe3e8", ".": "#ffffff"}
    frames = []
    for observation in observations:
        image = Image.new("RGB", (width * size, height * size), "#c8ced6")
        draw = ImageDraw.Draw(image)
        for cell, letter in enumerate("".join(rows)):
            top, left = size * (cell // width), size * (cell % width)
            draw.rectangle([left + 1, top + 1, left + size - 2, top + size - 2], fill=colors[letter])
        place = int(np.argmax(observation))
        top, left = size * (place // width), size * (place % width)
        draw.ellipse([left + 7, top + 7, left + size - 8, top + size - 8], fill=BLUE)
        frames.append(np.asarray(image))
    return np.stack(frames)


def channel_frames(observations: np.ndarray, size: int = 20) -> np.ndarray:
    """Binary images [N, H, W, C] as MinAtar has them, a colour for each channel: uint8 [N, H·size, W·size, 3].

    Where channels overlap, the first one is seen: it is the player's.
    """
    count = observations.shape[-1]
    palette = np.array([[int(color[i : i + 2], 16) for i in (1, 3, 5)] for color in PALETTE if color != BLACK])
    colors = palette[np.arange(count) % len(palette)]
    picture = np.full((*observations.shape[:3], 3), 24, np.uint8)
    for channel in reversed(range(count)):
        picture = np.where(observations[..., channel : channel + 1] > 0, colors[channel].astype(np.uint8), picture)
    return picture.repeat(size, axis=1).repeat(size, axis=2)
