"""The ledger of measured results: `python -m experiments.ledger --workdir=runs/lenet5 --chosen="..."` adds a finished run.

A number in the README can only come from experiments/results/: this binary writes experiments/results/recipes.json and
renders the README's tables of recipes and of speed (BENCH_TABLES) from there; a test checks that they agree.
"""

import hashlib
import json
import pathlib
from dataclasses import dataclass
from typing import Any

from experiments import cli
from experiments.bench_measure import BUSY
from experiments.flags import option
from jaxdl.errors import UserError

ROOT = pathlib.Path(__file__).resolve().parents[1]
RESULTS = ROOT / "experiments" / "results" / "recipes.json"
README = ROOT / "README.md"
# name of a table of speed in the README's marks -> results file
BENCH_TABLES = {"bench": "bench-cpu.json", "bench-families": "bench-families.json"}


@dataclass(frozen=True)
class Options:
    """Flags of this binary."""

    chosen: str = option("", "how the settings were chosen, one sentence; on validation data, never on the test split")
    published: str = option("", "the published number and its source")
    metric: str = option(
        "", "the metric that the README shows, as in record.json; empty: test accuracy, or the first of test"
    )
    render: bool = option(False, "only render the README's table again")


BINARY = cli.Binary(
    program="ledger",
    summary="Adds a finished run to experiments/results/recipes.json and renders the README's table of recipes from it.",
    flags=("workdir",),
    options=Options,
)


def main(arguments: cli.Arguments) -> int:
    """Adds the run of --workdir, then renders the table."""
    flags = arguments.flags
    results = read()
    if not flags.render:
        if not flags.chosen:
            raise UserError("--chosen is missing: say in one sentence how the settings were chosen")
        found = entry(pathlib.Path(flags.workdir), flags.chosen, flags.published, flags.metric)
        results[found["key"]] = found
        RESULTS.write_text(
            json.dumps(dict(sorted(results.items())), indent=1, ensure_ascii=False) + "\n", encoding="utf-8"
        )
    text = README.read_text(encoding="utf-8")
    README.write_text(rendered(text), encoding="utf-8")
    return 0


def read() -> dict[str, dict]:
    """The results by key, empty where there are none."""
    return json.loads(RESULTS.read_text(encoding="utf-8")) if RESULTS.exists() else {}


def entry(workdir: pathlib.Path, chosen: str, published: str = "", metric: str = "") -> dict[str, Any]:
    """What the ledger keeps of a run folder: config digest, seeds, every value, and how settings were chosen.

    Raises:
      UserError: the run is not finished, or has no such metric.
    """
    from experiments.session import read_config, run_folders

    config = read_config(str(workdir))
    records = [json.loads((path / "record.json").read_text(encoding="utf-8")) for _, path in run_folders(str(workdir))]
    if not records or any(record["status"] not in ("done", "diverged") for record in records):
        raise UserError(f"{workdir} holds a run that is not finished")
    done = [record for record in records if record["status"] == "done"]
    settings = {name: value for name, value in config.items() if name != "seed"}
    names = [name for name in done[0]["metrics"] if not name.startswith("train/")] if done else []
    if metric and metric not in names:
        raise UserError(f"the run has no metric {metric!r}: it has {', '.join(names)}")
    first = records[0]
    return {
        "key": " ".join([config["recipe"], *overrides(config), "on", first["data"]["name"]]),
        "recipe": config["recipe"],
        "data": first["data"],
        "published": published,
        "metric": metric,
        "chosen": chosen,
        "config_digest": hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest(),
        "config": settings,
        "seeds": [record["seed"] for record in records],
        "diverged": [record["seed"] for record in records if record["status"] == "diverged"],
        "metrics": {name: [record["metrics"][name] for record in done] for name in names},
        "params_digests": [record["params_digest"] for record in records],
        "steps": [record["steps"] for record in records],
        "wall_time_s": [record["wall_time_s"] for record in records],
        "items_per_second": [record["items_per_second"] for record in records],
        "parameters": first["parameters"],
        "program": first["program"],
        "versions": first["versions"],
        "git": first["git"],
        "command": shown_command(first["command"]),
    }


def overrides(config: dict[str, Any]) -> list[str]:
    """What a run changed in its recipe, but for its data: ["model.cell=gru"]."""
    from experiments import recipe_files
    from experiments.flags import leaves
    from jaxdl.engine.folder import plain

    defaults = plain(leaves(recipe_files.load(config["recipe"]).config))
    changed = {name: value for name, value in defaults.items() if config.get(name, value) != value}
    return [f"{name}={config[name]}" for name in sorted(changed) if not name.startswith("data.")]


