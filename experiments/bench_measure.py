"""How `bench` measures: sides that take turns, quartiles and bounds of what they took, the table and the JSON file."""

import dataclasses
import functools
import json
import math
import os
import pathlib
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from experiments import bench_profile

FORMAT = 1
# what a results file says of the call that measured
_OF_A_CALL = ("command", "hardware", "versions", "git", "wall_time_s")
# processor time is what a process itself used: on a machine that others use too it is the fairer one, for one thread
CLOCKS = ("wall", "processor")
OTHERS = ("torch", "scikit-learn", "stable-baselines3")
BOOTSTRAP_SAMPLES = 10_000
# cores that others may keep busy
BUSY = 0.2
# the other library's threads spin for a while after their last work
REST = 0.2
_SIGNS = {"speed-up": "×", "share": "×", "seconds": " s", "count": "", "rate": " /s", "mfu": ""}


@dataclass(frozen=True)
class Bar:
    """What a case must reach.

    Attributes:
      value: the limit.
      at_least: whether a case must come up to it; False: must not be above it.
      goal: what would be better still, or None.
    """

    value: float
    at_least: bool = True
    goal: float | None = None

    def reached(self, value: float) -> bool:
        """Whether `value` is on the right side; NaN is not."""
        return value >= self.value if self.at_least else value <= self.value


@dataclass(frozen=True)
class Result:
    """What one case found.

    Attributes:
      case: its name.
      what: what is compared with what, in one line.
      kind: "speed-up" (theirs / ours), "share" (ours / theirs), "seconds", "count", "rate" (items a second) or "mfu"
        (of the peak).
      values: one value of that kind a pair of measurements, or a measurement where there is one side only.
      bar: what is asked for; None: nothing.
      measurements: side -> every measurement; ours first.
      unit: of the measurements.
      bound: judged in place of the median: the upper end of the median's one-sided 95 % bootstrap interval.
      facts: what else a reader must know.
    """

    case: str
    what: str
    kind: str
    values: list[float]
    bar: Bar | None
    measurements: dict[str, list[float]]
    unit: str
    bound: float | None = None
    facts: dict[str, Any] = field(default_factory=dict)

    @property
    def judged(self) -> float:
        """The bound where there is one, else the median."""
        return float(np.median(self.values)) if self.bound is None else self.bound

    @property
    def passed(self) -> bool | None:
        """Whether the bar is reached; None where there is none."""
        return self.bar.reached(self.judged) if self.bar else None

    def to_json(self) -> dict[str, Any]:
        """Plain values, with median and quartiles added."""
        low, median, high = quartiles(self.values)
        found = dataclasses.asdict(self)
        return found | {"median": median, "quartiles": [low, high], "passed": self.passed}

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> "Result":
        """The opposite of `to_json`."""
        names = [each.name for each in dataclasses.fields(cls)]
        bar = values["bar"] and Bar(**values["bar"])
        return cls(**{name: values[name] for name in names} | {"bar": bar})


@dataclass(frozen=True)
class Skipped:
    """A case that could not be measured here, and why."""

    case: str
    reason: str

    def to_json(self) -> dict[str, str]:
        """Plain values."""
        return {"case": self.case, "skipped": self.reason}


def quartiles(values: Sequence[float]) -> tuple[float, float, float]:
    """(first quartile, median, third quartile), interpolated linearly between the order statistics."""
    low, median, high = np.quantile(np.asarray(values, np.float64), (0.25, 0.5, 0.75))
    return float(low), float(median), float(high)


def upper_bound(values: Sequence[float], confidence: float = 0.95, seed: int = 0) -> float:
    """Upper end of the one-sided bootstrap interval of the median (percentile method; Efron 1979).

    The `confidence` quantile of the medians of BOOTSTRAP_SAMPLES samples of the same size, drawn with replacement.
    """
    array = np.asarray(values, np.float64)
    drawn = np.random.default_rng(seed).integers(0, len(array), (BOOTSTRAP_SAMPLES, len(array)))
    return float(np.quantile(np.median(array[drawn], axis=1), confidence))


def ratios(above: Sequence[float], below: Sequence[float]) -> list[float]:
    """Measurement by measurement, so that what slows the machine down for a while slows both sides of a ratio."""
    return [a / b for a, b in zip(above, below, strict=True)]


