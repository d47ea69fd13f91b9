"""Several new runs over seeds as rows of one program: those that differ only in hyper-parameters of the State."""

import dataclasses
import functools
import pathlib
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from jaxdl.engine.alike import alike
from jaxdl.engine.checkpoint import Checkpoints
from jaxdl.engine.devices import Layout
from jaxdl.engine.executables import Executables
from jaxdl.engine.experiment import Experiment, Phase
from jaxdl.engine.fit import Run, conclude, prepare
from jaxdl.engine.folder import RunFolder
from jaxdl.engine.loop import Trainer
from jaxdl.engine.options import Options, choose_layout, seeds_mode
from jaxdl.engine.position import Position
from jaxdl.engine.program import Program
from jaxdl.engine.seeds import SeedRuns
from jaxdl.engine.signals import Interrupted, Signals
from jaxdl.engine.watcher import Watcher


@dataclass(frozen=True)
class Member:
    """One of the runs over seeds.

    Attributes:
      experiment, config: as for `fit`.
      folder: its run folder, locked by the caller.
    """

    experiment: Experiment
    config: dict[str, Any]
    folder: RunFolder


def share_programs(options: Options, experiments: Sequence[Experiment]) -> list[bool]:
    """Which experiments can train as rows beside the first one: those whose training programs are the same, because they are
    built alike or, where that does not show, by their text.

    Beyond that the caller answers for what no program shows: lengths, stopping rules, what is evaluated.
    None of them can where seeds train one after another (a row more would gain nothing), or under pmap.
    """
    layout = choose_layout(experiments[0], options, len(experiments))
    if options.seeds is None or seeds_mode(options, layout) == "loop" or layout.axis:
        return [False] * len(experiments)

    def texts(experiment: Experiment) -> list[str]:
        return [Program(phase, Layout(devices=layout.devices[:1]), 1).text() for phase in experiment.phases]

    @functools.cache
    def first() -> list[str]:
        return texts(experiments[0])

    def same(experiment: Experiment) -> bool:
        phases = experiments[0].phases
        if len(experiment.phases) == len(phases) and all(map(_alike, phases, experiment.phases)):
            return not any(getattr(phase.source, "streamed", False) for phase in experiment.phases)
        return all(first()) and texts(experiment) == first()

    return [same(experiment) for experiment in experiments]


def _alike(one: Phase, other: Phase) -> bool:
    """Whether two phases' programs differ in nothing but the values of their hyper-parameters."""
    return alike((one.task, one.source, sorted(one.hyper)), (other.task, other.source, sorted(other.hyper)))


def untouched(folder: RunFolder, seeds: range) -> bool:
    """Whether no seed of a run was ever begun: what was begun goes on by itself, with `fit`."""
    places = [folder.path / "checkpoints", *(folder.path / f"seed{seed}" / "record.json" for seed in seeds)]
    return not any(place.exists() for place in places)


def fit_together(
    members: Sequence[Member], options: Options, watcher: Watcher, executables: Executables | None = None
) -> list[Run]:
    """Trains untouched runs over the same seeds in one program; each ends as if `fit` had trained it.

    Args:
      members: `C` runs for which `share_programs` holds; the program has C x S rows.
      options: of all; its workdir does not count.
      watcher: who is told how it goes.
      executables: compiled programs of experiments before these.

    Raises:
      Interrupted: after a signal, with each run saved in its own folder, from where `fit` goes on.
    """
    prepared = []
    for member in members:
        own = dataclasses.replace(options, workdir=str(member.folder.path))
        prepared.append(prepare(member.experiment, member.config, own, watcher, member.folder, executables)[0])
    indices = list(range(len(prepared[0].seeds)))
    experiment = _stacked([member.experiment for member in members], len(indices))
    layout = choose_layout(experiment, options, len(members) * len(indices))
    trainer = Trainer(experiment, layout, watcher, executables)
    alone = Trainer(members[0].experiment, layout, watcher, executables)  # any member's: it tells of shapes and devices
    began = time.time()
    for runs in prepared:
        runs.note(alone, indices, {"status": "running"})
    watcher.say(f"{len(members)} x seeds {prepared[0].seeds[0]} to {prepared[0].seeds[-1]} in one program")
    rows = [seed for runs in prepared for seed in runs.seeds]
    folders = [folder for runs in prepared for folder in runs.folders]
    try:
        with Signals() as signals:
            if signals.pending:
                raise Interrupted
            trained = trainer.run(tuple(rows), folders, RowCheckpoints(prepared), signals)
    except (Interrupted, KeyboardInterrupt):
        for runs in prepared:
            runs.note(alone, indices, {"status": "interrupted", "wall_time_s": time.time() - began})
        raise
    for k, runs in enumerate(prepared):
        runs.conclude(alone, indices, trained.rows(k * len(indices), (k + 1) * len(indices)))
    return [conclude(runs, True) for runs in prepared]


def _stacked(experiments: Sequence[Experiment], seeds: int) -> Experiment:
    """The first experiment with the hyper-parameters of all, one value a row."""
    phases = []
    for place, phase in enumerate(experiments[0].phases):
        values = [experiment.phases[place].hyper for experiment in experiments]
        hyper = {name: np.repeat(np.array([each[name] for each in values], np.float32), seeds) for name in phase.hyper}
        phases.append(dataclasses.replace(phase, hyper=hyper))
    return dataclasses.replace(experiments[0], phases=tuple(phases))


class RowCheckpoints(Checkpoints):
    """Checkpoints of a program whose rows belong to several runs: each run keeps its own, as if it trained alone."""

    def __init__(self, runs: Sequence[SeedRuns]):
        self.runs = runs
        self.parts = [each.stacked() for each in runs]
        self.folder: pathlib.Path = self.parts[0].folder

    def clean(self) -> None:
        """See `Checkpoints`."""
        for part in self.parts:
            part.clean()

    def remove(self) -> None:
        """See `Checkpoints`."""
        for part in self.parts:
            part.remove()

    def save(self, step: int, arrays: dict[str, np.ndarray], metadata: dict) -> None:
        """See `Checkpoints`; the runs are saved one after another."""
        position, begin = Position.from_json(metadata["position"]), 0
        for runs, part in zip(self.runs, self.parts, strict=True):
            end = begin + len(runs.seeds)
            own = {name: array[begin:end] for name, array in arrays.items()}
            about = {**metadata, "seeds": list(runs.seeds), "position": position.rows(begin, end).to_json()}
            # seeds may have ended at different steps: a run's checkpoint is named by its own
            part.save(max(map(position.rows(begin, end).global_step, range(end - begin))), own, about)
            begin = end

    def newest(self, set_aside: bool = False) -> tuple[dict[str, np.ndarray], dict] | None:
        """See `Checkpoints`; None unless all runs have one."""
        found = [one for one in (part.newest(set_aside) for part in self.parts) if one is not None]
        if len(found) < len(self.parts):
            return None
        arrays = {name: np.concatenate([one[0][name] for one in found]) for name in found[0][0]}
        positions = [Position.from_json(one[1]["position"]) for one in found]
        seeds = [seed for one in found for seed in one[1]["seeds"]]
        return arrays, {**found[0][1], "seeds": seeds, "position": Position.joined(positions).to_json()}
