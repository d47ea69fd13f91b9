"""The pages of a language model."""

import numpy as np

from jaxdl.reports.page import Figure, Table, render_png
from jaxdl.reports.text import _broken, bits_section, memory_section, samples_section, streams_section, surprise_section

TEXT = "To be, or not to be:\nthat is the question. $5\n\nWhether 'tis nobler\n" * 3


def test_lines_break_at_line_ends_and_at_the_width():
    assert _broken("ab\ncdefgh\n\nx", 4, 10) == [(0, 3), (3, 7), (7, 10), (10, 11), (11, 12)]
    assert _broken("ab\ncdefgh", 4, 1) == [(0, 3)]


def test_every_section_draws():
    nats = np.random.default_rng(0).exponential(1.5, len(TEXT))
    sections = [
        bits_section([100, 200, 300], [3.0, 2.5, 2.2], {2: 3.6, 3: 2.9, 4: 2.5, 5: 2.41}),
        bits_section([100], [3.0], {}),
        surprise_section(TEXT, nats),
        samples_section({0.5: TEXT, 1.0: "x" * 300, 2.0: ""}),
    ]
    figures = [item for section in sections for item in section.items if isinstance(item, Figure)]
    assert [f.name for f in figures] == [
        "bits_per_character",
        "bits_per_character",
        "surprise",
        "sample_0_5",
        "sample_1",
    ]
    for figure in figures:
        png, width, height = render_png(figure)
        assert png.startswith(b"\x89PNG") and width > 100 and height > 20


def test_the_best_window_is_named():
    section = bits_section([1, 2], [3.0, 2.2], {4: 2.5, 5: 2.41, 6: 2.45})
    assert "2.200 bits, 0.210 bits below the best window, of n = 5" in section.text


def test_shares_of_the_surprise_add_up():
    nats = np.random.default_rng(0).exponential(1.5, len(TEXT))
    (table,) = [item for item in surprise_section(TEXT, nats).items if isinstance(item, Table)]
    assert abs(sum(float(row[1].split()[0]) for row in table.rows) - 100) < 0.5
    assert abs(sum(float(row[3].split()[0]) for row in table.rows) - 100) < 0.5


def test_streams_show_line_breaks():
    (table,) = streams_section([["a\nb", "cd"], ["ef", "g" * 100]]).items
    assert table.rows[0] == ["1", "a↵b", "cd"] and "…" in table.rows[1][2]
    assert not streams_section([]).items


def test_memory_says_how_far_it_reaches():
    section = memory_section(0.5 ** np.arange(20))
    assert "after 6 characters" in section.text
    (figure,) = section.items
    assert render_png(figure)[0].startswith(b"\x89PNG")
    assert not memory_section(np.zeros(5)).items
