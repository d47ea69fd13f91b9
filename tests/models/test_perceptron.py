import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxdl.models.perceptron import (
    NAND_BIAS,
    NAND_WEIGHTS,
    compile_nand,
    half_adder,
    perceptron,
    perceptron_update,
    scaled,
    sigmoid_network,
    threshold_network,
    threshold_unit,
)


def inputs(n):
    return jnp.array(list(itertools.product((0.0, 1.0), repeat=n)))


def random_layers(seed, sizes=(5, 7, 4, 2)):
    rng = np.random.default_rng(seed)
    return tuple(
        (jnp.asarray(rng.normal(size=(a, b)), jnp.float32), jnp.asarray(rng.normal(size=b), jnp.float32))
        for a, b in itertools.pairwise(sizes)
    )


def test_threshold_unit_and_its_tie():
    x = inputs(2)
    np.testing.assert_array_equal(threshold_unit(x, jnp.array([1.0, 1.0]), 1.0), [0, 0, 0, 1])
    np.testing.assert_array_equal(threshold_unit(x, jnp.array([1.0, 1.0]), 0.5), [0, 1, 1, 1])
    assert float(perceptron(jnp.zeros(2), jnp.ones(2), 0.0)) == 0.0


def test_bias_is_the_negative_threshold():
    rng = np.random.default_rng(0)
    for _ in range(50):
        # multiples of 1/8 are exact in float32, so ties are exact too
        x, w = (jnp.asarray(rng.integers(-8, 9, shape) / 8, jnp.float32) for shape in ((20, 4), (4,)))
        t = float(rng.integers(-8, 9)) / 8
        np.testing.assert_array_equal(threshold_unit(x, w, t), perceptron(x, w, -t))


def test_nand_gate():
    np.testing.assert_array_equal(perceptron(inputs(2), jnp.array(NAND_WEIGHTS), NAND_BIAS), [1, 1, 1, 0])


@pytest.mark.parametrize("n", [1, 2, 3])
def test_every_boolean_function_is_a_circuit_of_nand_gates(n):
    tables = list(itertools.product((0, 1), repeat=2**n))
    if n == 3:
        tables = tables[:: 256 // 40]
    network = compile_nand(*tables)
    expected = np.array(tables, np.float32).T
    np.testing.assert_array_equal(network(inputs(n)), expected)
    np.testing.assert_array_equal(threshold_network(network.layers(), inputs(n)), expected)
    for table in tables[:16]:
        np.testing.assert_array_equal(compile_nand(table)(inputs(n))[:, 0], table)


def test_half_adder_adds():
    x = inputs(2)
    total, carry = half_adder()(x).T
    np.testing.assert_array_equal(2 * carry + total, x.sum(-1))


@pytest.mark.parametrize("tables", [(), ((0,),), ((0, 1, 1),), ((0, 1), (0, 1, 1, 0)), ((0, 2),)])
def test_wrong_truth_tables_are_refused(tables):
    with pytest.raises(ValueError, match="truth tables"):
        compile_nand(*tables)


def test_scaling_all_weights_changes_no_perceptron_network():
    for seed in range(10):
        layers = random_layers(seed)
        for c in (1e-3, 0.1, 7.0, 1e3):
            np.testing.assert_array_equal(
                threshold_network(scaled(layers, c), inputs(5)), threshold_network(layers, inputs(5))
            )


def test_sharp_sigmoid_networks_become_perceptron_networks_except_at_zero():
    layers = random_layers(3)
    target = threshold_network(layers, inputs(5))
    distance = [
        float(jnp.abs(sigmoid_network(scaled(layers, c), inputs(5)) - target).mean()) for c in (1, 10, 1e2, 1e4)
    ]
    assert distance == sorted(distance, reverse=True) and distance[-1] < 1e-3
    tie = ((jnp.array([[1.0], [-1.0]]), jnp.zeros(1)),)
    for c in (1.0, 1e6):
        assert float(sigmoid_network(scaled(tie, c), jnp.ones(2))[0]) == 0.5


def test_small_changes_are_first_order_in_sigmoid_and_jumps_in_perceptron_networks():
    layers, x = random_layers(1), inputs(5)[11]
    direction = random_layers(9)
    moved = lambda h: jax.tree.map(lambda a, d: a + h * d, layers, direction)  # noqa: E731
    _, slope = jax.jvp(lambda t: sigmoid_network(t, x), (layers,), (direction,))
    errors = [
        float(jnp.abs(sigmoid_network(moved(h), x) - sigmoid_network(layers, x) - h * slope).max())
        for h in (0.04, 0.02)
    ]
    assert 3.0 < errors[0] / errors[1] < 5.0  # O(h²)
    sharp = [threshold_network(moved(h), x) for h in np.linspace(0, 3, 61)]
    assert set(np.unique(sharp)) <= {0.0, 1.0}


def test_rosenblatts_rule_learns_nand():
    x, t = inputs(2), jnp.array([1.0, 1.0, 1.0, 0.0])
    w, b = jnp.zeros(2), jnp.zeros(())
    for _ in range(20):
        w, b = perceptron_update(w, b, x, t)
    np.testing.assert_array_equal(perceptron(x, w, b), t)
