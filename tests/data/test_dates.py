import datetime
import re

import numpy as np
import pytest

from jaxdl.data.dates import FIRST, FORMATS, LAST, MONTHS, SIZES, SPECIAL, DatesConfig, generate, load_dates, ordinal
from jaxdl.errors import UserError

NAMES = [month.lower() for month in MONTHS]
ROMANS = ["i", "ii", "iii", "iv", "v", "vi", "vii", "viii", "ix", "x", "xi", "xii"]


@pytest.fixture(scope="module")
def dates():
    return load_dates(DatesConfig())


def parsed(text):
    """A reader of its own: a word or Roman numeral is the month, the number with four digits or behind it the year."""
    words = re.findall(r"[A-Za-z]+|\d+", re.sub(r"(\d)(st|nd|rd|th)\b", r"\1", text))
    numbers = [word for word in words if word.isdigit()]
    months = [w.lower() for w in words if not w.isdigit() and w.lower() not in ("the", "of")]
    months = [
        w
        for w in months
        if not any(
            w in (d, d[:3]) for d in ("monday", "tuesday", "wednesday", "thursday", "friday", "saturday", "sunday")
        )
    ]
    if len(numbers) == 1:
        return datetime.datetime.strptime(numbers[0], "%Y%m%d").date()
    if months:
        (month,) = months
        number = (
            ROMANS.index(month) + 1
            if month in ROMANS
            else next(i for i, n in enumerate(NAMES, 1) if n.startswith(month[:3]))
        )
    year = next((n for n in numbers if len(n) == 4), None)
    if months:
        day = int(numbers[1] if numbers[0] == year else numbers[0])
    elif "." in text:
        day, number = int(numbers[0]), int(numbers[1])
    else:
        number, day = int(numbers[1]), int(numbers[2])
    century = int(year) if year else int(numbers[-1]) + (1900 if int(numbers[-1]) >= 50 else 2000)
    return datetime.date(century, number, day)


def test_every_text_reads_back_as_the_date_it_stands_for(dates):
    for split, texts in dates.texts.items():
        for text, row in zip(texts, dates.splits[split]["target"], strict=True):
            assert parsed(text).isoformat() == dates.decode(row), text


def test_weekdays_are_those_of_the_calendar(dates):
    checked = 0
    for text, row in zip(dates.texts["train"], dates.splits["train"]["target"], strict=True):
        if match := re.match(r"([A-Z][a-z]+?day|Mon|Tue|Wed|Thu|Fri|Sat|Sun)\b", text):
            day = datetime.date.fromisoformat(dates.decode(row))
            assert day.strftime("%A").startswith(match.group(1))
            checked += 1
    assert checked > 1000


def test_no_text_stands_in_two_splits_or_means_two_days(dates):
    everything = [text for texts in dates.texts.values() for text in texts]
    assert len(everything) == len(set(everything)) == sum(SIZES.values())
    for split, size in SIZES.items():
        assert len(dates.texts[split]) == len(dates.splits[split]["source"]) == size


def test_all_formats_and_years_occur_about_equally(dates):
    counts = np.bincount(dates.splits["train"]["format"], minlength=len(FORMATS))
    assert counts.min() > 0.8 * counts.mean() and counts.max() < 1.2 * counts.mean()
    years = [dates.decode(row)[:4] for row in dates.splits["train"]["target"]]
    assert (min(years), max(years)) == ("1950", "2049") and len(set(years)) == 100


def test_the_formats_names_are_their_examples():
    day = datetime.date(2021, 3, 3)
    assert [write(day) for write in FORMATS.values()] == list(FORMATS)
    found = " ".join(ordinal(n) for n in (1, 2, 3, 4, 11, 12, 13, 21, 22, 23, 31))
    assert found == "1st 2nd 3rd 4th 11th 12th 13th 21st 22nd 23rd 31st"
    assert (LAST - FIRST).days == 36524


def test_the_set_is_the_same_everywhere_and_its_fingerprint_does_not_know_the_limit(dates):
    assert dates.fingerprint == "60905156b68f2b04281335277491fc6ebcad655980cb4ce2c80165ba809b6fbc"
    few = load_dates(DatesConfig(limit=10))
    assert few.fingerprint == dates.fingerprint and len(few.splits["train"]["source"]) == len(few.texts["train"]) == 10
    assert len(few.splits["test"]["source"]) == SIZES["test"]


def test_rows_hold_the_characters_the_end_and_padding(dates):
    source, target = (dates.splits["train"][name][0] for name in ("source", "target"))
    text = dates.texts["train"][0]
    assert "".join(dates.source.characters[n - SPECIAL] for n in source[: len(text)]) == text
    assert not source[len(text) :].any() and target[10] == 2 and dates.target_length == 11
    np.testing.assert_array_equal(dates.encode(text), source)


@pytest.mark.parametrize(
    ("text", "said"),
    [("3 März 2021", "'ä'"), ("", "empty"), ("   ", "empty"), ("3 March 2021 " * 9, "at most 31"), ("3/Março", "ç")],
)
def test_what_cannot_be_read_is_said_in_one_line(dates, text, said):
    with pytest.raises(UserError, match=said) as error:
        dates.encode(text, "--input")
    assert "--input" in str(error.value) and "\n" not in str(error.value)


def test_more_dates_than_can_be_written_are_refused():
    with pytest.raises(ValueError, match="tenth"):
        generate({"train": 10**6})
