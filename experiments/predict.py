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
)


def main(arguments: cli.Arguments) -> int:
    """Prints one prediction for each file, as text or as one JSON object a line."""
    from experiments.reporting import View
    from experiments.session import open_run, run_folders
    from jaxdl.engine.folder import RunFolder

    flags = arguments.flags
    if not flags.input:
        raise UserError("nothing to predict: give --input=FILE, as often as you like")
    session = open_run(flags.workdir, getattr(arguments.flags, "data.dir"))
    if session.experiment.read_input is None:
        raise UserError(f"recipe {session.recipe.title} reads no files")
    rows = [session.experiment.read_input(path) for path in flags.input]
    folders = [RunFolder(path) for _, path in run_folders(flags.workdir)]
    records = [folder.read_json("record.json") for folder in folders]
    view = View(session, folders, records, [[] for _ in folders])
    outputs = predict(view, rows)
    for path, output in zip(flags.input, outputs, strict=True):
        found = {"input": path, **session.experiment.show(output)}
        print(json.dumps(found) if flags.format == "json" else text(found), flush=True)
    return 0


def predict(view: Any, rows: list[dict]) -> list[dict]:
    """The task's outputs for each row; over several seeds their mean."""
    import numpy as np

    from jaxdl.engine.program import collect

    phase = view.experiment.phases[-1]
    like = next(iter({**view.experiment.final, **phase.evaluations}.values()))
    arrays = {name: np.stack([row[name] for row in rows]) for name in rows[0]}
    for name, array in like.arrays.items():  # the transform may read what a user's file does not have: labels
        if name not in arrays:
            arrays[name] = np.zeros((len(rows), *array.shape[1:]), array.dtype)
    source = like.replace(arrays=arrays, size=len(rows), batch_size=min(len(rows), like.batch_size))
    found = [collect(phase.task, view.state(i), source) for i in range(len(view.folders))]
    means = {name: np.mean([each[name] for each in found], axis=0) for name in found[0]}
    return [{name: values[k] for name, values in means.items()} for k in range(len(rows))]


def text(found: dict) -> str:
    """ "digit.png: 7 (99.1 %), then 1 (0.5 %), ..."."""
    top = found.get("top", [])
    rest = ", ".join(f"{each['label']} {100 * each['confidence']:.1f} %" for each in top[1:])
    line = f"{found['input']}: {found['label']}, confidence {100 * found['confidence']:.1f} %"
    return f"{line}; then {rest}" if rest else line


if __name__ == "__main__":
    cli.run(main, BINARY)
