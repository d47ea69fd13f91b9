"""From waveforms to what a speech recogniser sees: short-time spectra, log-mel energies, cepstra, SpecAugment.

Pure functions in JAX, so that they run inside the compiled program, on augmented waveforms.

Shapes: `B` batch, `N` samples, `T` frames, `W` samples of a window, `F` frequencies, `M` mel bands, `C` cepstra.
"""

import dataclasses
import functools
import math

import jax
import jax.numpy as jnp
import numpy as np

from jaxdl.settings import setting

Array = jax.Array


@dataclasses.dataclass(frozen=True)
class FeatureConfig:
    """The front end: waveforms to log-mel energies."""

    window: int = setting(200, "samples of a frame (25 ms at 8 kHz)", minimum=16)
    hop: int = setting(80, "samples between frames (10 ms at 8 kHz)", minimum=8)
    mels: int = setting(40, "mel bands", minimum=4)
    low: float = setting(60.0, "lower edge of the lowest band in Hz", minimum=0.0)
    cepstra: int = setting(0, "use so many mel-frequency cepstra instead of the bands; 0: the bands", minimum=0)


@dataclasses.dataclass(frozen=True)
class SpecAugmentConfig:
    """Bands and stretches of a spectrogram that training hides (Park et al. 2019)."""

    bands: int = setting(0, "hidden frequency bands; 0: off", minimum=0)
    band_width: int = setting(8, "most mel bands of one of them", minimum=0)
    stretches: int = setting(0, "hidden stretches of time; 0: off", minimum=0)
    stretch_width: int = setting(20, "most frames of one of them", minimum=0)


