"""Tone digits, the split rule, and strings of digits: made again alike, from their own recordings, in their places."""

import dataclasses
import functools
import os
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxdl.data import speech
from jaxdl.data.digit_strings import (
    SILENCE,
    ConnectedDigits,
    SpeechTransform,
    StringConfig,
    VariationConfig,
    aligned,
    composed,
    fixed_strings,
    varied,
)
from jaxdl.data.spectrogram import FeatureConfig, SpecAugmentConfig
from jaxdl.data.speech import SpeechConfig, check_labels, joined, load, split_of
from jaxdl.data.tones import TAKES, VOICES, tone_digits
from jaxdl.errors import UserError

SHARED = pathlib.Path(
    os.environ.get("JAXDL_TEST_DATA", pathlib.Path(__file__).resolve().parents[3] / "shared" / "data")
)
QUIET = StringConfig(least=2, most=4, gap=(0.05, 0.1), seconds=1.5, snr=(200.0, 200.0), level=0.0, speed=0.0)


@pytest.fixture(scope="module")
def tones():
    return load(SpeechConfig())


def made_up(count=12, voices=2):
    """Recordings that say which they are: number i holds i + 1 everywhere, or nothing but that in its middle."""
    waves = [np.full(1000 + 40 * i, 100 * (i + 1), np.int16) for i in range(count)]
    return joined(waves, np.arange(count) % 10, np.arange(count) % voices, 8000)


@functools.partial(jax.jit, static_argnums=2)
def _string(arrays, key, config):
    return composed(arrays, key, config)


def string_of(source, seed, config):
    """One string of a training source, as NumPy arrays."""
    return {name: np.asarray(value) for name, value in _string(source.arrays, jax.random.key(seed), config).items()}


def test_the_tone_digits_are_always_the_same():
    first, second = tone_digits(), tone_digits()
    for split, arrays in first.items():
        for name, array in arrays.items():
            np.testing.assert_array_equal(array, second[split][name])
        assert len(arrays["label"]) == 10 * VOICES * TAKES[split]
        assert np.all(np.bincount(arrays["label"]) == VOICES * TAKES[split])
        assert arrays["wave"].dtype == np.int16 and len(arrays["wave"]) == arrays["length"].sum()
    # as every machine makes them: sines come from a table, all else is exact arithmetic
    assert load(SpeechConfig()).fingerprint[:16] == FINGERPRINT


FINGERPRINT = "1d7e8de39f1896d5"


def test_a_limit_keeps_the_first_training_recordings_and_all_others(tones):
    few = load(SpeechConfig(limit=30))
    assert len(few.splits["train"]["label"]) == 30
    np.testing.assert_array_equal(few.splits["train"]["label"], tones.splits["train"]["label"][:30])
    np.testing.assert_array_equal(few.padded("train")["wave"], tones.padded("train")["wave"][:30, : few.longest])
    np.testing.assert_array_equal(few.splits["test"]["wave"], tones.splits["test"]["wave"])
    assert few.fingerprint == tones.fingerprint


@pytest.mark.parametrize(
    ("file", "split"),
    [("3_theo_0.wav", "test"), ("3_theo_4.wav", "test"), ("0_jackson_5.wav", "validation"), ("9_x_9.wav", "validation"),
     ("7_george_10.wav", "train"), ("1_nicolas_49.wav", "train")],
)  # fmt: skip
def test_a_recordings_name_decides_its_split(file, split):
    assert split_of(file) == split


def test_a_name_without_a_take_and_a_label_out_of_range_are_said_clearly():
    with pytest.raises(UserError, match="seven.wav"):
        split_of("seven.wav")
    with pytest.raises(UserError, match=r"label 10 of example 2 is outside 0 ... 9"):
        check_labels(np.array([0, 9, 10]), 10, "my recordings")
    with pytest.raises(UserError, match="label -1"):
        check_labels([-1], 10, "my recordings")


def test_an_unprepared_set_names_the_command(tmp_path):
    with pytest.raises(UserError, match=r"experiments.prepare --dataset=spoken_digit"):
        load(SpeechConfig(name="spoken_digit", dir=str(tmp_path)))


