"""Trains a grid of settings over seeds: `python -m experiments.sweep --recipe=NAME --grid=KEY=V1,V2 --seeds=8`."""

import os
import pathlib
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from experiments import cli
from experiments.flags import UsageError, option
from jaxdl.errors import UserError

FLAGS = (
    "recipe",
    "workdir",
    "seed",
    "seeds",
    "seeds_mode",
    "parallel",
    "fsdp",
    "model_parallel",
    "precision",
    "init_from",
    "deterministic",
)
LOCK_SECONDS = 0.2


@dataclass(frozen=True)
class Options:
    """Flags of this binary."""

    grid: tuple[str, ...] = option(
        (), "KEY=V1,V2: a setting and its values; tuples are separated by ';'; repeat the flag for more", repeated=True
    )
    random: int | None = option(None, "only this many points of the grid, drawn by --seed", minimum=1)
    halving: bool = option(False, "successive halving: all points briefly, the best ones of them longer, and so on")
    keep: float = option(0.5, "halving: share of the points that each rung keeps", minimum=0.01, maximum=0.99)
    worker: str = option("", "i/n: begin at another place than the other workers on this folder do")


BINARY = cli.Binary(
    program="sweep",
    summary="Trains each point of a grid over seeds, one run folder a point, and compares them by the recipe's validation "
    "objective: sweep.json and sweep.html in --workdir (not set: runs/sweep-NAME). A second call goes on; several workers "
    "may share one folder. What is given beside --grid holds for all cells.",
    flags=FLAGS,
    options=Options,
    trains=True,
)


def main(arguments: cli.Arguments) -> int:
    """Sweeps; 0, or 1 if a cell failed or nothing was finished, 75 after SIGTERM or Ctrl-C."""
    from experiments.sweep_cells import Axis, points, read_axes

    flags = arguments.flags
    axes: list[Axis] = read_axes(flags.grid, arguments.config, arguments.given)
    chosen = points(axes, flags.random, flags.seed)
    start = worker_of(flags.worker, os.environ)
    if flags.halving and any(axis.leaf.name == "train.steps" for axis in axes):
        raise UsageError("--halving chooses train.steps itself: take it out of --grid")

    from experiments.session import folder_to_train, in_bucket

    place = flags.workdir or f"runs/sweep-{arguments.recipe.folder}"
    if start[1] > 1 and in_bucket(place):
        raise UsageError("several workers need a folder of a disk that they share: --workdir=gs://... takes one")
    with folder_to_train(place) as root:
        return _sweep(arguments, axes, chosen, pathlib.Path(root), start)


def _sweep(
    arguments: cli.Arguments, axes: Sequence[Any], chosen: Sequence[Any], root: pathlib.Path, start: tuple[int, int]
) -> int:
    from experiments.sweep_cells import base_steps
    from experiments.sweep_worker import Opened
    from jaxdl.engine.folder import RunFolder
    from jaxdl.engine.signals import EXIT_INTERRUPTED, Interrupted, Signals

    flags = arguments.flags
    steps = base_steps(arguments.config) if flags.halving else 0
    if RunFolder(root).is_run():
        raise UserError(f"{root} holds a run, not a sweep: choose another --workdir")
    opened = Opened(arguments.recipe, flags.precision, flags.init_from)
    sweep = Sweep(arguments, opened, axes, root)
    try:
        with Signals() as signals:
            cells = sweep.halved(chosen, steps, start, signals) if flags.halving else sweep.all(chosen, start, signals)
    except Interrupted:
        print(f"interrupted: the same command goes on from here ({arguments.flags.workdir or root})", file=sys.stderr)
        return EXIT_INTERRUPTED
    return sweep.conclude(cells)


