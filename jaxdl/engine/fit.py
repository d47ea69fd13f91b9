"""From an experiment and a folder to records: one run, or one run a seed, new or resumed."""

import shutil
import time
from dataclasses import dataclass, field
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxdl.engine.checkpoint import Checkpoints, compare
from jaxdl.engine.devices import Layout
from jaxdl.engine.digest import digest
from jaxdl.engine.experiment import Experiment
from jaxdl.engine.folder import RunFolder, differences
from jaxdl.engine.loop import Silent, Trained, Trainer, Watcher
from jaxdl.engine.payload import named_shapes, one_seed, unflatten
from jaxdl.engine.program import Program, judged_nets
from jaxdl.engine.record import git_facts, program_facts, summary, versions
from jaxdl.engine.signals import Interrupted
from jaxdl.errors import UserError


@dataclass(frozen=True)
class Options:
    """How to run an experiment; nothing here changes its result beyond rounding, except the seed.

    Attributes:
      workdir: the run folder.
      seed: first seed.
      seeds: how many seeds, each in a folder of its own; None: one run, flat in `workdir`.
      seeds_mode: auto, loop, map, vmap or shard.
      parallel: jit or pmap.
      fsdp: keep parameters split over the devices.
      precision: float32 or bfloat16, as the experiment was built with (recorded).
      overwrite: delete the run that lies in `workdir` first.
      command: what was typed, for the record.
      devices: how many devices to use; 0: all.
    """

    workdir: str
    seed: int = 0
    seeds: int | None = None
    seeds_mode: str = "auto"
    parallel: str = "jit"
    fsdp: bool = False
    precision: str = "float32"
    overwrite: bool = False
    command: str = ""
    devices: int = 0


@dataclass
class Run:
    """What `fit` gives back.

    Attributes:
      folder: the run folder (the group's, over seeds).
      records: record.json of each seed.
      summary: summary.json over seeds, None for a flat run.
      fresh: False if everything was finished already.
    """

    folder: RunFolder
    records: list[dict]
    summary: dict | None = None
    fresh: bool = True
    folders: list[RunFolder] = field(default_factory=list)


def choose_layout(experiment: Experiment, options: Options, seeds: int) -> Layout:
    """The layout for training `seeds` seeds at once.

    `auto`: on a CPU one seed after another (vmap gains nothing there); on accelerators vmap, unless seeds may end at
    different steps, which needs map.
    """
    devices = tuple(jax.local_devices()[: options.devices or None])
    mode = options.seeds_mode
    uneven = any(phase.patience or phase.stop for phase in experiment.phases)
    if mode == "auto":
        mode = "loop" if devices[0].platform == "cpu" or options.seeds is None else ("map" if uneven else "vmap")
    if mode == "vmap" and uneven:
        raise UserError("--seeds_mode=vmap cannot end seeds at different steps: use map or loop with early stopping")
    if mode == "shard":
        count = max(n for n in range(1, len(devices) + 1) if seeds % n == 0)
        devices = devices[:count]
    return Layout("map" if mode == "loop" else mode, options.parallel, devices, options.fsdp)


def fit(experiment: Experiment, config: dict[str, Any], options: Options, watcher: Watcher | None = None) -> Run:
    """Trains an experiment to the end, resuming what lies in the workdir.

    Args:
      experiment: from a recipe's `build`.
      config: "recipe" and every leaf that can change the result, by dotted name; config.json holds it with the seed.
      options: see Options.
      watcher: who is told how it goes.

    Raises:
      UserError: if the workdir is another run's, taken, damaged or cannot be written.
      Interrupted: after SIGTERM or Ctrl-C, with the state saved.
    """
    watcher = watcher or Silent()
    group = RunFolder(options.workdir).lock()
    try:
        if options.overwrite:
            group.clear()
        seeds = tuple(range(options.seed, options.seed + (options.seeds or 1)))
        _check_folder(group, {**config, "seed": options.seed}, options, experiment)
        folders = [_seed_folder(group, seed, options) for seed in seeds]
        todo = [i for i, folder in enumerate(folders) if not _finished(folder, experiment)]
        for i in todo:
            folders[i].write_json("config.json", {**config, "seed": seeds[i]})
        if options.seeds is not None:
            group.write_json("config.json", {**config, "seed": options.seed})
        _Fitting(experiment, options, watcher, group, seeds, folders).run(todo)
        records = [folder.read_json("record.json") for folder in folders]
        found = None
        if options.seeds is not None:
            done = [i for i, record in enumerate(records) if record["status"] == "done"]
            found = summary([seeds[i] for i in done], [records[i]["metrics"] for i in done])
            group.write_json("summary.json", found)
        return Run(group, records, found, bool(todo), folders)
    finally:
        group.unlock()


