"""Recordings of spoken digits: the embedded tone digits, and the Free Spoken Digit Dataset through TFDS.

The Free Spoken Digit Dataset (github.com/Jakobovski/free-spoken-digit-dataset, TFDS `spoken_digit`) names its files
<digit>_<speaker>_<take>.wav, and its own rule makes takes 0-4 the test set. Here takes 5-9 are the validation split.
"""

import dataclasses
import re
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from jaxdl.data.audio import loudest_part
from jaxdl.data.cache import Splits, arrays_fingerprint
from jaxdl.data.prepared import open_prepared, refuse_other_place
from jaxdl.errors import UserError
from jaxdl.settings import setting

RATE = 8000
SPEECH_SETS = ("tones", "spoken_digit")
DIGITS = tuple("0123456789")
_FILE = re.compile(r"(\d)_([a-z]+)_(\d+)\.wav")
_NOTES = {
    "tones": ("synthetic words: a set to learn and to test with, not to compare with others",),
    "spoken_digit": (
        "official split of the Free Spoken Digit Dataset, takes 0-4 test; takes 5-9 are the validation split; the same "
        "speakers are in all splits, so the accuracy on new speakers is lower",
    ),
}


@dataclasses.dataclass(frozen=True)
class SpeechConfig:
    """Which recordings, and where they lie."""

    name: str = setting("tones", "recordings", choices=SPEECH_SETS)
    dir: str = setting("", "folder of prepared TFDS sets ('': $TFDS_DATA_DIR, else the user's cache)")
    limit: int = setting(0, "use only the first so many training recordings; 0: all", minimum=0)
    longest: float = setting(0.8, "seconds; of a longer recording the loudest part is used", minimum=0.1, maximum=10.0)


@dataclasses.dataclass(frozen=True, eq=False)
class Recordings:
    """Recordings in memory, one after another.

    Attributes:
      name, version: as in tables.
      fingerprint: sha256 over the recordings of all splits.
      splits: "train", "validation", "test" -> {"wave" [m] int16 (all recordings, one after another), "start" [n] int32
        (of each in "wave"), "length" [n] int32, "label" [n] int32 in 0 ... 9, "voice" [n] int32}.
      classes: names of the labels.
      longest: samples of the longest recording.
      notes: what a reader of results must know.
    """

    name: str
    version: str
    fingerprint: str
    splits: Mapping[str, Mapping[str, np.ndarray]]
    classes: tuple[str, ...]
    longest: int
    notes: tuple[str, ...] = ()

    def padded(self, split: str) -> dict[str, np.ndarray]:
        """A split as arrays of one length: "wave" [n, longest] int16, "samples" [n], "label" [n]."""
        part = self.splits[split]
        waves = np.zeros((len(part["label"]), self.longest), np.int16)
        for row, start, length in zip(waves, part["start"], part["length"], strict=True):
            row[:length] = part["wave"][start : start + length]
        return {"wave": waves, "samples": np.asarray(part["length"]), "label": np.asarray(part["label"])}


def load(config: SpeechConfig) -> Recordings:
    """Opens recordings; downloads nothing.

    Raises:
      UserError: unknown, not prepared, damaged, or with a label that is no digit; one line that says what to do.
    """
    if config.name == "tones":
        from jaxdl.data.tones import tone_digits

        refuse_other_place(config.name, config.dir)
        stored, version = tone_digits(), "1.0.0"
        fingerprint = arrays_fingerprint(stored)
    elif config.name == "spoken_digit":
        prepared, facts = open_prepared("spoken_digit", config.dir)
        stored, fingerprint, version = _by_take(prepared), facts["fingerprint"], facts["version"]
    else:
        raise UserError(f"there are no recordings {config.name!r}; there are {', '.join(SPEECH_SETS)}")
    longest = round(config.longest * RATE)
    splits = {}
    for split, arrays in stored.items():
        check_labels(arrays["label"], len(DIGITS), f"{config.name}, {split}")
        limit = config.limit if split == "train" else 0
        splits[split] = joined(_separate(arrays, limit), arrays["label"], arrays["voice"], longest)
    most = max(int(arrays["length"].max()) for arrays in splits.values())
    return Recordings(config.name, version, fingerprint, splits, DIGITS, most, _NOTES[config.name])


def check_labels(labels: Any, classes: int, what: str) -> None:
    """Raises UserError if a label is not in 0 ... classes - 1."""
    labels = np.asarray(labels)
    wrong = np.flatnonzero((labels < 0) | (labels >= classes))
    if len(wrong):
        raise UserError(
            f"{what}: label {labels[wrong[0]]} of example {wrong[0]} is outside 0 ... {classes - 1}; mend the data set"
        )


def split_of(file: str) -> str:
    """The split that a recording belongs to by its file's name: takes 0-4 test, 5-9 validation, others train.

    Raises:
      UserError: the name is not <digit>_<speaker>_<take>.wav.
    """
    found = _FILE.fullmatch(file)
    if found is None:
        raise UserError(f"{file!r} is not named <digit>_<speaker>_<take>.wav, so its split is unknown: rename it")
    take = int(found[3])
    return "test" if take < 5 else "validation" if take < 10 else "train"


def joined(waves: Sequence[np.ndarray], labels: np.ndarray, voices: np.ndarray, longest: int) -> dict[str, np.ndarray]:
    """Waves int16 [n_i] (the loudest part of longer ones) one after another; see `Recordings.splits`."""
    waves = [loudest_part(wave, longest) for wave in waves]
    lengths = np.array([len(wave) for wave in waves], np.int32)
    return {
        "wave": np.concatenate(waves),
        "start": (np.cumsum(lengths) - lengths).astype(np.int32),
        "length": lengths,
        "label": np.asarray(labels[: len(waves)], np.int32),
        "voice": np.asarray(voices[: len(waves)], np.int32),
    }


def _separate(arrays: Mapping[str, np.ndarray], limit: int) -> list[np.ndarray]:
    lengths = arrays["length"][: limit or None]
    ends = np.cumsum(lengths, dtype=np.int64)
    return [arrays["wave"][end - length : end] for end, length in zip(ends, lengths, strict=True)]


def _by_take(stored: Splits) -> Splits:
    """The prepared set's one split as train, validation and test, by the names of the files."""
    arrays = stored["train"]
    files = [name.decode() for name in arrays["file"]]
    chosen = np.array([split_of(file) for file in files])
    speakers = [file.split("_")[1] for file in files]
    voice = np.searchsorted(sorted(set(speakers)), speakers).astype(np.int32)
    waves = _separate(arrays, 0)
    splits: Splits = {}
    for split in ("train", "validation", "test"):
        rows = np.flatnonzero(chosen == split)
        if not len(rows):
            raise UserError(f"spoken_digit holds no recording of the {split} split: prepare it again")
        splits[split] = {
            "wave": np.concatenate([waves[i] for i in rows]),
            "length": arrays["length"][rows],
            "label": arrays["label"][rows],
            "voice": voice[rows],
        }
    return splits
