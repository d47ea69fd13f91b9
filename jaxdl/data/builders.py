"""TFDS builders that prepare data sets without TensorFlow.

TFDS's own generators of MNIST and CIFAR read files with TensorFlow; the subclasses here keep name, version, features,
keys (so the order of the examples) and checksums, and read with NumPy. They are not registered, because a second
builder of the same name breaks TFDS. Importing this module imports tensorflow_datasets: do so inside functions only.
"""

import gzip
import io
import pickle
import struct
import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow_datasets as tfds
from tensorflow_datasets.image_classification import cifar, mnist

from jaxdl.data.audio import wav_files
from jaxdl.data.corpora import pydoc_documents, stdlib_documents, stdlib_version
from jaxdl.data.splits import split_by_hash, stratified_order
from jaxdl.errors import UserError

CIFAR10_CLASSES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")


class Digits(tfds.core.GeneratorBasedBuilder, skip_registration=True):  # type: ignore[call-arg]
    """Scikit-learn's 1797 handwritten digits of 8 x 8 pixels, in one fixed stratified split of 1077/360/360.

    The grey values 0 ... 16 are stored as round(255/16 · value).
    """

    VERSION = tfds.core.Version("1.0.0")

    def _info(self):
        return tfds.core.DatasetInfo(
            builder=self,
            description="Optical recognition of handwritten digits (test part), as embedded in scikit-learn.",
            features=tfds.features.FeaturesDict(
                {"image": tfds.features.Image(shape=(8, 8, 1)), "label": tfds.features.ClassLabel(num_classes=10)}
            ),
            supervised_keys=("image", "label"),
            homepage="https://archive.ics.uci.edu/dataset/80",
        )

    def _split_generators(self, dl_manager):
        from sklearn.datasets import load_digits

        digits = load_digits()
        order = stratified_order(digits.target)
        parts = {"test": order[:360], "validation": order[360:720], "train": order[720:]}
        images = np.rint(digits.images * (255.0 / 16.0)).astype(np.uint8)[..., None]
        return {
            split: self._generate_examples(images, digits.target, np.sort(parts[split]))
            for split in ("train", "validation", "test")
        }

    def _generate_examples(self, images, labels, indices):
        for i in indices:
            yield int(i), {"image": png_bytes(images[i]), "label": int(labels[i])}


class MNIST(mnist.MNIST, skip_registration=True):  # type: ignore[call-arg]
    """MNIST from its four idx files."""

    VERSION = mnist.MNIST.VERSION

    def _split_generators(self, dl_manager):
        names = {
            ("train", "image"): "train-images-idx3-ubyte.gz",
            ("train", "label"): "train-labels-idx1-ubyte.gz",
            ("test", "image"): "t10k-images-idx3-ubyte.gz",
            ("test", "label"): "t10k-labels-idx1-ubyte.gz",
        }
        paths = _local_files(dl_manager, names.values()) or _download(
            dl_manager, {name: self.URL + name for name in names.values()}
        )
        return {
            split: self._generate_examples(paths[names[split, "image"]], paths[names[split, "label"]])
            for split in ("train", "test")
        }

    def _generate_examples(self, image_path, label_path):
        images, labels = read_idx(image_path), read_idx(label_path)
        if images.shape != (len(labels), 28, 28):
            raise UserError(f"{image_path} {images.shape} and {label_path} {labels.shape} do not match")
        for i, (image, label) in enumerate(zip(images, labels, strict=True)):
            yield i, {"image": png_bytes(image[..., None]), "label": int(label)}


class FashionMNIST(mnist.FashionMNIST, skip_registration=True):  # type: ignore[call-arg]
    """Fashion-MNIST from its four idx files."""

    VERSION = mnist.FashionMNIST.VERSION
    _split_generators = MNIST._split_generators
    _generate_examples = MNIST._generate_examples


class Cifar10(cifar.Cifar10, skip_registration=True):  # type: ignore[call-arg]
    """CIFAR-10 from the binary or the Python version, as an archive or unpacked."""

    VERSION = cifar.Cifar10.VERSION

    def _split_generators(self, dl_manager):
        self.info.features["label"].names = list(CIFAR10_CLASSES)
        source = _local_cifar(dl_manager) or _download(dl_manager, {"all": self._cifar_info.url})["all"]
        batches = read_cifar10(source)
        return {split: self._generate_examples(f"{split}_", *batches[split]) for split in ("train", "test")}

    def _generate_examples(self, prefix, images, labels):
        for i, (image, label) in enumerate(zip(images, labels, strict=True)):
            yield i, {"id": f"{prefix}{i:05d}", "image": png_bytes(image), "label": int(label)}


