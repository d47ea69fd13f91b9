"""Texts as sequences of characters: the corpora by name, and the vocabulary that numbers their characters."""

import dataclasses
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from jaxdl.data.cache import Splits, arrays_fingerprint
from jaxdl.data.corpora import stdlib_version
from jaxdl.data.prepared import code_points, open_embedded, open_prepared, refuse_other_place
from jaxdl.errors import UserError
from jaxdl.settings import setting

EMBEDDED = ("stdlib", "pydoc_topics")
TEXT_SETS = (*EMBEDDED, "tiny_shakespeare", "file")
_SHORTEST = 1000
_NOTES = {
    "stdlib": "source of Python's standard library, split by module: it differs a little between Python's versions",
    "pydoc_topics": "Python's reference as help() prints it, split by topic",
    "tiny_shakespeare": (
        "nanoGPT's split: the first 90 % train, the rest (TFDS validation and test, joined) validates; no test split is left"
    ),
    "file": "first 90 % of the file train, the next 5 % validate, the last 5 % test",
}


@dataclasses.dataclass(frozen=True)
class TextConfig:
    """Which text, and how it is cut."""

    name: str = setting("stdlib", "text", choices=TEXT_SETS)
    dir: str = setting(
        "", "folder of prepared TFDS sets ('': $TFDS_DATA_DIR, else the user's cache); name=file: the file"
    )
    length: int = setting(
        64, "characters of one training example: chunk of truncated BPTT, window of a Transformer", minimum=1
    )
    limit: int = setting(0, "use only the first so many thousand characters of the training text; 0: all", minimum=0)


class Vocabulary:
    """The characters that a model knows, numbered in Unicode's order.

    Attributes:
      characters: V different characters, sorted.
    """

    def __init__(self, characters: str):
        self.characters = "".join(sorted(set(characters)))
        self._points = code_points(self.characters)

    def __len__(self) -> int:
        return len(self.characters)

    def encode(self, text: str, where: str = "the text") -> np.ndarray:
        """Numbers [n] of the characters of `text`: uint8 where 256 suffice, else int32.

        Raises:
          UserError: a character that is not in the vocabulary; says which, and in which line of `where`.
        """
        return self.number(code_points(text), where)

    def number(self, points: np.ndarray, where: str = "the text") -> np.ndarray:
        """As `encode`, for Unicode numbers [n].

        Raises:
          UserError: as `encode`.
        """
        found = np.minimum(np.searchsorted(self._points, points), len(self) - 1)
        unknown = np.flatnonzero(self._points[found] != points)
        if unknown.size:
            character, line = chr(points[unknown[0]]), 1 + int((points[: unknown[0]] == 10).sum())
            place = f" in line {line}" if (points == 10).any() else ""
            raise UserError(
                f"{where} has the character {character!r} (U+{ord(character):04X}){place}, which the model has never "
                f"seen: it knows {len(self)} characters; replace it"
            )
        return found.astype(np.uint8 if len(self) <= 256 else np.int32)

    def decode(self, tokens: np.ndarray) -> str:
        """The text of token numbers [n]."""
        return "".join(self.characters[int(token)] for token in np.asarray(tokens).reshape(-1))


@dataclasses.dataclass(frozen=True, eq=False)
class Corpus:
    """A text in memory.

    Attributes:
      name: as in tables.
      version: of the prepared set.
      fingerprint: sha256 over all characters of all splits, whatever `limit` is.
      splits: "train", "validation" and perhaps "test" -> token numbers [n].
      vocabulary: of all splits: what validation alone has must be predicted too, at its price.
      note: what a reader of results must know.
    """

    name: str
    version: str
    fingerprint: str
    splits: Mapping[str, np.ndarray]
    vocabulary: Vocabulary
    note: str = ""

    @property
    def start(self) -> int:
        """Token that stands before the first character of a text: the line break, if there is one."""
        return max(self.vocabulary.characters.find("\n"), 0)


def load_text(config: TextConfig) -> Corpus:
    """Opens a text and numbers its characters. Downloads nothing.

    Raises:
      UserError: unknown, not prepared, damaged, too short, or no UTF-8; one line that says what to do.
    """
    if config.name in EMBEDDED:
        refuse_other_place(config.name, config.dir, own="file")
        stored, facts = open_embedded(config.name, stdlib_version())
    elif config.name == "tiny_shakespeare":
        stored, facts = open_prepared(config.name, config.dir)
        rest = np.concatenate([stored["validation"]["text"], stored["test"]["text"]])
        stored = {"train": stored["train"], "validation": {"text": rest}}
    elif config.name == "file":
        stored = _own_file(config.dir)
        facts = {"version": Path(config.dir).name, "fingerprint": arrays_fingerprint(stored)}
    else:
        raise UserError(f"there is no text {config.name!r}; there are {', '.join(TEXT_SETS)}")
    points = {split: np.asarray(arrays["text"]) for split, arrays in stored.items()}
    vocabulary = Vocabulary("".join(map(chr, np.unique(np.concatenate(list(points.values()))))))
    splits = {split: vocabulary.number(text) for split, text in points.items()}
    if config.limit:
        splits["train"] = splits["train"][: 1000 * config.limit]
    return Corpus(config.name, facts["version"], facts["fingerprint"], splits, vocabulary, _NOTES[config.name])


def read_text(path: str) -> str:
    """A user's text file; line ends become "\\n".

    Raises:
      UserError: it cannot be read, is empty, or is not UTF-8.
    """
    try:
        text = Path(path).read_bytes().decode("utf-8-sig")
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror or error}") from error
    except UnicodeDecodeError as error:
        raise UserError(f"{path} is no UTF-8 text (byte {error.start}): save it as UTF-8") from error
    if not text:
        raise UserError(f"{path} is empty")
    return text.replace("\r\n", "\n").replace("\r", "\n")


def _own_file(path: str) -> Splits:
    if not path:
        raise UserError("--data.name=file needs the path of your text file: --data.dir=PATH")
    text = code_points(read_text(path))
    if len(text) < _SHORTEST:
        raise UserError(f"{path} has {len(text)} characters; to train on it at least {_SHORTEST} are needed")
    first, second = int(0.9 * len(text)), int(0.95 * len(text))
    parts = {"train": text[:first], "validation": text[first:second], "test": text[second:]}
    return {split: {"text": part} for split, part in parts.items()}
