"""Norms, layers, comparisons, seeds, regression, truth tables and the head of the page."""

from dataclasses import dataclass

import numpy as np
import pytest
from scipy import stats

from jaxdl.reports.comparison import Contender, comparison_section, ensemble_section, seeds_section
from jaxdl.reports.norms import layer_names, norms_section, parameter_section
from jaxdl.reports.overview import duration, format_interval, headline, record_facts
from jaxdl.reports.page import Figure, render_png
from jaxdl.reports.regression import regression_sections, truth_table_section


def probe_rows(layers, steps=(0, 100), factor=1.0):
    return [
        {"step": step, "split": "probe", "phase": "train"}
        | {f"gradient_norm/{name}": factor * 10.0**-index / (1 + step) for index, name in enumerate(layers)}
        for step in steps
    ]


def test_norms_are_one_line_a_layer_by_depth_on_a_log_axis():
    layers = ["conv_2", "conv_10", "head"]
    runs = [probe_rows(layers), probe_rows(layers, factor=4.0)]
    section = norms_section(runs, order=["conv_2", "conv_10", "head"])
    assert [item.name for item in section.items] == ["gradient_norm"]
    axes = section.items[0].draw().axes[0]
    assert [line.get_label() for line in axes.lines] == layers and axes.get_yscale() == "log"
    np.testing.assert_allclose(axes.lines[1].get_ydata(), [0.2, 0.2 / 101])  # geometric mean of factors 1 and 4
    luminance = [np.dot(line.get_color()[:3], [0.3, 0.6, 0.1]) for line in axes.lines]
    assert luminance == sorted(luminance)


def test_layers_without_an_order_are_sorted_naturally_and_broken_values_left_out():
    rows = probe_rows(["b_10", "b_2", "a"])
    assert layer_names([rows], "gradient_norm") == ["a", "b_2", "b_10"]
    assert layer_names([rows], "gradient_norm", ["b_10"]) == ["b_10", "a", "b_2"]
    rows[1]["gradient_norm/a"] = float("nan")
    rows[0]["gradient_norm/b_2"] = rows[1]["gradient_norm/b_2"] = 0.0
    section = norms_section([rows])
    axes = section.items[0].draw().axes[0]
    assert [line.get_label() for line in axes.lines] == ["a", "b_10"]
    assert axes.lines[0].get_xdata().tolist() == [0]
    assert norms_section([[{"step": 1, "split": "train", "loss": 1.0}]]).items == []
    render_png(norms_section([probe_rows([f"layer_{i}" for i in range(30)])]).items[0])


@dataclass(frozen=True)
class Layer:
    path: str
    kind: str
    output_shape: tuple
    parameters: int
    flops: int | None


def test_parameter_table_adds_up():
    rows = [
        Layer("conv", "Conv", (8, 8, 6), 156, 1000),
        {"path": "x", "kind": "relu", "output_shape": (8,), "parameters": 0, "flops": None},
    ]
    (table,) = parameter_section([*rows, Layer("dense", "Dense", (10,), 844, 500)]).items
    assert [row[3] for row in table.rows] == [156, 0, 844, 1000] and table.rows[-1][5] == 1500
    assert table.rows[0][2] == "8 × 8 × 6" and table.rows[0][4] == "15.6 %" and table.rows[1][5] is None
    assert parameter_section([]).items == ()


def test_comparison_sets_ours_beside_baselines():
    ours = [0.98, 0.99, 0.985]
    contenders = [Contender("ours", ours, "python -m x", True), Contender("SVM", 0.99), Contender("majority", 0.1)]
    figure, table = comparison_section("test/accuracy", contenders).items
    half = stats.t.ppf(0.975, 2) * stats.sem(ours)
    assert table.rows[0][:4] == ["ours", f"98.50 ± {100 * half:.2f} %", None, 3]
    assert table.rows[1][:4] == ["SVM", "99.00 %", "+0.50", 1] and table.rows[2][2] == "−88.50"
    assert tuple(table.strong) == (0,)
    axes = figure.draw().axes[0]
    means = [container.lines[0].get_xdata()[0] for container in axes.containers]
    np.testing.assert_allclose(means, [0.015, 0.01, 0.9])
    assert axes.get_xscale() == "log" and "error" in axes.get_xlabel()
    assert [tick.get_text() for tick in axes.get_yticklabels()] == ["ours", "SVM", "majority"]
    close = (
        comparison_section("test/accuracy", [Contender("a", 0.98, ours=True), Contender("b", 0.97)])
        .items[0]
        .draw()
        .axes[0]
    )
    assert close.get_xscale() == "linear"
    assert len(comparison_section("test/loss", [Contender("a", 0.98, ours=True)]).items) == 1
    assert comparison_section("test/loss", []).items == ()


def test_ensemble_and_seed_tables():
    (table,) = ensemble_section({"test/accuracy": [0.98, 0.97]}, {"test/accuracy": 0.985}).items
    assert table.rows[0][0] == "test accuracy" and table.rows[0][2:] == ["97.00 %", "98.00 %", "98.50 %", "+1.00"]
    (table,) = seeds_section([3, 4], {"test/loss": [0.5, float("nan")]}, {"status": ["done", "diverged"]}).items
    assert table.rows == [["3", "0.5", "done"], ["4", "–", "diverged"], ["mean", "0.5", ""]]
    assert seeds_section([0], {"a": [1.0]}).items == () and ensemble_section({}, {}).items == ()


