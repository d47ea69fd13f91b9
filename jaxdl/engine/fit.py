"""From an experiment and a folder to records: one run, or one run a seed, new or resumed."""

import functools
import pathlib
import re
import sys
from dataclasses import dataclass, field
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxdl.engine import processes
from jaxdl.engine.checkpoint import Checkpoints, compare
from jaxdl.engine.devices import Layout, typed
from jaxdl.engine.digest import digest
from jaxdl.engine.executables import Executables
from jaxdl.engine.experiment import Experiment
from jaxdl.engine.folder import RunFolder, differences, plain
from jaxdl.engine.judged import judged_metrics
from jaxdl.engine.options import Options
from jaxdl.engine.payload import named_shapes, unflatten
from jaxdl.engine.position import Position
from jaxdl.engine.program import Program, means, stream
from jaxdl.engine.record import summary
from jaxdl.engine.seeds import SeedRuns
from jaxdl.engine.transfer import averaged, judged_nets, with_nets
from jaxdl.engine.watcher import Silent, Watcher
from jaxdl.errors import UserError


@dataclass
class Run:
    """What `fit` gives back.

    Attributes:
      folder: the run folder (the group's, over seeds).
      records: record.json of each seed.
      summary: summary.json over seeds, None for a flat run.
      fresh: False if everything was finished already.
      folders: each seed's.
      experiment: what was trained.
    """

    folder: RunFolder
    records: list[dict]
    summary: dict | None = None
    fresh: bool = True
    folders: list[RunFolder] = field(default_factory=list)
    experiment: Experiment | None = None

    @property
    def record(self) -> dict:
        """record.json; over seeds the first one's."""
        return self.records[0]

    @property
    def metrics(self) -> dict[str, Any]:
        """Final metrics "<split>/<name>" of the reported parameters; over seeds {"mean", "std", "ci95", "values"} of each."""
        return self.record["metrics"] if self.summary is None else self.summary["metrics"]

    @functools.cached_property
    def state(self) -> Any:
        """The canonical State [S, ...] with the reported networks of the seeds that did not diverge, read when asked for.

        Raises:
          UserError: all of them diverged.
        """
        done = [k for k, record in enumerate(self.records) if record["status"] == "done"]
        if not done or self.experiment is None:
            raise UserError(f"no seed in {self.folder.path} has reported parameters")
        states = [load_judged(self.experiment, self.folders[k]) for k in done]
        return jax.tree.map(lambda *leaves: jnp.concatenate(leaves), *states)


@processes.together()
def fit(
    experiment: Experiment,
    config: dict[str, Any],
    options: Options,
    watcher: Watcher | None = None,
    executables: Executables | None = None,
    locked: RunFolder | None = None,
) -> Run:
    """Trains an experiment to the end, resuming what lies in the workdir.

    Args:
      experiment: from a recipe's `build`.
      config: "recipe" and every leaf that can change the result, by dotted name; config.json holds it with the seed.
      options: see Options.
      watcher: who is told how it goes.
      executables: compiled programs of experiments before this one, for those that differ in little.
      locked: the run folder, where the caller holds its lock already (and keeps it).

    Raises:
      Taken: another process is working in the workdir.
      UserError: if the workdir is another run's, damaged or cannot be written.
      Interrupted: after SIGTERM or Ctrl-C, with the state saved.
    """
    watcher = watcher or Silent()
    group = locked or RunFolder(options.workdir).lock()
    try:
        runs, todo = prepare(experiment, config, options, watcher, group, executables)
        runs.run(todo)
        return conclude(runs, bool(todo))
    finally:
        if locked is None:
            group.unlock()


