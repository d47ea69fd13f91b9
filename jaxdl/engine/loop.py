"""The loop: dispatches chunks, logs, evaluates, saves and resumes; nothing in it knows what is being trained."""

import contextlib
import time
from collections import deque
from concurrent.futures import Future
from typing import Any

import jax.numpy as jnp
import numpy as np

from jaxdl.engine import processes
from jaxdl.engine.checkpoint import Checkpoints
from jaxdl.engine.devices import Layout, typed
from jaxdl.engine.ending import finish
from jaxdl.engine.executables import Executables
from jaxdl.engine.experiment import Experiment, Phase
from jaxdl.engine.folder import RunFolder
from jaxdl.engine.payload import all_finite, beside, host_copies, named, save_each, unpack, without_poison
from jaxdl.engine.position import Position
from jaxdl.engine.program import Program, means, stream
from jaxdl.engine.record import Trained, parameter_count
from jaxdl.engine.signals import Interrupted, Signals
from jaxdl.engine.staging import Stager
from jaxdl.engine.state import Mean, State
from jaxdl.engine.transfer import transferred
from jaxdl.engine.watcher import Compiled, Silent, Watcher
from jaxdl.errors import UserError

CHUNK_SECONDS, CHUNK_SEEDS = 0.25, 8
CHUNK_LARGEST = 4096


class Trainer:
    """Trains an experiment for some seeds together, as often as asked, compiling once.

    Args:
      experiment: what to train.
      layout: how the programs are spread.
      watcher: who is told.
      executables: compiled programs of earlier experiments, some of which may be this one's.
    """

    def __init__(self, experiment: Experiment, layout: Layout, watcher=None, executables: Executables | None = None):
        self.experiment, self.layout = experiment, layout
        self.watcher: Watcher = watcher or Silent()
        self._executables, self._programs = executables, dict[tuple[int, int], Program]()
        self.stager = Stager(layout)
        self.told: set[int] = set()  # phases of which the watcher knows what was compiled
        train = experiment.train
        layout.check_batch(train.batch_size, "train.batch_size")
        for phase in experiment.phases:
            layout.check_batch(getattr(phase.source, "batch_size", 0), f"the batch size of phase {phase.name}")
        if train.batch_size % (train.accumulate * layout.shards):
            raise UserError(f"train.accumulate={train.accumulate} does not divide train.batch_size={train.batch_size}")

    def program(self, phase: int, seeds: int) -> Program:
        """The compiled functions of a phase for a number of seeds."""
        made = self._programs
        if (phase, seeds) not in made:
            made[phase, seeds] = Program(self.experiment.phases[phase], self.layout, seeds, self._executables)
        return made[phase, seeds]

    @property
    def compile_seconds(self) -> float:
        """Time spent on compiling all programs so far."""
        return sum(program.compile_seconds for program in self._programs.values())

    def run(
        self, seeds: tuple[int, ...], folders: list[RunFolder], checkpoints: Checkpoints, signals: Signals | None = None
    ) -> Trained:
        """Trains (or goes on training) the seeds to the end.

        Args:
          seeds: `S` seeds.
          folders: where each seed's metrics.jsonl lies.
          checkpoints: where their common checkpoint lies.
          signals: if the caller watches them already.

        Raises:
          Interrupted: after a signal, once the state is saved.
          UserError: if a checkpoint cannot be written or does not fit.
        """
        with contextlib.nullcontext(signals) if signals else Signals() as watched:
            run = _Run(self, seeds, folders, checkpoints, watched)
            run.begin()
            run.train()
            return finish(run)