def alternate(sides: Mapping[str, Callable[[], float]], repeats: int, rest: float = 0.0) -> dict[str, list[float]]:
    """Measures each side `repeats` times in turns, the order reversed each time.

    Args:
      sides: name -> runs it once, returns what it took.
      repeats: how often.
      rest: seconds before each measurement, in which the other side's threads go to sleep.
    """
    found: dict[str, list[float]] = {name: [] for name in sides}
    for turn in range(repeats):
        for name in list(sides) if turn % 2 == 0 else reversed(list(sides)):
            time.sleep(rest)
            found[name].append(sides[name]())
    return found


def seconds_per_step(run: Callable[[int], None], steps: int, clock: str = "wall") -> float:
    """Seconds by one of CLOCKS that each of `steps` steps takes; `run` waits for them."""
    now = time.process_time if clock == "processor" else time.perf_counter
    began = now()
    run(steps)
    return (now() - began) / steps


def steps_for(run: Callable[[int], None], seconds: float, most: int, clock: str = "wall") -> int:
    """How many steps take about `seconds`, at most `most`; the first call, which compiles, does not count."""
    run(1)
    steps = 1
    while True:
        each = seconds_per_step(run, steps, clock)
        wanted = max(1, min(most, round(seconds / each)))
        if wanted < 2 * steps or steps == most:
            return wanted
        steps = min(wanted, 8 * steps)


def against(
    case: str,
    what: str,
    bar: Bar,
    ours: Callable[[int], None],
    theirs: Mapping[str, Callable[[int], None]],
    *,
    repeats: int,
    seconds: float,
    most: int,
    facts: Mapping[str, Any],
    clock: str = "wall",
    traces: str = "",
) -> Result:
    """Our training step against the fastest way of another library.

    Args:
      case, what, bar: see `Result`.
      ours: makes a number of steps and waits for them.
      theirs: the same in the other library, for each way that may be the fastest there.
      repeats: pairs of measurements.
      seconds: about how long one measurement takes.
      most: steps of ours in one measurement, at most.
      facts: what a reader must know.
      clock: one of CLOCKS.
      traces: folder for a profile of ours; "": none.
    """
    runs = {"jaxdl": ours, **theirs}
    steps = {side: steps_for(run, seconds, most, clock) for side, run in runs.items()}
    sides = {side: functools.partial(seconds_per_step, run, steps[side], clock) for side, run in runs.items()}
    found = alternate(sides, repeats, REST)
    if traces:
        bench_profile.trace(ours, traces, case)
    fastest = min(theirs, key=lambda side: float(np.median(found[side])))
    return Result(
        case,
        what,
        "speed-up",
        ratios(found[fastest], found["jaxdl"]),
        bar,
        found,
        "seconds a step",
        facts={"theirs": fastest, **facts, "steps": steps},
    )


def facts_of_machine() -> dict[str, Any]:
    """CPU model, cores, memory and how busy the machine is; neither names nor addresses."""
    from jaxdl.engine.devices import Layout
    from jaxdl.engine.record import program_facts

    facts = program_facts(Layout(), "map", "float32")
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") if hasattr(os, "sysconf") else 0
    return {
        "cpu": facts["device_kind"],
        "platform": facts["platform"],
        "threads": facts["threads"],
        "xla_flags": facts["xla_flags"],
        "memory_gib": round(memory / 2**30, 1),
        "cores_in_use": cores_in_use(),
    }


def cores_in_use(seconds: float = 1.0) -> float | None:
    """How many cores all processes together keep busy while this one sleeps; None where /proc/stat does not say.

    The load average will not do: it also counts what waits, and remembers minutes.
    """
    try:
        before = _busy_ticks()
        time.sleep(seconds)
        ticks = _busy_ticks() - before
    except (OSError, ValueError, IndexError):  # not Linux
        return None
    return round(ticks / os.sysconf("SC_CLK_TCK") / seconds, 2)


def _busy_ticks() -> int:
    words = pathlib.Path("/proc/stat").read_text(encoding="utf-8").split("\n", 1)[0].split()
    user, nice, system, _, _, interrupts, soft_interrupts = map(int, words[1:8])
    return user + nice + system + interrupts + soft_interrupts


