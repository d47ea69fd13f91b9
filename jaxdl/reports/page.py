"""One self-contained page for a run: headline numbers, facts, figures and tables.

Figures are embedded and written to plots/ as well; there is no script and nothing is loaded from elsewhere.
"""

import base64
import html
import io
import math
import os
import re
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from jaxdl.reports.style import DPI, RC

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")
_NUMBER = re.compile(r"[-+−]?[\d,.]+(e[-+]?\d+)?( ?[%kMG]| s| ms)?( [±–] [\d.]+( %)?)?|–|")
_CODE_FACTS = ("command", "digest", "params_digest", "state_digest", "fingerprint")
_CSS_PIXELS_PER_INCH = 96


@dataclass(frozen=True)
class Figure:
    """A drawing of the report.

    Attributes:
      name: file name without extension, of letters, digits, ".", "_" and "-"; once in a report.
      caption: what is seen, in a sentence; also the text for readers who cannot see it.
      draw: () -> matplotlib Figure; called once, by `write_report`, with the report's style set.
      picture: holds photographs or other pictures whose colours must not be adapted to a dark page.
      wide: takes the whole width of the page rather than half of it.
    """

    name: str
    caption: str
    draw: Callable[[], Any]
    picture: bool = False
    wide: bool = False


@dataclass(frozen=True)
class Animation:
    """Moving pictures of the report, embedded and written to plots/<name>.gif.

    Attributes:
      name, caption: as of a `Figure`; one name for both kinds.
      frames: () -> uint8 [N, H, W, 3], N frames; called once.
      seconds: how long one frame is shown; the last one stays for a second.
    """

    name: str
    caption: str
    frames: Callable[[], Any]
    seconds: float = 0.05


@dataclass(frozen=True)
class Table:
    """A table of the report.

    Attributes:
      title: above it; may be empty.
      header: column names.
      rows: cells as text, numbers or None (shown as a dash, like NaN); every row as long as the header.
      caption: below it; may be empty.
      strong: indices of rows to emphasise; negative ones count from the end.
      names: indices of columns of names, which are not set as numbers even if they are digits.
      wide: takes the whole width of the page rather than half of it.
    """

    title: str
    header: Sequence[str]
    rows: Sequence[Sequence[Any]]
    caption: str = ""
    strong: Sequence[int] = ()
    names: Sequence[int] = ()
    wide: bool = False


@dataclass(frozen=True)
class Section:
    """Figures and tables under one heading; left out of the report if it has neither items nor text."""

    title: str
    items: Sequence[Figure | Animation | Table] = ()
    text: str = ""


@dataclass(frozen=True)
class Headline:
    """A number that is seen first: "test accuracy", "98.3 %", "± 0.4", "95 % interval over 5 seeds"."""

    label: str
    value: str
    interval: str = ""
    note: str = ""


def write_report(
    folder: str | os.PathLike,
    title: str,
    facts: Mapping[str, Any],
    sections: Sequence[Section],
    headlines: Sequence[Headline] = (),
    name: str = "report.html",
) -> Path:
    """Writes `folder`/`name` and every figure to `folder`/plots/<name>.png.

    Args:
      folder: the run folder; made if it is not there.
      title: the page's heading.
      facts: short lines about the run by name; "command" and digests are set as code.
      sections: in their order on the page; empty ones are left out.
      headlines: the numbers to be seen first; the first one is the largest.
      name: the page's file name.

    Returns:
      The path of the page. It is replaced in one piece, so that a reader never sees half a page.

    Raises:
      ValueError: a figure's name is used twice or is no file name, or a table's row is not as long as its header.
    """
    folder = Path(folder)
    shown = [section for section in sections if section.items or section.text]
    _check(shown)
    (folder / "plots").mkdir(parents=True, exist_ok=True)
    pieces = [_section(section, index, folder / "plots") for index, section in enumerate(shown)]
    links = "".join(f'<a href="#s{index}">{_text(section.title)}</a>' for index, section in enumerate(shown))
    page = (
        '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{_text(title)}</title>\n<style>\n{_stylesheet()}</style>\n</head>\n<body>\n"
        f"<header>\n<h1>{_text(title)}</h1>\n{_headlines(headlines)}{_facts(facts)}"
        + (f'<nav aria-label="Sections">{links}</nav>\n' if len(shown) > 1 else "")
        + f"</header>\n<main>\n{''.join(pieces)}</main>\n<footer>Written by jaxdl.</footer>\n</body>\n</html>\n"
    )
    path = folder / name
    _replace(path, page.encode("utf-8", errors="replace"))
    return path


