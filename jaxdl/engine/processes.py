"""Several processes that train one run together, on one machine or on many.

All run the same program on devices that they see as one mesh. Only the first (number 0) reads and writes the run
folder; while a run is trained, the others get what it reads. So folders need not be shared between machines.
"""

import contextlib
import functools
import os
import pickle
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np

from jaxdl.errors import UserError

Value = TypeVar("Value")
Function = TypeVar("Function", bound=Callable)

# a process that has not been heard of for so long is dead; the others then abort
HEARTBEAT_SECONDS = 30
# how long a process that has ended waits for the others
_END_SECONDS = 600
# what `--processes` tells the processes that it starts, and a user may tell those that no scheduler starts
COORDINATOR, COUNT, INDEX = "JAXDL_COORDINATOR", "JAXDL_PROCESSES", "JAXDL_PROCESS"
_PIECE = 1 << 26


@dataclass
class _Group:
    count: int = 1
    index: int = 0
    together: bool = False
    leading: bool = False


_group = _Group()


def count() -> int:
    """How many processes train together."""
    return _group.count


def is_first() -> bool:
    """Whether this process is the one that reads, writes and prints."""
    return _group.index == 0


def expected() -> bool:
    """Whether the environment says that this process is one of several: our own variables, SLURM, Open MPI, a TPU VM."""
    slurm = ("SLURM_JOB_ID", "SLURM_STEP_NODELIST", "SLURM_NTASKS", "SLURM_PROCID", "SLURM_LOCALID")
    if COORDINATOR in os.environ:
        return True
    if all(name in os.environ for name in slurm):
        return int(os.environ["SLURM_NTASKS"]) > 1
    if int(os.environ.get("OMPI_COMM_WORLD_SIZE", "1")) > 1:
        return True
    if "TPU_SKIP_MDS_QUERY" in os.environ or os.environ.get("JAX_PLATFORMS", "tpu") not in ("tpu", "tpu,cpu"):
        return False
    return any(os.path.exists(path) for path in ("/dev/accel0", "/dev/vfio/0")) and _has_libtpu()


def _has_libtpu() -> bool:
    import importlib.util

    return importlib.util.find_spec("libtpu") is not None


def join() -> None:
    """Meets the other processes; must come before the first array is made. Where they are, the environment says.

    Raises:
      UserError: they cannot be met.
    """
    import jax

    # CPU devices of several processes need it; no other backend reads it
    jax.config.update("jax_cpu_collectives_implementation", "gloo")
    # it would take SIGTERM away from the engine
    jax.config.update("jax_enable_preemption_service", False)
    known: dict[str, Any] = {}
    if COORDINATOR in os.environ:
        try:
            known = {"num_processes": int(os.environ[COUNT]), "process_id": int(os.environ[INDEX])}
        except (KeyError, ValueError):
            raise UserError(f"{COORDINATOR} is set, so {COUNT} and {INDEX} must be whole numbers") from None
        known |= {"coordinator_address": os.environ[COORDINATOR], "cluster_detection_method": "deactivate"}
    try:
        jax.distributed.initialize(
            **known, heartbeat_timeout_seconds=HEARTBEAT_SECONDS, shutdown_timeout_seconds=_END_SECONDS
        )
    except (RuntimeError, ValueError) as error:
        raise UserError(
            f"the other processes cannot be met ({str(error).splitlines()[0]}): --distributed=off?"
        ) from error
    _group.count, _group.index = jax.process_count(), jax.process_index()
    if _group.count > 1:
        with _quiet_output():
            _broadcast(b"")


def leave() -> None:
    """Parts from the other processes, once all have come here; what follows runs on this process's devices alone."""
    if _group.count > 1:
        import jax

        jax.distributed.shutdown()


def end(code: int) -> None:
    """Ends a process that has not left the others, which may wait for it forever: at once, with an exit code."""
    if _group.count > 1:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


@contextlib.contextmanager
def together() -> Iterator[None]:
    """While all processes do the same things in the same order."""
    _group.together = True
    try:
        yield
    finally:
        _group.together = False


def _apart() -> bool:
    return _group.count == 1 or not _group.together or _group.leading