def load_judged(experiment: Experiment, folder: RunFolder) -> Any:
    """The canonical State [1, ...] of a finished (or running) run with its reported networks.

    Raises:
      UserError: if there is no whole checkpoint, or it is another model's.
    """
    restored = Checkpoints(folder.path / "checkpoints").newest()
    if restored is None:
        raise UserError(f"{folder.path} has no checkpoint: train it first (python -m experiments.train --workdir=...)")
    arrays, metadata = restored
    phase = experiment.phases[metadata["position"]["phase"]]
    template = Program(phase, Layout(devices=tuple(jax.local_devices()[:1])), 1).template
    keeps_best = any(name.startswith("best/") for name in arrays)
    shapes: dict[str, Any] = {"state": template, "best": judged_nets(template) if keeps_best else None}
    held = {name: array for name, array in arrays.items() if not name.startswith("sums/")}
    compare(held, named_shapes(shapes), str(folder.path))
    tree = unflatten(shapes, held)
    state = jax.tree.map(_typed, tree["state"], template)
    return _with_best(state, tree["best"])


@dataclass
class _Fitting:
    experiment: Experiment
    options: Options
    watcher: Watcher
    group: RunFolder
    seeds: tuple[int, ...]
    folders: list[RunFolder]

    def run(self, todo: list[int]) -> None:
        """Trains the seeds `todo` (indices), together or one by one."""
        if not todo:
            return
        stacked = Checkpoints(self.group.path / "checkpoints", say=self.watcher.say)
        together = self._together(todo, stacked)
        while together:
            layout = choose_layout(self.experiment, self.options, len(together[0]))
            trainer = Trainer(self.experiment, layout, self.watcher)
            for indices in together:
                alone = self.options.seeds is None or self._mode(layout) == "loop"
                where = Checkpoints(self.folders[indices[0]].path / "checkpoints", say=self.watcher.say) if alone else stacked
                self._train(trainer, indices, where, alone)
            todo = [i for i in todo if not any(i in indices for indices in together)]
            together = self._together(todo, stacked)

    def _mode(self, layout: Layout) -> str:
        asked = self.options.seeds_mode
        if asked == "auto":
            return "loop" if self.options.seeds is None or layout.devices[0].platform == "cpu" else layout.seeds_mode
        return asked

    def _together(self, todo: list[int], stacked: Checkpoints) -> list[list[int]]:
        """Which seeds train in one program next; a stacked checkpoint says which ones began together."""
        if not todo:
            return []
        layout = choose_layout(self.experiment, self.options, len(todo))
        if self.options.seeds is None or self._mode(layout) == "loop":
            return [[i] for i in todo]
        restored = stacked.newest()
        if restored is not None:
            begun = restored[1]["seeds"]
            indices = [self.seeds.index(seed) for seed in begun if seed in self.seeds]
            if len(indices) == len(begun) and set(indices) <= set(todo):
                return [indices]
        return [todo]

    def _train(self, trainer: Trainer, indices: list[int], checkpoints: Checkpoints, alone: bool) -> None:
        seeds = tuple(self.seeds[i] for i in indices)
        folders = [self.folders[i] for i in indices]
        began = time.time()
        for i in indices:
            self.folders[i].write_json("record.json", self._record(trainer, i, {"status": "running"}))
        if self.options.seeds is not None:
            self.watcher.say(f"seed {seeds[0]}" if len(seeds) == 1 else f"seeds {seeds[0]} to {seeds[-1]}")
        try:
            trained = trainer.run(seeds, folders, checkpoints)
        except (Interrupted, KeyboardInterrupt):
            for i in indices:
                record = self._record(trainer, i, {"status": "interrupted", "wall_time_s": time.time() - began})
                self.folders[i].write_json("record.json", record)
            raise
        for k, i in enumerate(indices):
            if not alone:
                self._split_checkpoint(checkpoints, k, i, trained)
            self.folders[i].write_json("record.json", self._record(trainer, i, _outcome(trained, k)))
        if not alone:
            _remove(checkpoints)

    def _split_checkpoint(self, stacked: Checkpoints, k: int, i: int, trained: Trained) -> None:
        """A finished (or diverged) seed's own checkpoint, out of the stacked one."""
        restored = stacked.newest()
        if restored is None:
            return
        arrays, metadata = restored
        position = trained.position.of_seed(k).to_json()
        own = Checkpoints(self.folders[i].path / "checkpoints", say=self.watcher.say)
        step = trained.position.global_step(k)
        own.save(step, one_seed(arrays, k), {"seeds": [self.seeds[i]], "position": position})

    def _record(self, trainer: Trainer, i: int, values: dict) -> dict:
        layout, options = trainer.layout, self.options
        base = {
            "recipe": self.experiment.name,
            "status": "running",
            "seed": self.seeds[i],
            "steps": 0,
            "reported": self.experiment.reported,
            "metrics": {},
            "best": None,
            "params_digest": None,
            "state_digest": None,
            "parameters": _parameters(trainer.program(len(self.experiment.phases) - 1, 1).template),
            "program": program_facts(layout, self._mode(layout), options.precision),
            "wall_time_s": 0.0,
            "compile_time_s": 0.0,
            "items_per_second": 0.0,
            "versions": versions(),
            "git": git_facts(),
            "command": options.command,
            "data": dict(self.experiment.data),
        }
        return {**base, **values}


