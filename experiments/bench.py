"""Measures jaxdl on this machine: `python -m experiments.bench --suite=cpu|families|recipes|scaling|seeds|startup|sweep|gpu`."""

import dataclasses
import json
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from experiments import (
    backend,
    bench_cpu,
    bench_families,
    bench_gpu,
    bench_profile,
    bench_recipes,
    bench_scaling,
    bench_seeds,
    bench_startup,
    bench_sweep,
    cli,
    recipe_files,
)
from experiments.bench_measure import BUSY, CLOCKS
from experiments.flags import UsageError, option
from experiments.nearest import did_you_mean
from jaxdl.errors import UserError

SUITES = {
    "cpu": bench_cpu.CASES,
    "families": bench_families.CASES,
    "seeds": bench_seeds.CASES,
    "startup": bench_startup.CASES,
    "sweep": bench_sweep.CASES,
    "recipes": bench_recipes.CASES,
    "scaling": bench_scaling.CASES,
    "gpu": bench_gpu.CASES,
}
# their cases are processes of their own, so that this one must not take the accelerator
JOBS = ("recipes", "scaling", "gpu")
PROFILED = ("cpu", "families", "recipes", "gpu")


@dataclasses.dataclass(frozen=True)
class BenchFlags:
    """Flags of `bench` alone."""

    suite: str = option("cpu", "what is measured", choices=tuple(SUITES))
    cases: tuple[str, ...] = option(
        (),
        "only these cases, or groups of them (torch, overhead/mlp_64); the others stay in the JSON file as they are; "
        "suite recipes: any",
    )
    repeats: int = option(0, "pairs of measurements of each case; 0: what is usual for it", minimum=0)
    seconds: float = option(
        0.5, "about how long one measurement takes (not suites seeds, startup, sweep)", minimum=0.001
    )
    clock: str = option(
        "wall", "suite families: wall, or processor time of one thread, for a machine that others use", choices=CLOCKS
    )
    singles: int = option(
        bench_seeds.SEEDS,
        "suite seeds: single commands that are run in each pair",
        minimum=1,
        maximum=bench_seeds.SEEDS,
    )
    budget: float = option(600.0, "suite gpu: seconds for all cases together", minimum=1.0)
    tiny: bool = option(False, "suite gpu: every case at toy size on any device, to see that it works")
    profile: bool = option(False, f"also trace a few steps of each case (suites {', '.join(PROFILED)})")
    output: str = option("", "JSON file; where not set: experiments/results/bench-SUITE.json")


BINARY = cli.Binary(
    program="bench",
    summary="""Measures speed on this machine and says which bars are reached; prints a table and writes every single
measurement to a JSON file. What is compared takes turns, and a ratio is the median over pairs.

Suites: cpu (training throughput against PyTorch where it is installed, convolutions inside the loop, the engine's
overhead), families (training throughput of the other families against PyTorch, scikit-learn and Stable-Baselines3),
seeds (many seeds in one command), sweep (a sweep against single commands, two workers on one folder), startup (time to
the first step, --help, the first command), recipes (one of each family, or those of --cases: speed, compilation, start
with cold and warm caches, FLOPs, MFU, memory), scaling (a step's time against seeds, batch, width, length, devices, with
figures), gpu (what a GPU must reach: ResNet-50, GPT-2, airbench, many seeds in one program; at most ten minutes). Give
the machine nothing else to do meanwhile. The suites seeds, sweep and startup need mnist and cifar10 prepared
(TFDS_DATA_DIR).""",
    options=BenchFlags,
)


def main(arguments: cli.Arguments) -> int:
    """Measures a suite; 0 also where a bar is missed."""
    from experiments.bench_measure import cores_in_use, document, joined, write

    flags = arguments.flags
    cases = chosen(flags.suite, flags.cases)
    if flags.profile and flags.suite not in PROFILED:
        raise UsageError(f"--profile belongs to the suites {', '.join(PROFILED)}, not to {flags.suite}")
    if flags.tiny and flags.suite != "gpu":
        raise UsageError("--tiny belongs to --suite=gpu")
    if flags.suite == "gpu":
        backend.prefer_flags(backend.QUICK_TUNING)
    machine = facts_of(flags) | {"clock": flags.clock} | ({"tiny": True} if flags.tiny else {})
    path = output(flags)
    old = others(path, flags, machine)
    print(f"{machine['cpu']}, {machine['threads']} threads", flush=True)
    if (machine["cores_in_use"] or 0.0) > BUSY and flags.clock == "wall":
        print(
            f"the machine is busy ({machine['cores_in_use']} cores in use): these are no fair measurements", flush=True
        )
    began = time.perf_counter()
    found = []
    for result in _run(flags, cases, machine["platform"]):
        found.append(result)
        print(f"{time.perf_counter() - began:6.0f} s  {result.case}", flush=True)
    machine["cores_in_use_after"] = cores_in_use()
    content = document(flags.suite, arguments.command, machine, found, time.perf_counter() - began)
    write(path, joined(old, content, SUITES[flags.suite]) if old else content)
    drawn = bench_scaling.draw(found, path) if flags.suite == "scaling" else []
    print(f"\n{_table(flags.suite)(found)}\n\nwritten: {', '.join(map(str, [path, *drawn]))}")
    if flags.profile:
        print(bench_profile.how_to_open(traces(flags)))
    return 0


