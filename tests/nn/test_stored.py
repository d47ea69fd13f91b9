import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxdl.nn.stored import stored


def chain(x, keep):
    kept = (lambda f, *a: stored(f, *a)) if keep else (lambda f, *a: f(*a))
    for _ in range(3):
        x = kept(lambda a, b: jax.nn.relu(a + b), x, jnp.sin(x))
    return x


def test_value_and_gradients_of_both_orders_are_those_of_the_function():
    x = jnp.asarray(np.random.default_rng(0).normal(size=(3, 5)), jnp.float32)
    np.testing.assert_allclose(chain(x, True), chain(x, False), rtol=1e-6)
    slope = lambda keep: jax.grad(lambda x: jnp.cos(chain(x, keep)).sum())  # noqa: E731
    np.testing.assert_allclose(jax.jit(slope(True))(x), slope(False)(x), rtol=1e-5, atol=1e-6)
    second = lambda keep: jax.grad(lambda x: jnp.square(slope(keep)(x)).sum())(x)  # noqa: E731
    np.testing.assert_allclose(second(True), second(False), rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(jax.vmap(lambda x: chain(x, True))(x), chain(x, False), rtol=1e-6)


def test_not_a_number_stays_where_it_is_and_infinity_too():
    x = jnp.array([jnp.nan, 1.0, jnp.inf, -jnp.inf])
    np.testing.assert_array_equal(stored(jnp.add, x, x), x + x)
    np.testing.assert_array_equal(stored(jnp.add, x[2:], x[2:]), x[2:] * 2)
    assert stored(jnp.add, x[:0], x[:0]).shape == (0,)


@pytest.mark.skipif(jax.default_backend() != "cpu", reason="other backends take the plain way")
def test_compiled_program_keeps_the_condition():
    x = jnp.ones((4, 4))
    assert "conditional" in jax.jit(lambda x: chain(x, True)).lower(x).compile().as_text()
