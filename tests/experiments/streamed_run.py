"""`python streamed_run.py COUNT FOLDER`: linear regression on streamed data by one process or more, in FOLDER/COUNT.

readCOUNT.json says how many rows of its last batch the first process read, by split.
"""

import dataclasses
import json
import pathlib
import sys
from types import SimpleNamespace

BATCH = 32


def watched(read, split, arrays):
    """A `fetch` that keeps in `read` how many rows it was asked for last (the first time, whole batches are traced)."""

    def fetch(index):
        read[split] = len(index)
        return {name: array[index] for name, array in arrays.items()}

    return fetch


def run(count, folder):
    """Trains; one batch a stage, so that the number of rows fetched at a time is that of a batch."""
    import numpy as np

    from experiments import recipe_files
    from jaxdl.data.source import Streamed
    from jaxdl.engine import processes
    from jaxdl.engine.experiment import TrainConfig
    from jaxdl.engine.fit import Options, fit

    recipe, read = recipe_files.load("linear_regression"), {}
    train = TrainConfig(steps=30, batch_size=BATCH, log_every=5, eval_every=10, checkpoint_every=15)
    experiment = recipe.build(dataclasses.replace(recipe.config, train=train))
    phase = experiment.phases[0]

    def stream(split, source, shuffle):
        arrays = {name: np.asarray(array) for name, array in source.arrays.items()}
        return Streamed(watched(read, split, arrays), source.size, BATCH, shuffle, source.transform, capacity=1)

    evaluations = {"validation": stream("validation", phase.evaluations["validation"], False)}
    phase = dataclasses.replace(phase, source=stream("train", phase.source, True), evaluations=evaluations)
    fit(
        dataclasses.replace(experiment, phases=(phase,), final={}), {"recipe": "streamed"}, Options(f"{folder}/{count}")
    )
    if processes.is_first():
        (pathlib.Path(folder) / f"read{count}.json").write_text(json.dumps(read))
    processes.leave()


if __name__ == "__main__":
    from jaxdl.engine import processes

    count, folder = int(sys.argv[1]), sys.argv[2]
    if processes.expected():
        processes.join()
    elif count > 1:
        from experiments.spawn import spawn

        words = SimpleNamespace(command=f"python {' '.join(sys.argv)}", flags=SimpleNamespace(debug=False))
        sys.exit(spawn(words, count))
    run(count, folder)
