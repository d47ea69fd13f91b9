"""What is measured with eight CPU devices, in a process of its own: `python on_devices.py FOLDER`; prints one JSON."""

import dataclasses
import json
import pathlib
import re
import sys
import time

sys.path.insert(0, str(pathlib.Path(__file__).parent))
sys.path.insert(0, str(pathlib.Path(__file__).parents[1]))

import compiling
import jax
import numpy as np
import runs
import tiny

from experiments import backend, recipe_files
from jaxdl.engine import loop, processes
from jaxdl.engine.checkpoint import Checkpoints
from jaxdl.engine.devices import Layout
from jaxdl.engine.digest import digest
from jaxdl.engine.fit import load_judged
from jaxdl.engine.folder import RunFolder
from jaxdl.engine.payload import pack, unpack
from jaxdl.engine.program import Program
from jaxdl.errors import UserError
from jaxdl.nn.convolution import convolution as convolve

WIDE = 1024  # FSDP_SMALLEST: from here on a parameter is split


def numbers(experiment, folder):
    """All metric rows, and the parameters, of a run."""
    networks = load_judged(experiment, RunFolder(folder)).nets
    params = {name: jax.tree.map(lambda leaf: np.asarray(leaf).tolist(), net.params) for name, net in networks.items()}
    return {"rows": runs.rows(folder), "params": params, "state_digest": runs.record(folder)["state_digest"]}


def short(name):
    """A few steps, each logged, with a partial last evaluation batch."""
    config = tiny.train_config(steps=6, log_every=1, eval_every=3, checkpoint_every=4)
    experiment = tiny.EXPERIMENTS[name]()
    phases = [dataclasses.replace(phase, steps=min(phase.steps, 6)) for phase in experiment.phases]
    if name == "regression":  # 45 examples in batches of 20, which eight devices cannot share
        held_out = phases[0].evaluations["validation"].replace(batch_size=20)
        phases[0] = dataclasses.replace(phases[0], evaluations={"validation": held_out})
    return dataclasses.replace(experiment, phases=tuple(phases), train=config)


def agreement(root):
    """Each tiny task on one device, on eight in jit and on eight in pmap."""
    found = {}
    ways = {"one": {"devices": 1}, "jit": {}, "pmap": {"parallel": "pmap"}}
    for name in tiny.EXPERIMENTS:
        found[name] = {}
        for way, options in ways.items():
            folder = root / f"{name}_{way}"
            runs.train(short(name), folder, **options)
            found[name][way] = numbers(short(name), folder)
    return found


def wide(steps=30):
    """A regression of the first feature alone whose weights are split over the devices, with Adam's moments."""
    task = tiny.Regression(features=WIDE, adam=True)
    config = tiny.train_config(steps=steps, checkpoint_every=10, log_every=5, eval_every=10)
    experiment = tiny.regression(task, train=config, rate=1.0)
    phase = experiment.phases[0]

    def easy(source):
        return source.replace(arrays={"x": source.arrays["x"], "y": source.arrays["x"][:, 0]})

    held_out = {name: easy(source) for name, source in phase.evaluations.items()}
    phase = dataclasses.replace(phase, source=easy(phase.source), evaluations=held_out)
    return dataclasses.replace(experiment, phases=(phase,), final={})


def fsdp(root):
    """Trained split, saved on eight devices, restored on one and back, and resumed."""
    shapes = []
    dispatch = loop._Run._dispatch

    def watched(run, count):
        dispatch(run, count)
        for leaf in jax.tree.leaves(run.state.nets["model"]):
            if leaf.ndim > 1:
                shapes.append(
                    [list(leaf.shape), list(leaf.addressable_shards[0].data.shape), len(leaf.sharding.device_set)]
                )

    loop._Run._dispatch = watched
    runs.train(wide(), root / "split", fsdp=True)
    loop._Run._dispatch = dispatch
    runs.train(wide(), root / "copied")
    runs.train(wide(), root / "one", devices=1)
    runs.interrupt(wide(), root / "resumed", 15, fsdp=True)
    runs.train(wide(), root / "resumed", fsdp=True)
    runs.interrupt(wide(), root / "moved", 15, fsdp=True)
    runs.train(wide(), root / "moved", devices=1)
    arrays, _ = Checkpoints(root / "split" / "checkpoints").newest()
    digests, current = [digest(arrays)], arrays
    eight, one = Layout(devices=tuple(jax.devices()), fsdp=True), Layout(devices=tuple(jax.devices()[:1]))
    for layout in (one, eight, Layout(devices=tuple(jax.devices()), parallel="pmap"), one):
        program = Program(wide().phases[0], layout, 1)
        state, best, sums = unpack(program, layout, current, True, "here")
        current = pack(program, layout, state, best, sums)
        digests.append(digest(current))
    found = {way: numbers(wide(), root / way) for way in ("split", "copied", "one", "resumed", "moved")}
    return {"shapes": shapes, "digests": digests, "runs": found}


