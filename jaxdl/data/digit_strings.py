"""Connected digits: recordings of one voice after another with random gaps, levels, speed and noise.

For training a batch is a pure function of (key, step) inside the XLA program, so that no two are the same; validation
and test are generated once, from a fixed seed and only from recordings of their own split.

Shapes: `b` rows, `K` most digits of a string, `N` samples, `T` frames, `M` features.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct

from jaxdl.data.source import on_device
from jaxdl.data.spectrogram import (
    FeatureConfig,
    SpecAugmentConfig,
    features,
    frame_count,
    spec_augment,
    unit_power,
)
from jaxdl.settings import setting

Array = jax.Array
RATE = 8000
SILENCE = 10  # the class of frames without a digit, and the number of CTC's blank
_LEVEL = 0.05  # root mean square of generated evaluation strings


def _check_range(name: str, values: tuple[float, ...]) -> None:
    if len(values) != 2 or values[0] > values[1]:
        raise ValueError(f"{name} needs two numbers, the lower one first, got {', '.join(f'{v:g}' for v in values)}")


@dataclasses.dataclass(frozen=True)
class StringConfig:
    """How digits are strung together."""

    least: int = setting(3, "fewest digits", minimum=1, maximum=20)
    most: int = setting(7, "most digits", minimum=1, maximum=20)
    gap: tuple[float, ...] = setting((0.05, 0.25), "shortest and longest silence around digits in seconds", minimum=0.0)
    seconds: float = setting(5.0, "longest string; of a longer one the last digits are left out", minimum=0.5)
    snr: tuple[float, ...] = setting((10.0, 30.0), "lowest and highest ratio of speech to white noise in decibels")
    level: float = setting(3.0, "a digit is louder or softer by up to so many decibels", minimum=0.0)
    speed: float = setting(0.1, "training: speech is faster or slower by up to this share", minimum=0.0, maximum=0.5)
    evaluated: int = setting(500, "strings of the validation and of the test set", minimum=1)

    def __post_init__(self):
        if self.least > self.most:
            raise ValueError(f"least={self.least} digits are more than most={self.most}")
        _check_range("gap", self.gap)
        _check_range("snr", self.snr)


@dataclasses.dataclass(frozen=True)
class VariationConfig:
    """How much single recordings are changed at random in training."""

    speed: float = setting(0.1, "speech is faster or slower by up to this share", minimum=0.0, maximum=0.5)
    snr: tuple[float, ...] = setting((15.0, 40.0), "lowest and highest ratio of speech to white noise in decibels")

    def __post_init__(self):
        _check_range("snr", self.snr)


@dataclasses.dataclass(frozen=True)
class SpeechTransform:
    """Waves to features inside the program; a static, hashable part of it.

    Replaces "wave" [b, N] (int16 or float) and "samples" [b] by "speech" [b, T, M] and "frames" [b]. Where rows have
    "begin" and "end" [b, K] of their "digits" [b, K], adds "alignment" [b, T]: the digit under the middle of each frame,
    or SILENCE.

    Attributes:
      front_end: which features.
      mask: what training hides of them; None for evaluation.
      vary: training on single recordings: their speed and noise; None: they stay as they are.
    """

    front_end: FeatureConfig
    mask: SpecAugmentConfig | None = None
    vary: VariationConfig | None = None

    def __call__(self, batch: dict[str, Array], keys: Array) -> dict[str, Array]:
        """See the class; `keys` [b] are used for augmentation only."""
        wave, samples = batch["wave"].astype(jnp.float32) / 32768.0, batch["samples"]
        vary = self.vary
        if vary is not None:
            wave, samples = jax.vmap(lambda *row: varied(row[0], row[1], row[2], vary))(wave, samples, _stream(keys, 2))
        window, hop = self.front_end.window, self.front_end.hop
        speech = features(unit_power(wave, samples), self.front_end, RATE)
        frames = frame_count(samples, window, hop)
        if self.mask is not None:
            speech = spec_augment(speech, frames, _stream(keys, 3), self.mask)
        others = {name: value for name, value in batch.items() if name not in ("wave", "samples")}
        batch = {**others, "speech": speech, "frames": frames}
        if "begin" in others:
            middle = hop * jnp.arange(speech.shape[1]) + window // 2
            others["alignment"] = aligned(others["digits"], others.pop("begin"), others.pop("end"), middle)
        return {**others, "speech": speech, "frames": frames}


@struct.dataclass
class ConnectedDigits:
    """Training strings, made inside the program from recordings that lie on the device.

    Attributes:
      arrays: "wave" [m], and for each of n recordings "start", "length", "label", and "first" and "count" of its voice's
        recordings, which stand together. Make it with `ConnectedDigits.of`.
      size: n.
      batch_size: B.
      strings: how they are made.
      transform: what is done to them.
    """

    arrays: dict[str, Array]
    size: int = struct.field(pytree_node=False)
    batch_size: int = struct.field(pytree_node=False)
    strings: StringConfig = struct.field(pytree_node=False)
    transform: SpeechTransform = struct.field(pytree_node=False)

    @classmethod
    def of(
        cls, recordings: Mapping[str, Any], batch_size: int, strings: StringConfig, transform: SpeechTransform
    ) -> "ConnectedDigits":
        """From one of `Recordings.splits`."""
        arrays = {name: on_device(value) for name, value in by_voice(recordings).items()}
        return cls(arrays, len(recordings["label"]), batch_size, strings, transform)

    @property
    def num_batches(self) -> int:
        """Batches that hold as many strings as there are recordings: ceil(n / B)."""
        return -(-self.size // self.batch_size)

    def batch(self, step: Array | int, key: Array, shard: Array | int = 0, shards: int = 1) -> dict[str, Array]:
        """Shard `shard` of `shards` of batch `step`; each row depends on `key`, `step` and its number alone.

        Returns:
          "speech" [b, T, M], "frames" [b], "digits" [b, K] (-1 behind the last), "count" [b], "alignment" [b, T], "mask"
          and "row" [b].

        Raises:
          ValueError: B cannot be divided by `shards`.
        """
        if self.batch_size % shards:
            raise ValueError(f"a batch of {self.batch_size} examples cannot be split evenly over {shards} devices")
        count = self.batch_size // shards
        rows = jnp.asarray(shard, jnp.int32) * count + jnp.arange(count, dtype=jnp.int32)
        keys = jax.vmap(jax.random.fold_in, (None, 0))(jax.random.fold_in(key, step), rows)
        made = jax.vmap(lambda key: composed(self.arrays, key, self.strings))(keys)
        return self.transform({**made, "mask": jnp.ones(rows.shape, jnp.float32), "row": rows}, keys)

    def stage(self, step: int, count: int, key: Array) -> "ConnectedDigits":
        """Itself: all recordings are there already."""
        del step, count, key
        return self


def by_voice(recordings: Mapping[str, Any]) -> dict[str, np.ndarray]:
    """Recordings in the order of their voices, with "first" and "count" [n] of each one's voice."""
    voice = np.asarray(recordings["voice"])
    order = np.argsort(voice, kind="stable")
    found = {name: np.asarray(recordings[name])[order] for name in ("start", "length", "label")}
    first = np.searchsorted(voice[order], voice[order]).astype(np.int32)
    count = np.bincount(voice)[voice[order]].astype(np.int32)
    return {"wave": np.asarray(recordings["wave"]), **found, "first": first, "count": count}


