"""Measures jaxdl on this machine: `python -m experiments.bench --suite=cpu|families|seeds|startup`."""

import dataclasses
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from experiments import bench_cpu, bench_families, bench_seeds, bench_startup, cli
from experiments.bench_measure import BUSY, CLOCKS
from experiments.flags import UsageError, option
from experiments.nearest import did_you_mean

SUITES = {
    "cpu": bench_cpu.CASES,
    "families": bench_families.CASES,
    "seeds": bench_seeds.CASES,
    "startup": bench_startup.CASES,
}


@dataclasses.dataclass(frozen=True)
class BenchFlags:
    """Flags of `bench` alone."""

    suite: str = option("cpu", "what is measured", choices=tuple(SUITES))
    cases: tuple[str, ...] = option((), "only these cases, or groups of them (torch, overhead/mlp_64)")
    repeats: int = option(0, "pairs of measurements of each case; 0: what is usual for it", minimum=0)
    seconds: float = option(0.5, "suites cpu and families: about how long one measurement takes", minimum=0.001)
    clock: str = option(
        "wall", "suite families: wall, or processor time of one thread, for a machine that others use", choices=CLOCKS
    )
    singles: int = option(
        bench_seeds.SEEDS,
        "suite seeds: single commands that are run in each pair",
        minimum=1,
        maximum=bench_seeds.SEEDS,
    )
    output: str = option("", "JSON file; where not set: experiments/results/bench-SUITE.json")


BINARY = cli.Binary(
    program="bench",
    summary="""Measures speed on this machine and says which bars are reached; prints a table and writes every single
measurement to a JSON file. What is compared takes turns, and a ratio is the median over pairs.

Suites: cpu (training throughput against PyTorch where it is installed, convolutions inside the loop, the engine's
overhead), families (training throughput of the other families against PyTorch, scikit-learn and Stable-Baselines3),
seeds (many seeds in one command), startup (time to the first step, --help, the first command). Give the machine nothing
else to do meanwhile. The suites seeds and startup need mnist and cifar10 prepared (TFDS_DATA_DIR).""",
    options=BenchFlags,
)


def main(arguments: cli.Arguments) -> int:
    """Measures a suite; 0 also where a bar is missed."""
    from experiments.bench_measure import cores_in_use, document, facts_of_machine, table, write

    flags = arguments.flags
    cases = chosen(flags.suite, flags.cases)
    machine = facts_of_machine() | {"clock": flags.clock}
    print(f"{machine['cpu']}, {machine['threads']} threads", flush=True)
    if (machine["cores_in_use"] or 0.0) > BUSY and flags.clock == "wall":
        print(
            f"the machine is busy ({machine['cores_in_use']} cores in use): these are no fair measurements", flush=True
        )
    began = time.perf_counter()
    found = []
    for result in _run(flags, cases):
        found.append(result)
        print(f"{time.perf_counter() - began:6.0f} s  {result.case}", flush=True)
    machine["cores_in_use_after"] = cores_in_use()
    path = Path(flags.output or f"experiments/results/bench-{flags.suite}.json")
    write(path, document(flags.suite, arguments.command, machine, found, time.perf_counter() - began))
    print(f"\n{table(found)}\n\nwritten: {path}")
    return 0


def chosen(suite: str, names: tuple[str, ...]) -> tuple[str, ...]:
    """The cases of a suite that `names` ask for, "group" or "group/case"; all without names.

    Raises:
      UsageError: there is no such case.
    """
    known = SUITES[suite]
    groups = dict.fromkeys(case.split("/")[0] for case in known)
    for name in names:
        if name not in known and name not in groups:
            hint = did_you_mean(name, [*known, *groups]) or f"; it has {', '.join(known)}"
            raise UsageError(f"suite {suite} has no case {name!r}{hint}")
    return tuple(case for case in known if not names or case in names or case.split("/")[0] in names)


def _run(flags: Any, cases: tuple[str, ...]) -> Iterator[Any]:
    if flags.suite == "cpu":
        return bench_cpu.run(cases, flags.repeats, flags.seconds)
    if flags.suite == "families":
        return bench_families.run(cases, flags.repeats, flags.seconds, flags.clock)
    if flags.suite == "seeds":
        return bench_seeds.run(cases, flags.repeats, flags.singles)
    return bench_startup.run(cases, flags.repeats)


if __name__ == "__main__":
    cli.run(main, BINARY)
