"""Generators and discriminators."""

import math
from collections.abc import Sequence

import jax
import jax.numpy as jnp
from flax import linen as nn

from jaxdl.nn.activations import get_activation, leaky_relu
from jaxdl.nn.convolution import Conv
from jaxdl.nn.normalization import BatchNorm
from jaxdl.nn.transposed import DoublingConv

Array = jax.Array
SLOPE = 0.2
_INIT = nn.initializers.normal(0.02)


class MLPGenerator(nn.Module):
    """Noise to points through dense layers.

    Attributes:
      outputs: D, size of a point.
      features: widths of the hidden layers.
      activation: name from `jaxdl.nn.activations.ACTIVATIONS`.
    """

    outputs: int = 2
    features: Sequence[int] = (128, 128)
    activation: str = "relu"

    @nn.compact
    def __call__(self, z: Array, train: bool = False) -> Array:
        """Maps noise z [B, L] to points [B, D]."""
        for width in self.features:
            z = get_activation(self.activation)(nn.Dense(width, kernel_init=nn.initializers.he_normal())(z), train)
        return nn.Dense(self.outputs)(z)


class MLPDiscriminator(nn.Module):
    """Points to the logit of being real, through dense layers; attributes as `MLPGenerator`."""

    features: Sequence[int] = (128, 128)
    activation: str = "leaky_relu"

    @nn.compact
    def __call__(self, x: Array, train: bool = False) -> Array:
        """Maps points x [B, ...] to logits [B]."""
        x = x.reshape(x.shape[0], -1)
        for width in self.features:
            x = get_activation(self.activation)(nn.Dense(width, kernel_init=nn.initializers.he_normal())(x), train)
        return nn.Dense(1)(x)[:, 0]


class ConvGenerator(nn.Module):
    """Noise to images: a dense layer, then transposed convolutions that double the map, batch norm and ReLU between.

    The generator of DCGAN (Radford, Metz and Chintala 2016, arXiv:1511.06434) for images whose sides 2^n divides, n
    the number of `features`. The output is sigmoid(2h) = (tanh(h) + 1) / 2, DCGAN's tanh on pixels in 0 ... 1.

    The paper's four doublings let it compose a whole from 4x4; an image whose sides only 4 divides has two. Dense layers
    before them, as in InfoGAN's networks for MNIST (Chen et al. 2016, arXiv:1606.03657), take their place.

    Attributes:
      image: (H, W, C) of an image.
      features: maps before each doubling, from the smallest map to the largest.
      hidden: widths of dense layers before the first map, each with batch norm and ReLU; none in the paper.
    """

    image: tuple[int, int, int]
    features: Sequence[int] = (64, 32)
    hidden: Sequence[int] = ()

    @nn.compact
    def __call__(self, z: Array, train: bool = False) -> Array:
        """Maps noise z [B, L] to images [B, H, W, C] in 0 ... 1.

        Raises:
          ValueError: if 2^n does not divide H and W.
        """
        height, width = smallest_map(self.image, len(self.features))
        x = z
        for units in self.hidden:
            x = nn.relu(BatchNorm()(nn.Dense(units, use_bias=False, kernel_init=_INIT)(x), train))
        x = nn.Dense(height * width * self.features[0], use_bias=False, kernel_init=_INIT)(x)
        x = x.reshape(-1, height, width, self.features[0])
        for maps in self.features[1:]:
            x = nn.relu(BatchNorm()(x, train))
            x = DoublingConv(maps, use_bias=False, kernel_init=_INIT)(x)
        x = nn.relu(BatchNorm()(x, train))
        return nn.sigmoid(2.0 * DoublingConv(self.image[-1], kernel_init=_INIT)(x))


class ConvDiscriminator(nn.Module):
    """Images to the logit of being real: convolutions that halve the map, leaky ReLU 0.2, batch norm after all but the first.

    The discriminator of DCGAN; see `ConvGenerator`. Without hidden layers its logit is a sum over the smallest map, each
    term of which sees a patch of the image, 10x10 after two halvings.

    Attributes:
      features: maps after each halving, from the largest map to the smallest.
      hidden: widths of dense layers after the last map, each with batch norm and leaky ReLU; none in the paper.
    """

    features: Sequence[int] = (32, 64)
    hidden: Sequence[int] = ()

    @nn.compact
    def __call__(self, x: Array, train: bool = False) -> Array:
        """Maps images x [B, H, W, C] in 0 ... 1 to logits [B].

        Raises:
          ValueError: if 2^n does not divide H and W.
        """
        smallest_map(x.shape[1:], len(self.features))
        x = leaky_relu(_halving(self.features[0], use_bias=True)(2.0 * x - 1.0), SLOPE)
        for maps in self.features[1:]:
            x = _halving(maps, use_bias=False)(x)
            x = leaky_relu(BatchNorm()(x, train), SLOPE)
        x = x.reshape(x.shape[0], -1)
        for units in self.hidden:
            x = leaky_relu(BatchNorm()(nn.Dense(units, use_bias=False, kernel_init=_INIT)(x), train), SLOPE)
        return nn.Dense(1, kernel_init=_INIT)(x)[:, 0]


def _halving(maps: int, use_bias: bool) -> Conv:
    return Conv(maps, (4, 4), strides=2, padding=1, use_bias=use_bias, kernel_init=_INIT)


def smallest_map(image: Sequence[int], halvings: int) -> tuple[int, int]:
    """(H, W) of an image after a number of halvings.

    Raises:
      ValueError: if they do not stay whole.
    """
    factor = 2**halvings
    if image[0] % factor or image[1] % factor or math.prod(image) == 0:
        raise ValueError(
            f"{halvings} layers of stride 2 need sides that {factor} divides, got an image of {tuple(image)}"
        )
    return image[0] // factor, image[1] // factor


def latent_noise(keys: Array, size: int) -> Array:
    """Standard normal noise [B, size], row i from `keys[i]`."""
    return jax.vmap(lambda key: jax.random.normal(key, (size,)))(keys).astype(jnp.float32)
