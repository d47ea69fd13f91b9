"""One worker of a sweep: trains the cells that nobody has trained yet, and reads how they all stand."""

import contextlib
import json
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from experiments import cli, recipe_files
from experiments.flags import leaves
from experiments.session import PLACES, open_recipe
from experiments.sweep_cells import Cell
from experiments.train import live_line
from jaxdl.engine.executables import Executables
from jaxdl.engine.fit import fit
from jaxdl.engine.folder import RunFolder, Taken, plain
from jaxdl.engine.options import Options, choose_layout, seeds_mode
from jaxdl.engine.record import summary
from jaxdl.engine.signals import Interrupted, Signals
from jaxdl.engine.together import Member, fit_together, share_programs, untouched

FAILURE = "failure.json"
FINISHED = ("done", "diverged")
WAIT_SECONDS = 0.2
ROWS = 64
_DATA = "data."


@dataclass(frozen=True)
class Outcome:
    """How a cell stands, as read from its folder.

    Attributes:
      status: done, diverged (at least one seed), failed (an error), interrupted (by a signal), missing, or running: in
        another worker, or in one that was killed.
      seeds: the seeds that are done.
      metrics: of these, as in summary.json: name -> {"mean", "std", "ci95", "values"}.
      diverged: seeds whose loss was not finite.
      error: why it failed, "" if it did not.
    """

    status: str
    seeds: tuple[int, ...] = ()
    metrics: Mapping[str, Mapping[str, Any]] | None = None
    diverged: tuple[int, ...] = ()
    error: str = ""

    def values(self, metric: str) -> dict[int, float]:
        """A metric of each seed that is done."""
        found = (self.metrics or {}).get(metric)
        return dict(zip(self.seeds, found["values"], strict=True)) if found else {}


class Opened:
    """What the cells of one sweep have in common: their recipe, and what its experiments say of themselves.

    Args:
      recipe: the chosen recipe.
      precision, init_from: the flags.
    """

    def __init__(self, recipe: recipe_files.Recipe, precision: str, init_from: str):
        self.recipe, self.precision, self.init_from = recipe, precision, init_from
        self.experiment: Any = None
        self.error: Exception | None = None
        self._found: dict[tuple, dict[str, Any]] = {}

    def session(self, config: Any) -> Any:
        """The session of one cell."""
        return open_recipe(self.recipe, config, self.precision, self.init_from)

    def stored(self, config: Any) -> dict[str, Any]:
        """config.json of a cell. The experiment is built only for new data, whose fingerprint belongs to it."""
        own = {name: value for name, value in leaves(config).items() if name not in PLACES}
        data = tuple(sorted((name, value) for name, value in leaves(config).items() if name.startswith(_DATA)))
        if data not in self._found:
            try:
                session = self.session(config)
            except Exception as error:  # this cell will fail; others may not
                self.error = self.error or error
                return {"recipe": self.recipe.title, "precision": self.precision, **own}
            self.experiment = self.experiment or session.experiment
            self._found[data] = {name: value for name, value in session.leaves.items() if name not in own}
        return {**self._found[data], **own}


