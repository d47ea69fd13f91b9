"""Training programs compiled for devices that need not be there: everything they would read is only described."""

from typing import Any

import jax
import numpy as np
from jax.sharding import NamedSharding, PartitionSpec, SingleDeviceSharding

from jaxdl.engine.devices import Layout
from jaxdl.engine.experiment import Phase
from jaxdl.engine.program import Program, stream
from jaxdl.engine.staging import stage_seeds
from jaxdl.engine.state import Mean, State
from jaxdl.target import compiling_for

PyTree = Any
# steps that a streamed source would bring to the devices at a time
_STAGED = 8


def compile_ahead(phase: Phase, layout: Layout, platform: str) -> jax.stages.Compiled:
    """The program that trains one seed in `phase`, as the loop would run it: K steps, State donated.

    Args:
      phase: of an experiment.
      layout: over devices of one `jax.experimental.topologies` description.
      platform: of these devices: "tpu" or "gpu".

    Raises:
      UserError: if the batch cannot be split over the devices.
    """
    layout.check_batch(getattr(phase.source, "batch_size", 0), "train.batch_size")
    with compiling_for(platform):
        program = Program(phase, layout, 1)
        for leaf in jax.tree.leaves(program.template.local):
            layout.check_batch(leaf.shape[1], "the number of environments, games or streams")
        return program.compile_train(_arguments(program))


def _arguments(program: Program) -> tuple:
    """What `Program.train` gets, described: shapes, types, and where each part lies."""
    seeds, layout = program.seeds, program.layout
    number = jax.ShapeDtypeStruct((seeds,), np.float32)
    sums = {name: Mean(number, number) for name in program.metric_names}
    keys = jax.ShapeDtypeStruct((seeds, 2), np.uint32)
    steps = jax.ShapeDtypeStruct((seeds,), np.int32)
    common = (keys, keys, steps, steps)
    source = _described_source(program)
    if layout.axis:
        return (*_per_device(layout, (program.template, sums, source)), *common)
    if not layout.meshed:
        return _placed((program.template, sums, source, *common), SingleDeviceSharding(layout.devices[0]))
    whole = NamedSharding(layout.mesh, PartitionSpec())
    state = jax.tree.map(_with_sharding, program.template, layout.shardings(program.template))
    return (state, *_placed((sums, source, *common), whole))


def _described_source(program: Program) -> Any:
    source = program.phase.source
    if getattr(source, "streamed", False):
        source = stage_seeds(source, 0, min(source.capacity, _STAGED), stream((0,) * program.seeds, "data", 0))
    return jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(np.shape(leaf), leaf.dtype), source)


def _per_device(layout: Layout, parts: tuple) -> tuple:
    """pmap's arguments: a leading axis of devices, over which the batch axis of `State.local` is split."""
    count = len(layout.devices)

    def copied(leaf):
        return jax.ShapeDtypeStruct((count, *leaf.shape), leaf.dtype)

    def split(leaf):
        seeds, batch, *rest = leaf.shape
        return jax.ShapeDtypeStruct((count, seeds, batch // count, *rest), leaf.dtype)

    state: State = parts[0]
    described = jax.tree.map(copied, state.replace(local=())).replace(local=jax.tree.map(split, state.local))
    return (described, *jax.tree.map(copied, parts[1:]))


def _placed(tree: PyTree, sharding) -> PyTree:
    return jax.tree.map(lambda leaf: _with_sharding(leaf, sharding), tree)


def _with_sharding(leaf, sharding):
    return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding)
