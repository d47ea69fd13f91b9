"""The results files of published tables, experiments/results/NAME.json, and the page that is rendered from them.

A file: {"table", "title", "source", "budgets": {"cpu": {"says", "command", "rows": [...]}}}. A row holds what the table
says of it (label, measure, published number, bar, ...), how many seeds were asked for, and "entry": what the ledger
keeps of its runs (`experiments.ledger.entry`), or null.
"""

import contextlib
import dataclasses
import json
import os
import pathlib
from collections.abc import Mapping
from typing import Any

from experiments import ledger, tables
from jaxdl.errors import UserError

PAGE = "README.md"
HEAD = """# Published numbers and ours

Written by `python -m experiments.reproduce` from the JSON files of this folder, which hold every value of every seed, the
configurations with their digests, versions and machines. Intervals are Student's 95 % intervals of the mean over n seeds.
Single recipes are in the table of the [README](../../README.md#recipes)."""


def document(name: str, table: tables.Table, budget: str, rows: list[dict], old: Mapping[str, Any]) -> dict[str, Any]:
    """A results file with the rows of one budget; those of the others stay as they were in `old`."""
    section = {
        "says": table.budgets.get(budget, ""),
        "command": f"python -m experiments.reproduce --table={name} --budget={budget}",
        "chosen": table.chosen,
        "rows": rows,
    }
    budgets = {**old.get("budgets", {}), budget: section}
    return {
        "table": name,
        "title": table.title,
        "source": table.source,
        "budgets": {key: budgets[key] for key in tables.BUDGETS if key in budgets},
    }


def row_of(
    table: tables.Table, row: tables.Row, plan: tables.Plan, asked: int, command: str, entry: dict | None, problem: str
) -> dict[str, Any]:
    """What the results file says of one row."""
    return {
        "name": row.name,
        "label": row.label,
        "of": row.of,
        "measure": dataclasses.asdict(table.measure_of(row)),
        "published": row.published,
        "source": row.source,
        "bar": row.bar,
        "differs": plan.differs,
        "note": row.note,
        "asked": asked,
        "command": command,
        "problem": problem,
        "entry": entry,
    }


def kept(new: dict, old: Mapping[str, Any] | None, config_digest: str) -> dict:
    """`new`, with the entry of `old` as long as that has more finished seeds of the row's configuration: in a checkout
    without the runs a result on file stays until as many seeds have been trained again."""
    before = (old or {}).get("entry")
    if before is None or before["config_digest"] != config_digest:
        return new
    fresh = 0 if new["entry"] is None else len(new["entry"]["seeds"])
    return {**new, "entry": before, "asked": old["asked"]} if old and len(before["seeds"]) > fresh else new


# --- files --------------------------------------------------------------------------------------------------------------


def read_file(path: pathlib.Path) -> dict[str, Any]:
    """One results file, {} where there is none.

    Raises:
      UserError: it is no results file of a table, or an entry lacks what makes it checkable.
    """
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (FileNotFoundError, NotADirectoryError):
        return {}
    except (OSError, UnicodeDecodeError, json.JSONDecodeError) as error:
        raise UserError(f"{path} cannot be read ({error}): mend or remove it") from None
    if not isinstance(found, dict) or not isinstance(found.get("budgets"), dict):
        raise UserError(f"{path} is no results file of a table: it has no budgets")
    for budget, section in found["budgets"].items():
        for row in section["rows"]:
            if row["entry"] is not None:
                ledger.check(row["entry"], f"{path}, {budget}, row {row['name']}")
    return found


def read(folder: pathlib.Path) -> list[dict[str, Any]]:
    """All results files of tables in a folder, by name; other JSON files there are passed over."""
    found = []
    for path in sorted(folder.glob("*.json")):
        with contextlib.suppress(OSError, ValueError):
            if "budgets" in json.loads(path.read_text(encoding="utf-8")):
                found.append(read_file(path))
    return found


def write(folder: pathlib.Path, found: dict[str, Any]) -> None:
    """Replaces a table's results file and the page.

    Raises:
      UserError: the folder cannot be written.
    """
    text = json.dumps(found, indent=1, ensure_ascii=False) + "\n"
    replace(folder / f"{found['table']}.json", text)
    replace(folder / PAGE, page(folder))


def replace(path: pathlib.Path, text: str) -> None:
    """Writes a file in one move, so that a reader never sees half of it."""
    aside = path.parent / f".{path.name}.{os.getpid()}"
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        aside.write_text(text, encoding="utf-8")
        os.replace(aside, path)
    except OSError as error:
        with contextlib.suppress(OSError):
            aside.unlink(missing_ok=True)
        raise UserError(f"cannot write {path}: {error.strerror}; choose another --results") from error


# --- the page -----------------------------------------------------------------------------------------------------------


def page(folder: pathlib.Path) -> str:
    """The page of a folder of results files, in Markdown."""
    return "\n\n".join([HEAD, *map(section_of, read(folder))]) + "\n"


def section_of(found: Mapping[str, Any]) -> str:
    """One table's part of the page."""
    parts = [f"## {found['title']}", found["source"]]
    for budget, section in found["budgets"].items():
        says = f": {section['says']}" if section["says"] else ""
        parts.append(f"**Budget {budget}**{says}\n`{section['command']}`\nSettings: {section['chosen']}.")
        parts.append(lines_of(section["rows"]))
        notes = [f"- {row['label']}: {row['note']}" for row in section["rows"] if row["note"]]
        parts += ["\n".join(notes)] if notes else []
        parts.append(makers(section["rows"]))
    return "\n\n".join(filter(None, parts))


