"""Evaluates a trained run: `python -m experiments.evaluate --workdir=runs/lenet5` writes evaluation.json."""

import sys
from collections.abc import Callable
from typing import Any

from experiments import cli
from experiments.session import RunOptions
from jaxdl.errors import UserError

BINARY = cli.Binary(
    program="evaluate",
    summary="Evaluates the reported parameters of a run on each split; over seeds also their ensemble.",
    flags=("workdir", "format"),
    options=RunOptions,
    smaller="what else runs here, or evaluate on a machine with more memory",
)


def main(arguments: cli.Arguments) -> int:
    """Prints the metrics and writes evaluation.json."""
    import json

    from experiments.reporting import over_seeds
    from experiments.session import judged_folders, open_run
    from jaxdl.engine.fit import evaluate
    from jaxdl.engine.folder import RunFolder
    from jaxdl.engine.progress import result
    from jaxdl.engine.record import summary

    workdir = arguments.flags.workdir
    session = open_run(workdir, getattr(arguments.flags, "data.dir"))
    found = judged_folders(workdir)
    folders = [RunFolder(path) for _, path in found]
    seeds = [seed for seed, _ in found]
    evaluated = [evaluate(session.experiment, folder, seed) for seed, folder in zip(seeds, folders, strict=True)]
    metrics, steps = [found for found, _ in evaluated], [step for _, step in evaluated]
    whole: dict[str, Any] = {
        "seeds": seeds,
        "steps": steps,
        "metrics": metrics[0] if len(metrics) == 1 else summary(seeds, metrics)["metrics"],
    }
    if len(folders) > 1 and session.experiment.ensemble is not None:
        whole["ensemble"] = ensemble(session, folders)
    where = written(RunFolder(workdir), whole, arguments.shown)
    if arguments.flags.format == "json":
        print(json.dumps(whole))
        return 0
    shown = dict(whole["metrics"])
    if len(metrics) > 1:
        shown = {name: over_seeds(values) for name, values in shown.items()}
    shown |= {f"ensemble {name}": value for name, value in whole.get("ensemble", {}).items()}
    result(f"{session.recipe.title}: reported parameters of {arguments.shown(workdir)}", shown, where)
    return 0


def written(folder: Any, whole: dict[str, Any], shown: Callable[[Any], str] = str) -> dict[str, str]:
    """Writes evaluation.json, unless there is one of the same seeds from a later step; says what became of it."""
    path = shown(folder.path / "evaluation.json")
    try:
        old = folder.read_json("evaluation.json") or {}
    except UserError:
        old = {}  # a file that cannot be read is nobody's result
    before = old.get("steps", []) if old.get("seeds") == whole["seeds"] else []
    if any(was > now for was, now in zip(before, whole["steps"], strict=False)):
        steps = [", ".join(map(str, sorted(set(each)))) for each in (before, whole["steps"])]
        print(f"{path} is left as it is: it is of step {steps[0]}, this is of step {steps[1]}", file=sys.stderr)
        return {}
    folder.write_json("evaluation.json", whole)
    return {"written": path}


def ensemble(session: Any, folders: list) -> dict[str, float]:
    """Metrics of the averaged prediction of the runs in some folders; see `Experiment.ensemble`."""
    from experiments.reporting import View

    records = [folder.read_json("record.json") for folder in folders]
    return session.experiment.ensemble(View(session, folders, records, [[] for _ in folders]))


if __name__ == "__main__":
    cli.run(main, BINARY)
