import jax
import jax.numpy as jnp
import pytest

from jaxdl.models.lenet import LeNet5
from jaxdl.models.mlp import MLP
from jaxdl.models.resnet import CifarResNet
from jaxdl.nn.summary import layer_table


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
