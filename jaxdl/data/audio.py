"""WAV files of any rate, width and number of channels as mono float32 at one rate, with NumPy alone.

Shapes: `n` samples in time, `C` channels.
"""

import io
import math
import struct
import tarfile
import wave
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from jaxdl.errors import UserError

_PCM, _FLOAT, _EXTENSIBLE = 1, 3, 0xFFFE
_LOBES = 32  # zero crossings of the sinc on either side
_KAISER_BETA = 9.0  # side lobes about 90 dB down
_PASSBAND = 0.945  # the cut-off as a share of the lower Nyquist frequency, so that the transition ends at it


def read_wav(path: str, rate: int = 8000) -> np.ndarray:
    """A WAV file as mono samples at `rate`.

    Understands 8, 16, 24 and 32 bit integers and 32 and 64 bit floats, plain or extensible, any number of channels
    (averaged) and any rate (see `resample`).

    Args:
      path: of the file.
      rate: wanted samples a second.

    Returns:
      float32 [n] in about -1 ... 1.

    Raises:
      UserError: there is no such file, it is no WAV file, is damaged or empty, or holds another encoding.
    """
    try:
        raw = Path(path).expanduser().read_bytes()
    except OSError as error:
        raise UserError(f"{path} cannot be read ({error.strerror}): give the path of a WAV file") from error
    try:
        samples, source_rate = decode_wav(raw)
    except ValueError as error:
        raise UserError(f"{path} is no whole WAV file: {error}; save it again as WAV with PCM samples") from error
    return resample(samples.mean(axis=1), source_rate, rate).astype(np.float32)


