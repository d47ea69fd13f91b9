"""record.json and summary.json: what a run was, on what, and what came out."""

import os
import pathlib
import platform
import subprocess
from collections.abc import Sequence
from importlib import metadata

import jax
import numpy as np

from jaxdl.engine.devices import Layout

PACKAGES = ("jaxdl", "jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "numpy", "tensorflow-datasets")


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
        "threads": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "xla_flags": os.environ.get("XLA_FLAGS", ""),
        "parallel": layout.parallel,
        "fsdp": layout.fsdp,
        "seeds_mode": seeds_mode,
        "precision": precision,
    }


def git_facts() -> dict:
    """Commit of the source tree that jaxdl runs from; nulls where it is no git checkout."""
    root = pathlib.Path(__file__).resolve().parents[2]

    def git(*arguments):
        done = subprocess.run(["git", "-C", str(root), *arguments], capture_output=True, text=True, timeout=10, check=True)
        return done.stdout.strip()

    try:
        return {"commit": git("rev-parse", "HEAD"), "dirty": bool(git("status", "--porcelain", "--untracked-files=no"))}
    except (OSError, subprocess.SubprocessError):
        return {"commit": None, "dirty": None}


def summary(seeds: Sequence[int], metrics: Sequence[dict[str, float]]) -> dict:
    """summary.json: {"seeds", "metrics": {name: {"mean", "std", "ci95", "values"}}} over the seeds that have the metric.

    `std` is the sample standard deviation, `ci95` the half-width of Student's 95 % interval of the mean; null for one seed.
    """
    from scipy import stats

    result: dict[str, dict] = {}
    for name in dict.fromkeys(name for values in metrics for name in values):
        values = np.array([found[name] for found in metrics if name in found], np.float64)
        n = len(values)
        std = float(values.std(ddof=1)) if n > 1 else None
        ci95 = float(stats.t.ppf(0.975, n - 1) * std / np.sqrt(n)) if std is not None else None
        result[name] = {"mean": float(values.mean()), "std": std, "ci95": ci95, "values": values.tolist()}
    return {"seeds": list(seeds), "metrics": result}


def _processor() -> str:
    try:
        for line in pathlib.Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    except OSError:
        return platform.processor() or "cpu"
    return platform.processor() or "cpu"
