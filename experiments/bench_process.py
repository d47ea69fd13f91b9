"""Commands in processes of their own, timed from outside, with caches and run folders in a temporary place."""

import os
import pathlib
import re
import subprocess
import sys
import time
from collections.abc import Sequence

from jaxdl.errors import UserError

LONGEST = 3600.0
# this process sets them for itself; a child shall find its caches where XDG_CACHE_HOME says
_OWN = (
    "JAX_COMPILATION_CACHE_DIR",
    "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS",
    "JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES",
)


def environment(cache: pathlib.Path) -> dict[str, str]:
    """This process's environment with all caches under `cache`."""
    kept = {name: value for name, value in os.environ.items() if name not in _OWN}
    return kept | {"XDG_CACHE_HOME": str(cache)}


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


def _failure(command: Sequence[str], errors: str) -> str:
    lines = errors.strip().splitlines() or ["no message"]
    return f"`{' '.join(command[1:])}` failed: {lines[-1].removeprefix('error: ')}"
