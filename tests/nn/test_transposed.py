"""The transposed convolution that doubles a map, against PyTorch and against its definition."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.test_util import check_grads

from jaxdl.nn.convolution import convolution
from jaxdl.nn.transposed import DoublingConv, doubling_convolution

# [B, H, W, C] and E; one channel and few positions take other ways inside `convolution`
SHAPES = [((3, 7, 5, 4), 3), ((2, 2, 2, 5), 2), ((2, 6, 7, 1), 3), ((2, 9, 8, 33), 1)]


def drawn(*shape):
    return np.random.default_rng(sum(shape)).normal(size=shape).astype(np.float32)


def torch_side(x, kernel, g):
    """y and the gradients of sum(y · g), in the layout of ours."""
    torch = pytest.importorskip("torch", reason="PyTorch is the oracle: pip install -e '.[oracles]'")
    image = torch.tensor(np.ascontiguousarray(x.transpose(0, 3, 1, 2)), requires_grad=True)
    weight = torch.tensor(np.ascontiguousarray(kernel.transpose(2, 3, 0, 1)), requires_grad=True)
    y = torch.nn.functional.conv_transpose2d(image, weight, stride=2, padding=1)
    (y * torch.from_numpy(np.ascontiguousarray(g.transpose(0, 3, 1, 2)))).sum().backward()
    maps = [t.detach().numpy().transpose(0, 2, 3, 1) for t in (y, image.grad)]
    return *maps, weight.grad.numpy().transpose(2, 3, 0, 1)


@pytest.mark.parametrize(("shape", "outputs"), SHAPES)
def test_values_and_gradients_are_pytorchs(shape, outputs):
    x, kernel, g = drawn(*shape), drawn(4, 4, shape[3], outputs), drawn(shape[0], 2 * shape[1], 2 * shape[2], outputs)

    @jax.jit
    def ours(x, kernel, g):
        y, pull_back = jax.vjp(doubling_convolution, x, kernel)
        return y, *pull_back(g)

    for found, wanted in zip(ours(x, kernel, g), torch_side(x, kernel, g), strict=True):
        np.testing.assert_allclose(found, wanted, rtol=1e-4, atol=1e-4)


def test_by_its_definition():
    x, kernel = drawn(1, 3, 2, 2), drawn(4, 4, 2, 3)
    wanted = np.zeros((1, 6, 4, 3))
    for i, j, k, l in np.ndindex(3, 2, 4, 4):
        if 0 <= 2 * i + k - 1 < 6 and 0 <= 2 * j + l - 1 < 4:
            wanted[0, 2 * i + k - 1, 2 * j + l - 1] += x[0, i, j] @ kernel[k, l]
    found = jax.jit(doubling_convolution)(x, kernel)
    np.testing.assert_allclose(found, wanted, rtol=1e-5, atol=1e-5)


def test_it_is_the_adjoint_of_the_convolution_with_stride_2():
    x, y, kernel = drawn(2, 4, 4, 3), drawn(2, 8, 8, 5), drawn(4, 4, 3, 5)
    left = jnp.vdot(jax.jit(doubling_convolution)(x, kernel), y)
    right = jnp.vdot(x, convolution(jnp.asarray(y), jnp.asarray(kernel.swapaxes(2, 3)), strides=2, padding=1))
    assert float(left) == pytest.approx(float(right), rel=1e-4)


def test_second_derivatives_are_right():
    """As a gradient penalty needs them; against finite differences."""
    x, kernel = jnp.asarray(drawn(1, 2, 2, 2)), jnp.asarray(drawn(4, 4, 2, 2))

    def penalty(x, kernel):
        by_x = jax.grad(lambda x: jnp.sum(jnp.sin(doubling_convolution(x, kernel))))(x)
        return jnp.sum(by_x**2)

    check_grads(jax.jit(penalty), (x, kernel), order=1, modes=["rev"], atol=0.05, rtol=0.05, eps=1e-2)


def test_the_layer_has_kernel_and_bias_and_follows_the_dtype():
    x, layer = jnp.asarray(drawn(2, 4, 6, 3)), DoublingConv(5)
    y, variables = jax.jit(layer.init_with_output)(jax.random.key(0), x)
    assert y.shape == (2, 8, 12, 5)
    assert jax.tree.map(jnp.shape, variables["params"]) == {"kernel": (4, 4, 3, 5), "bias": (5,)}
    kept = {"params": {"kernel": variables["params"]["kernel"]}}
    low = jax.jit(DoublingConv(5, use_bias=False, dtype=jnp.bfloat16).apply)(kept, x)
    assert low.dtype == jnp.bfloat16
    np.testing.assert_allclose(low.astype(jnp.float32), y, atol=0.1)


@pytest.mark.parametrize(
    ("x", "kernel"), [((1, 4, 4, 3), (4, 4, 2, 5)), ((1, 4, 4, 3), (3, 3, 3, 5)), ((4, 4, 3), (4, 4, 3, 5))]
)
def test_what_does_not_fit_is_refused(x, kernel):
    with pytest.raises(ValueError, match="kernel"):
        doubling_convolution(jnp.zeros(x), jnp.zeros(kernel))
