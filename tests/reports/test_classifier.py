"""A classifier's pages against scikit-learn and NumPy by hand."""

import numpy as np
import pytest
from scipy import stats
from sklearn import metrics

from jaxdl.reports.calibration import calibration_headline, calibration_section
from jaxdl.reports.classifier import classifier_sections, confusion_matrix, draw_confusion
from jaxdl.reports.page import Section, render_png, write_report
from jaxdl.reports.pictures import as_picture, draw_grid, filter_tiles, filters_section, inputs_section


def predictions(n=300, classes=5, seed=0):
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, classes, n)
    logits = rng.normal(size=(n, classes)) + 1.5 * np.eye(classes)[labels]
    probabilities = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    images = rng.integers(0, 256, (n, 6, 4, 1), dtype=np.uint8)
    return probabilities, labels, images


def by_title(sections: list[Section]) -> dict[str, Section]:
    return {section.title: section for section in sections}


def test_confusion_numbers_equal_scikit_learn():
    probabilities, labels, _ = predictions()
    guess = probabilities.argmax(axis=1)
    wanted = metrics.confusion_matrix(labels, guess, labels=range(5))
    counts = confusion_matrix(labels, guess, 5)
    np.testing.assert_array_equal(counts, wanted)
    axes = draw_confusion(counts, list("abcde")).axes[0]
    np.testing.assert_allclose(axes.images[0].get_array(), wanted / wanted.sum(axis=1, keepdims=True))
    written = {(int(text.get_position()[1]), int(text.get_position()[0])): int(text.get_text()) for text in axes.texts}
    assert written == {(r, c): int(wanted[r, c]) for r, c in np.argwhere(wanted)}
    assert (axes.get_xlabel(), axes.get_ylabel()) == ("prediction", "label")
    assert [tick.get_text() for tick in axes.get_yticklabels()] == list("abcde")


def test_class_table_equals_scikit_learn():
    probabilities, labels, images = predictions()
    guess = probabilities.argmax(axis=1)
    table = by_title(classifier_sections(probabilities, labels, images))["Classes"].items[0]
    precision, recall, f1, support = metrics.precision_recall_fscore_support(labels, guess)
    for c in range(5):
        row = table.rows[c]
        assert row[:3] == [str(c), support[c], int(((labels == c) & (guess == c)).sum())]
        assert [row[3], row[5], row[6]] == [f"{100 * value:.1f} %" for value in (recall[c], precision[c], f1[c])]
    assert table.rows[-1][:4] == ["all", 300, int((labels == guess).sum()), f"{100 * (labels == guess).mean():.1f} %"]


def bins_by_hand(probabilities, labels, bins):
    """(ECE, counts, mean confidences, accuracies of the bins that are not empty), one bin after another."""
    confidence, right = probabilities.max(axis=1), probabilities.argmax(axis=1) == labels
    error, counts, means, accuracies = 0.0, [], [], []
    for m in range(bins):
        inside = (confidence > m / bins) & (confidence <= (m + 1) / bins)
        counts.append(int(inside.sum()))
        if inside.any():
            means.append(confidence[inside].mean())
            accuracies.append(right[inside].mean())
            error += inside.mean() * abs(accuracies[-1] - means[-1])
    return error, counts, means, accuracies


@pytest.mark.parametrize("bins", [10, 15])
def test_calibration_is_that_of_a_loop_by_hand(bins):
    probabilities, labels, images = predictions(500)
    error, counts, means, accuracies = bins_by_hand(probabilities, labels, bins)
    section = by_title(classifier_sections(probabilities, labels, images, bins=bins))["Calibration"]
    upper, lower = section.items[0].draw().axes[:2]
    assert [bar.get_height() for bar in lower.containers[0]] == counts
    assert [text.get_text() for text in lower.texts] == [str(count) if count else "" for count in counts]
    dots = next(line for line in upper.lines if line.get_marker() == "o")
    np.testing.assert_allclose(dots.get_xdata(), means)
    np.testing.assert_allclose(dots.get_ydata(), accuracies)
    assert f"{100 * error:.2f} %" in section.text
    assert [row[1] for row in section.items[1].rows] == [count for count in counts if count]
    assert [row[3] for row in section.items[1].rows] == [f"{100 * value:.1f} %" for value in accuracies]
    assert calibration_headline(probabilities, labels, bins).value == f"{100 * error:.2f} %"


