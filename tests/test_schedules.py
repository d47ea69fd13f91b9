"""Every schedule against its closed form in float64."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax import lax

from jaxdl.optimizers import OptimizerConfig, depends_on_total_steps, hyper_parameters, make_optimizer, schedule_shape
from jaxdl.schedules import ENDS_WITH_THE_RUN, SHAPES, learning_rate_shape, linear_ramp

TOTAL = 200


def one_cycle(x):
    if x < 0.3:
        return 1 + (1 / 25 - 1) * (1 + math.cos(math.pi * x / 0.3)) / 2
    x = min((x - 0.3) / 0.7, 1)
    return 4e-6 + (1 - 4e-6) * (1 + math.cos(math.pi * x)) / 2


def triangle(s, span):
    peak = math.floor(0.23 * span)
    return 0.2 + 0.8 * s / peak if s < peak else 1 - 0.93 * (min(s, span) - peak) / (span - peak)


# name -> (settings, value at s updates after a warm-up of w, at update t)
CLOSED = {
    "constant": ({}, lambda s, t, w: 1.0),
    "step": ({"decay_steps": 30, "decay_rate": 0.5, "floor": 0.05}, lambda s, t, w: max(0.5 ** (s // 30), 0.05)),
    "exponential": ({"decay_steps": 50, "decay_rate": 0.1, "floor": 0.01}, lambda s, t, w: max(0.1 ** (s / 50), 0.01)),
    "linear": ({"floor": 0.1}, lambda s, t, w: 1 - 0.9 * min(s / (TOTAL - w), 1)),
    "cosine": ({"floor": 0.1}, lambda s, t, w: 0.1 + 0.9 * (1 + math.cos(math.pi * min(s / (TOTAL - w), 1))) / 2),
    "one_cycle": ({}, lambda s, t, w: one_cycle(s / (TOTAL - w))),
    "triangle": ({"floor": 0.07, "peak_fraction": 0.23}, lambda s, t, w: triangle(s, TOTAL - w)),
    "inverse_sqrt": ({}, lambda s, t, w: math.sqrt(max(w, 1) / max(t + 1, w, 1))),
}


@pytest.mark.parametrize("warmup", [0, 17])
@pytest.mark.parametrize("name", SHAPES)
def test_closed_form(name, warmup):
    settings, value = CLOSED[name]
    shape = jax.jit(learning_rate_shape(name, TOTAL, warmup_steps=warmup, **settings))
    found = np.array([shape(jnp.int32(t)) for t in range(TOTAL + 20)])
    expected = [
        value(max(t - warmup, 0), t, warmup) * (min((t + 1) / warmup, 1) if warmup else 1) for t in range(TOTAL + 20)
    ]
    np.testing.assert_allclose(found, expected, atol=2e-6)
    assert found.dtype == np.float32
    assert found.max() == pytest.approx(1.0, abs=1e-3)


def test_step_with_boundaries():
    """He et al. 2016: divided by ten at 32k and 48k updates."""
    shape = learning_rate_shape("step", 64_000, boundaries=(32_000, 48_000))
    found = [float(shape(jnp.int32(t))) for t in (0, 31_999, 32_000, 47_999, 48_000, 63_999)]
    np.testing.assert_allclose(found, [1, 1, 0.1, 0.1, 0.01, 0.01], rtol=1e-5)


def test_maxout_recipe_keeps_its_digits():
    """lr 0.1 / 1.000004^t, not below 1e-6; rounding the base to float32 costs 0.1 % in 250 epochs."""
    shape = learning_rate_shape("exponential", 1, decay_rate=1 / 1.000004, floor=1e-5)
    for t in (1, 1000, 125_000, 600_000, 2_800_000):
        assert 0.1 * float(shape(jnp.int32(t))) == pytest.approx(0.1 * 1.000004**-t, rel=1e-5)
    assert 0.1 * float(shape(jnp.int32(5_000_000))) == pytest.approx(1e-6)


def test_transformer_schedule_of_vaswani():
    shape = learning_rate_shape("inverse_sqrt", 1, warmup_steps=4000)
    for t in (0, 1, 3999, 4000, 100_000):
        noam = min((t + 1) ** -0.5, (t + 1) * 4000**-1.5) / 4000**-0.5
        assert float(shape(jnp.int32(t))) == pytest.approx(noam, rel=1e-5)


def test_cosine_and_one_cycle_are_optax():
    cosine, cycle = optax.cosine_decay_schedule(1.0, TOTAL, 0.1), optax.cosine_onecycle_schedule(TOTAL, 1.0)
    for t in range(0, TOTAL + 1, 7):
        assert learning_rate_shape("cosine", TOTAL, floor=0.1)(t) == pytest.approx(float(cosine(t)), abs=1e-6)
        assert learning_rate_shape("one_cycle", TOTAL)(t) == pytest.approx(float(cycle(t)), abs=1e-6)


@pytest.mark.parametrize("name", SHAPES)
def test_only_some_schedules_depend_on_the_length_of_the_run(name):
    settings = CLOSED[name][0]
    short, long = (learning_rate_shape(name, n, **settings) for n in (100, 200))
    differs = any(float(short(t)) != float(long(t)) for t in range(0, 100, 9))
    assert differs == depends_on_total_steps(OptimizerConfig(schedule=name)) == (name in ENDS_WITH_THE_RUN)


def test_momentum_ramp():
    ramp = linear_ramp(0.5, 0.7, 250)
    np.testing.assert_allclose([ramp(t) for t in (0, 125, 250, 900)], [0.5, 0.6, 0.7, 0.7], rtol=1e-6)
    assert float(linear_ramp(0.9, 0.1, 0)(10)) == pytest.approx(0.9)


def test_a_run_shorter_than_its_warm_up_is_allowed():
    shape = learning_rate_shape("cosine", 4, warmup_steps=100)
    np.testing.assert_allclose([shape(t) for t in range(4)], [0.01, 0.02, 0.03, 0.04], rtol=1e-6)


def test_bad_arguments():
    with pytest.raises(ValueError, match="unknown"):
        learning_rate_shape("sine", 10)
    with pytest.raises(ValueError, match="total_steps"):
        learning_rate_shape("cosine", 0)


def test_the_optimiser_follows_shape_times_injected_peak():
    """With a gradient of one, sgd's k-th step is the k-th rate; the peak comes from `hyper`, not from the config."""
    config = OptimizerConfig(
        name="sgd", learning_rate=123.0, schedule="exponential", decay_steps=10, schedule_floor=0.2, warmup_steps=5
    )
    tx, shape = make_optimizer(config, 40), schedule_shape(config, 40)
    hyper = {**{k: jnp.float32(v) for k, v in hyper_parameters(config).items()}, "learning_rate": jnp.float32(0.5)}

    def step(state, _):
        updates, state = tx.update(jnp.ones(1), state, jnp.zeros(1), hyper=hyper)
        return state, -updates[0]

    rates = jax.jit(lambda: lax.scan(step, tx.init(jnp.zeros(1)), length=40)[1])()
    np.testing.assert_allclose(rates, [0.5 * float(shape(jnp.int32(t))) for t in range(40)], rtol=1e-6)
