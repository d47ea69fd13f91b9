import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.stats import chisquare

from jaxdl.data.permutation import domain, permuted_index

# perfect squares, primes, the worst excesses (534, 9526, 70534), real sizes of data sets
SIZES = [*range(1, 40), 64, 97, 100, 534, 1077, 1797, 9526, 45000, 54000, 60000, 70534, 99991, 100_000]


@pytest.mark.parametrize("n", SIZES)
def test_each_epoch_visits_every_example_once(n):
    key = jax.random.key(n)
    order = permuted_index(key, np.arange(3 * n), n)
    for epoch in range(3):
        np.testing.assert_array_equal(np.sort(order[epoch * n : (epoch + 1) * n]), np.arange(n))


def test_program_and_host_give_the_same_bits():
    for n in (1, 2, 5, 1077, 9526):
        key, position = jax.random.key(7), np.arange(2 * n + 50)
        program = jax.jit(permuted_index, static_argnums=2)(key, jnp.asarray(position), n)
        np.testing.assert_array_equal(program, permuted_index(key, position, n))


def test_a_single_position_is_looked_up():
    order = permuted_index(jax.random.key(2), np.arange(30), 10)
    assert [int(permuted_index(jax.random.key(2), i, 10)) for i in (0, 9, 25)] == order[[0, 9, 25]].tolist()


def test_epochs_and_seeds_differ():
    n = 1000
    orders = [permuted_index(jax.random.key(s), np.arange(2 * n), n) for s in range(3)]
    halves = [half for order in orders for half in (order[:n], order[n:])]
    for i, a in enumerate(halves):
        for b in halves[:i]:
            # two independent permutations agree in one place on average
            assert (a == b).sum() < 10


@pytest.mark.parametrize("n", [3, 5, 7, 16, 22, 60])
def test_every_example_is_equally_likely_at_every_position(n):
    epochs = 3000
    order = permuted_index(jax.random.key(1), np.arange(epochs * n), n).reshape(epochs, n)
    p_values = [chisquare(np.bincount(order[:, j], minlength=n)).pvalue for j in range(n)]
    assert min(p_values) > 1e-4
    pairs = np.bincount(order[:, 0] * n + order[:, 1], minlength=n * n).reshape(n, n)
    if epochs > 5 * n * n:
        assert chisquare(pairs[~np.eye(n, dtype=bool)]).pvalue > 1e-4


def test_neighbours_of_a_large_set_are_independent():
    n = 60_000
    order = permuted_index(jax.random.key(3), np.arange(n), n).astype(np.int64)
    assert abs(np.corrcoef(order[:-1], order[1:])[0, 1]) < 0.02
    steps = np.diff(order) % n
    assert chisquare(np.bincount(steps // 600, minlength=100)).pvalue > 1e-4


def test_the_domain_is_small_enough_for_a_fixed_number_of_walks():
    excess = [domain(n)[0] * domain(n)[1] - n for n in [*range(1, 2000), *range(2000, 100_001, 97), *SIZES]]
    assert min(excess) >= 0 and max(excess) <= 16
    assert all(min(domain(n)) >= 2 for n in range(3, 1000))


def test_positions_beyond_int32_stay_in_range():
    order = permuted_index(jax.random.key(0), np.arange(2**32 - 500, 2**32, dtype=np.uint64), 123)
    assert order.min() >= 0 and order.max() < 123


def test_no_examples_is_an_error():
    with pytest.raises(ValueError, match="at least one example"):
        permuted_index(jax.random.key(0), np.arange(3), 0)
