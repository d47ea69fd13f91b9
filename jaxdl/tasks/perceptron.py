"""Rosenblatt's perceptron: a threshold unit has no gradient, and learns by its own rule."""

from collections.abc import Mapping
from dataclasses import dataclass

import jax
import jax.numpy as jnp

from jaxdl.engine.experiment import Metrics
from jaxdl.engine.state import Mean, Net, State
from jaxdl.models.perceptron import perceptron

Array = jax.Array
NET = "perceptron"


@dataclass(frozen=True)
class Perceptron:
    """w <- w + rate sum (t - y) x over a batch; converges where the classes are linearly separable (Novikoff 1962).

    Attributes:
      inputs: length n of `batch["input"]` [B, n].
      axis: pmap's axis name, set by the engine.
    """

    inputs: int
    axis: str | None = None

    def init(self, key: Array, hyper: Mapping[str, Array]) -> State:
        """Zero weights; `key` is not used."""
        params = {"weights": jnp.zeros(self.inputs), "bias": jnp.zeros(())}
        return State(step=jnp.int32(0), nets={NET: Net(params)}, hyper=dict(hyper))

    def step(self, state: State, batch: Mapping[str, Array], key: Array) -> tuple[State, Metrics]:
        """One update by the batch's mistakes; `batch["target"]` [B] is 0 or 1."""
        params = state.nets[NET].params
        mistakes = (batch["target"] - perceptron(batch["input"], **params)) * batch["mask"]
        change = {"weights": mistakes @ batch["input"], "bias": mistakes.sum()}
        if self.axis is not None:
            change = jax.lax.psum(change, self.axis)
        rate = state.hyper["learning_rate"]
        params = jax.tree.map(lambda old, new: old + rate * new, params, change)
        return state.replace(nets={NET: Net(params)}), {"error": Mean.of(jnp.abs(mistakes), batch["mask"])}

    def evaluate(self, state: State, batch: Mapping[str, Array], key: Array) -> tuple[State, Metrics]:
        """Share of wrong answers."""
        answers = perceptron(batch["input"], **state.nets[NET].params)
        return state, {"error": Mean.of(jnp.abs(batch["target"] - answers), batch["mask"])}

    def for_evaluation(self, state: State) -> State:
        """As it is."""
        return state

    def predict(self, state: State, batch: Mapping[str, Array]) -> dict[str, Array]:
        """{"answer": 0 or 1 for each row}."""
        return {"answer": perceptron(batch["input"], **state.nets[NET].params)}
