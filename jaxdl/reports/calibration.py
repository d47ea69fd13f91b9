"""Whether a classifier may be as sure as it is: confidence against accuracy."""

import numpy as np

from jaxdl.objectives.calibration import ReliabilityBins, expected_calibration_error, reliability_bins
from jaxdl.reports.intervals import wilson_interval
from jaxdl.reports.page import Figure, Headline, Section, Table
from jaxdl.reports.style import BLUE, GREY, SKY, compact, new_figure, percent, percent_axis


def calibration_headline(probabilities: np.ndarray, labels: np.ndarray, bins: int = 15) -> Headline:
    """The expected calibration error of probabilities [n, C] for labels [n], as a number for the head of the report."""
    kept = np.isfinite(probabilities).all(axis=1)
    probabilities, labels = np.asarray(probabilities)[kept], np.asarray(labels)[kept]
    label = "calibration error (ECE)"
    if not len(labels):
        return Headline(label, "–")
    error = expected_calibration_error(probabilities, labels, bins)
    return Headline(label, percent(error, 2), note=f"{bins} bins, {len(labels):,} examples")


def calibration_section(probabilities: np.ndarray, labels: np.ndarray, split: str = "test", bins: int = 15) -> Section:
    """The reliability diagram, figure "reliability", and the table of its bins.

    Args:
      probabilities: [n, C], finite, rows sum to 1; n > 0.
      labels: [n] in 0 .. C-1.
      split: what the examples are called in the text.
      bins: number of bins of equal width.
    """
    result = reliability_bins(probabilities, labels, bins)
    error = expected_calibration_error(probabilities, labels, bins)
    caption = (
        "Accuracy over confidence: on the dashed line a confidence of 90 % is right in nine cases of ten, below it the "
        f"network is too sure of itself. Underneath, how many of the {len(labels):,} {split} examples fall "
        "into each bin."
    )
    columns = zip(result.edges, result.edges[1:], result.examples, result.confidence, result.accuracy, strict=False)
    rows = [
        [f"{percent(low, 0)} – {percent(high, 0)}", int(count), percent(mean), percent(accuracy)]
        for low, high, count, mean, accuracy in columns
        if count
    ]
    text = (
        f"Expected calibration error: {percent(error, 2)}, the mean distance of confidence and accuracy over "
        f"{bins} bins, weighted by their size."
    )
    table = Table("", ["confidence", "examples", "mean confidence", "accuracy"], rows)
    return Section("Calibration", [Figure("reliability", caption, lambda: draw_reliability(result)), table], text)


def draw_reliability(result: ReliabilityBins):
    """A reliability diagram over a histogram of confidence as a matplotlib Figure."""
    figure = new_figure(5.2, 5.2)
    upper, lower = figure.subplots(2, 1, sharex=True, height_ratios=(2.4, 1))
    centres, width = (result.edges[:-1] + result.edges[1:]) / 2, np.diff(result.edges) * 0.92
    filled = result.examples > 0
    accuracy, confidence = result.accuracy[filled], result.confidence[filled]
    low, high = wilson_interval(accuracy * result.examples[filled], result.examples[filled])
    upper.bar(centres[filled], accuracy, width[filled], color=SKY, alpha=0.45)
    error = np.maximum([accuracy - low, high - accuracy], 0)
    upper.errorbar(
        confidence, accuracy, error, fmt="o", color=BLUE, markersize=5, elinewidth=1.3, clip_on=False, zorder=4,
        label="accuracy, 95 % interval",
    )  # fmt: skip
    upper.plot([0, 1], [0, 1], color=GREY, linestyle=(0, (4, 3)), linewidth=1.3, label="perfectly calibrated")
    upper.set_ylim(0, 1)
    upper.set_xlim(0, 1)
    upper.set_ylabel("accuracy")
    percent_axis(upper.yaxis)
    figure.legend(*upper.get_legend_handles_labels(), loc="outside upper center", ncols=2)
    bars = lower.bar(centres, result.examples, width, color=GREY)
    lower.bar_label(bars, [compact(count) if count else "" for count in result.examples], fontsize=8.5, padding=1.5)
    lower.set_ylim(0, max(result.examples.max(), 1) * 1.25)
    lower.set_ylabel("examples")
    lower.set_xlabel("confidence: probability of the prediction")
    lower.locator_params(axis="y", nbins=4)
    percent_axis(lower.xaxis)
    return figure
