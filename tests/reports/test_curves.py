"""Learning curves: means and bands against scipy, missing and broken rows, best steps, phases."""

import numpy as np
import pytest
from scipy import stats

from jaxdl.reports.curves import curve, learning_curves, metric_names, phase_spans, phases_section
from jaxdl.reports.intervals import interval_over_seeds, wilson_interval
from jaxdl.reports.page import render_png


def run(seed: int, steps=range(0, 500, 100), phase="train", scale=1.0):
    rng = np.random.default_rng(seed)
    rows = []
    for step in steps:
        loss = float(scale * np.exp(-step / 100) * rng.uniform(0.8, 1.2))
        rows.append({"step": step, "phase": phase, "split": "train", "loss": loss, "accuracy": 1 - loss / 2})
        if step % 200 == 0:
            rows.append(
                {"step": step, "phase": phase, "split": "validation", "loss": 1.5 * loss, "accuracy": 1 - loss / 1.9}
            )
    rows.append(
        {"step": steps[-1], "phase": phase, "split": "test", "loss": 0.1 + 0.01 * seed, "accuracy": 0.97 + 0.001 * seed}
    )
    return rows


def drawn(section, name):
    figure = next(item for item in section.items if item.name == name).draw()
    axes = figure.axes[0]
    return axes, {line.get_label(): line for line in axes.lines}


@pytest.mark.parametrize("seeds", [2, 5])
def test_line_is_the_mean_and_band_the_t_interval_of_scipy(seeds):
    runs = [run(seed) for seed in range(seeds)]
    axes, lines = drawn(learning_curves(runs), "curve_loss")
    values = np.array([[row["loss"] for row in rows if row["split"] == "validation"] for rows in runs])
    line = lines["validation"]
    np.testing.assert_array_equal(line.get_xdata(), [0, 200, 400])
    np.testing.assert_allclose(line.get_ydata(), values.mean(axis=0), rtol=1e-12)
    low, high = stats.t.interval(0.95, seeds - 1, loc=values.mean(axis=0), scale=stats.sem(values, axis=0))
    bands = {
        tuple(band.get_facecolor()[0][:3]): band for band in axes.collections if len(band.get_paths()[0].vertices) > 4
    }
    from matplotlib.colors import to_rgb

    vertices = bands[to_rgb(line.get_color())].get_paths()[0].vertices
    for step, a, b in zip([0, 200, 400], low, high, strict=True):
        at = np.unique(vertices[vertices[:, 0] == step, 1])
        np.testing.assert_allclose([at.min(), at.max()], [a, b], rtol=1e-10)


def test_one_seed_has_lines_and_no_bands():
    section = learning_curves([run(0)], best_steps=200)
    axes, lines = drawn(section, "curve_accuracy")
    expected = [row["accuracy"] for row in run(0) if row["split"] == "train"]
    np.testing.assert_allclose(lines["train"].get_ydata(), expected)
    assert [item.name for item in section.items] == ["curve_loss", "curve_accuracy"]
    assert not [band for band in axes.collections if len(band.get_paths()) and len(band.get_paths()[0].vertices) > 4]
    star = lines["best: step 200"]
    value = next(row["accuracy"] for row in run(0) if row["split"] == "validation" and row["step"] == 200)
    assert (star.get_xdata()[0], star.get_ydata()[0]) == (200, value)
    assert [text.get_text() for text in axes.get_legend().get_texts()] == [
        "train",
        "validation",
        "test",
        "best: step 200",
    ]


def test_test_split_is_one_point_with_the_interval_of_the_seeds():
    runs = [run(seed) for seed in range(3)]
    axes, _ = drawn(learning_curves(runs), "curve_loss")
    container = next(c for c in axes.containers if c.get_label() == "test")
    np.testing.assert_allclose(container.lines[0].get_ydata(), [0.11])
    segment = container.lines[2][0].get_segments()[0]
    half = stats.t.ppf(0.975, 2) * np.std([0.1, 0.11, 0.12], ddof=1) / np.sqrt(3)
    np.testing.assert_allclose(segment[:, 1], [0.11 - half, 0.11 + half], rtol=1e-9)


