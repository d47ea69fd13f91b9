"""Greedy pre-training as one run of several phases, and what the recipes share."""

import dataclasses
import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments import recipe_files
from experiments.recipes import deep_ae
from jaxdl.engine.transfer import transferred


def small():
    config = recipe_files.load("deep_ae").config
    return dataclasses.replace(
        config,
        model=dataclasses.replace(config.model, features=(48, 10)),
        pretraining=dataclasses.replace(config.pretraining, epochs=1, batch_size=64),
    )


def train(phase):
    """(state [1, ...], steps) -> the state after as many updates, and its validation error; compiled once."""
    held_out = phase.evaluations["validation"]

    def several(state, steps):
        def body(i, state):
            rows = phase.source.batch(i, jax.random.key(0))
            return phase.task.step(state, rows, jax.random.fold_in(jax.random.key(1), i))[0]

        one = jax.lax.fori_loop(0, steps, body, jax.tree.map(lambda leaf: leaf[0], state))
        _, metrics = phase.task.evaluate(one, held_out.batch(0, jax.random.key(0)), jax.random.key(0))
        error = metrics["squared_error"]
        return jax.tree.map(lambda leaf: leaf[None], one), error.total / error.count

    return jax.jit(several)


def fresh(phase, key):
    hyper = {name: jnp.float32(value) for name, value in phase.hyper.items()}
    state = jax.jit(phase.task.init)(jax.random.key(key), hyper)
    return jax.tree.map(lambda leaf: leaf[None], state)


def test_each_phase_starts_from_the_frozen_ones_before_and_the_unrolled_stack_is_ahead_of_random_weights():
    first, second, last = deep_ae.build(small()).phases
    assert [phase.name for phase in (first, second, last)] == ["rbm_0", "rbm_1", "finetune"]
    keys = np.zeros((1, 2), np.uint32)
    state, _ = train(first)(fresh(first, 0), 300)
    entered = transferred(second.transfer, state, fresh(second, 1), keys)
    np.testing.assert_array_equal(entered.nets["rbm_0"].params["kernel"], state.nets["rbm_0"].params["kernel"])
    learnt, _ = train(second)(entered, 300)
    for name, leaf in learnt.nets["rbm_0"].params.items():
        np.testing.assert_array_equal(leaf, state.nets["rbm_0"].params[name])
    assert not np.array_equal(entered.nets["rbm_1"].params["kernel"], learnt.nets["rbm_1"].params["kernel"])

    unrolled = transferred(last.transfer, learnt, fresh(last, 2), keys)
    rows = last.source.batch(0, jax.random.key(0))
    layers = [jax.tree.map(lambda leaf: leaf[0], learnt.nets[f"rbm_{i}"].params) for i in range(2)]
    low, top = second.task.stack
    x = rows["image"].reshape(64, -1)
    code = top.hidden_mean(layers[1], low.hidden_mean(layers[0], x))
    back = low.visible_mean(layers[0], top.visible_mean(layers[1], code))
    found = jax.jit(last.task.predict)(jax.tree.map(lambda leaf: leaf[0], unrolled), rows)
    np.testing.assert_allclose(found["code"], code, rtol=1e-3, atol=1e-4)
    np.testing.assert_allclose(found["reconstruction"], back, rtol=1e-3, atol=1e-4)

    finetune = train(last)
    for steps in (0, 20, 100):
        assert finetune(unrolled, steps)[1] < 0.85 * finetune(fresh(last, 2), steps)[1]


def test_predictions_say_what_was_measured():
    from experiments.autoencoders import describe_outputs

    said = describe_outputs({"squared_error": np.float32(3.25), "bound": np.float32(-91.0), "code": np.zeros(2)})
    assert said == {"label": "a code of 2 values", "squared_error": 3.25, "bound": -91.0}


def test_samples_are_a_picture_and_an_array(tmp_path):
    from PIL import Image

    from experiments.autoencoders import write_samples

    said = []
    images = np.linspace(0, 1, 5 * 8 * 8, dtype=np.float32).reshape(5, 8, 8)
    write_samples(images, types.SimpleNamespace(folder=tmp_path, emit=said.append))
    np.testing.assert_array_equal(np.load(tmp_path / "samples.npy"), images)
    sheet = np.asarray(Image.open(tmp_path / "samples.png"))
    assert sheet.shape == (7 * 18, 7 * 28) and sheet.dtype == np.uint8
    assert sheet[0, 0] == 0 and "5 samples" in said[0]


def test_too_many_components_are_refused():
    from experiments.recipes import pca
    from jaxdl.errors import UserError

    config = dataclasses.replace(pca.Config(), model=pca.ModelConfig(components=65))
    with pytest.raises(UserError, match="only 64 values"):
        pca.build(config)


def test_the_pca_recipe_is_scikit_learns(tmp_path):
    from sklearn.decomposition import PCA

    from experiments.autoencoders import open_pictures, pixels
    from experiments.session import fit
    from jaxdl.data.datasets import DataConfig

    run = fit("pca", workdir=str(tmp_path / "pca"))
    images = open_pictures(DataConfig(name="digits"))
    model = PCA(10, svd_solver="full").fit(pixels(images, "train+validation"))
    x = pixels(images, "test")
    error = np.square(x - model.inverse_transform(model.transform(x))).sum(axis=1).mean()
    assert run.records[0]["metrics"]["test/squared_error"] == pytest.approx(float(error), rel=1e-4)


def test_annealing_uses_no_key_twice():
    from experiments.recipes.rbm import EvaluationConfig, annealed_likelihood
    from jaxdl.models.rbm import RBM

    machine = RBM(6, 5)
    params = machine.init(jax.random.key(0), 0.5)
    task = types.SimpleNamespace(rbm=machine, machine=lambda state: params)
    judged = types.SimpleNamespace(
        experiment=types.SimpleNamespace(phases=[types.SimpleNamespace(task=task)]),
        state={"leaf": np.zeros((1, 1))},
        key=jax.random.key(1),
        outputs=lambda split: {"free_energy": np.zeros(1)},
    )
    with jax.debug_key_reuse(True):
        found = annealed_likelihood(judged, np.full(6, 0.3), EvaluationConfig(chains=20, temperatures=50))
    assert abs(found["test/ais_log_likelihood"] - found["test/reverse_ais_log_likelihood"]) < 0.5
