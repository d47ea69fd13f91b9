"""What the binaries share: from a recipe or a run folder to an experiment, and from a finished run to its report."""

import contextlib
import dataclasses
import hashlib
import json
import pathlib
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from experiments import recipe_files
from experiments.flags import config_from_leaves, leaves, option
from jaxdl.errors import UserError

# leaves that say where data or runs lie, not what they are
PLACES = ("data.dir",)
SCHEME = "gs://"


@dataclass(frozen=True)
class DataPlace:
    """Where data lie."""

    dir: str = option("", "folder of the data that the run was trained on, where --data.dir said so in training")


@dataclass(frozen=True)
class PreparedPlace:
    """Where prepared data sets lie."""

    dir: str = option("", "folder of prepared data sets; where not set: $TFDS_DATA_DIR, else the user's cache")


@dataclass(frozen=True)
class RunOptions:
    """Flags of the binaries that read a run folder."""

    data: DataPlace = DataPlace()


@dataclass(frozen=True)
class Session:
    """An experiment and what its config.json says.

    Attributes:
      recipe: where the experiment comes from.
      config: the recipe's configuration.
      experiment: as built, with the precision applied.
      leaves: config.json without the seed.
      precision: float32 or bfloat16.
    """

    recipe: recipe_files.Recipe
    config: Any
    experiment: Any
    leaves: dict[str, Any]
    precision: str = "float32"


def open_recipe(recipe: recipe_files.Recipe, config: Any, precision: str = "float32", init_from: str = "") -> Session:
    """Builds a recipe's experiment, to train it.

    Args:
      recipe: from the command line.
      config: its configuration with all flags applied.
      precision: what layers compute in; parameters stay float32.
      init_from: run folder whose reported parameters training starts from; "": none.

    Raises:
      UserError: a setting that this recipe would ignore, or a precision or parameters that it cannot use.
    """
    session = _opened(recipe, config, precision, init_from)
    _refuse_what_is_ignored(session)
    return session


def _opened(recipe: recipe_files.Recipe, config: Any, precision: str, init_from: str = "") -> Session:
    experiment = _with_precision(recipe.build(config), precision)
    experiment = dataclasses.replace(experiment, name=recipe.title)
    found = {"recipe": recipe.title, "precision": precision}
    if init_from:
        experiment, digest = _with_parameters_of(experiment, init_from)
        found["init_from"] = digest
    found |= {name: value for name, value in leaves(config).items() if name not in PLACES}
    if experiment.data.get("fingerprint"):
        found["data.fingerprint"] = experiment.data["fingerprint"]
    return Session(recipe, config, experiment, found, precision)


def open_run(workdir: str, data_dir: str = "") -> Session:
    """The experiment of a run folder, from its config.json.

    Raises:
      UserError: there is no run in `workdir`, or its data set is not the one that lies in `data_dir`.
    """
    stored = read_config(workdir)
    recipe = recipe_files.load(stored["recipe"])
    known = leaves(recipe.config)
    config = config_from_leaves(recipe.config, {name: value for name, value in stored.items() if name in known})
    if data_dir and hasattr(config, "data"):
        config = dataclasses.replace(config, data=dataclasses.replace(config.data, dir=data_dir))
    session = _opened(recipe, config, stored.get("precision", "float32"))
    trained_on = stored.get("data.fingerprint")
    if trained_on and trained_on != session.leaves.get("data.fingerprint"):
        raise UserError(
            f"{workdir} was trained on other data than what lies there now: give its folder with --data.dir"
        )
    return session


def in_bucket(workdir: str) -> bool:
    """Whether a run folder lies in Google Cloud Storage."""
    return workdir.startswith(SCHEME)


def folder_to_read(workdir: str) -> contextlib.AbstractContextManager[str]:
    """A run folder, or a copy of one in a bucket for as long as it is read."""
    if not in_bucket(workdir):
        return contextlib.nullcontext(workdir)
    from experiments.workdirs import borrowed

    return borrowed(workdir)


@contextlib.contextmanager
def folder_to_train(workdir: str, overwrite: bool = False) -> Iterator[str]:
    """A run folder, or the copy of one in a bucket that is trained in its place; see `experiments.workdirs.claimed`."""
    if not in_bucket(workdir):
        yield workdir
        return
    from experiments.workdirs import claimed
    from jaxdl.engine import processes

    with contextlib.ExitStack() as stack:
        with processes.together():
            place = processes.lead(lambda: stack.enter_context(claimed(workdir, overwrite)))
        yield place


def read_config(workdir: str) -> dict[str, Any]:
    """config.json of a run folder.

    Raises:
      UserError: it is not there or no JSON.
    """
    path = pathlib.Path(workdir) / "config.json"
    if not workdir or not path.exists():
        raise UserError(f"{workdir or '--workdir'} is no run folder (no config.json): give --workdir of a trained run")
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (UnicodeDecodeError, json.JSONDecodeError) as error:
        raise UserError(f"{path} is damaged ({error}); train the run again with --overwrite") from error


def config_digest(settings: Mapping[str, Any]) -> str:
    """sha256 of config.json without the seed, as it stands in the ledger and in sweep.json."""
    from jaxdl.engine.folder import plain

    kept = {name: value for name, value in settings.items() if name != "seed"}
    return hashlib.sha256(json.dumps(plain(kept), sort_keys=True).encode()).hexdigest()


