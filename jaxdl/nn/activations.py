"""Non-linearities of hidden units, by name."""

import dataclasses
import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn

from jaxdl.nn.context import row_keys
from jaxdl.target import target_platform

Array = jax.Array


def identity(x: Array) -> Array:
    """g(x) = x."""
    return x


def step(x: Array) -> Array:
    """g(x) = 1 if x > 0, else 0; the tie x = 0 gives 0. Its gradient is 0 everywhere."""
    return (x > 0).astype(x.dtype)


def absolute(x: Array) -> Array:
    """g(x) = |x|; g'(0) = 0. Jarrett et al. 2009."""
    # the gradient of jnp.abs at 0 is 1
    return x * jax.lax.stop_gradient(jnp.sign(x))


def leaky_relu(x: Array, slope: float | Array = 0.01) -> Array:
    """g(x) = x if x > 0, else slope · x; g'(0) = slope. Maas et al. 2013."""
    return jnp.where(x > 0, x, slope * x)


def elu(x: Array, alpha: float = 1.0) -> Array:
    """g(x) = x if x > 0, else α(eˣ − 1); differentiable at 0 for α = 1. Clevert et al. 2015."""
    # expm1 of the positive side would overflow, and its gradient would turn into NaN
    return jnp.where(x > 0, x, alpha * jnp.expm1(jnp.where(x > 0, 0.0, x)))


def gelu(x: Array) -> Array:
    """g(x) = x Φ(x), Φ the normal distribution function. Hendrycks and Gimpel 2016."""
    return _gelu_of_input(x) if target_platform() == "gpu" else jax.nn.gelu(x, approximate=False)


@jax.custom_vjp
def _gelu_of_input(x: Array) -> Array:
    """`gelu`, whose gradient is computed from x alone: on a GPU to keep a second array takes longer than to compute it."""
    return _gelu_forward(x)[0]


def _gelu_forward(x: Array) -> tuple[Array, Array]:
    wide = x.astype(jnp.float32)
    return (0.5 * wide * (1.0 + jax.lax.erf(wide * math.sqrt(0.5)))).astype(x.dtype), x


def _gelu_backward(x: Array, g: Array) -> tuple[Array]:
    wide = x.astype(jnp.float32)
    below = 0.5 * (1.0 + jax.lax.erf(wide * math.sqrt(0.5)))
    density = jnp.exp(-0.5 * jnp.square(wide)) * (1.0 / math.sqrt(2.0 * math.pi))
    return (((below + wide * density) * g.astype(jnp.float32)).astype(x.dtype),)


_gelu_of_input.defvjp(_gelu_forward, _gelu_backward)


def maxout(x: Array, pieces: int) -> Array:
    """The maximum of each group of `pieces` neighbouring channels: [..., F·pieces] to [..., F]. Goodfellow et al. 2013.

    The gradient goes to the largest piece; equal ones share it.

    Raises:
      ValueError: if pieces does not divide the channels.
    """
    if x.shape[-1] % pieces:
        raise ValueError(f"maxout of {pieces} pieces cannot group {x.shape[-1]} channels")
    return x.reshape(*x.shape[:-1], -1, pieces).max(-1)


class PReLU(nn.Module):
    """g(x) = x if x > 0, else αx with one learned α for each channel. He et al. 2015.

    Attributes:
      initial_slope: first α.
      dtype: dtype of the computation; None for that of the input.
    """

    initial_slope: float = 0.25
    dtype: Any = None

    @nn.compact
    def __call__(self, x: Array, train: bool = False) -> Array:
        """Maps x [..., C] to the same shape."""
        slope = self.param("slope", nn.initializers.constant(self.initial_slope), x.shape[-1:], jnp.float32)
        return leaky_relu(x, slope.astype(x.dtype))


class NoisyReLU(nn.Module):
    """g(x) = max(0, x + √σ(x) · ε), ε ~ N(0, 1), in training and max(0, x) otherwise. Nair and Hinton 2010.

    σ is the sigmoid; ε of each example comes from the rng collection "noise" and the example's row
    (`jaxdl.nn.context`). The scale √σ(x) counts as constant in the gradient.
    """

    @nn.compact
    def __call__(self, x: Array, train: bool = False) -> Array:
        """Maps x [B, ...] to the same shape."""
        if train:
            keys = row_keys(self.make_rng("noise"), x.shape[0])
            noise = jax.vmap(lambda key: jax.random.normal(key, x.shape[1:], x.dtype))(keys)
            x = x + jnp.sqrt(jax.lax.stop_gradient(jax.nn.sigmoid(x))) * noise
        return jax.nn.relu(x)


_FUNCTIONS: dict[str, Callable[..., Array]] = {
    "identity": identity,
    "step": step,
    "sigmoid": jax.nn.sigmoid,
    "tanh": jnp.tanh,
    "relu": jax.nn.relu,  # its gradient at 0 is 0
    "abs": absolute,
    "leaky_relu": leaky_relu,
    "elu": elu,
    "softplus": jax.nn.softplus,
    "gelu": gelu,
    "silu": jax.nn.silu,
    "maxout": maxout,
}
_MODULES: dict[str, Callable[..., nn.Module]] = {"prelu": PReLU, "noisy_relu": NoisyReLU}

ACTIVATIONS = (*_FUNCTIONS, *_MODULES)
# those without parameters, noise or pieces, for any model
PLAIN_ACTIVATIONS = tuple(name for name in _FUNCTIONS if name != "maxout")
# those for models that ask for one in each layer and pass `train` on to it
LAYER_ACTIVATIONS = (*PLAIN_ACTIVATIONS, *_MODULES)


@dataclasses.dataclass(frozen=True)
class Elementwise:
    """A function of `ACTIVATIONS` with its options, called like the modules among them."""

    name: str
    options: tuple[tuple[str, Any], ...] = ()

    def __call__(self, x: Array, train: bool = False) -> Array:
        """Applies the function to x [..., C]; `train` changes nothing."""
        return _FUNCTIONS[self.name](x, **dict(self.options))


def get_activation(name: str, **options: Any) -> Callable[..., Array]:
    """The activation called `name`, to be called as `activation(x, train)`.

    PReLU has parameters and noisy ReLU draws noise, so ask for them inside a module's `__call__` (or `setup`).

    Args:
      name: one of `ACTIVATIONS`.
      **options: leaky_relu: slope; elu: alpha; maxout: pieces; prelu: initial_slope.

    Raises:
      ValueError: for an unknown name, or maxout without pieces.
    """
    if name in _MODULES:
        return _MODULES[name](**options)
    if name not in _FUNCTIONS:
        raise ValueError(f"unknown activation {name!r}; choose one of {', '.join(ACTIVATIONS)}")
    if name == "maxout" and "pieces" not in options:
        raise ValueError("maxout needs the number of pieces: get_activation('maxout', pieces=2)")
    return Elementwise(name, tuple(sorted(options.items())))
