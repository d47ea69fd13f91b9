"""ResNet and GPT-2 at their published sizes: parameter counts, and a forward pass against PyTorch."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxdl.models.gpt2 import CONTEXT, gpt2
from jaxdl.models.resnet import BottleneckBlock, ImageNetResNet

KEY = jax.random.key(0)


def shapes(model, *inputs):
    return jax.eval_shape(lambda *x: model.init(KEY, *x, train=False), *inputs)


def count(variables):
    return sum(leaf.size for leaf in jax.tree.leaves(variables["params"]))


# torchvision's counts of its models of these names
@pytest.mark.parametrize(
    ("depth", "parameters"),
    [(18, 11_689_512), (34, 21_797_672), (50, 25_557_032), (101, 44_549_160), (152, 60_192_808)],
)
def test_residual_networks_for_imagenet_have_the_published_parameters(depth, parameters):
    assert count(shapes(ImageNetResNet(depth), jnp.zeros((1, 224, 224, 3)))) == parameters


@pytest.mark.parametrize(("size", "parameters"), [("124M", 124_439_808), ("355M", 354_823_168)])
def test_gpt2_has_the_published_parameters(size, parameters):
    assert count(shapes(gpt2(size), jnp.zeros((1, CONTEXT), jnp.int32))) == parameters


def test_unknown_sizes_get_one_clear_line():
    with pytest.raises(ValueError, match="one of 18, 34, 50, 101, 152"):
        shapes(ImageNetResNet(20), jnp.zeros((1, 64, 64, 3)))
    with pytest.raises(ValueError, match="sizes 124M, 355M"):
        gpt2("1.5B")


def test_resnet_50_equals_pytorch(one_thread):
    """The published layers in PyTorch's words, at a quarter of the width; the stride is that of the 3x3 convolution."""
    torch = one_thread
    functional = torch.nn.functional
    model, x = ImageNetResNet(50, num_classes=7, width=16), jax.random.normal(KEY, (2, 64, 64, 3))
    rng = np.random.default_rng(0)

    def drawn(path, leaf):
        name = path[-1].key
        if name == "kernel":
            return jnp.asarray(rng.normal(0, (2 / np.prod(leaf.shape[:-1])) ** 0.5, leaf.shape), leaf.dtype)
        low, high = (0.5, 1.5) if name in ("scale", "var") else (-0.2, 0.2)
        return jnp.asarray(rng.uniform(low, high, leaf.shape), leaf.dtype)

    variables = jax.tree_util.tree_map_with_path(drawn, shapes(model, x))
    params, stats = variables["params"], variables["batch_stats"]
    tensor = lambda a: torch.tensor(np.asarray(a))  # noqa: E731

    def convolution(z, layer, stride=1, padding=0):
        return functional.conv2d(z, tensor(layer["kernel"]).permute(3, 2, 0, 1), stride=stride, padding=padding)

    def norm(z, layer, running):
        moments = tensor(running["mean"]), tensor(running["var"])
        return functional.batch_norm(z, *moments, tensor(layer["scale"]), tensor(layer["bias"]), eps=1e-5)

    z = convolution(tensor(x).permute(0, 3, 1, 2), params["stem"], 2, 3)
    z = functional.max_pool2d(norm(z, params["stem_norm"], stats["stem_norm"]).relu(), 3, 2, 1)
    for stage, blocks in enumerate((3, 4, 6, 3)):
        for block in range(blocks):
            stride = 2 if stage > 0 and block == 0 else 1
            inner, running = (tree[f"stage{stage}_block{block}"] for tree in (params, stats))
            y = z
            for i, (step, padding) in enumerate(((1, 0), (stride, 1), (1, 0))):
                y = convolution(y, inner[f"Conv_{i}"], step, padding)
                y = norm(y, inner[f"BatchNorm_{i}"], running[f"BatchNorm_{i}"])
                y = y.relu() if i < 2 else y
            if block == 0:
                z = convolution(z, inner["projection"], stride)
                z = norm(z, inner["projection_norm"], running["projection_norm"])
            z = (z + y).relu()
    last = params["Dense_0"]
    expected = (z.mean((2, 3)) @ tensor(last["kernel"]) + tensor(last["bias"])).numpy()
    ours = jax.jit(lambda v, x: model.apply(v, x, train=False))(variables, x)
    assert np.abs(expected).max() > 0.1
    np.testing.assert_allclose(ours, expected, rtol=1e-3, atol=1e-4 * np.abs(expected).max())


def test_a_zero_initialised_bottleneck_is_the_identity():
    x = jnp.abs(jax.random.normal(KEY, (2, 4, 4, 16)))  # after a ReLU
    block = BottleneckBlock(4, zero_init=True)
    variables = jax.jit(lambda: block.init(KEY, x))()
    np.testing.assert_allclose(jax.jit(block.apply)(variables, x), x, atol=1e-6)