def test_spoken_digit_has_the_official_test_split(monkeypatch, tmp_path):
    if not (SHARED / "spoken_digit").exists():
        pytest.skip(f"spoken_digit is not in {SHARED}")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    found = load(SpeechConfig(name="spoken_digit", dir=str(SHARED)))
    assert {split: len(arrays["label"]) for split, arrays in found.splits.items()} == {
        "train": 2000,
        "validation": 250,
        "test": 250,
    }
    for arrays in found.splits.values():
        # as many takes of each digit by each of the five speakers
        pairs = np.bincount(arrays["label"] * 5 + arrays["voice"], minlength=50)
        assert len(set(pairs)) == 1
    again = load(SpeechConfig(name="spoken_digit", dir=str(SHARED)))  # from the cache
    assert again.fingerprint == found.fingerprint
    np.testing.assert_array_equal(again.splits["test"]["wave"], found.splits["test"]["wave"])


def test_long_recordings_lose_their_quiet_part():
    wave = np.concatenate([np.zeros(300), np.full(100, 9), np.zeros(100)]).astype(np.int16)
    found = joined([wave, wave[:50]], np.array([1, 2]), np.array([0, 0]), 100)
    assert found["length"].tolist() == [100, 50] and found["start"].tolist() == [0, 100]
    assert (found["wave"][:100] == 9).all()


def test_fixed_strings_hold_their_own_recordings_where_they_say(tones):
    recordings = made_up()
    made = fixed_strings(recordings, 20, QUIET, seed=3)
    again = fixed_strings(recordings, 20, QUIET, seed=3)
    for name, array in made.items():
        np.testing.assert_array_equal(array, again[name])
    assert set(made["count"]) == {2, 3, 4}
    for row in range(20):
        count, wave = made["count"][row], made["wave"][row].astype(float)
        begin, end = made["begin"][row, :count], made["end"][row, :count]
        numbers = (end - begin - 1000) // 40
        np.testing.assert_array_equal(made["digits"][row, :count], recordings["label"][numbers])
        assert len(set(recordings["voice"][numbers])) == 1
        assert all(np.ptp(wave[a:b]) <= 1 for a, b in zip(begin, end, strict=True))
        # one voice, whose recordings keep their relative levels
        np.testing.assert_allclose(wave[begin] / (numbers + 1), wave[begin[0]] / (numbers[0] + 1), rtol=0.05)
        assert (made["digits"][row, count:] == -1).all()
        used = np.zeros(len(wave), bool)
        for begin, end in zip(made["begin"][row], made["end"][row], strict=True):
            used[begin:end] = True
        assert not wave[~used].any() and made["samples"][row] <= len(wave)
    assert not np.array_equal(fixed_strings(recordings, 20, QUIET, seed=4)["digits"], made["digits"])


def test_a_composed_string_is_its_recordings_in_their_places():
    recordings = made_up()
    source = ConnectedDigits.of(recordings, 8, QUIET, SpeechTransform(FeatureConfig()))
    arrays = {name: np.asarray(value) for name, value in source.arrays.items()}
    seen = set()
    for seed in range(12):
        made = string_of(source, seed, QUIET)
        count = int(made["count"])
        seen.add(count)
        voices = set()
        expected = np.zeros(len(made["wave"]))
        for k in range(count):
            begin, end = int(made["begin"][k]), int(made["end"][k])
            number = int(np.flatnonzero(arrays["length"] == end - begin)[0])
            voices.add(int(arrays["first"][number]))
            assert arrays["label"][number] == made["digits"][k]
            expected[begin:end] = arrays["wave"][arrays["start"][number]]
        np.testing.assert_allclose(made["wave"], expected, atol=0.1)
        assert len(voices) == 1 and (made["digits"][count:] == -1).all()
        assert made["end"][count - 1] <= made["samples"] <= len(made["wave"])
    assert seen == {2, 3, 4}


def test_speed_and_noise_are_what_they_are_said_to_be():
    recordings = made_up()
    config = StringConfig(least=3, most=3, gap=(0.05, 0.1), seconds=2.0, snr=(10.0, 10.0), level=0.0, speed=0.3)
    source = ConnectedDigits.of(recordings, 8, config, SpeechTransform(FeatureConfig()))
    lengths = set()
    for seed in range(6):
        made = string_of(source, seed, config)
        place = np.arange(len(made["wave"]))
        spoken = ((place >= made["begin"][:, None]) & (place < made["end"][:, None])).any(axis=0)
        silent = ~spoken & (place < made["samples"])
        parts = [made["wave"][a:b] for a, b in zip(made["begin"], made["end"], strict=True)]
        clean = np.concatenate([np.full(len(part), part.mean()) for part in parts])
        ratio = 10 * np.log10(np.square(clean).mean() / np.square(made["wave"][silent]).mean())
        assert ratio == pytest.approx(10.0, abs=0.7)
        assert not made["wave"][made["samples"] :].any()
        lengths |= set((made["end"] - made["begin"]).tolist())
    assert not lengths <= set(recordings["length"].tolist())