def others(path: Path, flags: Any, machine: dict[str, Any]) -> dict[str, Any] | None:
    """The results file that measurements of some --cases will join; None: they begin a new one.

    Raises:
      UserError: it is another machine's, another suite's, or no results file.
    """
    if not flags.cases or not path.exists():
        return None
    from experiments.bench_measure import joined

    ask = "give another place for these (--output), or measure without --cases"
    try:
        old = json.loads(path.read_text(encoding="utf-8"))
        joined(old, {"cases": []}, ())
        suite, hardware = old["suite"], dict(old["hardware"])
    except (ValueError, KeyError, TypeError):
        raise UserError(f"{path} is no results file of `bench`: {ask}") from None
    about = {name: (hardware.get(name), machine.get(name)) for name in ("cpu", "threads", "clock")}
    differ = [f"{name} {was}, here {now}" for name, (was, now) in about.items() if was != now]
    if suite != flags.suite or differ:
        raise UserError(f"{path} holds measurements of {'; '.join(differ) or f'suite {suite}'}: {ask}")
    return old


def facts_of(flags: Any) -> dict[str, Any]:
    """What the results file says of the machine.

    Raises:
      UserError: the suite needs a GPU and JAX sees none.
    """
    from experiments.bench_measure import facts_of_machine
    from experiments.bench_process import job

    if flags.suite not in JOBS:
        return facts_of_machine()
    found = job("bench_measure:facts_of_machine", {})
    if flags.suite == "gpu" and not flags.tiny and found["platform"] != "gpu":
        raise UserError(
            f"--suite=gpu needs a GPU, and JAX sees only: {found['platform']} (pip install -c constraints.txt -e '.[gpu]' "
            "on a machine that has one); --tiny runs every case at toy size without one"
        )
    return found


def output(flags: Any) -> Path:
    """Where the JSON file goes; toy sizes are never written among the results by themselves."""
    where = "runs/bench-gpu-tiny.json" if flags.tiny else f"experiments/results/bench-{flags.suite}.json"
    return Path(flags.output or where)


def traces(flags: Any) -> Path:
    """Where --profile writes."""
    return Path("runs") / "bench-profile" / flags.suite


def chosen(suite: str, names: tuple[str, ...]) -> tuple[str, ...]:
    """The cases of a suite that `names` ask for, "group" or "group/case"; all without names.

    Suite recipes also takes any recipe, "NAME" or "NAME:variant".

    Raises:
      UsageError: there is no such case.
    """
    known = SUITES[suite]
    groups = dict.fromkeys(case.split("/")[0] for case in known)
    if suite == "recipes":
        recipes = [name for name in names if name not in known and name not in groups]
        for name in recipes:
            recipe_files.load(name)
        known = (*known, *recipes)
    for name in names:
        if name not in known and name not in groups:
            hint = did_you_mean(name, [*known, *groups]) or f"; it has {', '.join(known)}"
            raise UsageError(f"suite {suite} has no case {name!r}{hint}")
    return tuple(case for case in known if not names or case in names or case.split("/")[0] in names)


def _table(suite: str) -> Callable[[Sequence[Any]], str]:
    from experiments.bench_measure import table

    own: dict[str, Callable] = {"recipes": bench_recipes.table, "scaling": bench_scaling.table}
    return own.get(suite, table)


def _run(flags: Any, cases: tuple[str, ...], platform: str) -> Iterator[Any]:
    folder = str(traces(flags)) if flags.profile else ""
    if flags.suite == "cpu":
        return bench_cpu.run(cases, flags.repeats, flags.seconds, folder)
    if flags.suite == "families":
        return bench_families.run(cases, flags.repeats, flags.seconds, flags.clock, folder)
    if flags.suite == "seeds":
        return bench_seeds.run(cases, flags.repeats, flags.singles)
    if flags.suite == "sweep":
        return bench_sweep.run(cases, flags.repeats)
    if flags.suite == "recipes":
        return bench_recipes.run(cases, flags.repeats, flags.seconds, folder)
    if flags.suite == "scaling":
        return bench_scaling.run(cases, flags.repeats, flags.seconds, platform)
    if flags.suite == "gpu":
        return bench_gpu.run(cases, flags.repeats, flags.seconds, flags.budget, flags.tiny, folder)
    return bench_startup.run(cases, flags.repeats)


if __name__ == "__main__":
    cli.run(main, BINARY)
