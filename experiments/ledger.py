"""The ledger of measured results: `python -m experiments.ledger --workdir=runs/lenet5 --chosen="..."` adds a finished run.

A number in the README can only come from experiments/results/: this binary writes experiments/results/recipes.json and
renders the README's tables of recipes and of speed (BENCH_TABLES) from there; a test checks that they agree.
"""

import json
import pathlib
from collections.abc import Sequence
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
BENCH_TABLES = {
    "bench": "bench-cpu.json",
    "bench-intel": "bench-cpu-intel.json",
    "bench-families": "bench-families.json",
    "bench-gpu": "bench-gpu.json",
}
FINISHED = ("done", "diverged")


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
        check(found, flags.workdir)
        found["key"] = " ".join([found["recipe"], *overrides(found["config"]), "on", found["data"]["name"]])
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


def entry(
    workdir: pathlib.Path, chosen: str, published: str = "", metric: str = "", partial: bool = False
) -> dict[str, Any]:
    """What the ledger keeps of a run folder: config digest, seeds, every value, and how settings were chosen.

    Args:
      workdir: the run folder.
      chosen, published, metric: see `Options`.
      partial: take what is there; "unfinished" then names the seeds that are under way, and the step of each.

    Raises:
      UserError: the run is not finished (unless `partial`) or not begun, or has no such metric.
    """
    from experiments.session import config_digest, read_config, run_folders
    from jaxdl.engine.folder import RunFolder

    config = read_config(str(workdir))
    folders = [RunFolder(path) for _, path in run_folders(str(workdir))]
    there = [(folder, record) for folder in folders if (record := folder.read_json("record.json"))]
    if not there:
        raise UserError(f"{workdir} holds no run")
    records = [record for _, record in there if record["status"] in FINISHED]
    under_way = [_under_way(folder, record) for folder, record in there if record["status"] not in FINISHED]
    if under_way and not partial:
        raise UserError(f"{workdir} holds a run that is not finished")
    first = (records or [record for _, record in there])[0]
    done = [record for record in records if record["status"] == "done"]
    settings = {name: value for name, value in config.items() if name != "seed"}
    names = [name for name in done[0]["metrics"] if not name.startswith("train/")] if done else []
    if metric and done and metric not in names:
        raise UserError(f"the run has no metric {metric!r}: it has {', '.join(names)}")
    found = {
        "key": f"{config['recipe']} on {first['data']['name']}",
        "recipe": config["recipe"],
        "data": first["data"],
        "published": published,
        "metric": metric,
        "chosen": chosen,
        "config_digest": config_digest(settings),
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
    return found | ({"unfinished": under_way} if partial else {})


def _under_way(folder: Any, record: dict) -> dict[str, Any]:
    step = max((row["step"] for row in folder.rows() if "step" in row), default=0)
    return {"seed": record["seed"], "status": record["status"], "step": step}


def check(found: Any, where: str) -> None:
    """Refuses a result that cannot be checked.

    Raises:
      UserError: it lacks the digest of its configuration, its seeds, a value of each of them, or how settings were chosen.
    """
    from experiments.session import config_digest

    if not isinstance(found, dict):
        raise UserError(f"{where}: a result must be a JSON object")
    lacking = [name for name in ("config", "config_digest", "git", "program") if not found.get(name)]
    lacking += [name for name in ("seeds", "metrics") if name not in found]
    if lacking:
        raise UserError(f"{where}: the result has no {', '.join(lacking)}")
    if not str(found.get("chosen", "")).strip():
        raise UserError(f"{where}: the result does not say how the settings were chosen (chosen)")
    if config_digest(found["config"]) != found["config_digest"]:
        raise UserError(f"{where}: config_digest is not that of its config")
    if not found["seeds"] and not found.get("unfinished"):
        raise UserError(f"{where}: the result has no seeds")
    finished = len(found["seeds"]) - len(found.get("diverged", []))
    short = [name for name, values in found["metrics"].items() if len(values) != finished]
    if short or (finished and not found["metrics"]):
        raise UserError(f"{where}: not every seed's value is there ({', '.join(short) or 'no metrics'})")


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
        time = duration(sum(found["wall_time_s"]) / len(found["wall_time_s"]))
        name = found["key"].removesuffix(f" on {found['data']['name']}")
        cells = [f"`{name}`, {found['data']['name']}", result(found), found["published"] or "–", time]
        rows.append(f"| {' | '.join(cells)} | `{found['command']}` |")
    return "\n".join(rows)


def duration(seconds: float) -> str:
    """ "12 s" or "4.7 min"."""
    return f"{seconds / 60:.1f} min" if seconds >= 60 else f"{seconds:.0f} s"


def result(found: dict) -> str:
    """The test result of one entry, as text: mean and 95 % interval over seeds where there are several."""
    names = [name for name in found["metrics"] if name.startswith("test/")] or list(found["metrics"])
    name = found.get("metric") or next((name for name in names if name.endswith("accuracy")), names[0])
    values = found["metrics"][name]
    share = name.endswith(("accuracy", "exact_match", "error_rate", "within_3_sigma", "confident"))
    scale, unit = (100.0, " %") if share else (1.0, "")
    split, label = name.split("/")
    label = label.replace("_", " ") if split == "test" else f"{split} {label.replace('_', ' ')}"
    return f"{label} {spread([scale * value for value in values], unit, lowest=share)}"


def spread(values: Sequence[float], unit: str = "", digits: int = 2, lowest: bool = False, extent: bool = False) -> str:
    """Mean, 95 % interval and number of values: "98.61 ± 0.69 % (n = 5, lowest 98.06 %)".

    Args:
      values: one a seed, at least one.
      unit: behind the numbers, with its space: " %".
      digits: behind the point.
      lowest: name the lowest value too.
      extent: name the lowest and the highest one.
    """
    from jaxdl.objectives.statistics import mean_interval

    if len(values) == 1:
        return f"{values[0]:.{digits}f}{unit} (n = 1)"
    interval = mean_interval(values)
    low, high = f"{min(values):.{digits}f}", f"{max(values):.{digits}f}"
    more = f", {low} to {high}{unit}" if extent else f", lowest {low}{unit}" if lowest else ""
    return f"{interval.mean:.{digits}f} ± {interval.half_width:.{digits}f}{unit} (n = {len(values)}{more})"


def bench_table(document: dict) -> str:
    """The README's table of speed, in Markdown: the median of each case, its quartiles and bound, its bar; then the machine."""
    rows = ["| what | median (quartiles) | bar (goal) |", "|---|---|---|"]
    for case in document["cases"]:
        if "skipped" in case:
            rows.append(f"| {case['case']} | not measured | – |")
            continue
        text = case["what"].replace("|", "/")
        middle, low, high = (shown_value(case["kind"], value) for value in (case["median"], *case["quartiles"]))
        extent = f" ({low} – {high})" if len(case["values"]) > 1 else ""
        if case["bound"] is not None:
            extent += f", 95 % bound {case['bound']:.3f}"
        rows.append(f"| {text} | {middle}{extent} | {shown_bar(case['bar'])} |")
    return "\n".join([*rows, "", machine_line(document["hardware"], document["versions"])])


def shown_value(kind: str, value: float) -> str:
    """A value of a case's kind: "7,671" a second, "45.3 %" of the peak, "1.77" times."""
    if kind == "mfu":
        return f"{100 * value:.1f} %"
    return f"{value:,.0f}" if kind == "rate" else f"{value:.2f}"


def shown_bar(bar: dict | None) -> str:
    """ "≥ 1 (1.15)"."""
    if not bar:
        return "–"
    goal = f" ({bar['goal']:g})" if bar["goal"] is not None else ""
    return f"{'≥' if bar['at_least'] else '≤'} {bar['value']:g}{goal}"


def machine_line(hardware: dict, versions: dict) -> str:
    """What a table was measured on and with, by which clock, and whether others worked there too."""
    busy, threads = hardware.get("cores_in_use") or 0.0, hardware["threads"]
    of_a_gpu = hardware.get("platform") == "gpu"
    parts = [
        f"Measured on: {hardware['cpu']}" + ("" if of_a_gpu else f", {threads} thread{'s' if threads > 1 else ''}"),
        f"jax {versions['jax']}",
    ]
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