def test_log_axis_only_where_the_loss_spans_decades():
    steep, _ = drawn(learning_curves([run(0, range(0, 700, 100))]), "curve_loss")
    flat, _ = drawn(learning_curves([run(0, range(0, 200, 100))]), "curve_loss")
    shifted = [{**row, "loss": row["loss"] - 1.0} for row in run(0, range(0, 700, 100))]
    negative, _ = drawn(learning_curves([shifted]), "curve_loss")
    assert (steep.get_yscale(), flat.get_yscale(), negative.get_yscale()) == ("log", "linear", "linear")
    assert "log scale" in steep.get_ylabel()
    accuracy, _ = drawn(learning_curves([run(0, range(0, 700, 100))]), "curve_accuracy")
    assert accuracy.get_yscale() == "linear"


def test_missing_broken_and_uneven_rows_are_borne():
    runs = [run(0), run(1, range(0, 300, 100)), []]
    runs[0].append({"step": 450, "split": "train", "phase": "train", "loss": float("nan")})
    runs[0].append({"step": 460, "split": "train", "phase": "train", "loss": "broken", "note": "text"})
    runs[0].append({"split": "train"})
    runs[0].append({"step": 470, "split": "probe", "gradient_norm/a": 1.0, "loss": 99.0})
    found = curve(runs, "train", "loss")
    assert found.steps.tolist() == [0, 100, 200, 300, 400, 450, 460]
    assert np.isfinite(found.values).sum(axis=1).tolist() == [5, 3, 0]
    assert metric_names(runs) == ["loss", "accuracy"]
    section = learning_curves(runs, best_steps=[200, None, 77])
    for item in section.items:
        render_png(item)
    _, lines = drawn(section, "curve_loss")
    assert lines["train"].get_xdata().tolist() == [0, 100, 200, 300, 400]
    assert learning_curves([[], []]).items == [] and learning_curves([]).items == []


def test_phases_are_separated_and_summed_up():
    rows = run(0, range(0, 300, 100), "pretrain") + run(1, range(300, 600, 100), "finetune", scale=40.0)
    assert phase_spans([rows]) == [("pretrain", 0, 200), ("finetune", 300, 500)]
    axes, _ = drawn(learning_curves([rows]), "curve_loss")
    rules = [line for line in axes.lines if len(line.get_xdata()) == 2 and line.get_xdata()[0] == line.get_xdata()[1]]
    assert [line.get_xdata()[0] for line in rules] == [200]
    assert {text.get_text() for text in axes.texts} >= {"pretrain", "finetune"}
    (table,) = phases_section([rows]).items
    validation = [row for row in rows if row["split"] == "validation"]
    assert [row[:3] for row in table.rows] == [["pretrain", 0, 200], ["finetune", 300, 500]]
    assert table.rows[0][4] == min(row["loss"] for row in validation if row["phase"] == "pretrain")
    assert table.rows[1][5] == f"{100 * max(r['accuracy'] for r in validation if r['phase'] == 'finetune'):.2f} %"
    assert phases_section([run(0)]).items == ()


def test_interval_over_seeds_equals_scipy_with_seeds_missing():
    values = np.random.default_rng(0).normal(size=(6, 4))
    values[2:, 1] = np.nan
    values[1:, 2] = np.nan
    values[:, 3] = np.inf
    mean, half, count = interval_over_seeds(values, 0.9)
    assert count.tolist() == [6, 2, 1, 0]
    for column in (0, 1):
        seen = values[np.isfinite(values[:, column]), column]
        low, high = stats.t.interval(0.9, len(seen) - 1, loc=seen.mean(), scale=stats.sem(seen))
        np.testing.assert_allclose([mean[column] - half[column], mean[column] + half[column]], [low, high])
    assert mean[2] == values[0, 2] and np.isnan(half[2:]).all() and np.isnan(mean[3])


def test_wilson_interval_equals_scipy():
    low, high = wilson_interval(np.array([0, 3, 36, 0]), np.array([10, 7, 36, 0]))
    for index, (right, total) in enumerate([(0, 10), (3, 7), (36, 36)]):
        wanted = stats.binomtest(right, total).proportion_ci(0.95, method="wilson")
        np.testing.assert_allclose([low[index], high[index]], [wanted.low, wanted.high], atol=1e-12)
    assert np.isnan([low[3], high[3]]).all()