def prepare(
    experiment: Experiment,
    config: dict[str, Any],
    options: Options,
    watcher: Watcher,
    group: RunFolder,
    executables: Executables | None = None,
) -> tuple[SeedRuns, list[int]]:
    """The runs of a locked folder with their config.json, and which of them (indices) are not finished."""
    config = plain(config)  # as it will be read back: tuples become lists
    if options.overwrite:
        group.clear()
    seeds = tuple(range(options.seed, options.seed + (options.seeds or 1)))
    _check_folder(group, {**config, "seed": options.seed}, options, experiment)
    folders = [_seed_folder(group, seed, options) for seed in seeds]
    todo = [i for i, folder in enumerate(folders) if not _finished(folder, experiment)]
    for folder in (group, *folders):
        folder.tidy()
    for i in todo:
        _reopen(folders[i])
        folders[i].write_json("config.json", {**config, "seed": seeds[i]})
    # of finished runs it stays: how often they logged is what `verify` repeats
    if options.seeds is not None and (todo or group.read_json("config.json") is None):
        group.write_json("config.json", {**config, "seed": options.seed})
    return SeedRuns(experiment, options, watcher, group, seeds, folders, executables), todo


def conclude(runs: SeedRuns, fresh: bool) -> Run:
    """What has become of the runs, and summary.json over seeds."""
    records = [folder.read_json("record.json") or {} for folder in runs.folders]
    found = None
    if runs.options.seeds is not None:
        done = [i for i, record in enumerate(records) if record["status"] == "done"]
        found = summary([runs.seeds[i] for i in done], [records[i]["metrics"] for i in done])
        runs.group.write_json("summary.json", found)
    return Run(runs.group, records, found, fresh, runs.folders, runs.experiment)


def load_judged(experiment: Experiment, folder: RunFolder) -> Any:
    """The canonical State [1, ...] of a finished (or running) run with its reported networks.

    Raises:
      UserError: if there is no whole checkpoint, or it is another model's or of an earlier phase than the last.
    """
    return load_judged_at(experiment, folder)[0]


def load_judged_at(experiment: Experiment, folder: RunFolder) -> tuple[Any, int]:
    """What `load_judged` gives, and the step of the checkpoint that it is from, the newest whole one."""
    arrays, metadata = _newest(folder)
    return _judged(experiment, folder, arrays, metadata), Position.from_json(metadata["position"]).global_step(0)


def evaluate(experiment: Experiment, folder: RunFolder, seed: int) -> tuple[dict[str, float], int]:
    """Metrics "<split>/<name>" of a run's reported networks on every split of its last phase, the final ones and what
    the experiment's judge finds; and the step of the checkpoint that they are from, the newest whole one."""
    phase = experiment.phases[-1]
    layout = Layout(devices=tuple(jax.local_devices()[:1]))
    program = Program(phase, layout, 1)
    judged, step = load_judged_at(experiment, folder)
    state = layout.place(judged, program.template)
    keys = stream((seed,), "evaluation", len(experiment.phases) - 1)
    found = {}
    for split, source in {**phase.evaluations, **experiment.final}.items():
        values = means(program.evaluate(state, layout.place_source(source), keys), 0)
        found.update({f"{split}/{name}": value for name, value in values.items()})
    found |= judged_metrics(experiment, judged, 0, seed, program.template)
    return found, step


def _newest(folder: RunFolder) -> tuple[dict[str, np.ndarray], dict]:
    restored = Checkpoints(folder.path / "checkpoints", say=_to_stderr).newest()
    if restored is None:
        raise UserError(f"{folder.path} has no checkpoint: train it first (python -m experiments.train --workdir=...)")
    return restored


def _to_stderr(line: str) -> None:
    print(line, file=sys.stderr)  # what a command prints to stdout may be JSON


