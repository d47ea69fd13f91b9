"""What a sweep has found: the order of its cells, the paired tests, sweep.json, the printed table and sweep.html."""

import json
import math
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any, TextIO

from experiments.flags import text_of
from experiments.sweep_cells import STEPS, Axis, Cell
from experiments.sweep_worker import Outcome, as_json, outcome

Standing = list[tuple[Cell, Outcome]]
HOW = (
    "best mean over the seeds of the validation metric, among the cells whose seeds are all done; the test split had no "
    "part in it"
)


def ranked(cells: Sequence[Cell], seeds: range, objective: tuple[str, str] | None) -> Standing:
    """Cells from best to worst by the mean of the objective over the seeds; those with seeds missing come last."""
    found = [(cell, outcome(cell, seeds)) for cell in cells]
    if objective is None:
        return found
    metric, mode = objective

    def key(item: tuple[Cell, Outcome]) -> tuple[bool, bool, float]:
        values = list(item[1].values(metric).values())
        mean = sum(values) / len(values) if values else math.nan
        if not math.isfinite(mean):
            return True, True, 0.0
        return False, len(values) < len(seeds), mean if mode == "min" else -mean

    return sorted(found, key=key)


def standing(cells: Sequence[Cell], seeds: range, objective: tuple[str, str] | None) -> Standing:
    """As `ranked`, over the rungs of successive halving: each point where it got to, the last rung first."""
    last: list[Cell] = []
    for rung in sorted({cell.rung or 0 for cell in cells}, reverse=True):
        known = [point_of(cell) for cell in last]
        here = [cell for cell in cells if (cell.rung or 0) == rung and point_of(cell) not in known]
        last += [cell for cell, _ in ranked(here, seeds, objective)]
    return [(cell, outcome(cell, seeds)) for cell in last]


def point_of(cell: Cell) -> dict[str, Any]:
    """The cell's point of the grid, the same on each rung."""
    return dict(cell.overrides) if cell.rung is None else {n: v for n, v in cell.overrides.items() if n != STEPS}


def best_of(order: Standing, seeds: range, objective: tuple[str, str] | None) -> Cell | None:
    """The winner: the first cell, if all its seeds are done."""
    if objective is None or not order or len(order[0][1].values(objective[0])) < len(seeds):
        return None
    return order[0][0]


def comparisons(
    cells: Sequence[Cell], order: Standing, best: Cell, seeds: range, metric: str
) -> dict[str, dict[str, float]]:
    """The best cell against each other one, on the rung that both have reached.

    Returns:
      digest -> {"difference", "statistic", "p_value", "p_holm", "n"}: mean of best minus other over the seeds that both
      have, paired t-test, p-value corrected for the number of comparisons; only where there are two pairs.
    """
    from jaxdl.objectives.statistics import holm, paired_t_test

    found: dict[str, dict[str, float]] = {}
    for cell, theirs in order:
        twin = next((c for c in cells if c.rung == cell.rung and point_of(c) == point_of(best)), None)
        if twin is None or twin is cell:
            continue
        ours, others = outcome(twin, seeds).values(metric), theirs.values(metric)
        both = [seed for seed in seeds if seed in ours and seed in others]
        if len(both) < 2:
            continue
        test = paired_t_test([ours[seed] for seed in both], [others[seed] for seed in both])
        mean = sum(ours[seed] - others[seed] for seed in both) / len(both)
        found[cell.digest] = {
            "difference": mean, "statistic": test.statistic, "p_value": test.p_value, "n": len(both),
        }  # fmt: skip
    corrected = holm([each["p_value"] for each in found.values()])
    for each, value in zip(found.values(), corrected, strict=True):
        each["p_holm"] = value
    return found


def document(cells: Sequence[Cell], seeds: range, objective: tuple[str, str] | None, arguments: Any) -> dict[str, Any]:
    """sweep.json: {"cells": [{"overrides", "digest", "folder", "status", "n", "metrics", ...}], ...}."""
    from jaxdl.engine.record import git_facts, versions

    order = standing(cells, seeds, objective)
    best = best_of(order, seeds, objective)
    tests = comparisons(cells, order, best, seeds, objective[0]) if best is not None and objective else {}
    entries = []
    for cell in cells:
        entry = as_json(cell, outcome(cell, seeds))
        entries.append(entry | ({"against_best": tests[cell.digest]} if cell.digest in tests else {}))
    return {
        "cells": entries,
        "recipe": arguments.recipe.title,
        "seeds": list(seeds),
        "objective": {"metric": objective[0], "mode": objective[1]} if objective else None,
        "chosen": HOW if objective else None,
        "best": best.digest if best else None,
        "order": [cell.digest for cell, _ in order],
        "command": arguments.command,
        "versions": versions(),
        "git": git_facts(),
    }