def test_batches_do_not_depend_on_the_number_of_devices(tones):
    transform = SpeechTransform(FeatureConfig(), SpecAugmentConfig(bands=1, stretches=1))
    source = ConnectedDigits.of(tones.splits["train"], 4, StringConfig(seconds=2.0), transform)
    key = jax.random.key(5)
    batch = jax.jit(source.batch, static_argnums=3)
    whole = batch(7, key, 0, 1)
    parts = [batch(7, key, shard, 2) for shard in range(2)]
    for name, value in whole.items():
        np.testing.assert_allclose(value, np.concatenate([part[name] for part in parts]), atol=1e-5, err_msg=name)
    other = batch(8, key, 0, 1)
    assert not np.array_equal(other["digits"], whole["digits"])
    with pytest.raises(ValueError, match="evenly"):
        source.batch(0, key, 0, 3)


def test_varied_recordings_stay_within_their_array():
    wave = jnp.asarray(np.sin(np.arange(400) / 5.0), jnp.float32)
    vary = jax.jit(lambda samples, key: varied(wave, samples, key, VariationConfig(0.3, (300.0, 300.0))))
    lengths = set()
    for seed in range(8):
        for samples in (400, 300):
            out, length = vary(jnp.int32(samples), jax.random.key(seed))
            count = int(length)
            assert 1 <= count <= 400 and not np.asarray(out)[count:].any()
            truth = np.interp(np.arange(count) * (samples / count), np.arange(400), np.asarray(wave))
            np.testing.assert_allclose(np.asarray(out)[:count], truth, atol=1e-3)
            lengths.add(count)
    assert min(lengths) < 260 and max(lengths) == 400


def test_frames_are_aligned_with_the_digit_under_their_middle():
    digits, begin, end = jnp.array([[4, 7, -1]]), jnp.array([[10, 40, 0]]), jnp.array([[20, 60, 0]])
    found = aligned(digits, begin, end, jnp.array([0, 9, 10, 19, 20, 40, 59, 60, 99]))
    assert np.asarray(found[0]).tolist() == [SILENCE, SILENCE, 4, 4, SILENCE, 7, 7, SILENCE, SILENCE]


def test_the_transform_gives_features_frames_and_alignment():
    made = fixed_strings(made_up(), 3, QUIET, seed=0)
    batch = {name: jnp.asarray(value) for name, value in made.items()} | {"row": jnp.arange(3)}
    found = SpeechTransform(FeatureConfig())(batch, jax.random.split(jax.random.key(0), 3))
    assert set(found) == {"speech", "frames", "digits", "count", "alignment", "row"}
    assert found["speech"].shape == (3, 1 + (12000 - 200) // 80, 40)
    np.testing.assert_array_equal(found["frames"], 1 + (made["samples"] - 200) // 80)
    for row in range(3):
        labels = np.asarray(found["alignment"][row])
        spoken = labels[(labels != SILENCE) & (np.concatenate([[-1], labels[:-1]]) == SILENCE)]
        assert spoken.tolist() == made["digits"][row, : made["count"][row]].tolist()


def test_the_rate_is_the_same_everywhere():
    from jaxdl.data import digit_strings, tones

    assert speech.RATE == digit_strings.RATE == tones.RATE == 8000


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"least": 9, "most": 3}, "least=9 digits are more than most=3"),
        ({"gap": (0.1,)}, "gap needs two numbers, the lower one first, got 0.1"),
        ({"snr": (30.0, 10.0)}, "snr needs two numbers, the lower one first, got 30, 10"),
    ],
)
def test_ranges_of_strings_are_checked(changes, said):
    with pytest.raises(ValueError, match=f"^{said}$"):
        StringConfig(**changes)


def test_a_string_too_short_for_a_digit_is_noise(tones):
    config = dataclasses.replace(QUIET, seconds=0.1, gap=(0.05, 0.05), snr=(20.0, 20.0))
    made = fixed_strings(tones.splits["train"], 3, config, 0)
    assert not made["count"].any() and (made["digits"] == -1).all()
    assert 0 < np.abs(made["wave"].astype(int)).max() < 3000
