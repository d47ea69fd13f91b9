"""What `export` writes: read without jaxdl it gives the numbers of the run."""

import json
import os
import pathlib
import shutil
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

sys.path.insert(0, str(pathlib.Path(__file__).parent))

import laws

from experiments import cli, export
from jaxdl.data.source import Resident
from jaxdl.engine.compiled import collect, one_seed
from jaxdl.engine.digest import digest
from jaxdl.engine.experiment import Serving
from jaxdl.engine.export import export as exported
from jaxdl.engine.export import parameters, serving
from jaxdl.engine.fit import load_judged
from jaxdl.engine.folder import RunFolder
from jaxdl.engine.state import Net, State
from jaxdl.errors import UserError

pytest.importorskip("flatbuffers", reason="flatbuffers is not installed ([export] extra)")
safetensors = pytest.importorskip("safetensors.numpy", reason="safetensors is not installed ([export] extra)")

# one of each kind of network and of source; all others were exported by hand
RECIPES = (
    "cartpole_ppo",
    "char_gpt",
    "char_lstm",
    "dates_attention",
    "gan_mixture",
    "gridworld_q",
    "linear_regression",
    "pca",
    "perceptron_nand",
    "rbm",
    "resnet20_cifar10",
    "spoken_digit",
    "tictactoe_alphazero",
    "vae",
)
READER = """
import json, pathlib, sys
import numpy as np
from jax import export
from safetensors.numpy import load_file
place = pathlib.Path(sys.argv[1])
predict = export.deserialize((place / "predict.jax_export").read_bytes())
parameters, images = load_file(place / "parameters.safetensors"), np.load(sys.argv[2])
found = {str(n): predict.call(parameters, {"image": images[:n]})["probabilities"] for n in (1, 37)}
assert not any(name.startswith("jaxdl") for name in sys.modules)
np.savez(sys.argv[3], **found)
"""


@pytest.fixture(scope="module")
def lenet5(tmp_path_factory):
    """A short run of LeNet-5 on digits over two seeds, exported: (its session, its folder, what was said)."""
    made = laws.session("lenet5")
    folder = tmp_path_factory.mktemp("export") / "run"
    laws.train(made, folder, seeds=2)
    return made, folder


def called(*flags):
    """`export` with flags; its exit code."""
    return cli.execute(export.main, export.BINARY, ["program", *flags])


def test_another_process_without_jaxdl_gets_the_runs_outputs(lenet5, tmp_path, capsys):
    made, folder = lenet5
    assert called(f"--workdir={folder}") == 0
    said = capsys.readouterr().out
    assert 'predict.call(parameters, {"image": uint8[B, 8, 8, 1]})' in said and "float32[B, 10]" in said
    source = made.experiment.final["test"]
    task = made.experiment.phases[-1].task
    wanted = collect(task, load_judged(made.experiment, RunFolder(folder / "seed1")), source)["probabilities"]
    np.save(tmp_path / "images.npy", np.asarray(source.arrays["image"]))
    arguments = [folder / "seed1" / "export", tmp_path / "images.npy", tmp_path / "found.npz"]
    subprocess.run([sys.executable, "-c", READER, *map(str, arguments)], check=True, cwd=tmp_path)
    for count, found in np.load(tmp_path / "found.npz").items():
        np.testing.assert_allclose(found, wanted[: int(count)], atol=2e-6)


def test_the_parameters_are_those_of_the_record(lenet5):
    _, folder = lenet5
    assert called(f"--workdir={folder}") == 0
    for seed in (0, 1):
        place = folder / f"seed{seed}"
        record = json.loads((place / "record.json").read_text())
        held = safetensors.load_file(place / "export" / "parameters.safetensors")
        params = {name.replace("/params/", "/"): array for name, array in held.items() if "/params/" in name}
        assert digest(params) == record["params_digest"]
        assert sum(array.size for name, array in held.items() if "/params/" in name) == record["parameters"]
        facts = json.loads((place / "export" / "export.json").read_text())
        assert facts["params_digest"] == record["params_digest"] and facts["seed"] == seed
        assert facts["platforms"] == ["cpu", "cuda", "tpu"] and facts["batch_size"] == "any"
        assert facts["inputs"] == {"image": ["B", "8", "8", "1", "uint8"]}  # no labels


def test_of_a_run_that_was_killed_the_newest_checkpoint_is_exported(tmp_path):
    made = laws.session("linear_regression", steps=6, checkpoint_every=2)
    laws.train(made, tmp_path)
    folder = RunFolder(tmp_path)
    record = folder.read_json("record.json")
    assert export.write(made, folder, ("cpu",), 0)["steps"] == 6
    shutil.rmtree(tmp_path / "checkpoints" / "6")
    folder.write_json("record.json", {**record, "status": "running", "steps": 0})
    facts = export.write(made, folder, ("cpu",), 0)
    assert (facts["status"], facts["steps"]) == ("running", 4)


