"""Who is told how training goes."""

from dataclasses import dataclass
from typing import Any, Protocol


@dataclass(frozen=True)
class Compiled:
    """What is known of a phase once its training program is compiled.

    Attributes:
      phase: its name.
      parameters: of one seed.
      seconds: of compilation, with what was compiled before the first step.
      items: what a step handles (images, characters, environment steps) of the seeds whose operations XLA counts: of all
        with vmap, else of one, since it counts a loop's body once.
      program: the compiled program, K steps of all seeds.
    """

    phase: str
    parameters: int
    seconds: float
    items: int
    program: Any


class Watcher(Protocol):
    """Who is told how training goes: the terminal, or nobody."""

    def compiled(self, found: Compiled) -> None:
        """A phase's training program is compiled; told once a phase."""
        ...

    def update(self, step: int, total: int, metrics: dict[str, float], items_per_second: float) -> None:
        """A row was written to metrics.jsonl; told of the first of the seeds that still train together.

        Args:
          step: updates made, over all phases.
          total: the most updates of all phases together.
          metrics: of the row: "loss" of training, "validation/loss" of another split, none of a probe.
          items_per_second: training throughput so far, 0 where it is not known yet.
        """
        ...

    def say(self, line: str) -> None:
        """A line for people."""
        ...


class Silent:
    """A watcher that shows nothing."""

    def compiled(self, found: Compiled) -> None:
        """Shows nothing."""

    def update(self, step: int, total: int, metrics: dict[str, float], items_per_second: float) -> None:
        """Shows nothing."""

    def say(self, line: str) -> None:
        """Says nothing."""
