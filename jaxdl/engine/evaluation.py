"""Evaluation of a split that does not fit on the devices: one stage after another, carry and sums handed on."""

from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from jaxdl.engine.state import Mean, State

if TYPE_CHECKING:
    from jaxdl.engine.program import Program


def evaluate_streamed(program: "Program", state: State, source: Any, keys: np.ndarray) -> dict[str, Mean]:
    """Metric sums [S] over all of a streamed `source`, bit for bit those of the same data on the devices.

    Args:
      program: of the phase that is evaluated.
      state: placed.
      source: streamed, in evaluation order.
      keys: key data [S, 2] of the seeds' evaluation streams.
    """
    sums, rows = None, program.layout.rows(source.batch_size)
    for start in range(0, source.num_batches, source.capacity):
        count = min(source.capacity, source.num_batches - start)
        staged = stage_seeds(source, start, count, keys, rows)
        if sums is None:
            sums = _zeros(program, staged if rows is None else stage_seeds(source, 0, 1, keys))
        common = program.layout.place_common((keys, np.int32(start), np.int32(count)))
        arguments = (state, sums, program.layout.place_source(staged), *common)
        name = ("evaluate part", start == 0, jax.tree.structure(staged))
        state, sums = program.call(name, lambda first=(start == 0): _build(program, first), arguments)
    assert sums is not None
    return program.host_sums(sums)


def stage_seeds(source: Any, start: int, count: int, keys: np.ndarray, rows: tuple[int, int] | None = None) -> Any:
    """Stages of all seeds, stacked: leaves [S, ...] on the host; of each batch the `rows` from ... to, or all."""
    parts = [source.stage(start, count, jax.random.wrap_key_data(key), rows) for key in keys]
    return jax.tree.map(lambda *leaves: np.stack(leaves), *parts)


def _zeros(program: "Program", staged: Any) -> dict[str, Mean]:
    one = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape[1:], leaf.dtype), (program.template, staged))
    key = jax.random.key(0)

    def metrics(state, source):
        return program.task.evaluate(program.task.for_evaluation(state), source.batch(jnp.int32(0), key), key)[1]

    zeros: Any = np.zeros(program.seeds, np.float32)
    names = sorted(jax.eval_shape(metrics, *one))
    return program.layout.place_sums({name: Mean(zeros, zeros) for name in names})


def _build(program: "Program", first: bool):
    def part(source, state, sums, key_data, start, count):
        key = jax.random.wrap_key_data(key_data)
        state = program.device_task.for_evaluation(state) if first else state

        def body(i, carry):
            state, sums = carry
            state, metrics = program.evaluate_batch(source, state, key, i)
            return state, jax.tree.map(jnp.add, sums, metrics)

        return lax.fori_loop(start, start + count, body, (state, sums))

    def seeds(state, sums, source, keys, start, count):
        def one(source, state, sums, key):
            return part(source, state, sums, key, start, count)

        return program.map_seeds(one, source, (state, sums, keys), shared=False)

    return program.spread(seeds, placed=3, common=3, outputs="part")
