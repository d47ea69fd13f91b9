"""Classification with a price on active hidden units, which each network draws for itself."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import optax

from jaxdl.engine.state import State
from jaxdl.objectives.classification import accuracy
from jaxdl.tasks.classification import cross_entropy, probabilities
from jaxdl.tasks.supervised import Batch, Supervised

Array = jax.Array
PRICE = "activation_l1"


@dataclass(frozen=True)
class Sparse(Supervised):
    """`Supervised` whose State holds a price of activation of its own: hyper["activation_l1"] ~ U(0, what was given).

    It is drawn from the seed's key, so that many seeds in one program are networks from dense to sparse.
    """

    def init(self, key: Array, hyper: Mapping[str, Array]) -> State:
        """As `Supervised`; the given price becomes the drawn one."""
        share = jax.random.uniform(jax.random.fold_in(key, 1), (), jnp.float32)
        return super().init(key, {**hyper, PRICE: share * hyper[PRICE]})


def penalised(outputs: Mapping[str, Array], batch: Batch, hyper: Mapping[str, Array]) -> Array:
    """Softmax cross entropy + hyper["activation_l1"] Σ |h| over an example's hidden units, [B] in nats."""
    return cross_entropy(outputs["logits"], batch, hyper) + hyper[PRICE] * outputs["activation"]


def sparse_classification(
    model: nn.Module, optimizer: optax.GradientTransformationExtraArgs, example: tuple[Any, ...], **changes: Any
) -> Sparse:
    """A classifier by cross entropy and L1 of the activations; metrics "accuracy", "zeros" and "activation".

    Args:
      model: {"logits" [B, K], "zeros" [B], "activation" [B]}, see `jaxdl.models.mlp.CountingMLP`.
      optimizer: see `Supervised`.
      example: shape of one input.
      **changes: further fields of `Supervised`.

    Its phase's `hyper` needs "label_smoothing" and the largest "activation_l1" beside the optimiser's.
    """
    return Sparse(
        model=model,
        loss=penalised,
        optimizer=optimizer,
        example=example,
        metrics={
            "accuracy": lambda outputs, batch: accuracy(outputs["logits"], batch["label"]),
            "zeros": lambda outputs, batch: outputs["zeros"],
            "activation": lambda outputs, batch: outputs["activation"],
        },
        predictions=lambda outputs: {**probabilities(outputs["logits"]), "zeros": outputs["zeros"]},
        **changes,
    )