def run_folders(workdir: str) -> list[tuple[int, pathlib.Path]]:
    """(seed, folder) of each run in a run folder: itself, or its seed<s>/ folders in order."""
    root = pathlib.Path(workdir)
    seeds = [(int(path.name[4:]), path) for path in root.glob("seed*") if path.name[4:].isdigit() and path.is_dir()]
    seeds = [(seed, path) for seed, path in seeds if (path / "record.json").exists()]
    return sorted(seeds) or [(int(read_config(workdir).get("seed", 0)), root)]


def judged_folders(workdir: str) -> list[tuple[int, pathlib.Path]]:
    """`run_folders` without the seeds that diverged, which report no parameters; stderr names them.

    A single run that diverged stays: what it has is its last good checkpoint.

    Raises:
      UserError: every seed diverged.
    """
    from jaxdl.engine.folder import RunFolder

    found = run_folders(workdir)
    records = {seed: RunFolder(path).read_json("record.json") or {} for seed, path in found}
    steps = {seed: record["steps"] for seed, record in records.items() if record.get("status") == "diverged"}
    if not steps:
        return found
    said = ", ".join(f"seed {seed} at step {step}" for seed, step in steps.items())
    if [path for _, path in found] == [pathlib.Path(workdir)]:
        print(f"{workdir} diverged ({said}): this is of its last good checkpoint", file=sys.stderr)
        return found
    if len(steps) == len(found):
        raise UserError(f"every seed in {workdir} diverged ({said}): train with other settings in another --workdir")
    print(f"left out because they diverged: {said}", file=sys.stderr)
    return [(seed, path) for seed, path in found if seed not in steps]


def _refuse_what_is_ignored(session: Session) -> None:
    """Settings that all recipes share but not all kinds of training know must not be taken in silence."""
    title, phases = session.recipe.title, session.experiment.phases
    train, optimizer = getattr(session.config, "train", None), getattr(session.config, "optimizer", None)
    tasks = [phase.task for phase in phases]
    if getattr(train, "accumulate", 1) > 1 and all(getattr(task, "accumulate", 1) == 1 for task in tasks):
        raise UserError(f"recipe {title} cannot accumulate gradients: leave --train.accumulate out")
    if getattr(optimizer, "ema_decay", 0) > 0 and not any(getattr(task, "ema_decay", 0) for task in tasks):
        raise UserError(f"recipe {title} keeps no moving average: leave --optimizer.ema_decay out")
    waits = any(phase.patience and phase.objective for phase in phases)
    if getattr(train, "patience", 0) > 0 and not waits:
        raise UserError(f"recipe {title} has no validation objective to wait for: leave --train.patience out")


def _with_precision(experiment: Any, precision: str) -> Any:
    if precision == "float32":
        return experiment
    import jax.numpy as jnp

    phases = []
    for phase in experiment.phases:
        if not hasattr(phase.task, "dtype"):
            raise UserError(f"recipe {experiment.name} computes in float32 only: leave --precision out")
        phases.append(dataclasses.replace(phase, task=dataclasses.replace(phase.task, dtype=jnp.bfloat16)))
    return dataclasses.replace(experiment, phases=tuple(phases))


def _with_parameters_of(experiment: Any, workdir: str) -> tuple[Any, str]:
    from jaxdl.engine.fit import load_networks

    with folder_to_read(workdir) as place:
        networks, digest = load_networks(place)
    first = dataclasses.replace(experiment.phases[0], initial=networks)
    return dataclasses.replace(experiment, phases=(first, *experiment.phases[1:])), digest


def fit(
    recipe: str,
    workdir: str,
    seed: int = 0,
    seeds: int | None = None,
    *,
    seeds_mode: str = "auto",
    parallel: str = "jit",
    precision: str = "float32",
    init_from: str = "",
    overwrite: bool = False,
    **overrides: Any,
) -> Any:
    """Trains a recipe from Python, as `python -m experiments.train` does, without printing.

    Args:
      recipe: "NAME" or "NAME:variant".
      workdir: the run folder, also gs://BUCKET/FOLDER.
      seed: first seed.
      seeds: how many seeds, each in its own sub-folder; None: one run, flat.
      seeds_mode, parallel, precision, init_from, overwrite: as the flags of `train`.
      **overrides: config leaves by dotted name, **{"train.steps": 500}.

    Returns:
      `jaxdl.engine.fit.Run`: `record` (each seed's in `records`), `metrics` and `state`, which holds the reported networks.

    Raises:
      UserError: an unknown recipe or setting, or a workdir that holds another run.
    """
    from jaxdl.engine.fit import Options
    from jaxdl.engine.fit import fit as train

    found = recipe_files.load(recipe)
    config = config_from_leaves(found.config, {**leaves(found.config), **overrides})
    session = open_recipe(found, config, precision, init_from)
    with folder_to_train(workdir, overwrite) as place:
        options = Options(
            place,
            seed=seed,
            seeds=seeds,
            seeds_mode=seeds_mode,
            parallel=parallel,
            precision=precision,
            overwrite=overwrite,
            command="jaxdl.fit",
        )
        return train(session.experiment, session.leaves, options)
