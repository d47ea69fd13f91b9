import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxdl.models.cnn import CNN
from jaxdl.models.lenet import LeNet5
from jaxdl.models.mlp import MLP, get_initializer
from jaxdl.models.resnet import CifarResNet, ResidualBlock

KEY = jax.random.key(0)
NOISE = {"noise": jax.random.key(1)}


def count(variables):
    return sum(p.size for p in jax.tree.leaves(variables["params"]))


def initial(model, x):
    """Compiled as one program, since an eager one compiles every operation."""
    return jax.jit(lambda key, x: model.init(key, x, train=False))(KEY, x)


def drawn(model, x):
    """Arbitrary parameters without compiling the initialisers; variances stay positive."""
    rng = np.random.default_rng(0)
    return jax.tree.map(
        lambda leaf: jnp.asarray(rng.uniform(-0.4, 0.6, leaf.shape), leaf.dtype), shapes(model, x.shape)
    )


def applied(model, variables, x, train=False, **options):
    return jax.jit(lambda v, x: model.apply(v, x, train=train, **options))(variables, x)


def shapes(model, x_shape):
    return jax.eval_shape(lambda: model.init(KEY, jnp.zeros(x_shape), train=False))


def test_mlp_equals_the_matrix_products():
    x = jax.random.normal(KEY, (4, 2, 3, 1))
    model = MLP((5, 6), num_classes=3, activation="tanh")
    variables = initial(model, x)
    h = np.asarray(x).reshape(4, -1)
    layers = variables["params"]
    for name in ("Dense_0", "Dense_1"):
        h = np.tanh(h @ layers[name]["kernel"] + layers[name]["bias"])
    expected = h @ layers["Dense_2"]["kernel"] + layers["Dense_2"]["bias"]
    np.testing.assert_allclose(model.apply(variables, x, train=False), expected, rtol=1e-4, atol=1e-5)
    np.testing.assert_array_equal(layers["Dense_0"]["bias"], 0.0)


def test_mlp_without_hidden_layers_is_softmax_regression():
    assert count(shapes(MLP(()), (1, 28, 28, 1))) == 784 * 10 + 10


def test_maxout_mlp_has_the_published_size():
    model = MLP((240, 240), activation="maxout", pieces=5, initializer="uniform", initial_scale=0.005)
    variables = initial(model, jnp.zeros((1, 784)))
    kernel = variables["params"]["Dense_0"]["kernel"]
    assert kernel.shape == (784, 1200)
    assert variables["params"]["Dense_1"]["kernel"].shape == (240, 1200)
    assert 0.00499 < float(jnp.abs(kernel).max()) <= 0.005
    assert float(kernel.std()) == pytest.approx(0.005 / np.sqrt(3), rel=0.01)


@pytest.mark.parametrize("activation", ["prelu", "noisy_relu", "maxout", "elu"])
def test_mlp_takes_every_kind_of_activation_and_dropout(activation):
    x = jax.random.normal(KEY, (8, 10))
    model = MLP((16, 16), activation=activation, dropout=(0.5, 0.2), input_dropout=0.1)
    variables = drawn(model, x)
    slope = jax.jit(jax.grad(lambda p: jnp.square(model.apply({"params": p}, x, train=True, rngs=NOISE)).sum()))(
        variables["params"]
    )
    assert all(float(jnp.abs(g).max()) > 0 for g in jax.tree.leaves(slope))
    trained = applied(model, variables, x, True, rngs=NOISE)
    assert not np.allclose(trained, applied(model, variables, x))
    np.testing.assert_array_equal(trained, applied(model, variables, x, True, rngs=NOISE))


def test_initialisers_have_their_variance():
    for name, expected in [
        ("he_normal", 2 / 400),
        ("lecun_normal", 1 / 400),
        ("glorot_uniform", 2 / 700),
        ("normal", 0.01),
        ("uniform", 0.01 / 3),
        ("fan_in_normal", 1 / 400),
    ]:
        weights = get_initializer(name, 0.1)(KEY, (400, 300), jnp.float32)
        assert float(weights.var()) == pytest.approx(expected, rel=0.05)
    with pytest.raises(ValueError, match="unknown initialiser"):
        get_initializer("orthogonal")


def test_biases_start_at_zero_or_as_wide_as_asked():
    for wide in (0.0, 2.0):
        params = MLP((4000,), initial_bias=wide).init(KEY, jnp.zeros((1, 3)))["params"]
        assert float(params["Dense_0"]["bias"].std()) == pytest.approx(wide, rel=0.05)
    tails = get_initializer("fan_in_normal")(KEY, (400, 300), jnp.float32) * 20  # lecun_normal ends at 2.27
    assert float(jnp.abs(tails).max()) > 3.5


def test_lenet_has_the_published_maps_and_parameters():
    variables = shapes(LeNet5(), (1, 32, 32, 1))
    assert count(variables) == 156 + 2416 + 48120 + 10164 + 850
    assert count(shapes(LeNet5(), (1, 28, 28, 1))) == count(variables)


