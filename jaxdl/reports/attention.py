"""Translations: how many are right, which are wrong, and where the decoder looked."""

from collections.abc import Mapping, Sequence

import numpy as np

from jaxdl.reports.page import Figure, Section, Table
from jaxdl.reports.style import new_figure, percent, plain

_MOST_MISTAKES = 20


def exact_match_section(right: Mapping[str, np.ndarray], kinds: Sequence[str], title: str = "Exact match") -> Section:
    """Shares of examples that are right as a whole, by way of decoding, and by kind of example for the first of them.

    Args:
      right: way of decoding -> [n] bool.
      kinds: kind of each example, [n].
      title: of the section.
    """
    first = next(iter(right))
    rows: list[list] = []
    for name, found in right.items():
        rows.append([name, len(found), int((~found).sum()), percent(float(np.mean(found)), 2)])
    decoding = Table("By way of decoding", ("decoding", "examples", "wrong", "right"), rows)
    by_kind: list[tuple[str, int, int, str]] = []
    for kind in dict.fromkeys(kinds):
        found = right[first][[k == kind for k in kinds]]
        by_kind.append((kind, len(found), int((~found).sum()), percent(float(np.mean(found)))))
    by_kind.sort(key=lambda row: (-row[2] / row[1], row[0]))
    caption = f"Test examples, decoding: {first}; the worst first."
    return Section(
        title, [decoding, Table("By format", ("format", "examples", "wrong", "right"), by_kind, caption, names=(0,))]
    )


def mistakes_section(
    sources: Sequence[str], made: Sequence[str], wanted: Sequence[str], confidence: np.ndarray, title: str = "Mistakes"
) -> Section:
    """The translations `made` that are not the `wanted` ones, those of which the model was surest first.

    Args:
      sources, made, wanted: n texts.
      confidence: [n], probability of the most probable translation.
      title: of the section.
    """
    wrong = [i for i in range(len(made)) if made[i] != wanted[i]]
    wrong.sort(key=lambda i: -confidence[i])
    if not wrong:
        return Section(title, text=f"None among {len(made):,} examples.")
    rows = [[sources[i], made[i], wanted[i], percent(float(confidence[i]))] for i in wrong[:_MOST_MISTAKES]]
    shown = f"All {len(wrong)}" if len(wrong) <= _MOST_MISTAKES else f"The first {_MOST_MISTAKES} of {len(wrong)}"
    caption = f"{shown} wrong translations of {len(made):,}; the ones the model was surest of first."
    table = Table("", ("source", "translation", "right", "confidence"), rows, caption, names=(0, 1, 2), wide=True)
    return Section(title, [table])


def alignment_section(maps: Sequence[tuple[str, str, np.ndarray]], title: str = "Where the decoder looks") -> Section:
    """Heat maps of attention weights.

    Args:
      maps: (source text of S characters, translation of T characters, weights [T, S] in [0, 1]).
      title: of the section.
    """
    figures = []
    for number, (source, target, weights) in enumerate(maps):
        if not target:  # a model that has learnt nothing may end before its first character
            continue
        caption = (
            f"Writing {plain(target, 40)}: each row is one character that is written, and how much of the attention "
            f"(0 to 1, mean over heads) lies on each character of the source."
        )
        draw = lambda s=source, t=target, w=weights: draw_alignment(s, t, w)  # noqa: E731
        figures.append(Figure(f"attention_{number}", caption, draw, wide=len(source) > 22))
    return Section(title, figures)


def draw_alignment(source: str, target: str, weights: np.ndarray):
    """One heat map with a character at each tick, as a matplotlib Figure; weights [T, S]."""
    size = 0.27  # inches a character
    figure = new_figure(max(1.7 + size * len(source), 3.6), max(1.1 + size * len(target), 3.0))
    axes = figure.add_subplot()
    image = axes.imshow(weights, cmap="cividis", vmin=0.0, vmax=1.0, aspect="auto", interpolation="nearest")
    axes.grid(False)
    for axis, text in ((axes.xaxis, source), (axes.yaxis, target)):
        axis.set_ticks(range(len(text)), [_shown(character) for character in text])
        axis.set_tick_params(length=0)
    axes.set_xlabel("read")
    axes.set_ylabel("written")
    bar = figure.colorbar(image, ax=axes, label="attention", ticks=[0, 0.5, 1])
    bar.outline.set_visible(False)  # type: ignore[operator]
    return figure


def _shown(character: str) -> str:
    return "␣" if character == " " else plain(character)
