"""Regression: real targets by squared error."""

from collections.abc import Mapping
from typing import Any

import flax.linen as nn
import jax
import optax

from jaxdl.objectives.regression import absolute_error, squared_error
from jaxdl.tasks.supervised import Supervised

Array = jax.Array


def squared(outputs: Array, batch: Mapping[str, Array], hyper: Mapping[str, Array]) -> Array:
    """Sum over D of (y - target)^2, [B]."""
    del hyper
    return squared_error(outputs, batch["target"])


def absolute(outputs: Array, batch: Mapping[str, Array]) -> Array:
    """Sum over D of |y - target|, [B]."""
    return absolute_error(outputs, batch["target"])


def regression(
    model: nn.Module, optimizer: optax.GradientTransformationExtraArgs, example: tuple[int, ...], **changes: Any
) -> Supervised:
    """A network [B, *example] -> [B, D] by the mean squared error to `batch["target"]` [B, D].

    Args:
      model: outputs [B, D].
      optimizer: see `Supervised`.
      example: shape of one `batch["input"]`.
      **changes: further fields of `Supervised`.
    """
    return Supervised(
        model=model,
        loss=squared,
        optimizer=optimizer,
        example=example,
        metrics={"absolute_error": absolute},
        predictions=lambda outputs: {"prediction": outputs},
        **{"inputs": "input", **changes},
    )