def lead(function: Callable[[], Value]) -> Value:
    """What `function` returns, or the UserError that it raises, on the first process; it is called nowhere else."""
    if _apart():
        return function()
    if not is_first():
        error, value = pickle.loads(_broadcast(b""))
        if error:
            raise UserError(error)
        return value
    _group.leading = True
    try:
        value = function()
    except UserError as error:
        _broadcast(pickle.dumps((str(error), None)))
        raise
    finally:
        _group.leading = False
    _broadcast(pickle.dumps((None, value)))
    return value


def by_first(function: Function) -> Function:
    """A function that only the first process calls; all get what it returns."""

    @functools.wraps(function)
    def told(*args, **kwargs):
        return lead(lambda: function(*args, **kwargs))

    return told  # type: ignore[return-value]


def first_only(function: Function) -> Function:
    """A function without a result that only the first process calls; the others do not wait for it."""

    @functools.wraps(function)
    def called(*args, **kwargs):
        if is_first() or not _group.together:
            function(*args, **kwargs)

    return called  # type: ignore[return-value]


def agree(stop: bool, number: int = 0) -> tuple[bool, int]:
    """Whether `stop` is set on any process, and the first process's `number`."""
    if _apart():
        return stop, number
    from jax.experimental import multihost_utils

    found = multihost_utils.process_allgather(np.array([stop, number], np.int32))
    return bool(found[:, 0].any()), int(found[0, 1])


def put(tree: Any, shardings: Any) -> Any:
    """`jax.device_put` of values that all processes hold alike; each places the part that its devices need."""
    import jax

    if _group.count == 1:
        return jax.device_put(tree, shardings)
    if isinstance(shardings, jax.sharding.Sharding):
        return jax.tree.map(lambda leaf: _put(leaf, shardings), tree)
    return jax.tree.map(_put, tree, shardings)


def put_part(part: np.ndarray, sharding: Any) -> Any:
    """The array of which each process holds the part that its devices need; `part` where this is the only process."""
    import jax

    if _group.count == 1:
        return jax.device_put(part, sharding)
    return jax.make_array_from_process_local_data(sharding, np.asarray(part))


def whole(array: Any) -> np.ndarray:
    """A host copy of an array that may lie on the devices of several processes."""
    import jax

    if not isinstance(array, jax.Array) or array.is_fully_replicated:
        return np.array(array)
    if array.is_fully_addressable:
        # NumPy would let JAX join the parts, keep the result with the array, and copy that once more
        joined = np.empty(array.shape, array.dtype)
        for shard in array.addressable_shards:
            if shard.replica_id == 0:
                joined[shard.index] = shard.data
        return joined
    from jax.experimental import multihost_utils

    return np.array(multihost_utils.process_allgather(array, tiled=True))


def _put(leaf: Any, sharding: Any) -> Any:
    import jax

    if hasattr(leaf, "dtype") and jax.dtypes.issubdtype(leaf.dtype, jax.dtypes.prng_key):
        wrap = functools.partial(jax.random.wrap_key_data, impl=jax.random.key_impl(leaf))
        return jax.jit(wrap, out_shardings=sharding)(_put(jax.random.key_data(leaf), sharding))
    array = np.array(leaf)
    array = array.astype(jax.dtypes.canonicalize_dtype(array.dtype))
    return jax.make_array_from_callback(array.shape, sharding, lambda index: array[index])


def _broadcast(data: bytes) -> bytes:
    """The first process's bytes. In pieces padded to powers of two, so that few programs are compiled."""
    from jax.experimental import multihost_utils

    tell = multihost_utils.broadcast_one_to_all
    length = int(tell(np.array([len(data)], np.uint32))[0])
    found = []
    for start in range(0, length, _PIECE):
        size = min(length - start, _PIECE)
        padded = np.zeros(max(1024, 1 << (size - 1).bit_length()), np.uint8)
        part = np.frombuffer(data[start : start + size], np.uint8)
        padded[: part.size] = part
        found.append(np.asarray(tell(padded))[:size].tobytes())
    return b"".join(found)


@contextlib.contextmanager
def _quiet_output() -> Iterator[None]:
    """Gloo writes to the standard output of the process when it connects."""
    sys.stdout.flush()
    kept, nothing = os.dup(1), os.open(os.devnull, os.O_WRONLY)
    os.dup2(nothing, 1)
    try:
        yield
    finally:
        os.dup2(kept, 1)
        os.close(kept)
        os.close(nothing)
