"""LeNet-5 for small grey images."""

from collections.abc import Sequence

import jax
from flax import linen as nn

from jaxdl.nn.activations import get_activation
from jaxdl.nn.convolution import Conv
from jaxdl.nn.convolution_pool import ConvMaxPool
from jaxdl.nn.dropout import Dropout
from jaxdl.nn.pooling import avg_pool, max_pool

Array = jax.Array

_INCREASING = ("identity", "relu", "sigmoid", "tanh", "leaky_relu", "elu", "softplus")


class LeNet5(nn.Module):
    """Convolution 5×5, pooling 2×2, convolution 5×5, pooling 2×2, three dense layers; LeCun et al. 1998.

    With 32×32 images and the default widths the maps are 6@28×28, 6@14×14, 16@10×10, 16@5×5, then 120, 84 and 10
    units. 28×28 images are padded to these sizes. Smaller ones (8×8 digits) are padded in both convolutions. The last
    hidden layer is sown as "features" into the collection "intermediates", for who asks for it.

    Attributes:
      features: two numbers of maps and two widths of dense layers.
      num_classes: number of outputs.
      activation: name from `jaxdl.nn.activations.LAYER_ACTIVATIONS`.
      pooling: "max" or "average".
      dropout: probability of dropping a unit of the first dense layer.
    """

    features: Sequence[int] = (6, 16, 120, 84)
    num_classes: int = 10
    activation: str = "relu"
    pooling: str = "max"
    dropout: float = 0.0

    @nn.compact
    def __call__(self, x: Array, train: bool = False) -> Array:
        """Maps images [B, H, W, C], H and W at least 4, to logits [B, num_classes].

        Raises:
          ValueError: for another number of features than 4, unknown pooling, or images that are too small.
        """
        if len(self.features) != 4:
            raise ValueError(f"LeNet-5 needs 4 features (maps, maps, units, units), got {tuple(self.features)}")
        if self.pooling not in ("max", "average"):
            raise ValueError(f"pooling must be max or average, got {self.pooling!r}")
        if min(x.shape[1:3]) < 4:
            raise ValueError(f"LeNet-5 needs images of at least 4×4, got {x.shape[1:3]}")
        first, second, third, fourth = self.features
        smallest = min(x.shape[1:3])
        x = self._pooled(x, train, first, "VALID" if smallest >= 32 else "SAME", "Conv_0")
        x = self._pooled(x, train, second, "VALID" if smallest >= 28 else "SAME", "Conv_1")
        x = x.reshape(x.shape[0], -1)
        x = get_activation(self.activation)(nn.Dense(third, kernel_init=nn.initializers.he_normal())(x), train)
        x = Dropout(self.dropout)(x, train)
        x = get_activation(self.activation)(nn.Dense(fourth, kernel_init=nn.initializers.he_normal())(x), train)
        self.sow("intermediates", "features", x)
        return nn.Dense(self.num_classes)(x)

    def _pooled(self, x: Array, train: bool, maps: int, padding: str, name: str) -> Array:
        activation = get_activation(self.activation)
        if self.pooling == "max" and self.activation in _INCREASING:
            # the maximum of increasing values is the value of the maximum: a quarter of the work
            return activation(ConvMaxPool(maps, (5, 5), padding=padding, name=name)(x), train)
        x = activation(Conv(maps, (5, 5), padding=padding, name=name)(x), train)
        return avg_pool(x, 2) if self.pooling == "average" else max_pool(x, 2)