class TinyShakespeare(tfds.core.GeneratorBasedBuilder, skip_registration=True):  # type: ignore[call-arg]
    """40,000 lines of Shakespeare (Karpathy 2015): one text, cut at 90 % and at 95 %."""

    VERSION = tfds.core.Version("1.0.0")
    URL = "https://raw.githubusercontent.com/karpathy/char-rnn/master/data/tinyshakespeare/input.txt"

    def _info(self):
        return _text_info(self, "40,000 lines from plays of Shakespeare.", self.URL)

    def _split_generators(self, dl_manager):
        paths = _local_files(dl_manager, ["input.txt"]) or _download(dl_manager, {"input.txt": self.URL})
        text = paths["input.txt"].read_text(encoding="utf-8")
        first = int(len(text) * 0.9)
        second = first + int((len(text) - first) * 0.5)
        parts = {"train": text[:first], "validation": text[first:second], "test": text[second:]}
        return {split: self._generate_examples(split, part) for split, part in parts.items()}

    def _generate_examples(self, split, text):
        yield split, {"text": text}


class Stdlib(tfds.core.GeneratorBasedBuilder, skip_registration=True):  # type: ignore[call-arg]
    """Source of the standard library's modules (`corpora.STDLIB_MODULES`), split by hash of their names, 80/10/10 %."""

    VERSION = tfds.core.Version(stdlib_version())
    documents = staticmethod(stdlib_documents)

    def _info(self):
        return _text_info(self, type(self).__doc__ or "", "https://docs.python.org/3/library", name=True)

    def _split_generators(self, dl_manager):
        documents = self.documents()
        names = sorted(documents)
        parts = split_by_hash(names, np.zeros(len(names), int))
        chosen = {split: {names[i]: documents[names[i]] for i in indices} for split, indices in parts.items()}
        return {split: self._generate_examples(part) for split, part in chosen.items()}

    def _generate_examples(self, documents):
        for name, text in documents.items():
            yield name, {"name": name, "text": text}


class PydocTopics(Stdlib, skip_registration=True):  # type: ignore[call-arg]
    """Python's reference in English (`pydoc_data.topics`), split by hash of the topics, 80/10/10 %."""

    VERSION = tfds.core.Version(stdlib_version())
    documents = staticmethod(pydoc_documents)


class SpokenDigit(tfds.core.GeneratorBasedBuilder, skip_registration=True):  # type: ignore[call-arg]
    """2500 recordings of spoken digits at 8 kHz (Free Spoken Digit Dataset); TFDS's Audio feature needs TensorFlow."""

    VERSION = tfds.core.Version("1.0.9")
    URL = "https://github.com/Jakobovski/free-spoken-digit-dataset/archive/v1.0.9.tar.gz"

    def _info(self):
        features = {
            "audio": tfds.features.Tensor(shape=(None,), dtype=np.int64),
            "audio/filename": tfds.features.Text(),
            "label": tfds.features.ClassLabel(num_classes=10),
        }
        return tfds.core.DatasetInfo(
            builder=self,
            description=type(self).__doc__,
            features=tfds.features.FeaturesDict(features),
            homepage="https://github.com/Jakobovski/free-spoken-digit-dataset",
        )

    def _split_generators(self, dl_manager):
        source = _manual_dir(dl_manager) or _download(dl_manager, {"all": self.URL})["all"]
        archives = sorted(source.glob("*.tar.gz")) if source.is_dir() else []
        return {"train": self._generate_examples(archives[0] if archives else source)}

    def _generate_examples(self, source):
        for name, samples in wav_files(source):
            yield name, {"audio": samples.astype(np.int64), "audio/filename": name, "label": int(name[0])}


BUILDERS: dict[str, Any] = {
    "digits": Digits,
    "mnist": MNIST,
    "fashion_mnist": FashionMNIST,
    "cifar10": Cifar10,
    "tiny_shakespeare": TinyShakespeare,
    "spoken_digit": SpokenDigit,
    "stdlib": Stdlib,
    "pydoc_topics": PydocTopics,
}


def _text_info(builder: Any, description: str, homepage: str, name: bool = False) -> Any:
    features = {"text": tfds.features.Text(), **({"name": tfds.features.Text()} if name else {})}
    return tfds.core.DatasetInfo(
        builder=builder,
        description=description,
        features=tfds.features.FeaturesDict(features),
        supervised_keys=None,
        homepage=homepage,
    )


def png_bytes(image: np.ndarray) -> io.BytesIO:
    """`image` [H, W, C] uint8 as a PNG file in memory; TFDS would need TensorFlow to encode an array."""
    from PIL import Image

    buffer = io.BytesIO()
    Image.fromarray(image[..., 0] if image.shape[-1] == 1 else image).save(buffer, format="PNG")
    buffer.seek(0)
    return buffer


def read_idx(path: Any) -> np.ndarray:
    """An idx file of unsigned bytes (http://yann.lecun.com/exdb/mnist), gzipped or not, as uint8.

    Raises:
      UserError: the file is damaged or of another kind.
    """
    raw = Path(path).read_bytes()
    try:
        data = gzip.decompress(raw) if raw[:2] == b"\x1f\x8b" else raw
        zero, kind, rank = struct.unpack(">HBB", data[:4])
        shape = struct.unpack(f">{rank}I", data[4 : 4 + 4 * rank])
        if zero != 0 or kind != 8 or not 1 <= rank <= 4:
            raise ValueError("not the header of an idx file of bytes")
        return np.frombuffer(data, np.uint8, offset=4 + 4 * rank).reshape(shape)
    except (ValueError, OSError, EOFError, struct.error, gzip.zlib.error) as error:  # type: ignore[attr-defined]
        raise UserError(f"{path} is not a whole idx file: {error}") from error


