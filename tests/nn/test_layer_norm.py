import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxdl.nn.normalization import LayerNorm
from jaxdl.target import compiling_for

torch = pytest.importorskip("torch", reason="PyTorch is the oracle of layer normalisation: pip install jaxdl[oracles]")


@pytest.mark.parametrize(("use_bias", "platform"), [(True, "cpu"), (False, "cpu"), (True, "gpu")])
def test_layer_norm_and_its_gradients_equal_pytorchs(use_bias, platform):
    """Both forms, that of accelerators too, whose program has no product of matrices."""
    draw = np.random.default_rng(0)
    x = (draw.normal(size=(3, 4, 10)) * 2 + 5).astype(np.float32)
    module = LayerNorm(use_bias=use_bias)
    shapes = jax.eval_shape(module.init, jax.random.key(0), x)
    variables = jax.tree.map(lambda leaf: jnp.asarray(draw.normal(size=leaf.shape), jnp.float32), shapes)
    g = draw.normal(size=x.shape).astype(np.float32)

    def gradients(variables, x, g):
        ours, back = jax.vjp(lambda v, x: module.apply(v, x), variables, x)
        return ours, *back(g)

    with compiling_for(platform):
        ours, dv, dx = jax.jit(gradients)(variables, x, g)
        assert ("dot_general" in str(jax.make_jaxpr(gradients)(variables, x, g))) == (platform == "cpu")
    theirs = torch.nn.LayerNorm(10, bias=use_bias)
    with torch.no_grad():
        theirs.weight.copy_(torch.tensor(np.asarray(variables["params"]["scale"])))
        if use_bias:
            theirs.bias.copy_(torch.tensor(np.asarray(variables["params"]["bias"])))
    y = torch.tensor(x, requires_grad=True)
    found = theirs(y)
    found.backward(torch.tensor(g))
    np.testing.assert_allclose(ours, found.detach(), atol=1e-5)
    np.testing.assert_allclose(dx, y.grad, atol=1e-5)
    np.testing.assert_allclose(dv["params"]["scale"], theirs.weight.grad, atol=1e-4)
    if use_bias:
        np.testing.assert_allclose(dv["params"]["bias"], theirs.bias.grad, atol=1e-4)


def test_half_precision_is_computed_in_full():
    x = (np.random.default_rng(0).normal(size=(5, 64)) + 30).astype(jnp.bfloat16)
    module = LayerNorm()
    variables = module.init(jax.random.key(0), x)
    found = module.apply(variables, jnp.asarray(x))
    assert found.dtype == jnp.bfloat16
    exact = np.asarray(x, np.float64)
    exact = (exact - exact.mean(-1, keepdims=True)) / np.sqrt(exact.var(-1, keepdims=True) + 1e-5)
    np.testing.assert_allclose(np.asarray(found, np.float64), exact, atol=2e-2)
