"""Says what a trained run makes of your own files: `python -m experiments.predict --workdir=runs/lenet5 --input=digit.png`."""

import json
from typing import Any

from experiments import cli
from experiments.session import RunOptions
from jaxdl.errors import UserError

BINARY = cli.Binary(
    program="predict",
    summary="Prints what a trained run says of your own files, one after another.",
    flags=("workdir", "input", "format"),
    options=RunOptions,
    smaller="the number of inputs: call it several times, or give smaller ones",
)


def main(arguments: cli.Arguments) -> int:
    """Prints one prediction for each file, as text or as one JSON object a line."""
    from experiments.reporting import View
    from experiments.session import judged_folders, open_run
    from jaxdl.engine.folder import RunFolder

    flags = arguments.flags
    if not flags.input:
        raise UserError("nothing to predict: give --input=FILE, as often as you like")
    session = open_run(flags.workdir, getattr(arguments.flags, "data.dir"))
    if session.experiment.read_input is None:
        raise UserError(f"recipe {session.recipe.title} reads no files")
    named = [each for path in flags.input for each in examples(session.experiment, path)]
    folders = [RunFolder(path) for _, path in judged_folders(flags.workdir)]
    records = [folder.read_json("record.json") for folder in folders]
    view = View(session, folders, records, [[] for _ in folders])
    outputs = predict(view, [row for _, row in named])
    for (name, _), output in zip(named, outputs, strict=True):
        found = {"input": name, **session.experiment.show(output)}
        print(json.dumps(found) if flags.format == "json" else text(found), flush=True)
    return 0


def examples(experiment: Any, path: str) -> list[tuple[str, dict]]:
    """(name, arrays) of the examples that an input holds: one, unless the recipe finds several in it."""
    found = experiment.read_input(path)
    return found if isinstance(found, list) else [(path, found)]


def predict(view: Any, rows: list[dict]) -> list[dict]:
    """The task's outputs for each row; over several seeds their mean, or where tokens are among them those of the first."""
    import numpy as np

    from jaxdl.engine.compiled import collect

    phase = view.experiment.phases[-1]

    def outputs(source: Any) -> dict:
        found = [collect(phase.task, view.state(0), source)]
        if any(np.issubdtype(values.dtype, np.integer) for values in found[0].values()):
            return found[0]
        found += [collect(phase.task, view.state(i), source) for i in range(1, len(view.folders))]
        return {name: np.mean([each[name] for each in found], axis=0) for name in found[0]}

    if view.experiment.input_source is not None:
        return [outputs(view.experiment.input_source(row)) for row in rows]
    like = next(iter({**view.experiment.final, **phase.evaluations}.values()))
    arrays = {name: np.stack([row[name] for row in rows]) for name in rows[0]}
    for name, array in like.arrays.items():  # the transform may read what a user's file does not have: labels
        if name not in arrays:
            arrays[name] = np.zeros((len(rows), *array.shape[1:]), array.dtype)
    source = like.replace(arrays=arrays, size=len(rows), batch_size=min(len(rows), like.batch_size))
    means = outputs(source)
    return [{name: values[k] for name, values in means.items()} for k in range(len(rows))]


def text(found: dict) -> str:
    """ "digit.png: 7, confidence 99.1 %; then 1 (0.5 %), ...", and further numbers that the recipe shows by name."""
    line = f"{found['input']}: {found['label']}"
    if "confidence" in found:
        line += f", confidence {100 * found['confidence']:.1f} %"
    rest = ", ".join(f"{each['label']} {100 * each['confidence']:.1f} %" for each in found.get("top", [])[1:])
    further = [
        f"{name} {value:.3g}" for name, value in found.items() if isinstance(value, float) and name != "confidence"
    ]
    return "; ".join(filter(None, [line, f"then {rest}" if rest else "", *further]))


if __name__ == "__main__":
    cli.run(main, BINARY)
