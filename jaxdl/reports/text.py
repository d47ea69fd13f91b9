"""What a language model learnt: its loss against n-grams, where it was surprised, and what it writes."""

import math
from collections.abc import Mapping, Sequence

import numpy as np

from jaxdl.reports.page import Figure, Section, Table
from jaxdl.reports.style import BLUE, GREY, ORANGE, VERMILLION, compact, new_figure, plain

_LN2 = math.log(2.0)
# Latin text and spaces only: what the font's other glyphs would be wide is unknown
_COLUMN = 0.083  # inches of a character of 8 pt in a monospaced font
_LINE = 0.19


def bits_section(
    steps: Sequence[int],
    bits: Sequence[float],
    ngrams: Mapping[int, float],
    split: str = "validation",
    title: str = "Bits per character against n-grams",
) -> Section:
    """The learning curve beside what counting windows of n characters reaches.

    Args:
      steps: [k] updates after which the split was read.
      bits: [k] bits per character of it.
      ngrams: window n -> bits per character.
      split: its name.
      title: heading.
    """
    if not len(steps):
        return Section(title)
    caption = (
        f"Mean of -log2 p of the {split} split's characters while training. Dashed: interpolated n-grams (Witten-Bell) "
        "counted in the same training text."
    )
    best = min(ngrams.items(), key=lambda item: item[1], default=None)
    text = ""
    if best:
        gain = best[1] - min(bits)
        relation = f"{gain:.3f} bits below" if gain > 0 else f"{-gain:.3f} bits above"
        text = f"The network's best is {min(bits):.3f} bits, {relation} the best window, of n = {best[0]}."
    return Section(title, [Figure("bits_per_character", caption, lambda: draw_bits(steps, bits, ngrams))], text)


def draw_bits(steps: Sequence[int], bits: Sequence[float], ngrams: Mapping[int, float]):
    """See `bits_section`; a matplotlib Figure."""
    figure = new_figure()
    axes = figure.add_subplot()
    axes.plot(steps, bits, color=BLUE, marker="o", markersize=3.5, label="network")
    low, high = min(bits), max(bits)
    shown = sorted(((n, value) for n, value in ngrams.items()), key=lambda item: item[1])
    for index, (_, value) in enumerate(shown):
        color = (VERMILLION, ORANGE)[index] if index < 2 else GREY
        axes.axhline(value, color=color, linestyle="--", linewidth=1.1, zorder=1)
        low, high = min(low, value), max(high, value)
    top = max(max(bits), shown[min(2, len(shown) - 1)][1]) if shown else high
    axes.set_ylim(low - 0.06 * (top - low + 1e-9), top + 0.06 * (top - low + 1e-9))
    taken: list[float] = []
    for n, value in shown:
        if value > axes.get_ylim()[1] or any(abs(value - other) < 0.045 * (top - low) for other in taken):
            continue
        taken.append(value)
        axes.annotate(f"{n}-gram", (1.0, value), xycoords=("axes fraction", "data"), xytext=(-3, 2),
                      textcoords="offset points", ha="right", va="bottom", fontsize=9, color="#30373f")  # fmt: skip
    axes.set_xlabel("updates")
    axes.set_ylabel("bits per character")
    axes.xaxis.set_major_formatter(lambda value, place: compact(value))
    axes.legend(loc="upper center")
    return figure


def surprise_section(
    text: str, nats: np.ndarray, width: int = 64, lines: int = 12, title: str = "Where the network is surprised"
) -> Section:
    """An excerpt with each character's loss as the colour behind it.

    Args:
      text: [n] characters in order.
      nats: [n] -log p of each.
      width: the most characters of a line.
      lines: how many lines.
      title: heading.
    """
    if not len(text):
        return Section(title)
    rows = _broken(text, width, lines)
    caption = (
        "An excerpt of the validation split. The darker a character's ground, the less the network expected it (in bits, "
        "-log2 p); ↵ is a line break."
    )
    worst = _surprise_by_kind(text, nats)
    figure = Figure("surprise", caption, lambda: draw_surprise(text, nats, rows), wide=True)
    header = ["kind of character", "share of the text", "bits each", "share of the loss"]
    table = Table("", header, worst, "Which characters cost most: the first of a word, or what follows.", names=(0,))
    return Section(title, [figure, table])


def draw_surprise(text: str, nats: np.ndarray, rows: Sequence[tuple[int, int]]):
    """See `surprise_section`; a matplotlib Figure. `rows` are (first, end) positions of each line."""
    from matplotlib import colormaps
    from matplotlib.cm import ScalarMappable
    from matplotlib.colors import Normalize

    width = max(end - first for first, end in rows)
    figure = new_figure(0.2 + width * 0.155, 0.85 + 0.27 * len(rows))
    axes = figure.add_subplot()
    colors, scale = colormaps["Oranges"], Normalize(0.0, 8.0)
    grid = np.full((len(rows), width), np.nan)
    for row, (first, end) in enumerate(rows):
        grid[row, : end - first] = np.asarray(nats[first:end], float) / _LN2
        for column, character in enumerate(text[first:end]):
            shown = {"\n": "↵", " ": " "}.get(character, character)
            dark = grid[row, column] > 5.5
            axes.text(column, row, plain(shown) if shown.strip() else "", ha="center", va="center", fontsize=9.5,
                      family="DejaVu Sans Mono", color="white" if dark else "#1d2329")  # fmt: skip
    axes.imshow(np.ma.masked_invalid(grid), cmap=colors, norm=scale, aspect="auto", interpolation="nearest")
    axes.set_xticks([])
    axes.set_yticks([])
    axes.grid(False)
    for spine in axes.spines.values():
        spine.set_visible(False)
    bar = figure.colorbar(
        ScalarMappable(scale, colors), ax=axes, orientation="horizontal", fraction=0.03, pad=0.03, aspect=60
    )
    bar.set_label("surprise in bits")
    bar.outline.set_visible(False)
    return figure