@pytest.mark.parametrize("activation", ["relu", "abs"])
@pytest.mark.parametrize("size", [8, 28])
def test_lenet_equals_its_layers_one_by_one(activation, size):
    x = jax.random.normal(KEY, (3, size, size, 1))
    model = LeNet5(activation=activation)
    variables = drawn(model, x)
    y = applied(model, variables, x)
    layers = variables["params"]
    g = {"relu": lambda z: np.maximum(z, 0), "abs": np.abs}[activation]
    z = x
    for name, padding in (("Conv_0", "SAME"), ("Conv_1", "VALID" if size == 28 else "SAME")):
        layer = layers[name]
        z = jax.lax.conv_general_dilated(
            z, layer["kernel"], (1, 1), padding, dimension_numbers=("NHWC", "HWIO", "NHWC")
        )
        z = g(np.asarray(z + layer["bias"]))
        z = z.reshape(3, z.shape[1] // 2, 2, z.shape[2] // 2, 2, -1).max((2, 4))
    z = z.reshape(3, -1)
    for name in ("Dense_0", "Dense_1"):
        z = g(np.asarray(z @ layers[name]["kernel"] + layers[name]["bias"]))
    np.testing.assert_allclose(y, z @ layers["Dense_2"]["kernel"] + layers["Dense_2"]["bias"], rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize(("depth", "millions"), [(20, 0.27), (32, 0.46), (44, 0.66), (56, 0.85), (110, 1.7)])
def test_residual_networks_have_the_published_parameters(depth, millions):
    assert count(shapes(CifarResNet(depth), (1, 32, 32, 3))) / 1e6 == pytest.approx(millions, rel=0.02)


def test_residual_network_20_has_exactly_the_parameters_of_the_arithmetic():
    convolutions = 9 * 3 * 16 + 9 * (6 * 16 * 16 + 16 * 32 + 5 * 32 * 32 + 32 * 64 + 5 * 64 * 64)
    norms = 2 * (7 * 16 + 6 * 32 + 6 * 64)
    assert count(shapes(CifarResNet(20), (1, 32, 32, 3))) == convolutions + norms + 64 * 10 + 10


@pytest.mark.parametrize("preactivation", [False, True])
@pytest.mark.parametrize("train", [False, True])
def test_a_zero_initialised_block_is_the_identity(preactivation, train):
    x = jnp.abs(jax.random.normal(KEY, (2, 6, 6, 4)))  # after a ReLU
    block = ResidualBlock(4, preactivation=preactivation, zero_init=True)
    variables = initial(block, x)
    y, _ = applied(block, variables, x, train, mutable=["batch_stats"])
    np.testing.assert_allclose(y, x, atol=1e-6)


def test_shortcut_across_a_change_of_shape():
    x = jnp.abs(jax.random.normal(KEY, (2, 6, 6, 4)))
    block = ResidualBlock(6, stride=2, zero_init=True)
    y = applied(block, initial(block, x), x)
    np.testing.assert_allclose(y[..., :4], x[:, ::2, ::2], atol=1e-6)
    np.testing.assert_allclose(y[..., 4:], 0.0, atol=1e-6)
    projected = shapes(ResidualBlock(6, stride=2, projection=True), x.shape)
    assert projected["params"]["projection"]["kernel"].shape == (1, 1, 4, 6)


def test_residual_network_equals_pytorch():
    torch = pytest.importorskip("torch", reason="PyTorch is the independent reference for the residual network")
    functional = torch.nn.functional
    model = CifarResNet(depth=8, num_classes=5, width=4)
    x = jax.random.normal(KEY, (2, 8, 8, 3))
    variables = drawn(model, x)
    tensor = lambda a: torch.tensor(np.asarray(a))  # noqa: E731

    def layer(z, params, index, stride, spot):
        kernel = tensor(params[f"Conv_{index}"]["kernel"]).permute(3, 2, 0, 1)
        norm = params[f"BatchNorm_{index}"]
        z = functional.conv2d(z, kernel, stride=stride, padding=1)
        return functional.batch_norm(z, None, None, tensor(norm["scale"]), tensor(norm["bias"]), training=True)

    params = variables["params"]
    z = layer(tensor(x).permute(0, 3, 1, 2), params, 0, 1, "stem").relu()
    for block, stride in enumerate((1, 2, 2)):
        inner = params[f"ResidualBlock_{block}"]
        y = layer(layer(z, inner, 0, stride, block).relu(), inner, 1, 1, block)
        if stride == 2:
            z = functional.pad(z[:, :, ::2, ::2], (0, 0, 0, 0, 0, z.shape[1]))
        z = (z + y).relu()
    expected = z.mean((2, 3)) @ tensor(params["Dense_0"]["kernel"]) + tensor(params["Dense_0"]["bias"])
    ours, _ = applied(model, variables, x, True, mutable=["batch_stats"])
    np.testing.assert_allclose(ours, expected.numpy(), rtol=1e-3, atol=1e-4)


def test_cnn_gradients_reach_every_parameter():
    x = jax.random.normal(KEY, (4, 12, 12, 1))
    model = CNN(features=(4, 6), hidden=8)
    variables = drawn(model, x)

    def loss(params):
        y, _ = model.apply({**variables, "params": params}, x, train=True, rngs=NOISE, mutable=["batch_stats"])
        return jnp.square(y).sum() + y[:, 0].sum()

    slope = jax.jit(jax.grad(loss))(variables["params"])
    assert all(np.isfinite(g).all() and float(jnp.abs(g).max()) > 0 for g in jax.tree.leaves(slope))


@pytest.mark.parametrize(
    ("model", "shape", "message"),
    [
        (CifarResNet(21), (1, 8, 8, 3), "6n"),
        (MLP((4, 4), dropout=(0.1,)), (1, 8), "one rate or 2"),
        (LeNet5(features=(6, 16)), (1, 8, 8, 1), "4 features"),
        (LeNet5(pooling="sum"), (1, 8, 8, 1), "max or average"),
        (LeNet5(), (1, 3, 3, 1), "4×4"),
        (ResidualBlock(2), (1, 8, 8, 3), "without projection"),
    ],
)
def test_wrong_configurations_get_one_clear_line(model, shape, message):
    with pytest.raises(ValueError, match=message):
        shapes(model, shape)
