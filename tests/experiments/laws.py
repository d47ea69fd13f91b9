"""A recipe's experiment at smoke size, trained from a test or from a process of its own."""

import dataclasses
import importlib
import importlib.util
import json
import os
import pathlib
import random
import signal
import sys
import time

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1]))

import compiling

ROOT = pathlib.Path(__file__).resolve().parents[2]
SHARED = pathlib.Path(os.environ.get("JAXDL_TEST_DATA", ROOT.parent / "shared" / "data"))
REAL = {"mnist": "mnist", "cifar10": "cifar10", "tiny_shakespeare": "tiny_shakespeare", "spoken_digit": "spoken_digit"}
# one of each kind of task
KINDS = ("lenet5", "linear_regression", "char_lstm", "logistic_ae", "rbm", "gan_mixture", "gridworld_q", "cartpole_ppo")
# the laws hold at any size; these recipes' own networks and batches take several times as long
SMALL = {
    "airbench_cifar10:small": {
        "model.views": "one",
        "model.widths": (8, 16, 16),
        "train.batch_size": 16,
        "train.eval_batch_size": 16,
    },
    "char_gpt": {"model.layers": 1, "model.features": 32, "data.length": 16},
    "char_lstm": {"model.features": (16, 16), "model.embedding": 8},
    "cnn_mnist": {"model.features": (8, 8, 8), "model.hidden": 16},
    "connected_digits": {
        "train.batch_size": 8,
        "train.eval_batch_size": 8,
        "strings.seconds": 2.0,
        "strings.evaluated": 16,
    },
    "dates_attention": {"model.features": 16, "model.embedding": 8},
    "dates_transformer": {"model.layers": 1, "model.features": 32},
    "dcgan": {"model.generator": (8, 8), "model.discriminator": (8, 8)},
    "deep_ae": {"model.features": (32, 10)},
    "maxout_mnist": {"model.features": (32, 32)},
    "minatar_ppo": {"agent.rollout": 16, "agent.minibatches": 2},
    "resnet20_cifar10": {"model.depth": 8, "train.batch_size": 16, "train.eval_batch_size": 16},
    "spoken_digit": {"model.features": (4, 4, 4), "train.batch_size": 8, "train.eval_batch_size": 8},
    "tictactoe_alphazero": {"search.simulations": 8, "search.considered": 4},
}
SAME = ("status", "seed", "steps", "metrics", "best", "params_digest", "state_digest")


def recipes(variants=True):
    """Names of all recipes, with their variants."""
    from experiments import recipe_files

    found = []
    for name in recipe_files.names():
        found += [name, *(f"{name}:{variant}" for variant in recipe_files.summary(name).variants if variants)]
    return found


def missing(recipe):
    """Why a recipe cannot run here, or None: real data or an extra that is not installed."""
    from experiments import recipe_files

    module = recipe_files.load(recipe)
    name = getattr(getattr(module.config, "data", None), "name", None)
    if name in REAL and not (SHARED / REAL[name]).exists():
        return f"{name} is not in {SHARED}"
    if recipe.startswith("minatar") and importlib.util.find_spec("gymnax") is None:
        return "gymnax is not installed ([rl] extra)"
    return None


def small(recipe):
    """SMALL as flags of the command line."""
    from experiments.flags import text_of

    return [f"--{name}={text_of(value)}" for name, value in SMALL.get(recipe, {}).items()]


def session(recipe, settings=None, small=True, **train_settings):
    """The recipe's session at smoke size and SMALL; `settings` replace leaves by dotted name, `train_settings` those of its
    `train`, "sgd" its optimiser."""
    from experiments import recipe_files
    from experiments.flags import config_from_leaves
    from experiments.session import open_recipe
    from experiments.train import shortened, smoke

    found = recipe_files.load(recipe)
    config = smoke(found.config)
    plain_sgd = train_settings.pop("sgd", False)
    config = dataclasses.replace(config, train=dataclasses.replace(config.train, **train_settings))
    if plain_sgd and hasattr(getattr(config, "optimizer", None), "schedule"):
        config = dataclasses.replace(
            config, optimizer=type(config.optimizer)(name="sgd", learning_rate=1e-3, schedule="constant")
        )
    settings = {**(SMALL.get(recipe, {}) if small else {}), **(settings or {})}
    made = open_recipe(found, config_from_leaves(config, settings))
    return dataclasses.replace(made, experiment=shortened(made.experiment))


def train(made, folder, watcher=None, executables=None, **options):
    """`fit` on a session; the run."""
    from jaxdl.engine.fit import Options, fit

    return fit(made.experiment, made.leaves, Options(str(folder), **options), watcher, executables)


def result(folder):
    """What two equal runs have in common: digests, metrics, all rows."""
    record = json.loads((pathlib.Path(folder) / "record.json").read_text())
    return {name: record[name] for name in SAME}, (pathlib.Path(folder) / "metrics.jsonl").read_text()


def start(recipe, folder):
    """A forked child that trains `folder`, slowed down so that signals find it at work; its pid and when it begins."""
    read, write = os.pipe()
    child = os.fork()
    if child:
        os.close(write)
        return child, os.fdopen(read)
    from jaxdl.engine.watcher import Silent

    class Slow(Silent):
        def update(self, step, total, metrics, items_per_second):
            os.write(write, b"begun\n")
            time.sleep(0.1)

    code = 1
    try:
        train(session(recipe, steps=24, checkpoint_every=4, log_every=2, eval_every=8), folder, Slow())
        code = 0
    finally:
        os._exit(code)


def killed(root, names, kills=2):
    """Trains each recipe undisturbed, and again killed with -9 at random moments; {recipe: what happened}.

    The first one's programs are compiled as users' are, the others' quickly.
    """
    from experiments import recipe_files

    for module in ("jaxdl.engine.fit", "experiments.session", "experiments.train", "orbax.checkpoint"):
        importlib.import_module(module)  # once, not in each child
    random.seed(time.time_ns())
    happened = {}
    for recipe in names:
        recipe_files.load(recipe)
        with compiling.quickly(recipe != names[0]):
            happened[recipe] = _killed(recipe, pathlib.Path(root) / recipe.replace(":", "-"), kills)
    return happened


def _killed(recipe, place, kills):
    child, lines = start(recipe, place / "whole")
    next(lines, "")
    began = time.time()
    code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    span, codes = time.time() - began, [code]
    for _ in range(kills):
        child, lines = start(recipe, place / "parts")
        if next(lines, ""):
            time.sleep(random.random() * span / 4)
        os.kill(child, signal.SIGKILL)
        codes.append(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
    child, lines = start(recipe, place / "parts")
    codes.append(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
    return {"codes": codes, "equal": result(place / "whole") == result(place / "parts")}


if __name__ == "__main__":
    sys.path.insert(0, str(ROOT))
    os.environ.setdefault("TFDS_DATA_DIR", str(SHARED))
    print(json.dumps(killed(sys.argv[1], sys.argv[2:])))
