"""What a checkpoint holds, as named host arrays, and back."""

from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxdl.engine import processes
from jaxdl.engine.checkpoint import Checkpoints, compare
from jaxdl.engine.devices import Layout
from jaxdl.engine.digest import flatten_with_names, part_name
from jaxdl.engine.position import Position
from jaxdl.engine.program import Program
from jaxdl.engine.transfer import judged_nets

_WRITER = ThreadPoolExecutor(1, "write")


def pack(program: Program, layout: Layout, state: Any, best: Any, sums: Any) -> dict[str, np.ndarray]:
    """State, best networks (or None) and open metric sums of a run as canonical arrays [S, ...] by name."""
    return named(program, host_copies(layout, state, best), sums)


def host_copies(layout: Layout, state: Any, best: Any) -> tuple[Any, Any]:
    """Canonical State and best networks (or None) on the host."""
    return layout.gather(state), None if best is None else layout.gather(best)


def named(program: Program, copies: tuple[Any, Any], sums: Any) -> dict[str, np.ndarray]:
    """`pack` of what `host_copies` found."""
    return flatten_with_names({"state": copies[0], "best": copies[1], "sums": program.host_sums(sums)})


def unpack(program: Program, layout: Layout, arrays: dict[str, np.ndarray], keeps_best: bool, where: str) -> tuple:
    """The opposite of `pack`: placed (state, best, sums).

    Raises:
      UserError: if tree, shapes or dtypes are another model's.
    """
    template = {
        "state": program.template,
        "best": judged_nets(program.template) if keeps_best else None,
        "sums": program.host_sums(program.zero_sums()),
    }
    compare(arrays, named_shapes(template), where)
    restored = unflatten(template, arrays)
    state = layout.place(restored["state"], template["state"])
    best = layout.place(restored["best"], template["best"]) if keeps_best else None
    return state, best, program.device_sums(restored["sums"])


def all_finite(arrays: dict[str, np.ndarray], seed: int) -> bool:
    """Whether the parameters and statistics of one seed are finite, and its optimisers' states free of NaN.

    An optimiser may hold an infinity by design, such as the best loss so far of a schedule.
    """
    for name, array in arrays.items():
        if name.startswith("state/nets/") and jnp.issubdtype(array.dtype, jnp.floating):
            values = array[seed].astype(np.float32)
            if np.isnan(values).any() or (name.split("/")[3] != "opt" and np.isinf(values).any()):
                return False
    return True


def without_poison(arrays: dict[str, np.ndarray], seeds: list[int]) -> dict[str, np.ndarray]:
    """A stacked checkpoint's arrays with zeros for the numbers of diverged `seeds` that are not finite."""
    cleaned = {}
    for name, array in arrays.items():
        if seeds and jnp.issubdtype(array.dtype, jnp.floating):
            array = np.array(array)
            array[seeds] = np.where(
                np.isfinite(array[seeds].astype(np.float32)), array[seeds], np.zeros((), array.dtype)
            )
        cleaned[name] = array
    return cleaned


def one_seed(arrays: dict[str, np.ndarray], seed: int) -> dict[str, np.ndarray]:
    """A checkpoint's arrays for one of its seeds, still stacked: [1, ...]."""
    return {name: array[seed : seed + 1] for name, array in arrays.items()}


def save_alone(own: Checkpoints, arrays: dict[str, np.ndarray], position: Position, index: int, seed: int) -> None:
    """Saves seed number `index` of a stacked checkpoint's arrays and position as a checkpoint of its own."""
    metadata = {"seeds": [seed], "position": position.of_seed(index).to_json()}
    own.save(position.global_step(index), one_seed(arrays, index), metadata)


def save_each(
    arrays: dict[str, np.ndarray],
    position: Position,
    chosen: list[int],
    seeds: Sequence[int],
    own: Sequence[Checkpoints],
) -> None:
    """`save_alone` for the seeds numbered `chosen`; `own` has the place of each seed's checkpoints."""
    for i in chosen:
        save_alone(own[i], arrays, position, i, seeds[i])


def beside(save: Callable[..., None], *arguments: Any) -> Future:
    """`save(*arguments)` in another thread; at once where several processes must do the same things in one order."""
    if processes.count() == 1:
        return _WRITER.submit(save, *arguments)
    done: Future = Future()
    save(*arguments)
    done.set_result(None)
    return done


def named_shapes(template: Any) -> dict[str, tuple]:
    """(shape, dtype) of each leaf by name; random keys as their data."""

    def shape(leaf):
        if jax.dtypes.issubdtype(leaf.dtype, jax.dtypes.prng_key):
            leaf = jax.eval_shape(jax.random.key_data, leaf)
        return leaf.shape, leaf.dtype

    flat = jax.tree_util.tree_flatten_with_path(template)[0]
    return {"/".join(map(part_name, path)): shape(leaf) for path, leaf in flat}


def unflatten(template: Any, arrays: Mapping[str, Any]) -> Any:
    """The template's tree filled with the arrays of the same names."""
    return jax.tree_util.tree_map_with_path(lambda path, _: arrays["/".join(map(part_name, path))], template)