def frame_count(samples: Array, window: int, hop: int) -> Array:
    """Frames that lie whole within `samples` [B] samples, at least 1: 1 + ⌊(n - W) / hop⌋."""
    return jnp.maximum(1, 1 + (samples - window) // hop)


def framed(waves: Array, window: int, hop: int) -> Array:
    """Overlapping frames [B, T, W] of waves [B, N], frame t from sample t·hop on; T = 1 + ⌊(N - W) / hop⌋.

    Raises:
      ValueError: the waves are shorter than one window.
    """
    batch, samples = waves.shape
    if samples < window:
        raise ValueError(f"waves of {samples} samples are shorter than a window of {window}")
    frames = 1 + (samples - window) // hop
    pieces = -(-window // hop)
    needed = (frames + pieces - 1) * hop
    waves = jnp.pad(waves, ((0, 0), (0, max(0, needed - samples))))[:, :needed].reshape(batch, -1, hop)
    # slices instead of a gather: a frame is `pieces` neighbouring hops
    parts = [waves[:, k : k + frames] for k in range(pieces)]
    return jnp.concatenate(parts, axis=-1)[..., :window]


def stft(waves: Array, window: int = 200, hop: int = 80) -> Array:
    """Short-time Fourier transform with a periodic Hann window, without padding at the edges.

    X[t, f] = Σ_n w[n] x[t·hop + n] exp(-2πi f n / D), w[n] = ½ - ½ cos(2πn / W), D the next power of two >= W.

    Args:
      waves: [B, N], N >= W.
      window: W.
      hop: samples between frames.

    Returns:
      complex64 [B, T, D / 2 + 1].
    """
    size = fft_size(window)
    hann = 0.5 - 0.5 * np.cos(2.0 * np.pi * np.arange(window) / window)
    return jnp.fft.rfft(framed(waves, window, hop) * jnp.asarray(hann, jnp.float32), size)


def fft_size(window: int) -> int:
    """D, the next power of two >= W."""
    return 1 << (window - 1).bit_length()


def power_spectrum(waves: Array, window: int = 200, hop: int = 80) -> Array:
    """|X|² of `stft`, float32 [B, T, D / 2 + 1]."""
    found = stft(waves, window, hop)
    return jnp.square(found.real) + jnp.square(found.imag)


@functools.lru_cache(maxsize=8)
def mel_filterbank(mels: int, size: int, rate: int, low: float = 0.0) -> np.ndarray:
    """Triangles that overlap by half, their corners equally spaced in mel = 2595 log10(1 + Hz / 700) from `low` to rate/2.

    Each triangle has height 1, as in HTK (Young et al. 2006, The HTK Book, 5.4).

    Args:
      mels: M.
      size: D, the length of the Fourier transform.
      rate: samples a second.
      low: lower corner of the first band in Hz.

    Returns:
      float32 [D / 2 + 1, M].

    Raises:
      ValueError: a band holds no frequency of the transform: there are too many for it.
    """
    top = 2595.0 * math.log10(1.0 + rate / 1400.0)
    corners = np.linspace(2595.0 * math.log10(1.0 + low / 700.0), top, mels + 2)
    hertz = 700.0 * (10.0 ** (corners / 2595.0) - 1.0)
    frequency = np.arange(size // 2 + 1) * rate / size
    rising = (frequency[:, None] - hertz[:-2]) / (hertz[1:-1] - hertz[:-2])
    falling = (hertz[2:] - frequency[:, None]) / (hertz[2:] - hertz[1:-1])
    bank = np.maximum(0.0, np.minimum(rising, falling)).astype(np.float32)
    if not (bank > 0).any(axis=0).all():
        raise ValueError(f"{mels} mel bands are too many for a transform of {size} samples at {rate} Hz")
    return bank


def log_mel(waves: Array, config: FeatureConfig, rate: int = 8000) -> Array:
    """log(10⁻³ + E) of the mel energies E of waves [B, N], float32 [B, T, M].

    The floor belongs to waves of unit power (`unit_power`): it lies about 60 dB below speech.
    """
    bank = mel_filterbank(config.mels, fft_size(config.window), rate, config.low)
    energies = jnp.matmul(power_spectrum(waves, config.window, config.hop), bank, precision="highest")
    return jnp.log(1e-3 + energies)


def mfcc(log_energies: Array, cepstra: int) -> Array:
    """Mel-frequency cepstral coefficients: the first C terms of the orthonormal DCT-II over the bands.

    c_k = a_k Σ_m log E_m cos(π k (m + ½) / M), a_0 = √(1/M), a_k = √(2/M). Davis and Mermelstein 1980.

    Args:
      log_energies: [..., M], from `log_mel`.
      cepstra: C <= M.

    Returns:
      [..., C].

    Raises:
      ValueError: more cepstra than bands.
    """
    mels = log_energies.shape[-1]
    if not 0 < cepstra <= mels:
        raise ValueError(f"{cepstra} cepstra cannot be made of {mels} bands: take 1 to {mels}")
    basis = np.cos(np.pi * np.outer(np.arange(mels) + 0.5, np.arange(cepstra)) / mels) * math.sqrt(2.0 / mels)
    basis[:, 0] /= math.sqrt(2.0)
    return jnp.matmul(log_energies, jnp.asarray(basis, jnp.float32), precision="highest")


def features(waves: Array, config: FeatureConfig, rate: int = 8000) -> Array:
    """What `config` asks for, log-mel energies or cepstra, of waves [B, N]: float32 [B, T, features]."""
    found = log_mel(waves, config, rate)
    return mfcc(found, config.cepstra) if config.cepstra else found


def unit_power(waves: Array, lengths: Array) -> Array:
    """Waves [B, N] with mean square 1 over their first `lengths` [B] samples and zero behind; silence stays silence."""
    inside = jnp.arange(waves.shape[1]) < lengths[:, None]
    waves = jnp.where(inside, waves.astype(jnp.float32), 0.0)
    power = jnp.square(waves).sum(axis=1) / jnp.maximum(lengths, 1)
    return waves * jax.lax.rsqrt(jnp.maximum(power, 1e-12))[:, None]


def spec_augment(spectra: Array, frames: Array, keys: Array, config: SpecAugmentConfig) -> Array:
    """Hides random bands and stretches of each spectrogram behind the mean of its own frames.

    Each of `bands` is f₀ ... f₀ + f, f uniform in 0 ... band_width and f₀ in 0 ... M - f; likewise in time within the
    first `frames`, where a stretch is never longer than a fifth of them. Park et al. 2019, arXiv:1904.08779, without
    the time warp.

    Args:
      spectra: [B, T, M].
      frames: [B] int32, how many frames of each are no padding.
      keys: [B] random keys, one per example.
      config: how many and how wide.

    Returns:
      [B, T, M]; padding frames are left alone.
    """
    if not (config.bands and config.band_width) and not (config.stretches and config.stretch_width):
        return spectra
    length, mels = spectra.shape[1:]

    def hidden(key: Array, count: int, widest: Array | int, size: Array | int, positions: int) -> Array:
        drawn = jax.random.uniform(key, (2, count))
        width = jnp.floor(drawn[0] * (widest + 1)).astype(jnp.int32)
        first = jnp.floor(drawn[1] * (size - width + 1)).astype(jnp.int32)
        place = jnp.arange(positions)[:, None]
        return ((place >= first) & (place < first + width)).any(axis=1)

    def one(spectrum: Array, count: Array, key: Array) -> Array:
        in_band, in_time = jax.random.split(key)
        inside = jnp.arange(length) < count
        mean = jnp.where(inside[:, None], spectrum, 0.0).sum(axis=0) / jnp.maximum(count, 1)
        bands = hidden(in_band, config.bands, min(config.band_width, mels), mels, mels)
        widest = jnp.minimum(config.stretch_width, count // 5)
        stretches = hidden(in_time, config.stretches, widest, count, length)
        return jnp.where(inside[:, None] & (bands[None, :] | stretches[:, None]), mean, spectrum)

    return jax.vmap(one)(spectra, frames, keys)
