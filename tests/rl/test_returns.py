"""Targets against loops in NumPy, written from the definitions."""

import jax.numpy as jnp
import numpy as np
import pytest

from jaxdl.rl.environment import TimeStep
from jaxdl.rl.returns import generalized_advantages, n_step, q_target

DRAW = np.random.default_rng(0)


def steps(time, size):
    """Rewards and ends at random: terminated, truncated, both or none."""
    rewards = DRAW.normal(size=(time, size)).astype(np.float32)
    terminated, truncated = DRAW.random((time, size)) < 0.15, DRAW.random((time, size)) < 0.15
    return TimeStep(None, jnp.asarray(rewards), jnp.asarray(terminated), jnp.asarray(truncated))


@pytest.mark.parametrize(("discount", "trace"), [(0.9, 0.8), (0.99, 1.0), (0.95, 0.0)])
def test_advantages_are_sums_of_residuals_within_an_episode(discount, trace):
    found = steps(25, 6)
    values, after = (DRAW.normal(size=(25, 6)).astype(np.float32) for _ in range(2))
    ours = np.asarray(generalized_advantages(found, jnp.asarray(values), jnp.asarray(after), discount, trace))
    rewards, terminated, done = np.asarray(found.reward), np.asarray(found.terminated), np.asarray(found.done)
    for row in range(6):
        for start in range(25):
            advantage, weight = 0.0, 1.0
            for t in range(start, 25):
                follows = 0.0 if terminated[t, row] else after[t, row]
                advantage += weight * (rewards[t, row] + discount * follows - values[t, row])
                if done[t, row]:
                    break
                weight *= discount * trace
            assert ours[start, row] == pytest.approx(advantage, abs=2e-5)


def test_a_time_limit_is_bootstrapped_and_an_end_is_not():
    value = jnp.array([[7.0]])
    for terminated, truncated, expected in ((False, True, 1 + 0.5 * 7), (True, False, 1.0), (True, True, 1.0)):
        found = TimeStep(None, jnp.ones((1, 1)), jnp.array([[terminated]]), jnp.array([[truncated]]))
        assert float(generalized_advantages(found, jnp.zeros((1, 1)), value, 0.5, 0.9)[0, 0]) == pytest.approx(expected)
        _, future, _ = n_step(found.reward, found.terminated, found.done, 0.5)
        assert float(1 + future[0] * 7) == pytest.approx(expected)


@pytest.mark.parametrize("n", [1, 3, 5])
def test_n_step_returns_stop_at_the_end_of_an_episode(n):
    found = steps(n, 200)
    total, future, last = (np.asarray(x) for x in n_step(found.reward, found.terminated, found.done, 0.9))
    rewards, terminated, done = np.asarray(found.reward), np.asarray(found.terminated), np.asarray(found.done)
    for row in range(200):
        expected, used = 0.0, 0
        for k in range(n):
            expected += 0.9**k * rewards[k, row]
            used = k + 1
            if done[k, row]:
                break
        assert total[row] == pytest.approx(expected, abs=1e-5)
        assert last[row] == used - 1
        assert future[row] == pytest.approx(0.0 if terminated[used - 1, row] else 0.9**used, abs=1e-6)
    assert n == 1 or len(set(last.tolist())) == n


def test_double_q_targets_take_the_online_networks_action():
    online, target = DRAW.normal(size=(2, 50, 4)).astype(np.float32)
    total, future = DRAW.normal(size=50).astype(np.float32), DRAW.random(50).astype(np.float32)
    double = np.asarray(q_target(*map(jnp.asarray, (total, future, target, online))))
    plain = np.asarray(q_target(*map(jnp.asarray, (total, future, target, target))))
    for row in range(50):
        assert double[row] == pytest.approx(total[row] + future[row] * target[row, online[row].argmax()], abs=1e-6)
        assert plain[row] == pytest.approx(total[row] + future[row] * target[row].max(), abs=1e-6)
    assert (double <= plain + 1e-6).all() and (double < plain - 1e-3).any()