def decode_wav(raw: bytes) -> tuple[np.ndarray, int]:
    """The bytes of a WAV file as (float64 [n, C] in about -1 ... 1, samples a second).

    Raises:
      ValueError: the bytes are not a whole WAV file with PCM or float samples.
    """
    if len(raw) < 12 or raw[:4] != b"RIFF" or raw[8:12] != b"WAVE":
        raise ValueError("it does not begin with RIFF ... WAVE")
    chunks = _chunks(raw)
    if b"fmt " not in chunks or b"data" not in chunks:
        raise ValueError("its format or its data are missing")
    header = chunks[b"fmt "]
    if len(header) < 16:
        raise ValueError("its format is cut off")
    kind, channels, rate, _, block, bits = struct.unpack("<HHIIHH", header[:16])
    if kind == _EXTENSIBLE and len(header) >= 26:
        kind = struct.unpack("<H", header[24:26])[0]
    if not 1 <= channels <= 1024 or not 1 <= rate <= 1 << 24 or block != channels * (bits // 8):
        raise ValueError(f"{channels} channels of {bits} bits at {rate} Hz make no sense")
    data = chunks[b"data"]
    if len(data) < block:
        raise ValueError("it holds no samples")
    samples = _to_float(data[: len(data) // block * block], kind, bits).reshape(-1, channels)
    if not np.isfinite(samples).all():
        raise ValueError("some of its samples are not finite")
    return samples, rate


def wav_files(source: Path) -> Iterator[tuple[str, np.ndarray]]:
    """(name, samples int16 [n] of the first channel) of each WAV file in a folder or a tar archive, in order of names.

    Raises:
      UserError: the archive or one of the files is damaged, or there are none.
    """
    found: dict[str, bytes] = {}
    try:
        if source.is_dir():
            found = {path.name: path.read_bytes() for path in source.rglob("*.wav")}
        else:
            with tarfile.open(source) as archive:
                for member in archive:
                    file = archive.extractfile(member) if member.name.endswith(".wav") else None
                    if file is not None:
                        found[Path(member.name).name] = file.read()
    except (tarfile.TarError, EOFError, OSError) as error:
        raise UserError(f"{source} is not a whole archive of WAV files: {error}") from error
    if not found:
        raise UserError(f"{source} holds no WAV files")
    for name in sorted(found):
        try:
            samples, _ = decode_wav(found[name])
        except ValueError as error:
            raise UserError(f"{name} in {source} is no whole WAV file: {error}") from error
        yield name, np.rint(samples[:, 0] * 32768.0).astype(np.int16)


def encode_wav(samples: np.ndarray, rate: int = 8000) -> bytes:
    """Mono samples [n] in -1 ... 1 (others are clipped) as the bytes of a 16 bit WAV file."""
    values = np.clip(np.rint(np.asarray(samples, np.float64) * 32768.0), -32768, 32767).astype("<i2")
    buffer = io.BytesIO()
    with wave.open(buffer, "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(rate)
        file.writeframes(values.tobytes())
    return buffer.getvalue()


def resample(samples: np.ndarray, source_rate: int, rate: int) -> np.ndarray:
    """Band-limited interpolation: y(m / rate) = Σ_k x_k h(m · source_rate / rate - k), h a Kaiser-windowed sinc.

    With f = 0.945 min(1, rate / source_rate), h(t) = f sinc(f t) kaiser(f t / 32). With rate / source_rate = U / D in
    lowest terms there are only U different sets of taps (the phases of a polyphase filter), each scaled to the sum 1;
    every phase is one matrix product. Smith 1984, Digital audio resampling.

    Args:
      samples: [n].
      source_rate: of the samples, > 0.
      rate: wanted, > 0.

    Returns:
      float64 [⌈n · rate / source_rate⌉]; the signal counts as zero outside.
    """
    samples = np.asarray(samples, np.float64)
    if rate == source_rate:
        return samples
    divisor = math.gcd(rate, source_rate)
    up, down = rate // divisor, source_rate // divisor
    cutoff = _PASSBAND * min(1.0, rate / source_rate)
    half = math.ceil(_LOBES / cutoff)
    count = -(-len(samples) * up // down)
    padded = np.pad(samples, (half, half + down + 1))
    windows = np.lib.stride_tricks.sliding_window_view(padded, 2 * half + 1)
    result = np.empty(count)
    for phase in range(min(up, count)):
        first, offset = divmod(phase * down, up)
        distance = np.arange(-half, half + 1) - offset / up
        window = np.i0(_KAISER_BETA * np.sqrt(np.maximum(0.0, 1.0 - np.square(distance / half))))
        taps = np.sinc(cutoff * distance) * window
        wanted = len(range(phase, count, up))
        # outputs of one phase lie `down` input samples apart
        result[phase::up] = windows[first::down][:wanted] @ (taps / taps.sum())
    return result


def loudest_part(samples: np.ndarray, length: int) -> np.ndarray:
    """The `length` neighbouring samples of `samples` [n] with the most energy; all of them if n <= length."""
    if len(samples) <= length:
        return samples
    energy = np.concatenate([[0.0], np.cumsum(np.square(samples, dtype=np.float64))])
    start = int(np.argmax(energy[length:] - energy[:-length]))
    return samples[start : start + length]


def _chunks(raw: bytes) -> dict[bytes, bytes]:
    """The first chunk of each name after the RIFF header."""
    found: dict[bytes, bytes] = {}
    position = 12
    while position + 8 <= len(raw):
        name, size = struct.unpack("<4sI", raw[position : position + 8])
        position += 8
        if size > len(raw) - position:
            # a program that wrote to a pipe did not know the size
            if name != b"data" or size < 0x7FFFFF00:
                raise ValueError(f"it is cut off in the middle of its {name.decode('ascii', 'replace').strip()} part")
            size = len(raw) - position
        found.setdefault(name, raw[position : position + size])
        position += size + size % 2
    return found


def _to_float(data: bytes, kind: int, bits: int) -> np.ndarray:
    if kind == _FLOAT and bits in (32, 64):
        return np.frombuffer(data, f"<f{bits // 8}").astype(np.float64)
    if kind != _PCM or bits not in (8, 16, 24, 32):
        raise ValueError(f"samples of {bits} bits in encoding {kind} are not PCM or float")
    if bits == 8:
        return (np.frombuffer(data, np.uint8).astype(np.float64) - 128.0) / 128.0
    if bits == 24:
        # as the upper three bytes of 32 bit integers
        wide = np.zeros((len(data) // 3, 4), np.uint8)
        wide[:, 1:] = np.frombuffer(data, np.uint8).reshape(-1, 3)
        return wide.reshape(-1).view("<i4").astype(np.float64) / 2.0**31
    return np.frombuffer(data, f"<i{bits // 8}").astype(np.float64) / 2.0 ** (bits - 1)
