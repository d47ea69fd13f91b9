"""Run on eight forced CPU devices: three steps of recipes on one device, on eight in jit and in pmap, and of four seeds.

`python recipes_on_devices.py NAME...` prints one JSON a recipe: {"recipe", "phases": {phase: {way: numbers}}} or
{"recipe", "error"}. A recipe that hangs is given up after PATIENCE seconds.
"""

import json
import os
import pathlib
import signal
import sys
import time

sys.path.insert(0, str(pathlib.Path(__file__).parent))
sys.path.insert(0, str(pathlib.Path(__file__).parents[1]))

import compiling
import jax
import laws
import numpy as np

from experiments import backend
from jaxdl.engine.devices import Layout
from jaxdl.engine.executables import Executables
from jaxdl.engine.program import Program, means, stream

STEPS = 3
SEEDS = (0, 1, 2, 3)
PATIENCE = 300
# so that three steps of batches which eight devices share do all that a step can do
SETTINGS = {
    "char_gpt": {"train.batch_size": 16},
    "cartpole_dqn": {"agent.n_step": 2, "agent.warmup": 16, "agent.batch_size": 16, "agent.target_every": 2},
    "deep_ae": {"pretraining.batch_size": 32},
    "perceptron_nand": {"train.batch_size": 8},
}


def ways():
    """Layout and seeds of each way; seed 0 is in all of them."""
    devices = tuple(jax.devices())
    assert len(devices) == 8
    return {
        "one": (Layout(devices=devices[:1]), SEEDS[:1]),
        "jit": (Layout(devices=devices), SEEDS[:1]),
        "pmap": (Layout(devices=devices, parallel="pmap"), SEEDS[:1]),
        "vmap": (Layout(devices=devices[:1], seeds_mode="vmap"), SEEDS),
    }


def begun(phase, known):
    """The fresh State of each seed, by one program for all ways."""
    program = Program(phase, ways()["one"][0], 1, known)
    return {seed: jax.tree.map(np.asarray, program.init(stream((seed,), "init", 0))) for seed in SEEDS}


def trained(phase, layout, seeds, fresh, known):
    """Of seed 0: the parameters at the start, the metrics of each of three steps, and the parameters after them, flat."""
    program = Program(phase, layout, len(seeds), known)
    fresh = jax.tree.map(lambda *leaves: np.concatenate(leaves), *(fresh[seed] for seed in seeds))
    start = flat(fresh)
    state = layout.place(fresh, program.template)
    source = layout.place_source(phase.source)
    keys = stream(seeds, "data", 0), stream(seeds, "step", 0)
    zero, one = np.zeros(len(seeds), np.int32), np.ones(len(seeds), np.int32)
    rows = []
    for _ in range(STEPS):
        state, sums, bad = program.train(state, program.zero_sums(), source, *keys, zero, one)
        assert (program.host_bad(bad) < 0).all()  # waits too: several CPU devices must have no queue
        rows.append(means(program.host_sums(sums), 0))
    return start, rows, flat(layout.gather(state))


def flat(state):
    """All parameters of the first seed of a state as one vector."""
    leaves = jax.tree.leaves({name: net.params for name, net in state.nets.items()})
    return np.concatenate([np.ravel(leaf[0]) for leaf in leaves]).astype(np.float64)


def agreement(recipe):
    """{phase: {way: {"rows", "length", "moved", "apart"}}}: metrics of the steps, and Euclidean norms: of the parameters
    after them, of the way they went, and of their distance from those of one device."""
    found = {}
    made = laws.session(recipe, SETTINGS.get(recipe.partition(":")[0]), steps=STEPS, sgd=True)
    for phase in made.experiment.phases:
        known = Executables()
        numbers, fresh = {}, begun(phase, known)
        for way, (layout, seeds) in ways().items():
            start, rows, end = trained(phase, layout, seeds, fresh, known)
            norms = {"length": float(np.linalg.norm(end)), "moved": float(np.linalg.norm(end - start))}
            numbers[way] = {"rows": rows, **norms, "end": end}
        one = numbers["one"]["end"]
        for each in numbers.values():
            each["apart"] = float(np.linalg.norm(each.pop("end") - one))
        found[phase.name] = numbers
    return found


def gives_up(number, frame):
    """Ends a recipe that hangs; where Python does not run, the test's own timeout does."""
    raise TimeoutError(f"nothing came within {PATIENCE} s")


def main(names):
    """One line a recipe."""
    backend.start_backend()  # eight devices that wait for each other need more than eight threads
    backend.collect_seldom()
    signal.signal(signal.SIGALRM, gives_up)
    for recipe in names:
        began = time.process_time()
        signal.alarm(PATIENCE)
        try:
            with compiling.quickly():  # all ways alike
                found = {"phases": agreement(recipe)}
        except Exception as error:  # the others go on; the test tells
            found = {"error": f"{type(error).__name__}: {error}"}
        signal.alarm(0)
        print(json.dumps({"recipe": recipe, **found, "seconds": time.process_time() - began}), flush=True)


if __name__ == "__main__":
    os.environ.setdefault("TFDS_DATA_DIR", str(laws.SHARED))
    main(sys.argv[1:])