class Worker:
    """Trains cells one after another; those of one program share what was compiled.

    A cell is trained by who holds the lock of its folder, so any number of workers may share a sweep.

    Args:
      opened: what the cells have in common.
      options: how each is run; its workdir is replaced by the cell's folder.
      start: (i, n): this worker begins at the i-th of n parts of the cells.
      say: where a line for people goes.
    """

    def __init__(self, opened: Opened, options: dict[str, Any], start: tuple[int, int], say: Callable[[str], None]):
        self.opened, self.options, self.start, self.say = opened, options, start, say
        self.executables = Executables()
        self.began = time.time()

    @property
    def seeds(self) -> range:
        """The seeds that each cell is trained with."""
        return range(self.options["seed"], self.options["seed"] + self.options["seeds"])

    def run(self, cells: Sequence[Cell], signals: Signals, wait: bool = False) -> None:
        """Trains all cells that are not finished.

        Args:
          cells: in the order of the grid.
          signals: looked at between cells.
          wait: stay until the cells that other workers train are finished too, and take over what they leave behind.

        Raises:
          Interrupted: after a signal, with the running cell saved.
        """
        i, n = self.start
        first = i % n * len(cells) // n
        left = [*cells[first:], *cells[:first]]
        self._train_together(left, signals)
        while left:
            held = [cell for cell in left if not self._train(cell, cells, signals)]
            if len(held) == len(left):
                if not wait:
                    return
                time.sleep(WAIT_SECONDS)
            left = held

    def _train_together(self, cells: Sequence[Cell], signals: Signals) -> None:
        """Where seeds are an array axis, cells that nobody has begun and that differ only in hyper-parameters of the
        State are rows of one program. What cannot be, or goes wrong, is left to be trained cell by cell."""
        # so many that each of the workers that share the sweep finds some
        limit = min(ROWS // len(self.seeds), -(-len(cells) // self.start[1]))
        if limit < 2 or self.options["seeds_mode"] == "loop":
            return
        options = self._options("")
        layout = choose_layout(self.opened.experiment, options, len(cells) * len(self.seeds))
        if seeds_mode(options, layout) == "loop":
            return
        left = list(cells)
        while len(left) > 1:
            if signals.pending:
                raise Interrupted
            with contextlib.ExitStack() as held:
                batch, left = self._alike(left, limit, held)
                if len(batch) < 2:
                    continue
                members = [Member(session.experiment, session.leaves, folder) for _, session, folder in batch]
                self.say(f"{len(batch)} cells together: {'; '.join(cell.label for cell, _, _ in batch)}")
                try:
                    with contextlib.closing(live_line(members[0].experiment)) as watcher:
                        fit_together(members, options, watcher, self.executables)
                except Interrupted:
                    raise
                except Exception as error:
                    self.say(f"not together: {cli.message(error)}")

    def _alike(
        self, cells: Sequence[Cell], limit: int, held: contextlib.ExitStack
    ) -> tuple[list[tuple[Cell, Any, RunFolder]], list[Cell]]:
        """The first cell that nobody has begun and up to `limit` in all that share its program, locked; and the cells
        to look at next."""
        found: list[tuple[Cell, Any, RunFolder]] = []
        others: list[Cell] = []
        for cell in cells:
            if len(found) == limit or (found and not same_but_hyper(found[0][1], cell.config)):
                others.append(cell)
                continue
            folder = RunFolder(cell.folder)
            try:
                folder.lock()
            except Taken:
                continue
            held.callback(folder.unlock)
            if not untouched(folder, self.seeds) or (cell.folder / FAILURE).exists():
                folder.unlock()
                continue
            try:
                found.append((cell, self.opened.session(cell.config), folder))
            except Exception:  # it will be told when this cell is trained alone
                folder.unlock()
        if not found:
            return found, others
        shared = share_programs(self._options(""), [session.experiment for _, session, _ in found])
        for alike, (cell, _, folder) in list(zip(shared, found, strict=True))[1:]:
            if not alike:
                folder.unlock()
                others.append(cell)
        return [each for alike, each in zip(shared, found, strict=True) if alike or each is found[0]], others

    def _options(self, workdir: Any) -> Options:
        return Options(**{**self.options, "workdir": str(workdir)})

    def _train(self, cell: Cell, cells: Sequence[Cell], signals: Signals) -> bool:
        """Trains one cell unless it is finished; False if another worker has it."""
        if signals.pending:
            raise Interrupted
        if self._finished(cell):
            return True
        folder = RunFolder(cell.folder)
        try:
            folder.lock()
        except Taken:
            return False
        try:
            if self._finished(cell):
                return True
            self.say(f"cell {cells.index(cell) + 1} of {len(cells)}: {cell.label}")
            self._attempt(cell, folder)
        finally:
            folder.unlock()
        return True

    def _attempt(self, cell: Cell, folder: RunFolder) -> None:
        try:
            session = self.opened.session(cell.config)
            options = self._options(cell.folder)
            with contextlib.closing(live_line(session.experiment)) as watcher:
                fit(session.experiment, session.leaves, options, watcher, self.executables, folder)
        except Interrupted:
            raise
        except Exception as error:
            self.say(f"failed: {cli.message(error)}")
            folder.write_json(FAILURE, {"error": cli.message(error), "time": time.time()})
        else:
            (cell.folder / FAILURE).unlink(missing_ok=True)

    def _finished(self, cell: Cell) -> bool:
        """Whether nothing is left to do: all seeds have ended, or the cell has failed since this sweep began."""
        if _json(cell.folder / FAILURE).get("time", 0.0) >= self.began:
            return True
        return all(record.get("status") in FINISHED for record in _records(cell, self.seeds).values())


def same_but_hyper(session: Any, config: Any) -> bool:
    """Whether a configuration differs from a session's only in settings that its State holds as hyper-parameters."""
    hyper = session.experiment.phases[-1].hyper
    ours, theirs = leaves(session.config), leaves(config)
    differing = [name for name in ours if ours[name] != theirs[name]]
    return all(hyper.get(name.rsplit(".", 1)[-1]) == ours[name] for name in differing)


def outcome(cell: Cell, seeds: range) -> Outcome:
    """How a cell stands, from the records in its folder."""
    records = _records(cell, seeds)
    done = tuple(seed for seed in seeds if records[seed].get("status") == "done")
    diverged = tuple(seed for seed in seeds if records[seed].get("status") == "diverged")
    metrics = summary(done, [records[seed]["metrics"] for seed in done])["metrics"]
    failure = _json(cell.folder / FAILURE)
    if len(done) + len(diverged) == len(seeds):
        status = "diverged" if diverged else "done"
    elif failure:
        status = "failed"
    elif not any(records.values()):
        status = "missing"
    else:
        stopped = any(record.get("status") == "interrupted" for record in records.values())
        status = "interrupted" if stopped else "running"
    return Outcome(status, done, metrics, diverged, failure.get("error", "") if status == "failed" else "")


def as_json(cell: Cell, found: Outcome) -> dict[str, Any]:
    """One entry of sweep.json."""
    entry: dict[str, Any] = {
        "overrides": plain(cell.overrides),
        "digest": cell.digest,
        "folder": cell.folder.name,
        "status": found.status,
        "n": len(found.seeds),
        "metrics": found.metrics or {},
        "seeds": list(found.seeds),
        "diverged": list(found.diverged),
    }
    if cell.rung is not None:
        entry["rung"] = cell.rung
    if found.error:
        entry["error"] = found.error
    return entry


def _records(cell: Cell, seeds: range) -> dict[int, dict[str, Any]]:
    return {seed: _json(cell.folder / f"seed{seed}" / "record.json") for seed in seeds}


def _json(path: Any) -> dict[str, Any]:
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, json.JSONDecodeError):
        return {}
    return found if isinstance(found, dict) else {}
