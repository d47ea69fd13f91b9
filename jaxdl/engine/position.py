"""Where a run stands: everything the host knows of it beside the State; it lies in each checkpoint's metadata."""

import dataclasses
import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass, field

_PER_SEED = ("start", "stopped", "diverged", "best_value", "best_step", "waiting", "lines")


@dataclass
class Position:
    """Host side of a run over `S` seeds.

    Attributes:
      phase: index of the phase.
      t: updates made in this phase by the seeds that are still in it.
      start: [S] global step at which each seed began this phase.
      stopped: [S] updates after which a seed left this phase early, or -1.
      diverged: [S] global step whose loss was not finite, or -1.
      best_value, best_step: [S] of this phase's objective; None before the first evaluation.
      waiting: [S] evaluations since the best one.
      history: per evaluation of this phase, [S] metrics "<split>/<name>".
      lines: [S] rows written to each metrics.jsonl.
      elapsed: seconds of training before this process.
      compile: seconds of compilation before this process.
    """

    phase: int
    t: int
    start: list[int]
    stopped: list[int]
    diverged: list[int]
    best_value: list[float | None]
    best_step: list[int]
    waiting: list[int]
    lines: list[int]
    history: list[list[dict[str, float]]] = field(default_factory=list)
    elapsed: float = 0.0
    compile: float = 0.0

    @classmethod
    def first(cls, seeds: int) -> "Position":
        """The beginning of a run."""

        def fill(value):
            return [value] * seeds

        return cls(0, 0, fill(0), fill(-1), fill(-1), fill(None), fill(0), fill(0), fill(0))

    @classmethod
    def from_json(cls, values: dict) -> "Position":
        """The opposite of `to_json`."""
        return cls(**values)

    def to_json(self) -> dict:
        """For a checkpoint's metadata."""
        return dataclasses.asdict(self)

    @property
    def seeds(self) -> int:
        """How many seeds train together."""
        return len(self.start)

    def active(self, i: int) -> bool:
        """Whether seed `i` is still training in this phase."""
        return self.stopped[i] < 0 and self.diverged[i] < 0

    def alive(self, i: int) -> bool:
        """Whether seed `i` has not diverged."""
        return self.diverged[i] < 0

    def length(self, i: int) -> int:
        """Updates that seed `i` has made in this phase."""
        return self.stopped[i] if self.stopped[i] >= 0 else self.t

    def global_step(self, i: int) -> int:
        """Updates that seed `i` has made over all phases."""
        return self.start[i] + self.length(i)

    def of_seed(self, i: int) -> "Position":
        """This position for seed `i` alone."""
        values = dataclasses.asdict(self)
        for name in _PER_SEED:
            values[name] = [values[name][i]]
        values["t"] = self.length(i)
        values["history"] = [[found[i]] for found in self.history]
        return Position(**values)

    def rows(self, begin: int, end: int) -> "Position":
        """This position for the seeds `begin` to `end` - 1."""
        values = dataclasses.asdict(self)
        for name in _PER_SEED:
            values[name] = values[name][begin:end]
        values["history"] = [found[begin:end] for found in self.history]
        return Position(**values)

    @classmethod
    def joined(cls, parts: "Sequence[Position]") -> "Position":
        """The opposite of `rows`, for parts that stand at the same update."""
        values = dataclasses.asdict(parts[0])
        for name in _PER_SEED:
            values[name] = [value for part in parts for value in getattr(part, name)]
        values["history"] = [
            list(itertools.chain(*found)) for found in zip(*(part.history for part in parts), strict=True)
        ]
        return cls(**values)

    def next_phase(self) -> None:
        """Moves to the next phase; best and patience begin anew."""
        self.start = [self.global_step(i) for i in range(self.seeds)]
        self.phase, self.t, self.history = self.phase + 1, 0, []
        self.stopped, self.waiting = [-1] * self.seeds, [0] * self.seeds
        self.best_value, self.best_step = [None] * self.seeds, list(self.start)

    def judge(self, i: int, value: float | None, mode: str) -> bool:
        """Notes an evaluation's objective for seed `i`; True if it is the best so far (a value that is no number never is)."""
        best = self.best_value[i]
        sign = 1.0 if mode == "min" else -1.0
        if value is None or not math.isfinite(value) or (best is not None and sign * value >= sign * best):
            self.waiting[i] += 1
            return False
        self.best_value[i], self.best_step[i], self.waiting[i] = value, self.global_step(i), 0
        return True
