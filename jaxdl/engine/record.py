"""record.json and summary.json: what a run was, on what, and what came out."""

import dataclasses
import functools
import os
import pathlib
import platform
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import metadata

import jax
import numpy as np

from jaxdl.engine import processes
from jaxdl.engine.devices import Layout
from jaxdl.engine.digest import digest
from jaxdl.engine.position import Position
from jaxdl.engine.state import PyTree, State
from jaxdl.target import cpu_threads

PACKAGES = ("jaxdl", "jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "numpy", "tensorflow-datasets")


@dataclass
class Trained:
    """What `Trainer.run` leaves behind, on the host.

    Attributes:
      position: where the run ended.
      state: the canonical State [S, ...] after the last update.
      judged: the canonical State with the reported networks.
      metrics: [S] final metrics "<split>/<name>".
      items_per_second: training throughput without compilation, over all seeds.
    """

    position: Position
    state: State
    judged: State
    metrics: list[dict[str, float]]
    items_per_second: float
    seconds: float
    compile_seconds: float
    objective: str | None = None

    def rows(self, begin: int, end: int) -> "Trained":
        """What the seeds `begin` to `end` - 1 leave behind."""
        state, judged = (jax.tree.map(lambda leaf: leaf[begin:end], tree) for tree in (self.state, self.judged))
        position, metrics = self.position.rows(begin, end), self.metrics[begin:end]
        return dataclasses.replace(self, position=position, state=state, judged=judged, metrics=metrics)


def first_record(
    name: str, seed: int, reported: str, template: PyTree, program: dict, command: str, data: dict
) -> dict:
    """record.json of a run that has just begun: every key, with nothing measured yet.

    Args:
      name: the recipe's.
      template: shapes of the State, for the number of parameters.
      program: from `program_facts`.
    """
    return {
        "recipe": name,
        "status": "running",
        "seed": seed,
        "steps": 0,
        "reported": reported,
        "metrics": {},
        "best": None,
        "params_digest": None,
        "state_digest": None,
        "parameters": parameter_count(template),
        "program": program,
        "wall_time_s": 0.0,
        "compile_time_s": 0.0,
        "items_per_second": 0.0,
        "versions": versions(),
        "git": git_facts(),
        "command": command,
        "data": dict(data),
    }


def outcome(trained: Trained, k: int) -> dict:
    """The parts of record.json that training decides, for seed `k` of those trained together.

    A run that diverged reports no parameters, so it has neither metrics nor digests.
    """
    position, times = (
        trained.position,
        {
            "wall_time_s": trained.seconds,
            "compile_time_s": trained.compile_seconds,
            "items_per_second": trained.items_per_second,
        },
    )
    best = None
    if position.best_value[k] is not None:
        best = {"step": position.best_step[k], "metric": trained.objective, "value": position.best_value[k]}
    if not position.alive(k):
        return {"status": "diverged", "steps": position.diverged[k], "best": best, **times}
    state, judged = (jax.tree.map(lambda leaf: leaf[k], tree) for tree in (trained.state, trained.judged))
    return {
        "status": "done",
        "steps": position.global_step(k),
        "metrics": trained.metrics[k],
        "best": best,
        "params_digest": digest({name: net.params for name, net in judged.nets.items()}),
        "state_digest": digest(state),
        **times,
    }


@functools.cache
def versions() -> dict[str, str]:
    """Installed versions of what a result may depend on."""
    found = {"python": platform.python_version()}
    for name in PACKAGES:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return found


def program_facts(layout: Layout, seeds_mode: str, precision: str) -> dict:
    """What bits depend on beside the configuration: devices, threads, flags, modes."""
    devices = layout.devices or tuple(jax.devices()[:1])
    return {
        "devices": len(devices),
        "platform": devices[0].platform,
        "device_kind": devices[0].device_kind if devices[0].platform != "cpu" else _processor(),
        "threads": max(cpu_threads(), jax.local_device_count() if devices[0].platform == "cpu" else 0),
        "xla_flags": os.environ.get("XLA_FLAGS", ""),
        "parallel": layout.parallel,
        "fsdp": layout.fsdp,
        **({"model_parallel": layout.model_parallel} if layout.model_parallel > 1 else {}),
        "seeds_mode": seeds_mode,
        "precision": precision,
        **({"processes": processes.count()} if processes.count() > 1 else {}),
    }


@functools.cache
def git_facts() -> dict:
    """Commit of the source tree that jaxdl runs from; nulls where it is no git checkout."""
    root = pathlib.Path(__file__).resolve().parents[2]

    def git(*arguments):
        done = subprocess.run(
            ["git", "-C", str(root), *arguments], capture_output=True, text=True, timeout=10, check=True
        )
        return done.stdout.strip()

    try:
        return {"commit": git("rev-parse", "HEAD"), "dirty": bool(git("status", "--porcelain", "--untracked-files=no"))}
    except (OSError, subprocess.SubprocessError):
        return {"commit": None, "dirty": None}


def summary(seeds: Sequence[int], metrics: Sequence[dict[str, float]]) -> dict:
    """summary.json: {"seeds", "metrics": {name: {"mean", "std", "ci95", "values"}}} over the seeds that have the metric.

    `std` is the sample standard deviation, `ci95` the half-width of Student's 95 % interval of the mean; null for one seed.
    """
    from scipy.special import stdtrit  # scipy.stats takes 0.7 s to import

    result: dict[str, dict] = {}
    for name in dict.fromkeys(name for values in metrics for name in values):
        values = np.array([found[name] for found in metrics if name in found], np.float64)
        n = len(values)
        std = float(values.std(ddof=1)) if n > 1 else None
        ci95 = float(stdtrit(n - 1, 0.975) * std / np.sqrt(n)) if std is not None else None
        result[name] = {"mean": float(values.mean()), "std": std, "ci95": ci95, "values": values.tolist()}
    return {"seeds": list(seeds), "metrics": result}


def parameter_count(template: PyTree) -> int:
    """How many parameters a State's networks have together, by its shapes."""
    return sum(int(np.prod(leaf.shape)) for net in template.nets.values() for leaf in jax.tree.leaves(net.params))


def _processor() -> str:
    try:
        for line in pathlib.Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    except OSError:
        return platform.processor() or "cpu"
    return platform.processor() or "cpu"