def test_reliability_whiskers_are_wilson_intervals():
    probabilities = np.array([[0.95, 0.05]] * 8 + [[0.1, 0.9]] * 2)
    labels = np.array([0] * 6 + [1] * 4)  # 8 of 10 right, in the bins up to 0.95 and up to 0.9
    upper = calibration_section(probabilities, labels, bins=10).items[0].draw().axes[0]
    segments = upper.containers[-1].lines[2][0].get_segments()
    for segment, (right, count) in zip(segments, [(2, 2), (6, 8)], strict=True):
        wanted = stats.binomtest(right, count).proportion_ci(0.95, method="wilson")
        np.testing.assert_allclose(segment[:, 1], [wanted.low, wanted.high], atol=1e-9)


def test_mistakes_are_the_most_confident_ones_with_label_prediction_and_confidence():
    probabilities, labels, images = predictions()
    probabilities[7] = np.nan  # row numbers must still be those of the split
    names = ["zero", "one", "two", "three", "four"]
    section = by_title(classifier_sections(probabilities, labels, images, names, mistakes=6))["Most confident mistakes"]
    kept = np.isfinite(probabilities).all(axis=1)
    guess = np.where(kept, np.nan_to_num(probabilities).argmax(axis=1), labels)
    confidence = np.nan_to_num(probabilities).max(axis=1)
    order = sorted(np.flatnonzero(guess != labels), key=lambda i: -confidence[i])[:6]
    assert section.items[1].rows == [
        [i, names[labels[i]], names[guess[i]], f"{100 * confidence[i]:.1f} %"] for i in order
    ]
    axes = section.items[0].draw().axes[0]
    for image, index in zip(axes.images, order, strict=True):
        np.testing.assert_array_equal(image.get_array(), images[index, ..., 0])
    first = [text.get_text() for text in axes.texts[:3]]
    assert first == [names[guess[order[0]]], f"({100 * confidence[order[0]]:.1f} %)", f"is {names[labels[order[0]]]}"]


def test_nearly_certain_mistakes_are_not_called_certain():
    probabilities = np.array([[0.99999, 0.00001], [0.3, 0.7]])
    section = by_title(classifier_sections(probabilities, np.array([1, 1]), np.zeros((2, 4, 4, 1), np.uint8)))
    assert section["Most confident mistakes"].items[1].rows[0][3] == "> 99.9 %"


def test_perfect_and_empty_predictions_are_borne(tmp_path):
    labels = np.arange(3)
    perfect = classifier_sections(np.eye(3), labels, np.zeros((3, 4, 4, 1), np.uint8))
    assert "every test example is right" in by_title(perfect)["Most confident mistakes"].text
    assert len(by_title(perfect)["Confusion matrix"].items) == 1
    broken = classifier_sections(np.full((3, 3), np.nan), labels)
    assert [section.text for section in broken] == ["3 of 3 examples are left out: their probabilities are not finite."]
    one_class = classifier_sections(np.eye(3)[[0, 0]], np.array([0, 0]))
    write_report(tmp_path, "t", {}, one_class)


def test_hostile_class_names_are_drawn_and_escaped(tmp_path):
    names = ["<script>alert(1)</script>", "$\\frac", "a $x$ b", "_hidden & co", "日本語"]
    probabilities, labels, images = predictions()
    path = write_report(tmp_path, "t", {}, classifier_sections(probabilities, labels, images, names))
    text = path.read_text(encoding="utf-8")
    assert "<script" not in text
    assert "&lt;script&gt;alert(1)&lt;/script&gt;" in text and "$\\frac" in text and "日本語" in text


