"""Networks over spectrograms of ragged length: Deep Speech 2 in small, and a classifier of single words.

Shapes: `B` batch, `T` frames (padded), `M` mel bands, `T'` frames that are left after the strides, `C` outputs.
"""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
from flax import linen as nn

from jaxdl.nn.context import batch_context, current_batch
from jaxdl.nn.convolution import Conv
from jaxdl.nn.dropout import Dropout
from jaxdl.nn.normalization import BatchNorm
from jaxdl.nn.recurrent import RecurrentStack

Array = jax.Array


def inside(frames: Array, length: int) -> Array:
    """bool [B, T]: which of `length` frames are no padding, for `frames` [B]."""
    return jnp.arange(length) < frames[:, None]


class FrameNorm(nn.Module):
    """Batch normalisation over the frames of all examples that are no padding, and zeros in their padding.

    Sequence-wise normalisation of Amodei et al. 2016, section 3.2: moments over batch and time.
    """

    @nn.compact
    def __call__(self, x: Array, frames: Array, train: bool) -> Array:
        """Normalises x [B, T, ..., C] with `frames` [B] valid frames each."""
        batch, valid = current_batch(), inside(frames, x.shape[1])
        counted = valid if batch.mask is None else valid & (batch.mask[:, None] > 0)
        flat = x.reshape(-1, *x.shape[2:])
        with batch_context(mask=counted.reshape(-1), axis=batch.axis):
            y = BatchNorm()(flat, train).reshape(x.shape)
        return jnp.where(valid.reshape(*valid.shape, *(1,) * (x.ndim - 2)), y, 0)


def blocks(x: Array) -> Array:
    """Neighbouring 2 × 2 positions of x [B, T, F, C] as channels: [B, ⌈T / 2⌉, ⌈F / 2⌉, 4 C], with zeros at odd ends."""
    batch, length, bands, channels = x.shape
    x = jnp.pad(x, ((0, 0), (0, length % 2), (0, bands % 2), (0, 0)))
    x = x.reshape(batch, (length + 1) // 2, 2, (bands + 1) // 2, 2, channels).transpose(0, 1, 3, 2, 4, 5)
    return x.reshape(*x.shape[:3], -1)


class SpectralFrontEnd(nn.Module):
    """Normalised mel bands through strided 2-D convolutions over time and frequency, each with batch norm and ReLU.

    Padding stays zero from layer to layer, so what follows a recording does not matter, however long it is.

    The first kernel is 5 × 5, the others are 4 × 4, all with stride 2 along both axes. The latter are computed as 2 × 2
    convolutions with stride 1 over blocks of 2 × 2: on CPU the gradients of strided convolutions are five times slower.

    Attributes:
      features: maps of each convolution; each halves the number of frames.
    """

    features: Sequence[int]

    @nn.compact
    def __call__(self, x: Array, frames: Array, train: bool) -> tuple[Array, Array]:
        """Maps x [B, T, M] to [B, T', M', features[-1]] and `frames` [B] to how many of the T' are no padding."""
        x = FrameNorm(name="bands")(x, frames, train)[..., None]
        for number, width in enumerate(self.features):
            # explicit padding, because SAME would depend on the length of the padding
            if number == 0:
                x = Conv(width, (5, 5), strides=2, padding=2, use_bias=False)(x)
            else:
                x = Conv(width, (2, 2), padding=((1, 0), (1, 0)), use_bias=False)(blocks(x))
            frames = (frames + 1) // 2
            x = nn.relu(FrameNorm()(x, frames, train))
        return x, frames


class DeepSpeech(nn.Module):
    """Deep Speech 2 in small: convolutions, bidirectional GRUs with batch norm below each, and one softmax per frame.

    Amodei et al., ICML 2016: https://arxiv.org/abs/1512.02595. There 32 maps of 41 × 11 and 7 GRUs of 1280 units over
    English characters; here a tenth of everything. A second softmax reads the same units but does not train them: it
    shows what frame by frame targets, as in hybrid systems, make of them.

    Attributes:
      outputs: C, labels and the blank.
      features: see `SpectralFrontEnd`; each halves the number of frames.
      units: of each GRU and direction.
      layers: number of GRUs; the outputs of both directions stand beside each other.
      dropout: probability of dropping a unit in front of and behind the GRUs.
    """

    outputs: int
    features: Sequence[int] = (32, 32)
    units: int = 128
    layers: int = 1
    dropout: float = 0.1

    @nn.compact
    def __call__(self, x: Array, frames: Array, train: bool = False) -> dict[str, Array]:
        """Maps features x [B, T, M] with `frames` [B] int32 to {"logits", "framewise" [B, T', C], "frames" [B]}."""
        x, frames = SpectralFrontEnd(self.features)(x, frames.astype(jnp.int32), train)
        x = x.reshape(*x.shape[:2], -1)
        for _ in range(self.layers):
            x = FrameNorm()(nn.Dense(self.units, use_bias=False)(x), frames, train)
            x = Dropout(self.dropout)(x, train)
            gru = RecurrentStack((self.units,), "gru", bidirectional=True)
            x, _ = gru(x, mask=inside(frames, x.shape[1]).astype(jnp.float32))
        x = Dropout(self.dropout)(FrameNorm()(x, frames, train), train)
        logits = nn.Dense(self.outputs, name="ctc")(x)
        framewise = nn.Dense(self.outputs, name="framewise")(jax.lax.stop_gradient(x))
        return {"logits": logits, "framewise": framewise, "frames": frames}


class SpeechClassifier(nn.Module):
    """A word from a recording of any length: convolutions, the mean over its frames, one hidden layer.

    Attributes:
      num_classes: number of outputs.
      features: see `SpectralFrontEnd`.
      hidden: units of the dense layer.
      dropout: probability of dropping a unit in front of either dense layer.
    """

    num_classes: int = 10
    features: Sequence[int] = (32, 64, 96)
    hidden: int = 128
    dropout: float = 0.2

    @nn.compact
    def __call__(self, x: Array, frames: Array, train: bool = False) -> Array:
        """Maps features x [B, T, M] with `frames` [B] int32 to logits [B, num_classes]."""
        x, frames = SpectralFrontEnd(self.features)(x, frames.astype(jnp.int32), train)
        # the padding is zero, so the sum over all frames is one over those that count
        x = x.reshape(*x.shape[:2], -1).sum(axis=1) / jnp.maximum(frames, 1)[:, None].astype(x.dtype)
        x = Dropout(self.dropout)(x, train)
        x = nn.relu(BatchNorm()(nn.Dense(self.hidden, use_bias=False)(x), train))
        return nn.Dense(self.num_classes)(Dropout(self.dropout)(x, train))
