"""Runs what is missing of a published table and writes the ledger: `python -m experiments.reproduce --table=NAME`."""

import dataclasses
import pathlib
import shutil
import sys
from dataclasses import dataclass
from typing import Any

from experiments import cli, tables
from experiments.flags import UsageError, option
from experiments.session import PreparedPlace
from jaxdl.errors import UserError

RESULTS = pathlib.Path(__file__).resolve().parent / "results"


@dataclass(frozen=True)
class Options:
    """Flags of this binary."""

    table: str = option("", "the table; 'list' prints all")
    budget: str = option(
        "cpu", "what it may cost: a few steps of everything, two CPU cores, one GPU", choices=tables.BUDGETS
    )
    seeds: int | None = option(None, "seeds of each row, from 0 on; not set: as the table plans it", minimum=1)
    adopt: tuple[str, ...] = option(
        (), "folder of finished runs: copied to the row whose configuration is theirs; repeat the flag", repeated=True
    )
    render: bool = option(False, "run nothing: only write the results page again from the results files")
    results: str = option(
        "", "folder of the results files ('': experiments/results; with --budget=smoke runs/smoke/tables)"
    )
    data: PreparedPlace = PreparedPlace()


BINARY = cli.Binary(
    program="reproduce",
    summary=(
        "Runs what is missing of a published table and writes results/NAME.json and the page results/README.md.\n\n"
        "Runs lie in runs/tables/TABLE/ROW/seed0, seed1, ...; finished ones are not run again, killed ones go on. A run "
        "of `train` whose config.json is the row's counts too: --adopt copies it there."
    ),
    options=Options,
)


def main(arguments: cli.Arguments) -> int:
    """Returns the exit code: 0, 1 if a row failed or diverged, 75 after SIGTERM or Ctrl-C."""
    from experiments import table_results

    flags = arguments.flags
    if flags.table == "list":
        print(tables.overview())
        return 0
    smoke = flags.budget == "smoke"
    folder = pathlib.Path(flags.results) if flags.results else pathlib.Path("runs/smoke/tables") if smoke else RESULTS
    if flags.render:
        table_results.replace(folder / table_results.PAGE, table_results.page(folder))
        return 0
    if not flags.table:
        raise UsageError("--table=NAME is necessary; --table=list shows all")
    work = Work(flags.table, tables.load(flags.table), flags.budget, folder, flags.seeds, getattr(flags, "data.dir"))
    if smoke:
        shutil.rmtree(work.root, ignore_errors=True)
    for source in flags.adopt:
        work.adopt(source)
    work.write()
    return work.run()


class Work:
    """One call of this binary: a table at a budget.

    Args:
      name: of the table.
      table: what it is.
      budget: smoke, cpu or gpu.
      results: folder of the results files.
      seeds: how many of each row; None: as planned.
      data_dir: where prepared data sets lie.
      package: where recipes are looked for.
    """

    def __init__(
        self,
        name: str,
        table: tables.Table,
        budget: str,
        results: pathlib.Path,
        seeds: int | None = None,
        data_dir: str = "",
        package: str = "experiments.recipes",
    ):
        from experiments import table_runs

        self.name, self.table, self.budget, self.results = name, table, budget, results
        self.root = pathlib.Path("runs", *(("smoke",) if budget == "smoke" else ()), "tables", name)
        self.jobs = table_runs.jobs_of(table, budget, self.root, seeds, data_dir, package)
        self.problems: dict[str, str] = {}
        self._ensembles: dict[tuple, dict[str, float]] = {}
        if not self.jobs:
            raise UserError(f"table {name} has no rows at --budget={budget}")

    def adopt(self, source: str) -> None:
        """Copies finished runs; see `table_runs.adopt`."""
        from experiments import table_runs

        for line in table_runs.adopt(source, self.jobs):
            print(line)

    def run(self) -> int:
        """Trains what is missing, row by row; the exit code. A row that fails does not stop the others."""
        from jaxdl.engine.signals import EXIT_INTERRUPTED, Interrupted, Signals

        good = True
        try:
            with Signals() as signals:
                for number, name in enumerate(self.jobs, 1):
                    if signals.pending:
                        raise Interrupted
                    print(f"\nrow {number} of {len(self.jobs)}: {self.table.row(name).label}", flush=True)
                    good &= self._row(name)
                    self.write()
        except Interrupted:
            self.write()
            print(f"interrupted: the same command goes on from here ({self.root})", file=sys.stderr)
            return EXIT_INTERRUPTED
        self._show()
        return 0 if good else 1

    def write(self) -> None:
        """The results file and the page, from what lies in the run folders."""
        from experiments import table_results

        path = self.results / f"{self.name}.json"
        old = table_results.read_file(path)
        before = {row["name"]: row for row in old.get("budgets", {}).get(self.budget, {}).get("rows", [])}
        digests = {name: job.config_digest for name, job in self.jobs.items()}
        rows = [
            table_results.kept(self._state(row), before.get(row.name), digests.get(row.name, ""))
            for row in self.table.rows
        ]
        table_results.write(self.results, table_results.document(self.name, self.table, self.budget, rows, old))

    def _row(self, name: str) -> bool:
        from experiments import table_runs
        from jaxdl.engine.signals import Interrupted

        self.problems.pop(name, None)
        try:
            return table_runs.run(self.jobs[name])
        except (Interrupted, KeyboardInterrupt):
            raise
        except Exception as error:
            self.problems[name] = cli.message(error)
            print(f"error: row {name}: {self.problems[name]}", file=sys.stderr)
            return False

    def _state(self, row: tables.Row) -> dict[str, Any]:
        from experiments import table_results, table_runs

        plan, job = table_runs.plan_for(row, self.budget), self.jobs.get(row.name)
        if row.of:
            plan = row.plans.get(self.budget, tables.Plan(seeds=0))
        entry, problem = None, self.problems.get(row.name, "")
        if job is not None:
            try:
                entry = table_runs.found(job, self.table)
                if entry is not None and self._needs_ensemble(row):
                    entry["ensemble"] = self._ensemble(job, tuple(entry["params_digests"]))
            except UserError as error:
                problem = problem or str(error)
        seeds, command = (job.seeds, job.command) if job is not None else (0, "")
        if self.budget == "smoke":
            row = dataclasses.replace(row, bar=None)
        return table_results.row_of(self.table, row, plan, seeds, command, entry, problem)

    def _needs_ensemble(self, row: tables.Row) -> bool:
        return any(other.of == row.name and self.table.measure_of(other).ensemble for other in self.table.rows)

    def _ensemble(self, job: Any, digests: tuple) -> dict[str, float]:
        from experiments import table_runs

        if digests not in self._ensembles:  # every network sees the whole test split
            self._ensembles[digests] = table_runs.ensembles(job)
        return self._ensembles[digests]

    def _show(self) -> None:
        from experiments import table_results

        found = table_results.read_file(self.results / f"{self.name}.json")
        rows = found["budgets"][self.budget]["rows"]
        by_name = {row["name"]: row for row in rows}
        print(f"\n{found['title']}, budget {self.budget}")
        for row in rows:
            runs = by_name[row["of"]] if row["of"] else row
            words = f"published {row['published'] or '–'}, ours {table_results.ours(row, runs)}"
            print(f"  {row['label']}, {row['measure']['label']}: {words.replace('**', '')}")
        print(f"  written: {self.results / (self.name + '.json')}, {self.results / table_results.PAGE}")


if __name__ == "__main__":
    cli.run(main, BINARY)
