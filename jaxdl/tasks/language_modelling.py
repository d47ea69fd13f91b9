"""Language modelling: the next token from those before it, by models with or without a carry."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax

from jaxdl.engine.experiment import Metrics, Serving
from jaxdl.engine.state import State
from jaxdl.objectives.classification import accuracy, softmax_cross_entropy
from jaxdl.tasks.supervised import NET, Supervised

Array = jax.Array
Batch = Mapping[str, Array]


@dataclass(frozen=True)
class LanguageModelling(Supervised):
    """Minimises the mean over all counted characters of -log p(c_t | c_1 ... c_{t-1}).

    A model with a carry is called as `model(tokens, reset=..., carry=..., train=...)` and gives (logits, carry), and its
    `zero_carry(B)` is what `state.local` starts from. In training the carry flows from each batch to the next
    (`jaxdl.data.text_source.Streams`), but no gradient does: that is truncated backpropagation through time. A model
    without one is called as `model(tokens, train=...)` and gives logits. Evaluation reads each row from a fresh carry.

    Attributes:
      streams: rows B of the training batch whose carry `state.local` keeps; 0: the model has none.
      items_per_step: characters of one training batch.
    """

    streams: int = 0
    items_per_step: int = 0

    def init(self, key: Array, hyper: Mapping[str, Array]) -> State:
        """Parameters from `key`, and the carry of each stream."""
        state = super().init(key, hyper)
        return state.replace(local=self.model.zero_carry(self.streams)) if self.streams else state

    def step(self, state: State, batch: Batch, key: Array) -> tuple[State, Metrics]:
        """One update on a chunk of each stream; see `Task.step`."""
        return super().step(state, self._carrying(state, batch), key)

    def probe(self, state: State, batch: Batch, key: Array) -> Metrics:
        """See `Supervised.probe`."""
        return super().probe(state, self._carrying(state, batch), key)

    def predict(self, state: State, batch: Batch) -> dict[str, Array]:
        """Of each row [B, T]: "nats" -log p of the targets, "right", and "weight" as in the batch."""
        logits = self._logits(self._apply(state.nets[NET], batch))
        nats = softmax_cross_entropy(logits, batch["target"])
        return {"nats": nats, "right": accuracy(logits, batch["target"]), "weight": batch["weight"]}

    def serving(self) -> Serving:
        """{"tokens" [B, T]} -> {"logits" [B, T, V]} of the token after each; see `Task`."""

        def logits(state: State, inputs: Batch) -> dict[str, Array]:
            return {"logits": self._logits(self._apply(state.nets[NET], inputs))}

        return Serving(logits, {"tokens": self.example[0]})

    def _carrying(self, state: State, batch: Batch) -> Batch:
        return {**batch, "carry": state.local} if self.streams else batch

    def _keywords(self, batch: Batch) -> dict[str, Any]:
        return {"carry": batch["carry"], "reset": batch["reset"]} if "carry" in batch else {}

    def _kept(self, outputs: Any) -> Any:
        return outputs[1] if self.streams else None

    def _logits(self, outputs: Any) -> Array:
        return outputs[0] if self.streams else outputs

    def _measure(self, outputs: Any, batch: Batch, hyper: Mapping[str, Array]) -> Metrics:
        return super()._measure(self._logits(outputs), batch, hyper)


def nats(logits: Array, batch: Batch, hyper: Mapping[str, Array]) -> Array:
    """Sum of -log p over the characters of each row that count, [B]."""
    del hyper
    return (softmax_cross_entropy(logits, batch["target"]) * batch["weight"]).sum(axis=-1)


def bits(logits: Array, batch: Batch) -> Array:
    """`nats` in bits, [B]."""
    return nats(logits, batch, {}) / np.log(2.0)


def right(logits: Array, batch: Batch) -> Array:
    """How many of the row's characters that count have the largest logit, [B]."""
    return (accuracy(logits, batch["target"]) * batch["weight"]).sum(axis=-1)


def characters(batch: Batch) -> Array:
    """How many characters of each row count, [B]."""
    return batch["weight"].sum(axis=-1)


def language_modelling(
    model: nn.Module,
    optimizer: optax.GradientTransformationExtraArgs,
    batch_size: int,
    length: int,
    **changes: Any,
) -> LanguageModelling:
    """A model of texts by the mean negative log-likelihood of a character, in nats.

    Args:
      model: see `LanguageModelling`; it has a carry if it has `zero_carry`.
      optimizer: see `Supervised`.
      batch_size: rows of a training batch.
      length: characters of a row.
      **changes: further fields of `Supervised`.
    """
    return LanguageModelling(
        model=model,
        loss=nats,
        optimizer=optimizer,
        example=(jax.ShapeDtypeStruct((length,), jnp.int32),),
        metrics={"bits": bits, "accuracy": right},
        inputs="tokens",
        weights=characters,
        halves=not hasattr(model, "zero_carry"),
        streams=batch_size if hasattr(model, "zero_carry") else 0,
        items_per_step=batch_size * length,
        **changes,
    )