def samples_section(samples: Mapping[float, str], title: str = "What it writes", width: int = 78) -> Section:
    """Texts at several temperatures, one figure each.

    Args:
      samples: temperature -> text.
      title: heading.
      width: characters of a line; longer lines are broken.
    """
    figures = [
        Figure(
            f"sample_{temperature:g}".replace(".", "_"),
            f"A sample at temperature {temperature:g}.",
            lambda text=text: draw_text(text, width),  # type: ignore[misc]
            wide=True,
        )
        for temperature, text in samples.items()
        if text
    ]
    text = "Each character is drawn from softmax(scores / temperature): low is safe and repeats itself, high is bold."
    return Section(title, figures, text if figures else "")


def draw_text(text: str, width: int = 78):
    """A text in a monospaced font as a matplotlib Figure; long lines are broken."""
    lines = [text[first:end].replace("\n", "") for first, end in _broken(text, width, 10_000)]
    figure = new_figure(0.3 + width * _COLUMN, 0.15 + _LINE * len(lines))
    figure.set_layout_engine("none")
    axes = figure.add_axes((0.0, 0.0, 1.0, 1.0))
    axes.axis("off")
    axes.set_xlim(0, 1)
    axes.set_ylim(len(lines) + 0.4, -0.4)
    for row, line in enumerate(lines):
        shown = "".join(c if c.isprintable() else " " for c in line).replace("$", r"\$")
        axes.text(0.012, row, shown, va="top", ha="left", fontsize=9, family="DejaVu Sans Mono", color="#1d2329")
    return figure


def memory_section(influence: np.ndarray, title: str = "How far back it looks") -> Section:
    """What a character contributes to the next prediction, by how long ago it was read.

    Args:
      influence: [T] mean norm of d(-log p)/d(vector of the character read k steps before), k = 0 ... T - 1.
      title: heading.
    """
    influence = np.asarray(influence, float)
    if len(influence) < 2 or not (influence > 0).any():
        return Section(title)
    reach = int(np.flatnonzero(influence >= 0.01 * influence.max())[-1])
    caption = (
        "Mean norm of the gradient of one character's -log p by the vector of the character read k steps before: it "
        "vanishes with distance, faster in a tanh network than in one with gates."
    )
    text = f"It falls below a hundredth of its largest value for good after {reach} characters."
    return Section(title, [Figure("memory", caption, lambda: draw_memory(influence))], text)


def draw_memory(influence: np.ndarray):
    """See `memory_section`; a matplotlib Figure."""
    figure = new_figure()
    axes = figure.add_subplot()
    seen = influence > 0
    axes.semilogy(np.arange(len(influence))[seen], influence[seen], color=BLUE)
    axes.set_xlabel("characters ago")
    axes.set_ylabel("norm of the gradient")
    return figure


def streams_section(
    chunks: Sequence[Sequence[str]], title: str = "How the text is cut for truncated backpropagation"
) -> Section:
    """The first chunks that the first streams read, one row a stream.

    Args:
      chunks: for each stream the texts of its first chunks.
      title: heading.
    """
    if not chunks or not chunks[0]:
        return Section(title)
    header = ["stream", *(f"update {k + 1}" for k in range(len(chunks[0])))]
    rows = [[str(number + 1), *(_shown(text) for text in row)] for number, row in enumerate(chunks)]
    caption = (
        "The carry flows from one chunk of a stream to the next; the gradient ends at the chunk's first character."
    )
    return Section(title, [Table("", header, rows, caption, names=tuple(range(len(header))), wide=True)])


def _shown(text: str, limit: int = 40) -> str:
    line = text.replace("\n", "↵")
    return line if len(line) <= limit else f"{line[: limit // 2 - 1]} … {line[-limit // 2 + 1 :]}"


def _broken(text: str, width: int, lines: int) -> list[tuple[int, int]]:
    """(first, end) of at most `lines` lines: cut after each line break and after `width` characters."""
    rows: list[tuple[int, int]] = []
    first = 0
    while first < len(text) and len(rows) < lines:
        stop = text.find("\n", first, first + width)
        end = min(first + width, len(text)) if stop < 0 else stop + 1
        rows.append((first, end))
        first = end
    return rows


def _surprise_by_kind(text: str, nats: np.ndarray) -> list[list]:
    """Rows (kind, share of the text, bits each, share of the loss)."""
    letters = np.array([c.isalnum() for c in text])
    starts = letters & ~np.concatenate([[False], letters[:-1]])
    kinds = {
        "first of a word": starts,
        "within a word": letters & ~starts,
        "space": np.array([c == " " for c in text]),
        "line break": np.array([c == "\n" for c in text]),
    }
    kinds["other signs"] = ~np.any(list(kinds.values()), axis=0)
    total = max(float(np.sum(nats)), 1e-30)
    rows: list[list] = []
    for name, chosen in kinds.items():
        if chosen.any():
            share, loss = chosen.mean(), float(np.sum(nats[chosen])) / total
            rows.append(
                [name, f"{100 * share:.1f} %", round(float(np.mean(nats[chosen])) / _LN2, 3), f"{100 * loss:.1f} %"]
            )
    return rows
