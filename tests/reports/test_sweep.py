"""The page of a sweep: complete, self-contained, and right for one setting, many, odd values and cells that failed."""

import math

import numpy as np
import pytest

from jaxdl.reports.page import render_png
from jaxdl.reports.sweep import Point, _Scale, draw_coordinates, draw_sweep_curves, sweep_report


def point(at, mean, best=False, seeds=3, metric="accuracy"):
    values = [mean + 0.001 * seed for seed in range(seeds)]
    rows = [[{"step": s, "split": "validation", metric: v - 0.1 / s} for s in (5, 10)] for v in values]
    return Point(at, values, rows, best)


def document(points, best="a"):
    cells = [
        {"overrides": dict(p.at), "status": "done", "n": len(p.values), "diverged": [], "folder": str(i)}
        for i, p in enumerate(points)
    ]
    cells[-1] |= {"status": "failed", "n": 0, "error": "<b>out of memory</b>"}
    return {
        "recipe": "tiny",
        "seeds": [0, 1, 2],
        "chosen": "validation",
        "best": best,
        "cells": cells,
        "versions": {"jax": "0"},
        "git": {"commit": None, "dirty": None},
        "command": "python -m experiments.sweep",
    }


@pytest.mark.parametrize("count", [1, 2, 9])
def test_a_page_for_any_number_of_cells(count, tmp_path):
    axes = {"optimizer.learning_rate": [10.0 ** -(i + 1) for i in range(count)], "model.sizes": [(3, 3)]}
    points = [
        point({"optimizer.learning_rate": rate, "model.sizes": (3, 3)}, 0.9 - 0.1 * i, best=i == 0)
        for i, rate in enumerate(axes["optimizer.learning_rate"])
    ]
    points.append(Point({"optimizer.learning_rate": 1.0, "model.sizes": (3, 3)}, [], [[]]))
    header, rows = ["learning_rate", "status"], [[str(p.at["optimizer.learning_rate"]), "done"] for p in points]
    path = sweep_report(tmp_path, document(points), "validation/accuracy", points, axes, header, rows)
    text = path.read_text()
    assert path.name == "sweep.html"
    assert "&lt;b&gt;out of memory&lt;/b&gt;" in text and "<script" not in text and "http" not in text
    drawn = {plot.stem for plot in (tmp_path / "plots").iterdir()}
    assert drawn == ({"sweep_curves"} if count == 1 else {"sweep_curves", "sweep_cells", "sweep_coordinates"})


def test_heights_of_an_axis():
    rates = _Scale.of([1e-3, 1e-1, 1e-2])
    assert [rates.place(v) for v in (1e-3, 1e-2, 1e-1)] == pytest.approx([0, 0.5, 1])
    near = _Scale.of([1.0, 2.0, 4.0])
    assert [near.place(v) for v in (1.0, 2.0, 4.0)] == pytest.approx([0, 1 / 3, 1])
    names = _Scale.of(["sgd", "adam", None])
    assert [names.place(v) for v in ("sgd", "adam", None)] == [0, 0.5, 1]
    assert [text for _, text in names.marks] == ["sgd", "adam", "none"]
    assert _Scale.of([True, False]).place(False) == 1.0
    assert _Scale.of([0.5]).place(0.5) == 0.5
    equal = _Scale.of_range(0.7, 0.7, False)
    assert equal.place(0.7) == pytest.approx(0.5)


def test_a_line_goes_through_its_settings_to_its_mean():
    axes = {"a.rate": [0.1, 10.0], "b.name": ["x", "y"]}
    points = [point({"a.rate": 0.1, "b.name": "y"}, 2.0, True), point({"a.rate": 10.0, "b.name": "x"}, 1.0)]
    drawing = draw_coordinates("validation/loss", points, axes)
    lines = [line for line in drawing.axes[0].get_lines() if len(line.get_xdata()) == 3 and line.get_linewidth() > 1]
    heights = sorted(tuple(np.round(line.get_ydata(), 6)) for line in lines)
    assert heights == [(0.0, 1.0, 1.0), (1.0, 0.0, 0.0)]
    labels = [text.get_text() for text in drawing.axes[0].get_xticklabels()]
    assert labels == ["a\nrate", "b\nname", "mean validation\nloss"]


def test_curves_are_means_over_seeds_with_a_label_each():
    from jaxdl.reports.curves import curve

    points = [point({"rate": float(i + 1)}, 10.0**-i, best=i == 0, metric="loss") for i in range(8)]
    curves = [(p, curve(p.rows, "validation", "loss")) for p in points]
    drawing = draw_sweep_curves("validation/loss", curves)
    axes = drawing.axes[0]
    first = axes.get_lines()[0]
    assert first.get_ydata()[-1] == pytest.approx(np.mean(points[0].values) - 0.01)
    labels = [text.get_text() for text in axes.get_legend().get_texts()]
    assert labels[0] == "rate 1 (best)" and len(labels) == 6
    assert axes.get_xlabel() == "step (updates)" and axes.get_ylabel() == "validation loss"


def test_what_has_no_number_is_left_out():
    nothing = Point({"rate": 1.0}, [], [[]])
    assert math.isnan(nothing.mean)
    from jaxdl.reports.sweep import _coordinates, _curves

    assert _curves("validation/loss", [nothing]) == []
    assert _coordinates("validation/loss", [nothing, point({"rate": 2.0}, 1.0)], {"rate": [1.0, 2.0]}) == []
    both = [point({"rate": 1.0}, 0.5), point({"rate": 2.0}, 0.5)]
    figure = _coordinates("validation/accuracy", both, {"rate": [1.0, 2.0]})[0]
    assert render_png(figure)[0].startswith(b"\x89PNG")
