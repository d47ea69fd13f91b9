"""The cells of a sweep: points of a grid, each with a configuration, its digest and a folder of its own."""

import dataclasses
import itertools
import math
import pathlib
import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from experiments.flags import Leaf, UsageError, config_from_leaves, leaves, text_of, walk
from experiments.nearest import did_you_mean
from experiments.session import PLACES, config_digest

STEPS = "train.steps"


@dataclass(frozen=True)
class Axis:
    """One leaf of the configuration and the values it takes."""

    leaf: Leaf
    values: tuple[Any, ...]


@dataclass(frozen=True)
class Cell:
    """One configuration of a sweep.

    Attributes:
      overrides: what sets it apart, {"section.leaf": value}.
      config: the recipe's configuration with the overrides.
      digest: sha256 of its config.json without the seed.
      folder: run folder of its seeds.
      rung: of successive halving, from 0 on; None elsewhere.
    """

    overrides: Mapping[str, Any]
    config: Any
    digest: str
    folder: pathlib.Path
    rung: int | None = None

    @property
    def label(self) -> str:
        """The overrides as they stand on a command line, without sections: "learning_rate=0.001 name=adam"."""
        return " ".join(f"{name.rsplit('.', 1)[-1]}={text_of(value)}" for name, value in self.overrides.items())


def read_axes(words: Sequence[str], config: Any, given: frozenset[str] = frozenset()) -> list[Axis]:
    """The axes of `--grid=KEY=V1,V2 ...`; values of a tuple leaf are separated by ";".

    Args:
      words: the flag's values.
      config: the recipe's configuration, whose leaves may be varied.
      given: names of the flags on the command line, which no axis may contradict.

    Raises:
      UsageError: an unknown or repeated key, no values, a value of another type or out of range.
    """
    known = {leaf.name: leaf for leaf in walk(config)}
    if not words:
        raise UsageError(
            "--grid=KEY=V1,V2 is necessary: it says what is varied, as in --grid=optimizer.learning_rate=1e-3,3e-3"
        )
    axes: list[Axis] = []
    for word in words:
        key, equals, text = word.partition("=")
        if key not in known:
            raise UsageError(f"--grid={word}: the recipe has no setting {key!r}{did_you_mean(key, list(known))}")
        if not equals or not text.strip():
            raise UsageError(f"--grid={key}: no values; write --grid={key}={text_of(known[key].default)},...")
        if key in (axis.leaf.name for axis in axes):
            raise UsageError(f"--grid={key} is given twice: name all its values in one")
        if key in given:
            raise UsageError(f"--{key} and --grid={key} contradict each other: leave one out")
        if key in PLACES:
            raise UsageError(f"--grid={key}: where the data lie changes no result, so it cannot be varied")
        axes.append(Axis(known[key], _values(known[key], text)))
    return axes


def _values(leaf: Leaf, text: str) -> tuple[Any, ...]:
    found: list[Any] = []
    for part in text.split(";" if leaf.many else ","):
        try:
            if not part.strip():
                raise ValueError(f"expected {leaf.expected}")
            value = leaf.parse(part.strip())
        except ValueError as error:
            raise UsageError(f"--grid={leaf.name}: {part.strip()!r}: {error}") from None
        if value in found:
            raise UsageError(f"--grid={leaf.name}: {text_of(value)} is there twice")
        found.append(value)
    return tuple(found)


def points(axes: Sequence[Axis], count: int | None = None, seed: int = 0) -> list[dict[str, Any]]:
    """All points of the grid, the last axis fastest; or `count` of them, drawn by `seed` without repetition."""
    product = math.prod(len(axis.values) for axis in axes)
    names = [axis.leaf.name for axis in axes]
    if count is None or count >= product:
        return [dict(zip(names, values, strict=True)) for values in itertools.product(*(axis.values for axis in axes))]
    return [_point(axes, index) for index in sorted(random.Random(seed).sample(range(product), count))]


def _point(axes: Sequence[Axis], index: int) -> dict[str, Any]:
    found = {}
    for axis in reversed(axes):
        index, place = divmod(index, len(axis.values))
        found[axis.leaf.name] = axis.values[place]
    return dict(reversed(found.items()))


def make_cells(
    config: Any,
    overrides: Sequence[Mapping[str, Any]],
    stored: Callable[[Any], Mapping[str, Any]],
    root: pathlib.Path,
    rung: int | None = None,
) -> list[Cell]:
    """Cells with these overrides.

    Args:
      config: the configuration with the command line's flags.
      overrides: one mapping a cell.
      stored: configuration -> config.json of its runs, without the seed.
      root: the sweep's folder.
      rung: of successive halving.

    Raises:
      UsageError: values that exclude each other.
    """
    cells = []
    for changes in overrides:
        try:
            own = config_from_leaves(config, {**leaves(config), **changes})
        except ValueError as error:
            raise UsageError(f"--grid: {' '.join(f'{n}={text_of(v)}' for n, v in changes.items())}: {error}") from None
        digest = config_digest(stored(own))
        cells.append(Cell(dict(changes), own, digest, root / digest[:16], rung))
    return cells


def rungs(cells: int, steps: int, keep: float) -> list[tuple[int, int]]:
    """(steps, cells) of each rung of successive halving (Jamieson & Talwalkar 2016).

    Each rung keeps the share `keep` of its cells and trains them 1 / `keep` times as long; the last one trains in full.

    Args:
      cells: n, how many begin.
      steps: T, updates of the last rung.
      keep: in (0, 1).
    """
    sizes = [cells]
    while sizes[-1] > 1 and steps * keep ** len(sizes) >= 1:
        sizes.append(max(1, min(math.ceil(sizes[-1] * keep - 1e-9), sizes[-1] - 1)))
    last = len(sizes) - 1
    return [(max(1, round(steps * keep ** (last - rung))), size) for rung, size in enumerate(sizes)]


def base_steps(config: Any) -> int:
    """The recipe's `train.steps`.

    Raises:
      UsageError: it has none.
    """
    train = getattr(config, "train", None)
    if train is None or not dataclasses.is_dataclass(train) or not hasattr(train, "steps"):
        raise UsageError("--halving needs a recipe with train.steps: its rungs are stretches of training")
    return int(train.steps)
