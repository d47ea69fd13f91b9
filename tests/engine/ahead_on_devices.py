"""Run on eight forced CPU devices: programs compiled ahead of time against those that train. Prints one JSON."""

import dataclasses
import json
import pathlib
import sys

sys.path.insert(0, str(pathlib.Path(__file__).parent))

import jax
import numpy as np
import tiny

from experiments import backend
from experiments.hlo import totals
from jaxdl.engine.ahead import compile_ahead
from jaxdl.engine.devices import Layout
from jaxdl.engine.digest import digest
from jaxdl.engine.program import Program, stream
from jaxdl.errors import UserError

WIDE = 1024


def phases():
    """A task with a wide gradient, and one with rows of its own in the State."""
    wide = tiny.regression(tiny.Regression(features=WIDE), rate=1e-3).phases[0]
    x = wide.source.arrays["x"]
    wide = dataclasses.replace(wide, source=wide.source.replace(arrays={"x": x, "y": x[:, 0]}))
    return {"regression": wide, "bandit": tiny.bandit().phases[0]}


def ends(train, phase, program, common):
    """Digest of the State after three steps of a compiled program."""
    layout = program.layout
    state = layout.place(program.init(stream((0,), "init", 0)), program.template)
    state, _, _ = train(state, program.zero_sums(), layout.place_source(phase.source), *common)
    return digest(layout.gather(state))


def main():
    """For each phase and way: digests of what both programs make of the same state, and what is in the text."""
    backend.start_backend()  # eight devices that wait for each other need more than eight threads
    found, devices = {}, tuple(jax.devices())
    assert len(devices) == 8
    for name, phase in phases().items():
        for parallel in ("jit", "pmap"):
            layout = Layout(parallel=parallel, devices=devices)
            ahead = compile_ahead(phase, layout, "cpu")
            program = Program(phase, layout, 1)
            host = (stream((0,), "data", 0), stream((0,), "step", 0), np.zeros(1, np.int32), np.full(1, 3, np.int32))
            digests = [
                ends(ahead, phase, program, layout.place_common(host)),
                ends(program.train, phase, program, host),
            ]
            counted = totals(ahead.as_text())
            donated = ahead.memory_analysis().alias_size_in_bytes
            found[f"{name} {parallel}"] = {"digests": digests, **vars(counted), "donated": donated}
    try:
        six = dataclasses.replace(tiny.bandit().phases[0], task=tiny.Bandit(environments=6))
        compile_ahead(six, Layout(devices=devices), "cpu")
    except UserError as error:
        found["refused"] = str(error)
    print(json.dumps(found))


if __name__ == "__main__":
    main()