def document(
    suite: str, command: str, machine: Mapping[str, Any], cases: Sequence[Result | Skipped], seconds: float
) -> dict[str, Any]:
    """The JSON file's content."""
    from jaxdl.engine.record import git_facts, versions

    return {
        "format": FORMAT,
        "suite": suite,
        "command": command,
        "hardware": dict(machine),
        "versions": versions() | {name: found for name in OTHERS if (found := _version_of(name))},
        "git": git_facts(),
        "wall_time_s": seconds,
        "cases": [case.to_json() for case in cases],
    }


def joined(old: Mapping[str, Any], new: Mapping[str, Any], order: Sequence[str]) -> dict[str, Any]:
    """A results file after some of its cases were measured again: `new`, and of `old` the cases that it did not measure.

    A case that the file's own call did not measure says under "call" which one did. One that could not be measured this time
    does not replace a measurement.

    Args:
      old, new: from `document`, of one suite.
      order: names of the suite's cases; others come last.
    """
    call = {name: old[name] for name in _OF_A_CALL}
    there = {case["case"] for case in old["cases"] if "skipped" not in case}
    fresh = [case for case in new["cases"] if "skipped" not in case or case["case"] not in there]
    again = {case["case"] for case in fresh}
    cases = [*fresh, *({"call": call} | case for case in old["cases"] if case["case"] not in again)]
    place = {name: number for number, name in enumerate(order)}
    return {**new, "cases": sorted(cases, key=lambda case: place.get(case["case"], len(place)))}


def write(path: pathlib.Path, content: Mapping[str, Any]) -> None:
    """Writes a JSON file, its folder too."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


def table(cases: Sequence[Result | Skipped]) -> str:
    """The cases as aligned columns, then the lines that explain them."""
    header = ("case", "ours", "theirs", "median", "quartiles", "95 % bound", "bar (goal)", "")
    rows = [header, *(_row(case) for case in cases if isinstance(case, Result))]
    lines = aligned(rows) if len(rows) > 1 else []
    lines.append("")
    for case in cases:
        lines.append(f"{case.case}: {case.reason if isinstance(case, Skipped) else _explained(case)}")
    return "\n".join(lines).strip("\n")


def aligned(rows: Sequence[Sequence[str]]) -> list[str]:
    """Rows of equal length as columns, the first to the left, the others to the right."""
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    lines = []
    for first, *others in rows:
        cells = [f"{first:<{widths[0]}}", *(f"{cell:>{w}}" for cell, w in zip(others, widths[1:], strict=True))]
        lines.append("  ".join(cells).rstrip())
    return lines


def _row(case: Result) -> tuple[str, ...]:
    low, median, high = quartiles(case.values)
    sign = _SIGNS[case.kind]
    sides = [_measured(float(np.median(values)), case.unit) for values in case.measurements.values()]
    ours, theirs = sides[0], sides[1] if len(sides) > 1 else ""
    if len(sides) > 2:
        theirs = _measured(float(np.median(case.measurements[case.facts["theirs"]])), case.unit)
    bar = verdict = ""
    if case.bar:
        goal = "" if case.bar.goal is None else f" ({case.bar.goal:g}{sign})"
        bar = f"{'≥' if case.bar.at_least else '≤'} {case.bar.value:g}{sign}{goal}"
        verdict = "reached" if case.passed else "MISSED"
    return (
        case.case,
        ours,
        theirs,
        f"{_short(median)}{sign}",
        f"{_short(low)} to {_short(high)}",
        "" if case.bound is None else f"{_short(case.bound)}{sign}",
        bar,
        verdict,
    )


def _explained(case: Result) -> str:
    facts = "; ".join(f"{name} {value}" for name, value in case.facts.items())
    return case.what + (f" ({facts})" if facts else "")


def _measured(value: float, unit: str) -> str:
    if unit == "seconds a step":
        return f"{value * 1e3:.3g} ms" if value >= 1e-3 else f"{value * 1e6:.3g} µs"
    return f"{_short(value)} {'s' if unit == 'seconds' else unit}".strip()


def _short(value: float) -> str:
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.3g}" if math.isfinite(value) else str(value)


def _version_of(package: str) -> str:
    from importlib import metadata

    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return ""
