"""`bench --suite=startup`: from the start of a process to its first training step, to --help, to the first report."""

import json
import pathlib
import shutil
import tempfile
from collections.abc import Callable, Iterator

from experiments.bench_measure import Bar, Result, Skipped, ratios
from experiments.bench_process import time_to_line, train, wall_time
from jaxdl.errors import UserError

CASES = ("first_step/resnet20", "help/train", "first_command/train", "first_command/tictactoe")
REPEATS = 5
# the first line of progress, which a step of its own comes before
_FIRST_STEP = r"\bstep 1/"


def run(cases: tuple[str, ...], repeats: int) -> Iterator[Result | Skipped]:
    """Measures the cases in turns.

    Args:
      cases: names out of CASES.
      repeats: how often each; 0: REPEATS. One round before is not counted: it reads the files from the disk.
    """
    measure: dict[str, Callable[[pathlib.Path], dict[str, float]]] = dict(
        zip(CASES, (first_step, help_text, first_command, tictactoe), strict=True)
    )
    found: dict[str, dict[str, list[float]]] = {case: {} for case in cases}
    failed: dict[str, str] = {}
    for turn in range((repeats or REPEATS) + 1):
        for case in cases if turn % 2 == 0 else reversed(cases):
            if case in failed:
                continue
            try:
                with tempfile.TemporaryDirectory(prefix="jaxdl-bench-") as folder:
                    took = measure[case](pathlib.Path(folder))
            except UserError as error:
                failed[case] = str(error)
                continue
            for side, seconds in took.items() if turn else ():
                found[case].setdefault(side, []).append(seconds)
    for case in cases:
        yield Skipped(case, failed[case]) if case in failed else _result(case, found[case])


def first_step(root: pathlib.Path) -> dict[str, float]:
    """Seconds to the first step of resnet20_cifar10:epochs2 with empty caches, and again with what that run left."""
    command = train("--recipe=resnet20_cifar10:epochs2", "--train.log_every=1", f"--workdir={root / 'run'}")
    took = {}
    for side in ("cold", "warm"):
        took[side] = time_to_line(command, root / "cache", _FIRST_STEP)
        shutil.rmtree(root / "run", ignore_errors=True)
    return {"warm": took["warm"], "cold": took["cold"]}


def help_text(root: pathlib.Path) -> dict[str, float]:
    """Seconds of `train --help`."""
    return {"help": wall_time(train("--help"), root / "cache")}


def first_command(root: pathlib.Path) -> dict[str, float]:
    """Seconds of `train` without flags, with empty caches, to the finished report."""
    took = wall_time(train(f"--workdir={root / 'run'}"), root / "cache")
    if not (root / "run" / "report.html").is_file():
        raise UserError("`train` ended without a report.html")
    return {"first command": took}


def tictactoe(root: pathlib.Path) -> dict[str, float]:
    """Seconds of `train --recipe=tictactoe_alphazero`, with empty caches, to the finished report; and the games it lost."""
    took = wall_time(train("--recipe=tictactoe_alphazero", f"--workdir={root / 'run'}"), root / "cache")
    metrics = json.loads((root / "run" / "record.json").read_text(encoding="utf-8"))["metrics"]
    lost = max(metrics[f"test/losses_{opponent}"] for opponent in ("random", "perfect"))
    return {"seconds": took, "largest share of test games lost": lost}


def _result(case: str, found: dict[str, list[float]]) -> Result:
    if case == CASES[0]:
        return Result(
            case,
            "resnet20_cifar10:epochs2, process start to first training step: warm caches (compiled programs, "
            "decoded arrays) over cold ones",
            "share",
            ratios(found["warm"], found["cold"]),
            Bar(0.65, at_least=False),
            found,
            "seconds",
        )
    what, limit = {
        CASES[1]: ("wall time of `train --help`", 2.5),
        CASES[2]: ("`train` with empty caches, process start to its end with the report written", 30.0),
        CASES[3]: (
            "`train --recipe=tictactoe_alphazero` with empty caches, its games against both opponents included",
            20.0,
        ),
    }[case]
    seconds = next(iter(found.values()))
    facts = {side: max(values) for side, values in found.items() if "lost" in side}
    measured = {side: values for side, values in found.items() if side not in facts}
    return Result(case, what, "seconds", seconds, Bar(limit, at_least=False), measured, "seconds", facts=facts)