def read_cifar10(source: Path) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """split -> (images [n, 32, 32, 3] uint8, labels [n]) from an archive or folder of either version.

    Raises:
      UserError: the six batch files are not all there, or one is damaged.
    """
    files = {Path(name).name: data for name, data in _batch_files(source)}
    result = {}
    for split, stems in (("train", [f"data_batch_{i}" for i in range(1, 6)]), ("test", ["test_batch"])):
        parts = []
        for stem in stems:
            if f"{stem}.bin" in files:
                parts.append(_binary_batch(files[f"{stem}.bin"], f"{source}/{stem}.bin"))
            elif stem in files:
                parts.append(_pickled_batch(files[stem], f"{source}/{stem}"))
            else:
                raise UserError(f"{source} holds neither {stem}.bin nor {stem} of CIFAR-10")
        result[split] = tuple(np.concatenate(arrays) for arrays in zip(*parts, strict=True))
    return result  # type: ignore[return-value]


def _batch_files(source: Path) -> Iterator[tuple[str, bytes]]:
    if source.is_dir():
        for path in sorted(source.iterdir()):
            if "_batch" in path.name:
                yield path.name, path.read_bytes()
        return
    try:
        with tarfile.open(source) as archive:
            for member in archive:
                file = archive.extractfile(member) if "_batch" in Path(member.name).name else None
                if file is not None:
                    yield member.name, file.read()
    except (tarfile.TarError, EOFError, OSError) as error:
        raise UserError(f"{source} is not a whole archive of CIFAR-10: {error}") from error


def _binary_batch(data: bytes, name: str) -> tuple[np.ndarray, np.ndarray]:
    if not data or len(data) % 3073:
        raise UserError(f"{name} is damaged: {len(data)} bytes are no multiple of 3073")
    rows = np.frombuffer(data, np.uint8).reshape(-1, 3073)
    return rows[:, 1:].reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1), rows[:, 0]


def _pickled_batch(data: bytes, name: str) -> tuple[np.ndarray, np.ndarray]:
    try:
        batch = _ArrayUnpickler(io.BytesIO(data), encoding="bytes").load()
        images = np.asarray(batch[b"data"], np.uint8).reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1)
        return images, np.asarray(batch[b"labels"], np.uint8)
    except (pickle.UnpicklingError, KeyError, ValueError, EOFError, TypeError) as error:
        raise UserError(f"{name} is no batch of CIFAR-10's Python version: {error}") from error


class _ArrayUnpickler(pickle.Unpickler):
    """Loads NumPy arrays and plain values only: a pickle from elsewhere could otherwise run any code."""

    def find_class(self, module: str, name: str) -> Any:
        if name == "_reconstruct" and module.startswith("numpy"):
            return np._core.multiarray._reconstruct  # type: ignore[attr-defined]
        allowed = {("numpy", "ndarray"): np.ndarray, ("numpy", "dtype"): np.dtype}
        if (module, name) in allowed:
            return allowed[module, name]
        if (module, name) == ("_codecs", "encode"):
            return lambda text, encoding="latin1": text.encode(encoding)
        raise pickle.UnpicklingError(f"{module}.{name} is not expected there")


def _download(dl_manager: Any, urls: dict[str, str]) -> dict[str, Path]:
    """Name -> file. Raises ConnectionError at once where TFDS would try for minutes."""
    import requests

    first = next(iter(urls.values()))
    try:
        requests.head(first, timeout=20)
    except requests.exceptions.RequestException as error:
        raise ConnectionError(f"{first.split('/')[2]} cannot be reached") from error
    return {name: Path(path) for name, path in dl_manager.download(urls).items()}


def _manual_dir(dl_manager: Any) -> Path | None:
    # the property raises where no folder was given
    folder = dl_manager._manual_dir
    return Path(folder) if folder is not None and Path(folder).is_dir() else None


def _local_files(dl_manager: Any, names: Any) -> dict[str, Path] | None:
    folder = _manual_dir(dl_manager)
    if folder is None:
        return None
    found = {}
    for name in names:
        plain = name.removesuffix(".gz")
        present = [folder / n for n in (name, plain, plain.replace("-idx", ".idx")) if (folder / n).is_file()]
        if not present:
            raise UserError(f"{folder} does not hold {name}")
        found[name] = present[0]
    return found


def _local_cifar(dl_manager: Any) -> Path | None:
    folder = _manual_dir(dl_manager)
    if folder is None:
        return None
    names = ("cifar-10-binary.tar.gz", "cifar-10-batches-bin", "cifar-10-python.tar.gz", "cifar-10-batches-py")
    return next((folder / name for name in names if (folder / name).exists()), folder)
