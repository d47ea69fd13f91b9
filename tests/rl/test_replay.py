"""The replay memory against a Python list, and the windows drawn from it."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxdl.rl.cartpole import CartPole
from jaxdl.rl.environment import TimeStep, for_training, row_keys
from jaxdl.rl.replay import draw_windows, empty_ring, insert
from jaxdl.rl.returns import n_step
from jaxdl.rl.rollout import Experience, rollout

ROWS, STEPS, CAPACITY = 2, 3, 12


def experience(start):
    """Steps number start, start + 1, ... of each environment; environment b adds 1000 b."""
    numbers = start + jnp.arange(STEPS)[:, None] + 1000 * jnp.arange(ROWS)
    flags = numbers % 5 == 4
    found = TimeStep(numbers[..., None] + 0.5, numbers.astype(jnp.float32), flags, numbers % 7 == 6)
    observation = numbers[..., None].astype(jnp.float32)
    return Experience(observation, numbers.astype(jnp.int32), (), found, numbers, numbers)


def test_the_ring_overwrites_the_oldest_steps_in_order():
    ring = empty_ring(ROWS, CAPACITY, (1,))
    write = jax.jit(insert)
    life: list[int] = []
    for number in range(9):
        ring = write(ring, experience(number * STEPS), jnp.int32(number * STEPS))
        life += range(number * STEPS, (number + 1) * STEPS)
        for place in range(min(len(life), CAPACITY)):
            expected = max(n for n in life if n % CAPACITY == place)
            assert ring.action[:, place].tolist() == [expected, 1000 + expected]
            assert ring.observation[1, place, 0] == 1000 + expected
            assert ring.next_observation[1, place, 0] == 1000 + expected + 0.5
            assert bool(ring.terminated[0, place]) == (expected % 5 == 4)
            assert bool(ring.done[0, place]) == (expected % 5 == 4 or expected % 7 == 6)


@pytest.mark.parametrize("inserted", [5, 12, 13, 40, 4001])
@pytest.mark.parametrize("n", [1, 4])
def test_windows_are_consecutive_alike_and_never_cross_the_newest_step(inserted, n):
    if inserted < n:
        return
    windows = np.asarray(draw_windows(jax.random.key(3), jnp.int32(inserted), CAPACITY, n, 3000))
    assert windows.shape == (3000, n)
    oldest = max(0, inserted - CAPACITY)
    allowed = list(range(oldest, inserted - n + 1))
    ages = {step % CAPACITY: step for step in range(oldest, inserted)}
    starts = [ages[int(place)] for place in windows[:, 0]]
    for start, window in zip(starts, windows, strict=True):
        assert [ages[int(place)] for place in window] == list(range(start, start + n))
    counts = np.bincount(np.array(starts) - oldest, minlength=len(allowed))
    assert len(counts) == len(allowed)
    expected = 3000 / len(allowed)
    assert np.abs(counts - expected).max() < 5 * np.sqrt(expected)


def test_what_is_replayed_never_mixes_two_episodes():
    """n-step samples from the ring of real episodes are those of the episodes cut out of the stream by hand."""
    n, total = 4, 60
    environment, rows = for_training(CartPole(time_limit=11)), jnp.arange(ROWS)
    states, _ = jax.vmap(environment.reset)(row_keys(jax.random.key(0), rows))
    actions = jax.random.randint(jax.random.key(1), (total, ROWS), 0, 2)
    run = jax.jit(lambda states, keys: rollout(environment, states, lambda o, a: (a, ()), actions, keys)[1])
    whole = run(states, row_keys(jax.random.key(2), rows))
    ring, write = empty_ring(ROWS, 48, (4,)), jax.jit(insert)
    for start in range(0, total, STEPS):
        part = jax.tree.map(lambda leaf, start=start: leaf[start : start + STEPS], whole)
        ring = write(ring, part, jnp.int32(start))
    assert whole.found.truncated.any() and whole.found.terminated.any()
    for row in range(ROWS):
        done, terminated = (np.asarray(flag)[:, row] for flag in (whole.found.done, whole.found.terminated))
        windows = np.asarray(draw_windows(jax.random.key(row), jnp.int32(total), 48, n, 80))
        one = jax.tree.map(lambda leaf, row=row: np.asarray(leaf[row]), ring)
        found = n_step(*(jnp.asarray(leaf[windows.T]) for leaf in (one.reward, one.terminated, one.done)), 0.5)
        for places, reward, future, last in zip(windows, *map(np.asarray, found), strict=True):
            start = next(t for t in range(total - 48, total) if t % 48 == places[0])
            stop = next((t for t in range(start, start + n) if done[t]), start + n - 1)
            assert last == stop - start
            assert reward == pytest.approx(sum(0.5**k for k in range(stop - start + 1)))
            assert future == pytest.approx(0.0 if terminated[stop] else 0.5 ** (stop - start + 1))
            np.testing.assert_array_equal(one.observation[places[0]], whole.observation[start, row])
            np.testing.assert_array_equal(one.next_observation[places[last]], whole.found.observation[stop, row])
