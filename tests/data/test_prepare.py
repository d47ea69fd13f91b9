import functools
import gzip
import hashlib
import http.server
import io
import os
import pickle
import struct
import subprocess
import sys
import tarfile
import threading
from pathlib import Path

import numpy as np
import pytest

from jaxdl.data.datasets import DataConfig, load
from jaxdl.data.prepare import prepare
from jaxdl.data.prepared import build, open_prepared
from jaxdl.errors import UserError

RNG = np.random.default_rng(0)


def idx(array):
    return struct.pack(f">HBB{array.ndim}I", 0, 8, array.ndim, *array.shape) + array.tobytes()


def write_idx(folder, train, test, compress=True):
    folder.mkdir(exist_ok=True)
    for prefix, (images, labels) in (("train", train), ("t10k", test)):
        for kind, array in (("images-idx3", images), ("labels-idx1", labels)):
            name = folder / f"{prefix}-{kind}-ubyte"
            if compress:
                name.with_name(name.name + ".gz").write_bytes(gzip.compress(idx(array), 1))
            else:
                name.write_bytes(idx(array))
    return folder


def grey(count):
    return RNG.integers(0, 256, (count, 28, 28), dtype=np.uint8), RNG.integers(0, 10, count, dtype=np.uint8)


def assert_same_examples(arrays, images, labels):
    """Equal as sets: TFDS shuffles what it writes."""
    ours = {(image.tobytes(), int(label)) for image, label in zip(arrays["image"], arrays["label"], strict=True)}
    theirs = {(image.tobytes(), int(label)) for image, label in zip(images, labels, strict=True)}
    assert ours == theirs and len(arrays["label"]) == len(labels)


@pytest.mark.parametrize("name, compress", [("mnist", True), ("fashion_mnist", True), ("fashion_mnist", False)])
def test_idx_files_are_prepared_and_read_back(cache, tmp_path, name, compress):
    train, test = grey(50), grey(20)
    files = write_idx(tmp_path / "files", train, test, compress)
    line = prepare(name, str(tmp_path / "sets"), str(files))
    assert "50 train" in line and "20 test" in line and "tensorflow" not in sys.modules
    splits, facts = open_prepared(name, str(tmp_path / "sets"))
    assert_same_examples(splits["train"], *train)
    assert_same_examples(splits["test"], *test)
    assert facts["classes"][0] == ("0" if name == "mnist" else "T-shirt/top") and facts["jpeg"] == 0
    dataset = load(DataConfig(name=name, dir=str(tmp_path / "sets")))
    assert dataset.name == name and len(dataset.splits["validation"]["label"]) == 5
    assert "already prepared" in prepare(name, str(tmp_path / "sets"))


def cifar_files(kind):
    """name -> bytes of the six batches, and all training and test examples."""
    files, parts = {}, []
    for stem in [*(f"data_batch_{i}" for i in range(1, 6)), "test_batch"]:
        images, labels = RNG.integers(0, 256, (7, 32, 32, 3), dtype=np.uint8), RNG.integers(0, 10, 7, dtype=np.uint8)
        planes = images.transpose(0, 3, 1, 2).reshape(7, 3072)
        if kind == "binary":
            files[f"{stem}.bin"] = np.column_stack([labels, planes]).astype(np.uint8).tobytes()
        else:
            files[stem] = pickle.dumps({b"data": planes, b"labels": labels.tolist()}, protocol=2)
        parts.append((images, labels))
    return files, [np.concatenate(arrays) for arrays in zip(*parts[:5], strict=True)], parts[5]


@pytest.mark.parametrize("kind, packed", [("binary", True), ("python", True), ("python", False)])
def test_cifar10_is_prepared_from_either_version(cache, tmp_path, kind, packed):
    files, train, test = cifar_files(kind)
    folder = tmp_path / "files"
    inner = "cifar-10-batches-" + {"binary": "bin", "python": "py"}[kind]
    (folder / inner).mkdir(parents=True)
    if packed:
        with tarfile.open(folder / f"cifar-10-{kind}.tar.gz", "w:gz") as archive:
            for name, data in files.items():
                member = tarfile.TarInfo(f"{inner}/{name}")
                member.size = len(data)
                archive.addfile(member, io.BytesIO(data))
    else:
        for name, data in files.items():
            (folder / inner / name).write_bytes(data)
    prepare("cifar10", str(tmp_path / "sets"), str(folder))
    splits, facts = open_prepared("cifar10", str(tmp_path / "sets"))
    assert_same_examples(splits["train"], *train)
    assert_same_examples(splits["test"], *test)
    assert facts["classes"][3] == "cat"
    assert load(DataConfig(name="cifar10", dir=str(tmp_path / "sets"))).name == "cifar10"


def test_a_recompressed_cifar10_gets_another_name(cache, tmp_path, monkeypatch):
    from PIL import Image

    from jaxdl.data import builders

    def jpeg(image):
        buffer = io.BytesIO()
        Image.fromarray(image).save(buffer, format="JPEG", quality=75)
        buffer.seek(0)
        return buffer

    monkeypatch.setattr(builders, "png_bytes", jpeg)
    files, *_ = cifar_files("binary")
    (tmp_path / "files").mkdir()
    for name, data in files.items():
        (tmp_path / "files" / name).write_bytes(data)
    prepare("cifar10", str(tmp_path / "sets"), str(tmp_path / "files"))
    dataset = load(DataConfig(name="cifar10", dir=str(tmp_path / "sets")))
    assert dataset.name == "cifar10-jpeg75" and any("not comparable" in note for note in dataset.notes)