def composed(arrays: Mapping[str, Array], key: Array, config: StringConfig) -> dict[str, Array]:
    """One random string: "wave" [N] float32 on the scale of int16, "samples", "digits", "begin", "end" [K], "count".

    Args:
      arrays: see `ConnectedDigits`.
      key: used for voice (that of a recording drawn uniformly), digits, gaps, levels, speed and noise.
      config: their ranges.
    """
    most, total = config.most, round(config.seconds * RATE)
    drawn = jax.random.uniform(_draw(key, 0), (4, most + 1))
    someone = (drawn[0, -1] * arrays["label"].shape[0]).astype(jnp.int32)
    chosen = arrays["first"][someone] + (drawn[0, :-1] * arrays["count"][someone]).astype(jnp.int32)
    speed = 1.0 + config.speed * (2.0 * drawn[1, -1] - 1.0)
    lengths = jnp.floor(arrays["length"][chosen] / speed).astype(jnp.int32)
    gaps = jnp.floor((config.gap[0] + (config.gap[1] - config.gap[0]) * drawn[2]) * RATE).astype(jnp.int32)
    begin = jnp.cumsum(gaps[:-1]) + jnp.cumsum(lengths) - lengths
    wanted = config.least + jnp.floor(drawn[1, 0] * (most - config.least + 1)).astype(jnp.int32)
    used = (jnp.arange(most) < wanted) & (begin + lengths + gaps[1:] <= total)
    count = used.sum()
    level = 10.0 ** (config.level * (2.0 * drawn[3, :-1] - 1.0) / 20.0)
    place = jnp.arange(total) - begin[:, None]
    inside = (place >= 0) & (place < lengths[:, None]) & used[:, None]
    # digits do not overlap: a sum over them chooses one
    position = jnp.where(inside, place * speed, 0.0).sum(axis=0)
    start = jnp.where(inside, arrays["start"][chosen][:, None], 0).sum(axis=0)
    gain = jnp.where(inside, level[:, None], 0.0).sum(axis=0)
    wave = gain * interpolated(arrays["wave"], start, position)
    end = (begin + lengths) * used
    samples = jnp.max(jnp.where(used, end + gaps[1:], 0))
    wave = noisy(wave, inside.any(axis=0), samples, config.snr, _draw(key, 1))
    digits = jnp.where(used, arrays["label"][chosen], -1)
    return {"wave": wave, "samples": samples, "digits": digits, "begin": begin * used, "end": end, "count": count}