def shown_metrics(found: Mapping[str, Any]) -> list[str]:
    """Metrics of the table: the objective, then the test metric of the same name (or the first one there is)."""
    names = list(dict.fromkeys(name for cell in found["cells"] for name in cell["metrics"]))
    objective = [found["objective"]["metric"]] if found["objective"] else []
    test = [name for name in names if name.startswith("test/")]
    same = [name for name in test if objective and name.split("/", 1)[1] == objective[0].split("/", 1)[1]]
    return [*objective, *(same or test)[:1]] or [name for name in names if not name.startswith("train/")][:2]


def table_rows(found: Mapping[str, Any]) -> tuple[list[str], list[list[str]]]:
    """Header and rows of the table, best first."""
    from jaxdl.reports.overview import format_interval, format_metric

    cells = {cell["digest"]: cell for cell in found["cells"]}
    order = [cells[digest] for digest in found["order"]]
    keys = list(dict.fromkeys(name for cell in order for name in cell["overrides"]))
    metrics = shown_metrics(found)
    header = [*(key.rsplit(".", 1)[-1] for key in keys), "status", "n", *metrics, "best minus this", "p", "p (Holm)"]

    def metric(cell: Mapping[str, Any], name: str) -> str:
        values = cell["metrics"].get(name)
        if not values:
            return "–"
        if values["ci95"] is None:
            return format_metric(name, values["mean"])
        mean, half = format_interval(name, values["mean"], values["ci95"])
        return f"{mean.removesuffix(' %')} ± {half}{' %' if mean.endswith(' %') else ''}"

    rows = []
    for cell in order:
        test = cell.get("against_best")
        tested = [f"{test['difference']:+.2g}", _p(test["p_value"]), _p(test["p_holm"])] if test else ["–"] * 3
        tested = ["best", "", ""] if cell["digest"] == found["best"] else tested
        values = [text_of(tuple(v) if isinstance(v, list) else v) for v in map(cell["overrides"].get, keys)]
        rows.append([*values, cell["status"], str(cell["n"]), *(metric(cell, name) for name in metrics), *tested])
    return header, rows


def _p(value: float) -> str:
    return f"{value:.3f}" if value >= 0.001 else f"{value:.0e}"


def print_table(found: Mapping[str, Any], stream: TextIO) -> None:
    """The table as aligned text, and what must be said of it."""
    from jaxdl.engine.progress import write

    header, rows = table_rows(found)
    widths = [max(len(row[i]) for row in (header, *rows)) for i in range(len(header))]
    lines = [
        "",
        *(
            "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
            for row in (header, *rows)
        ),
    ]
    if found["best"]:
        lines.append(
            f"best by {found['objective']['metric']} ({found['objective']['mode']}imum); test is shown, not used"
        )
    for cell in found["cells"]:
        label = " ".join(f"{name}={text_of(value)}" for name, value in cell["overrides"].items())
        if cell["diverged"]:
            lines.append(f"diverged: {label}, seeds {', '.join(map(str, cell['diverged']))}")
        if cell.get("error"):
            lines.append(f"failed: {label}: {cell['error']}")
    write(stream, "\n".join(lines) + "\n")


def write_page(
    root: pathlib.Path, found: Mapping[str, Any], cells: Sequence[Cell], axes: Sequence[Axis], seeds: range
) -> pathlib.Path:
    """sweep.html and its plots."""
    from jaxdl.reports.sweep import Point, sweep_report

    entries = {cell["digest"]: cell for cell in found["cells"]}
    here = {cell.digest: cell for cell in cells}
    metric = found["objective"]["metric"] if found["objective"] else (shown_metrics(found) or [""])[0]
    places = []
    for digest in found["order"]:
        cell, entry = here[digest], entries[digest]
        values = entry["metrics"].get(metric, {}).get("values", [])
        rows = [_rows(cell.folder / f"seed{seed}" / "metrics.jsonl") for seed in seeds]
        at = {axis.leaf.name: point_of(cell)[axis.leaf.name] for axis in axes}
        places.append(Point(at, values, rows, digest == found["best"]))
    return sweep_report(root, found, metric, places, {axis.leaf.name: axis.values for axis in axes}, *table_rows(found))


def _rows(path: pathlib.Path) -> list[dict[str, Any]]:
    try:
        return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    except (OSError, ValueError):
        return []
