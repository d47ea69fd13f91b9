"""A convolutional network for 28×28 digits that trains on a CPU."""

from collections.abc import Sequence

import jax
from flax import linen as nn

from jaxdl.nn.convolution import Conv
from jaxdl.nn.dropout import Dropout
from jaxdl.nn.normalization import BatchNorm

Array = jax.Array


class CNN(nn.Module):
    """Stages of two 3×3 convolutions with batch norm, the second of stride 2, then one hidden dense layer.

    After the stages of the MNIST networks of C. Deotte (github.com/cdeotte/MNIST-CNN-99.75), with strides in
    3×3 instead of 5×5 convolutions and earlier, so that a pass costs about a third.

    Attributes:
      features: number of maps of each stage; each stage halves height and width.
      hidden: width of the dense layer.
      num_classes: number of outputs.
      dropout: probability of dropping a map after each stage and a unit of the dense layer.
    """

    features: Sequence[int] = (32, 64, 128)
    hidden: int = 128
    num_classes: int = 10
    dropout: float = 0.3

    @nn.compact
    def __call__(self, x: Array, train: bool = False) -> Array:
        """Maps images [B, H, W, C] to logits [B, num_classes]."""
        for width in self.features:
            for stride in (1, 2):
                x = Conv(width, (3, 3), strides=stride, use_bias=False)(x)
                x = nn.relu(BatchNorm()(x, train))
            x = Dropout(self.dropout, broadcast=(1, 2))(x, train)
        x = x.reshape(x.shape[0], -1)
        x = nn.Dense(self.hidden, use_bias=False, kernel_init=nn.initializers.he_normal())(x)
        x = nn.relu(BatchNorm()(x, train))
        x = Dropout(self.dropout)(x, train)
        return nn.Dense(self.num_classes)(x)