def render_png(figure: Figure) -> tuple[bytes, int, int]:
    """Draws `figure` in the report's style: (PNG file, width and height in CSS pixels, half of those in the file)."""
    import matplotlib
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from PIL import Image

    with matplotlib.rc_context(RC), warnings.catch_warnings():
        # names in scripts that the font lacks are drawn as boxes; the tables show them in full
        warnings.filterwarnings("ignore", message=r"Glyph .* missing from", category=UserWarning)
        # a curve whose labels leave no room is drawn without the automatic layout
        warnings.filterwarnings("ignore", message="constrained_layout not applied", category=UserWarning)
        drawing = figure.draw()
        drawing.set_dpi(DPI)
        canvas = FigureCanvasAgg(drawing)
        canvas.draw()
        pixels = np.asarray(canvas.buffer_rgba())[..., :3]
    image = Image.fromarray(np.ascontiguousarray(pixels))
    if not figure.picture:
        # flat colours and grey text: a palette cannot be told from the original and is a third of its size
        image = image.quantize(256, method=Image.Quantize.MEDIANCUT, dither=Image.Dither.NONE)
    buffer = io.BytesIO()
    image.save(buffer, format="png", compress_level=6)
    scale = _CSS_PIXELS_PER_INCH / DPI
    return buffer.getvalue(), round(image.width * scale), round(image.height * scale)


