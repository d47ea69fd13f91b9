"""`bench --suite=recipes`: what one recipe of each family costs: speed, compilation, start, operations, memory."""

import pathlib
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from experiments.bench_measure import Result, Skipped, aligned, seconds_per_step, steps_for
from experiments.bench_process import job, time_to_line, train
from jaxdl.errors import UserError

REPEATS = 5
# family -> the recipe that stands for it; any other can be named
FAMILIES = {
    "images": "lenet5",
    "first_steps": "linear_regression",
    "gradients": "vanishing_gradients",
    "text": "char_gpt",
    "sequences": "dates_attention",
    "speech": "spoken_digit",
    "autoencoders": "vae",
    "energy": "rbm",
    "gans": "gan_mixture",
    "agents": "cartpole_ppo",
    "games": "tictactoe_alphazero",
}
CASES = tuple(f"{family}/{recipe}" for family, recipe in FAMILIES.items())
# the first line of progress, which a step of its own comes before
_FIRST_STEP = r"\bstep 1/"
_COLUMNS = (
    ("items/s", "items a second"),
    ("step", "step seconds"),
    ("compile", "compile seconds"),
    ("first step, cold", "first step cold seconds"),
    ("warm", "first step warm seconds"),
    ("FLOPs a step", "FLOPs a step"),
    ("MFU", "MFU"),
    ("memory", "memory bytes"),
)


def run(cases: tuple[str, ...], repeats: int, seconds: float, traces: str = "") -> Iterator[Result | Skipped]:
    """Measures recipes, each in processes of its own.

    Args:
      cases: names out of CASES, or recipes.
      repeats: measurements of the step; 0: REPEATS.
      seconds: about how long one takes.
      traces: folder for profiles; "": none.
    """
    for case in cases:
        recipe = case.rsplit("/", 1)[-1]
        arguments = {"recipe": recipe, "repeats": repeats or REPEATS, "seconds": seconds, "traces": traces}
        try:
            # an empty cache, so that "compile seconds" are not those of reading a compiled program
            with tempfile.TemporaryDirectory(prefix="jaxdl-bench-") as folder:
                found = Result.from_json(job("bench_recipes:measured", arguments, cache=pathlib.Path(folder)))
            found.facts.update(first_step(recipe))
            yield found
        except UserError as error:
            yield Skipped(recipe, str(error))


def measured(recipe: str, repeats: int, seconds: float, traces: str = "") -> dict[str, Any]:
    """A recipe's last phase in this process, as plain values: its step, its compilation, its program."""
    from experiments import recipe_files
    from experiments.bench_loops import Engine
    from experiments.bench_profile import trace
    from experiments.session import open_recipe
    from jaxdl.engine.loop import CHUNK_LARGEST

    found = recipe_files.load(recipe)
    experiment = open_recipe(found, found.config).experiment
    phase = experiment.phases[-1]
    items = getattr(phase.task, "items_per_step", 0) or getattr(phase.source, "batch_size", 1)
    engine = Engine(phase)
    before = engine.program.compile_seconds
    engine(1)
    compiling = engine.program.compile_seconds - before
    streamed = getattr(phase.source, "streamed", False)
    steps = steps_for(engine, seconds, phase.source.capacity if streamed else CHUNK_LARGEST)
    took = [seconds_per_step(engine, steps) for _ in range(repeats)]
    if traces:
        trace(engine, traces, recipe)
    step = float(np.median(took))
    facts = {
        "phase": phase.name,
        "items": experiment.items,
        "items a step": items,
        "items a second": items / step,
        "step seconds": step,
        "compile seconds": compiling,
        **of_program(engine.program.train_program, step),
    }
    what = f"{recipe}: {experiment.items} a second of its training step"
    return Result(
        recipe, what, "rate", [items / each for each in took], None, {"jaxdl": took}, "seconds a step", facts=facts
    ).to_json()


def of_program(program: Any, seconds: float) -> dict[str, Any]:
    """Operations, utilisation and memory of a compiled training program whose step takes `seconds`.

    "FLOPs a step" are those of products and convolutions in the program's text, loops as often as they run; where a
    backend hides them in calls of libraries (GPU), XLA's own count, which takes every loop's body once.
    """
    import jax

    from experiments.hlo import totals
    from experiments.mfu import mfu, peak

    device = jax.local_devices()[0]
    counted, costs = totals(program.as_text() or ""), program.cost_analysis() or {}
    by_xla = float((costs[0] if isinstance(costs, list) else costs).get("flops", 0.0))
    flops = counted.flops or by_xla
    memory = program.memory_analysis()
    held = memory.argument_size_in_bytes + memory.temp_size_in_bytes
    held += memory.output_size_in_bytes - memory.alias_size_in_bytes
    facts: dict[str, Any] = {
        "FLOPs a step": flops,
        "FLOPs counted": "in the program's text" if counted.flops else "by XLA, loop bodies once",
        "FLOPs by XLA's cost analysis": by_xla,
        "loops of unknown length, counted once": max(0, counted.unknown_loops - 1),
        "memory bytes": held,
    }
    stats = device.memory_stats() or {}
    if "peak_bytes_in_use" in stats:
        facts["device's peak memory bytes"] = stats["peak_bytes_in_use"]
    if found := peak(device):
        facts |= {"MFU": mfu(flops, seconds, found), "peak FLOP/s": found.flops, "peak": found.source}
    return facts


def first_step(recipe: str) -> dict[str, float]:
    """Seconds from the start of `train` to its first step, with empty caches and with what that run left there."""
    with tempfile.TemporaryDirectory(prefix="jaxdl-bench-") as folder:
        root = pathlib.Path(folder)
        command = train(f"--recipe={recipe}", "--train.log_every=1", f"--workdir={root / 'run'}")
        took = {}
        for side in ("cold", "warm"):
            took[f"first step {side} seconds"] = time_to_line(command, root / "cache", _FIRST_STEP)
            shutil.rmtree(root / "run", ignore_errors=True)
        return took


def table(found: Sequence[Result | Skipped]) -> str:
    """One row a recipe; then what could not be measured, and what the columns mean."""
    rows = [("recipe", *(title for title, _ in _COLUMNS))]
    for each in found:
        if isinstance(each, Result):
            rows.append((each.case, *(shown(name, each.facts.get(name)) for _, name in _COLUMNS)))
    lines = aligned(rows) if len(rows) > 1 else []
    lines += [f"{each.case}: {each.reason}" for each in found if isinstance(each, Skipped)]
    peaks = sorted({each.facts["peak"] for each in found if isinstance(each, Result) and "peak" in each.facts})
    lines += ["", *(f"MFU: of a peak {source}" for source in peaks)]
    return "\n".join(lines).strip("\n")


def shown(name: str, value: float | None) -> str:
    """A number of a column for people; a dash where it is not known."""
    from experiments.compile import size

    if value is None:
        return "–"
    if name == "memory bytes":
        return size(value)
    if name == "MFU":
        return f"{100 * value:.3g} %"
    if name == "step seconds":
        return f"{1e3 * value:.3g} ms"
    if name.endswith("seconds"):
        return f"{value:.3g} s"
    return f"{value:.3g}" if name == "FLOPs a step" else f"{value:,.0f}"
