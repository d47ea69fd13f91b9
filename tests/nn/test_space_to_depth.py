"""A strided convolution over blocks of pixels against the plain one."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxdl.nn.convolution import Conv, convolution
from jaxdl.nn.space_to_depth import StemConv, blocks, blockwise_convolution
from jaxdl.target import compiling_for


def test_blocks_of_pixels_are_channels():
    x = jnp.arange(2 * 4 * 6 * 3).reshape(2, 4, 6, 3)
    found = blocks(x, 2)
    assert found.shape == (2, 2, 3, 12)
    np.testing.assert_array_equal(found[1, 1, 2].reshape(2, 2, 3), x[1, 2:4, 4:6])


@pytest.mark.parametrize(
    ("side", "size", "stride", "padding"), [(16, 7, 2, 3), (16, 7, 2, 0), (18, 5, 3, 2), (16, 4, 4, 0), (12, 7, 2, 5)]
)
def test_it_is_the_plain_convolution_with_its_gradients(side, size, stride, padding):
    x = jax.random.normal(jax.random.key(0), (2, side, side + 2 * stride, 3))
    kernel = jax.random.normal(jax.random.key(1), (size, size, 3, 5))

    def both(function):
        return jax.value_and_grad(lambda x, kernel: jnp.sin(function(x, kernel)).sum(), (0, 1))(x, kernel)

    found = both(lambda x, kernel: blockwise_convolution(x, kernel, stride, padding))
    wanted = both(lambda x, kernel: convolution(x, kernel, strides=stride, padding=padding))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=2e-4), found, wanted)


def test_the_layer_takes_blocks_where_they_fit_and_the_target_is_no_cpu():
    layer, plain = (kind(8, (7, 7), strides=2, padding=3, use_bias=False) for kind in (StemConv, Conv))
    x = jax.random.normal(jax.random.key(0), (2, 16, 16, 3))
    params = plain.init(jax.random.key(1), x)

    def program(x):
        return str(jax.make_jaxpr(lambda x: layer.apply(params, x))(x))

    assert "4,4,12,8" not in program(x)
    with compiling_for("gpu"):
        np.testing.assert_allclose(layer.apply(params, x), plain.apply(params, x), atol=1e-4)
        # odd sides take the plain way
        assert "4,4,12,8" in program(x) and "4,4,12,8" not in program(x[:, :15])
    with pytest.raises(ValueError, match="a square kernel, and one stride"):
        StemConv(8, (7, 5), strides=2, padding=3).init(jax.random.key(0), x)
    for more in ({"dilation": 2}, {"groups": 3}):
        with pytest.raises(ValueError, match="neither dilation nor groups"):
            StemConv(6, (7, 7), strides=2, padding=3, **more).init(jax.random.key(0), x)