def test_a_fixed_batch_and_fewer_platforms(lenet5):
    _, folder = lenet5
    assert called(f"--workdir={folder / 'seed0'}", "--batch_size=4", "--platforms=cpu") == 0
    facts = json.loads((folder / "seed0" / "export" / "export.json").read_text())
    assert (facts["batch_size"], facts["platforms"]) == (4, ["cpu"])
    predict = jax.export.deserialize((folder / "seed0" / "export" / "predict.jax_export").read_bytes())
    held = safetensors.load_file(folder / "seed0" / "export" / "parameters.safetensors")
    assert predict.call(held, {"image": np.zeros((4, 8, 8, 1), np.uint8)})["probabilities"].shape == (4, 10)
    with pytest.raises(ValueError, match="4"):
        predict.call(held, {"image": np.zeros((3, 8, 8, 1), np.uint8)})


def state_of(experiment):
    """A canonical State [1, ...] before training."""
    phase = experiment.phases[-1]
    hyper = {name: jnp.float32(value) for name, value in phase.hyper.items()}
    state = jax.jit(lambda key: phase.task.init(key, hyper))(jax.random.key(0))
    return jax.tree.map(lambda leaf: leaf[None], state)


def examples(served, source, count):
    """`count` examples of what a function reads: the data set's first, or drawn ones where it reads nothing of a data set."""
    rng, found = np.random.default_rng(0), {}
    for name, each in served.inputs.items():
        if isinstance(source, Resident) and name in source.arrays:
            found[name] = np.asarray(source.arrays[name])[:count]
        elif np.issubdtype(each.dtype, np.integer):
            found[name] = rng.integers(0, 5, (count, *each.shape)).astype(each.dtype)
        else:
            found[name] = rng.normal(size=(count, *each.shape)).astype(each.dtype)
    return found


@pytest.mark.timeout(300)
@pytest.mark.parametrize("recipe", RECIPES)
def test_every_recipes_network_is_exported_for_batches_of_any_size(recipe, monkeypatch):
    if why := laws.missing(recipe):
        pytest.skip(why)
    monkeypatch.setenv("TFDS_DATA_DIR", str(laws.SHARED))
    experiment = laws.session(recipe).experiment
    phase, state = experiment.phases[-1], state_of(experiment)
    sources = {**experiment.final, **phase.evaluations}
    served = serving(phase.task, sources)
    found = exported(phase.task, state, served, export.PLATFORMS)
    assert found.batch_size == 0
    inputs = examples(served, next(iter(sources.values()), None), 3)
    wanted = jax.jit(served.call)(phase.task.for_evaluation(one_seed(state)), inputs)
    program = jax.export.deserialize(found.content)
    got = program.call(parameters(state), {name: inputs[name] for name in found.inputs})
    for name, value in got.items():
        assert value.shape == wanted[name].shape
        np.testing.assert_allclose(value, wanted[name], rtol=1e-4, atol=1e-4)


class _Multiplied:
    """A task whose network is one number, and a function of it that is served."""

    def __init__(self, outputs):
        self.outputs = outputs

    def for_evaluation(self, state):
        return state

    def serving(self):
        def call(state, inputs):
            return {"y": self.outputs(inputs["x"], state.nets["model"].params["factor"])}

        inputs = {"x": jax.ShapeDtypeStruct((2,), jnp.float32), "unused": jax.ShapeDtypeStruct((), jnp.int32)}
        return Serving(call, inputs)


NUMBER = State(step=jnp.zeros(1, jnp.int32), nets={"model": Net(params={"factor": jnp.full(1, 2.0)})})


def test_a_network_that_must_know_its_batch_is_exported_for_one_example():
    task = _Multiplied(lambda x, factor: x.reshape(len(x), -1) * factor)  # len() of what is no number
    found = exported(task, NUMBER, serving(task, {}), ("cpu",))
    assert found.batch_size == 1 and list(found.inputs) == ["x"]
    for factor in (2.0, -3.0):  # the parameters are an argument, no constant
        got = found.artifact.call({"model/params/factor": np.float32(factor)}, {"x": np.ones((1, 2), np.float32)})
        np.testing.assert_array_equal(got["y"], np.full((1, 2), factor))
    assert exported(task, NUMBER, serving(task, {}), ("cpu",), 5).batch_size == 5


