"""STFT, mel bands and cepstra against SciPy and NumPy written out; the laws of SpecAugment and of padding."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxdl.data.spectrogram import (
    FeatureConfig,
    SpecAugmentConfig,
    features,
    frame_count,
    framed,
    log_mel,
    mel_filterbank,
    mfcc,
    power_spectrum,
    spec_augment,
    stft,
    unit_power,
)

RATE = 8000
CONFIG = FeatureConfig()


@pytest.fixture(scope="module")
def waves():
    return np.random.default_rng(0).normal(size=(2, 1000)).astype(np.float32)


@pytest.mark.parametrize(("window", "hop"), [(200, 80), (256, 128), (100, 100), (64, 100)])
def test_stft_equals_a_sum_over_each_window(waves, window, hop):
    size = 2 ** int(np.ceil(np.log2(window)))
    found = np.asarray(stft(waves, window, hop))
    count = 1 + (1000 - window) // hop
    assert found.shape == (2, count, size // 2 + 1) and int(frame_count(jnp.int32(1000), window, hop)) == count
    n = np.arange(window)
    hann = 0.5 - 0.5 * np.cos(2 * np.pi * n / window)
    basis = np.exp(-2j * np.pi * np.outer(n, np.arange(size // 2 + 1)) / size)
    truth = [[(hann * wave[t * hop : t * hop + window]) @ basis for t in range(count)] for wave in waves]
    np.testing.assert_allclose(found, truth, atol=2e-4)


def test_stft_equals_scipy(waves):
    signal = pytest.importorskip("scipy.signal", reason="SciPy is the oracle")
    transform = signal.ShortTimeFFT(signal.windows.hann(200, sym=False), 80, RATE, mfft=256, fft_mode="onesided")
    theirs = transform.stft(waves[0], p0=0, p1=11, k_offset=100)
    ours = np.asarray(stft(waves[:1], 200, 80))[0]
    # SciPy measures phases from the middle of the window
    np.testing.assert_allclose(np.abs(ours), np.abs(theirs.T[: len(ours)]), atol=2e-4)


def test_frames_begin_a_hop_apart():
    waves = np.arange(30.0, dtype=np.float32)[None]
    found = np.asarray(framed(waves, 7, 5))
    np.testing.assert_array_equal(found[0], [np.arange(t, t + 7) for t in range(0, 24, 5)])
    with pytest.raises(ValueError, match="shorter"):
        framed(waves, 31, 5)


def test_mel_bands_are_triangles_that_add_up_to_one():
    bank = mel_filterbank(20, 512, RATE, 100.0)
    mel = 2595 * np.log10(1 + np.array([100.0, 4000.0]) / 700)
    corners = 700 * (10 ** (np.linspace(*mel, 22) / 2595) - 1)
    frequency = np.arange(257) * RATE / 512
    for band in range(20):
        left, middle, right = corners[band : band + 3]
        truth = np.interp(frequency, [left, middle, right], [0.0, 1.0, 0.0])
        np.testing.assert_allclose(bank[:, band], truth, atol=1e-6)
    between = (frequency > corners[1]) & (frequency < corners[-2])
    np.testing.assert_allclose(bank[between].sum(axis=1), 1.0, atol=1e-6)
    with pytest.raises(ValueError, match="too many"):
        mel_filterbank(200, 256, RATE)


def test_log_mel_and_cepstra_equal_numpy_and_scipy(waves):
    fft = pytest.importorskip("scipy.fft", reason="SciPy is the oracle")
    power = np.asarray(power_spectrum(waves), np.float64)
    truth = np.log(1e-3 + power @ mel_filterbank(40, 256, RATE, CONFIG.low).astype(np.float64))
    found = np.asarray(log_mel(waves, CONFIG))
    np.testing.assert_allclose(found, truth, rtol=1e-4, atol=1e-4)
    cepstra = fft.dct(found, type=2, norm="ortho", axis=-1)[..., :13]
    np.testing.assert_allclose(mfcc(jnp.asarray(found), 13), cepstra, atol=2e-5)
    np.testing.assert_allclose(features(waves, FeatureConfig(cepstra=13)), cepstra, atol=2e-5)
    with pytest.raises(ValueError, match="cepstra"):
        mfcc(jnp.asarray(found), 41)


def test_a_tone_lights_its_band():
    tone = np.sin(2 * np.pi * 1000 * np.arange(2000) / RATE).astype(np.float32)[None]
    centre = int(np.asarray(log_mel(tone, CONFIG))[0].mean(axis=0).argmax())
    bank = mel_filterbank(40, 256, RATE, CONFIG.low)
    assert centre == bank[round(1000 * 256 / RATE)].argmax()


def test_features_depend_neither_on_the_level_nor_on_the_padding(waves):
    short = np.asarray(features(unit_power(waves[:, :600], jnp.array([600, 450])), CONFIG))
    louder = np.zeros((2, 2000), np.float32)
    louder[:, :600] = 7.0 * waves[:, :600]
    louder[1, 450:] = 99.0  # is masked
    long = np.asarray(features(unit_power(louder, jnp.array([600, 450])), CONFIG))
    np.testing.assert_allclose(long[0, : short.shape[1]], short[0], atol=1e-4)
    inside = int(frame_count(jnp.array(450), CONFIG.window, CONFIG.hop))
    np.testing.assert_allclose(long[1, :inside], short[1, :inside], atol=1e-4)


def test_silence_stays_silence():
    found = np.asarray(unit_power(jnp.zeros((1, 50)), jnp.array([50])))
    assert not found.any()


MASKS = SpecAugmentConfig(bands=2, band_width=6, stretches=2, stretch_width=10)


def masked(rows, spectra, frames, config=MASKS):
    return np.asarray(_masked(jnp.asarray(rows), spectra, frames, config))


@functools.partial(jax.jit, static_argnums=3)
def _masked(rows, spectra, frames, config):
    return spec_augment(spectra, frames, jax.vmap(jax.random.fold_in, (None, 0))(jax.random.key(1), rows), config)


def test_masks_hide_whole_bands_and_stretches_behind_the_mean():
    spectra = np.random.default_rng(1).normal(size=(40, 60, 20)).astype(np.float32)
    frames = np.full(40, 50, np.int32)
    found = masked(range(40), spectra, frames)
    mean = spectra[:, :50].mean(axis=1, keepdims=True)
    hidden = np.isclose(found, mean, rtol=0, atol=2e-6)
    np.testing.assert_allclose(np.where(hidden, spectra, found), spectra, atol=2e-6)
    np.testing.assert_array_equal(found[:, 50:], spectra[:, 50:])
    in_bands, in_time = hidden[:, :50].all(axis=1), hidden[:, :50].all(axis=2)
    np.testing.assert_array_equal(hidden[:, :50], in_bands[:, None, :] | in_time[:, :, None])
    assert in_bands.sum(axis=1).max() <= 12 and in_time.sum(axis=1).max() <= 20
    # widths uniform in 0 ... 6 and 0 ... 10, less what overlaps
    assert 4.0 < in_bands.sum(axis=1).mean() < 6.5 and 6.5 < in_time.sum(axis=1).mean() < 11.0


def test_masks_belong_to_the_example_not_to_the_batch():
    spectra = np.random.default_rng(2).normal(size=(8, 40, 20)).astype(np.float32)
    frames = np.arange(20, 36, 2).astype(np.int32)
    whole = masked(range(8), spectra, frames)
    parts = [masked(rows, spectra[rows], frames[rows]) for rows in (range(4), range(4, 8))]
    np.testing.assert_allclose(whole, np.concatenate(parts), atol=1e-6)
    same = masked(range(8), np.repeat(spectra[:1], 8, 0), np.repeat(frames[:1], 8))
    assert len({row.tobytes() for row in same}) == 8


def test_a_short_recording_keeps_four_fifths_of_its_frames():
    spectra = np.random.default_rng(3).normal(size=(64, 30, 8)).astype(np.float32)
    found = masked(range(64), spectra, np.full(64, 10), SpecAugmentConfig(stretches=1, stretch_width=30))
    assert (found[:, :10] != spectra[:, :10]).all(axis=2).sum(axis=1).max() == 2


def test_nothing_is_hidden_without_masks(waves):
    spectra = jnp.asarray(waves[:, :800].reshape(2, 40, 20))
    assert (
        spec_augment(spectra, jnp.array([40, 40]), jax.random.split(jax.random.key(0)), SpecAugmentConfig()) is spectra
    )
