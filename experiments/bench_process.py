"""Commands in processes of their own, timed from outside, with caches and run folders in a temporary place."""

import json
import os
import pathlib
import re
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from typing import Any

from experiments import backend
from jaxdl.data.prepared import default_dir
from jaxdl.errors import UserError

LONGEST = 3600.0
# what a job's result stands behind, in its last line
FOUND = "found: "
# this process sets them for itself; a child shall find its caches where XDG_CACHE_HOME says
_OWN = (
    "JAX_COMPILATION_CACHE_DIR",
    "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS",
    "JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES",
)


def environment(cache: pathlib.Path) -> dict[str, str]:
    """This process's environment with all caches under `cache`; prepared data sets stay where they are."""
    kept = {name: value for name, value in os.environ.items() if name not in _OWN}
    return kept | {"XDG_CACHE_HOME": str(cache), "TFDS_DATA_DIR": str(default_dir())}


def train(*words: str) -> list[str]:
    """The command line of `train` with the flags `words`."""
    return [sys.executable, "-m", "experiments.train", *words]


def wall_time(command: Sequence[str], cache: pathlib.Path) -> float:
    """Seconds that a command takes from start to end.

    Raises:
      UserError: it failed; its last line of errors.
    """
    began = time.perf_counter()
    done = subprocess.run(
        command, env=environment(cache), stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=LONGEST
    )
    took = time.perf_counter() - began
    if done.returncode:
        raise UserError(_failure(command, done.stderr))
    return took


def time_to_line(command: Sequence[str], cache: pathlib.Path, pattern: str) -> float:
    """Seconds from a command's start to the first line of its output that matches `pattern`; then it is killed.

    Raises:
      UserError: it ended before.
    """
    began = time.perf_counter()
    with subprocess.Popen(
        command,
        env=environment(cache),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout is not None and process.stderr is not None
        try:
            for line in process.stdout:
                if re.search(pattern, line):
                    return time.perf_counter() - began
            raise UserError(_failure(command, process.stderr.read()))
        finally:
            process.kill()


def job(
    target: str,
    arguments: Mapping[str, Any],
    *,
    devices: int = 1,
    threads: int | None = None,
    timeout: float = LONGEST,
    cache: pathlib.Path | None = None,
) -> Any:
    """What a function returns that is called in a process of its own; see `experiments.bench_job`.

    Args:
      target: "MODULE:FUNCTION" in experiments/.
      arguments: by name, plain values.
      devices: how many devices the CPU is split into.
      threads: of XLA:CPU, where not as many as cores.
      timeout: seconds after which it is killed.
      cache: where its caches lie; None: where this process's do.

    Raises:
      UserError: it failed (its last line of errors), or took too long.
    """
    command = [sys.executable, "-m", "experiments.bench_job", target, str(devices), json.dumps(dict(arguments))]
    around = dict(os.environ) if cache is None else environment(cache)
    # programs are kept apart by number of threads, so a job finds its own place, unless the user named one
    if around.get("JAX_COMPILATION_CACHE_DIR") == str(backend.cache_folder()):
        del around["JAX_COMPILATION_CACHE_DIR"]
    if threads:
        around = {backend.THREADS: str(threads)} | around
    try:
        done = subprocess.run(
            command, env=around, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=timeout
        )
    except subprocess.TimeoutExpired:
        raise UserError(f"stopped after {timeout:.0f} s, its limit") from None
    lines = [line for line in done.stdout.splitlines() if line.startswith(FOUND)]
    if done.returncode or not lines:
        last = (done.stderr.strip().splitlines() or [f"exit code {done.returncode}"])[-1]
        raise UserError(last.removeprefix("error: "))
    return json.loads(lines[-1].removeprefix(FOUND))


def _failure(command: Sequence[str], errors: str) -> str:
    lines = errors.strip().splitlines() or ["no message"]
    return f"`{' '.join(command[1:])}` failed: {lines[-1].removeprefix('error: ')}"
