"""Trained networks as files that need no jaxdl: what they compute as StableHLO, parameters by name."""

import contextlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxdl.engine.compiled import one_seed
from jaxdl.engine.digest import flatten_with_names
from jaxdl.engine.experiment import Serving
from jaxdl.engine.payload import unflatten
from jaxdl.engine.state import State
from jaxdl.engine.transfer import judged_nets, with_nets
from jaxdl.errors import UserError
from jaxdl.target import ANY, compiling_for

_ROWS = "B"

Array = jax.Array
Arrays = dict[str, Array]


@dataclass(frozen=True)
class Exported:
    """A function that was exported.

    Attributes:
      artifact: (parameters name -> array, inputs name -> [B, ...]) -> outputs name -> [B, ...].
      content: the artifact as bytes, for `jax.export.deserialize`.
      inputs: name -> shape and type of one example, of those that the outputs depend on.
      batch_size: B; 0: any.
    """

    artifact: jax.export.Exported
    content: bytes
    inputs: Mapping[str, jax.ShapeDtypeStruct]
    batch_size: int


def serving(task: Any, sources: Mapping[str, Any]) -> Serving | None:
    """What to export of `task`: what its own `serving()` says, else `predict` on rows of its evaluation data as they lie
    in the data set, so that scaling and standardisation are part of it. None: there is no such thing."""
    if hasattr(task, "serving"):
        return task.serving()
    source: Any = next(iter(sources.values()), None)
    if not hasattr(source, "take") or not hasattr(task, "predict"):
        return None
    arrays: Arrays = source.arrays

    def call(state: State, inputs: Arrays) -> Arrays:
        count = next(iter(inputs.values())).shape[0]
        # the data set also has what a user's example has not: labels
        rest = {name: jnp.zeros((count, *a.shape[1:]), a.dtype) for name, a in arrays.items() if name not in inputs}
        given = source.replace(arrays={**rest, **inputs}, size=count, batch_size=count)
        return task.predict(state, given.take(jnp.arange(count)))

    return Serving(call, {name: jax.ShapeDtypeStruct(a.shape[1:], a.dtype) for name, a in arrays.items()})


def parameters(state: Any) -> dict[str, np.ndarray]:
    """Parameters and statistics of a canonical State's [1, ...] networks by name, "model/params/Dense_0/kernel"."""
    return {name: np.asarray(array[0]) for name, array in flatten_with_names(judged_nets(state)).items()}


def export(task: Any, state: Any, served: Serving, platforms: tuple[str, ...], batch_size: int = 0) -> Exported:
    """Exports what a task computes.

    Args:
      task: the last phase's.
      state: a canonical State [1, ...] with the reported networks (`load_judged`).
      served: see `serving`; of its inputs those that the outputs do not depend on are left out.
      platforms: what the program shall run on, names of `jax.export`: "cpu", "cuda", "rocm", "tpu".
      batch_size: examples of one call; 0: any number, or one where the network needs to know it.

    Raises:
      UserError: it holds an operation that cannot be exported for these platforms.
    """
    one, held = one_seed(state), parameters(state)

    def call(given: Arrays, inputs: Arrays) -> Arrays:
        judged = with_nets(one, unflatten(judged_nets(one), given))
        return served.call(task.for_evaluation(judged), inputs)

    described = {name: jax.ShapeDtypeStruct(array.shape, array.dtype) for name, array in held.items()}

    def exported(inputs: Mapping[str, jax.ShapeDtypeStruct], size: int) -> Exported:
        (rows,) = jax.export.symbolic_shape(_ROWS) if size == 0 else (size,)
        batch = {name: jax.ShapeDtypeStruct((rows, *each.shape), each.dtype) for name, each in inputs.items()}
        artifact = jax.export.export(jax.jit(call), platforms=platforms)(described, batch)
        return Exported(artifact, bytes(artifact.serialize()), inputs, size)

    with compiling_for(ANY):
        try:
            known = exported(served.inputs, batch_size or 1)
        except (NotImplementedError, ValueError) as error:  # how jax.export refuses calls back to Python and the like
            raise UserError(f"this network cannot be exported: {' '.join(str(error).split())[:300]}") from error
        # only with numbers for dimensions JAX leaves out what nothing depends on
        kept = set(known.artifact.module_kept_var_idx)
        names = [name for k, name in enumerate(sorted(served.inputs), len(described)) if k in kept]
        used = {name: served.inputs[name] for name in names} or served.inputs
        if batch_size == 0:
            # it was exported with a number just now: what fails is only the symbol in its place, in as many ways as there
            # are uses of a number
            with contextlib.suppress(Exception):
                return exported(used, 0)
        return known if len(used) == len(known.inputs) else exported(used, batch_size or 1)
