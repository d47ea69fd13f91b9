"""A person's own pictures as a data set: one folder, one sub-folder a class."""

import hashlib
from pathlib import Path

import numpy as np

from jaxdl.data.cache import Splits, cached_arrays, file_signature
from jaxdl.data.images import read_image
from jaxdl.data.prepared import with_sums
from jaxdl.data.splits import split_by_hash, stratified_order
from jaxdl.errors import UserError

SUFFIXES = frozenset(
    {".png", ".jpg", ".jpeg", ".bmp", ".gif", ".tif", ".tiff", ".webp", ".ppm", ".pgm", ".pbm", ".avif", ".jp2"}
)


def open_image_folder(root: str, image_size: int, channels: int) -> tuple[Splits, dict]:
    """All pictures under `root`, each split in a fixed class-mixed order.

    The split is by hash of each file's content, 80/10/10 %: neither new nor renamed files move another one, and copies
    stay together, so that no test picture is also a training picture.

    Args:
      root: folder with one sub-folder a class; pictures may lie deeper inside it.
      image_size: side in pixels that every picture is fitted into.
      channels: 1 or 3.

    Returns:
      As `prepared.open_prepared`: split -> {"image", "label", ...} and facts.

    Raises:
      UserError: no such folder, fewer than two classes, an empty class, or a picture that cannot be read (named).
    """
    if not root:
        raise UserError("the folder of images is not given: --data.dir=PATH, one sub-folder a class")
    base = Path(root).expanduser()
    classes, files = _list(base)
    paths = [path for _, path in files]
    signature = file_signature(paths, [str(path.relative_to(base)) for path in paths], image_size, channels, "v1")

    def decode() -> tuple[Splits, dict]:
        labels = np.array([label for label, _ in files], np.int32)
        images = np.stack([read_image(path, image_size, image_size, channels) for path in paths])
        names = [hashlib.sha256(path.read_bytes()).hexdigest() for path in paths]
        try:
            parts = split_by_hash(names, labels)
        except ValueError as error:
            raise UserError(f"{base} holds too few pictures: {error}") from error
        splits = {}
        for split, members in parts.items():
            members = members[stratified_order(labels[members])]
            splits[split] = with_sums(images[members], labels[members])
        return splits, {"version": "", "classes": classes, "jpeg": 0, "copies": len(names) - len(set(names))}

    return cached_arrays(signature, "folder", decode)


def _list(base: Path) -> tuple[list[str], list[tuple[int, Path]]]:
    if not base.is_dir():
        raise UserError(f"there is no folder {base}")
    folders = sorted(path for path in base.iterdir() if path.is_dir() and not path.name.startswith("."))
    classes = [path.name for path in folders]
    if len(classes) < 2:
        raise UserError(f"{base} needs at least two sub-folders, one a class; found {classes or 'none'}")
    if set(map(str.lower, classes)) <= {"train", "training", "validation", "valid", "val", "test", "testing"}:
        raise UserError(f"{base} has the sub-folders {', '.join(classes)}: give a folder with one sub-folder a class")
    files = []
    for label, folder in enumerate(folders):
        found = sorted(
            path
            for path in folder.rglob("*")
            if path.suffix.lower() in SUFFIXES and path.is_file() and not path.name.startswith(".")
        )
        if not found:
            raise UserError(f"{folder} holds no image file")
        files += [(label, path) for path in found]
    return classes, files
