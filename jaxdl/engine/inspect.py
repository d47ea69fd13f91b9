"""A look at an experiment before it trains: the loss at the start, gradients, and whether one batch can be learnt."""

import dataclasses
import math
import pathlib
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct

from jaxdl.engine.checkpoint import Checkpoints
from jaxdl.engine.devices import Layout
from jaxdl.engine.executables import compile_lowered
from jaxdl.engine.experiment import Experiment
from jaxdl.engine.folder import RunFolder
from jaxdl.engine.loop import Trainer
from jaxdl.engine.program import Program, means, stream


@dataclass(frozen=True)
class Look:
    """What a fresh network shows on the first training batch.

    Attributes:
      metrics: of `Task.evaluate`.
      gradient_norms: by layer, where the task has a `probe`.
    """

    metrics: dict[str, float]
    gradient_norms: dict[str, float]


@struct.dataclass
class Repeated:
    """A source that gives one batch at every step."""

    rows: dict[str, jax.Array]
    batch_size: int = struct.field(pytree_node=False)
    num_batches: int = struct.field(pytree_node=False, default=1)

    def batch(self, step: Any, key: Any, shard: Any = 0, shards: int = 1) -> dict[str, jax.Array]:
        """The batch, or its shard."""
        del step, key
        size = self.batch_size // shards
        return jax.tree.map(lambda leaf: jax.lax.dynamic_slice_in_dim(leaf, shard * size, size), self.rows)

    def stage(self, step: int, count: int, key: Any) -> "Repeated":
        """Itself."""
        del step, count, key
        return self


def first_batch(source: Any, seed: int) -> dict[str, jax.Array]:
    """Batch 0 of a training source, augmented; its order and noise are drawn from `seed`."""
    key = jax.random.key(seed)
    arguments = (source.stage(0, 1, key), key)
    return compile_lowered(jax.jit(_batch).lower(*arguments), quickly=True)(*arguments)


def first_look(experiment: Experiment, seed: int) -> Look:
    """Evaluates and probes the untrained network of the first phase."""
    phase = experiment.phases[0]
    program = Program(phase, Layout(devices=tuple(jax.local_devices()[:1])), 1)
    state = program.init(stream((seed,), "init", 0))
    keys = stream((seed,), "evaluation", 0)
    one = Repeated(first_batch(phase.source, seed), phase.source.batch_size)
    metrics = means(program.evaluate(state, one, keys), 0)
    norms: dict[str, float] = {}
    if hasattr(phase.task, "probe"):
        found = means(program.probe(state, one, keys, keys, np.zeros(1, np.int32)), 0)
        norms = {k.removeprefix("gradient_norm/"): v for k, v in found.items() if k.startswith("gradient_norm/")}
    return Look(metrics, norms)


def overfit(experiment: Experiment, seed: int, steps: int, folder: str) -> tuple[float, float]:
    """Trains on the first batch alone; the training loss over the first and over the last tenth of the steps (NaN where a
    task has none)."""
    phase = experiment.phases[0]
    one = Repeated(first_batch(phase.source, seed), phase.source.batch_size)
    phase = dataclasses.replace(phase, source=one, steps=steps, evaluations={}, objective=None, patience=0, stop=None)
    every = max(1, steps // 10)
    train = dataclasses.replace(
        experiment.train, steps=steps, log_every=every, eval_every=steps, checkpoint_every=steps + 1
    )
    small = dataclasses.replace(experiment, phases=(phase,), train=train, reported="last", final={})
    run = RunFolder(folder)
    layout = Layout(devices=tuple(jax.local_devices()[:1]))
    Trainer(small, layout).run((seed,), [run], Checkpoints(pathlib.Path(folder) / "checkpoints"))
    losses = [row["loss"] for row in run.rows() if row["split"] == "train" and "loss" in row] or [math.nan]
    return losses[0], losses[-1]


def _batch(source, key):
    return source.batch(jnp.int32(0), key)
