"""The user's cache: prepared TFDS sets and decoded arrays, written so that no reader ever sees half a file."""

import contextlib
import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

Splits = dict[str, dict[str, np.ndarray]]


def cache_dir() -> Path:
    """$XDG_CACHE_HOME/jaxdl, by default ~/.cache/jaxdl."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "jaxdl"


def move_into_place(folder: Path, target: Path) -> None:
    """Gives a finished `folder` the name `target` on the same disk; where another process was faster, its folder stays.

    Raises:
      OSError: the place cannot be written.
    """
    try:
        os.rename(folder, target)
    except OSError:
        if not target.is_dir():
            raise


def file_signature(paths: Iterable[Path], *facts: Any) -> str:
    """sha256 over names, sizes and times of change of files and over further facts; cheap, reads no file."""
    hashed = hashlib.sha256(repr(facts).encode())
    for path in paths:
        status = path.stat()
        hashed.update(f"{path.name}|{status.st_size}|{status.st_mtime_ns}\n".encode())
    return hashed.hexdigest()


def arrays_fingerprint(splits: Mapping[str, Mapping[str, np.ndarray]]) -> str:
    """sha256 over split, name, dtype, shape and little-endian bytes of every array, sorted by name."""
    hashed = hashlib.sha256()
    for split in sorted(splits):
        for name, array in sorted(splits[split].items()):
            hashed.update(f"{split}/{name}|{array.dtype.name}|{array.shape}|".encode())
            little = array.astype(array.dtype.newbyteorder("<"), copy=False)
            hashed.update(np.ascontiguousarray(little).data)
    return hashed.hexdigest()


def cached_arrays(signature: str, name: str, decode: Callable[[], tuple[Splits, dict]]) -> tuple[Splits, dict]:
    """Decoded arrays from the cache, or from `decode`, whose result is then kept.

    A warm start maps the files into memory and checks their digest; a damaged entry is decoded again.

    Args:
      signature: of the files that are decoded.
      name: of the data set, for the folder's name.
      decode: -> (split -> name -> array, facts that JSON can hold).

    Returns:
      (split -> name -> array, facts with "fingerprint" added). Arrays whose name begins with "_" are derived from the
      others and do not count in the fingerprint.
    """
    folder = cache_dir() / "decoded" / f"{name}-{signature[:24]}"
    found = _read(folder)
    if found is not None:
        return found
    splits, facts = decode()
    primary, derived = _digests(splits)
    facts = {**facts, "fingerprint": primary, "derived": derived}
    with contextlib.suppress(OSError):  # no cache, then: the arrays are here all the same
        folder.parent.mkdir(parents=True, exist_ok=True)
        shutil.rmtree(folder, ignore_errors=True)
        with tempfile.TemporaryDirectory(prefix=f".{name}-", dir=folder.parent) as name_of_temporary:
            temporary = Path(name_of_temporary) / "new"
            temporary.mkdir()
            for split, arrays in splits.items():
                for array_name, array in arrays.items():
                    np.save(temporary / f"{split}.{array_name}.npy", array)
            (temporary / "facts.json").write_text(json.dumps(facts))
            move_into_place(temporary, folder)
    return splits, facts


def _read(folder: Path) -> tuple[Splits, dict] | None:
    try:
        facts = json.loads((folder / "facts.json").read_text())
        splits: Splits = {}
        for path in sorted(folder.glob("*.npy")):
            split, name, _ = path.name.split(".")
            splits.setdefault(split, {})[name] = np.load(path, mmap_mode="r")
        return (splits, facts) if (facts["fingerprint"], facts["derived"]) == _digests(splits) else None
    except (OSError, ValueError, EOFError, KeyError):
        return None


def _digests(splits: Splits) -> tuple[str, str]:
    def chosen(derived: bool) -> Splits:
        return {s: {k: v for k, v in arrays.items() if k.startswith("_") == derived} for s, arrays in splits.items()}

    return arrays_fingerprint(chosen(False)), arrays_fingerprint(chosen(True))
