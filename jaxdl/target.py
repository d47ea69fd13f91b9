"""What programs are made for: JAX's own backend, or another one that is compiled for ahead of time, and its threads."""

import contextlib
import os
from collections.abc import Iterator

ANY = "any"
_ahead: list[str] = []


def target_platform() -> str:
    """ "cpu", "gpu" or "tpu": for code that takes another form on one of them, asked while it is traced; ANY in a program that
    is made for all of them and for batches of any size."""
    if _ahead:
        return _ahead[-1]
    import jax

    return jax.default_backend()


@contextlib.contextmanager
def compiling_for(platform: str) -> Iterator[None]:
    """Within, `target_platform` is `platform`, whatever JAX runs on here. What JAX has traced before is forgotten,
    because it may hold the other form."""
    import jax

    jax.clear_caches()
    _ahead.append(platform)
    try:
        yield
    finally:
        _ahead.pop()
        jax.clear_caches()


def cpu_threads() -> int:
    """Threads of XLA:CPU's pool, where it has fewer devices: what NPROC says, or one a core."""
    asked = os.environ.get("NPROC", "")
    if asked.isdigit() and int(asked):
        return int(asked)
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