def encode_gif(frames: Any, seconds: float = 0.05) -> bytes:
    """Frames uint8 [N, H, W, 3] as an endless GIF, `seconds` a frame (a second for the last)."""
    from PIL import Image

    images = [Image.fromarray(np.ascontiguousarray(frame)) for frame in frames]
    # one palette for all frames: colours of their own would flicker
    palette = Image.fromarray(np.concatenate([frames[0], frames[len(frames) // 2], frames[-1]])).quantize(64)
    small = [image.quantize(palette=palette, dither=Image.Dither.NONE) for image in images]
    durations = [max(20, round(1000 * seconds))] * (len(small) - 1) + [1000]
    buffer = io.BytesIO()
    small[0].save(
        buffer, format="gif", save_all=True, append_images=small[1:], duration=durations, loop=0, optimize=False
    )
    return buffer.getvalue()


def format_cell(value: Any) -> str:
    """A table cell's text: None and NaN as a dash, integers with thousands separated, floats with four digits."""
    if isinstance(value, np.generic):
        value = value.item()
    if value is None:
        return "–"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int):
        return f"{value:,}"
    if isinstance(value, float):
        return "–" if math.isnan(value) else f"{value:.4g}"
    if isinstance(value, tuple | list):
        return " × ".join(format_cell(part) for part in value)
    return str(value)


def _check(sections: Sequence[Section]) -> None:
    names = set()
    for item in (item for section in sections for item in section.items):
        if isinstance(item, Figure | Animation):
            if not _NAME.fullmatch(item.name):
                raise ValueError(f"figure name {item.name!r} is no file name: use letters, digits, '.', '_' and '-'")
            if item.name in names:
                raise ValueError(f"figure name {item.name!r} is used twice in one report: give each its own")
            names.add(item.name)
        else:
            for row in item.rows:
                if len(row) != len(item.header):
                    raise ValueError(
                        f"table {item.title!r} has {len(item.header)} columns, but a row of {len(row)} cells"
                    )


def _text(value: Any) -> str:
    return html.escape(str(value), quote=True)


def _stylesheet() -> str:
    return Path(__file__).with_name("page.css").read_text(encoding="utf-8")


def _headlines(headlines: Sequence[Headline]) -> str:
    if not headlines:
        return ""
    cards = []
    for item in headlines:
        interval = f' <span class="interval">{_text(item.interval)}</span>' if item.interval else ""
        note = f'<div class="note">{_text(item.note)}</div>' if item.note else ""
        value = f'<div class="value"><span>{_text(item.value)}</span>{interval}</div>'
        cards.append(f'<li><div class="label">{_text(item.label)}</div>{value}{note}</li>\n')
    return f'<ul class="headlines">\n{"".join(cards)}</ul>\n'


def _facts(facts: Mapping[str, Any]) -> str:
    if not facts:
        return ""
    cells = []
    for name, value in facts.items():
        shown = _text(format_cell(value))
        code = name.lower().replace(" ", "_") in _CODE_FACTS
        kind = ' class="long"' if code or len(shown) > 60 else ""
        if code:
            shown = "<code>" + " ".join(f"<span>{part}</span>" for part in shown.split(" ")) + "</code>"
        cells.append(f"<div{kind}><dt>{_text(name)}</dt><dd>{shown}</dd></div>\n")
    return f'<dl class="facts">\n{"".join(cells)}</dl>\n'


def _section(section: Section, index: int, plots: Path) -> str:
    text = "".join(f"<p>{_text(part)}</p>\n" for part in section.text.split("\n\n") if part.strip())
    items = "".join(_item(item, plots) for item in section.items)
    grid = f'<div class="items">\n{items}</div>\n' if items else ""
    return f'<section id="s{index}">\n<h2>{_text(section.title)}</h2>\n{text}{grid}</section>\n'


def _item(item: Figure | Animation | Table, plots: Path) -> str:
    if isinstance(item, Table):
        return _table(item)
    return _figure(item, plots) if isinstance(item, Figure) else _animation(item, plots)


def _animation(animation: Animation, plots: Path) -> str:
    frames = animation.frames()
    gif = encode_gif(frames, animation.seconds)
    _replace(plots / f"{animation.name}.gif", gif)
    height, width = frames[0].shape[:2]
    data = base64.b64encode(gif).decode("ascii")
    return (
        f'<figure class="picture"><div class="box"><img src="data:image/gif;base64,{data}" width="{width}" '
        f'height="{height}" style="--width:{width}px" alt="{_text(animation.caption)}"></div>'
        f"<figcaption>{_text(animation.caption)}</figcaption></figure>\n"
    )


def _figure(figure: Figure, plots: Path) -> str:
    png, width, height = render_png(figure)
    _replace(plots / f"{figure.name}.png", png)
    kinds = ["picture" if figure.picture else "chart", "wide" if figure.wide else "", "fine" if width > 620 else ""]
    size = f'width="{width}" height="{height}" style="--width:{width}px"'
    data = base64.b64encode(png).decode("ascii")
    return (
        f'<figure class="{" ".join(filter(None, kinds))}"><div class="box"{" tabindex=0" if width > 620 else ""}>'
        f'<img src="data:image/png;base64,{data}" {size} alt="{_text(figure.caption)}"></div>'
        f"<figcaption>{_text(figure.caption)}</figcaption></figure>\n"
    )


def _table(table: Table) -> str:
    cells = [[format_cell(cell) for cell in row] for row in table.rows]
    numeric = [
        column not in table.names and all(_NUMBER.fullmatch(row[column]) for row in cells)
        for column in range(len(table.header))
    ]

    def line(row: Sequence[str], tag: str, strong: bool = False) -> str:
        kinds = [
            "number" if number else "text" if tag == "td" and len(cell) > 28 else ""
            for cell, number in zip(row, numeric, strict=True)
        ]
        opened = [f'<{tag} class="{kind}">' if kind else f"<{tag}>" for kind in kinds]
        inner = "".join(f"{start}{_text(cell)}</{tag}>" for start, cell in zip(opened, row, strict=True))
        return f'<tr class="strong">{inner}</tr>\n' if strong else f"<tr>{inner}</tr>\n"

    strong = {index % len(cells) for index in table.strong} if cells else set()
    body = "".join(line(row, "td", index in strong) for index, row in enumerate(cells))
    title = f"<h3>{_text(table.title)}</h3>\n" if table.title else ""
    caption = f'<div class="caption">{_text(table.caption)}</div>\n' if table.caption else ""
    label = _text(table.title or "Table")
    head = line([str(name) for name in table.header], "th")
    return (
        f'<div class="table{" wide" if table.wide else ""}">\n{title}'
        f'<div class="scroll" tabindex="0" role="region" aria-label="{label}">\n<table>\n'
        f"<thead>{head}</thead>\n<tbody>\n{body}</tbody>\n</table>\n</div>\n"
        f"{caption}</div>\n"
    )


def _replace(path: Path, content: bytes) -> None:
    temporary = path.with_name(f".{path.name}.tmp")
    temporary.write_bytes(content)
    temporary.replace(path)
