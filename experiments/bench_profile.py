"""`bench --profile`: a trace of a few steady steps, by JAX's profiler."""

import pathlib
from collections.abc import Callable

STEPS = 3
HOW = (
    "each folder holds a trace of {steps} steps: open its *.trace.json.gz at https://ui.perfetto.dev, or\n"
    "  pip install xprof && xprof --port=6006 {folder}"
)


def trace(run: Callable[[int], None], folder: str, case: str, steps: int = STEPS) -> None:
    """Traces `steps` steps, which were compiled before, into a folder of the case's own.

    Args:
      run: makes a number of steps and waits for them.
      folder: of all cases.
      case: its name.
      steps: how many.
    """
    import jax

    run(steps)
    options = jax.profiler.ProfileOptions()
    options.python_tracer_level = 0
    with jax.profiler.trace(
        str(pathlib.Path(folder) / case.replace("/", "-").replace(":", "-")), profiler_options=options
    ):
        run(steps)


def how_to_open(folder: pathlib.Path) -> str:
    """What `bench` prints of a folder of traces; says so where there is none."""
    traces = sorted(folder.glob("**/*.xplane.pb"))
    if not traces:
        return f"no case left a trace in {folder}"
    cases = sorted({path.relative_to(folder).parts[0] for path in traces})
    lines = [f"traces: {folder} ({', '.join(cases)})", HOW.format(steps=STEPS, folder=folder)]
    return "\n".join(lines)
