"""What a GAN's report shows: the game's balance, samples through training, what they cover and what they are near to."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from jaxdl.reports.curves import curve
from jaxdl.reports.intervals import interval_over_seeds
from jaxdl.reports.page import Figure, Section, Table
from jaxdl.reports.pictures import Tile, as_picture, draw_grid
from jaxdl.reports.style import BLUE, GREY, ORANGE, VERMILLION, new_figure

Previews = Sequence[tuple[int, np.ndarray]]
_LOSSES = {"discriminator_loss": ("discriminator", BLUE), "generator_loss": ("generator", VERMILLION)}
_PROBABILITIES = {
    "real_probability": ("D(x), real examples", BLUE),
    "fake_probability": ("D(G(z)), samples", VERMILLION),
}


def game_section(runs: Sequence[Sequence[Mapping[str, Any]]], title: str = "The game") -> Section:
    """Both losses, and what the discriminator says of real examples and of samples, over training.

    Args:
      runs: S lists of metrics rows, one for each seed.
      title: heading.
    """
    note = f" Lines are means over {len(runs)} seeds." if len(runs) > 1 else ""
    losses = "Training losses of both networks. At the equilibrium they are 2 ln 2 and ln 2 (dashed)." + note
    said = "The discriminator's mean probability of being real. At the equilibrium both are one half (dashed)." + note
    return Section(
        title,
        [
            Figure(
                "gan_losses", losses, lambda: _draw_game(runs, _LOSSES, "loss (nats)", (2 * math.log(2), math.log(2)))
            ),
            Figure(
                "gan_probabilities", said, lambda: _draw_game(runs, _PROBABILITIES, "probability of being real", (0.5,))
            ),
        ],
    )


def mixture_sections(samples: np.ndarray, previews: Previews, centres: np.ndarray, sigma: float) -> list[Section]:
    """Points of a generator on a mixture of Gaussians: through training, at the end, and mode by mode.

    Args:
      samples: [n, 2] of the reported generator.
      previews: (step, points [m, 2]) kept during training.
      centres: [K, 2].
      sigma: standard deviation of each Gaussian.
    """
    frames = [(f"step {step:,}", points) for step, points in previews] + [("end", samples)]
    caption = "Samples through training, from the same noise at each step. Circles have the radius 3σ about the modes' centres."
    count = "The share of samples nearest to each mode and within 3σ of it. Dashed: its fair share."
    distances = np.linalg.norm(samples[:, None] - centres[None], axis=-1)
    nearest, good = distances.argmin(1), distances.min(1) <= 3 * sigma
    shares = np.array([np.mean(good & (nearest == k)) for k in range(len(centres))])
    return [
        Section("Samples", [Figure("samples", caption, lambda: draw_points(frames, centres, sigma), wide=True)]),
        Section(
            "Modes",
            [Figure("modes", count, lambda: draw_shares(shares, [str(k) for k in range(len(centres))], "mode"))],
            text=f"{100 * good.mean():.1f} % of {len(samples):,} samples lie within 3σ of a mode.",
        ),
    ]


def image_sections(samples: np.ndarray, previews: Previews) -> list[Section]:
    """Images [n, H, W, C] of the reported generator and what it made of fixed noise through training."""
    items = []
    if previews:
        shown = [(step, as_picture(np.clip(images, 0, 1))) for step, images in previews]
        columns = min(12, min(len(images) for _, images in shown))
        tiles = [Tile(images[k]) for _, images in shown for k in range(columns)]
        steps = ", ".join(f"{step:,}" for step, _ in shown)
        caption = f"Each column is one noise vector, each row a step of training: {steps}."
        items.append(Figure("samples_through_training", caption, lambda: draw_grid(tiles, columns), picture=True))
    last = "Samples of the reported generator, not chosen."
    items.append(Figure("samples", last, lambda: draw_images(samples[:64]), picture=True))
    return [Section("Samples", items)]


def classes_section(probabilities: np.ndarray, threshold: float, names: Sequence[str]) -> Section:
    """What a pinned classifier sees in the samples: shares of its classes, and how sure it is.

    Args:
      probabilities: [n, K].
      threshold: probability from which a sample counts as an example of its class.
      names: of the classes.
    """
    sure = probabilities.max(1) >= threshold
    shares = np.array([np.mean(sure & (probabilities.argmax(1) == k)) for k in range(len(names))])
    caption = f"The share of samples in each class, with probability {threshold:g} at least. Dashed: equal shares."
    spread = f"How sure the classifier is of a sample: {100 * sure.mean():.1f} % have {threshold:g} or more."
    return Section(
        "Classes of the samples",
        [
            Figure("classes", caption, lambda: draw_shares(shares, names, "class")),
            Figure("confidence", spread, lambda: _draw_confidence(probabilities.max(1), threshold)),
        ],
    )


def neighbours_section(samples: np.ndarray, examples: np.ndarray, count: int = 12) -> Section:
    """Each of the first samples [n, H, W, C] above its nearest training example [m, H, W, C] by Euclidean distance."""
    shown = samples[:count]
    flat, known = shown.reshape(len(shown), -1), examples.reshape(len(examples), -1)
    squares = (known**2).sum(1)[None] - 2.0 * flat @ known.T
    nearest = as_picture(np.clip(examples[squares.argmin(1)], 0, 1))
    tiles = [Tile(image) for image in (*as_picture(np.clip(shown, 0, 1)), *nearest)]
    caption = "Above: samples. Below each: the nearest training example by pixels, to see whether it was copied."
    return Section("Nearest neighbours", [Figure("neighbours", caption, lambda: draw_grid(tiles, count), picture=True)])


def latent_section(walk: np.ndarray, moved: float, chance: float) -> Section:
    """The latent space: straight lines in it, and the sum of class means.

    Args:
      walk: [lines, steps, H, W, C], images along lines between two noise vectors.
      moved: share of samples whose label is b after z̄_b − z̄_a was added to the noise of a sample labelled a.
      chance: likewise with the coordinates of the difference in a random order.
    """
    pictures = [image for line in walk for image in as_picture(np.clip(line, 0, 1))]
    caption = "Along each row the noise goes in equal steps along a great circle from one vector to another."
    text = (
        f"Latent arithmetic (Radford et al. 2016): adding the difference of two classes' mean noise, z̄_b − z̄_a, to a "
        f"sample of class a gives class b in {100 * moved:.1f} % of the cases; a step of the same length whose coordinates "
        f"are shuffled does in {100 * chance:.1f} %."
    )
    tiles = [Tile(image) for image in pictures]
    return Section(
        "Latent space", [Figure("walk", caption, lambda: draw_grid(tiles, walk.shape[1]), picture=True)], text=text
    )


def distances_section(rows: Sequence[tuple[str, float]], space: str, count: int) -> Section:
    """A table of Fréchet distances, lowest first: (what was compared with the test split, distance)."""
    ordered = sorted(rows, key=lambda row: row[1])
    strong = [i for i, (name, _) in enumerate(ordered) if name == "samples"]
    caption = (
        f"Fréchet distance to the test split in {space}, {count:,} images on each side. It depends on the feature space and "
        "on the number of images, so it compares only with the other rows."
    )
    header = [f"{count:,} images", "distance"]
    table = Table("", header, [[name, f"{value:.2f}"] for name, value in ordered], caption, strong=strong)
    return Section("Fréchet distance", [table])


def draw_points(frames: Previews | Sequence[tuple[str, np.ndarray]], centres: np.ndarray, sigma: float):
    """Scatter plots of points [n, 2], one for each (title, points), with circles of 3σ about the modes."""
    from matplotlib.patches import Circle

    columns = min(5, len(frames))
    rows = math.ceil(len(frames) / columns)
    side = 10.4 / columns if len(frames) > 1 else 5.2
    figure = new_figure(side * columns, (side + 0.2) * rows)
    reach = 1.35 * float(np.abs(centres).max()) + 3 * sigma
    for index, (name, points) in enumerate(frames):
        axes = figure.add_subplot(rows, columns, index + 1)
        for centre in centres:
            axes.add_patch(Circle(tuple(centre), 3 * sigma, fill=False, edgecolor=GREY, linewidth=0.7))
        axes.scatter(points[:, 0], points[:, 1], s=3, color=BLUE, alpha=0.4, linewidths=0)
        axes.set(xlim=(-reach, reach), ylim=(-reach, reach), aspect="equal")
        axes.set_title(str(name))
        if len(frames) > 1:
            axes.set(xticks=[], yticks=[])
        else:
            axes.set(xlabel="first coordinate", ylabel="second coordinate")
    return figure


def draw_images(images: np.ndarray):
    """A square grid of images [n, H, W, C] in 0 ... 1."""
    columns = max(1, min(10, round(math.sqrt(len(images)))))
    return draw_grid([Tile(image) for image in as_picture(np.clip(images, 0, 1))], columns)


def draw_shares(shares: np.ndarray, names: Sequence[str], what: str):
    """Bars of shares [K] with their fair share."""
    figure = new_figure()
    axes = figure.add_subplot()
    axes.bar(range(len(shares)), 100 * shares, color=BLUE, width=0.75)
    axes.axhline(100 / len(shares), color=ORANGE, linestyle=(0, (4, 3)), linewidth=1.4, label="equal shares")
    axes.set_xticks(range(len(shares)), list(names))
    axes.set(xlabel=what, ylabel="samples (%)")
    axes.grid(False, axis="x")
    axes.set_ylim(0, 1.25 * 100 * max(float(shares.max()), 1 / len(shares)))
    axes.legend(loc="upper right")
    return figure


def _draw_confidence(values: np.ndarray, threshold: float):
    figure = new_figure()
    axes = figure.add_subplot()
    axes.hist(values, np.linspace(0, 1, 41).tolist(), weights=np.full(len(values), 100 / len(values)), color=BLUE)
    axes.axvline(threshold, color=ORANGE, linestyle=(0, (4, 3)), linewidth=1.4, label=f"{threshold:g}")
    axes.set(xlabel="largest class probability", ylabel="samples (%)", yscale="log")
    axes.legend(loc="upper left")
    return figure


def _draw_game(runs, names: Mapping[str, tuple[str, str]], label: str, levels: Sequence[float]):
    figure = new_figure()
    axes = figure.add_subplot()
    for name, (shown, color) in names.items():
        one = curve(runs, "train", name)
        mean, half, _ = interval_over_seeds(one.values)
        kept = np.isfinite(mean)
        axes.plot(one.steps[kept], mean[kept], color=color, label=shown)
        banded = kept & np.isfinite(half)
        if banded.any():
            axes.fill_between(one.steps, mean - half, mean + half, where=banded, color=color, alpha=0.2, linewidth=0)
    for level in levels:
        axes.axhline(level, color=GREY, linestyle=(0, (4, 3)), linewidth=1)
    axes.set(xlabel="step (updates)", ylabel=label)
    axes.legend(loc="best")
    return figure
