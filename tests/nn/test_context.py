import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

from jaxdl.nn.activations import NoisyReLU
from jaxdl.nn.context import batch_context, current_batch
from jaxdl.nn.dropout import Dropout
from jaxdl.nn.normalization import BatchNorm

KEY = jax.random.key(3)


def drop(x, rate=0.3, **context):
    with batch_context(**context):
        return Dropout(rate).apply({}, x, train=True, rngs={"noise": KEY})


def test_dropout_scales_what_it_keeps_and_is_the_identity_otherwise():
    x = jnp.ones((64, 500))
    y = np.asarray(drop(x))
    kept = y != 0
    assert abs(kept.mean() - 0.7) < 4 * np.sqrt(0.21 / x.size)
    np.testing.assert_allclose(y[kept], 1 / 0.7, rtol=1e-4)
    np.testing.assert_array_equal(Dropout(0.3).apply({}, x, train=False), x)


def test_dropout_without_rescaling_keeps_values_as_they_are():
    x = jax.random.normal(KEY, (8, 500)) + 10.0
    y = np.asarray(Dropout(0.3, rescale=False).apply({}, x, train=True, rngs={"noise": KEY}))
    kept = y != 0.0
    np.testing.assert_array_equal(y[kept], np.asarray(x)[kept])
    assert abs(kept.mean() - 0.7) < 0.03


def test_dropout_differs_between_examples_values_and_layers():
    y = np.asarray(drop(jnp.ones((4, 2000)))) != 0
    for i in range(4):
        for j in range(i):
            assert abs((y[i] == y[j]).mean() - 0.58) < 0.06  # 0.7² + 0.3² for independent draws

    class Two(nn.Module):
        @nn.compact
        def __call__(self, x):
            return Dropout(0.3)(x, True), Dropout(0.3)(x, True)

    a, b = Two().apply({}, jnp.ones((4, 2000)), rngs={"noise": KEY})
    assert abs(((a != 0) == (b != 0)).mean() - 0.58) < 0.06


def test_noise_belongs_to_the_row_of_the_global_batch():
    x = jax.random.normal(jax.random.key(1), (6, 40))
    whole = drop(x)
    rows = jnp.array([1, 4, 5])
    np.testing.assert_array_equal(drop(x[rows], rows=rows), whole[rows])
    noisy = NoisyReLU().apply({}, x, train=True, rngs={"noise": KEY})
    with batch_context(rows=rows):
        part = NoisyReLU().apply({}, x[rows], train=True, rngs={"noise": KEY})
    np.testing.assert_array_equal(part, noisy[rows])


def test_dropout_shares_draws_along_broadcast_axes():
    y = Dropout(0.5, broadcast=(1, 2)).apply({}, jnp.ones((3, 4, 4, 50)), train=True, rngs={"noise": KEY})
    np.testing.assert_array_equal(y, jnp.broadcast_to(y[:, :1, :1], y.shape))
    assert 0.2 < float((y == 0).mean()) < 0.8


def test_dropout_takes_a_traced_rate_and_refuses_a_wrong_one():
    x = jnp.ones((8, 100))
    traced = jax.jit(lambda rate: Dropout(0.0).apply({}, x, train=True, rate=rate, rngs={"noise": KEY}))
    np.testing.assert_array_equal(traced(0.3), drop(x))
    np.testing.assert_array_equal(traced(0.0), x)
    with pytest.raises(ValueError, match=r"\[0, 1\)"):
        drop(x, rate=1.0)


def test_wrong_number_of_rows_is_refused():
    with pytest.raises(ValueError, match="numbers"):
        drop(jnp.ones((4, 2)), rows=jnp.arange(3))


class Small(nn.Module):
    dtype: object = None

    @nn.compact
    def __call__(self, x, train):
        x = nn.Dense(4, dtype=self.dtype)(x)
        self.sow("seen", "dense", x)
        return BatchNorm()(x, train), nn.Dense(3, dtype=jnp.float16)(x)


def test_dtype_reaches_modules_that_do_not_fix_theirs_and_ends_in_float32():
    x = jnp.ones((5, 3))
    variables = Small().init(KEY, x, train=False)
    del variables["seen"]
    assert all(p.dtype == jnp.float32 for p in jax.tree.leaves(variables))
    with batch_context(dtype=jnp.bfloat16):
        (a, b), changed = Small().apply(variables, x, train=True, mutable=["seen", "batch_stats"])
        # a second pass, to see that the first left nothing behind
        Small().apply(variables, x, train=False)
    assert changed["seen"]["dense"][0].dtype == jnp.bfloat16
    assert a.dtype == b.dtype == jnp.float32
    assert all(s.dtype == jnp.float32 for s in jax.tree.leaves(changed["batch_stats"]))
    (a, b), changed = Small().apply(variables, x, train=False, mutable=["seen"])
    assert changed["seen"]["dense"][0].dtype == jnp.float32 and b.dtype == jnp.float16


def test_context_ends_with_its_block_even_after_an_error():
    with pytest.raises(RuntimeError), batch_context(rows=jnp.arange(2), dtype=jnp.bfloat16):
        raise RuntimeError
    assert current_batch().rows is None and current_batch().dtype is None
    assert nn.Dense(2).init_with_output(KEY, jnp.ones((1, 2)))[0].dtype == jnp.float32
