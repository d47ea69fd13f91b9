import json
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image

from jaxdl.data.cache import arrays_fingerprint
from jaxdl.data.datasets import DataConfig, load
from jaxdl.data.prepared import jpeg_quality
from jaxdl.errors import UserError


def split_counts(dataset):
    return {split: len(arrays["label"]) for split, arrays in dataset.splits.items()}


def one_line(config):
    with pytest.raises(UserError) as error:
        load(config)
    assert "\n" not in str(error.value)
    return str(error.value)


def test_a_folder_of_ones_own_pictures_is_not_passed_over(cache, tmp_path):
    (tmp_path / "cats").mkdir()
    assert "--data.name=folder" in one_line(DataConfig(dir=str(tmp_path)))
    (tmp_path / "cats").rmdir()
    assert load(DataConfig(dir=str(tmp_path))).name == "digits"  # nothing there that could have been meant


def test_digits_are_scikit_learns_in_one_fixed_stratified_split(cache):
    from sklearn.datasets import load_digits

    dataset = load(DataConfig())
    assert split_counts(dataset) == {"train": 1077, "validation": 360, "test": 360, "train+validation": 1437}
    ours = np.concatenate([dataset.splits[s]["image"] for s in ("train", "validation", "test")])[..., 0]
    labels = np.concatenate([dataset.splits[s]["label"] for s in ("train", "validation", "test")])
    digits = load_digits()

    def sorted_rows(images, labels):
        rows = np.column_stack([images.reshape(len(images), -1), labels]).astype(int)
        return rows[np.lexsort(rows.T)]

    restored = np.rint(ours * (16 / 255))
    np.testing.assert_array_equal(sorted_rows(restored, labels), sorted_rows(digits.images, digits.target))
    share = np.bincount(digits.target) / 1797
    for split in ("train", "validation", "test"):
        counts = np.bincount(dataset.splits[split]["label"])
        assert abs(counts - share * counts.sum()).max() <= 1.0
    assert any("writers" in note for note in dataset.notes)
    assert dataset.classes == tuple("0123456789") and dataset.image_shape == (8, 8, 1)


def test_a_warm_start_is_equal_and_imports_neither_tfds_nor_scikit_learn(cache):
    program = (
        "import sys, json; from jaxdl.data.datasets import DataConfig, load; d = load(DataConfig());"
        "heavy = {'tensorflow', 'tensorflow_datasets', 'sklearn', 'PIL', 'matplotlib'};"
        "print(json.dumps([d.fingerprint, d.mean, d.std, sorted(heavy & set(sys.modules))]))"
    )
    runs = [
        json.loads(subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout)
        for _ in range(2)
    ]
    assert runs[0][:3] == runs[1][:3]
    assert "tensorflow_datasets" in runs[0][3] and "tensorflow" not in runs[0][3] and runs[1][3] == []


def test_two_first_starts_at_once_agree(cache):
    program = "from jaxdl.data.datasets import DataConfig, load; print(load(DataConfig()).fingerprint)"
    running = [
        subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        for _ in range(2)
    ]
    results = [(*process.communicate(), process.returncode) for process in running]
    assert results[0] == results[1] and results[0][1:] == ("", 0)
    names = sorted(path.name for path in (cache / "jaxdl" / "tfds" / "digits").iterdir())
    assert names == ["1.0.0"]


def test_an_unwritable_cache_only_costs_time(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    assert split_counts(load(DataConfig()))["train"] == 1077


def test_a_damaged_cache_is_noticed_and_made_anew(cache):
    dataset = load(DataConfig())
    file = next((cache / "jaxdl" / "decoded").glob("digits-*/train.image.npy"))
    data = bytearray(file.read_bytes())
    data[5000] ^= 1
    file.write_bytes(data)
    again = load(DataConfig())
    assert again.fingerprint == dataset.fingerprint
    np.testing.assert_array_equal(again.splits["train"]["image"], dataset.splits["train"]["image"])
    assert file.read_bytes() != bytes(data)


def test_statistics_are_those_of_the_training_split_alone(cache):
    for limit in (0, 100):
        dataset = load(DataConfig(limit=limit))
        pixels = dataset.splits["train"]["image"].astype(np.float64) / 255.0
        assert len(pixels) == (limit or 1077)
        np.testing.assert_allclose(dataset.mean, pixels.mean(), rtol=1e-12)
        np.testing.assert_allclose(dataset.std, pixels.std(), rtol=1e-10)
        everything = np.concatenate([dataset.splits[s]["image"] for s in ("train", "validation", "test")]) / 255.0
        assert abs(everything.mean() - dataset.mean[0]) > 1e-5


def test_the_fingerprint_sees_every_byte_and_no_memory_layout():
    arrays = {"train": {"image": np.arange(24, dtype=np.uint8).reshape(2, 3, 4), "label": np.array([1, 2], ">i4")}}
    same = {"train": {"label": np.array([1, 2], "<i4"), "image": np.asfortranarray(arrays["train"]["image"])}}
    assert arrays_fingerprint(arrays) == arrays_fingerprint(same)
    same["train"]["image"][1, 2, 3] += 1
    assert arrays_fingerprint(arrays) != arrays_fingerprint(same)


@pytest.mark.parametrize("quality", [20, 50, 75, 90, 95])
def test_jpeg_quality_is_read_from_the_file(quality, tmp_path):
    picture = Image.fromarray(np.random.default_rng(0).integers(0, 256, (32, 32, 3), dtype=np.uint8))
    picture.save(tmp_path / "a.jpg", quality=quality)
    assert jpeg_quality((tmp_path / "a.jpg").read_bytes()) == quality
    picture.save(tmp_path / "a.png")
    assert jpeg_quality((tmp_path / "a.png").read_bytes()) == 0


def test_an_unprepared_set_names_the_command(cache, tmp_path, monkeypatch):
    message = one_line(DataConfig(name="fashion_mnist", dir=str(tmp_path)))
    assert f"python -m experiments.prepare --dataset=fashion_mnist --data.dir={tmp_path}" in message
    assert one_line(DataConfig(name="mnist")).endswith("--dataset=mnist")
    monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path / "elsewhere"))
    assert str(tmp_path / "elsewhere") in one_line(DataConfig(name="mnist"))
    assert "there is no data set 'imagenet'" in one_line(DataConfig(name="imagenet"))


