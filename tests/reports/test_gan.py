"""The drawings of a GAN's report: what they hold, from few samples and from none."""

import numpy as np
import pytest

from jaxdl.reports import gan
from jaxdl.reports.page import write_report

RNG = np.random.default_rng(0)
ROWS = [
    {"step": step, "phase": "train", "split": "train", "discriminator_loss": 1.3, "generator_loss": 0.8}
    | {"real_probability": 0.6, "fake_probability": 0.4}
    for step in (10, 20, 30)
]
IMAGES = RNG.uniform(size=(30, 8, 8, 1)).astype(np.float32)


def test_the_sections_of_a_mixture_make_a_page(tmp_path):
    centres = np.array([[1.0, 0.0], [-1.0, 0.0]])
    points = np.concatenate([centres[0] + 0.01 * RNG.normal(size=(60, 2)), np.zeros((20, 2))])
    sections = [
        gan.game_section([ROWS, ROWS]),
        *gan.mixture_sections(points, [(0, points), (64, points)], centres, 0.1),
    ]
    page = write_report(tmp_path, "mixture", {}, sections).read_text()
    assert "75.0 % of 80 samples lie within 3σ" in page
    names = {path.stem for path in (tmp_path / "plots").glob("*.png")}
    assert names == {"gan_losses", "gan_probabilities", "samples", "modes"}


def test_the_sections_of_images_make_a_page(tmp_path):
    probabilities = np.full((30, 3), 0.02)
    probabilities[:20, 0], probabilities[20:, 1] = 0.96, 0.5
    distances = [("samples", 9.0), ("training images (the floor)", 0.5)]
    sections = [
        *gan.image_sections(IMAGES, [(0, IMAGES[:5]), (64, IMAGES[:5])]),
        gan.classes_section(probabilities, 0.9, ["a", "b", "c"]),
        gan.distances_section(distances, "some features", 30),
        gan.neighbours_section(IMAGES, RNG.uniform(size=(7, 8, 8, 1)).astype(np.float32), 5),
        gan.latent_section(RNG.uniform(size=(2, 4, 8, 8, 1)), 0.8, 0.1),
    ]
    page = write_report(tmp_path, "images", {}, sections).read_text()
    assert "66.7 % have 0.9 or more" in page and "80.0 %" in page
    assert page.index("the floor") < page.index("9.00")
    names = {path.stem for path in (tmp_path / "plots").glob("*.png")}
    assert names == {"samples_through_training", "samples", "classes", "confidence", "neighbours", "walk"}


def test_the_nearest_neighbour_is_the_nearest():
    """A copied example is found; it stands in the second row under its sample."""
    examples = RNG.uniform(size=(9, 4, 4, 1)).astype(np.float32)
    (figure,) = gan.neighbours_section(examples[[4, 2]] + 0.001, examples, 2).items
    drawn = figure.draw()
    pictures = [np.asarray(image.get_array()) for image in drawn.axes[0].get_images()]
    assert len(pictures) == 4
    for above, below in zip(pictures[:2], pictures[2:], strict=True):
        assert np.abs(above.astype(int) - below.astype(int)).max() <= 1


def test_bars_are_the_shares():
    figure = gan.draw_shares(np.array([0.5, 0.25, 0.25]), ["x", "y", "z"], "mode")
    assert [bar.get_height() for bar in figure.axes[0].patches] == pytest.approx([50, 25, 25])
