"""The runs of a published table: what each row is at a budget, which of its seeds are there, and training the rest."""

import dataclasses
import pathlib
import shutil
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from experiments import ledger, recipe_files, tables
from experiments.flags import config_from_leaves, leaves, text_of, walk
from experiments.session import Session, open_recipe, read_config, run_folders
from experiments.train import shortened, smoke
from jaxdl.errors import UserError

# their data.dir says what the data are, not where a prepared set lies
_OWN_PLACE = ("folder", "file")


@dataclass(frozen=True)
class Job:
    """A row with runs of its own at a budget.

    Attributes:
      row: of the table.
      plan: how it is run.
      seeds: how many runs, from seed 0 on.
      folder: its run folder.
      leaves: what config.json of each run must hold, without the seed.
      may_grow: whether a finished run with fewer steps goes on.
      smoke: a few steps of everything.
      data_dir: where prepared data sets lie; "": where they are looked for anyway.
      package: where recipes are looked for.
    """

    row: tables.Row
    plan: tables.Plan
    seeds: int
    folder: pathlib.Path
    leaves: Mapping[str, Any]
    may_grow: bool
    smoke: bool = False
    data_dir: str = ""
    package: str = recipe_files.PACKAGE

    @property
    def config_digest(self) -> str:
        """As in the ledger's entry of its runs."""
        from experiments.session import config_digest

        return config_digest(self.leaves)

    @property
    def command(self) -> str:
        """The `train` command that makes the same runs."""
        words = [f"python -m experiments.train --recipe={self.row.recipe}"]
        words += [f"--{name}={text_of(value)}" for name, value in settings_of(self.row, self.plan).items()]
        words += [f"--precision={self.plan.precision}"] if self.plan.precision != "float32" else []
        words += [f"--seeds_mode={self.plan.seeds_mode}"] if self.plan.seeds_mode != "auto" else []
        return " ".join([*words, f"--seeds={self.seeds}", *(["--smoke"] if self.smoke else [])])


def plan_for(row: tables.Row, budget: str) -> tables.Plan:
    """How a row is run; no seeds where it is not run at this budget. A smoke run is the first plan there is, shortened."""
    if budget != "smoke":
        return row.plans.get(budget, tables.Plan(seeds=0, differs="not planned"))
    found = next((plan for plan in row.plans.values() if plan.seeds), None)
    if found is None:
        return tables.Plan(seeds=0, differs="not planned")
    return dataclasses.replace(found, seeds=1, precision="float32", seeds_mode="auto", differs="a few steps only")


def settings_of(row: tables.Row, plan: tables.Plan) -> dict[str, Any]:
    """The config leaves that a row sets on top of its recipe."""
    return {**row.settings, **plan.settings}


def open_row(
    row: tables.Row, plan: tables.Plan, short: bool, data_dir: str, package: str = recipe_files.PACKAGE
) -> Session:
    """The experiment of a row.

    Raises:
      UserError: an unknown recipe or setting, or its data set is not prepared.
    """
    recipe = recipe_files.load(row.recipe, package)
    try:
        config = config_from_leaves(recipe.config, {**leaves(recipe.config), **settings_of(row, plan)})
    except ValueError as error:
        raise UserError(f"row {row.name}: {error}") from None
    data: Any = getattr(config, "data", None)
    if data_dir and hasattr(data, "dir") and data.name not in _OWN_PLACE:
        config = dataclasses.replace(config, data=dataclasses.replace(data, dir=data_dir))
    if short:
        config = smoke(config)
    session = open_recipe(recipe, config, plan.precision)
    return dataclasses.replace(session, experiment=shortened(session.experiment)) if short else session


def jobs_of(
    table: tables.Table,
    budget: str,
    root: pathlib.Path,
    seeds: int | None = None,
    data_dir: str = "",
    package: str = recipe_files.PACKAGE,
) -> dict[str, Job]:
    """The rows that are run at a budget, by name. Opens each one's experiment, so that whatever is wrong is said at once.

    Args:
      table: see `tables.load`.
      budget: smoke, cpu or gpu.
      root: folder of the table's runs.
      seeds: how many of each row; None: as planned.
      data_dir: where prepared data sets lie.
      package: where recipes are looked for.

    Raises:
      UserError: see `open_row`.
    """
    found = {}
    for row in table.rows:
        plan = plan_for(row, budget)
        if row.of or not plan.seeds:
            continue
        session = open_row(row, plan, budget == "smoke", data_dir, package)
        folder = root / (f"{row.name}-gpu" if budget == "gpu" else row.name)
        found[row.name] = Job(
            row=row,
            plan=plan,
            seeds=seeds or plan.seeds,
            folder=folder,
            leaves=session.leaves,
            may_grow=session.experiment.steps_may_grow,
            smoke=budget == "smoke",
            data_dir=data_dir,
            package=package,
        )
    return found