def test_who_asked_for_any_batch_is_told_where_it_is_one(lenet5, capsys, monkeypatch):
    facts = {"batch_size": 1, "inputs": {"x": ["1", "2", "float32"]}, "outputs": {"y": ["1", "2", "float32"]}}
    monkeypatch.setattr(export, "write", lambda *_: facts)
    for flags, told in ((), True), (("--batch_size=1",), False):
        assert called(f"--workdir={lenet5[1] / 'seed0'}", *flags) == 0
        assert ("the network must know how many examples it gets" in capsys.readouterr().out) == told


def test_a_network_that_calls_python_is_refused_in_one_line():
    def outputs(x, factor):
        return jax.pure_callback(lambda x: x, jax.ShapeDtypeStruct(x.shape, x.dtype), x) * factor

    task = _Multiplied(outputs)
    with pytest.raises(UserError, match="this network cannot be exported: .*callback"):
        exported(task, NUMBER, serving(task, {}), ("cpu",))


def test_a_task_without_a_function_of_a_batch_leaves_its_parameters(lenet5, capsys, monkeypatch):
    place = lenet5[1] / "seed0"
    assert called(f"--workdir={place}", "--platforms=cpu") == 0
    monkeypatch.setattr("jaxdl.engine.export.serving", lambda task, sources: None)
    assert called(f"--workdir={place}", "--platforms=cpu") == 0
    assert "only parameters.safetensors: this recipe has no function" in capsys.readouterr().out
    assert {path.name for path in (place / "export").iterdir()} == {"parameters.safetensors", "export.json"}
    assert serving(object(), {"test": object()}) is None and serving(object(), {}) is None


def test_overwriting_a_run_deletes_what_was_exported_of_it(tmp_path):
    folder = RunFolder(tmp_path / "run")
    folder.write_json("config.json", {})
    RunFolder(folder.path / "export").write_bytes("predict.jax_export", b"old")
    folder.clear()
    assert not (folder.path / "export").exists()


def test_what_language_models_agents_and_generators_serve_is_what_they_predict_with():
    experiment = laws.session("char_gpt").experiment
    task, state = experiment.phases[-1].task, one_seed(state_of(experiment))
    batch = experiment.phases[-1].evaluations["validation"].batch(0, jax.random.key(0))
    logits = jax.jit(serving(task, {}).call)(state, {"tokens": batch["tokens"]})["logits"]
    right = jax.nn.log_softmax(logits)[np.arange(len(logits))[:, None], np.arange(logits.shape[1]), batch["target"]]
    np.testing.assert_allclose(-right, jax.jit(task.predict)(state, batch)["nats"], atol=1e-5)

    experiment = laws.session("gan_mixture").experiment
    task, state = experiment.phases[-1].task, one_seed(state_of(experiment))
    noise = jax.random.normal(jax.random.key(1), (4, task.latent))
    made = serving(task, {}).call(state, {"z": noise})["samples"]
    np.testing.assert_allclose(made, task.samples(state, noise), atol=1e-6)

    for recipe, name in (("cartpole_ppo", "logits"), ("cartpole_dqn", "values")):
        experiment = laws.session(recipe).experiment
        task, state = experiment.phases[-1].task, one_seed(state_of(experiment))
        seen = jax.random.normal(jax.random.key(2), (50, 4))
        scores = serving(task, {}).call(state, {"observation": seen})[name]
        np.testing.assert_array_equal(scores.argmax(axis=-1), task._greedy(state)(seen))


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (["--platforms=cuda,gpu"], "expected a comma-separated list of: cpu, cuda, tpu, rocm"),
        (["--platforms="], "--platforms names none"),
        (["--batch_size=-1"], "--batch_size"),
    ],
)
def test_wrong_flags_are_one_line(lenet5, capsys, flags, said):
    assert called(f"--workdir={lenet5[1]}", *flags) != 0
    error = capsys.readouterr().err
    assert said in error and error.count("\n") == 1


def test_missing_packages_and_folders_that_cannot_be_written_are_one_line(lenet5, capsys, monkeypatch, tmp_path):
    assert called(f"--workdir={tmp_path / 'none'}") == 1
    assert "is no run folder" in capsys.readouterr().err
    with monkeypatch.context() as patch:
        patch.setattr(export.importlib.util, "find_spec", lambda name: None)
        assert called(f"--workdir={lenet5[1]}") == 1
    assert "pip install -e '.[export]'" in capsys.readouterr().err
    session, folder = lenet5
    place = folder / "seed1"
    assert called(f"--workdir={place}") == 0
    before = (place / "export" / "parameters.safetensors").read_bytes()
    monkeypatch.setattr(os, "replace", _no_space)
    with pytest.raises(UserError, match="the disk is full"):
        export.write(session, RunFolder(place), ("cpu",), 0)
    assert (place / "export" / "parameters.safetensors").read_bytes() == before


def _no_space(source, target):
    del source
    raise OSError(28, "No space left on device", str(target))
