"""Run on eight forced CPU devices: small Transformers on meshes of data x model against one device; prints one JSON."""

import json
import pathlib
import sys
import time

sys.path.insert(0, str(pathlib.Path(__file__).parent))
sys.path.insert(0, str(pathlib.Path(__file__).parents[1]))

import compiling
import jax
import laws
import numpy as np
from recipes_on_devices import flat

from experiments import backend
from experiments.hlo import totals
from jaxdl.engine.checkpoint import Checkpoints
from jaxdl.engine.devices import Layout
from jaxdl.engine.digest import digest
from jaxdl.engine.options import partition_rules
from jaxdl.engine.payload import pack, unpack
from jaxdl.engine.program import Program, means, stream
from jaxdl.target import compiling_for

SMALL = {"train.batch_size": 16, "model.layers": 1, "model.features": 16}
SETTINGS = {
    # 94 characters: two devices share their vectors, four do not
    "char_gpt": {**SMALL, "data.length": 8, "model.use_bias": True},
    "dates_transformer": {**SMALL, "model.dropout": 0.1},
}
# a rate at which what three steps change is large beside float32's rounding of the parameters
SGD = {"optimizer.learning_rate": 0.3}
# name -> (devices, model_parallel, fsdp, platform that programs are made for; a CPU's train both halves of a batch at once)
MESHES = {
    "char_gpt": {"2x4": (8, 4, False, "gpu"), "1x4": (4, 4, False, "gpu"), "4x2 fsdp": (8, 2, True, "cpu")},
    "dates_transformer": {"2x4": (8, 4, False, "gpu"), "4x2": (8, 2, False, "cpu")},
}
ONE = (1, 1, False, "gpu")


def layout_of(experiment, devices, parts, fsdp=False):
    """As `choose_layout` makes it."""
    chosen = tuple(jax.devices()[:devices])
    return Layout(devices=chosen, fsdp=fsdp, model_parallel=parts, rules=partition_rules(experiment, parts))


def started(phase):
    """A fresh canonical State whose arrays nothing donates."""
    fresh = Program(phase, Layout(devices=tuple(jax.devices()[:1])), 1).init(stream((0,), "init", 0))
    return jax.tree.map(jax.numpy.array, fresh)


def trained(phase, layout, fresh, steps):
    """The program, the placed State and metric sums after `steps` steps, the steps' metrics."""
    program = Program(phase, layout, 1)
    state, source = layout.place(fresh, program.template), layout.place_source(phase.source)
    keys = stream((0,), "data", 0), stream((0,), "step", 0)
    zero, one = np.zeros(1, np.int32), np.ones(1, np.int32)
    rows = []
    for _ in range(steps):
        state, sums, bad = program.train(state, program.zero_sums(), source, *keys, zero, one)
        assert program.host_bad(bad)[0] < 0  # waits too: several CPU devices must have no queue
        rows.append(means(program.host_sums(sums), 0))
    return program, state, sums, rows


def collectives(program):
    """Kind -> (how many, bytes) of one training step."""
    return totals(program._compiled["train"].as_text()).collectives


def agreement(recipe):
    """{mesh: {"rows", "length", "moved", "apart", "collectives"}}, as in recipes_on_devices, of three steps of plain SGD."""
    made = laws.session(recipe, {**SETTINGS[recipe], **SGD}, steps=3, sgd=True)
    phase = made.experiment.phases[0]
    fresh, found, ends = started(phase), {}, {}
    for name, (*mesh, platform) in {"one": ONE, **MESHES[recipe]}.items():
        layout = layout_of(made.experiment, *mesh)
        with compiling_for(platform):
            program, state, _, rows = trained(phase, layout, fresh, 3)
        end = flat(layout.gather(state))
        norms = {"length": np.linalg.norm(end), "moved": np.linalg.norm(end - flat(fresh))}
        norms["apart"] = np.linalg.norm(end - ends.setdefault("one", end))
        found[name] = {"rows": rows, **{key: float(value) for key, value in norms.items()}}
        found[name]["collectives"] = collectives(program)
    return found


def shapes(net):
    """Path -> [shape of the whole, of a device's part], without the seed axis."""
    found = {}
    for path, leaf in jax.tree_util.tree_flatten_with_path(net)[0]:
        name = jax.tree_util.keystr(path, simple=True, separator="/")
        found[name] = [list(leaf.shape[1:]), list(leaf.addressable_shards[0].data.shape[1:])]
    return found


def checkpoint(folder):
    """AdamW with an average on 4 x 2 devices, saved, and restored on one, on 2 x 4, on 4 x 2 with FSDP and on one."""
    settings = {**SETTINGS["char_gpt"], "optimizer.ema_decay": 0.9}
    experiment = laws.session("char_gpt", settings, steps=3).experiment
    phase = experiment.phases[0]
    layout = layout_of(experiment, 8, 2)
    with compiling_for("gpu"):
        program, state, sums, _ = trained(phase, layout, started(phase), 1)
    found = {"shapes": {"4x2": shapes(state.nets["model"])}, "collectives": collectives(program)}
    arrays = pack(program, layout, state, None, sums)
    folder.mkdir(parents=True)
    Checkpoints(folder).save(1, arrays, {"position": {}})
    restored, _ = Checkpoints(folder).newest()
    found["digests"] = [digest(arrays), digest(restored)]
    for name, mesh in {"one": (1, 1), "2x4": (8, 4), "4x2 fsdp": (8, 2, True), "one again": (1, 1)}.items():
        other = layout_of(experiment, *mesh)
        program = Program(phase, other, 1)
        state, _, sums = unpack(program, other, restored, False, "here")
        found["shapes"][name] = shapes(state.nets["model"])
        restored = pack(program, other, state, None, sums)
        found["digests"].append(digest(restored))
    return found


def main(folder):
    """All of it."""
    backend.start_backend()  # eight devices that wait for each other need more than eight threads
    found, times = {}, {}
    for name in (*SETTINGS, "checkpoint"):
        began = time.process_time()
        with compiling.quickly():  # all meshes alike
            found[name] = agreement(name) if name in SETTINGS else checkpoint(folder / name)
        times[name] = time.process_time() - began
    print(json.dumps({**found, "times": times}))


if __name__ == "__main__":
    main(pathlib.Path(sys.argv[1]))
