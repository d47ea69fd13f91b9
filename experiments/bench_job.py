"""One measurement in a process of its own: `python -m experiments.bench_job MODULE:FUNCTION DEVICES JSON`.

For what one process cannot do twice: start JAX on other devices, fill a GPU's memory, be stopped after a time. `bench`
starts it (`experiments.bench_process.job`); it calls an experiments.bench_* function with the JSON object's values and
prints what that returned as its last line.
"""

import importlib
import json
import sys
from typing import Any

from experiments import backend, cli
from experiments.bench_process import FOUND


def main(argv: list[str]) -> int:
    """Runs the job of a command line; 1 after an error, which is one line."""
    target, devices, text = argv[1:]
    backend.quiet()
    backend.spare_threads(int(devices))
    backend.start_backend(host_devices=int(devices))
    backend.use_compilation_cache()
    try:
        print(FOUND + json.dumps(called(target, json.loads(text))), flush=True)
    except Exception as error:
        print(f"error: {cli.message(error)}", file=sys.stderr)
        return 1
    return 0


def called(target: str, arguments: dict[str, Any]) -> Any:
    """What a function of experiments/bench_*.py returns: "bench_gpu:measured"."""
    module, name = target.split(":")
    if not module.startswith("bench_"):
        raise ValueError(f"a job is a function of experiments/bench_*.py, not {target}")
    return getattr(importlib.import_module(f"experiments.{module}"), name)(**arguments)


if __name__ == "__main__":
    sys.exit(main(sys.argv))
