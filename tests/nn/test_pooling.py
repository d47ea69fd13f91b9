import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxdl.nn.pooling import avg_pool, global_avg_pool, global_max_pool, lp_pool, max_pool
from jaxdl.target import compiling_for

X = np.random.default_rng(0).normal(size=(3, 7, 6, 4)).astype(np.float32)
GEOMETRIES = [(2, None, 0), (3, 2, 1), (2, 1, 0), ((3, 2), (2, 3), 0), (3, 3, 1)]


def channels_first(x):
    return np.moveaxis(np.asarray(x), -1, 1).copy()


def with_gradient(f):
    y, pull = jax.vjp(f, jnp.asarray(X))
    g = np.random.default_rng(1).normal(size=y.shape).astype(np.float32)
    return y, pull(jnp.asarray(g))[0], g


@pytest.mark.parametrize("kind", ["max", "avg", "lp"])
@pytest.mark.parametrize(("window", "strides", "padding"), GEOMETRIES)
def test_values_and_gradients_equal_pytorch(kind, window, strides, padding):
    torch = pytest.importorskip("torch", reason="PyTorch is the independent reference for pooling")
    functional = torch.nn.functional
    tx = torch.tensor(channels_first(X), requires_grad=True)
    if kind == "max":
        y, dx, g = with_gradient(lambda x: max_pool(x, window, strides, padding))
        ty = functional.max_pool2d(tx, window, strides, padding)
    elif kind == "avg":
        y, dx, g = with_gradient(lambda x: avg_pool(x, window, strides, padding))
        ty = functional.avg_pool2d(tx, window, strides, padding, count_include_pad=False)
    else:
        y, dx, g = with_gradient(lambda x: lp_pool(x, window, 3.0, strides, padding))
        padded = functional.pad(tx.abs(), (padding,) * 4)  # PyTorch's own takes no padding
        ty = functional.lp_pool2d(padded, 3.0, window, strides)
    ty.backward(torch.tensor(channels_first(g)))
    np.testing.assert_allclose(channels_first(y), ty.detach().numpy(), rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(channels_first(dx), tx.grad.numpy(), rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize(("window", "strides", "padding"), [(3, 2, 1), (3, 1, "SAME"), ((3, 2), (2, 3), 1)])
def test_a_gpus_form_is_reduce_windows_and_makes_no_scatter(window, strides, padding):
    """Equal maxima too, which these images of few values have."""
    x = jnp.asarray(X.round())

    def total(x):
        return jnp.sin(max_pool(x, window, strides, padding)).sum()

    wanted = jax.value_and_grad(total)(x)
    with compiling_for("gpu"):
        program = jax.jit(jax.value_and_grad(total)).lower(x)
        found = jax.value_and_grad(total)(x)
    assert "scatter" not in program.as_text() and "reduce_window" not in program.as_text()
    for ours, plain in zip(found, wanted, strict=True):
        np.testing.assert_allclose(ours, plain, atol=1e-6)


@pytest.mark.parametrize("pool", [max_pool, avg_pool])
def test_windows_that_overlap_have_gradients_inside_a_program(pool):
    def total(x):
        return (pool(x, 3, 2, 1) * jnp.arange(4.0)).sum()

    np.testing.assert_allclose(jax.jit(jax.grad(total))(jnp.asarray(X)), jax.grad(total)(jnp.asarray(X)), atol=1e-6)


def test_global_pooling_and_other_ranks():
    np.testing.assert_allclose(global_avg_pool(jnp.asarray(X)), X.mean((1, 2)), rtol=1e-4, atol=1e-6)
    np.testing.assert_array_equal(global_max_pool(jnp.asarray(X)), X.max((1, 2)))
    line = X[:, :, 0]
    np.testing.assert_array_equal(max_pool(jnp.asarray(line), 2), line[:, :6].reshape(3, 3, 2, 4).max(2))


def test_the_printed_example():
    """A 4x4 image pooled 2x2 (inventory G21): maxima and means are whole numbers, and no parameter is involved."""
    image = jnp.asarray([[29, 15, 28, 184], [0, 100, 70, 38], [12, 12, 7, 2], [12, 12, 45, 6]], jnp.float32)
    image = jnp.stack([image, -image], axis=-1)[None]  # channels are pooled each for itself
    largest, mean = max_pool(image, 2), avg_pool(image, 2)
    np.testing.assert_array_equal(largest[0, ..., 0], [[100, 184], [12, 45]])
    np.testing.assert_array_equal(mean[0, ..., 0], [[36, 80], [12, 15]])
    np.testing.assert_array_equal(largest[0, ..., 1], [[0, -28], [-12, -2]])
    np.testing.assert_array_equal(mean[0, ..., 1], -mean[0, ..., 0])
    assert max_pool(jnp.zeros((1, 32, 32, 3)), 2).shape == (1, 16, 16, 3)


def test_same_padding_and_lp_limits():
    assert max_pool(jnp.asarray(X), 2, padding="SAME").shape == (3, 4, 3, 4)
    np.testing.assert_array_equal(max_pool(jnp.full((1, 3, 3, 1), -5.0), 2, padding="SAME"), -5.0)
    np.testing.assert_allclose(avg_pool(jnp.full((1, 3, 3, 1), -5.0), 2, padding="SAME"), -5.0)
    total = lp_pool(jnp.asarray(X), 2, 1.0)
    np.testing.assert_allclose(total, 4 * avg_pool(jnp.abs(X), 2), rtol=1e-4)
    np.testing.assert_array_equal(jax.grad(lambda x: lp_pool(x, 2, 2.0).sum())(jnp.zeros((1, 2, 2, 1))), 0.0)


def test_wrong_arguments_get_one_clear_line():
    with pytest.raises(ValueError, match="does not fit"):
        max_pool(jnp.asarray(X), 8)
    for pool in (max_pool, avg_pool):
        with pytest.raises(ValueError, match="without a value; use less padding"):
            pool(jnp.asarray(X), 2, padding=2)
    with pytest.raises(ValueError, match="p >= 1"):
        lp_pool(jnp.asarray(X), 2, 0.5)
