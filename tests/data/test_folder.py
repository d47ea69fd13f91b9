import numpy as np
import pytest
from PIL import Image

from jaxdl.data.datasets import DataConfig, load
from jaxdl.errors import UserError


def make_folder(root, counts, rng, size=(20, 30)):
    for name, count in counts.items():
        (root / name).mkdir(parents=True, exist_ok=True)
        for i in range(count):
            pixels = rng.integers(0, 256, (*size, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(root / name / f"{name}{i}.png")
    return root


def config(root, **changes):
    return DataConfig(name="folder", dir=str(root), **{"image_size": 16, **changes})


def test_a_folder_of_pictures_is_a_data_set(cache, tmp_path):
    root = make_folder(tmp_path / "pets", {"cat": 60, "dog": 40}, np.random.default_rng(0))
    Image.new("L", (5, 90)).save(root / "cat" / "deep.BMP")
    (root / "cat" / "notes.txt").write_text("not a picture")
    (root / "cat" / "more").mkdir()
    Image.new("RGBA", (64, 64)).save(root / "cat" / "more" / "x.png")
    dataset = load(config(root))
    assert dataset.classes == ("cat", "dog") and dataset.image_shape == (16, 16, 3) and dataset.version == "pets"
    labels = {split: dataset.splits[split]["label"] for split in ("train", "validation", "test")}
    counts = {split: np.bincount(values, minlength=2) for split, values in labels.items()}
    assert sum(counts.values()).tolist() == [62, 40] and counts["train"].min() > 20
    assert min(c.sum() for c in counts.values()) >= 1
    first = dataset.splits["train"]["label"][:10]
    assert len(set(first.tolist())) == 2, "a limit must not leave one class only"
    again = load(config(root))
    assert again.fingerprint == dataset.fingerprint
    grey = load(config(root, channels=1, image_size=8))
    assert grey.image_shape == (8, 8, 1) and grey.fingerprint != dataset.fingerprint


def test_a_changed_folder_is_decoded_again_and_old_examples_keep_their_split(cache, tmp_path):
    root = make_folder(tmp_path / "pictures", {"a": 30, "b": 30}, np.random.default_rng(1))

    def by_split(dataset):
        return {s: {row.tobytes() for row in dataset.splits[s]["image"]} for s in ("train", "validation", "test")}

    before = load(config(root))
    (root / "a" / "new.png").write_bytes((root / "b" / "b0.png").read_bytes())
    Image.fromarray(np.random.default_rng(9).integers(0, 256, (9, 9, 3), dtype=np.uint8)).save(root / "b" / "new.png")
    after = load(config(root))
    assert after.fingerprint != before.fingerprint
    for split, rows in by_split(before).items():
        assert rows <= by_split(after)[split]
    assert any("1 of the files are copies" in note for note in after.notes)


def test_copies_of_one_picture_stay_in_one_split(cache, tmp_path):
    root = make_folder(tmp_path / "pictures", {"a": 20, "b": 20}, np.random.default_rng(2))
    for folder in ("a", "b"):
        for i in range(20):
            for copy in range(3):
                (root / folder / f"copy{copy}-{i}.png").write_bytes((root / folder / f"{folder}{i}.png").read_bytes())
    dataset = load(config(root))
    rows = [{row.tobytes() for row in dataset.splits[s]["image"]} for s in ("train", "validation", "test")]
    assert not rows[0] & rows[1] and not rows[0] & rows[2] and not rows[1] & rows[2]


def test_errors_are_one_line_and_name_the_place(cache, tmp_path):
    def message(root):
        with pytest.raises(UserError) as error:
            load(config(root))
        assert "\n" not in str(error.value)
        return str(error.value)

    assert "--data.dir" in message("")
    assert "there is no folder" in message(tmp_path / "none")
    rng = np.random.default_rng(0)
    assert "at least two sub-folders" in message(make_folder(tmp_path / "one", {"a": 3}, rng))
    assert "one sub-folder a class" in message(make_folder(tmp_path / "parts", {"train": 3, "test": 3}, rng))
    root = make_folder(tmp_path / "two", {"a": 3, "b": 0}, rng)
    assert message(root) == f"{root / 'b'} holds no image file"
    (root / "b" / "broken.jpg").write_text("no picture")
    assert str(root / "b" / "broken.jpg") in message(root)
    assert "too few" in message(make_folder(tmp_path / "few", {"a": 1, "b": 1}, rng))