def varied(wave: Array, samples: Array, key: Array, config: VariationConfig) -> tuple[Array, Array]:
    """A single recording [N] of `samples` samples at another speed and with noise; both drawn from `key`."""
    drawn = jax.random.uniform(_draw(key, 0))
    # slower speech must still fit
    speed = jnp.maximum(1.0 + config.speed * (2.0 * drawn - 1.0), samples / wave.shape[0])
    length = jnp.maximum(jnp.floor(samples / speed).astype(jnp.int32), 1)
    place = jnp.arange(wave.shape[0])
    inside = place < length
    played = jnp.where(inside, interpolated(wave, jnp.zeros_like(place), place * (samples / length)), 0.0)
    return noisy(played, inside, length, config.snr, _draw(key, 1)), length


def interpolated(wave: Array, start: Array, position: Array) -> Array:
    """wave [m] at start + position, int [N] and float [N] (apart, because float32 cannot count to m), linearly."""
    whole = jnp.floor(position)
    left = start + whole.astype(jnp.int32)
    right = jnp.minimum(left + 1, wave.shape[0] - 1)
    share = position - whole
    return (1.0 - share) * wave[left].astype(jnp.float32) + share * wave[right].astype(jnp.float32)


def noisy(wave: Array, speech: Array, samples: Array, snr: tuple[float, ...], key: Array) -> Array:
    """A recording with white noise in its first `samples`, by a drawn number of decibels below the power of its speech.

    Args:
      wave: [N] float32.
      speech: [N] bool, where there is speech: its power is the mean square there.
      samples: int32 scalar; behind so many nothing is added.
      snr: lowest and highest ratio of speech to noise in decibels.
      key: used for the ratio, uniform between these two, and for the noise, which is uniform too.

    Returns:
      [N] float32.
    """
    power = jnp.where(speech, jnp.square(wave), 0.0).sum() / jnp.maximum(speech.sum(), 1)
    ratio = snr[0] + (snr[1] - snr[0]) * jax.random.uniform(_draw(key, 0))
    scale = jnp.sqrt(3.0 * power) * 10.0 ** (-ratio / 20.0)
    # uniform in -√3 ... √3 times its deviation, from 16 bits: a quarter of the cost of normal deviates
    bits = jax.random.bits(_draw(key, 1), wave.shape, jnp.uint16).astype(jnp.float32)
    return wave + jnp.where(jnp.arange(wave.shape[0]) < samples, scale * (bits / 32767.5 - 1.0), 0.0)


