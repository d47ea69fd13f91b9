"""The pinned classifiers: the files are the ones that were measured, and they are as good as is written beside them."""

import os
import pathlib

import jax
import numpy as np
import pytest

from jaxdl.data.datasets import DataConfig, load
from jaxdl.errors import UserError
from jaxdl.models.pinned import FOLDER, PINNED, confidence, load_pinned, pin

ROOT = pathlib.Path(__file__).resolve().parents[2]
SHARED = pathlib.Path(os.environ.get("JAXDL_TEST_DATA", ROOT.parent / "shared" / "data"))


@pytest.mark.parametrize("name", list(PINNED))
def test_its_accuracy_is_the_one_written_beside_it(name):
    if name == "mnist" and not (SHARED / "mnist").exists():
        pytest.skip(f"mnist is not in {SHARED}")
    data = load(DataConfig(name=name, dir=str(SHARED)))
    classifier = load_pinned(name)
    assert data.image_shape == classifier.about.image
    assert (classifier.mean, classifier.std) == pytest.approx((data.mean[0], data.std[0]))
    test, apply = data.splits["test"], jax.jit(classifier)
    right = []
    for start in range(0, len(test["label"]), 2000):
        rows = slice(start, start + 2000)
        found = apply(test["image"][rows].astype(np.float32) / 255.0)
        right.append(np.asarray(found["probabilities"]).argmax(1) == test["label"][rows])
    assert float(np.concatenate(right).mean()) == pytest.approx(classifier.about.test_accuracy, abs=1e-4)


def test_features_are_the_last_hidden_layer():
    classifier = load_pinned("digits")
    images = np.random.default_rng(0).uniform(size=(4, 8, 8, 1)).astype(np.float32)
    found = jax.jit(classifier)(images)
    assert found["features"].shape == (4, 84)
    last = classifier.params["Dense_2"]
    logits = np.asarray(found["features"]) @ np.asarray(last["kernel"]) + np.asarray(last["bias"])
    np.testing.assert_allclose(found["probabilities"], jax.nn.softmax(logits), rtol=1e-4, atol=1e-6)


def test_confidence_is_the_share_with_a_sure_class():
    probabilities = np.array([[0.95, 0.05], [0.5, 0.5], [0.1, 0.9]], np.float32)
    values, groups = confidence(lambda images: {"probabilities": jax.numpy.asarray(probabilities)}, np.zeros(3))
    np.testing.assert_array_equal(values["confident"], [1, 0, 1])
    np.testing.assert_array_equal(groups, [[1, 0], [0, 0], [0, 1]])


def test_the_files_are_small():
    for about in PINNED.values():
        assert (FOLDER / about.file).stat().st_size < 500_000


def test_another_file_is_refused_in_one_line(tmp_path):
    content = bytearray((FOLDER / PINNED["digits"].file).read_bytes())
    content[len(content) // 2] ^= 1
    (tmp_path / PINNED["digits"].file).write_bytes(content)
    with pytest.raises(UserError, match=r"is not the pinned classifier \(sha256") as error:
        load_pinned("digits", tmp_path)
    assert "\n" not in str(error.value)
    with pytest.raises(UserError, match="cannot be read"):
        load_pinned("mnist", tmp_path)
    with pytest.raises(UserError, match="no pinned classifier for cifar10: there are mnist, digits"):
        load_pinned("cifar10")


def test_pinning_is_repeatable(tmp_path):
    networks = {"model/params/Dense_0/bias": np.arange(3, dtype=np.float32), "model/stats/x": np.zeros(2)}
    first, second = (pin(networks, 0.1, 0.3, tmp_path / name) for name in ("a.npz", "b.npz"))
    assert first == second
    with np.load(tmp_path / "a.npz") as file:
        assert sorted(file.files) == ["Dense_0/bias", "mean", "std"]
        assert file["Dense_0/bias"].dtype == np.float16
