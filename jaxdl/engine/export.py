"""Trained networks as files that need no jaxdl: what they compute as StableHLO, parameters by name."""

import contextlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxdl.engine.compiled import one_seed
from jaxdl.engine.digest import flatten_with_names
from jaxdl.engine.payload import unflatten
from jaxdl.engine.state import State
from jaxdl.engine.transfer import judged_nets, with_nets
from jaxdl.errors import UserError
from jaxdl.target import ANY, compiling_for

PLATFORMS = ("cpu", "cuda", "tpu")
_ROWS = "B"

Array = jax.Array
Arrays = dict[str, Array]


@dataclass(frozen=True)
class Serving:
    """What is exported of a task: a pure function of a State of one seed.

    Attributes:
      call: (state, inputs name -> [B, ...]) -> outputs name -> [B, ...].
      inputs: name -> shape and type of one example [...].
    """

    call: Callable[[State, Arrays], Arrays]
    inputs: Mapping[str, jax.ShapeDtypeStruct]


@dataclass(frozen=True)
class Exported:
    """A function that was exported.

    Attributes:
      artifact: (parameters name -> array, inputs name -> [B, ...]) -> outputs name -> [B, ...].
      inputs: name -> shape and type of one example, of those that the outputs depend on.
      batch_size: B; 0: any.
    """

    artifact: jax.export.Exported
    inputs: Mapping[str, jax.ShapeDtypeStruct]
    batch_size: int


def serving(task: Any, sources: Mapping[str, Any]) -> Serving | None:
    """What to export of `task`: what its own `serving()` says, else `predict` on rows of its evaluation data as they lie
    in the data set, so that scaling and standardisation are part of it. None: it predicts nothing."""
    if hasattr(task, "serving"):
        return Serving(*task.serving())
    source = next(iter(sources.values()), None)
    if source is None or not hasattr(task, "predict"):
        return None
    if not hasattr(source, "take"):
        return _of_batches(task, source)

    def call(state: State, inputs: Arrays) -> Arrays:
        count = next(iter(inputs.values())).shape[0]
        # the data set also has what a user's example has not: labels
        rest = {n: jnp.zeros((count, *a.shape[1:]), a.dtype) for n, a in source.arrays.items() if n not in inputs}
        given = source.replace(arrays={**rest, **inputs}, size=count, batch_size=count)
        return task.predict(state, given.take(jnp.arange(count)))

    return Serving(call, {n: jax.ShapeDtypeStruct(a.shape[1:], a.dtype) for n, a in source.arrays.items()})


def _of_batches(task: Any, source: Any) -> Serving:
    batch = jax.eval_shape(lambda: source.batch(0, jax.random.key(0)))
    inputs = {n: jax.ShapeDtypeStruct(a.shape[1:], a.dtype) for n, a in batch.items() if n not in ("mask", "row")}

    def call(state: State, inputs: Arrays) -> Arrays:
        count = next(iter(inputs.values())).shape[0]
        rows = {"mask": jnp.ones(count), "row": jnp.arange(count, dtype=jnp.int32)}
        rest = {n: jnp.zeros((count, *a.shape[1:]), a.dtype) for n, a in batch.items() if n not in {**inputs, **rows}}
        return task.predict(state, {**rest, **rows, **inputs})

    return Serving(call, inputs)


def parameters(state: Any) -> dict[str, np.ndarray]:
    """Parameters and statistics of a canonical State's [1, ...] networks by name, "model/params/Dense_0/kernel"."""
    return {name: np.asarray(array[0]) for name, array in flatten_with_names(judged_nets(state)).items()}


def export(
    task: Any, state: Any, served: Serving, platforms: tuple[str, ...] = PLATFORMS, batch_size: int = 0
) -> Exported:
    """Exports what a task computes.

    Args:
      task: the last phase's.
      state: a canonical State [1, ...] with the reported networks (`load_judged`).
      served: see `serving`; of its inputs those that the outputs do not depend on are left out.
      platforms: of PLATFORMS, what the program shall run on.
      batch_size: examples of one call; 0: any number, or one where the network needs to know it.

    Raises:
      UserError: it holds an operation that cannot be exported for these platforms.
    """
    one, held = one_seed(state), parameters(state)

    def call(given: Arrays, inputs: Arrays) -> Arrays:
        held = with_nets(one, unflatten(judged_nets(one), given))
        return served.call(task.for_evaluation(held), inputs)

    described = {name: jax.ShapeDtypeStruct(array.shape, array.dtype) for name, array in held.items()}

    def exported(inputs: Mapping[str, jax.ShapeDtypeStruct], size: int) -> Exported:
        (rows,) = jax.export.symbolic_shape(_ROWS) if size == 0 else (size,)
        batch = {name: jax.ShapeDtypeStruct((rows, *each.shape), each.dtype) for name, each in inputs.items()}
        try:
            found = jax.export.export(jax.jit(call), platforms=platforms)(described, batch)
        except (NotImplementedError, ValueError) as error:
            raise UserError(f"this network cannot be exported: {' '.join(str(error).split())[:300]}") from error
        return Exported(found, inputs, size)

    with compiling_for(ANY):
        known = exported(served.inputs, batch_size or 1)
        # only with numbers for dimensions JAX leaves out what nothing depends on
        kept = set(known.artifact.module_kept_var_idx)
        names = [name for k, name in enumerate(sorted(served.inputs), len(described)) if k in kept]
        used = {name: served.inputs[name] for name in names} or served.inputs
        if batch_size == 0:
            with contextlib.suppress(Exception):  # whatever a layer makes of a dimension that is no number
                return exported(used, 0)
        return known if len(used) == len(known.inputs) else exported(used, batch_size or 1)
