"""The head of a report: facts and headline numbers from a run's record."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from jaxdl.reports.intervals import interval_over_seeds
from jaxdl.reports.page import Headline

_FRACTIONS = ("accuracy", "error_rate", "error", "precision", "recall", "f1")
_IN_UNITS = ("squared_error", "absolute_error", "standard_error")


def is_fraction(metric: str) -> bool:
    """Whether a metric, "accuracy" or "test/accuracy", is a share that people read in percent."""
    return metric.endswith(_FRACTIONS) and not metric.endswith(_IN_UNITS)


def format_metric(metric: str, value: float | None, digits: int = 2) -> str:
    """A metric's value as text: shares in percent with `digits` decimals, others with four digits, a dash for NaN."""
    if value is None or math.isnan(value):
        return "–"
    return f"{100 * value:.{digits}f} %" if is_fraction(metric) else f"{value:.4g}"


def format_interval(metric: str, mean: float, half: float) -> tuple[str, str]:
    """A mean and the half-width of its interval as text, both with the same decimals: ("98.14 %", "0.38")."""
    if is_fraction(metric):
        return format_metric(metric, mean), f"{100 * half:.2f}"
    decimals = min(max(1 - math.floor(math.log10(half)), 0), 12) if half > 0 else 4
    if not 1e-4 <= abs(mean) < 1e7 and mean != 0:
        return f"{mean:.4g}", f"{half:.2g}"
    return f"{mean:.{decimals}f}", f"{half:.{decimals}f}"


def headline(metric: str, values: float | Sequence[float], note: str = "", label: str = "") -> Headline:
    """A metric as headline: one value, or the mean over seeds with its 95 % t interval.

    Args:
      metric: its name, "test/accuracy"; shares are shown in percent.
      values: one value, or one for each seed (those that are not finite are left out, and the note says so).
      note: small print; default for several seeds: how many, and the lowest value.
      label: what it is called; default: the name with spaces.
    """
    label = label or metric.replace("/", " ").replace("_", " ")
    every = np.atleast_1d(np.asarray(values, float))
    finite = every[np.isfinite(every)]
    if not finite.size:
        return Headline(label, "–", note=note)
    mean, half, count = (float(value) for value in interval_over_seeds(finite))
    if count < 2:
        return Headline(label, format_metric(metric, mean), note=note)
    shown, interval = format_interval(metric, mean, half)
    if not note:
        ends = f"{format_metric(metric, finite.min())} to {format_metric(metric, finite.max())}"
        note = f"mean of {int(count)} seeds and its 95 % interval; the seeds: {ends}"
        if count < every.size:
            note += f"; {every.size - int(count)} more not finite"
    return Headline(label, shown, f"± {interval}", note)


def record_facts(record: Mapping[str, Any], **more: Any) -> dict[str, Any]:
    """Facts for `write_report` from record.json; what the record lacks is left out.

    Args:
      record: as in record.json: recipe, seed (or "seeds", a list), steps, parameters, data, program, wall_time_s, ...
      **more: further facts by name (underscores become spaces), before the command; those that are None are left out.
    """
    program, data = record.get("program") or {}, record.get("data") or {}
    seeds = record.get("seeds")
    reported, best = record.get("reported"), record.get("best") or {}
    at_best = f"best, step {best['step']:,}" if reported == "best" and best.get("step") is not None else reported
    facts = {
        "recipe": record.get("recipe"),
        "status": record.get("status"),
        "seeds" if seeds and len(seeds) > 1 else "seed": _seeds(seeds) if seeds else record.get("seed"),
        "steps": record.get("steps"),
        "reported parameters": at_best,
        "parameters": record.get("parameters"),
        "data": " ".join(str(data[key]) for key in ("name", "version") if data.get(key)) or None,
        "devices": _devices(program),
        "precision": program.get("precision"),
        "time": duration(record.get("wall_time_s")),
        "of it compilation": duration(record.get("compile_time_s")),
        "throughput": _rate(record.get("items_per_second")),
        "versions": _versions(record.get("versions")),
        "commit": _commit(record.get("git")),
    }
    facts |= {name.replace("_", " "): value for name, value in more.items()}
    facts |= {"digest": record.get("params_digest"), "command": record.get("command")}
    return {name: value for name, value in facts.items() if value not in (None, "", [])}


def duration(seconds: float | None) -> str | None:
    """Seconds as people say it: 0.8 s, 12.3 s, 4 min 05 s, 2 h 03 min; None stays None."""
    if seconds is None or not math.isfinite(seconds):
        return None
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest:02d} s" if minutes < 60 else f"{minutes // 60} h {minutes % 60:02d} min"


def _seeds(seeds: Sequence[int]) -> str:
    if len(seeds) > 2 and list(seeds) == list(range(seeds[0], seeds[0] + len(seeds))):
        return f"{seeds[0]} … {seeds[-1]} ({len(seeds)})"
    return ", ".join(str(seed) for seed in seeds)


def _devices(program: Mapping[str, Any]) -> str | None:
    if not program:
        return None
    devices, platform = program.get("devices"), program.get("platform")
    shown = devices if isinstance(devices, str) else f"{devices} × {platform}" if devices and platform else platform
    threads = program.get("threads")
    said = f"{threads} thread{'' if threads == 1 else 's'}" if threads else None
    parts = [shown, program.get("parallel"), said]
    return ", ".join(str(part) for part in parts if part) or None


def _rate(rate: float | None) -> str | None:
    return f"{rate:,.0f} a second" if rate is not None and math.isfinite(rate) else None


def _versions(versions: Mapping[str, Any] | None) -> str | None:
    return ", ".join(f"{name} {value}" for name, value in versions.items()) if versions else None


def _commit(git: Mapping[str, Any] | None) -> str | None:
    if not git or not git.get("commit"):
        return None
    return str(git["commit"])[:12] + (" with changes" if git.get("dirty") else "")
