"""How an experiment is run: where, which seeds, on which devices."""

from dataclasses import dataclass
from typing import Any

import jax

from jaxdl.engine import processes
from jaxdl.engine.devices import Layout, Rules
from jaxdl.engine.experiment import Experiment
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
      model_parallel: how many devices share the parameters and the work of each example.
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
    model_parallel: int = 1
    precision: str = "float32"
    overwrite: bool = False
    command: str = ""
    devices: int = 0


def seeds_mode(options: Options, layout: Layout) -> str:
    """The mode that `auto` stands for, as records name it."""
    if options.seeds_mode != "auto":
        return options.seeds_mode
    return "loop" if options.seeds is None or layout.devices[0].platform == "cpu" else layout.seeds_mode


def choose_layout(experiment: Experiment, options: Options, seeds: int) -> Layout:
    """The layout for training `seeds` seeds at once.

    `auto`: on a CPU one seed after another (vmap gains nothing there); on accelerators vmap, unless seeds may end at
    different steps, which needs map.

    Raises:
      UserError: vmap was asked for where seeds may end at different steps, or `partition_rules` or `Layout` refuses.
    """
    found = jax.devices() if processes.count() > 1 else jax.local_devices()
    devices = tuple(found[: options.devices or None])
    mode = options.seeds_mode
    uneven = any(phase.patience or phase.stop for phase in experiment.phases)
    if mode == "auto":
        mode = "loop" if devices[0].platform == "cpu" or options.seeds is None else ("map" if uneven else "vmap")
    if mode == "vmap" and uneven:
        raise UserError("--seeds_mode=vmap cannot end seeds at different steps: use map or loop with early stopping")
    if mode == "shard":
        count = max(n for n in range(1, len(devices) + 1) if seeds % n == 0)
        devices = devices[:count]
    rules = partition_rules(experiment, options.model_parallel)
    mode = "map" if mode == "loop" else mode
    return Layout(mode, options.parallel, devices, options.fsdp, options.model_parallel, rules)


def partition_rules(experiment: Experiment, parts: int) -> Rules:
    """How the tasks of all phases split their parameters over `parts` devices; nothing for one.

    Raises:
      UserError: a task has no rules, or they do not allow so many parts.
    """
    if parts == 1:
        return ()
    found: list = []
    for phase in experiment.phases:
        task: Any = phase.task
        rules = task.partition_rules(parts) if hasattr(task, "partition_rules") else ()
        if not rules:
            raise UserError(f"--model_parallel: the model of {experiment.name} has no rules for it; leave the flag out")
        found += [rule for rule in rules if rule not in found]
    return tuple(found)
