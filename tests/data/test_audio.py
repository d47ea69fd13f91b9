"""WAV files of every kind against samples written here by hand; resampling against sines and SciPy."""

import struct
import wave

import numpy as np
import pytest

from jaxdl.data.audio import decode_wav, encode_wav, loudest_part, read_wav, resample
from jaxdl.errors import UserError

RATE = 8000


def sine(hertz, rate, seconds=0.5, amplitude=0.5):
    return amplitude * np.sin(2 * np.pi * hertz * np.arange(round(rate * seconds)) / rate)


def packed(samples, bits):
    """Samples [n, C] in -1 ... 1 as bytes of a PCM WAV's data."""
    if bits == 8:
        return np.rint(samples * 127 + 128).astype(np.uint8).tobytes()
    whole = np.rint(samples * (2 ** (bits - 1) - 1)).astype("<i4")
    return whole.reshape(-1, 1).view(np.uint8)[:, : bits // 8].tobytes()


def riff(*chunks):
    body = b"".join(name + struct.pack("<I", len(data)) + data + b"\0" * (len(data) % 2) for name, data in chunks)
    return b"RIFF" + struct.pack("<I", 4 + len(body)) + b"WAVE" + body


def header(kind, channels, rate, bits):
    return struct.pack("<HHIIHH", kind, channels, rate, rate * channels * bits // 8, channels * bits // 8, bits)


@pytest.mark.parametrize("bits", [8, 16, 24, 32])
@pytest.mark.parametrize("channels", [1, 2, 5])
def test_pcm_of_every_width_and_channel_count_comes_back(tmp_path, bits, channels):
    mono = sine(440.0, RATE)
    # what the channels differ by must vanish in their mean
    others = np.linspace(-0.3, 0.3, channels) if channels > 1 else np.zeros(1)
    path = tmp_path / "tone.wav"
    with wave.open(str(path), "wb") as file:
        file.setnchannels(channels)
        file.setsampwidth(bits // 8)
        file.setframerate(RATE)
        file.writeframes(packed(mono[:, None] + others, bits))
    found = read_wav(str(path), RATE)
    assert found.dtype == np.float32 and found.shape == mono.shape
    np.testing.assert_allclose(found, mono, atol=1.5 * 2.0 ** (1 - bits) + 1e-7)


@pytest.mark.parametrize("bits", [32, 64])
def test_float_and_extensible_files_with_other_chunks_are_read(bits):
    samples = sine(200.0, RATE).astype(f"<f{bits // 8}")
    plain = riff((b"fmt ", header(3, 1, RATE, bits)), (b"data", samples.tobytes()))
    extension = struct.pack("<HHIH", 22, bits, 4, 3) + b"\0" * 14
    longer = riff((b"LIST", b"odd"), (b"fmt ", header(0xFFFE, 1, RATE, bits) + extension), (b"data", samples.tobytes()))
    for raw in (plain, longer):
        found, rate = decode_wav(raw)
        assert rate == RATE
        np.testing.assert_array_equal(found[:, 0], samples)


def test_what_is_encoded_is_read_again():
    samples = sine(300.0, RATE)
    found, rate = decode_wav(encode_wav(samples))
    assert rate == RATE
    np.testing.assert_allclose(found[:, 0], samples, atol=2.0**-16)


def test_a_file_written_to_a_pipe_has_no_size_and_is_read_to_its_end():
    raw = bytearray(encode_wav(sine(300.0, RATE)))
    at = raw.index(b"data") + 4
    raw[at : at + 4] = struct.pack("<I", 0xFFFFFFFF)
    assert len(decode_wav(bytes(raw))[0]) == 4000


@pytest.mark.parametrize(
    ("name", "raw", "said"),
    [
        ("noise", b"not a wav file at all", "RIFF"),
        ("empty", b"", "RIFF"),
        ("cut", encode_wav(sine(300.0, RATE))[:1000], "cut off"),
        ("headerless", riff((b"data", b"\0" * 8)), "missing"),
        ("silent", riff((b"fmt ", header(1, 1, RATE, 16)), (b"data", b"")), "no samples"),
        ("compressed", riff((b"fmt ", header(2, 1, RATE, 8)), (b"data", b"\0" * 8)), "not PCM"),
        ("impossible", riff((b"fmt ", header(1, 0, RATE, 16)), (b"data", b"\0" * 8)), "no sense"),
        ("short", riff((b"fmt ", b"\1\0"), (b"data", b"\0" * 8)), "cut off"),
        ("infinite", riff((b"fmt ", header(3, 1, RATE, 32)), (b"data", struct.pack("<f", np.inf))), "finite"),
    ],
)
def test_a_corrupt_file_gives_one_clear_line(tmp_path, name, raw, said):
    path = tmp_path / f"{name}.wav"
    path.write_bytes(raw)
    with pytest.raises(UserError, match=said) as caught:
        read_wav(str(path))
    assert str(path) in str(caught.value) and "\n" not in str(caught.value)


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(UserError, match="nowhere.wav"):
        read_wav(str(tmp_path / "nowhere.wav"))


@pytest.mark.parametrize("rate", [8000, 11025, 16000, 22050, 44100, 48000, 4000])
def test_resampling_keeps_a_sines_frequency_amplitude_and_phase(rate):
    hertz = 1234.5
    found = resample(sine(hertz, rate, seconds=1.0), rate, RATE)
    assert len(found) == RATE
    # away from the edges, where the signal does not begin from zero
    np.testing.assert_allclose(found[400:-400], sine(hertz, RATE, seconds=1.0)[400:-400], atol=1e-4)


def test_resampling_takes_away_what_would_alias():
    found = resample(sine(5000.0, 16000, seconds=1.0), 16000, RATE)
    assert np.abs(found[400:-400]).max() < 1e-4
    # 5 kHz would come back as 3 kHz without a filter
    assert np.abs(sine(5000.0, 16000, seconds=1.0)[::2]).max() > 0.4


def test_resampling_agrees_with_scipy_on_a_band_limited_signal():
    signal = pytest.importorskip("scipy.signal", reason="SciPy is the oracle")
    rate = 44100
    x = sum(sine(hertz, rate, amplitude=0.2) for hertz in (150.0, 900.0, 2500.0)) * np.hanning(rate // 2)
    theirs = signal.resample_poly(x, 80, 441, window=("kaiser", 12.0))
    np.testing.assert_allclose(resample(x, rate, RATE), theirs, atol=2e-3)


def test_the_loudest_part_is_found():
    samples = np.concatenate([np.zeros(100), np.ones(20), np.zeros(300)])
    found = loudest_part(samples, 20)
    np.testing.assert_array_equal(found, np.ones(20))
    np.testing.assert_array_equal(loudest_part(samples, 500), samples)
