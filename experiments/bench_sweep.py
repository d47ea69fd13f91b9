"""`bench --suite=sweep`: a sweep against one command for each of its runs, and two workers that share a folder."""

import json
import pathlib
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator

from experiments.bench_measure import Bar, Result, Skipped, ratios
from experiments.bench_process import LONGEST, environment, train, wall_time
from jaxdl.errors import UserError

CASES = ("commands/mlp_mnist", "workers/linear_regression")
RATES, SEEDS, STEPS = ("3e-4", "1e-3", "3e-3", "1e-2"), 8, 1000
TRIALS = 20
# what a worker says of the cells that it begins
_BEGUN = re.compile(r"^(?:cell \d+ of \d+|\d+ cells together): (.*)$", re.MULTILINE)


def run(cases: tuple[str, ...], repeats: int) -> Iterator[Result | Skipped]:
    """Measures the cases.

    Args:
      cases: names out of CASES.
      repeats: pairs of measurements of the first, trials of the second; 0: one, TRIALS.
    """
    for case in cases:
        with tempfile.TemporaryDirectory(prefix="jaxdl-bench-") as folder:
            root = pathlib.Path(folder)
            try:
                yield commands(root, repeats or 1) if case == CASES[0] else workers(root, repeats or TRIALS)
            except UserError as error:
                yield Skipped(case, str(error))


def sweep(*words: str) -> list[str]:
    """The command line of `sweep` with the flags `words`."""
    return [sys.executable, "-m", "experiments.sweep", *words]


def commands(root: pathlib.Path, repeats: int) -> Result:
    """A sweep of 4 learning rates x 8 seeds, spread over the cores, against 32 commands one after another, all with warm
    caches, reports included."""
    cache, common = root / "cache", ("--recipe=mlp_mnist", f"--train.steps={STEPS}")
    grid = f"--grid=optimizer.learning_rate={','.join(RATES)}"

    def took(command: list[str]) -> float:
        shutil.rmtree(root / "run", ignore_errors=True)
        return wall_time([*command, f"--workdir={root / 'run'}"], cache)

    def one_by_one() -> float:
        runs = ((rate, seed) for rate in RATES for seed in range(SEEDS))
        return sum(took(train(*common, f"--optimizer.learning_rate={rate}", f"--seed={seed}")) for rate, seed in runs)

    def swept() -> float:
        return took(sweep(*common, grid, f"--seeds={SEEDS}", "--seeds_mode=shard"))

    took(train(*common))  # fills the caches
    swept()
    sides = {"sweep": swept, "commands": one_by_one}
    found: dict[str, list[float]] = {side: [] for side in sides}
    for turn in range(repeats):
        for side in sides if turn % 2 == 0 else reversed(sides):
            found[side].append(sides[side]())
    return Result(
        CASES[0],
        f"mlp_mnist, {STEPS} steps each: {len(RATES) * SEEDS} commands one after another over one sweep of {len(RATES)} "
        f"learning rates and {SEEDS} seeds with --seeds_mode=shard",
        "speed-up",
        ratios(found["commands"], found["sweep"]),
        Bar(4.0),
        found,
        "seconds",
    )


def workers(root: pathlib.Path, trials: int) -> Result:
    """In how many trials two workers, started at once on an empty folder, trained each of four cells exactly once."""
    words = ("--recipe=linear_regression", f"--grid=optimizer.learning_rate={','.join(RATES)}")
    once = [float(_exactly_once(root / f"trial{trial}", root / "cache", words)) for trial in range(trials)]
    return Result(
        CASES[1],
        f"linear_regression: of {trials} sweeps of {len(RATES)} cells by two workers, those that trained each exactly once",
        "count",
        [sum(once)],
        Bar(float(trials)),
        {"trials": once},
        "each cell exactly once",
    )


def _exactly_once(folder: pathlib.Path, cache: pathlib.Path, words: tuple[str, ...]) -> bool:
    started = [
        subprocess.Popen(
            sweep(*words, f"--workdir={folder}", f"--worker={i}/2"),
            env=environment(cache),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for i in range(2)
    ]
    said = [worker.communicate(timeout=LONGEST) for worker in started]
    for worker, (_, errors) in zip(started, said, strict=True):
        if worker.returncode:
            raise UserError((errors.strip().splitlines() or [f"a worker ended with {worker.returncode}"])[-1])
    cells = json.loads((folder / "sweep.json").read_text(encoding="utf-8"))["cells"]
    return trained_once([text for text, _ in said], cells)


def trained_once(said: list[str], cells: list[dict]) -> bool:
    """Whether all cells of a sweep.json are done and each was begun once, by what the workers said."""
    begun = [label for text in said for line in _BEGUN.findall(text) for label in line.split("; ")]
    done = all(cell["status"] == "done" for cell in cells)
    return done and len(begun) == len(set(begun)) == len(cells)
