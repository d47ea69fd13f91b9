"""Run on eight forced CPU devices: three steps of recipes on one device, on eight in jit and on eight in pmap.

`python recipes_on_devices.py NAME...` prints one JSON a recipe: {"recipe", "phases": {phase: {way: numbers}}} or
{"recipe", "error"}.
"""

import json
import os
import pathlib
import sys
import time

sys.path.insert(0, str(pathlib.Path(__file__).parent))

import jax
import laws
import numpy as np

from jaxdl.engine.devices import Layout
from jaxdl.engine.program import Program, means, stream

STEPS = 3
# so that three steps of batches which eight devices share do all that a step can do
SETTINGS = {
    "char_gpt": {"train.batch_size": 16},
    "cartpole_dqn": {"agent.n_step": 2, "agent.warmup": 16, "agent.batch_size": 16, "agent.target_every": 2},
    "deep_ae": {"pretraining.batch_size": 32},
    "perceptron_nand": {"train.batch_size": 8},
}


def ways():
    """The three layouts."""
    devices = tuple(jax.devices())
    assert len(devices) == 8
    return {
        "one": Layout(devices=devices[:1]),
        "jit": Layout(devices=devices),
        "pmap": Layout(devices=devices, parallel="pmap"),
    }


def trained(phase, layout, fresh):
    """Metrics of each of three steps from the canonical state `fresh`, and the parameters after them, flat."""
    program = Program(phase, layout, 1)
    state = layout.place(fresh, program.template)
    source = layout.place_source(phase.source)
    keys = stream((0,), "data", 0), stream((0,), "step", 0)
    zero, one = np.zeros(1, np.int32), np.ones(1, np.int32)
    rows = []
    for _ in range(STEPS):
        state, sums, bad = program.train(state, program.zero_sums(), source, *keys, zero, one)
        assert program.host_bad(bad)[0] < 0  # waits too: several CPU devices must have no queue
        rows.append(means(program.host_sums(sums), 0))
    return rows, flat(layout.gather(state))


def flat(state):
    """All parameters of a state as one vector."""
    leaves = jax.tree.leaves({name: net.params for name, net in state.nets.items()})
    return np.concatenate([np.ravel(leaf) for leaf in leaves]).astype(np.float64)


def agreement(recipe):
    """{phase: {way: {"rows", "length", "moved", "apart"}}}: metrics of the steps, and Euclidean norms: of the parameters
    after them, of the way they went, and of their distance from those of one device."""
    found = {}
    made = laws.session(recipe, SETTINGS.get(recipe.partition(":")[0]), steps=STEPS, sgd=True)
    for phase in made.experiment.phases:
        fresh = Program(phase, Layout(devices=tuple(jax.devices()[:1])), 1).init(stream((0,), "init", 0))
        fresh = jax.tree.map(jax.numpy.array, fresh)  # each way donates its own copy
        start, numbers = flat(fresh), {}
        for way, layout in ways().items():
            rows, end = trained(phase, layout, fresh)
            norms = {"length": float(np.linalg.norm(end)), "moved": float(np.linalg.norm(end - start))}
            numbers[way] = {"rows": rows, **norms, "end": end}
        one = numbers["one"]["end"]
        for each in numbers.values():
            each["apart"] = float(np.linalg.norm(each.pop("end") - one))
        found[phase.name] = numbers
    return found


def main(names):
    """One line a recipe."""
    # all three ways are compiled alike; optimised programs take twice as long to compile
    jax.config.update("jax_disable_most_optimizations", True)
    for recipe in names:
        began = time.process_time()
        try:
            found = {"phases": agreement(recipe)}
        except Exception as error:  # the others go on; the test tells
            found = {"error": f"{type(error).__name__}: {error}"}
        print(json.dumps({"recipe": recipe, **found, "seconds": time.process_time() - began}), flush=True)


if __name__ == "__main__":
    os.environ.setdefault("TFDS_DATA_DIR", str(laws.SHARED))
    main(sys.argv[1:])
