"""The page: parses, loads nothing, embeds each picture once, and shows hostile text as text."""

import base64
import io
import re
from html.parser import HTMLParser

import matplotlib
import numpy as np
import pytest
from PIL import Image

from jaxdl.reports.page import Figure, Headline, Section, Table, format_cell, write_report
from jaxdl.reports.style import new_figure, plain

VOID = {"meta", "img", "br", "hr", "link", "input"}


class Page(HTMLParser):
    """Collects what a browser would load and checks that every tag is closed."""

    def __init__(self, text: str):
        super().__init__()
        self.open: list[str] = []
        self.tags: list[str] = []
        self.attributes: list[tuple[str, str]] = []
        self.text: list[str] = []
        self.cells: list[list[str]] = []
        self.feed(text)
        self.close()

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.attributes += [(name, value or "") for name, value in attrs]
        if tag not in VOID:
            self.open.append(tag)
        if tag == "tr":
            self.cells.append([])
        if tag in ("td", "th"):
            self.cells[-1].append("")

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.text.append(data)
        if self.open and self.open[-1] in ("td", "th"):
            self.cells[-1][-1] += data

    @property
    def pictures(self) -> list[bytes]:
        prefix = "data:image/png;base64,"
        sources = [value for name, value in self.attributes if name == "src"]
        assert all(source.startswith(prefix) for source in sources)
        return [base64.b64decode(source.removeprefix(prefix)) for source in sources]


def read(path) -> Page:
    page = Page(path.read_text(encoding="utf-8"))
    assert page.open == []
    return page


def red(height: float = 2.0):
    figure = new_figure(3.0, height)
    figure.set_layout_engine("none")
    figure.set_facecolor("red")
    return figure


def test_page_is_whole_and_loads_nothing_from_elsewhere(tmp_path):
    sections = [
        Section("One", [Figure("a", "first", red), Table("t", ["x", "y"], [["p", 1], ["q", None]])], "Some text."),
        Section("Two", [Figure("b", "second", lambda: red(1.0), picture=True)]),
    ]
    facts = {"recipe": "lenet5", "command": "python -m experiments.train --seeds=5"}
    path = write_report(
        tmp_path / "run", "A title", facts, sections, [Headline("test accuracy", "98 %", "± 1", "5 seeds")]
    )
    assert path == tmp_path / "run" / "report.html"
    text = path.read_text(encoding="utf-8")
    page = read(path)
    for name, value in page.attributes:
        if name in ("src", "href", "srcset", "data", "action", "poster"):
            assert value.startswith(("data:image/png;base64,", "#")), (name, value)
    assert not re.search(r"@import|url\(|https?://|<script|<link|<iframe", text)
    assert "width=device-width" in text and "prefers-color-scheme: dark" in text
    targets = {value for name, value in page.attributes if name == "id"}
    assert {value[1:] for name, value in page.attributes if name == "href"} == targets == {"s0", "s1"}
    assert {"A title", "98 %", "± 1", "5 seeds", "lenet5", "Some text."} <= {part.strip() for part in page.text}
    assert page.cells == [["x", "y"], ["p", "1"], ["q", "–"]]


def test_each_figure_is_drawn_and_embedded_once_and_equals_its_file(tmp_path):
    drawn = []

    def draw():
        drawn.append(1)
        return red()

    path = write_report(
        tmp_path, "t", {}, [Section("s", [Figure("only", "c", draw), Figure("other", "c", lambda: red(1.0))])]
    )
    pictures = read(path).pictures
    assert len(drawn) == 1
    assert pictures == [(tmp_path / "plots" / f"{name}.png").read_bytes() for name in ("only", "other")]
    assert sorted(file.name for file in tmp_path.rglob("*") if file.is_file()) == [
        "only.png",
        "other.png",
        "report.html",
    ]
    image = Image.open(io.BytesIO(pictures[0])).convert("RGB")
    assert image.size == (3 * 192, 2 * 192)
    assert image.getpixel((100, 100)) == (255, 0, 0)