class _Run:
    """One call of `Trainer.run`: what lives only while it trains."""

    def __init__(self, trainer: Trainer, seeds, folders, checkpoints: Checkpoints, signals: Signals):
        self.trainer, self.experiment, self.layout = trainer, trainer.experiment, trainer.layout
        self.seeds, self.folders, self.checkpoints, self.signals = seeds, folders, checkpoints, signals
        self.position = Position.first(len(seeds))
        self.state: Any = None
        self.best: Any = None
        self.sums: dict[str, Mean] = {}
        self.pending: deque = deque()
        self.began = time.perf_counter()
        self.compiled_before = trainer.compile_seconds
        self.own = [Checkpoints(folder.path / "checkpoints", say=self.trainer.watcher.say) for folder in folders]
        self.stacked = checkpoints.folder != self.own[0].folder
        self.kept: set[int] = set()
        self.copies: tuple[Any, Any] | None = None
        self.writing: Future | None = None
        self.trained_items, self.trained_seconds = 0.0, 0.0
        self.step_seconds: float | None = None
        self.saved: tuple[int, int] | None = None

    @property
    def phase(self) -> Phase:
        return self.experiment.phases[self.position.phase]

    def begin(self) -> None:
        """The newest good checkpoint, or a fresh state."""
        self.checkpoints.clean()
        restored = self.checkpoints.newest(set_aside=True)
        if restored is None:
            for folder in self.folders:
                folder.truncate_rows(0)
            self._enter_phase(None)
            return
        arrays, metadata = restored
        self.position = Position.from_json(metadata["position"])
        if metadata["seeds"] != list(self.seeds):
            raise UserError(
                f"the checkpoint in {self.checkpoints.folder} is of seeds {metadata['seeds']}, this run is of "
                f"{list(self.seeds)}: give the same --seed and --seeds, or another --workdir"
            )
        self._enter_phase(None, fresh=False)
        keeps, where = self.keeps_best(), str(self.checkpoints.folder)
        self.state, self.best, self.sums = unpack(self.program, self.layout, arrays, keeps, where)
        for folder, lines in zip(self.folders, self.position.lines, strict=True):
            folder.truncate_rows(lines)
        if self.position.t < self.phase.steps:
            self.trainer.watcher.say(f"resuming from step {metadata['step']}")
        self.saved = (self.position.phase, self.position.t)

    def _enter_phase(self, old: State | None, fresh: bool = True) -> None:
        index = self.position.phase
        self.program = self.trainer.program(index, len(self.seeds))
        self.data_keys = stream(self.seeds, "data", index)
        self.step_keys = stream(self.seeds, "step", index)
        self.evaluation_keys = stream(self.seeds, "evaluation", index)
        self.best, self.sums = None, self.program.zero_sums()
        self.step_seconds, self.chunks = None, 0
        start = np.array(self.position.start, np.int32)
        if self.position.t < self.phase.steps and not getattr(self.phase.source, "streamed", False):
            source = self.trainer.stager.placed(self.phase.source)
            self.program.train_ahead(source, self.data_keys, self.step_keys, start)
        if not fresh:
            return
        state = self.program.init(stream(self.seeds, "init", index))
        if old is not None and self.phase.transfer is not None:
            state = transferred(self.phase.transfer, old, state, stream(self.seeds, "transfer", index))
        self.state = self.layout.place(state.replace(step=jnp.asarray(start)), self.program.template)
        if self.keeps_best():
            self.best = self.program.best(self.best, self.state, np.full(len(self.seeds), True))

    def train(self) -> None:
        """All phases from here to the end."""
        while True:
            self._train_phase()
            alive = any(map(self.position.alive, range(len(self.seeds))))
            if not alive or self.position.phase + 1 == len(self.experiment.phases):
                break
            old = self._judged_state().replace(local=())
            self.position.next_phase()
            self._enter_phase(old)
            self._save()
        self._save(last=True)

    def keeps_best(self) -> bool:
        return self.experiment.reported == "best" and self.phase.objective is not None

    def _judged_state(self) -> State:
        state = self.state
        if self.keeps_best():
            state = self.program.judged(state, self.best)
        if self.layout.axis is None and processes.count() == 1:
            return state
        return typed(self.layout.gather(state), self.program.template)

    # --- the loop ---------------------------------------------------------------------------------------------------

    def _train_phase(self) -> None:
        position = self.position
        last = position.phase + 1 == len(self.experiment.phases)
        splits = [*self.phase.evaluations.values(), *(self.experiment.final.values() if last else ())]
        self.program.evaluate_ahead(self.state, map(self.trainer.stager.evaluation, splits), self.evaluation_keys)
        while position.t < self.phase.steps and self._active():
            stop, count = processes.agree(self.signals.pending, self._chunk_length())
            if stop:
                self._interrupt()
            began = time.perf_counter()
            compiled = self.program.compile_seconds
            self._dispatch(count)
            evaluate, save, end = self._due()
            self._await(0 if evaluate or save or end or self.chunks < 3 else 1)
            self._measure(count, time.perf_counter() - began - (self.program.compile_seconds - compiled))
            self._tell_what_is_compiled()  # after the time was taken: a watcher may look into the program
            if evaluate or end:
                self._evaluate()
            if save and not end:
                self._save()
        self._await(0)

    def _active(self) -> bool:
        return any(self.position.active(i) for i in range(len(self.seeds)))

    def _due(self) -> tuple[bool, bool, bool]:
        t, train, end = self.position.t, self.experiment.train, self.position.t == self.phase.steps
        return t % train.eval_every == 0, t % train.checkpoint_every == 0, end

    def _chunk_length(self) -> int:
        """Steps up to the next thing to do, but no more than take about CHUNK_SECONDS for each of up to CHUNK_SEEDS seeds."""
        t, train, known = self.position.t, self.experiment.train, self.step_seconds
        periods = (train.log_every, train.eval_every, train.checkpoint_every)
        left = [self.phase.steps - t, *(every - t % every for every in periods)]
        # where seeds take turns, each one's State moves in and out of the cache at every turn
        seconds = CHUNK_SECONDS * min(CHUNK_SEEDS, self.layout.in_turn(len(self.seeds)))
        affordable = (1 if t == 0 else 8) if known is None else int(seconds / max(known, 1e-7))
        capacity = getattr(self.phase.source, "capacity", None) or CHUNK_LARGEST
        return max(1, min(*left, affordable, capacity, CHUNK_LARGEST))

    def _dispatch(self, count: int) -> None:
        position = self.position
        counts = np.array([count if position.active(i) else 0 for i in range(len(self.seeds))], np.int32)
        start = np.array(position.start, np.int32)
        source = self.trainer.stager.stage(self.phase.source, position.t, count, self.phase.steps, self.data_keys)
        self.state, self.sums, bad = self.program.train(
            self.state, self.sums, source, self.data_keys, self.step_keys, start, counts
        )
        position.t += count
        log = position.t % self.experiment.train.log_every == 0 or position.t == self.phase.steps
        self.pending.append((position.t, bad, self.sums if log else None, int(counts.sum())))
        if log:
            self.sums = self.program.zero_sums()

    def _await(self, keep: int) -> None:
        """Waits until at most `keep` chunks are in flight, and looks at what the finished ones say."""
        if len(self.layout.devices) > 1 and self.layout.devices[0].platform == "cpu":
            keep = 0  # several CPU devices abort the process when their queue grows
        while len(self.pending) > keep:
            t, bad, sums, _ = self.pending.popleft()
            for i, step in enumerate(self.program.host_bad(bad)):
                if step >= 0 and self.position.diverged[i] < 0:
                    self.position.diverged[i] = int(step)
                    self.trainer.watcher.say(f"seed {self.seeds[i]}: the loss is not finite at step {int(step)}")
            if sums is not None:
                self._log("train", self.program.host_sums(sums), t)

    def _tell_what_is_compiled(self) -> None:
        if self.position.phase in self.trainer.told:
            return
        self.trainer.told.add(self.position.phase)
        parameters, seconds = parameter_count(self.program.template) // len(self.seeds), self.program.compile_seconds
        items = self._items() * (len(self.seeds) if self.layout.seeds_mode == "vmap" else 1)
        found = Compiled(self.phase.name, parameters, seconds, items, self.program.train_program)
        self.trainer.watcher.compiled(found)

    def _items(self) -> int:
        return getattr(self.phase.task, "items_per_step", 0) or getattr(self.phase.source, "batch_size", 1)

    def _measure(self, count: int, seconds: float) -> None:
        self.chunks += 1
        newest = seconds / count
        self.step_seconds = newest if self.step_seconds is None else 0.7 * self.step_seconds + 0.3 * newest
        self.trained_items += count * self._items() * sum(map(self.position.active, range(len(self.seeds))))
        self.trained_seconds += seconds

    @property
    def rate(self) -> float:
        return self.trained_items / self.trained_seconds if self.trained_seconds else 0.0

    def _log(self, split: str, sums: dict[str, Mean], t: int, active=None) -> list[dict[str, float]]:
        """One row a seed in metrics.jsonl; seeds that have ended write none."""
        values = [means(sums, i) for i in range(len(self.seeds))]
        total = sum(phase.steps for phase in self.experiment.phases)
        for i, folder in enumerate(self.folders):
            if not self.position.active(i):
                continue
            step = self.position.start[i] + t
            folder.append_rows([{"step": step, "phase": self.phase.name, "split": split, **values[i]}])
            self.position.lines[i] += 1
        shown = next((i for i in range(len(self.seeds)) if self.position.active(i)), None)
        if shown is not None:
            prefix = "" if split == "train" else f"{split}/"
            metrics = {prefix + name: value for name, value in values[shown].items() if split != "probe"}
            self.trainer.watcher.update(self.position.start[shown] + t, total, metrics, self.rate)
        return values

    # --- evaluation ---------------------------------------------------------------------------------------------------

    def _evaluate(self) -> None:
        position, phase = self.position, self.phase
        if hasattr(phase.task, "probe"):
            start = np.array(position.start, np.int32)
            source = self.trainer.stager.stage(phase.source, position.t, 1, position.t + 1, self.data_keys)
            sums = self.program.probe(self.state, source, self.data_keys, self.evaluation_keys, start)
            self._log("probe", sums, position.t)
        if not phase.evaluations:
            return
        found: list[dict[str, float]] = [{} for _ in self.seeds]
        for split, source in phase.evaluations.items():
            sums = self.program.evaluate(self.state, self.trainer.stager.evaluation(source), self.evaluation_keys)
            for i, values in enumerate(self._log(split, sums, position.t)):
                found[i].update({f"{split}/{name}": value for name, value in values.items()})
        position.history.append(found)
        self._judge(found)

    def _judge(self, found: list[dict[str, float]]) -> None:
        position, phase = self.position, self.phase
        if phase.objective is not None:
            name, mode = phase.objective
            improved = [
                position.active(i) and position.judge(i, found[i].get(name), mode) for i in range(len(self.seeds))
            ]
            if self.keeps_best() and any(improved):
                self.best = self.program.best(self.best, self.state, np.array(improved))
        for i in range(len(self.seeds)):
            history = [values[i] for values in position.history]
            rule = phase.stop is not None and phase.stop(history)
            waited = phase.objective is not None and phase.patience and position.waiting[i] >= phase.patience
            if position.active(i) and (rule or waited):
                position.stopped[i] = position.t

    # --- checkpoints --------------------------------------------------------------------------------------------------

    def _save(self, last: bool = False) -> None:
        """A checkpoint of everything, unless this very point is saved already or the state is poisoned; at the end of
        training one for each seed, in the place of the common one."""
        self._await(0)
        position = self.position
        self._keep_good()
        point = (position.phase, position.t)
        apart = last and self.stacked
        if self.saved == point and not apart:
            return
        copies = host_copies(self.layout, self.state, self.best)
        self.copies, arrays = copies if last else None, named(self.program, copies, self.sums)
        for i in range(len(self.seeds)):
            if position.alive(i) and not all_finite(arrays, i):
                position.diverged[i] = step = position.global_step(i)
                self.trainer.watcher.say(f"seed {self.seeds[i]}: parameters are not finite at step {step}")
        self._keep_good()
        alive = list(filter(position.alive, range(len(self.seeds))))
        if not alive:
            return
        for folder in self.folders:
            folder.sync_rows()
        self.saved = point
        if apart:
            self.writing = beside(save_each, arrays, self.settled(), alive, self.seeds, self.own)
            return
        arrays = without_poison(arrays, [i for i in range(len(self.seeds)) if i not in alive])
        metadata = {"seeds": list(self.seeds), "position": self.settled().to_json()}
        self.checkpoints.save(max(map(position.global_step, range(len(self.seeds)))), arrays, metadata)

    def _keep_good(self) -> None:
        """Gives each seed that has diverged among others the last checkpoint before, as its own."""
        dead = {i for i in range(len(self.seeds)) if not self.position.alive(i)} - self.kept
        if not dead or not self.stacked:
            return
        self.kept |= dead
        if (restored := self.checkpoints.newest()) is None:
            return
        position = Position.from_json(restored[1]["position"])
        save_each(restored[0], position, [i for i in dead if position.alive(i)], self.seeds, self.own)

    def written(self) -> None:
        """Waits for the seeds' own checkpoints; the common one is not needed any more."""
        if self.writing is not None:
            self.writing.result()
            self.writing = None
            self.checkpoints.remove()

    def settled(self) -> Position:
        """The position with this process's times added."""
        position = Position.from_json(self.position.to_json())
        position.elapsed += time.perf_counter() - self.began
        position.compile += self.trainer.compile_seconds - self.compiled_before
        return position

    def _interrupt(self) -> None:
        self.program.give_up()
        self._save()
        raise Interrupted
