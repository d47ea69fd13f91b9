"""Classification: one of K classes from an input."""

from collections.abc import Mapping
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import optax

from jaxdl.objectives.classification import accuracy, softmax_cross_entropy
from jaxdl.tasks.supervised import Supervised

Array = jax.Array


def cross_entropy(logits: Array, batch: Mapping[str, Array], hyper: Mapping[str, Array]) -> Array:
    """Softmax cross entropy [B] in nats with the state's label smoothing; a mixed-up image counts for both its labels."""
    smoothing = hyper["label_smoothing"]
    loss = softmax_cross_entropy(logits, batch["label"], smoothing)
    if "mix" in batch:
        weight = batch["mix"]
        loss = weight * loss + (1.0 - weight) * softmax_cross_entropy(logits, batch["label_mix"], smoothing)
    return loss


def label_accuracy(logits: Array, batch: Mapping[str, Array]) -> Array:
    """1 where the largest logit is the label's, [B]."""
    return accuracy(logits, batch["label"])


def probabilities(logits: Array) -> dict[str, Array]:
    """{"probabilities": softmax of logits [B, K]} in float32."""
    return {"probabilities": jax.nn.softmax(logits.astype(jnp.float32))}


def classification(
    model: nn.Module, optimizer: optax.GradientTransformationExtraArgs, example: tuple[Any, ...], **changes: Any
) -> Supervised:
    """A classifier by softmax cross entropy; `batch["label"]` [B] are class numbers.

    Args:
      model: logits [B, K].
      optimizer: see `Supervised`.
      example: shape of one input, or of several; see `Supervised`.
      **changes: further fields of `Supervised`.

    Its phase's `hyper` needs "label_smoothing" beside the optimiser's.
    """
    return Supervised(
        model=model,
        loss=cross_entropy,
        optimizer=optimizer,
        example=example,
        metrics={"accuracy": label_accuracy},
        predictions=probabilities,
        **changes,
    )
