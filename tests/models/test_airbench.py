"""airbench's network: whitening, partial identity, its layers and its views against PyTorch."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxdl.models.airbench import Airbench, partial_identity, whitening_kernel
from jaxdl.nn.convolution import convolution

KEY = jax.random.key(0)


def test_it_has_the_published_size():
    shapes = jax.eval_shape(lambda: Airbench().init(KEY, jnp.zeros((1, 32, 32, 3)), train=False))
    convolutions = 9 * (24 * 64 + 64 * 64 + 64 * 256 + 3 * 256 * 256)
    assert sum(leaf.size for leaf in jax.tree.leaves(shapes["params"])) == convolutions + 24 + 2 * 576 + 2560
    assert shapes["batch_stats"]["whitening"].shape == (2, 2, 3, 24)


def test_whitened_patches_are_uncorrelated():
    rng = np.random.default_rng(0)
    images = rng.normal(size=(50, 9, 9, 2)) @ np.array([[2.0, 0.5], [0.0, 1.0]])
    images[:, 1:] += images[:, :-1]
    kernel = whitening_kernel(images, epsilon=0.0)
    responses = np.asarray(convolution(jnp.asarray(images, jnp.float32), jnp.asarray(kernel), padding="VALID"))
    flat = responses[..., :8].reshape(-1, 8)
    np.testing.assert_allclose(flat.T @ flat / len(flat), np.eye(8), atol=2e-3)
    np.testing.assert_allclose(responses[..., 8:], -responses[..., :8], atol=1e-5)


@pytest.mark.parametrize(("inputs", "outputs"), [(3, 5), (5, 3)])
def test_the_first_outputs_are_the_inputs(inputs, outputs):
    x = jax.random.normal(KEY, (2, 4, 4, inputs))
    y = convolution(x, partial_identity(KEY, (3, 3, inputs, outputs)))
    count = min(inputs, outputs)
    np.testing.assert_allclose(y[..., :count], x[..., :count], atol=1e-6)
    if outputs > inputs:
        assert float(jnp.abs(y[..., count:]).max()) > 0.1


@pytest.mark.parametrize("train", [True, False])
def test_it_equals_pytorch(train, one_thread):
    torch = one_thread
    functional = torch.nn.functional
    model, x = Airbench(5, (6, 4, 4)), jax.random.normal(KEY, (3, 32, 32, 3))
    rng = np.random.default_rng(1)
    shapes = jax.eval_shape(lambda: model.init(KEY, x, train=False))
    drawn = jax.tree.map(lambda leaf: jnp.asarray(rng.uniform(-0.4, 0.6, leaf.shape), leaf.dtype), shapes)
    stats = jax.tree_util.tree_map_with_path(lambda p, v: jnp.abs(v) + (p[-1].key == "var"), drawn["batch_stats"])
    variables = {"params": drawn["params"], "batch_stats": stats}
    params = drawn["params"]
    tensor = lambda a: torch.tensor(np.asarray(a))  # noqa: E731
    kernel = lambda a: tensor(a).permute(3, 2, 0, 1)  # noqa: E731

    def norm(z, index):
        running = stats[f"_Norm_{index}"]["BatchNorm_0"]
        moments = (None, None) if train else (tensor(running["mean"]), tensor(running["var"]))
        z = functional.batch_norm(z, *moments, training=train, eps=1e-12)
        return functional.gelu(z + 8 * tensor(params[f"_Norm_{index}"]["offset"][0])[:, None, None])

    def logits(z):
        z = functional.gelu(functional.conv2d(z, kernel(stats["whitening"]), tensor(params["whitening_offset"][0])))
        for group in range(3):
            z = functional.conv2d(z, kernel(params[f"Conv_{2 * group}"]["kernel"]), padding=1)
            z = norm(functional.max_pool2d(z, 2), 2 * group)
            z = norm(functional.conv2d(z, kernel(params[f"Conv_{2 * group + 1}"]["kernel"]), padding=1), 2 * group + 1)
        return functional.max_pool2d(z, 3).flatten(1) @ tensor(params["Dense_0"]["kernel"]) / 9

    def mirrored(z):  # as the original calls it
        return 0.5 * logits(z) + 0.5 * logits(z.flip(-1))

    z = tensor(x).permute(0, 3, 1, 2)
    if train:
        expected = logits(z)
    else:
        padded = functional.pad(z, (1, 1, 1, 1), "reflect")
        moved = [mirrored(part) for part in (padded[:, :, 0:32, 0:32], padded[:, :, 2:34, 2:34])]
        expected = 0.5 * mirrored(z) + 0.5 * sum(moved) / 2
    ours = jax.jit(lambda v, x: model.apply(v, x, train=train, mutable=["batch_stats"])[0])(variables, x)
    scale = float(expected.abs().max())
    np.testing.assert_allclose(ours, expected.numpy(), rtol=1e-3, atol=1e-3 * scale)


def test_unknown_views_get_one_clear_line():
    with pytest.raises(ValueError, match="views must be one of one, mirrored, translated"):
        jax.eval_shape(lambda: Airbench(views="all").init(KEY, jnp.zeros((1, 32, 32, 3)), train=False))
