"""Which seeds of a run train together, and where each one's checkpoint and record go."""

import time
from dataclasses import dataclass

from jaxdl.engine import processes
from jaxdl.engine.checkpoint import Checkpoints
from jaxdl.engine.devices import Layout
from jaxdl.engine.executables import Executables
from jaxdl.engine.experiment import Experiment
from jaxdl.engine.folder import RunFolder
from jaxdl.engine.loop import Trainer
from jaxdl.engine.options import Options, choose_layout, seeds_mode
from jaxdl.engine.payload import save_alone
from jaxdl.engine.position import Position
from jaxdl.engine.record import Trained, first_record, outcome, program_facts
from jaxdl.engine.signals import Interrupted, Signals
from jaxdl.engine.watcher import Watcher


@dataclass
class SeedRuns:
    """The runs of one group.

    While seeds share one program, one stacked checkpoint lies in the group's folder; each trained seed has its own.

    Attributes:
      group: the run folder; the same as the only seed's where a run is flat.
      seeds: all seeds that were asked for.
      folders: one for each seed.
      executables: compiled programs of earlier experiments.
    """

    experiment: Experiment
    options: Options
    watcher: Watcher
    group: RunFolder
    seeds: tuple[int, ...]
    folders: list[RunFolder]
    executables: Executables | None = None

    def run(self, todo: list[int]) -> None:
        """Trains the seeds `todo` (indices), together or one by one.

        Raises:
          Interrupted: after a signal, with everything saved.
        """
        trainers: dict[Layout, Trainer] = {}
        with Signals() as signals:
            if todo and processes.agree(signals.pending)[0]:
                raise Interrupted
            for indices, alone in self._plan(todo):
                if processes.agree(signals.pending)[0]:
                    raise Interrupted
                layout = choose_layout(self.experiment, self.options, len(indices))
                if layout not in trainers:
                    trainers[layout] = Trainer(self.experiment, layout, self.watcher, self.executables)
                self._train(trainers[layout], indices, alone, signals)

    def _plan(self, todo: list[int]) -> list[tuple[list[int], bool]]:
        """Which seeds train in one program, and whether it is one alone with its own checkpoints.

        Seeds go on together as they began; a seed that has checkpoints of its own goes on alone from there.
        """
        if not todo:
            return []
        if self.options.seeds is None:
            return [(todo, True)]
        loop = seeds_mode(self.options, choose_layout(self.experiment, self.options, len(todo))) == "loop"
        self.stacked().clean()
        restored = self.stacked().newest(set_aside=True)
        begun = [self.seeds.index(seed) for seed in restored[1]["seeds"] if seed in self.seeds] if restored else []
        if restored and (loop or len(begun) < len(restored[1]["seeds"]) or not set(begun) <= set(todo)):
            self._dissolve(*restored)
            begun = []
        if loop:
            return [([i], True) for i in todo]
        own = [i for i in todo if i not in begun and self._own(i).steps()]
        new = [i for i in todo if i not in begun and i not in own]
        return (
            [(group, False) for group in (begun,) if group]
            + [([i], True) for i in own]
            + [(g, False) for g in (new,) if g]
        )

    def stacked(self) -> Checkpoints:
        """Where the checkpoint of seeds that share one program lies."""
        return Checkpoints(self.group.path / "checkpoints", say=self.watcher.say)

    def _own(self, i: int) -> Checkpoints:
        return Checkpoints(self.folders[i].path / "checkpoints", say=self.watcher.say)

    def _train(self, trainer: Trainer, indices: list[int], alone: bool, signals: Signals) -> None:
        seeds = tuple(self.seeds[i] for i in indices)
        folders = [self.folders[i] for i in indices]
        began = time.time()
        self.note(trainer, indices, {"status": "running"})
        if self.options.seeds is not None:
            self.watcher.say(f"seed {seeds[0]}" if len(seeds) == 1 else f"seeds {seeds[0]} to {seeds[-1]}")
        checkpoints = self._own(indices[0]) if alone else self.stacked()
        try:
            trained = trainer.run(seeds, folders, checkpoints, signals)
        except (Interrupted, KeyboardInterrupt):
            self.note(trainer, indices, {"status": "interrupted", "wall_time_s": time.time() - began})
            raise
        self.conclude(trainer, indices, trained, alone)

    def conclude(self, trainer: Trainer, indices: list[int], trained: Trained, alone: bool = False) -> None:
        """Records of seeds that have come to their end."""
        for k, i in enumerate(indices):
            self._write_record(trainer, i, outcome(trained, k))
        if not alone:
            self.stacked().remove()

    def note(self, trainer: Trainer, indices: list[int], values: dict) -> None:
        """A record of each seed that has not come to its end."""
        for i in indices:
            self._write_record(trainer, i, values)

    def _dissolve(self, arrays: dict, metadata: dict) -> None:
        """Gives the unfinished seeds of a stacked checkpoint their own, so that they can go on in another company."""
        position = Position.from_json(metadata["position"])
        for k, seed in enumerate(metadata["seeds"]):
            own = Checkpoints(self.group.path / f"seed{seed}" / "checkpoints", say=self.watcher.say)
            if position.alive(k) and (own.steps() or [-1])[-1] < position.global_step(k):
                save_alone(own, arrays, position, k, seed)
        self.stacked().remove()

    def _write_record(self, trainer: Trainer, i: int, values: dict) -> None:
        experiment, options = self.experiment, self.options
        facts = program_facts(trainer.layout, seeds_mode(self.options, trainer.layout), options.precision)
        template = trainer.program(len(experiment.phases) - 1, 1).template
        record = first_record(
            experiment.name, self.seeds[i], experiment.reported, template, facts, options.command, dict(experiment.data)
        )
        self.folders[i].write_json("record.json", {**record, **values})