def test_a_pickle_that_would_run_code_is_refused(cache, tmp_path):
    class Evil:
        def __reduce__(self):
            return os.mkdir, (str(tmp_path / "done"),)

    files, *_ = cifar_files("python")
    files["test_batch"] = pickle.dumps({b"data": Evil(), b"labels": []}, protocol=2)
    for name, data in files.items():
        (tmp_path / name).write_bytes(data)
    with pytest.raises(UserError, match="not expected there"):
        prepare("cifar10", str(tmp_path / "sets"), str(tmp_path))
    assert not (tmp_path / "done").exists()


def test_a_download_is_prepared_without_tensorflow(cache, tmp_path, monkeypatch):
    from jaxdl.data import builders

    class Quiet(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *args):
            pass

    train, test = grey(12), grey(6)
    files = write_idx(tmp_path / "files", train, test)
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Quiet, directory=str(files))) as server:
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        monkeypatch.setattr(builders.MNIST, "URL", f"http://127.0.0.1:{server.server_port}/")
        prepare("mnist", str(tmp_path / "sets"))
        server.shutdown()
        thread.join()
    assert_same_examples(open_prepared("mnist", str(tmp_path / "sets"))[0]["train"], *train)
    assert sorted(path.name for path in (tmp_path / "sets").iterdir()) == ["mnist"], "downloads are not left behind"
    monkeypatch.setattr(builders.MNIST, "URL", f"http://127.0.0.1:{server.server_port}/")
    with pytest.raises(UserError, match=r"could not be downloaded .*--manual_dir=DIR"):
        prepare("mnist", str(tmp_path / "others"))


def test_errors_are_one_line(cache, tmp_path):
    files = write_idx(tmp_path / "files", grey(5), grey(5))

    def message(*args):
        with pytest.raises(UserError) as error:
            prepare(*args)
        assert "\n" not in str(error.value)
        return str(error.value)

    sets = str(tmp_path / "sets")
    assert "did you mean mnist" in message("minst")
    assert "there is no folder" in message("mnist", sets, str(tmp_path / "none"))
    labels = files / "train-labels-idx1-ubyte.gz"
    labels.write_bytes(gzip.compress(idx(np.zeros(4, np.uint8))))
    assert "do not match" in message("mnist", sets, str(files))
    labels.write_bytes(gzip.compress(idx(np.zeros(5, np.uint8)))[:-9])
    assert "not a whole idx file" in message("mnist", sets, str(files))
    labels.unlink()
    assert "does not hold train-labels" in message("mnist", sets, str(files))
    assert "neither data_batch_1.bin" in message("cifar10", sets, str(files))
    (tmp_path / "plain").write_text("")
    assert "could not be written" in message("fashion_mnist", str(tmp_path / "plain"), str(files))


def test_the_binary_prints_one_line_and_exits_as_documented(cache, tmp_path):
    files = write_idx(tmp_path / "files", grey(5), grey(5))
    place = [f"--data.dir={tmp_path / 'sets'}", f"--manual_dir={files}"]

    def run(*flags):
        command = [sys.executable, "-m", "experiments.prepare", *flags]
        done = subprocess.run(command, capture_output=True, text=True, cwd=Path(__file__).parents[2])
        return done.returncode, done.stdout, done.stderr

    code, out, err = run("--dataset=fashion_mnist", *place)
    assert (code, err) == (0, "") and out.startswith("fashion_mnist: 5 train, 5 test; prepared in")
    code, out, err = run("--dataset=cifar10", *place)
    assert code == 1 and err.count("\n") == 1 and err.startswith("error: ") and "Traceback" not in err
    assert run()[0] == 2
    code, out, err = run("--datset=cifar10")
    assert (code, out, err) == (2, "", "error: unknown flag --datset; did you mean --dataset?\n")


def test_mnist_comes_out_in_the_order_of_tfds(shared_cache, tmp_path, real_data):
    """The prepared real set, put back into the order of the source files, is the published file bit for bit."""
    position = np.zeros((10000, 28, 28), np.uint8)
    position[:, 0, 0], position[:, 0, 1] = np.arange(10000) // 256, np.arange(10000) % 256
    files = write_idx(tmp_path / "files", grey(1), (position, np.zeros(10000, np.uint8)))
    path = build("mnist", tmp_path / "sets", manual_dir=str(files))
    order = open_prepared("mnist", str(path.parents[1]))[0]["test"]["image"][:, 0, :2, 0].astype(int) @ [256, 1]
    real, _ = open_prepared("mnist", str(real_data))
    images, labels = np.empty((10000, 28, 28), np.uint8), np.empty(10000, np.uint8)
    images[order], labels[order] = real["test"]["image"][..., 0], real["test"]["label"]
    assert hashlib.md5(idx(images)).hexdigest() == "2646ac647ad5339dbf082846283269ea"
    assert hashlib.md5(idx(labels)).hexdigest() == "27ae3e4e09519cfbb04c329615203637"
