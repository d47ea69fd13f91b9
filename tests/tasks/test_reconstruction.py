"""The tasks of autoencoders, variational autoencoders and PCA, step by step."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxdl.models.autoencoder import Autoencoder
from jaxdl.models.vae import VAE
from jaxdl.optimizers import OptimizerConfig, hyper_parameters, make_optimizer
from jaxdl.tasks.components import PrincipalComponents
from jaxdl.tasks.reconstruction import reconstruction, variational

SGD = OptimizerConfig(name="sgd", learning_rate=0.1)
HYPER = {name: jnp.float32(value) for name, value in hyper_parameters(SGD).items()}
SHAPE = (4, 3, 1)


def batch(n=6, seed=0, mask=None):
    images = np.random.default_rng(seed).uniform(size=(n, *SHAPE)).astype(np.float32)
    mask = np.ones(n, np.float32) if mask is None else np.asarray(mask, np.float32)
    return {"image": jnp.asarray(images), "mask": jnp.asarray(mask), "row": jnp.arange(n, dtype=jnp.int32)}


def value(mean):
    return float(mean.total) / float(mean.count)


def sigmoid(x):
    return 1 / (1 + np.exp(-np.asarray(x, np.float64)))


@pytest.mark.parametrize("output", ["logistic", "linear"])
def test_squared_error_is_the_sum_over_an_images_pixels_and_padding_does_not_count(output):
    task = reconstruction(Autoencoder(12, (3,)), make_optimizer(SGD, 1), SHAPE, output)
    state = task.init(jax.random.key(0), HYPER)
    rows = batch(mask=[1, 1, 1, 1, 0, 0])
    rows["image"] = rows["image"].at[4:].set(jnp.nan)
    _, metrics = jax.jit(task.evaluate)(state, rows, jax.random.key(1))
    layers = jax.tree.map(np.asarray, state.nets["model"].params)
    x = np.asarray(rows["image"]).reshape(6, 12)[:4].astype(np.float64)
    code = x @ layers["encoder_0"]["kernel"] + layers["encoder_0"]["bias"]
    z = code @ layers["decoder_0"]["kernel"] + layers["decoder_0"]["bias"]
    found = sigmoid(z) if output == "logistic" else z
    assert value(metrics["squared_error"]) == pytest.approx(((x - found) ** 2).sum(axis=1).mean(), rel=1e-5)
    entropy = -(x * np.log(sigmoid(z)) + (1 - x) * np.log(1 - sigmoid(z))).sum(axis=1).mean()
    expected = entropy if output == "logistic" else value(metrics["squared_error"])
    assert value(metrics["loss"]) == pytest.approx(expected, rel=1e-5)
    predicted = jax.jit(task.predict)(state, rows)
    np.testing.assert_allclose(predicted["reconstruction"][:4], found, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(predicted["squared_error"][:4], ((x - found) ** 2).sum(axis=1), rtol=1e-4)
    np.testing.assert_allclose(predicted["code"][:4], code, rtol=1e-4, atol=1e-5)


def test_unknown_output_units_are_refused():
    with pytest.raises(ValueError, match="logistic or linear, got 'softmax'"):
        reconstruction(Autoencoder(12, (3,)), make_optimizer(SGD, 1), SHAPE, "softmax")


def vae(passes=3):
    return variational(VAE(12, (8,), 2), make_optimizer(SGD, 1), SHAPE, passes=passes)


def test_images_are_binarised_anew_at_each_step_with_their_grey_levels_as_probabilities():
    task, rows = vae(), batch()
    binarised = jax.jit(task._binarised)
    keys = jax.random.split(jax.random.key(0), 600)
    drawn = jax.lax.map(lambda key: task._binarised(rows, key)["image"], keys)
    assert set(np.unique(drawn[0])) == {0.0, 1.0} and not np.array_equal(drawn[0], drawn[1])
    np.testing.assert_allclose(drawn.mean(axis=0), rows["image"], atol=0.09)
    part = {name: leaf[2:4] for name, leaf in rows.items()}
    np.testing.assert_array_equal(binarised(part, keys[0])["image"], drawn[0][2:4])
    edges = {**rows, "image": jnp.stack([jnp.zeros(SHAPE), jnp.ones(SHAPE)] * 3)}
    np.testing.assert_array_equal(binarised(edges, keys[0])["image"], edges["image"])


def test_the_bound_is_averaged_over_passes_with_their_own_noise_and_is_the_sum_of_its_parts():
    task, rows, key = vae(), batch(), jax.random.key(4)
    state = task.init(jax.random.key(0), HYPER)
    _, metrics = jax.jit(task.evaluate)(state, rows, key)
    assert value(metrics["bound"]) == pytest.approx(-value(metrics["loss"]))
    assert value(metrics["loss"]) == pytest.approx(value(metrics["kl"]) + value(metrics["distortion"]), rel=1e-5)
    assert float(metrics["loss"].count) == 18
    one = jax.jit(task._pass)
    single = [value(one(state, rows, jax.random.fold_in(key, k))[1]["loss"]) for k in range(3)]
    assert len(set(single)) == 3 and value(metrics["loss"]) == pytest.approx(np.mean(single), rel=1e-5)
    model, params = task.model, {"params": state.nets["model"].params}
    (_, binarised), parts = one(state, rows, jax.random.fold_in(key, 0))
    binary = np.asarray(binarised["image"]).reshape(6, 12)
    mean, log_variance = (np.asarray(a, np.float64) for a in model.apply(params, binary, method="encode"))
    kl = 0.5 * (mean**2 + np.exp(log_variance) - 1 - log_variance).sum(axis=1).mean()
    assert value(parts["kl"]) == pytest.approx(kl, rel=1e-4)


def test_a_variational_step_uses_its_key_and_its_predictions_are_always_the_same():
    task, rows = vae(), batch()
    state = task.init(jax.random.key(0), HYPER)
    step = jax.jit(task.step)
    first, again, other = (step(state, rows, jax.random.key(k))[0].nets["model"].params for k in (1, 1, 2))
    kernel = first["encoder_0"]["kernel"]
    np.testing.assert_array_equal(kernel, again["encoder_0"]["kernel"])
    assert not np.array_equal(kernel, other["encoder_0"]["kernel"])
    outputs = jax.jit(task.predict)(state, rows)
    assert outputs["bound"].shape == (6,) and outputs["reconstruction"].shape == (6, 12)
    assert set(jax.eval_shape(task.probe, state, rows, jax.random.key(0))) >= {"gradient_norm/posterior"}


def test_one_pass_of_pca_is_the_closed_form_and_components_are_refreshed_on_the_way():
    from jaxdl.models.pca import fit_pca, project

    x = np.random.default_rng(3).normal(size=(50, 12)).astype(np.float32) * np.arange(1, 13, dtype=np.float32)
    task = PrincipalComponents(inputs=12, components=4, steps=4, refresh=2)
    state, step, seen = task.init(jax.random.key(0), {}), jax.jit(task.step), []
    for number in range(4):
        rows = {"image": np.full((14, *SHAPE), 7.0, np.float32), "mask": np.zeros(14, np.float32)}
        part = x[14 * number : 14 * (number + 1)]
        rows["image"][: len(part)], rows["mask"][: len(part)] = part.reshape(-1, *SHAPE), 1.0
        state, _ = step(state, rows, jax.random.key(0))
        state = state.replace(step=state.step + 1)
        seen.append(float(jnp.abs(state.nets["pca"].params["components"]).sum()))
    assert seen[0] == 0 < seen[1] == seen[2] != seen[3]
    mean, components = fit_pca(x, 4)
    whole = {"image": jnp.asarray(x.reshape(-1, *SHAPE)), "mask": jnp.ones(50), "row": jnp.arange(50)}
    expected = np.square(x - project(mean, components, x)[1]).sum(axis=1)
    np.testing.assert_allclose(task.predict(state, whole)["squared_error"], expected, rtol=1e-3)
    assert value(task.evaluate(state, whole, jax.random.key(0))[1]["squared_error"]) == pytest.approx(
        expected.mean(), rel=1e-4
    )
