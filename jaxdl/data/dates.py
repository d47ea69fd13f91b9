"""Generated dates: many ways in which people write a day, each with its ISO form.

Every way names the day without doubt: the month by name or Roman numeral, or digits in an order that one convention fixes
(year first with "-", "/" or nothing between, day first with dots). Years of two digits follow an apostrophe, stand behind
a month's name, or end a dotted date, and mean 1950 ... 2049.
"""

import dataclasses
import datetime
from collections.abc import Callable, Mapping

import numpy as np

from jaxdl.data.cache import arrays_fingerprint
from jaxdl.data.text import Vocabulary
from jaxdl.errors import UserError
from jaxdl.settings import setting

MONTHS = (
    "January", "February", "March", "April", "May", "June", "July", "August", "September", "October", "November", "December"
)  # fmt: skip
WEEKDAYS = ("Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday")
ROMAN = ("I", "II", "III", "IV", "V", "VI", "VII", "VIII", "IX", "X", "XI", "XII")
FIRST, LAST = datetime.date(1950, 1, 1), datetime.date(2049, 12, 31)
SIZES = {"train": 20_000, "validation": 1_000, "test": 1_000}
# numbers of the tokens that are no characters: padding, start, end (see jaxdl.tasks.translation)
SPECIAL = 3
_END = 2
_VERSION = "1.0.0"


@dataclasses.dataclass(frozen=True)
class DatesConfig:
    """Generated dates."""

    name: str = setting("dates", "data set", choices=("dates",))
    dir: str = setting("", "not used: the dates are generated")
    limit: int = setting(0, "use only the first so many training examples; 0: all", minimum=0)


@dataclasses.dataclass(frozen=True, eq=False)
class Dates:
    """The generated set.

    Attributes:
      name, version, fingerprint: of the whole set, whatever `limit` is.
      splits: split -> {"source" [n, S] and "target" [n, T] uint8 token numbers, 0 behind the end, "format" [n] int32}.
      texts: split -> the n dates as people write them; no text stands in two splits, or twice in one.
      source, target: vocabularies; character c has the number `SPECIAL` + its number there.
      formats: names of the ways to write.
    """

    name: str
    version: str
    fingerprint: str
    splits: Mapping[str, Mapping[str, np.ndarray]]
    texts: Mapping[str, tuple[str, ...]]
    source: Vocabulary
    target: Vocabulary
    formats: tuple[str, ...]

    @property
    def source_length(self) -> int:
        """S."""
        return self.splits["train"]["source"].shape[1]

    @property
    def target_length(self) -> int:
        """T: ten characters and the end."""
        return self.splits["train"]["target"].shape[1]

    def encode(self, text: str, where: str = "the date") -> np.ndarray:
        """Token numbers [S] of a date as it is written.

        Raises:
          UserError: it is empty, too long, or has a character that no training date has.
        """
        text = " ".join(text.split())
        if not text:
            raise UserError(f"{where} is empty: write a date like 3 March 2021")
        if len(text) > self.source_length:
            raise UserError(f"{where} has {len(text)} characters, but dates have at most {self.source_length}")
        return _row(self.source.encode(text, where), self.source_length)

    def decode(self, tokens: np.ndarray) -> str:
        """The text of target tokens [T] up to their end."""
        return decoded(self.target, tokens)


def ordinal(day: int) -> str:
    """1 -> "1st"."""
    ending = "th" if 11 <= day <= 13 else {1: "st", 2: "nd", 3: "rd"}.get(day % 10, "th")
    return f"{day}{ending}"


def _short(date: datetime.date) -> str:
    return MONTHS[date.month - 1][:3]


def _long(date: datetime.date) -> str:
    return MONTHS[date.month - 1]


def _weekday(date: datetime.date) -> str:
    return WEEKDAYS[date.weekday()]


