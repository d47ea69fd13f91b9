"""Opens data sets that TFDS has prepared, without TensorFlow and without any download."""

import contextlib
import io
import json
import os
import re
import tempfile
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from jaxdl.data.cache import Splits, cache_dir, cached_arrays, file_signature, move_into_place
from jaxdl.errors import UserError

_BLOCK = 1000


def default_dir() -> Path:
    """Where prepared sets are looked for when nothing is said: $TFDS_DATA_DIR, else the user's cache."""
    return Path(os.environ.get("TFDS_DATA_DIR") or cache_dir() / "tfds").expanduser()


@contextlib.contextmanager
def quiet_tfds() -> Iterator[None]:
    """Hides TFDS's progress bars, log lines, warnings and prints for a while."""
    from absl import logging

    verbosity = logging.get_verbosity()
    with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
        warnings.simplefilter("ignore")
        logging.set_verbosity(logging.ERROR)
        try:
            import tensorflow_datasets as tfds

            tfds.disable_progress_bar()
            yield
        finally:
            logging.set_verbosity(verbosity)


def prepare_command(name: str, data_dir: str) -> str:
    """The command that prepares a set."""
    return f"python -m experiments.prepare --dataset={name}" + (f" --data.dir={data_dir}" if data_dir else "")


def version_folder(data_dir: Path, name: str) -> Path | None:
    """The newest prepared version, `<data_dir>/<name>/<x.y.z>`, or None."""
    folders = [path.parent for path in (data_dir / name).glob("*/dataset_info.json")]
    versions = [path for path in folders if re.fullmatch(r"\d+\.\d+\.\d+", path.name)]
    return max(versions, key=lambda path: tuple(map(int, path.name.split("."))), default=None)


def refuse_other_place(name: str, data_dir: str, own: str = "") -> None:
    """Says that a set which comes with jaxdl is not read from where a user's own data lie.

    Args:
      name: of the set.
      data_dir: what --data.dir says; "" and folders of prepared sets (or empty ones) are fine: they may hold another set.
      own: name of the kind of set that reads a user's data, if there is one.

    Raises:
      UserError: there is something else at `data_dir`, or nothing.
    """
    folder = Path(data_dir).expanduser()
    if data_dir and not (folder.is_dir() and (any(folder.glob("*/*/dataset_info.json")) or not any(folder.iterdir()))):
        raise UserError(
            f"--data.name={name} comes with jaxdl and is not read from --data.dir={data_dir}: leave --data.dir out"
            + (f", or give --data.name={own} to use what lies there" if own else "")
        )


def open_prepared(name: str, data_dir: str) -> tuple[Splits, dict]:
    """All splits of a prepared set of images, texts or recordings, decoded.

    Args:
      name: TFDS name.
      data_dir: folder of prepared sets; "": `default_dir()`.

    Returns:
      For images split -> {"image" [n, H, W, C] uint8, "label" [n] int32, derived sums} and facts {"version",
      "classes", "jpeg", "fingerprint"}; "jpeg" is the quality 1 ... 100 of stored JPEGs, 0 for lossless storage.
      For texts split -> {"text" [n]} (see `code_points`) and facts {"version", "fingerprint"}.
      For recordings split -> {"label", "length" [n] int32, "wave" [m] int16 (one after another), "file" [n] bytes} and
      facts {"version", "fingerprint"}.

    Raises:
      UserError: not prepared, incomplete, damaged, or in a format that needs TensorFlow; says which command to run.
    """
    folder = Path(data_dir).expanduser() if data_dir else default_dir()
    path = version_folder(folder, name)
    if path is None:
        raise UserError(f"data set {name!r} is not prepared in {folder}; run: {prepare_command(name, data_dir)}")
    return open_folder(path, name, f"run: {prepare_command(name, data_dir)}")


def open_digits() -> tuple[Splits, dict]:
    """The embedded digits; see `open_embedded`."""
    return open_embedded("digits", "1.0.0")


def open_embedded(name: str, version: str) -> tuple[Splits, dict]:
    """A set that needs no download, prepared into the user's cache on first use; see `open_prepared`.

    Args:
      name: a key of `builders.BUILDERS`.
      version: its builder's "x.y.z".
    """
    target = cache_dir() / "tfds" / name / version
    remedy = f"delete {target} and start again"
    if (target / "dataset_info.json").is_file():
        return open_folder(target, name, remedy)
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        # prepared aside and renamed, so that two processes at once do not meet
        with tempfile.TemporaryDirectory(prefix=f".{name}-", dir=target.parent) as temporary:
            move_into_place(build(name, Path(temporary)), target)
        return open_folder(target, name, remedy)
    except OSError:  # the cache cannot be written
        with tempfile.TemporaryDirectory() as temporary:
            return open_folder(build(name, Path(temporary)), name, remedy)


def build(name: str, data_dir: Path, *, manual_dir: str = "", download_dir: Path | None = None) -> Path:
    """Prepares a set with its TFDS builder (see builders.py) and returns its version folder.

    Args:
      name: a key of `builders.BUILDERS`.
      data_dir: where `<name>/<version>` is written.
      manual_dir: folder of source files; "": they are downloaded, where the set is not embedded.
      download_dir: where downloads are kept.
    """
    with quiet_tfds():
        import tensorflow_datasets as tfds

        from jaxdl.data.builders import BUILDERS

        builder = BUILDERS[name](data_dir=str(data_dir), file_format="array_record")
        config = tfds.download.DownloadConfig(try_download_gcs=False, manual_dir=manual_dir or None)
        downloads = str(download_dir or data_dir / "downloads")
        builder.download_and_prepare(download_dir=downloads, download_config=config)
        return Path(builder.data_dir)