def check_folder(job: Job) -> None:
    """Refuses runs in the row's folder that are not the row's, each seed's too: a copied folder must not be believed.

    Raises:
      UserError: what differs.
    """
    if not (job.folder / "config.json").exists():
        return
    for _, path in [(0, job.folder), *run_folders(str(job.folder))]:
        found = _differences(job, path)
        if found:
            raise UserError(
                f"{path} holds a run that is not row {job.row.name}'s ({'; '.join(found[:3])}): move it away"
            )


def _differences(job: Job, folder: pathlib.Path, may_grow: bool | None = None) -> list[str]:
    from jaxdl.engine.folder import differences, plain

    config = read_config(str(folder))
    there = {name: value for name, value in config.items() if name != "seed"}
    return differences(there, plain(job.leaves), job.may_grow if may_grow is None else may_grow)


def run(job: Job) -> bool:
    """Trains the seeds of a row that are not there yet, to the row's report; whether all of them ended well.

    Raises:
      Interrupted: after a signal, with everything saved.
      UserError: the folder holds another run, or is taken.
    """
    from experiments.reporting import header
    from experiments.train import say_diverged, trained
    from jaxdl.engine.options import Options, choose_layout

    check_folder(job)
    session = open_row(job.row, job.plan, job.smoke, job.data_dir, job.package)
    options = Options(
        workdir=str(job.folder),
        seeds=job.seeds,
        seeds_mode=job.plan.seeds_mode,
        precision=job.plan.precision,
        command=job.command,
    )
    header(session, options, choose_layout(session.experiment, options, options.seeds or 1))
    return not say_diverged(trained(session, options))


def found(job: Job, table: tables.Table) -> dict[str, Any] | None:
    """The ledger's entry of what lies in a row's folder, finished or not; None where nothing was begun."""
    if not (job.folder / "config.json").exists() or not list(job.folder.glob("seed*/record.json")):
        return None
    check_folder(job)
    measure = table.measure_of(job.row)
    metric = "" if measure.ensemble else measure.metric
    published = f"{job.row.published} ({job.row.source})" if job.row.published else ""
    return ledger.entry(job.folder, job.row.chosen or table.chosen, published, metric, partial=True)


def ensembles(job: Job) -> dict[str, float]:
    """Metrics of the averaged prediction of a row's finished seeds; none where the recipe has no such thing."""
    from experiments.evaluate import ensemble
    from jaxdl.engine.folder import RunFolder

    folders = [RunFolder(path) for _, path in run_folders(str(job.folder))]
    done = [folder for folder in folders if (folder.read_json("record.json") or {}).get("status") == "done"]
    session = open_row(job.row, job.plan, job.smoke, job.data_dir, job.package)
    return ensemble(session, done) if len(done) > 1 and session.experiment.ensemble is not None else {}


def adopt(source: str, jobs: Mapping[str, Job]) -> list[str]:
    """Copies finished runs, diverged ones too, into the row whose configuration is theirs in every leaf.

    Args:
      source: a run folder, of one run or over seeds.
      jobs: from `jobs_of`.

    Returns:
      What was copied, one line each.

    Raises:
      UserError: no run there, not finished, or no row has its configuration; nothing is copied then.
    """
    found = [(seed, path, _row_of(path, jobs)) for seed, path in run_folders(source)]
    return [_copied(seed, path, job) for seed, path, job in found]


def _row_of(path: pathlib.Path, jobs: Mapping[str, Job]) -> Job:
    from jaxdl.engine.folder import RunFolder

    status = (RunFolder(path).read_json("record.json") or {}).get("status", "no record")
    if status not in ("done", "diverged"):
        raise UserError(f"{path} is not finished ({status}): nothing to adopt")
    differing = {name: _differences(job, path, may_grow=False) for name, job in jobs.items()}
    near = min(differing, key=lambda name: len(differing[name]))
    if differing[near]:
        what = "; ".join(differing[near][:3])
        raise UserError(f"no row of this table has the configuration of {path}; nearest is {near}: {what}")
    return jobs[near]


def _copied(seed: int, path: pathlib.Path, job: Job) -> str:
    from jaxdl.engine.folder import RunFolder

    target = job.folder / f"seed{seed}"
    if (target / "record.json").exists():
        return f"{target} is there already"
    group = RunFolder(job.folder)
    if group.read_json("config.json") is None:  # as over seeds from 0 on
        group.write_json("config.json", {**read_config(str(path)), "seed": 0})
    with tempfile.TemporaryDirectory(dir=job.folder) as aside:  # a kill must not leave half of a run
        copied = shutil.copytree(path, pathlib.Path(aside) / "run", ignore=shutil.ignore_patterns(".lock"))
        pathlib.Path(copied).rename(target)
    return f"{path} is now {target}"


def unknown_settings(row: tables.Row, package: str = recipe_files.PACKAGE) -> list[str]:
    """Settings of a row, at any budget, that its recipe does not have."""
    known = {leaf.name for leaf in walk(recipe_files.load(row.recipe, package).config)}
    every = {name for plan in row.plans.values() for name in settings_of(row, plan)} | set(row.settings)
    return sorted(every - known)