def test_a_hundred_classes_are_drawn_without_numbers():
    probabilities, labels, _ = predictions(2000, 100)
    (section, *_) = classifier_sections(probabilities, labels)
    figure = section.items[0]
    assert figure.wide and len(figure.draw().axes[0].texts) == 0
    png, width, height = render_png(figure)
    assert width <= 1000 and height <= 1000 and len(png) < 250_000


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"labels": np.zeros(4, int)}, r"probabilities must be \[n, C\] and labels \[n\]"),
        ({"labels": np.array([0, 1, 3])}, r"labels must lie in 0 .. 2, got 0 .. 3"),
        ({"classes": ["a"]}, "1 class names for 3 classes"),
        ({"images": np.zeros((2, 4, 4, 1))}, "2 images for 3 labels"),
    ],
)
def test_arrays_that_do_not_fit_are_refused(change, message):
    arguments = {"probabilities": np.eye(3), "labels": np.arange(3), "images": None, "classes": None} | change
    with pytest.raises(ValueError, match=message):
        classifier_sections(**arguments)


def test_filters_keep_their_shape_and_zero_stays_in_the_middle():
    kernel = np.zeros((3, 3, 1, 2))
    kernel[0, 1, 0, 1], kernel[2, 2, 0, 1] = 1.0, -0.5
    tiles = filter_tiles(kernel)
    assert len(tiles) == 2 and tiles[0].image.shape == (3, 3)
    assert (tiles[0].image == 0.5).all()
    assert tiles[1].image[0, 1] > 0.95 and tiles[1].image[2, 2] < 0.5
    color = np.random.default_rng(0).normal(size=(5, 5, 3, 70))
    tiles = filter_tiles(color)
    assert len(tiles) == 64 and tiles[0].image.shape == (5, 5, 3)
    assert np.corrcoef(tiles[3].image.ravel(), color[..., 3].ravel())[0, 1] > 0.98
    assert filters_section(color).items[0].caption.startswith("The first 64 of 70 filters")


def test_dense_filters_are_reshaped_to_the_image():
    kernel = np.arange(24.0).reshape(12, 2) - 12
    tiles = filter_tiles(kernel, (3, 4, 1))
    assert len(tiles) == 2 and tiles[0].image.shape == (3, 4)
    assert (np.diff(tiles[1].image.ravel()[1:-1]) > 0).all()
    maxout = filter_tiles(np.zeros((12, 5, 3)), (3, 4))
    assert len(maxout) == 15
    with pytest.raises(ValueError, match="whose product is 12"):
        filter_tiles(kernel, (3, 3, 1))
    with pytest.raises(ValueError, match="got shape"):
        filter_tiles(np.zeros(3))


def test_channels_beyond_colour_show_the_strongest():
    kernel = np.zeros((2, 2, 5, 1))
    kernel[..., 3, 0] = [[1.0, 2.0], [-1.0, 0.0]]
    np.testing.assert_allclose(filter_tiles(kernel)[0].image, 0.5 + kernel[..., 3, 0] / 4, atol=0.01)


def test_inputs_are_shown_as_they_are_or_stretched():
    uint8 = np.arange(48, dtype=np.uint8).reshape(3, 4, 4, 1)
    np.testing.assert_array_equal(as_picture(uint8), uint8)
    np.testing.assert_array_equal(as_picture(uint8 / 255.0), uint8)
    standardised = as_picture(np.array([-2.0, 0.0, np.nan, 2.0]).reshape(1, 2, 2))
    assert standardised.ravel().tolist() == [0, 128, 0, 255] and standardised.shape == (1, 2, 2, 1)
    section = inputs_section(uint8, ["a", "b", "c"])
    axes = section.items[0].draw().axes[0]
    assert [text.get_text() for text in axes.texts] == ["a", "b", "c"] and len(axes.images) == 3
    assert inputs_section(uint8[:0]).items == ()


def test_grid_places_pictures_row_by_row_without_overlap():
    from jaxdl.reports.pictures import Tile

    tiles = [Tile(np.full((4, 8), index, np.uint8), ["x"]) for index in range(7)]
    axes = draw_grid(tiles, 3).axes[0]
    boxes = np.array([image.get_extent() for image in axes.images])
    assert (np.diff(boxes[:3, 0]) > boxes[0, 1] - boxes[0, 0]).all()
    assert boxes[3, 3] > boxes[0, 2] + 0.15  # below the text of the row above
    np.testing.assert_allclose((boxes[:, 1] - boxes[:, 0]) / (boxes[:, 2] - boxes[:, 3]), 2.0)
