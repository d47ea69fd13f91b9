import jax
import jax.numpy as jnp
import pytest
from flax import linen as nn

from jaxdl.models.lenet import LeNet5
from jaxdl.models.mlp import MLP
from jaxdl.models.resnet import CifarResNet
from jaxdl.nn.attention import MultiHeadAttention
from jaxdl.nn.summary import layer_table
from jaxdl.nn.transposed import DoublingConv


def test_rows_of_lenet_are_those_of_the_arithmetic():
    rows = {row.path: row for row in layer_table(LeNet5(), (2, 32, 32, 1))}
    first, second = rows["Conv_0"], rows["Conv_1"]
    assert (first.kind, first.output_shape, first.parameters) == ("ConvMaxPool", (2, 14, 14, 6), 5 * 5 * 6 + 6)
    assert first.flops == 2 * 25 * 6 * 28 * 28 + 6 * 28 * 28
    assert (second.output_shape, second.parameters) == ((2, 5, 5, 16), 5 * 5 * 6 * 16 + 16)
    assert rows["Dense_0"].parameters == 400 * 120 + 120
    assert rows["Dense_0"].flops == 2 * 400 * 120 + 120


@pytest.mark.parametrize(
    ("model", "shape"),
    [
        (CifarResNet(depth=8, projection=True), (1, 8, 8, 3)),
        (MLP((16,), activation="prelu", batch_norm=True), (3, 4, 4, 1)),
    ],
)
def test_parameters_add_up_to_those_of_the_model(model, shape):
    params = jax.eval_shape(lambda: model.init(jax.random.key(0), jnp.ones(shape), train=False))["params"]
    assert sum(r.parameters for r in layer_table(model, shape)) == sum(p.size for p in jax.tree.leaves(params))


def test_projections_made_together_count_as_one_product():
    class Model(nn.Module):
        @nn.compact
        def __call__(self, x, train=False):
            return MultiHeadAttention(16, 4, name="attention")(x)[0]

    rows = {row.path: row for row in layer_table(Model(), (2, 5, 16))}
    assert rows["attention/query_key_value"].parameters == 3 * (16 * 16 + 16)
    assert rows["attention/query_key_value"].flops == 5 * 3 * (2 * 16 * 16 + 16)
    assert rows["attention/output"].flops == 5 * (2 * 16 * 16 + 16)


def test_a_doubling_convolution_has_four_taps_at_each_output():
    """Of 16 taps those that meet zeros put between the inputs' values are no work: the cost of four 2x2 convolutions."""

    class Model(nn.Module):
        @nn.compact
        def __call__(self, x, train=False):
            return DoublingConv(8)(x)

    (row,) = layer_table(Model(), (2, 5, 5, 3))
    assert row.output_shape == (2, 10, 10, 8)
    assert row.flops == (2 * 4 * 3 * 8 + 8) * 100
