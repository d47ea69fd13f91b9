"""Transcription: a string of labels from a sequence of frames, without knowing which frame belongs to which label."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import optax

from jaxdl.engine.experiment import Metrics
from jaxdl.engine.state import Mean
from jaxdl.objectives.classification import softmax_cross_entropy
from jaxdl.objectives.ctc import best_path, ctc_loss
from jaxdl.objectives.edit_distance import edit_distance
from jaxdl.tasks.supervised import Batch, Supervised

Array = jax.Array
INPUTS = ("speech", "frames")


@dataclass(frozen=True)
class Transcription(Supervised):
    """Supervised learning of label strings by CTC.

    Beside the metrics of `Supervised`, "digit_error_rate" is the edit distance of the greedily decoded strings to
    `batch["digits"]` [B, L] in all, divided by all their labels, `batch["count"]` [B].
    """

    def _measure(self, outputs: Any, batch: Batch, hyper: Mapping[str, Array]) -> Metrics:
        found = super()._measure(outputs, batch, hyper)
        errors = Mean.of(wrong_labels(outputs, batch), batch["mask"]).total
        return found | {"digit_error_rate": Mean(errors, Mean.of(batch["count"], batch["mask"]).total)}


def transcription(
    model: nn.Module, optimizer: optax.GradientTransformationExtraArgs, example: tuple[Any, ...], **changes: Any
) -> Transcription:
    """A transcriber by CTC.

    Args:
      model: (batch["speech"] [B, T, M], batch["frames"] [B]) -> {"logits", "framewise" [B, T', C], "frames" [B]}.
      optimizer: see `Supervised`.
      example: of the two inputs; see `Supervised`.
      **changes: further fields of `Supervised`.
    """
    return Transcription(
        model=model,
        loss=string_loss,
        optimizer=optimizer,
        example=example,
        metrics={"string_accuracy": string_accuracy, "framewise_accuracy": framewise_accuracy},
        predictions=posteriors,
        inputs=INPUTS,
        **changes,
    )


def string_loss(outputs: Mapping[str, Array], batch: Batch, hyper: Mapping[str, Array]) -> Array:
    """-log P(digits | speech) [B] in nats; its gradient also trains the framewise outputs, on cross entropy."""
    del hyper
    loss = ctc_loss(outputs["logits"], outputs["frames"], batch["digits"], batch["count"])
    framewise = _framewise_loss(outputs, batch)
    # the value stays CTC's: the framewise outputs share no weights with it
    return loss + framewise - jax.lax.stop_gradient(framewise)


def wrong_labels(outputs: Mapping[str, Array], batch: Batch) -> Array:
    """Edit distance [B] of the greedily decoded strings to the true ones."""
    path, kept = best_path(outputs["logits"], outputs["frames"])
    return edit_distance(path, kept, batch["digits"], batch["count"])


def string_accuracy(outputs: Mapping[str, Array], batch: Batch) -> Array:
    """1 where the whole string is right, [B]."""
    return (wrong_labels(outputs, batch) == 0).astype(jnp.float32)


def framewise_accuracy(outputs: Mapping[str, Array], batch: Batch) -> Array:
    """Share of the frames [B] whose digit, or silence, the framewise outputs find."""
    targets, counted = _frame_targets(outputs, batch)
    right = (jnp.argmax(outputs["framewise"], axis=-1) == targets) & counted
    return right.sum(axis=1) / jnp.maximum(counted.sum(axis=1), 1)


def posteriors(outputs: Mapping[str, Array]) -> dict[str, Array]:
    """{"log_probabilities", "framewise" [B, T', C], "frames" [B]}, all float32, so that seeds can be averaged."""
    return {
        "log_probabilities": jax.nn.log_softmax(outputs["logits"].astype(jnp.float32)),
        "framewise": jax.nn.log_softmax(outputs["framewise"].astype(jnp.float32)),
        "frames": outputs["frames"].astype(jnp.float32),
    }


def _frame_targets(outputs: Mapping[str, Array], batch: Batch) -> tuple[Array, Array]:
    """The true class of each output frame [B, T'] and whether it counts."""
    length = outputs["framewise"].shape[1]
    stride = -(-batch["alignment"].shape[1] // length)
    targets = batch["alignment"][:, ::stride]
    return targets, jnp.arange(length) < outputs["frames"][:, None]


def _framewise_loss(outputs: Mapping[str, Array], batch: Batch) -> Array:
    targets, counted = _frame_targets(outputs, batch)
    losses = softmax_cross_entropy(outputs["framewise"], targets)
    return jnp.where(counted, losses, 0.0).sum(axis=1) / jnp.maximum(counted.sum(axis=1), 1)
