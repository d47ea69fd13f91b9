"""Values that XLA:CPU computes once instead of anew for each that uses them."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax import lax

from jaxdl.target import target_platform

Array = jax.Array


def stored(function: Callable[..., Array], *arrays: Array) -> Array:
    """`function(*arrays)`, on CPU written to memory once.

    XLA:CPU fuses elementwise operations into everything that uses their result and drops optimization barriers before.
    Along a chain of residual blocks each user then computes all sums from the first block on: almost half of the step
    of a ResNet-20 (jax 0.10.2). The result of a condition is a buffer, so the function becomes the branch of one that
    always holds, which XLA cannot know. Other backends take the plain way.

    Args:
      function: arrays -> array, elementwise.
      *arrays: floating point.
    """
    if target_platform() != "cpu" or arrays[0].size == 0:
        return function(*arrays)
    result = jax.eval_shape(function, *arrays)
    first = arrays[0][(0,) * arrays[0].ndim]
    always = (first <= jnp.inf) | jnp.isnan(first)
    return lax.cond(always, function, lambda *_: jnp.zeros(result.shape, result.dtype), *arrays)
