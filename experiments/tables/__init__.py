"""Published tables: one file each, found by listing this folder, imported only when chosen.

A table's module has a docstring (its first line describes it, the rest gives source and set-up) and `TABLE`.
"""

import importlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from experiments import recipe_files
from experiments.flags import UsageError
from experiments.nearest import did_you_mean

PACKAGE = "experiments.tables"
BUDGETS = ("smoke", "cpu", "gpu")


@dataclass(frozen=True)
class Measure:
    """What a row shows of its runs: offset + scale * metric, of each seed.

    Attributes:
      metric: as in record.json: "test/accuracy".
      label: what it is called in the table.
      unit: behind the numbers, "%".
      scale, offset: from the metric to the number shown; an error in % is 100 - 100 * accuracy.
      digits: behind the point.
      ensemble: the metric of the averaged prediction of all seeds, as `evaluate` gives it: one number.
      within: (metric, low, high): only the seeds whose metric lies in [low, high).
    """

    metric: str
    label: str
    unit: str = ""
    scale: float = 1.0
    offset: float = 0.0
    digits: int = 2
    ensemble: bool = False
    within: tuple[str, float, float] | None = None

    def shown(self, value: float) -> float:
        """The number in the table for a metric's value."""
        return self.offset + self.scale * value


@dataclass(frozen=True)
class Plan:
    """How a row is run at a budget.

    Attributes:
      seeds: how many; 0: the row is not run at this budget.
      settings: config leaves on top of the row's.
      differs: where this budget does not reach the published setting, in a few words; "" where it does.
      seeds_mode: see --seeds_mode.
      precision: see --precision.
    """

    seeds: int = 1
    settings: Mapping[str, Any] = field(default_factory=dict)
    differs: str = ""
    seeds_mode: str = "auto"
    precision: str = "float32"


@dataclass(frozen=True)
class Row:
    """One line of a table.

    Attributes:
      name: name of its run folder.
      label: what the table calls it.
      measure: what is compared; None: what the table compares.
      published: the published number with its spread, as text in the measure's unit; "": none.
      source: where it is published, or how it was measured.
      recipe: NAME or NAME:variant; "": the row reads the runs of another one.
      settings: config leaves on top of the recipe, at every budget.
      plans: budget -> how it is run; a row without a plan is not run.
      of: name of the row whose runs it reads.
      bar: (lowest, highest) mean that counts as reproduced, in the measure's unit; None: open at that end.
      note: what a reader must know.
      chosen: how its settings were chosen; "": as the table says.
    """

    name: str
    label: str
    measure: Measure | None = None
    published: str = ""
    source: str = ""
    recipe: str = ""
    settings: Mapping[str, Any] = field(default_factory=dict)
    plans: Mapping[str, Plan] = field(default_factory=dict)
    of: str = ""
    bar: tuple[float | None, float | None] | None = None
    note: str = ""
    chosen: str = ""


@dataclass(frozen=True)
class Table:
    """A published table.

    Attributes:
      title: its heading.
      source: publications and rows of the course inventory.
      measure: what its rows compare, where they do not say.
      rows: in their order; names differ.
      chosen: how the settings were chosen, one sentence; on validation data, never on the test split.
      budgets: budget -> what it is, one sentence.
    """

    title: str
    source: str
    measure: Measure
    rows: tuple[Row, ...]
    chosen: str
    budgets: Mapping[str, str] = field(default_factory=dict)

    def row(self, name: str) -> Row:
        """The row of that name."""
        return next(row for row in self.rows if row.name == name)

    def runs_of(self, row: Row) -> Row:
        """The row whose runs `row` reads: itself, or another."""
        return self.row(row.of) if row.of else row

    def measure_of(self, row: Row) -> Measure:
        """What `row` compares."""
        return row.measure or self.measure


AS_IT_STANDS = "the recipes' settings as they stand in the commit named below, none changed for this table"
ERROR = Measure("test/accuracy", "test error", "%", scale=-100.0, offset=100.0)


def names(package: str = PACKAGE) -> list[str]:
    """The names of all tables, sorted."""
    return recipe_files.names(package)


def overview(package: str = PACKAGE) -> str:
    """All tables, one line each, the name first."""
    known = names(package)
    width = max(map(len, known), default=0)
    return "\n".join(f"{name:<{width}}  {recipe_files.summary(name, package).line}".rstrip() for name in known)


def load(name: str, package: str = PACKAGE) -> Table:
    """Imports a table.

    Raises:
      UsageError: there is no such table; names the nearest one.
    """
    known = names(package)
    if name not in known:
        raise UsageError(f"unknown table {name!r}{did_you_mean(name, known)}; --table=list shows all")
    return importlib.import_module(f"{package}.{name}").TABLE