def open_folder(path: Path, name: str, remedy: str) -> tuple[Splits, dict]:
    """The decoded arrays of one version folder, from the cache where possible; see `open_prepared`.

    Args:
      path: `<data_dir>/<name>/<x.y.z>`.
      name: of the set.
      remedy: what to do about a folder that cannot be used; ends the error line.

    Raises:
      UserError: incomplete, damaged, or in a format that needs TensorFlow.
      ImportError: a package that decodes the set is missing.
    """
    _check_complete(path, name, remedy)
    files = sorted(file for file in path.iterdir() if file.is_file())

    def decode() -> tuple[Splits, dict]:
        try:
            return _decode(path)
        except ImportError:
            raise
        except Exception as error:  # TFDS and array_record raise what they like at damaged files
            raise UserError(f"{path} is damaged ({str(error).splitlines()[0][:120]}); {remedy}") from error

    return cached_arrays(file_signature(files, name, path.name), name, decode)


def _check_complete(path: Path, name: str, remedy: str) -> None:
    try:
        info = json.loads((path / "dataset_info.json").read_text())
        kind, splits = info.get("fileFormat", "tfrecord"), info["splits"]
        shards = {split["name"]: len(split["shardLengths"]) for split in splits}
    except (OSError, ValueError, KeyError) as error:
        raise UserError(f"{path}/dataset_info.json cannot be read ({error}); {remedy}") from error
    if kind != "array_record":
        raise UserError(f"{path} is stored as {kind}, which needs TensorFlow; into another folder, {remedy}")
    for split, count in shards.items():
        for i in range(count):
            file = path / f"{name}-{split}.array_record-{i:05d}-of-{count:05d}"
            if not file.is_file():
                raise UserError(f"{file} is missing; {remedy}")


def _decode(path: Path) -> tuple[Splits, dict]:
    with quiet_tfds():
        import tensorflow_datasets as tfds

        builder = tfds.builder_from_directory(str(path))
        if "text" in builder.info.features:
            return _decode_text(builder), {"version": path.name}
        if "audio" in builder.info.features:
            return _decode_audio(builder), {"version": path.name}
        splits: Splits = {}
        for split in builder.info.splits:
            source: Any = builder.as_data_source(split)
            images = np.empty((len(source), *builder.info.features["image"].shape), np.uint8)
            labels = np.empty(len(source), np.int32)
            for start in range(0, len(source), _BLOCK):
                block = source.__getitems__(list(range(start, min(start + _BLOCK, len(source)))))
                images[start : start + len(block)] = [example["image"] for example in block]
                labels[start : start + len(block)] = [example["label"] for example in block]
            splits[split] = with_sums(images, labels)
        stored = builder.as_data_source(split, decoders={"image": tfds.decode.SkipDecoding()})[0]["image"]
        classes = list(builder.info.features["label"].names)
    return splits, {"version": path.name, "classes": classes, "jpeg": jpeg_quality(stored)}


def _decode_text(builder: Any) -> Splits:
    splits: Splits = {}
    for split in builder.info.splits:
        source: Any = builder.as_data_source(split)
        texts = [source[i]["text"] for i in range(len(source))]
        splits[split] = {"text": code_points("".join(bytes(text).decode("utf-8") for text in texts))}
    return splits


def _decode_audio(builder: Any) -> Splits:
    splits: Splits = {}
    for split in builder.info.splits:
        source: Any = builder.as_data_source(split)
        examples = source.__getitems__(list(range(len(source))))
        waves = [np.asarray(example["audio"]).astype(np.int16) for example in examples]
        splits[split] = {
            "label": np.array([example["label"] for example in examples], np.int32),
            "length": np.array([len(wave) for wave in waves], np.int32),
            "wave": np.concatenate(waves),
            "file": np.array([example["audio/filename"] for example in examples], "S"),
        }
    return splits


def code_points(text: str) -> np.ndarray:
    """Unicode numbers of the characters, [n] uint32."""
    return np.frombuffer(text.encode("utf-32-le"), "<u4").astype(np.uint32)


def with_sums(images: np.ndarray, labels: np.ndarray) -> dict[str, np.ndarray]:
    """{"image", "label"} and exact sums of pixels and of their squares, int64 [n, C]: the statistics of any part of the
    examples come from these at once."""
    sums = np.empty((2, len(images), images.shape[-1]), np.int64)
    for start in range(0, len(images), _BLOCK):
        block = images[start : start + _BLOCK].astype(np.int64)
        sums[0, start : start + _BLOCK] = block.sum(axis=(1, 2))
        sums[1, start : start + _BLOCK] = np.square(block).sum(axis=(1, 2))
    return {"image": images, "label": labels, "_sum": sums[0], "_square_sum": sums[1]}


def jpeg_quality(stored: bytes) -> int:
    """Quality of a JPEG file made with the standard tables (libjpeg's rule), 0 if `stored` is another kind of file.

    libjpeg scales its luminance table, whose entries sum to 3688, by (200 - 2q) % for q >= 50 and 5000/q % below.
    """
    if stored[:2] != b"\xff\xd8":
        return 0
    from PIL import Image

    with Image.open(io.BytesIO(stored)) as image:
        percent = 100.0 * sum(image.quantization[0]) / 3688.0  # type: ignore[attr-defined]
    return max(1, min(100, round((200.0 - percent) / 2 if percent <= 100 else 5000.0 / percent)))