def long_run(root):
    """800 steps in the way that once aborted the process, with its queue and its compilations counted."""
    waiting, compiled, late = [], [], []
    dispatch = loop._Run._dispatch
    jax.monitoring.register_event_duration_secs_listener(
        lambda event, duration, **_: compiled.append(event) if "backend_compile" in event else None
    )

    def watched(run, count):
        before = len(compiled)
        dispatch(run, count)
        waiting.append(len(run.pending))
        if len(waiting) > 1:
            late.append(len(compiled) - before)

    loop._Run._dispatch = watched
    found = {}
    for parallel in ("jit", "pmap"):
        waiting.clear()
        late.clear()
        config = tiny.train_config(steps=800, log_every=10, eval_every=400, checkpoint_every=800)
        began = time.time()
        run = runs.train(tiny.regression(train=config), root / parallel, parallel=parallel)
        found[parallel] = {
            "status": run.records[0]["status"],
            "waiting": max(waiting),
            "chunks": len(waiting),
            "late": sum(late),
            "seconds": time.time() - began,
            "devices": run.records[0]["program"]["devices"],
        }
    loop._Run._dispatch = dispatch
    return found


def shard(root):
    """Seeds spread over devices against seeds one after another; the transformer's programs are those that users get."""
    found = {}
    for name, make, seeds in (
        ("regression", tiny.regression, 4),
        ("two_phases", tiny.two_phases, 4),
        ("transformer", transformer, 2),
    ):
        found[name] = {}
        with compiling.quickly(name != "transformer"):
            runs.train(make(), root / f"{name}_loop", seeds=seeds, seeds_mode="loop", devices=1)
            runs.train(make(), root / f"{name}_shard", seeds=seeds, seeds_mode="shard")
        for mode in ("loop", "shard"):
            found[name][mode] = [runs.result(root / f"{name}_{mode}" / f"seed{seed}") for seed in range(seeds)]
    runs.interrupt(tiny.regression(), root / "interrupted", 30, seeds=4, seeds_mode="shard")
    runs.train(tiny.regression(), root / "interrupted", seeds=4, seeds_mode="shard")
    found["interrupted"] = [runs.result(root / "interrupted" / f"seed{seed}") for seed in range(4)]
    return found


def transformer():
    """`char_gpt` with one block: XLA fuses it otherwise where it partitions a program."""
    recipe = recipe_files.load("char_gpt")
    train = dataclasses.replace(recipe.config.train, steps=10, eval_every=10, log_every=10, eval_batch_size=256)
    config = dataclasses.replace(recipe.config, model=dataclasses.replace(recipe.config.model, layers=1), train=train)
    return dataclasses.replace(recipe.build(config), name="char_gpt")


def refusals(root):
    """Messages for what cannot be split."""
    found = []
    for parallel in ("jit", "pmap"):
        try:
            runs.train(tiny.regression(train=tiny.train_config(batch_size=12)), root / parallel, parallel=parallel)
        except UserError as error:
            found.append(str(error))
    for options in ({"parallel": "pmap", "fsdp": True}, {"parallel": "pmap", "seeds_mode": "shard", "seeds": 2}):
        try:
            runs.train(tiny.regression(), root / "other", **options)
        except UserError as error:
            found.append(str(error))
    return found


def convolution(_):
    """Gradients of a convolution whose batch is split: the collectives of the program, and how far from one device."""
    mesh = jax.sharding.Mesh(np.asarray(jax.devices()), ("data",))
    split, whole = (jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec(*axes)) for axes in (("data",), ()))
    generator = np.random.default_rng(0)
    x, kernel, g = (
        np.float32(generator.normal(size=size)) for size in ((128, 16, 16, 32), (3, 3, 32, 32), (128, 16, 16, 32))
    )

    def gradients(x, kernel, g):
        return jax.vjp(convolve, x, kernel)[1](g)

    one = jax.jit(gradients)(x, kernel, g)
    placed = [jax.device_put(*pair) for pair in ((x, split), (kernel, whole), (g, split))]
    program = jax.jit(gradients, out_shardings=(split, whole)).lower(*placed).compile()
    names = re.findall(r"= .*?\b((?:all|collective)-[\w-]+|reduce-scatter[\w-]*)\(", program.as_text())
    apart = [float(np.abs(a - b).max() / np.abs(a).max()) for a, b in zip(one, program(*placed), strict=True)]
    return {"collectives": sorted(set(names)), "apart": apart}


def host_copies(_):
    """Whether a host copy has all parts of an array in their places, and is no view of what devices hold."""
    mesh = jax.sharding.Mesh(np.asarray(jax.devices()).reshape(4, 2), ("data", "model"))
    values = np.random.default_rng(0).normal(size=(8, 12)).astype(np.float32)
    found = {}
    for axes in ((), ("data",), ("model", "data"), (("data", "model"),), (None, "model")):
        array = jax.device_put(values, jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec(*axes)))
        copy = processes.whole(array)
        array.delete()
        found[str(axes)] = bool((copy == values).all() and copy.flags.writeable and copy.flags.owndata)
    return found


def main(root):
    """All of it."""
    backend.start_backend()  # eight devices that wait for each other need more than eight threads
    found, times = {"devices": len(jax.devices())}, {}
    for part in (agreement, fsdp, long_run, shard, refusals, convolution, host_copies):
        began = time.time()
        with compiling.quickly():
            found[part.__name__] = part(root / part.__name__)
        times[part.__name__] = time.time() - began
    print(json.dumps({**found, "times": times}))


if __name__ == "__main__":
    main(pathlib.Path(sys.argv[1]))
