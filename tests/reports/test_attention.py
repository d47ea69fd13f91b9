import numpy as np

from jaxdl.reports.attention import alignment_section, draw_alignment, exact_match_section, mistakes_section
from jaxdl.reports.page import write_report

RIGHT = {"greedy": np.asarray([True, False, True, True]), "beam of 2": np.asarray([True, True, True, True])}


def test_exact_match_is_counted_by_decoder_and_by_format():
    section = exact_match_section(RIGHT, ["a", "b", "b", "a"])
    decoding, formats = section.items
    assert list(decoding.rows[0]) == ["greedy", 4, 1, "75.00 %"] and decoding.rows[1][2] == 0
    assert [list(row) for row in formats.rows] == [["b", 2, 1, "50.0 %"], ["a", 2, 0, "100.0 %"]]


def test_mistakes_are_listed_the_surest_first_and_their_absence_is_said():
    table = mistakes_section(["x", "y", "z"], ["1", "2", "3"], ["1", "5", "6"], np.asarray([0.9, 0.2, 0.7])).items[0]
    assert [row[0] for row in table.rows] == ["z", "y"] and table.rows[0][1:] == ["3", "6", "70.0 %"]
    none = mistakes_section(["x"], ["1"], ["1"], np.ones(1))
    assert not none.items and "None" in none.text


def test_a_heat_map_has_a_tick_for_each_character_on_both_axes(tmp_path):
    weights = np.eye(3, 5)
    axes = draw_alignment("3 $ x", "abc", weights).axes[0]
    assert [tick.get_text() for tick in axes.get_xticklabels()] == ["3", "␣", r"\$", "␣", "x"]
    assert [tick.get_text() for tick in axes.get_yticklabels()] == ["a", "b", "c"]
    np.testing.assert_array_equal(axes.images[0].get_array(), weights)
    assert axes.get_xlabel() and axes.get_ylabel()
    write_report(tmp_path, "a report", {}, [alignment_section([("3 $ x", "abc", weights)])])
    assert (tmp_path / "plots" / "attention_0.png").stat().st_size > 1000
