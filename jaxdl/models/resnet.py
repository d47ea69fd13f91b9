"""Residual networks for CIFAR and for ImageNet; He et al. 2016."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from flax import linen as nn

from jaxdl.nn.convolution import Conv
from jaxdl.nn.normalization import BatchNorm
from jaxdl.nn.pooling import global_avg_pool, max_pool
from jaxdl.nn.space_to_depth import StemConv
from jaxdl.nn.stored import stored

Array = jax.Array

# depth -> blocks of each stage, whether they are bottlenecks; He et al. 2016, table 1
IMAGENET = {
    18: ((2, 2, 2, 2), False),
    34: ((3, 4, 6, 3), False),
    50: ((3, 4, 6, 3), True),
    101: ((3, 4, 23, 3), True),
    152: ((3, 8, 36, 3), True),
}


class ResidualBlock(nn.Module):
    """y = shortcut(x) + F(x), F two 3×3 convolutions with batch norm and ReLU.

    Post-activation (arXiv 1512.03385): F = BN Conv ReLU BN Conv, and a ReLU after the sum. Pre-activation
    (arXiv 1603.05027): F = Conv ReLU BN Conv ReLU BN and nothing after the sum.

    Attributes:
      features: number of output maps.
      stride: 2 to halve height and width, else 1.
      preactivation: which of the two forms.
      projection: shortcut across a change of shape by a 1×1 convolution (option B) instead of every second pixel
        and zeros for the new maps (option A, no parameters).
      zero_init: start with F = 0, so that a block without change of shape is the identity (after a ReLU, for the
        post-activation form).
    """

    features: int
    stride: int = 1
    preactivation: bool = False
    projection: bool = False
    zero_init: bool = False

    @nn.compact
    def __call__(self, x: Array, train: bool = False) -> Array:
        """Maps x [B, H, W, C] to [B, ⌈H/stride⌉, ⌈W/stride⌉, features]."""
        zeros = nn.initializers.zeros_init()
        if self.preactivation:
            last_conv = zeros if self.zero_init else nn.initializers.he_normal()
            y = nn.relu(BatchNorm()(x, train))
            shortcut = self._shortcut(y if self.projection and self._changes(x) else x, train)
            y = _conv3(self.features, self.stride)(y)
            y = nn.relu(BatchNorm()(y, train))
            return stored(jnp.add, shortcut, _conv3(self.features, 1, last_conv)(y))
        last_scale = zeros if self.zero_init else nn.initializers.ones_init()
        y = nn.relu(BatchNorm()(_conv3(self.features, self.stride)(x), train))
        y = BatchNorm(scale_init=last_scale)(_conv3(self.features, 1)(y), train)
        return stored(_relu_of_sum, self._shortcut(x, train), y)

    def _changes(self, x: Array) -> bool:
        return self.stride != 1 or x.shape[-1] != self.features

    def _shortcut(self, x: Array, train: bool) -> Array:
        if not self._changes(x):
            return x
        if self.projection:
            x = Conv(self.features, (1, 1), strides=self.stride, use_bias=False, name="projection")(x)
            return x if self.preactivation else BatchNorm(name="projection_norm")(x, train)
        if self.features < x.shape[-1]:
            raise ValueError(f"a shortcut without projection cannot go from {x.shape[-1]} to {self.features} maps")
        x = x[:, :: self.stride, :: self.stride]
        return jnp.pad(x, ((0, 0), (0, 0), (0, 0), (0, self.features - x.shape[-1])))


class BottleneckBlock(nn.Module):
    """y = relu(shortcut(x) + F(x)), F convolutions 1×1, 3×3, 1×1 with batch norm, the last with 4 · features maps.

    The stride is that of the 3×3 convolution ("version 1.5"; the paper has it in the first, which skips three of four
    pixels). The shortcut across a change of shape is a 1×1 convolution with batch norm.

    Attributes:
      features: maps of the 3×3 convolution.
      stride: 2 to halve height and width, else 1.
      zero_init: start with F = 0 (Goyal et al. 2017, 5.1).
    """

    features: int
    stride: int = 1
    zero_init: bool = False

    @nn.compact
    def __call__(self, x: Array, train: bool = False) -> Array:
        """Maps x [B, H, W, C] to [B, ⌈H/stride⌉, ⌈W/stride⌉, 4 · features]."""
        outputs = 4 * self.features
        last_scale = nn.initializers.zeros_init() if self.zero_init else nn.initializers.ones_init()
        y = nn.relu(BatchNorm()(_conv1(self.features)(x), train))
        y = nn.relu(BatchNorm()(_conv3(self.features, self.stride)(y), train))
        y = BatchNorm(scale_init=last_scale)(_conv1(outputs)(y), train)
        if self.stride != 1 or x.shape[-1] != outputs:
            x = BatchNorm(name="projection_norm")(_conv1(outputs, self.stride, "projection")(x), train)
        return stored(_relu_of_sum, x, y)


class ImageNetResNet(nn.Module):
    """ResNet-18, 34, 50, 101 or 152: a 7×7 convolution and 3×3 pooling, each of stride 2, then four stages.

    With 1000 classes they have 11,689,512, 21,797,672, 25,557,032, 44,549,160 and 60,192,808 parameters.

    Attributes:
      depth: a key of IMAGENET.
      num_classes: number of outputs.
      width: maps of the first stage, doubled in each of the other three.
      blocks: blocks of each stage, in place of those that belong to `depth`.
      zero_init: see `BottleneckBlock`.
    """

    depth: int = 50
    num_classes: int = 1000
    width: int = 64
    blocks: tuple[int, ...] = ()
    zero_init: bool = True

    @nn.compact
    def __call__(self, x: Array, train: bool = False) -> Array:
        """Maps images [B, H, W, C] to logits [B, num_classes].

        Raises:
          ValueError: for another depth.
        """
        if self.depth not in IMAGENET:
            raise ValueError(f"depth of an ImageNet ResNet must be one of {', '.join(map(str, IMAGENET))}")
        blocks, bottleneck = IMAGENET[self.depth]
        x = StemConv(self.width, (7, 7), strides=2, padding=3, use_bias=False, name="stem")(x)
        x = nn.relu(BatchNorm(name="stem_norm")(x, train))
        x = max_pool(x, 3, strides=2, padding=1)
        for stage, count in enumerate(self.blocks or blocks):
            for block in range(count):
                features, stride = self.width << stage, 2 if stage > 0 and block == 0 else 1
                name = f"stage{stage}_block{block}"
                if bottleneck:
                    x = BottleneckBlock(features, stride, self.zero_init, name=name)(x, train)
                else:
                    made = ResidualBlock(features, stride, projection=True, zero_init=self.zero_init, name=name)
                    x = made(x, train)
        return nn.Dense(self.num_classes)(global_avg_pool(x))


class CifarResNet(nn.Module):
    """ResNet of depth 6n + 2 for 32×32 images: a 3×3 convolution and three stages of n blocks with 16, 32, 64 maps.

    Depth 20, 32, 44, 56 and 110 have 0.27, 0.46, 0.66, 0.85 and 1.7 million parameters.

    Attributes:
      depth: 6n + 2.
      num_classes: number of outputs.
      width: maps of the first stage, doubled in each of the other two.
      preactivation, projection, zero_init: see `ResidualBlock`.
    """

    depth: int = 20
    num_classes: int = 10
    width: int = 16
    preactivation: bool = False
    projection: bool = False
    zero_init: bool = False

    @nn.compact
    def __call__(self, x: Array, train: bool = False) -> Array:
        """Maps images [B, H, W, C] to logits [B, num_classes].

        Raises:
          ValueError: if depth is not 6n + 2 with n ≥ 1.
        """
        if self.depth < 8 or (self.depth - 2) % 6:
            raise ValueError(f"depth of a CIFAR ResNet must be 6n + 2 (20, 32, 44, 56, 110, ...), got {self.depth}")
        x = _conv3(self.width, 1)(x)
        if not self.preactivation:
            x = nn.relu(BatchNorm()(x, train))
        for stage in range(3):
            for block in range((self.depth - 2) // 6):
                x = ResidualBlock(
                    self.width << stage,
                    stride=2 if stage > 0 and block == 0 else 1,
                    preactivation=self.preactivation,
                    projection=self.projection,
                    zero_init=self.zero_init,
                )(x, train)
        if self.preactivation:
            x = nn.relu(BatchNorm()(x, train))
        return nn.Dense(self.num_classes)(global_avg_pool(x))


def _relu_of_sum(x: Array, y: Array) -> Array:
    return nn.relu(x + y)


def _conv3(features: int, stride: int, init: Callable[..., Array] | None = None) -> Conv:
    init = nn.initializers.he_normal() if init is None else init
    # padding by 1 on all sides, as the published networks have it; SAME would pad a strided one on one side only
    return Conv(features, (3, 3), strides=stride, padding=1, use_bias=False, kernel_init=init)


def _conv1(features: int, stride: int = 1, name: str | None = None) -> Conv:
    return Conv(features, (1, 1), strides=stride, use_bias=False, name=name)
