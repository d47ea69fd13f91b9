"""`bench --suite=seeds`: many seeds in one command against one command a seed."""

import json
import pathlib
import shutil
import tempfile
from collections.abc import Iterator
from typing import Any

from experiments import backend
from experiments.bench_measure import Bar, Result, Skipped, ratios
from experiments.bench_process import train, wall_time
from jaxdl.errors import UserError

CASES = ("commands/mlp_mnist", "shard/lenet5")
PAIRS = 3
SEEDS, STEPS = 16, 1000
SHARDED, SHARDED_STEPS = 8, 1000


def run(cases: tuple[str, ...], repeats: int, singles: int) -> Iterator[Result | Skipped]:
    """Measures the cases.

    Args:
      cases: names out of CASES.
      repeats: pairs of measurements; 0: PAIRS.
      singles: how many of the SEEDS commands are really run; with fewer, the result says that it is an estimate.
    """
    for case in cases:
        with tempfile.TemporaryDirectory(prefix="jaxdl-bench-") as folder:
            root = pathlib.Path(folder)
            try:
                yield commands(root, repeats or PAIRS, singles) if case == CASES[0] else shard(root, repeats or PAIRS)
            except UserError as error:
                yield Skipped(case, str(error))


def commands(root: pathlib.Path, repeats: int, singles: int = SEEDS) -> Result:
    """`--seeds=16` against 16 commands one after another, all with warm caches, reports included."""
    cache, steps = root / "cache", f"--train.steps={STEPS}"

    def single(seed: int) -> float:
        return _fresh(root, cache, "--recipe=mlp_mnist", steps, f"--seed={seed}")

    single(0)  # fills the caches
    single_seconds: list[float] = []
    found: dict[str, list[float]] = {"one_command": [], "commands": []}
    for turn in range(repeats):
        for side in ("one_command", "commands") if turn % 2 == 0 else ("commands", "one_command"):
            if side == "one_command":
                found[side].append(_fresh(root, cache, "--recipe=mlp_mnist", steps, f"--seeds={SEEDS}"))
                continue
            took = [single(seed) for seed in range(singles)]
            single_seconds += took
            found[side].append(sum(took) * SEEDS / singles)
    facts: dict[str, Any] = {"single commands, seconds": [round(s, 2) for s in single_seconds]}
    if singles < SEEDS:
        facts |= {"estimate": f"{singles} of {SEEDS} single commands were run, their time scaled to {SEEDS}"}
    return Result(
        CASES[0],
        f"mlp_mnist, {STEPS} steps each: {SEEDS} commands one after another over one with --seeds={SEEDS}",
        "speed-up",
        ratios(found["commands"], found["one_command"]),
        Bar(2.5),
        found,
        "seconds",
        facts=facts,
    )


def shard(root: pathlib.Path, repeats: int) -> Result:
    """Steps a second of 8 seeds spread over the cores against those of one seed that has all cores."""
    cache, steps = root / "cache", str(SHARDED_STEPS)
    common = (
        "--recipe=lenet5:mnist",
        *(f"--train.{name}={steps}" for name in ("steps", "eval_every", "checkpoint_every")),
    )
    sides = {
        "one_seed": ("--seed=0",),
        "shard": (f"--seeds={SHARDED}", "--seeds_mode=shard"),
    }
    for words in sides.values():
        _fresh(root, cache, *common, *words)  # fills the caches
    found: dict[str, list[float]] = {"shard": [], "one_seed": []}
    for turn in range(repeats):
        for side in found if turn % 2 == 0 else reversed(found):
            _fresh(root, cache, *common, *sides[side], keep=True)
            record = json.loads(next((root / "run").rglob("record.json")).read_text())
            found[side].append(record["items_per_second"])
    return Result(
        CASES[1],
        f"lenet5:mnist: images a second of {SHARDED} seeds with --seeds_mode=shard on {backend.cores()} cores "
        "over those of one seed (record.json, without compilation)",
        "speed-up",
        ratios(found["shard"], found["one_seed"]),
        Bar(1.3),
        found,
        "images/s",
    )


def _fresh(root: pathlib.Path, cache: pathlib.Path, *words: str, keep: bool = False) -> float:
    workdir = root / "run"
    shutil.rmtree(workdir, ignore_errors=True)
    took = wall_time(train(*words, f"--workdir={workdir}"), cache)
    if not keep:
        shutil.rmtree(workdir, ignore_errors=True)
    return took
