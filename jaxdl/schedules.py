"""Learning-rate schedules as shapes: dimensionless functions of the update count with peak 1.

The rate of update t is `hyper["learning_rate"] * shape(t)`, so that one compiled program serves every rate of a sweep.

With W = warmup_steps, s = t - W, S = max(total_steps - W, 1) and f = floor: for t < W every schedule climbs linearly,
(t + 1) / W times its value at s = 0, so that no update is wasted on a zero rate. After that:

    constant      1
    step          max(decay_rate^n, f), n = number of boundaries <= t, without boundaries floor(s / decay_steps)
    exponential   max(decay_rate^(s / decay_steps), f)
    linear        1 - (1 - f) min(s / S, 1)
    cosine        f + (1 - f) (1 + cos(pi min(s / S, 1))) / 2              (Loshchilov & Hutter 2017, one cycle)
    one_cycle     half cosines 1/25 -> 1 over the first peak_fraction of S, then 1 -> 4e-6      (Smith & Topin 2018)
    triangle      straight lines 1/5 -> 1 over floor(peak_fraction S) updates, then 1 -> f at S  (Jordan 2024, airbench94)
    inverse_sqrt  sqrt(V / max(t + 1, V)), V = max(W, 1): with the warm-up eq. 3 of Vaswani et al. 2017
"""

import math
from collections.abc import Callable

import jax
import jax.numpy as jnp

Shape = Callable[[jax.Array], jax.Array]

SHAPES = ("constant", "step", "exponential", "linear", "cosine", "one_cycle", "triangle", "inverse_sqrt")
ENDS_WITH_THE_RUN = ("linear", "cosine", "one_cycle", "triangle")

# Smith & Topin 2018 as fastai and PyTorch set it: start at peak / 25, end at peak / 25 / 10^4.
ONE_CYCLE_START = 1 / 25
ONE_CYCLE_END = ONE_CYCLE_START / 1e4
TRIANGLE_START = 1 / 5


def learning_rate_shape(
    name: str,
    total_steps: int,
    *,
    warmup_steps: int = 0,
    boundaries: tuple[int, ...] = (),
    decay_steps: int = 1,
    decay_rate: float = 0.1,
    floor: float = 0.0,
    peak_fraction: float = 0.3,
) -> Shape:
    """The shape of a schedule; its equation stands at the top of this file.

    Args:
      name: one of `SHAPES`.
      total_steps: updates in the run; used by linear, cosine, one_cycle and triangle only.
      warmup_steps: updates of warm-up.
      boundaries: update counts t, increasing, at which `step` multiplies by `decay_rate`.
      decay_steps: updates over which step and exponential multiply by `decay_rate` once.
      decay_rate: factor in (0, 1].
      floor: lowest value after warm-up, in [0, 1], a fraction of the peak.
      peak_fraction: where one_cycle and triangle have their peak, in (0, 1).

    Returns:
      A function from the update count (int32 scalar, may be a tracer) to a float32 scalar in [0, 1].

    Raises:
      ValueError: `name` is unknown or `total_steps` is not positive.
    """
    if name not in SHAPES:
        raise ValueError(f"schedule {name!r} is unknown; choose one of {', '.join(SHAPES)}")
    if total_steps < 1:
        raise ValueError(f"total_steps must be at least 1, got {total_steps}")
    span = float(max(total_steps - warmup_steps, 1))
    log_rate = math.log(decay_rate)  # in double precision: 1 - 4e-6 in float32 keeps only three digits of its 4e-6

    def decayed(s: jax.Array, t: jax.Array) -> jax.Array:
        if name == "step":
            drops = jnp.sum(t >= jnp.asarray(boundaries)) if boundaries else s // decay_steps
            return jnp.maximum(jnp.exp(drops * log_rate), floor)
        if name == "exponential":
            return jnp.maximum(jnp.exp(s * (log_rate / decay_steps)), floor)
        if name == "linear":
            return 1 - (1 - floor) * jnp.minimum(s / span, 1)
        if name == "cosine":
            return floor + (1 - floor) * _half_cosine(s / span, 1.0, 0.0)
        if name == "one_cycle":
            return _one_cycle(s, span, peak_fraction)
        if name == "triangle":
            return _triangle(s, span, max(math.floor(peak_fraction * span), 1), floor)
        if name == "inverse_sqrt":
            return jnp.sqrt(max(warmup_steps, 1) / jnp.maximum(t + 1, max(warmup_steps, 1)))
        return jnp.ones_like(s)

    def shape(count: jax.Array) -> jax.Array:
        t = jnp.asarray(count, jnp.float32)
        value = decayed(jnp.maximum(t - warmup_steps, 0), t)
        return value * jnp.minimum((t + 1) / warmup_steps, 1) if warmup_steps else value

    return shape


def linear_ramp(start: float, end: float, steps: int) -> Shape:
    """start + (end - start) min(t / steps, 1), constant where steps = 0: the momentum schedule of maxout networks."""

    def ramp(count: jax.Array) -> jax.Array:
        if steps == 0:
            return jnp.full((), start, jnp.float32)
        return start + (end - start) * jnp.minimum(jnp.asarray(count, jnp.float32) / steps, 1)

    return ramp


def _one_cycle(s: jax.Array, span: float, peak_fraction: float) -> jax.Array:
    """From ONE_CYCLE_START at s = 0 to 1 at `peak_fraction` of `span`, and to ONE_CYCLE_END at its end."""
    up = _half_cosine(s / (peak_fraction * span), ONE_CYCLE_START, 1.0)
    down = _half_cosine((s / span - peak_fraction) / (1 - peak_fraction), 1.0, ONE_CYCLE_END)
    return jnp.where(s < peak_fraction * span, up, down)


def _triangle(s: jax.Array, span: float, peak: int, floor: float) -> jax.Array:
    """From TRIANGLE_START at s = 0 to 1 at s = `peak`, and to `floor` at s >= `span`."""
    up = TRIANGLE_START + (1 - TRIANGLE_START) * s / peak
    down = 1 - (1 - floor) * jnp.minimum((s - peak) / max(span - peak, 1), 1)
    return jnp.where(s < peak, up, down)


def _half_cosine(x: jax.Array, start: float, end: float) -> jax.Array:
    """From `start` at x <= 0 to `end` at x >= 1."""
    return end + (start - end) * (1 + jnp.cos(jnp.pi * jnp.clip(x, 0, 1))) / 2