def test_headline_has_the_interval_of_the_seeds():
    values = [0.98, 0.97, 0.99, 0.985, float("nan")]
    found = headline("test/accuracy", values)
    finite = values[:4]
    half = stats.t.ppf(0.975, 3) * stats.sem(finite)
    assert found.label == "test accuracy" and found.value == f"{100 * np.mean(finite):.2f} %"
    assert found.interval == f"± {100 * half:.2f}"
    assert "4 seeds" in found.note and "97.00 % to 99.00 %" in found.note and "1 more not finite" in found.note
    assert headline("test/loss", 0.12345).value == "0.1235" and headline("test/loss", 0.1).interval == ""
    assert headline("test/accuracy", [float("nan")]).value == "–"
    assert format_interval("test/loss", 0.075261, 0.00752) == ("0.0753", "0.0075")
    assert format_interval("test/return", 487.26, 12.3) == ("487", "12")


def test_facts_come_from_the_record_and_missing_ones_are_left_out():
    record = {
        "recipe": "lenet5", "seeds": [0, 1, 2], "steps": 1000, "reported": "best", "best": {"step": 800},
        "parameters": 61706,
        "data": {"name": "digits", "version": "1.0.0"}, "wall_time_s": 75.2, "items_per_second": 18234.4,
        "program": {"devices": 2, "platform": "cpu", "parallel": "pmap", "threads": 2},
        "git": {"commit": "0123456789abcdef", "dirty": True}, "params_digest": "ab" * 32, "command": "python -m x",
    }  # fmt: skip
    facts = record_facts(record, hidden_units=64, nothing=None)
    assert facts["seeds"] == "0 … 2 (3)" and facts["reported parameters"] == "best, step 800"
    assert (
        facts["devices"] == "2 × cpu, pmap, 2 threads"
        and facts["time"] == "1 min 15 s"
        and facts["data"] == "digits 1.0.0"
    )
    assert facts["commit"] == "0123456789ab with changes" and facts["hidden units"] == 64
    assert list(facts)[-2:] == ["digest", "command"] and "nothing" not in facts and "precision" not in facts
    assert record_facts({"seed": 0}) == {"seed": 0}
    assert [duration(seconds) for seconds in (0.84, 59.94, 3660.0, None)] == ["0.8 s", "59.9 s", "1 h 01 min", None]


def test_regression_numbers_equal_numpy_and_the_curve_runs_over_sorted_inputs():
    rng = np.random.default_rng(0)
    inputs = rng.uniform(-1, 1, 50)
    targets = inputs**2
    predictions = targets + rng.normal(0, 0.1, 50)
    predictions[4] = np.nan
    kept = np.isfinite(predictions)
    (section,) = regression_sections(predictions, targets, inputs, unit="m")
    figures = {item.name: item for item in section.items if isinstance(item, Figure)}
    assert list(figures) == ["fit", "predicted", "residuals"]
    residuals = (predictions - targets)[kept]
    values = {row[0]: row[1] for row in section.items[-1].rows}
    assert values["examples"] == 49
    assert values["root mean squared error (m)"] == pytest.approx(np.sqrt(np.mean(residuals**2)))
    r2 = 1 - np.sum(residuals**2) / np.sum((targets[kept] - targets[kept].mean()) ** 2)
    assert values["R²"] == pytest.approx(r2)
    fit = next(line for line in figures["fit"].draw().axes[0].lines if line.get_label() == "prediction")
    order = np.argsort(inputs[kept])
    np.testing.assert_array_equal(fit.get_xdata(), inputs[kept][order])
    np.testing.assert_array_equal(fit.get_ydata(), predictions[kept][order])
    counts = [bar.get_height() for bar in figures["residuals"].draw().axes[0].patches]
    assert sum(counts) == 49
    dots = figures["predicted"].draw().axes[0].lines[0]
    np.testing.assert_array_equal(dots.get_xdata(), targets[kept])


def test_several_targets_have_a_section_each_and_wrong_shapes_are_refused():
    targets = np.random.default_rng(0).normal(size=(20, 2))
    sections = regression_sections(targets, targets, np.zeros((20, 3)), names=["a", "b"])
    assert [section.title for section in sections] == ["Predictions of a", "Predictions of b"]
    names = [item.name for section in sections for item in section.items if isinstance(item, Figure)]
    assert names == ["predicted_1", "residuals_1", "predicted_2", "residuals_2"]
    with pytest.raises(ValueError, match="must have one shape"):
        regression_sections(targets, targets[:, :1])
    with pytest.raises(ValueError, match="3 inputs for 20 targets"):
        regression_sections(targets, targets, np.zeros(3))
    assert regression_sections(np.full(3, np.nan), np.zeros(3)) == []


def test_truth_table_marks_what_is_wrong():
    inputs = np.array([[0, 0], [0, 1], [1, 0], [1, 1]])
    (table,) = truth_table_section(inputs, np.array([1, 1, 1, 1]), np.array([1, 1, 1, 0])).items
    assert table.header == ["x1", "x2", "output", "expected", "right"]
    assert table.rows[1] == ["0", "1", "1", "1", "yes"] and table.rows[3] == ["1", "1", "1", "0", "NO"]
    assert table.caption == "3 of 4 rows are right."