class Sweep:
    """One call of the binary.

    Args:
      arguments: the command line.
      opened: what the cells have in common.
      axes: of the grid.
      root: the sweep's folder.
    """

    def __init__(self, arguments: cli.Arguments, opened: Any, axes: Sequence[Any], root: pathlib.Path):
        self.arguments, self.opened, self.axes, self.root = arguments, opened, axes, root
        flags = arguments.flags
        self.seeds = range(flags.seed, flags.seed + (flags.seeds or 1))
        names = ("seed", "seeds_mode", "parallel", "fsdp", "model_parallel", "precision")
        self.options = {name: getattr(flags, name) for name in names}
        self.options |= {"seeds": len(self.seeds), "command": arguments.command}

    def all(self, chosen: Sequence[Mapping[str, Any]], start: tuple[int, int], signals: Any) -> list[Any]:
        """Trains every point; the cells."""
        cells = self._cells(chosen)
        self._worker(start).run(cells, signals)
        return cells

    def halved(
        self, chosen: Sequence[Mapping[str, Any]], steps: int, start: tuple[int, int], signals: Any
    ) -> list[Any]:
        """Trains rung by rung, each time the best of the rung before; the cells of all rungs.

        Each rung is trained from the start: a schedule that ends with the run belongs to its length.
        """
        from experiments.sweep_cells import STEPS, rungs
        from experiments.sweep_table import point_of, ranked

        cells: list[Any] = []
        now: list[Any] = []
        worker = self._worker(start)
        plan = rungs(len(chosen), steps, self.arguments.flags.keep)
        for rung, (length, count) in enumerate(plan):
            if rung:
                best = [cell for cell, found in ranked(now, self.seeds, self._objective()) if found.seeds][:count]
                if not best:
                    raise UserError(f"no point of rung {rung} has finished: see {self.root}")
                chosen = [point_of(cell) for cell in now if cell in best]  # in the order of the grid
            now = self._cells([{**point, STEPS: length} for point in chosen], rung)
            self._objective()
            print(f"rung {rung + 1} of {len(plan)}: {len(now)} points, {length:,} steps each", flush=True)
            worker.run(now, signals, wait=True)
            cells += now
        return cells

    def _worker(self, start: tuple[int, int]) -> Any:
        from experiments.sweep_worker import Worker

        self.worker = Worker(self.opened, self.options, start, lambda line: print(line, flush=True))
        return self.worker

    def _cells(self, chosen: Sequence[Mapping[str, Any]], rung: int | None = None) -> list[Any]:
        from experiments.sweep_cells import make_cells

        cells = make_cells(self.arguments.config, chosen, self.opened.stored, self.root, rung)
        if self.opened.experiment is None:
            raise self.opened.error  # not one of them can be built
        return cells

    def _objective(self) -> tuple[str, str]:
        found = objective_of(self.opened.experiment)
        if found is None:
            raise UserError("--halving needs a recipe with a validation objective, and this one has none")
        return found

    def conclude(self, cells: Sequence[Any]) -> int:
        """Writes sweep.json and sweep.html and prints the table."""
        from experiments.sweep_table import document, print_table, write_page
        from jaxdl.engine.folder import RunFolder

        folder = RunFolder(self.root)
        lock_soon(folder)  # the last worker to write has seen what the others wrote
        try:
            found = document(cells, self.seeds, objective_of(self.opened.experiment), self.arguments)
            folder.write_json("sweep.json", found)
            page = write_page(folder.path, found, cells, self.axes, self.seeds)
        finally:
            folder.unlock()
        print_table(found, sys.stdout)
        print(f"  {'programs compiled':<18}  {self.worker.executables.count}")
        print(f"  {'written':<18}  {self.root}/sweep.json\n  {'report':<18}  {page}", flush=True)
        states = [cell["status"] for cell in found["cells"]]
        return 1 if "failed" in states or not any(cell["n"] for cell in found["cells"]) else 0


def objective_of(experiment: Any) -> tuple[str, str] | None:
    """What the cells are compared by: the last phase's objective; None where there is none, or only on test data."""
    found = experiment.phases[-1].objective
    return None if found is None or found[0].split("/")[0] in experiment.final else found


def worker_of(text: str, environment: Mapping[str, str]) -> tuple[int, int]:
    """(i, n) from `--worker=i/n`, else from SLURM's array index, else (0, 1); i only says where this worker begins.

    Raises:
      UsageError: no such pair.
    """
    if not text:
        count = environment.get("SLURM_ARRAY_TASK_COUNT", "")
        index = environment.get("SLURM_ARRAY_TASK_ID", "")
        first = environment.get("SLURM_ARRAY_TASK_MIN", "0")
        if not (count.isdigit() and index.isdigit() and first.isdigit() and int(count)):
            return 0, 1
        return (int(index) - int(first)) % int(count), int(count)
    i, _, n = text.partition("/")
    if not (i.isdecimal() and n.isdecimal() and 0 <= int(i) < int(n)):
        raise UsageError(f"--worker={text}: expected i/n with 0 <= i < n, as in --worker=0/4")
    return int(i), int(n)


def lock_soon(folder: Any) -> None:
    """Takes a folder's lock as soon as it is free: a worker that dies gives it back."""
    from jaxdl.engine.folder import Taken

    while True:
        try:
            folder.lock()
            return
        except Taken:
            time.sleep(LOCK_SECONDS)


if __name__ == "__main__":
    cli.run(main, BINARY)