def test_damaged_and_incomplete_sets_are_named(cache, tmp_path):
    load(DataConfig())  # prepares the digits, which serve as a set of another name here
    folder = tmp_path / "mnist" / "3.0.1"
    folder.mkdir(parents=True)
    for path in (cache / "jaxdl" / "tfds" / "digits" / "1.0.0").iterdir():
        text = path.name.replace("digits", "mnist")
        (folder / text).write_bytes(path.read_bytes().replace(b'"digits"', b'"mnist"'))
    config = DataConfig(name="mnist", dir=str(tmp_path))
    assert split_counts(load(config))["train"] == 1077
    shard = next(folder.glob("mnist-test*"))
    whole = shard.read_bytes()
    shard.write_bytes(whole[:1000])
    assert "damaged" in one_line(config) and "experiments.prepare" in one_line(config)
    shard.unlink()
    assert f"{shard.name} is missing" in one_line(config)
    info = folder / "dataset_info.json"
    info.write_text(info.read_text().replace("array_record", "tfrecord"))
    assert "needs TensorFlow" in one_line(config)
    info.write_text("{")
    assert "cannot be read" in one_line(config)


def test_real_mnist_is_exact(shared_cache, real_data):
    dataset = load(DataConfig(name="mnist", dir=str(real_data)))
    again = load(DataConfig(name="mnist", dir=str(real_data), limit=500))
    assert split_counts(dataset) == {"train": 54000, "validation": 6000, "test": 10000, "train+validation": 60000}
    both, test = dataset.splits["train+validation"], dataset.splits["test"]
    # class counts and moments as published
    counts = [5923, 6742, 5958, 6131, 5842, 5421, 5918, 6265, 5851, 5949]
    assert np.bincount(both["label"]).tolist() == counts
    assert np.bincount(test["label"]).tolist() == [980, 1135, 1032, 1010, 982, 892, 958, 1028, 974, 1009]
    histogram = np.bincount(both["image"].reshape(-1), minlength=256)
    mean = histogram @ np.arange(256) / histogram.sum() / 255
    deviation = np.sqrt(histogram @ np.arange(256) ** 2 / histogram.sum() / 255**2 - mean**2)
    assert abs(mean - 0.13066047) < 1e-7 and abs(deviation - 0.30810780) < 1e-7
    held = np.bincount(dataset.splits["validation"]["label"])
    assert abs(held - np.array(counts) / 10).max() <= 1.0
    joined = np.sort(np.concatenate([dataset.splits[s]["label"] for s in ("train", "validation")]))
    np.testing.assert_array_equal(joined, np.sort(both["label"]))
    assert dataset.name == "mnist" and again.fingerprint == dataset.fingerprint
    np.testing.assert_array_equal(again.splits["train"]["image"], dataset.splits["train"]["image"][:500])
    assert split_counts(again) == {"train": 500, "validation": 6000, "test": 10000, "train+validation": 6500}


def test_real_cifar10_is_recognised_as_recompressed(real_data):
    import tensorflow_datasets as tfds

    if not (real_data / "cifar10").is_dir():
        pytest.skip(f"no cifar10 in {real_data}")
    builder = tfds.builder_from_directory(str(next((real_data / "cifar10").iterdir())))
    source = builder.as_data_source("test", decoders={"image": tfds.decode.SkipDecoding()})
    assert jpeg_quality(source[0]["image"]) == 75
