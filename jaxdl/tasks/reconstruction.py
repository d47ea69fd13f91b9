"""Reconstruction: the input is the target, through a code (autoencoder) or a sampled one (variational autoencoder)."""

import functools
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jax import lax

from jaxdl.engine.experiment import Metrics
from jaxdl.engine.state import State
from jaxdl.models.autoencoder import Autoencoder
from jaxdl.models.vae import VAE
from jaxdl.nn.context import batch_context
from jaxdl.nn.noise import fold_in, row_bernoulli
from jaxdl.objectives.classification import bernoulli_nll
from jaxdl.objectives.elbo import kl_to_standard_normal, negative_bound
from jaxdl.objectives.regression import squared_error
from jaxdl.tasks.supervised import NET, Supervised

Array = jax.Array
Batch = Mapping[str, Array]
Outputs = Mapping[str, Array]

OUTPUTS = ("logistic", "linear")


def flat(images: Array) -> Array:
    """[B, ...] as [B, D]."""
    return images.reshape(images.shape[0], -1)


@dataclass(frozen=True)
class Reconstruction(Supervised):
    """Supervised learning with the input as target; predictions come with each row's metrics."""

    def predict(self, state: State, batch: Batch) -> dict[str, Array]:
        """{"reconstruction" [B, D], "code" [B, K], "squared_error" [B]} of each row."""
        outputs = self._apply(state.nets[NET], batch)
        return {**self.predictions(outputs), **{name: metric(outputs, batch) for name, metric in self.metrics.items()}}


def reconstruction(
    model: Autoencoder,
    optimizer: optax.GradientTransformationExtraArgs,
    example: tuple[int, ...],
    output: str = "logistic",
    **changes: Any,
) -> Reconstruction:
    """An autoencoder by cross entropy (logistic output units) or squared error (linear ones) to its own input.

    Its metric "squared_error" is Σ (x − x̂)² over an example's values, as published by Hinton & Salakhutdinov 2006.

    Args:
      model: gives "code" and "output".
      optimizer: see `Supervised`.
      example: shape of one `batch["image"]`, values in [0, 1] for logistic units.
      output: one of `OUTPUTS`.
      **changes: further fields of `Supervised`.

    Raises:
      ValueError: unknown output units.
    """
    if output not in OUTPUTS:
        raise ValueError(f"output units are {' or '.join(OUTPUTS)}, got {output!r}")
    return Reconstruction(
        model=model,
        loss=_cross_entropy if output == "logistic" else _squared_loss,
        optimizer=optimizer,
        example=example,
        metrics={"squared_error": functools.partial(reconstruction_error, output=output)},
        predictions=functools.partial(_reconstructions, output=output),
        **changes,
    )


def reconstruction_error(outputs: Outputs, batch: Batch, output: str) -> Array:
    """Σ (x − x̂)² over each example, [B]."""
    return squared_error(_reconstructions(outputs, output)["reconstruction"], flat(batch["image"]))


def _reconstructions(outputs: Outputs, output: str) -> dict[str, Array]:
    found = outputs["output"].astype(jnp.float32)
    return {"reconstruction": jax.nn.sigmoid(found) if output == "logistic" else found, "code": outputs["code"]}


def _cross_entropy(outputs: Outputs, batch: Batch, hyper: Mapping[str, Array]) -> Array:
    del hyper
    return bernoulli_nll(outputs["output"], flat(batch["image"]))


def _squared_loss(outputs: Outputs, batch: Batch, hyper: Mapping[str, Array]) -> Array:
    del hyper
    return squared_error(outputs["output"], flat(batch["image"]))


@dataclass(frozen=True)
class Variational(Supervised):
    """A variational autoencoder on images that are binarised anew each time they are seen.

    A pixel x in [0, 1] is one with probability x, drawn for each example from the step's key and the example's row.
    Evaluation averages the one-sample bound over `passes` passes, each with its own binarisation and its own ε.

    Attributes:
      passes: of an evaluation.
    """

    passes: int = 10

    def step(self, state: State, batch: Batch, key: Array) -> tuple[State, Metrics]:
        """One update; see `Task.step`."""
        return super().step(state, self._binarised(batch, key), key)

    def probe(self, state: State, batch: Batch, key: Array) -> Metrics:
        """As `Supervised.probe`, on binarised images."""
        return super().probe(state, self._binarised(batch, key), key)

    def evaluate(self, state: State, batch: Batch, key: Array) -> tuple[State, Metrics]:
        """The negative bound and its parts, averaged over the passes."""

        def one(number: Array) -> Metrics:
            return self._pass(state, batch, jax.random.fold_in(key, number))[1]

        metrics = lax.map(one, jnp.arange(self.passes))
        return state, jax.tree.map(lambda leaf: leaf.sum(axis=0), metrics)

    def predict(self, state: State, batch: Batch) -> dict[str, Array]:
        """{"reconstruction" [B, D] and "code" [B, L] from the mean of q for the image thresholded at ½, "bound" [B] as
        in `evaluate`}; the same each time."""
        x = {**batch, "image": (batch["image"] > 0.5).astype(jnp.float32)}
        outputs = self._apply(state.nets[NET], x)
        key = jax.random.key(0)
        bounds = lax.map(lambda i: self._bound(state, batch, jax.random.fold_in(key, i)), jnp.arange(self.passes))
        return {
            "reconstruction": jax.nn.sigmoid(outputs["logits"]),
            "code": outputs["mean"],
            "bound": bounds.mean(axis=0),
        }

    def _bound(self, state: State, batch: Batch, key: Array) -> Array:
        outputs, binary = self._pass(state, batch, key)[0]
        return -self.loss(outputs, binary, state.hyper)

    def _pass(self, state: State, batch: Batch, key: Array) -> tuple[tuple[Any, Batch], Metrics]:
        binary = self._binarised(batch, key)
        with batch_context(rows=batch["row"], dtype=self.dtype):
            outputs = self.model.apply(
                self._variables(state.nets[NET]), binary["image"], train=False, rngs={"noise": key}
            )
        return (outputs, binary), self._measure(outputs, binary, state.hyper)

    def _binarised(self, batch: Batch, key: Array) -> dict[str, Array]:
        x = batch["image"]
        keys = fold_in(jax.random.fold_in(key, 1), batch["row"])
        return {**batch, "image": row_bernoulli(keys, x)}


def variational(
    model: VAE, optimizer: optax.GradientTransformationExtraArgs, example: tuple[int, ...], **changes: Any
) -> Variational:
    """A variational autoencoder by the evidence lower bound.

    Metrics, in nats: "loss" (the negative bound), "bound", "kl", and "distortion" (−log p(x | z)).

    Args:
      model: see `jaxdl.models.vae.VAE`.
      optimizer: see `Supervised`.
      example: shape of one `batch["image"]`, values in [0, 1].
      **changes: further fields of `Variational`.
    """
    return Variational(
        model=model,
        loss=_negative_bound,
        optimizer=optimizer,
        example=example,
        metrics={
            "bound": lambda outputs, batch: -_negative_bound(outputs, batch, {}),
            "kl": lambda outputs, batch: kl_to_standard_normal(outputs["mean"], outputs["log_variance"]),
            "distortion": lambda outputs, batch: bernoulli_nll(outputs["logits"], flat(batch["image"])),
        },
        **changes,
    )


def _negative_bound(outputs: Outputs, batch: Batch, hyper: Mapping[str, Array]) -> Array:
    del hyper
    return negative_bound(outputs["logits"], flat(batch["image"]), outputs["mean"], outputs["log_variance"])
