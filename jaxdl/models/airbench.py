"""The network of airbench94; Jordan: 94 % on CIFAR-10 in 3.29 seconds on a single GPU, 2024, arXiv:2404.00498."""

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn

from jaxdl.nn.activations import gelu
from jaxdl.nn.convolution import Conv, convolution
from jaxdl.nn.normalization import BatchNorm
from jaxdl.nn.pooling import max_pool

Array = jax.Array

VIEWS = ("one", "mirrored", "translated")
_PATCH = 2
_BIAS_SCALE = 8.0


def whitening_kernel(images: np.ndarray, epsilon: float = 5e-4) -> np.ndarray:
    """Filters [2, 2, C, 8 C] whose responses to 2×2 patches are uncorrelated with variance 1, and their negatives.

    With Σ = V diag(λ) Vᵀ the second moments of the patches [n, 4 C], the filters are ± v_i / √(λ_i + ε), largest λ first.

    Args:
      images: [n, H, W, C], as the network gets them.
      epsilon: ε, against the noise of the smallest λ.
    """
    windows = np.lib.stride_tricks.sliding_window_view(np.asarray(images, np.float64), (_PATCH, _PATCH), (1, 2))
    patches = np.moveaxis(windows, 3, -1).reshape(-1, _PATCH * _PATCH * images.shape[-1])
    values, vectors = np.linalg.eigh(patches.T @ patches / len(patches))
    filters = (vectors / np.sqrt(values + epsilon))[:, ::-1]
    both = np.concatenate([filters, -filters], axis=1)
    return both.reshape(_PATCH, _PATCH, images.shape[-1], -1).astype(np.float32)


def _uniform(key: Array, shape: Sequence[int], dtype: Any = jnp.float32) -> Array:
    """U(−a, a) with a = 1 / √(fan in): PyTorch's default, which the original starts from."""
    bound = 1.0 / np.sqrt(np.prod(shape[:-1]))
    return jax.random.uniform(key, tuple(shape), dtype, -bound, bound)


def partial_identity(key: Array, shape: Sequence[int], dtype: Any = jnp.float32) -> Array:
    """A kernel whose output j is input j for j < min(C, O), the others as `_uniform`; section 3.2.

    Args:
      key: used for the others.
      shape: (K, K, C, O).
      dtype: of the kernel.
    """
    size, _, inputs, outputs = shape
    kernel, count = _uniform(key, shape, dtype), min(inputs, outputs)
    identity = jnp.zeros(shape, dtype).at[size // 2, size // 2, jnp.arange(count), jnp.arange(count)].set(1.0)
    return jnp.where(jnp.arange(outputs) < count, identity, kernel)


class _Norm(nn.Module):
    """Batch norm without scale, and a bias of 8 · its parameter, which gradient descent so moves 64 times as fast; 3.4.

    The parameter has two axes, [1, C], because these biases are decayed like weights.
    """

    @nn.compact
    def __call__(self, x: Array, train: bool) -> Array:
        x = BatchNorm(momentum=0.6, epsilon=1e-12, use_scale=False, use_bias=False)(x, train)
        offset = self.param("offset", nn.initializers.zeros_init(), (1, x.shape[-1]), jnp.float32)
        return x + (_BIAS_SCALE * offset[0]).astype(x.dtype)


class Airbench(nn.Module):
    """A fixed whitening convolution, three groups of two 3×3 convolutions, and a linear layer whose output is scaled.

    Each group is Conv, MaxPool, Norm, GELU, Conv, Norm, GELU. In evaluation the logits are means over views of each image.
    The whitening filters are statistics, not parameters: "whitening" in the collection "batch_stats".

    Attributes:
      num_classes: K.
      widths: maps of each group.
      scale: of the logits.
      views: in evaluation: "one", "mirrored" (and the image itself), "translated" (both also shifted by one pixel to each
        of two corners, these four together counting as much as the two others; section 3.6).
      dtype: dtype of the computation; None for that of the input.
    """

    num_classes: int = 10
    widths: tuple[int, ...] = (64, 256, 256)
    scale: float = 1 / 9
    views: str = "translated"
    dtype: Any = None

    @nn.compact
    def __call__(self, x: Array, train: bool = False) -> Array:
        """Maps images [B, H, W, C] to logits [B, num_classes].

        Raises:
          ValueError: for unknown views.
        """
        if self.views not in VIEWS:
            raise ValueError(f"views must be one of {', '.join(VIEWS)}, got {self.views!r}")
        if train or self.views == "one":
            return self._logits(x, train)
        shown, weights = _views(x, self.views)
        logits = self._logits(shown.reshape(-1, *x.shape[1:]), train)
        return jnp.tensordot(jnp.asarray(weights, logits.dtype), logits.reshape(len(weights), x.shape[0], -1), 1)

    def _logits(self, x: Array, train: bool) -> Array:
        count = 2 * _PATCH * _PATCH * x.shape[-1]
        shape = (_PATCH, _PATCH, x.shape[-1], count)
        # orthogonal enough where nobody brings those of the data
        whitening = self.variable("batch_stats", "whitening", lambda: _uniform(self.make_rng("params"), shape))
        # with two axes, as `_Norm`'s
        offset = self.param("whitening_offset", nn.initializers.zeros_init(), (1, count), jnp.float32)
        x, kernel, offset = nn.dtypes.promote_dtype(x, jax.lax.stop_gradient(whitening.value), offset, dtype=self.dtype)
        x = gelu(convolution(x, kernel, padding="VALID") + offset[0])
        for width in self.widths:
            x = max_pool(Conv(width, (3, 3), use_bias=False, kernel_init=partial_identity)(x), 2)
            x = gelu(_Norm()(x, train))
            x = gelu(_Norm()(Conv(width, (3, 3), use_bias=False, kernel_init=partial_identity)(x), train))
        x = x.max((1, 2))
        return self.scale * nn.Dense(self.num_classes, use_bias=False, kernel_init=_uniform)(x)


def _views(x: Array, views: str) -> tuple[Array, tuple[float, ...]]:
    """Images [N, B, H, W, C] and the weight of each of the N views."""
    height, width = x.shape[1:3]
    both = [x, x[:, :, ::-1]]
    if views == "mirrored":
        return jnp.stack(both), (0.5, 0.5)
    padded = jnp.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)), mode="reflect")
    for corner in (0, 2):
        moved = padded[:, corner : corner + height, corner : corner + width]
        both += [moved, moved[:, :, ::-1]]
    return jnp.stack(both), (0.25, 0.25, 0.125, 0.125, 0.125, 0.125)