def with_fixed_noise(wave: np.ndarray, samples: np.ndarray, snr: float, seed: int = 0) -> np.ndarray:
    """Recordings int16 [n, N] of `samples` [n] each with white Gaussian noise `snr` decibels below them, always the same."""
    random = np.random.RandomState(seed)
    inside = np.arange(wave.shape[1]) < np.asarray(samples)[:, None]
    clean = np.where(inside, np.asarray(wave, np.float64), 0.0)
    power = np.square(clean).sum(axis=1, keepdims=True) / np.maximum(inside.sum(axis=1, keepdims=True), 1)
    clean *= _LEVEL * 32768.0 / np.sqrt(np.maximum(power, 1e-6))
    noise = _LEVEL * 32768.0 * 10.0 ** (-snr / 20.0) * random.standard_normal(clean.shape)
    return np.clip(np.rint(clean + np.where(inside, noise, 0.0)), -32768, 32767).astype(np.int16)


def fixed_strings(recordings: Mapping[str, Any], count: int, config: StringConfig, seed: int) -> dict[str, np.ndarray]:
    """`count` strings that never change, without changes of speed; in NumPy, from its legacy stream.

    Args:
      recordings: one of `Recordings.splits`; nothing else is used.
      count: n.
      config: ranges of digits, gaps, levels and noise.
      seed: another one for each split.

    Returns:
      "wave" [n, N] int16, "samples" [n], "digits" [n, K] int32 (-1 behind the last), "begin" and "end" [n, K], "count" [n].
    """
    random = np.random.RandomState(seed)
    arrays, total = by_voice(recordings), round(config.seconds * RATE)
    shape = (count, config.most)
    made: dict[str, np.ndarray] = {
        "wave": np.zeros((count, total), np.int16),
        "samples": np.zeros(count, np.int32),
        "digits": np.full(shape, -1, np.int32),
        "begin": np.zeros(shape, np.int32),
        "end": np.zeros(shape, np.int32),
        "count": np.zeros(count, np.int32),
    }
    for row in range(count):
        someone = random.randint(len(arrays["label"]))
        wave, used = np.zeros(total), np.zeros(total, bool)
        end, wanted = 0, random.randint(config.least, config.most + 1)
        for k in range(wanted):
            one = arrays["first"][someone] + random.randint(arrays["count"][someone])
            begin = end + int(RATE * random.uniform(config.gap[0], config.gap[1]))
            level = 10.0 ** (random.uniform(-config.level, config.level) / 20.0)
            end_of_digit = begin + int(arrays["length"][one])
            if end_of_digit + int(RATE * config.gap[1]) > total:
                break
            end = end_of_digit
            wave[begin:end] = (
                level * arrays["wave"][arrays["start"][one] : arrays["start"][one] + arrays["length"][one]]
            )
            used[begin:end] = True
            made["digits"][row, k], made["begin"][row, k], made["end"][row, k] = arrays["label"][one], begin, end
            made["count"][row] = k + 1
        samples = end + int(RATE * random.uniform(config.gap[0], config.gap[1]))
        if used.any():  # of a string that is too short for its first digit only noise is left
            wave *= _LEVEL * 32768.0 / max(np.sqrt(np.square(wave[used]).mean()), 1e-3)
        noise = _LEVEL * 32768.0 * 10.0 ** (-random.uniform(config.snr[0], config.snr[1]) / 20.0) * 3.0**0.5
        wave[:samples] += noise * random.uniform(-1.0, 1.0, samples)
        made["wave"][row] = np.clip(np.rint(wave), -32768, 32767)
        made["samples"][row] = samples
    return made


def aligned(digits: Array, begin: Array, end: Array, places: Array) -> Array:
    """The digit [b, T] at samples `places` [T] of strings whose digits [b, K] lie in begin ... end - 1, else SILENCE."""
    inside = (places >= begin[..., None]) & (places < end[..., None])
    return SILENCE + jnp.where(inside, digits[..., None] - SILENCE, 0).sum(axis=1)


def _draw(key: Array, number: int) -> Array:
    return jax.random.fold_in(key, number)


def _stream(keys: Array, number: int) -> Array:
    return jax.vmap(jax.random.fold_in, (0, None))(keys, number)