def _judged(experiment: Experiment, folder: RunFolder, arrays: dict[str, np.ndarray], metadata: dict) -> Any:
    phase = experiment.phases[metadata["position"]["phase"]]
    if phase is not experiment.phases[-1]:
        diverged = (folder.read_json("record.json") or {}).get("status") == "diverged"
        remedy = "it diverged there, train with other settings" if diverged else "train it to the end first"
        raise UserError(f"{folder.path} has only come to phase {phase.name}: {remedy} (python -m experiments.train)")
    template = Program(phase, Layout(devices=tuple(jax.local_devices()[:1])), 1).template
    keeps_best = any(name.startswith("best/") for name in arrays)
    shapes: dict[str, Any] = {"state": template, "best": judged_nets(template) if keeps_best else None}
    held = {name: array for name, array in arrays.items() if not name.startswith("sums/")}
    compare(held, named_shapes(shapes), str(folder.path))
    tree = unflatten(shapes, held)
    state = typed(tree["state"], template)
    return with_nets(state, tree["best"]) if keeps_best else averaged(state)


def load_networks(workdir: str) -> tuple[dict[str, np.ndarray], str]:
    """The reported networks of a run by name ("model/params/Dense_0/kernel"), and their digest.

    Raises:
      UserError: there is no whole checkpoint in `workdir`.
    """
    place = pathlib.Path(workdir) / "checkpoints"
    restored = Checkpoints(place, say=_to_stderr).newest() if _is_folder(place) else None
    if restored is None:
        raise UserError(
            f"{workdir} has no checkpoint to start from: give the folder of one trained run (or of one seed)"
        )
    found = _reported({name: array[0] for name, array in restored[0].items()})
    return found, digest(found)


def _reported(arrays: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Of a checkpoint's arrays those of the reported networks: the best ones, else the averages, else the newest."""
    best = {name.removeprefix("best/"): array for name, array in arrays.items() if name.startswith("best/")}
    if best:
        return best
    fields = {"params": "params", "stats": "stats", "ema/0": "params", "ema/1": "stats"}  # averages replace the newest
    found = {}
    for stored, reported in fields.items():
        pattern = re.compile(f"state/nets/([^/]+)/{stored}/(.+)")
        for name, array in arrays.items():
            if part := pattern.fullmatch(name):
                found[f"{part[1]}/{reported}/{part[2]}"] = array
    return found


@processes.by_first
def _is_folder(place: pathlib.Path) -> bool:
    return place.is_dir()


@processes.by_first
def _check_folder(group: RunFolder, config: dict, options: Options, experiment: Experiment) -> None:
    old = group.read_json("config.json")
    left = [f"{place}{name}" for place in ("", "seed*/") for name in ("record.json", "metrics.jsonl", "checkpoints")]
    if old is None or not any(found for pattern in left for found in group.path.glob(pattern)):
        return  # nothing was trained here: a command that failed before its first step is in nobody's way
    flat = (group.path / "record.json").exists() or (group.path / "metrics.jsonl").exists()
    if flat and options.seeds is not None:
        raise UserError(f"{group.path} holds a single run: use another --workdir for --seeds, or --overwrite")
    if not flat and options.seeds is None and any(group.path.glob("seed*/config.json")):
        raise UserError(f"{group.path} holds a run over seeds: give --seeds, another --workdir, or --overwrite")
    found = differences(old, config, experiment.steps_may_grow)
    if found:
        more = f" (and {len(found) - 4} more)" if len(found) > 4 else ""
        raise UserError(
            f"{group.path} holds a run with another configuration ({'; '.join(found[:4])}{more}): "
            "use another --workdir, or --overwrite"
        )


def _seed_folder(group: RunFolder, seed: int, options: Options) -> RunFolder:
    return group if options.seeds is None else RunFolder(group.path / f"seed{seed}")


def _reopen(folder: RunFolder) -> None:
    # before config.json says more steps: a kill in between must not leave a longer run that looks finished
    record = folder.read_json("record.json")
    if record is not None:
        folder.write_json("record.json", {**record, "status": "running"})


@processes.by_first
def _finished(folder: RunFolder, experiment: Experiment) -> bool:
    record, config = folder.read_json("record.json"), folder.read_json("config.json")
    if not record or not config or record.get("status") not in ("done", "diverged"):
        return False
    return record["status"] == "diverged" or config.get("train.steps", experiment.train.steps) >= experiment.train.steps