def shown_command(command: str) -> str:
    """The command without where this machine keeps runs and data."""
    hidden = ("--workdir", "--data.dir", "--overwrite")
    return " ".join(word for word in command.split() if not word.startswith(hidden))


def table(results: dict[str, dict]) -> str:
    """The README's table of measured recipes, in Markdown."""
    rows = ["| recipe, data | test result | published | time a seed | command |", "|---|---|---|---|---|"]
    for _, found in sorted(results.items()):
        minutes = sum(found["wall_time_s"]) / len(found["wall_time_s"]) / 60
        time = f"{minutes:.1f} min" if minutes >= 1 else f"{60 * minutes:.0f} s"
        name = found["key"].removesuffix(f" on {found['data']['name']}")
        cells = [f"`{name}`, {found['data']['name']}", result(found), found["published"] or "–", time]
        rows.append(f"| {' | '.join(cells)} | `{found['command']}` |")
    return "\n".join(rows)


def result(found: dict) -> str:
    """The test result of one entry, as text: mean and 95 % interval over seeds where there are several."""
    from jaxdl.objectives.statistics import mean_interval

    names = [name for name in found["metrics"] if name.startswith("test/")] or list(found["metrics"])
    name = found.get("metric") or next((name for name in names if name.endswith("accuracy")), names[0])
    values = found["metrics"][name]
    share = name.endswith(("accuracy", "exact_match", "error_rate", "within_3_sigma", "confident"))
    scale, unit = (100.0, " %") if share else (1.0, "")
    split, label = name.split("/")
    label = label.replace("_", " ") if split == "test" else f"{split} {label.replace('_', ' ')}"
    if len(values) == 1:
        return f"{label} {scale * values[0]:.2f}{unit} (n = 1)"
    interval = mean_interval(values)
    low = f", lowest {scale * min(values):.2f}{unit}" if share else ""
    return f"{label} {scale * interval.mean:.2f} ± {scale * interval.half_width:.2f}{unit} (n = {len(values)}{low})"


def bench_table(document: dict) -> str:
    """The README's table of speed, in Markdown: the median ratio of each case, its quartiles, its bar; then the machine."""
    rows = ["| what | median (quartiles) | bar (goal) |", "|---|---|---|"]
    for case in document["cases"]:
        if "skipped" in case:
            rows.append(f"| {case['case']} | not measured: {case['skipped']} | – |")
            continue
        low, high = case["quartiles"]
        text = case["what"].replace("|", "/")
        rows.append(f"| {text} | {case['median']:.2f} ({low:.2f} – {high:.2f}) | {shown_bar(case['bar'])} |")
    return "\n".join([*rows, "", machine_line(document["hardware"])])


def shown_bar(bar: dict | None) -> str:
    """ "≥ 1 (1.15)"."""
    if not bar:
        return "–"
    goal = f" ({bar['goal']:g})" if bar["goal"] is not None else ""
    return f"{'≥' if bar['at_least'] else '≤'} {bar['value']:g}{goal}"


def machine_line(hardware: dict) -> str:
    """What a table was measured on, by which clock, and whether others worked there too."""
    busy, threads = hardware.get("cores_in_use") or 0.0, hardware["threads"]
    parts = [f"Measured on: {hardware['cpu']}, {threads} thread{'s' if threads > 1 else ''}"]
    if hardware.get("clock", "wall") == "processor":
        parts.append("processor time")
    if busy > BUSY:
        parts.append(f"while other programs kept {busy:g} cores busy")
    return ", ".join(parts) + "."


def rendered(text: str) -> str:
    """The README with all tables as the results files say.

    Raises:
      UserError: a mark is missing.
    """
    text = between(text, marks("recipes"), table(read()))
    for name, file in BENCH_TABLES.items():
        content = json.loads((RESULTS.parent / file).read_text(encoding="utf-8"))
        text = between(text, marks(name), bench_table(content))
    return text


def marks(name: str) -> tuple[str, str]:
    """What stands before and after a table in the README."""
    return f"<!-- {name}: written by experiments/ledger.py -->", f"<!-- end of {name} -->"


def between(text: str, ends: tuple[str, str], new: str) -> str:
    """`text` with `new` between two marks."""
    begin, end = ends
    if begin not in text or end not in text:
        raise UserError(f"the README has no place for a table: {begin} ... {end}")
    head, rest = text.split(begin, 1)
    return f"{head}{begin}\n{new}\n{end}{rest.split(end, 1)[1]}"


if __name__ == "__main__":
    cli.run(main, BINARY)
