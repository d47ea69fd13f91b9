"""Programs beside training: predictions, sampling, generation. Everything that compiles does so in the engine."""

from collections.abc import Callable, Mapping
from typing import Any

import jax
import numpy as np
from jax import lax


def compiled(function: Callable[..., Any], static: tuple[str, ...] = ()) -> Callable[..., Any]:
    """`function` as one program per shape of its arguments; those named in `static` are Python values."""
    return jax.jit(function, static_argnames=static)


def one_seed(state: Any, index: int = 0) -> Any:
    """The State of one seed on the default device, from a canonical one [S, ...]."""
    return _row(state, index)


@jax.jit
def _row(tree: Any, index: int) -> Any:
    return jax.tree.map(lambda leaf: lax.dynamic_index_in_dim(leaf, index, keepdims=False), tree)


def predictor(task: Any, state: Any, seed_index: int = 0) -> Callable[[Mapping], dict[str, np.ndarray]]:
    """`task.predict` for one seed of a canonical State as a function: batch -> outputs [B, ...] on the host.

    For talking to a model (a game, a prompt): unlike `collect` it compiles once for many calls.
    """
    one = one_seed(state, seed_index)

    def outputs(state, batch):
        return task.predict(task.for_evaluation(state), batch)

    program = compiled(outputs)
    return lambda batch: jax.tree.map(np.asarray, program(one, dict(batch)))


def collect(task: Any, state: Any, source: Any, seed_index: int = 0) -> dict[str, np.ndarray]:
    """`task.predict` over all of `source` for one seed of a canonical State: outputs [n, ...] on the host."""
    streamed = getattr(source, "streamed", False)
    length = source.capacity if streamed else source.num_batches

    def outputs(state, source, start):
        state = task.for_evaluation(state)

        def batch_outputs(i):
            batch = source.batch(start + i, jax.random.key(0))
            return task.predict(state, batch), batch["mask"]

        return lax.map(batch_outputs, jax.numpy.arange(length))

    program, one = compiled(outputs), one_seed(state, seed_index)
    parts = []
    for start in range(0, source.num_batches, length):
        count = min(length, source.num_batches - start)
        values, mask = program(one, source.stage(start, count, jax.random.key(0)), start)
        keep = np.asarray(mask).reshape(-1) > 0
        parts.append({name: np.asarray(v).reshape(-1, *v.shape[2:])[keep] for name, v in values.items()})
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
