"""Translation of one sequence into another: teacher forcing, greedy and beam decoding.

Shapes: `B` rows, `S` source tokens, `T` target tokens, `V` target vocabulary, `K` hypotheses. A batch holds "source" [B, S]
and "target" [B, T]; targets end with END and both are filled with PAD.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import optax

from jaxdl.engine.experiment import Metrics
from jaxdl.engine.state import Mean, State
from jaxdl.nn.beam import beam_search, greedy_search
from jaxdl.nn.context import batch_context
from jaxdl.objectives.classification import accuracy, softmax_cross_entropy
from jaxdl.tasks.supervised import NET, Supervised

Array = jax.Array
Batch = Mapping[str, Array]

PAD, START, END = 0, 1, 2
SPECIAL = 3


@dataclass(frozen=True)
class Translation(Supervised):
    """Minimises the mean over target tokens of -log p(y_t | y_1 ... y_{t-1}, source), the true y given (teacher forcing).

    The model is called as `model(source, before, train=...)` and offers `read(source) -> memory`,
    `begin(memory, length) -> carry` and `decode(token, memory, carry) -> (logits, carry)`; leaves of memory and carry are
    [B, ...] or scalars.

    Attributes:
      beams: K of `predict`.
      attention: path of the sown weights [B, H, T, S] that `predict` shows, as "decoder_1/cross_attention".
    """

    beams: int = 5
    attention: str = ""

    def evaluate(self, state: State, batch: Batch, key: Array) -> tuple[State, Metrics]:
        """Loss and token accuracy with teacher forcing, and "exact_match": the share of rows whose greedy translation is
        the target, token for token."""
        state, metrics = super().evaluate(state, batch, key)
        target = batch["target"].astype(jnp.int32)
        tokens, _ = self.greedy(state, batch["source"], target.shape[1])
        exact = (tokens == target).all(axis=-1)
        return state, {**metrics, "exact_match": Mean.of(exact, batch["mask"])}

    def predict(self, state: State, batch: Batch) -> dict[str, Array]:
        """Of each row:

        Returns:
          "hypotheses" [B, K, T] int32 by beam search, best first, and "scores" [B, K], their log p;
          "greedy" [B, T] int32;
          "attention" [B, T, S]: where the best hypothesis looks, the mean over heads.
        """
        length = batch["target"].shape[1]
        source = batch["source"].astype(jnp.int32)
        hypotheses, scores = self.beam(state, source, length)
        found = {"hypotheses": hypotheses, "scores": scores, "greedy": self.greedy(state, source, length)[0]}
        return {**found, "attention": self._attention(state, source, hypotheses[:, 0])}

    def greedy(self, state: State, source: Array, length: int) -> tuple[Array, Array]:
        """Tokens [B, T] and log p [B] of the greedy translation of `source` [B, S]."""
        decode, carry = self._decoder(state, source, length, 1)
        return greedy_search(decode, carry, jnp.full(source.shape[0], START), length, END, PAD)

    def beam(self, state: State, source: Array, length: int, length_penalty: float = 0.0) -> tuple[Array, Array]:
        """Tokens [B, K, T] and scores [B, K] of the best translations of `source` [B, S]; see `beam_search`."""
        decode, carry = self._decoder(state, source, length, self.beams)
        start = jnp.full(source.shape[0], START)
        return beam_search(decode, carry, start, self.beams, length, END, PAD, length_penalty)

    def _decoder(self, state: State, source: Array, length: int, beams: int):
        """(token [B K], carry) -> (logits, carry), and the first carry of the B rows."""
        variables = self._variables(state.nets[NET])
        source = source.astype(jnp.int32)

        def call(method: str, *arguments: Any) -> Any:
            with batch_context(dtype=self.dtype):
                return self.model.apply(variables, *arguments, method=method)

        memory = call("read", source)
        # the memory is the same for all hypotheses of a row, so that only the carry follows them
        repeated = jax.tree.map(lambda leaf: jnp.repeat(leaf, beams, axis=0), memory)
        carry = call("begin", memory, length)

        def decode(token: Array, carry: Any) -> tuple[Array, Any]:
            logits, new = call("decode", token, repeated, carry)
            return logits, jax.tree.map(lambda a, b: a.astype(b.dtype), new, carry)

        return decode, carry

    def _attention(self, state: State, source: Array, target: Array) -> Array:
        with batch_context(dtype=self.dtype):
            _, sown = self.model.apply(
                self._variables(state.nets[NET]), source, shifted(target), train=False, mutable=["intermediates"]
            )
        found = sown["intermediates"]
        for name in filter(None, self.attention.split("/")):
            found = found[name]
        return found["weights"][0].astype(jnp.float32).mean(axis=1)

    def _inputs(self, batch: Batch) -> tuple[Array, ...]:
        return batch["source"].astype(jnp.int32), shifted(batch["target"])


def shifted(target: Array) -> Array:
    """What stands before each token of `target` [B, T]: START and all but the last, int32."""
    target = target.astype(jnp.int32)
    return jnp.concatenate([jnp.full_like(target[:, :1], START), target[:, :-1]], axis=1)


def cross_entropy(logits: Array, batch: Batch, hyper: Mapping[str, Array]) -> Array:
    """Sum of -log p over each row's target tokens, [B], with the state's label smoothing."""
    target = batch["target"].astype(jnp.int32)
    nats = softmax_cross_entropy(logits, target, hyper["label_smoothing"])
    return jnp.where(target != PAD, nats, 0.0).sum(axis=-1)


def token_accuracy(logits: Array, batch: Batch) -> Array:
    """How many of each row's target tokens have the largest logit, given the true ones before, [B]."""
    target = batch["target"].astype(jnp.int32)
    return jnp.where(target != PAD, accuracy(logits, target), 0.0).sum(axis=-1)


def target_tokens(batch: Batch) -> Array:
    """How many target tokens each row has, END among them, [B]."""
    return (batch["target"] != PAD).sum(axis=-1).astype(jnp.float32)


def translation(
    model: nn.Module,
    optimizer: optax.GradientTransformationExtraArgs,
    source_length: int,
    target_length: int,
    **changes: Any,
) -> Translation:
    """A translator; see `Translation`.

    Args:
      model: as `Translation` says.
      optimizer: see `Supervised`.
      source_length, target_length: S and T.
      **changes: further fields of `Translation`.

    Its phase's `hyper` needs "label_smoothing" beside the optimiser's.
    """
    inputs = [jax.ShapeDtypeStruct((length,), jnp.int32) for length in (source_length, target_length)]
    return Translation(
        model=model,
        loss=cross_entropy,
        optimizer=optimizer,
        example=tuple(inputs),
        metrics={"token_accuracy": token_accuracy},
        inputs=("source", "target"),
        weights=target_tokens,
        **changes,
    )
