import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

from jaxdl.nn.convolution import Conv
from jaxdl.nn.convolution_pool import ConvMaxPool, convolution_max_pool
from jaxdl.nn.pooling import max_pool

# kernels that are written for what XLA:CPU makes of them
pytestmark = pytest.mark.optimized

# x, kernel, window, padding; the size of the output tiles that the CPU uses (0: no tiles)
CASES = {
    "lenet_first": ((3, 28, 28, 1), (5, 5, 1, 6), 2, "SAME", 4),
    "lenet_second": ((3, 14, 14, 6), (5, 5, 6, 16), 2, "VALID", 2),
    "digits": ((3, 8, 8, 1), (5, 5, 1, 6), 2, "SAME", 4),
    "sizes_that_do_not_fit": ((2, 9, 11, 3), (3, 5, 3, 4), 2, "SAME", 2),
    "pairs": ((2, 7, 9, 4), (3, 3, 4, 5), 2, ((2, 0), (-1, 3)), 2),
    "window_of_3": ((2, 14, 15, 2), (7, 7, 2, 8), 3, "VALID", 3),
    "too_much_waste": ((2, 9, 9, 2), (3, 3, 2, 3), 4, 1, 0),
    "many_channels": ((2, 6, 6, 33), (3, 3, 33, 4), 2, "SAME", 0),
    "1d": ((2, 12, 3), (3, 3, 4), 2, "SAME", 0),
}


def reference(x, kernel, window, padding):
    layout = {1: ("NWC", "WIO", "NWC"), 2: ("NHWC", "HWIO", "NHWC")}[x.ndim - 2]
    padding = ((padding, padding),) * (x.ndim - 2) if isinstance(padding, int) else padding
    y = lax.conv_general_dilated(x, kernel, (1,) * (x.ndim - 2), padding, dimension_numbers=layout)
    shape = (1, *(window,) * (x.ndim - 2), 1)
    return lax.reduce_window(y, -jnp.inf, lax.max, shape, shape, "VALID")


def draw(*shapes):
    rng = np.random.default_rng(0)
    return [jnp.asarray(rng.normal(size=shape), jnp.float32) for shape in shapes]


@pytest.mark.parametrize("case", CASES)
def test_value_and_gradients_equal_convolution_then_reduce_window(case, monkeypatch):
    x_shape, kernel_shape, window, padding, tile = CASES[case]
    used = []
    from jaxdl.nn import convolution_pool as module

    tiles = module._in_tiles
    monkeypatch.setattr(module, "_in_tiles", lambda *a, **k: used.append(k["tile"]) or tiles(*a, **k))
    x, kernel = draw(x_shape, kernel_shape)

    def both(f):
        y, pull = jax.vjp(lambda x, k: f(x, k, window=window, padding=padding), x, kernel)
        return y, *pull(jnp.cos(y))

    for ours, theirs in zip(jax.jit(both, static_argnums=0)(convolution_max_pool), both(reference), strict=True):
        assert ours.shape == theirs.shape
        np.testing.assert_allclose(ours, theirs, rtol=1e-4, atol=1e-4)
    assert used == [tile] * bool(tile)


def test_value_and_gradients_equal_pytorch():
    torch = pytest.importorskip("torch", reason="PyTorch is the independent reference for convolutions")
    x, kernel = draw((2, 14, 14, 6), (5, 5, 6, 16))
    y, pull = jax.vjp(lambda x, k: convolution_max_pool(x, k, padding="VALID"), x, kernel)
    tx = torch.tensor(np.moveaxis(np.asarray(x), -1, 1).copy(), requires_grad=True)
    tk = torch.tensor(np.transpose(np.asarray(kernel), (3, 2, 0, 1)).copy(), requires_grad=True)
    ty = torch.nn.functional.max_pool2d(torch.nn.functional.conv2d(tx, tk), 2)
    np.testing.assert_allclose(y, np.moveaxis(ty.detach().numpy(), 1, -1), rtol=1e-4, atol=1e-4)
    ty.backward(torch.cos(ty.detach()))
    dx, dk = pull(jnp.cos(y))
    np.testing.assert_allclose(dx, np.moveaxis(tx.grad.numpy(), 1, -1), rtol=1e-3, atol=1e-3)
    np.testing.assert_allclose(dk, np.transpose(tk.grad.numpy(), (2, 3, 1, 0)), rtol=1e-3, atol=1e-3)


def test_equal_maxima_share_the_gradient():
    x, kernel = jnp.ones((1, 8, 8, 1)), jnp.ones((5, 5, 1, 2))
    ours = jax.jit(jax.grad(lambda x: convolution_max_pool(x, kernel, padding="VALID").sum()))(x)
    theirs = jax.grad(lambda x: max_pool(reference(x, kernel, 1, "VALID"), 2).sum())(x)
    np.testing.assert_allclose(ours, theirs, rtol=1e-6)


def test_second_order_gradient_equals_that_of_the_plain_form():
    x, kernel = draw((2, 8, 8, 2), (5, 5, 2, 3))

    def penalty(f):
        slope = lambda x, k: jax.grad(lambda x: jnp.tanh(f(x, k)).sum())(x)  # noqa: E731
        return jax.jit(jax.grad(lambda x, k: jnp.square(slope(x, k)).sum(), (0, 1)))(x, kernel)

    theirs = penalty(lambda x, k: max_pool(reference(x, k, 1, "SAME"), 2))
    for a, b in zip(penalty(convolution_max_pool), theirs, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-3 * float(jnp.abs(b).max()))


def test_layer_equals_convolution_with_bias_then_pooling():
    (x,) = draw((2, 9, 9, 3))
    layer, plain = ConvMaxPool(4, (3, 3), bias_init=jax.nn.initializers.normal(1.0)), Conv(4, (3, 3))
    variables = layer.init(jax.random.key(0), x)
    assert jax.tree.map(jnp.shape, variables) == jax.tree.map(jnp.shape, plain.init(jax.random.key(0), x))
    np.testing.assert_allclose(layer.apply(variables, x), max_pool(plain.apply(variables, x), 2), rtol=1e-5, atol=1e-5)
    with pytest.raises(ValueError, match="ConvMaxPool has no strides"):
        ConvMaxPool(4, (3, 3), strides=2).init(jax.random.key(0), x)