FORMATS: dict[str, Callable[[datetime.date], str]] = {
    "3 March 2021": lambda d: f"{d.day} {_long(d)} {d.year}",
    "3 Mar 2021": lambda d: f"{d.day} {_short(d)} {d.year}",
    "03 Mar 2021": lambda d: f"{d.day:02} {_short(d)} {d.year}",
    "3. March 2021": lambda d: f"{d.day}. {_long(d)} {d.year}",
    "3rd March 2021": lambda d: f"{ordinal(d.day)} {_long(d)} {d.year}",
    "3rd of March 2021": lambda d: f"{ordinal(d.day)} of {_long(d)} {d.year}",
    "the 3rd of Mar, 2021": lambda d: f"the {ordinal(d.day)} of {_short(d)}, {d.year}",
    "March 3, 2021": lambda d: f"{_long(d)} {d.day}, {d.year}",
    "March 3rd, 2021": lambda d: f"{_long(d)} {ordinal(d.day)}, {d.year}",
    "Mar 3, 2021": lambda d: f"{_short(d)} {d.day}, {d.year}",
    "Mar. 3rd, 2021": lambda d: f"{_short(d)}. {ordinal(d.day)}, {d.year}",
    "mar 3 2021": lambda d: f"{_short(d).lower()} {d.day} {d.year}",
    "3 MARCH 2021": lambda d: f"{d.day} {_long(d).upper()} {d.year}",
    "2021 March 3": lambda d: f"{d.year} {_long(d)} {d.day}",
    "2021-Mar-03": lambda d: f"{d.year}-{_short(d)}-{d.day:02}",
    "03-Mar-21": lambda d: f"{d.day:02}-{_short(d)}-{d.year % 100:02}",
    "3 Mar '21": lambda d: f"{d.day} {_short(d)} '{d.year % 100:02}",
    "March 3, '21": lambda d: f"{_long(d)} {d.day}, '{d.year % 100:02}",
    "Wed, 3 March 2021": lambda d: f"{_weekday(d)[:3]}, {d.day} {_long(d)} {d.year}",
    "Wednesday 3 Mar 2021": lambda d: f"{_weekday(d)} {d.day} {_short(d)} {d.year}",
    "Wednesday, March 3rd, 2021": lambda d: f"{_weekday(d)}, {_long(d)} {ordinal(d.day)}, {d.year}",
    "3 III 2021": lambda d: f"{d.day} {ROMAN[d.month - 1]} {d.year}",
    "3.3.2021": lambda d: f"{d.day}.{d.month}.{d.year}",
    "03.03.21": lambda d: f"{d.day:02}.{d.month:02}.{d.year % 100:02}",
    "2021/3/3": lambda d: f"{d.year}/{d.month}/{d.day}",
    "20210303": lambda d: f"{d.year}{d.month:02}{d.day:02}",
}


def generate(sizes: Mapping[str, int]) -> dict[str, list[tuple[str, str, int]]]:
    """split -> (text, ISO form, number of the format) of random days, each text once over all splits.

    The same for all seeds of all runs: the stream of NumPy's legacy generator never changes.

    Raises:
      ValueError: more than a tenth of all texts there are.
    """
    names, days = tuple(FORMATS), (LAST - FIRST).days + 1
    total = sum(sizes.values())
    if total > len(names) * days // 10:
        raise ValueError(f"{total} dates are more than a tenth of the {len(names) * days} that can be written")
    draw, seen = np.random.RandomState(2021), set()
    rows: list[tuple[str, str, int]] = []
    while len(rows) < total:
        date, number = FIRST + datetime.timedelta(int(draw.randint(days))), int(draw.randint(len(names)))
        text = FORMATS[names[number]](date)
        if text not in seen:
            seen.add(text)
            rows.append((text, date.isoformat(), number))
    ends = np.cumsum(list(sizes.values()))
    return {split: rows[end - sizes[split] : end] for split, end in zip(sizes, ends, strict=True)}


def load_dates(config: DatesConfig) -> Dates:
    """Makes the set; nothing is read or downloaded."""
    made = generate(SIZES)
    everything = [row for rows in made.values() for row in rows]
    sides = [[text for text, _, _ in everything], [iso for _, iso, _ in everything]]
    source, target = (Vocabulary("".join(texts)) for texts in sides)
    widths = [max(map(len, sides[0])), max(map(len, sides[1])) + 1]  # the end of targets is a token
    splits = {}
    for split, rows in made.items():
        splits[split] = {
            "source": np.stack([_row(source.encode(text), widths[0]) for text, _, _ in rows]),
            "target": np.stack([_row(target.encode(iso), widths[1], _END) for _, iso, _ in rows]),
            "format": np.asarray([number for *_, number in rows], np.int32),
        }
    fingerprint = arrays_fingerprint(splits)
    texts = {split: tuple(text for text, _, _ in rows) for split, rows in made.items()}
    if config.limit:
        splits["train"] = {name: array[: config.limit] for name, array in splits["train"].items()}
        texts["train"] = texts["train"][: config.limit]
    return Dates("dates", _VERSION, fingerprint, splits, texts, source, target, tuple(FORMATS))


def decoded(vocabulary: Vocabulary, tokens: np.ndarray) -> str:
    """The characters of token numbers [T] before the end or the padding; "?" for a start token, which is no character."""
    found = []
    for token in np.asarray(tokens, np.int64).reshape(-1):
        if token in (0, _END):
            break
        found.append(vocabulary.characters[token - SPECIAL] if token >= SPECIAL else "?")
    return "".join(found)


def _row(tokens: np.ndarray, width: int, end: int | None = None) -> np.ndarray:
    row = np.zeros(width, np.uint8)
    row[: len(tokens)] = tokens + SPECIAL
    if end is not None:
        row[len(tokens)] = end
    return row
