"""The least time that a program can take on a chip: what it computes, reads and sends against the chip's peaks."""

from dataclasses import dataclass

from experiments.hlo import Totals

SOURCE = "https://cloud.google.com/tpu/docs/v5e and https://cloud.google.com/tpu/docs/v5p-training"


@dataclass(frozen=True)
class Chip:
    """Peaks of one chip, as its maker states them.

    Attributes:
      flops: operations a second in bfloat16.
      memory_rate: bytes a second to and from main memory.
      memory: bytes of main memory.
      link_rate: bytes a second to its neighbours, all links in both directions together.
    """

    flops: float
    memory_rate: float
    memory: float
    link_rate: float


# by JAX's device_kind; numbers from SOURCE
CHIPS = {
    "TPU v5 lite": Chip(flops=197e12, memory_rate=819e9, memory=16e9, link_rate=400e9),
    "TPU v5": Chip(flops=459e12, memory_rate=2765e9, memory=95e9, link_rate=1200e9),
}


@dataclass(frozen=True)
class Roofline:
    """Seconds a step, if each part of the chip worked at its peak and all at the same time."""

    compute: float
    memory: float
    links: float

    @property
    def seconds(self) -> float:
        """The least time of a step."""
        return max(self.compute, self.memory, self.links)

    @property
    def bound(self) -> str:
        """What limits it."""
        parts = {"compute": self.compute, "memory": self.memory, "links": self.links}
        return max(parts, key=lambda name: parts[name])


def roofline(totals: Totals, chip: Chip, chips: int) -> Roofline:
    """The roofline of one step.

    Args:
      totals: of one chip's program.
      chip: its peaks.
      chips: how many there are.
    """
    sent = sum(
        sent_bytes(kind, size, devices or chips)
        for kind, parts in totals.groups.items()
        for devices, size in parts.items()
    )
    # one direction: what a chip sends, it receives as much of at the same time
    return Roofline(totals.flops / chip.flops, totals.bytes / chip.memory_rate, sent / (chip.link_rate / 2))


def sent_bytes(kind: str, size: float, chips: int) -> float:
    """Bytes that each chip sends in a collective over `size` bytes in a ring: an all-reduce is a reduce-scatter and an
    all-gather, each of which sends every part but one."""
    if kind in ("collective-permute", "collective-broadcast"):
        return size
    passes = 2 if kind == "all-reduce" else 1
    return passes * size * (chips - 1) / chips