def _outcome(trained: Trained, k: int) -> dict:
    """The parts of record.json that training decides, for seed `k` of those trained together."""
    position = trained.position
    state = jax.tree.map(lambda leaf: np.asarray(leaf)[k], trained.state)
    judged = jax.tree.map(lambda leaf: np.asarray(leaf)[k], trained.judged)
    best = None
    if position.best_value[k] is not None:
        best = {"step": position.best_step[k], "metric": trained.objective, "value": position.best_value[k]}
    diverged = position.diverged[k]
    return {
        "status": "done" if diverged < 0 else "diverged",
        "steps": position.global_step(k) if diverged < 0 else diverged,
        "metrics": trained.metrics[k] if diverged < 0 else {},
        "best": best,
        "params_digest": digest({name: net.params for name, net in judged.nets.items()}),
        "state_digest": digest(state),
        "wall_time_s": trained.seconds,
        "compile_time_s": trained.compile_seconds,
        "items_per_second": trained.items_per_second,
    }


def _check_folder(group: RunFolder, config: dict, options: Options, experiment: Experiment) -> None:
    old = group.read_json("config.json")
    if old is None:
        return
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


def _finished(folder: RunFolder, experiment: Experiment) -> bool:
    record, config = folder.read_json("record.json"), folder.read_json("config.json")
    if not record or not config or record["status"] not in ("done", "diverged"):
        return False
    return record["status"] == "diverged" or config.get("train.steps", 0) >= experiment.train.steps


def _parameters(template: Any) -> int:
    return sum(int(np.prod(leaf.shape)) for net in template.nets.values() for leaf in jax.tree.leaves(net.params))


def _typed(leaf, template):
    if jax.dtypes.issubdtype(template.dtype, jax.dtypes.prng_key):
        return jax.random.wrap_key_data(jnp.asarray(leaf), impl=jax.random.key_impl(template))
    return leaf


def _with_best(state: Any, best: Any) -> Any:
    if best is None:
        return state
    nets = {}
    for name, net in state.nets.items():
        params = best[name]["params"]
        nets[name] = net.replace(params=params, stats=best[name]["stats"], ema=None if net.ema is None else params)
    return state.replace(nets=nets)


def _remove(checkpoints: Checkpoints) -> None:
    shutil.rmtree(checkpoints.folder, ignore_errors=True)