def lines_of(rows: list[dict]) -> str:
    """A budget's rows as a Markdown table."""
    lines = [
        "| row | measured | published | ours | bar | short of the published setting | time a seed | command |",
        "|---|---|---|---|---|---|---|---|",
    ]
    by_name = {row["name"]: row for row in rows}
    for row in rows:
        runs = by_name[row["of"]] if row["of"] else row
        unit = row["measure"]["unit"]
        published = f"{row['published']}{' ' + unit if unit else ''}" if row["published"] else "–"
        source = f" ({row['source']})" if row["source"] else ""
        cells = [
            row["label"],
            row["measure"]["label"],
            f"{published}{source}",
            ours(row, runs),
            bar(row, runs),
            row["differs"] or runs["differs"] or "–",
            time_a_seed(runs["entry"]),
            f"`{runs['command']}`" if runs["command"] and not row["of"] else "–",
        ]
        lines.append(f"| {' | '.join(cell.replace('|', '/') for cell in cells)} |")
    return "\n".join(lines)


def values_of(row: Mapping[str, Any], runs: Mapping[str, Any]) -> list[float]:
    """The numbers that a row shows, one a seed: those that are finite, of the seeds that its measure takes."""
    entry, measure = runs["entry"], row["measure"]
    if entry is None:
        return []
    if measure["ensemble"]:
        values = [entry.get("ensemble", {}).get(measure["metric"])]
    else:
        values = entry["metrics"].get(measure["metric"], [])
    if measure["within"]:
        metric, low, high = measure["within"]
        inside = [value is not None and low <= value < high for value in entry["metrics"][metric]]
        values = [value for value, take in zip(values, inside, strict=True) if take]
    return [measure["offset"] + measure["scale"] * value for value in values if value is not None]


def ours(row: Mapping[str, Any], runs: Mapping[str, Any]) -> str:
    """The cell of our own number: mean and interval, and whatever is missing, diverged or half-finished."""
    measure, values, state = row["measure"], values_of(row, runs), state_of(runs)
    if not values:
        return state or ("none in this range" if measure["within"] else "not a number")
    unit = f" {measure['unit']}" if measure["unit"] else ""
    if measure["ensemble"]:
        text = f"{values[0]:.{measure['digits']}f}{unit} ({len(finished(runs['entry']))} networks)"
    else:
        text = ledger.spread(values, unit, measure["digits"], extent=True)
    return f"{text}; {state}" if state else text


def finished(entry: Mapping[str, Any]) -> list[int]:
    """The seeds that ended well."""
    return [seed for seed in entry["seeds"] if seed not in entry["diverged"]]


def state_of(runs: Mapping[str, Any]) -> str:
    """What is wrong with a row's runs, "" where all seeds that were asked for are done."""
    entry, asked = runs["entry"], runs["asked"]
    if not asked:
        return "not run at this budget"
    problem = f"failed: {runs['problem']}" if runs["problem"] else ""
    if entry is None:
        return problem or "**missing**: not run yet"
    said = [problem] if problem else []
    steps = dict(zip(entry["seeds"], entry["steps"], strict=True))
    said += [f"**diverged**: seed {seed} at step {steps[seed]}" for seed in entry["diverged"]]
    said += [f"**half-finished**: seed {each['seed']} at step {each['step']}" for each in entry["unfinished"]]
    lacking = asked - len(entry["seeds"]) - len(entry["unfinished"])
    said += [f"**missing**: {lacking} of {asked} seeds"] if lacking > 0 else []
    return "; ".join(said)


def bar(row: Mapping[str, Any], runs: Mapping[str, Any]) -> str:
    """The cell of the row's bar: what the mean must reach, and whether it does."""
    if not row["bar"]:
        return "–"
    (low, high), values = row["bar"], values_of(row, runs)
    if low is not None and high is not None:
        words = f"{low:g} to {high:g}"
    else:
        words = f"≥ {low:g}" if low is not None else f"≤ {high:g}"
    if not values:
        return words
    mean = round(sum(values) / len(values), 9)  # 1.01, 1.12 and 1.02 have a mean of 1.05, not of 1.0500000000000018
    reached = (low is None or mean >= low) and (high is None or mean <= high)
    return f"{words}: {'met' if reached else 'missed'}"


def time_a_seed(entry: Mapping[str, Any] | None) -> str:
    """Mean wall time of the finished seeds."""
    if entry is None or not entry["wall_time_s"]:
        return "–"
    return ledger.duration(sum(entry["wall_time_s"]) / len(entry["wall_time_s"]))


def makers(rows: list[dict]) -> str:
    """By which commit, versions and machine the rows were made, one line for each that differs."""
    found: dict[str, list[str]] = {}
    for row in rows:
        entry = row["entry"]
        if entry is None or not entry["seeds"]:
            continue
        program, git = entry["program"], entry["git"]
        commit = (git["commit"] or "unknown")[:12] + (" with changes" if git["dirty"] else "")
        versions = ", ".join(f"{name} {number}" for name, number in entry["versions"].items())
        threads = f"{program['threads']} thread{'s' if program['threads'] != 1 else ''}"
        machine = f"{program['devices']} x {program['device_kind']}, {threads}, seeds: {program['seeds_mode']}"
        found.setdefault(f"commit {commit}; {machine}; {versions}", []).append(row["label"])
    lines = [f"Made by {what}: {', '.join(labels)}." for what, labels in found.items()]
    return "\n".join(lines)
