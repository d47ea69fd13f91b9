"""Autoencoders and principal components against closed forms."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxdl.models.autoencoder import Autoencoder, unrolled
from jaxdl.models.pca import Moments, batch_moments, fit_pca, principal_components, project
from jaxdl.models.vae import VAE

KEY = jax.random.key(0)


def correlated(n=400, size=12, seed=0):
    rng = np.random.default_rng(seed)
    return (rng.normal(size=(n, size)) @ rng.normal(size=(size, size)) * 0.3 + rng.normal(size=size)).astype(np.float32)


def sigmoid(x):
    return 1 / (1 + np.exp(-np.asarray(x, np.float64)))


def test_a_deep_autoencoder_is_its_formula():
    x = np.random.default_rng(0).normal(size=(5, 2, 3, 1)).astype(np.float32)
    model = Autoencoder(6, (4, 3))
    variables = model.init(KEY, x)
    layers = {name: jax.tree.map(np.asarray, layer) for name, layer in variables["params"].items()}
    assert {name: layer["kernel"].shape for name, layer in layers.items()} == {
        "encoder_0": (6, 4),
        "encoder_1": (4, 3),
        "decoder_0": (3, 4),
        "decoder_1": (4, 6),
    }
    found = model.apply(variables, x)
    h = sigmoid(x.reshape(5, 6) @ layers["encoder_0"]["kernel"] + layers["encoder_0"]["bias"])
    code = h @ layers["encoder_1"]["kernel"] + layers["encoder_1"]["bias"]
    back = sigmoid(code @ layers["decoder_0"]["kernel"] + layers["decoder_0"]["bias"])
    np.testing.assert_allclose(found["code"], code, rtol=1e-4, atol=1e-5)
    expected = back @ layers["decoder_1"]["kernel"] + layers["decoder_1"]["bias"]
    np.testing.assert_allclose(found["output"], expected, rtol=1e-4, atol=1e-5)
    only = model.apply(variables, found["code"], method="decode")
    np.testing.assert_allclose(only, found["output"], rtol=1e-5)


def test_tied_layers_share_their_weights_and_gradients():
    x = np.random.default_rng(1).normal(size=(5, 6)).astype(np.float32)
    tied, free = Autoencoder(6, (4, 3), tied=True), Autoencoder(6, (4, 3))
    variables = tied.init(KEY, x)
    params = variables["params"]
    assert set(params["decoder_0"]) == set(params["decoder_1"]) == {"bias"}
    copied = {
        **{name: params[name] for name in ("encoder_0", "encoder_1")},
        "decoder_0": {"kernel": params["encoder_1"]["kernel"].T, **params["decoder_0"]},
        "decoder_1": {"kernel": params["encoder_0"]["kernel"].T, **params["decoder_1"]},
    }

    def total(model):
        return lambda params: jnp.square(model.apply({"params": params}, x)["output"]).sum()

    np.testing.assert_allclose(total(tied)(params), total(free)(copied), rtol=1e-5)
    shared, apart = jax.grad(total(tied))(params), jax.grad(total(free))(copied)
    both = apart["encoder_0"]["kernel"] + apart["decoder_1"]["kernel"].T
    np.testing.assert_allclose(shared["encoder_0"]["kernel"], both, rtol=1e-4, atol=1e-5)
    code = tied.apply(variables, x)["code"]
    np.testing.assert_allclose(
        tied.apply(variables, code, method="decode"), tied.apply(variables, x)["output"], rtol=1e-5
    )


@pytest.mark.parametrize("tied", [False, True])
def test_a_linear_autoencoder_learns_the_space_of_the_principal_components(tied):
    x, size, code = jnp.asarray(correlated()), 12, 3
    mean, components = fit_pca(np.asarray(x), code)
    best = np.square(np.asarray(x) - project(mean, components, np.asarray(x))[1]).sum(axis=1).mean()
    model = Autoencoder(size, (code,), tied=tied)
    optimizer = optax.adam(optax.cosine_decay_schedule(2e-2, 3000))

    def loss(params):
        return jnp.square(model.apply({"params": params}, x)["output"] - x).sum(axis=1).mean()

    def update(_, carry):
        params, state = carry
        updates, state = optimizer.update(jax.grad(loss)(params), state)
        return optax.apply_updates(params, updates), state

    params = model.init(KEY, x)["params"]
    train = jax.jit(lambda carry: jax.lax.fori_loop(0, 3000, update, carry))
    params, _ = train((params, optimizer.init(params)))
    assert best <= float(loss(params)) * (1 + 1e-5) and float(loss(params)) <= 1.002 * best
    decoder = params["encoder_0"]["kernel"].T if tied else params["decoder_0"]["kernel"]
    directions, _ = np.linalg.qr(np.asarray(decoder, np.float64).T)
    cosines = np.linalg.svd(directions.T @ components.T, compute_uv=False)
    assert np.arccos(np.clip(cosines, -1, 1)).max() < 0.03


def test_merged_moments_and_components_are_those_of_scikit_learn():
    from sklearn.decomposition import PCA

    x = correlated(330)
    moments = Moments.none(12)
    for start in range(0, 352, 64):
        rows = np.zeros((64, 12), np.float32)
        part = x[start : start + 64]
        rows[: len(part)] = part
        rows[len(part) :] = 1e3  # padding
        moments = moments.merged(batch_moments(jnp.asarray(rows), jnp.asarray(np.arange(64) < len(part), jnp.float32)))
    assert float(moments.seen) == 330
    np.testing.assert_allclose(moments.mean, x.mean(axis=0), atol=1e-5)
    np.testing.assert_allclose(moments.scatter / 329, np.cov(x.T), rtol=1e-3, atol=1e-4)
    reference = PCA(4, svd_solver="full").fit(x)
    components = np.asarray(principal_components(moments.scatter, 4))
    np.testing.assert_allclose(np.abs((components * reference.components_).sum(axis=1)), 1.0, atol=1e-4)
    found = project(moments.mean, components, jnp.asarray(x))[1]
    np.testing.assert_allclose(found, reference.inverse_transform(reference.transform(x)), atol=2e-3)
    ours = fit_pca(x, 4)[1]
    np.testing.assert_allclose(np.abs((ours * reference.components_).sum(axis=1)), 1.0, atol=1e-5)


def test_components_beyond_the_rank_of_the_data_are_still_orthonormal():
    x = jnp.asarray(correlated(3))
    moments = batch_moments(x, jnp.ones(3))
    components = principal_components(moments.scatter, 5)
    np.testing.assert_allclose(components @ components.T, np.eye(5), atol=1e-4)
    np.testing.assert_allclose(project(moments.mean, components, x)[1], x, atol=1e-3)


@pytest.mark.parametrize("tied", [False, True])
def test_an_unrolled_stack_is_its_mean_field_passes(tied):
    from jaxdl.models.rbm import RBM

    stack = [RBM(6, 4), RBM(4, 3, "gaussian")]
    layers = []
    for i, rbm in enumerate(stack):
        drawn = rbm.init(jax.random.fold_in(KEY, i), 0.7)
        drawn["hidden_bias"] += 0.1 * (i + 1)
        drawn["visible_bias"] -= 0.2 * (i + 1)
        layers.append(drawn)
    x = jax.random.uniform(jax.random.key(5), (7, 6))
    up = stack[0].hidden_mean(layers[0], x)
    code = stack[1].hidden_mean(layers[1], up)
    down = stack[0].visible_mean(layers[0], stack[1].visible_mean(layers[1], code))
    model = Autoencoder(6, (4, 3), tied=tied)
    params = unrolled(layers, tied)
    assert jax.tree.structure(params) == jax.tree.structure(model.init(KEY, x)["params"])
    found = model.apply({"params": params}, x)
    np.testing.assert_allclose(found["code"], code, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(jax.nn.sigmoid(found["output"]), down, rtol=1e-4, atol=1e-5)


def test_gated_units_are_their_formula():
    model = VAE(inputs=3, features=(4,), latents=2, gated=True)
    x = np.random.default_rng(0).normal(size=(5, 3)).astype(np.float32)
    params = model.init(jax.random.key(0), x)["params"]
    first = params["encoder_0"]
    both = x @ np.asarray(first["kernel"]) + np.asarray(first["bias"])
    hidden = both[:, :4] / (1.0 + np.exp(-both[:, 4:]))
    out = hidden @ np.asarray(params["posterior"]["kernel"]) + np.asarray(params["posterior"]["bias"])
    mean, log_variance = model.apply({"params": params}, x, method="encode")
    np.testing.assert_allclose(np.concatenate([mean, log_variance], axis=1), out, rtol=1e-5, atol=1e-6)
