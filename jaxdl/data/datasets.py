"""The image data sets, opened by name."""

import dataclasses
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from jaxdl.data.cache import Splits
from jaxdl.data.folder import open_image_folder
from jaxdl.data.prepared import open_digits, open_prepared, refuse_other_place
from jaxdl.data.splits import hold_out
from jaxdl.errors import UserError
from jaxdl.settings import setting

IMAGE_SETS = ("digits", "mnist", "fashion_mnist", "cifar10", "folder")
# light things on a dark ground, and the part of each side that is left free around them
_INK_MARGIN = {"digits": 0.0, "mnist": 1 / 7, "fashion_mnist": 0.0}
_NOTES = {
    "digits": (
        "scikit-learn's digits (UCI optical recognition, test part): one fixed stratified split of 1077/360/360; the "
        "same writers wrote training and test digits, so the accuracy on new writers is lower",
    ),
    "folder": ("fixed split by hash of the files, 80/10/10 %",),
}


@dataclasses.dataclass(frozen=True)
class DataConfig:
    """Which data set, and where it lies."""

    name: str = setting("digits", "data set", choices=IMAGE_SETS)
    dir: str = setting("", "folder of prepared TFDS sets ('': $TFDS_DATA_DIR, else the user's cache), or of images")
    validation_fraction: float = setting(
        0.1,
        "part of train held out where a set has no validation split; fixed for all seeds",
        minimum=0.001,
        maximum=0.9,
    )
    limit: int = setting(0, "use only the first so many training examples; 0: all", minimum=0)
    image_size: int = setting(32, "side in pixels that pictures are fitted into; name=folder only", minimum=1)
    channels: int = setting(3, "1: grey, 3: colour; name=folder only", choices=(1, 3))


@dataclasses.dataclass(frozen=True, eq=False)
class Dataset:
    """A data set in memory (or mapped into it).

    Attributes:
      name: as in tables; "cifar10-jpeg75" for recompressed pictures.
      version: of the prepared set.
      fingerprint: sha256 over the decoded arrays of all stored splits, whatever `limit` and `validation_fraction` are.
      splits: "train", "validation", "test" and "train+validation" (for a second phase) ->
        {"image" [n, H, W, C] uint8, "label" [n] int32}.
      classes: names of the labels.
      mean: per channel, pixels in 0 ... 1, over the split "train" alone.
      std: likewise; 1 for a channel that never changes.
      light_on_dark: light things on a dark ground: a person's ink on paper must be inverted.
      ink_margin: `read_image`'s margin that makes a person's picture like those of the set; None: leave it as it is.
      notes: what a reader of results must know, one sentence each.
    """

    name: str
    version: str
    fingerprint: str
    splits: Mapping[str, Mapping[str, np.ndarray]]
    classes: tuple[str, ...]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    light_on_dark: bool = False
    ink_margin: float | None = None
    notes: tuple[str, ...] = ()

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """(H, W, C)."""
        height, width, channels = self.splits["train"]["image"].shape[1:]
        return height, width, channels


def load(config: DataConfig) -> Dataset:
    """Opens a data set; decodes it once, later from the user's cache. Downloads nothing.

    Raises:
      UserError: unknown, not prepared, damaged or empty; one line that says what to do.
    """
    if config.name == "digits":
        refuse_other_place(config.name, config.dir, own="folder")
        stored, facts = open_digits()
    elif config.name == "folder":
        stored, facts = open_image_folder(config.dir, config.image_size, config.channels)
    elif config.name in IMAGE_SETS:
        stored, facts = open_prepared(config.name, config.dir)
    else:
        raise UserError(f"there is no data set {config.name!r}; there are {', '.join(IMAGE_SETS)}")
    notes = list(_NOTES.get(config.name, ()))
    name = config.name
    if facts["jpeg"]:
        name = f"{name}-jpeg{facts['jpeg']}"
        notes.append(f"pictures recompressed as JPEG: not comparable with published results on {config.name}")
    if facts.get("copies"):
        notes.append(f"{facts['copies']} of the files are copies of others; they stay in the same split as these")
    splits, note = _with_validation(stored, config)
    mean, std = _statistics(splits["train"])
    return Dataset(
        name=name,
        version=facts["version"] or Path(config.dir).name,
        fingerprint=facts["fingerprint"],
        splits={split: {"image": a["image"], "label": a["label"]} for split, a in splits.items()},
        classes=tuple(facts["classes"]),
        mean=mean,
        std=std,
        light_on_dark=config.name in _INK_MARGIN,
        ink_margin=_INK_MARGIN.get(config.name),
        notes=(*notes, *note),
    )


def _with_validation(stored: Splits, config: DataConfig) -> tuple[Splits, tuple[str, ...]]:
    test = {"test": stored["test"]} if "test" in stored else {}
    if "validation" in stored:
        train, validation = _first(stored["train"], config.limit), stored["validation"]
        both = {name: np.concatenate([train[name], validation[name]]) for name in train}
        return {"train": train, "validation": validation, **test, "train+validation": both}, ()
    everything = stored["train"]
    kept, held = hold_out(everything["label"], config.validation_fraction)
    if config.limit:
        kept = kept[: config.limit]
        everything = _rows(everything, np.sort(np.concatenate([kept, held])))
    splits = {"train": _rows(stored["train"], kept), "validation": _rows(stored["train"], held), **test}
    percent = 100 * config.validation_fraction
    note = f"validation: a fixed stratified {percent:g} % of the training examples, whatever the seed"
    return {**splits, "train+validation": everything}, (note,)


def _rows(arrays: Mapping[str, np.ndarray], indices: np.ndarray) -> dict[str, np.ndarray]:
    return {name: array[indices] for name, array in arrays.items()}


def _first(arrays: Mapping[str, np.ndarray], count: int) -> dict[str, np.ndarray]:
    return {name: array[:count] if count else array for name, array in arrays.items()}


def _statistics(train: Mapping[str, np.ndarray]) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean and standard deviation per channel, pixels in 0 ... 1, from exact integer sums."""
    count = len(train["image"]) * train["image"].shape[1] * train["image"].shape[2]
    # Python's integers: squares of sums may pass 2^63
    sums = [int(value) for value in train["_sum"].sum(axis=0)]
    squares = [int(value) for value in train["_square_sum"].sum(axis=0)]
    mean = tuple(total / count / 255.0 for total in sums)
    variance = [(count * square - total * total) / count**2 for total, square in zip(sums, squares, strict=True)]
    return mean, tuple(value**0.5 / 255.0 or 1.0 for value in variance)