def test_writing_again_gives_the_same_bytes_and_leaves_matplotlib_alone(tmp_path):
    def draw():
        figure = new_figure()
        axes = figure.add_subplot()
        axes.plot([0, 1], [0, 1], label="line")
        axes.legend()
        return figure

    before = dict(matplotlib.rcParams)
    sections = [Section("s", [Figure("f", "c", draw)])]
    first = write_report(tmp_path / "1", "t", {}, sections).read_bytes()
    second = write_report(tmp_path / "2", "t", {}, sections).read_bytes()
    assert first == second
    assert dict(matplotlib.rcParams) == before
    import sys

    pyplot = sys.modules.get("matplotlib.pyplot")
    assert pyplot is None or pyplot.get_fignums() == []


def test_empty_sections_and_their_links_are_left_out(tmp_path):
    sections = [Section("Empty"), Section("Text only", text="words"), Section("Empty too", [])]
    page = read(write_report(tmp_path, "t", {}, sections))
    assert page.tags.count("section") == 1
    assert not any("Empty" in part for part in page.text)


def test_hostile_text_stays_text(tmp_path):
    evil = "<img src=x onerror=alert(1)>\"'&</td>\x00 \ud800"
    table = Table(evil, [evil], [[evil]], evil)
    sections = [Section(evil, [table, Figure("f", evil, red)], evil)]
    page = read(
        write_report(tmp_path, evil, {evil: evil, "command": evil}, sections, [Headline(evil, evil, evil, evil)])
    )
    assert page.tags.count("img") == 1
    assert not any(name.startswith("on") for name, _ in page.attributes)
    assert "<img src=x onerror=alert(1)>" in page.cells[1][0]


@pytest.mark.parametrize("name", ["../up", "a/b", "", ".hidden", "with space"])
def test_figure_names_that_are_no_file_names_are_refused(tmp_path, name):
    with pytest.raises(ValueError, match="no file name"):
        write_report(tmp_path, "t", {}, [Section("s", [Figure(name, "c", red)])])


def test_mistakes_in_the_call_are_refused_before_anything_is_written(tmp_path):
    with pytest.raises(ValueError, match="used twice"):
        write_report(tmp_path, "t", {}, [Section("s", [Figure("f", "c", red)]), Section("u", [Figure("f", "c", red)])])
    with pytest.raises(ValueError, match="2 columns, but a row of 1"):
        write_report(tmp_path, "t", {}, [Section("s", [Table("t", ["a", "b"], [[1]])])])
    assert list(tmp_path.iterdir()) == []


def test_numbers_stand_on_the_right_names_and_commands_whole(tmp_path):
    rows = [["1", 1234567, "98.14 ± 0.38 %", "90.4 % – 100.0 %"], ["2", float("nan"), "–", None]]
    table = Table("", ["class", "n", "accuracy", "interval"], rows, strong=(-1,), names=(0,))
    path = write_report(tmp_path, "t", {}, [Section("s", [table])])
    text = path.read_text(encoding="utf-8")
    assert '<td>1</td><td class="number">1,234,567</td><td class="number">98.14 ± 0.38 %</td>' in text
    assert '<td class="number">90.4 % – 100.0 %</td>' in text
    assert '<tr class="strong"><td>2</td><td class="number">–</td>' in text


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (None, "–"),
        (np.float32("nan"), "–"),
        (np.int64(1000), "1,000"),
        (0.123456, "0.1235"),
        (True, "yes"),
        ((8, 8, 6), "8 × 8 × 6"),
    ],
)
def test_cells(value, text):
    assert format_cell(value) == text


def test_names_are_one_line_without_control_characters():
    assert plain("a\x07b\x00\n c\u202ed") == "a b c d"
    assert plain("abcdef", 4) == "abc…"


@pytest.mark.parametrize("name", ["$\\frac", "a $x$ b", "\\$", "$$", "\n\t new", "_hidden", "日本語", "x" * 100, ""])
def test_any_name_can_be_drawn(name):
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.text import Text

    figure = new_figure(2, 1)
    figure.set_layout_engine("none")
    text = figure.text(0.1, 0.5, plain(name))
    assert isinstance(text, Text) and len(plain(name).replace("\\$", "$")) <= 24 and "\n" not in plain(name)
    if name.isascii():
        FigureCanvasAgg(figure).draw()
        shown, is_math = text._preprocess_math(text.get_text())
        assert not is_math and shown == " ".join(name.split())[:23] + ("…" if len(name) > 24 else "")
