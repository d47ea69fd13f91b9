"""Classification by logistic output units that keeps, for every update, how large the error signal is in each layer."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import optax
from jax import lax

from jaxdl.engine.experiment import Metrics
from jaxdl.engine.state import Mean, Net, State
from jaxdl.objectives.classification import bernoulli_nll
from jaxdl.tasks.classification import label_accuracy
from jaxdl.tasks.supervised import Batch, Supervised

Array = jax.Array
TRACE = "delta_norms"


@dataclass(frozen=True)
class GradientFlow(Supervised):
    """`Supervised` that records ||mean over the batch of δ^l|| for some dense layers l, before each update.

    δ^l = ∂C/∂z^l is one example's error in the layer's weighted inputs; its mean over the batch is the gradient of the
    layer's biases, so nothing more has to be computed. It stands in the metrics as "delta_norm/<layer>", and of all
    updates in `state.extra["delta_norms"]` [updates, L].

    Attributes:
      traced: names of the L layers, from the input to the output.
      updates: how many updates the trace has room for.
    """

    traced: tuple[str, ...] = ()
    updates: int = 0

    def init(self, key: Array, hyper: Mapping[str, Array]) -> State:
        """As `Supervised`, with an empty trace."""
        trace = jnp.zeros((self.updates, len(self.traced)), jnp.float32)
        return super().init(key, hyper).replace(extra={TRACE: trace})

    def step(self, state: State, batch: Batch, key: Array) -> tuple[State, Metrics]:
        """One update; see `Task.step`."""
        new, metrics = super().step(state, batch, key)
        found = [metrics[f"delta_norm/{name}"] for name in self.traced]
        norms = jnp.stack([self._psum(mean.total) / self._psum(mean.count) for mean in found])
        return new.replace(extra={TRACE: state.extra[TRACE].at[state.step].set(norms)}), metrics

    def _gradient(self, net: Net, batch: Batch, key: Array, hyper: Any):
        grads, stats, metrics, kept = super()._gradient(net, batch, key, hyper)
        one = jnp.float32(1.0)
        share = one if self.axis is None else one / lax.psum(1, self.axis)
        norms = {f"delta_norm/{name}": optax.tree.norm(grads[name]["bias"]) for name in self.traced}
        return grads, stats, metrics | {name: Mean(value * share, share) for name, value in norms.items()}, kept

    def _psum(self, value: Array) -> Array:
        return value if self.axis is None else lax.psum(value, self.axis)


def logistic_cross_entropy(logits: Array, batch: Batch, hyper: Mapping[str, Array]) -> Array:
    """-Σ_k t_k log σ(z_k) + (1 - t_k) log(1 - σ(z_k)) [B] in nats, t the label as a one-hot vector."""
    del hyper
    return bernoulli_nll(logits, jax.nn.one_hot(batch["label"], logits.shape[-1]))


def gradient_flow(
    model: nn.Module, optimizer: optax.GradientTransformationExtraArgs, example: tuple[Any, ...], **changes: Any
) -> GradientFlow:
    """A classifier with one logistic unit a class.

    Args:
      model: logits [B, K].
      optimizer: see `Supervised`.
      example: shape of one input.
      **changes: further fields of `GradientFlow`: `traced` and `updates`.
    """
    return GradientFlow(
        model=model,
        loss=logistic_cross_entropy,
        optimizer=optimizer,
        example=example,
        metrics={"accuracy": label_accuracy},
        predictions=lambda logits: {"probabilities": jax.nn.sigmoid(logits.astype(jnp.float32))},
        **changes,
    )
