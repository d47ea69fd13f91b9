import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxdl.nn.context import batch_context
from jaxdl.nn.normalization import BatchNorm

RNG = np.random.default_rng(0)


def run(x, train=True, variables=None, module=None, **context):
    module = BatchNorm() if module is None else module
    x = jnp.asarray(x)
    variables = module.init(jax.random.key(0), x, train=False) if variables is None else variables
    with batch_context(**context):
        return module.apply(variables, x, train=train, mutable=["batch_stats"])


def test_equals_pytorch_forward_backward_and_in_evaluation():
    torch = pytest.importorskip("torch", reason="PyTorch is the independent reference for batch norm")
    x = RNG.normal(2, 3, (6, 4, 5, 3)).astype(np.float32)
    g = RNG.normal(size=x.shape).astype(np.float32)
    theirs = torch.nn.BatchNorm2d(3, momentum=0.1)
    tx = torch.tensor(np.moveaxis(x, -1, 1).copy(), requires_grad=True)
    ty = theirs(tx)
    ty.backward(torch.tensor(np.moveaxis(g, -1, 1).copy()))
    variables = BatchNorm().init(jax.random.key(0), x, train=False)

    def loss(x, params):
        y, stats = run(x, variables={**variables, "params": params})
        return (y * g).sum(), (y, stats)

    (dx, dp), (y, stats) = jax.grad(loss, (0, 1), has_aux=True)(jnp.asarray(x), variables["params"])
    np.testing.assert_allclose(y, np.moveaxis(ty.detach().numpy(), 1, -1), rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(dx, np.moveaxis(tx.grad.numpy(), 1, -1), rtol=1e-3, atol=1e-5)
    np.testing.assert_allclose(dp["scale"], theirs.weight.grad.numpy(), rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(dp["bias"], theirs.bias.grad.numpy(), rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(stats["batch_stats"]["mean"], theirs.running_mean.numpy(), rtol=1e-5)
    # PyTorch keeps the unbiased variance, n / (n - 1) times ours
    n = x.size // 3
    unbiased = 0.9 + (np.asarray(stats["batch_stats"]["var"]) - 0.9) * n / (n - 1)
    np.testing.assert_allclose(unbiased, theirs.running_var.numpy(), rtol=1e-5)
    theirs.running_var.copy_(torch.tensor(np.asarray(stats["batch_stats"]["var"])))
    evaluated, _ = run(x, train=False, variables={**variables, **stats})
    expected = np.moveaxis(theirs.eval()(tx).detach().numpy(), 1, -1)
    np.testing.assert_allclose(evaluated, expected, rtol=1e-4, atol=1e-5)


def test_masked_rows_do_not_count_even_if_not_a_number():
    x = RNG.normal(1, 2, (5, 4, 3)).astype(np.float32)
    padded = np.concatenate([x, np.full((2, 4, 3), np.nan, np.float32)])
    mask = jnp.array([1.0] * 5 + [0.0] * 2)
    expected, stats = run(x)
    y, masked = run(padded, mask=mask)
    np.testing.assert_allclose(y[:5], expected, rtol=1e-5, atol=1e-6)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6), masked, stats)
    moment = x.reshape(-1, 3)
    np.testing.assert_allclose(masked["batch_stats"]["mean"], 0.1 * moment.mean(0), rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(masked["batch_stats"]["var"], 0.9 + 0.1 * moment.var(0), rtol=1e-4)


def test_moments_and_gradients_are_those_of_the_whole_batch_under_an_axis():
    x = jnp.asarray(RNG.normal(1, 2, (8, 3)).astype(np.float32))
    mask = jnp.array([1.0] * 5 + [0.0] * 3)  # unequal counts on the two shards
    variables = BatchNorm().init(jax.random.key(0), x, train=False)

    def loss(x, mask, axis):
        y, stats = run(x, variables=variables, mask=mask, axis=axis)
        return (jnp.tanh(y) * mask[:, None]).sum(), (y, stats)

    whole, (y, stats) = jax.grad(lambda x: loss(x, mask, None), has_aux=True)(x)
    shards = jax.vmap(jax.grad(lambda x, m: loss(x, m, "data"), has_aux=True), axis_name="data")(
        x.reshape(2, 4, 3), mask.reshape(2, 4)
    )
    np.testing.assert_allclose(shards[1][0].reshape(8, 3), y, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(shards[0].reshape(8, 3), whole, rtol=1e-4, atol=1e-6)
    for shard in (0, 1):
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a[shard], b, rtol=1e-5), shards[1][1], stats)  # noqa: B023


def test_large_mean_loses_nothing_once_the_running_mean_is_near():
    x = (1000 + RNG.normal(0, 0.1, (256, 2))).astype(np.float32)
    variables = {
        "params": {"scale": jnp.ones(2), "bias": jnp.zeros(2)},
        "batch_stats": {"mean": jnp.full(2, 999.5), "var": jnp.ones(2)},
    }
    exact = x.astype(np.float64)
    expected = (exact - exact.mean(0)) / np.sqrt(exact.var(0) + 1e-5)
    y, _ = run(x, variables=variables)
    np.testing.assert_allclose(y, expected, atol=5e-3)


def test_statistics_change_only_in_training_and_with_the_given_momentum():
    x = RNG.normal(3, 1, (16, 2)).astype(np.float32)
    module = BatchNorm(momentum=0.5)
    variables = module.init(jax.random.key(0), x, train=True)
    np.testing.assert_array_equal(variables["batch_stats"]["mean"], 0.0)
    _, after = run(x, variables=variables, module=module)
    np.testing.assert_allclose(after["batch_stats"]["mean"], 0.5 * x.mean(0), rtol=1e-5)
    _, unchanged = run(x, train=False, variables=variables, module=module)
    jax.tree.map(np.testing.assert_array_equal, unchanged["batch_stats"], variables["batch_stats"])
