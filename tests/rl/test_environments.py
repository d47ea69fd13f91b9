"""Environments against gymnasium, gymnax and the transition table; wrappers against what they promise."""

import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments.agents import make_environment
from jaxdl.errors import UserError
from jaxdl.rl.cartpole import CartPole, CartPoleState
from jaxdl.rl.environment import AutoReset, EpisodeStatistics, for_training, row_keys
from jaxdl.rl.gridworld import MAPS, GridWorld, value_iteration
from jaxdl.rl.rollout import play, record, rollout

KEY = jax.random.key(0)

# action, position, velocity, angle, angular velocity, terminated: gymnasium 1.3 from (0.01, -0.02, 0.03, 0.04)
TRAJECTORY = [
    (1, 0.0096, 0.1746792, 0.0308, -0.2430687, False),
    (1, 0.01309358, 0.369348, 0.02593863, -0.5258796, False),
    (0, 0.02048054, 0.1738708, 0.01542103, -0.2251374, False),
    (1, 0.02395796, 0.368769, 0.01091828, -0.5129163, False),
    (0, 0.03133334, 0.173495, 0.0006599578, -0.2168129, False),
    (0, 0.03480324, -0.02163639, -0.0036763, 0.07607816, False),
    (0, 0.03437051, -0.2167054, -0.002154736, 0.3675989, False),
    (1, 0.0300364, -0.02155294, 0.005197243, 0.07423738, False),
    (1, 0.02960534, 0.1734941, 0.00668199, -0.2168013, False),
    (1, 0.03307523, 0.3685199, 0.002345964, -0.5073689, False),
    (1, 0.04044562, 0.5636087, -0.007801414, -0.7993117, False),
    (1, 0.0517178, 0.7588368, -0.02378765, -1.094438, False),
    (1, 0.06689454, 0.9542639, -0.04567642, -1.394489, False),
    (1, 0.08597981, 1.149924, -0.0735662, -1.701097, False),
    (1, 0.1089783, 1.345812, -0.1075881, -2.015743, False),
    (1, 0.1358945, 1.541874, -0.147903, -2.339706, False),
    (1, 0.166732, 1.737987, -0.1946971, -2.67399, False),
    (1, 0.2014917, 1.933945, -0.2481769, -3.019253, True),
]
CARTPOLE_STEP = jax.jit(CartPole().step)


def test_cartpole_moves_as_recorded():
    state = CartPoleState(jnp.array([0.01, -0.02, 0.03, 0.04]), jnp.int32(0))
    for action, *motion, terminated in TRAJECTORY:
        state, found = CARTPOLE_STEP(state, action, KEY)
        np.testing.assert_allclose(found.observation, motion, rtol=1e-4, atol=1e-6)
        assert bool(found.terminated) is terminated and not bool(found.truncated)
        assert float(found.reward) == 1.0


def balancing(observation):
    """A policy that keeps the pole up for 500 steps."""
    return int(observation[2] + 0.5 * observation[3] + 0.05 * observation[0] + 0.1 * observation[1] > 0)


@pytest.mark.parametrize("seed", range(4))
def test_cartpole_is_gymnasiums_step_for_step(seed):
    gymnasium = pytest.importorskip("gymnasium", reason="gymnasium (extra oracles) is the oracle of CartPole")
    theirs = gymnasium.make("CartPole-v1")
    observation, _ = theirs.reset(seed=seed)
    draw = np.random.default_rng(seed)
    state = CartPoleState(jnp.asarray(observation), jnp.int32(0))
    for number in range(501):
        action = balancing(observation) if seed < 2 else int(draw.integers(2))
        # from the same point each time: over hundreds of steps float32 and float64 drift apart
        theirs.unwrapped.state = tuple(np.asarray(state.motion, np.float64))
        observation, reward, terminated, truncated, _ = theirs.step(action)
        state, found = CARTPOLE_STEP(state, action, KEY)
        np.testing.assert_allclose(found.observation, observation, rtol=1e-5, atol=1e-6)
        assert (float(found.reward), bool(found.terminated), bool(found.truncated)) == (reward, terminated, truncated)
        length = number + 1
        if terminated or truncated:
            break
    assert (length == 500 and truncated and not terminated) if seed < 2 else (length < 200 and terminated)


def test_cartpole_begins_within_its_bounds():
    first = np.asarray(jax.vmap(CartPole().reset)(jax.random.split(KEY, 500))[1])
    assert np.abs(first).max() <= 0.05 and np.abs(first).max() > 0.049 and abs(first.mean()) < 0.003


class Counter:
    """Counts its steps: an episode ends by the rules after `length` of them, or is cut after `time_limit`."""

    observation_shape, num_actions = (), 1

    def __init__(self, length=5, time_limit=100):
        self.length, self.time_limit = length, time_limit

    def reset(self, key):
        del key
        return jnp.int32(0), jnp.float32(0)

    def step(self, state, action, key):
        from jaxdl.rl.environment import TimeStep

        state = state + 1
        truncated = state >= self.time_limit
        return state, TimeStep(state.astype(jnp.float32), 10.0 * state, state >= self.length, truncated)


@pytest.mark.parametrize(("length", "time_limit", "last"), [(3, 100, 3), (100, 4, 4)])
def test_auto_reset_keeps_the_terminal_observation(length, time_limit, last):
    environment = AutoReset(Counter(length, time_limit))
    state, _ = environment.reset(KEY)
    seen, followed = [], []
    for _ in range(2 * last):
        seen.append(float(state.observation))
        state, found = environment.step(state, 0, KEY)
        followed.append((float(found.observation), bool(found.terminated), bool(found.truncated)))
    assert seen == [*range(last), *range(last)]
    ends = (length == last, time_limit == last)
    once = [(float(t), False, False) for t in range(1, last)] + [(float(last), *ends)]
    assert followed == once + once


def test_statistics_are_of_whole_episodes():
    environment = EpisodeStatistics(AutoReset(Counter(3)))
    state, _ = environment.reset(KEY)
    totals, lengths = [], []
    for _ in range(7):
        state, _ = environment.step(state, 0, KEY)
        totals.append(float(state.total))
        lengths.append(int(state.length))
    assert totals == [10, 30, 60, 10, 30, 60, 10] and lengths == [1, 2, 3, 1, 2, 3, 1]


@pytest.mark.optimized  # bits of two programs
def test_rollout_is_the_same_as_stepping_by_hand_and_rows_keep_their_chance():
    environment = for_training(CartPole(time_limit=15))
    rows = jnp.arange(4)
    states, _ = jax.vmap(environment.reset)(row_keys(KEY, rows))
    actions = jax.random.randint(KEY, (40, 4), 0, 2)

    def act(observations, noise):
        return noise, ()

    run = jax.jit(lambda states, actions, keys: rollout(environment, states, act, actions, keys))
    end, whole = run(states, actions, row_keys(jax.random.key(1), rows))
    half = jax.tree.map(lambda leaf: leaf[2:], states)
    _, part = run(half, actions[:, 2:], row_keys(jax.random.key(1), rows[2:]))
    for one, other in zip(jax.tree.leaves(whole), jax.tree.leaves(part), strict=True):
        np.testing.assert_array_equal(one[:, 2:], other)
    done = np.asarray(whole.found.done)
    assert done.sum() >= 8 and whole.found.truncated.any() and whole.found.terminated.any()
    # what is seen next is what was reached, except after an end, where it is a first observation
    same = np.isclose(whole.observation[1:], whole.found.observation[:-1]).all(-1)
    np.testing.assert_array_equal(same, ~done[:-1])
    assert (np.abs(whole.observation[1:][done[:-1]]) <= 0.05).all()
    np.testing.assert_array_equal(end.observation[~done[-1]], whole.found.observation[-1][~done[-1]])


def test_where_episodes_begin_is_the_same_drawn_beforehand_or_in_the_step():
    environment = for_training(CartPole(time_limit=9))
    states, _ = jax.vmap(environment.reset)(row_keys(KEY, jnp.arange(3)))
    keys = row_keys(jax.random.key(1), jnp.arange(3))
    actions = jax.random.randint(KEY, (30, 3), 0, 2)
    end, found = jax.jit(lambda s: rollout(environment, s, lambda o, n: (n, o[:, 0]), actions, keys))(states)
    step = jax.jit(jax.vmap(environment.step))
    chances = jax.vmap(lambda key: jax.random.split(key, 30))(keys)
    for t in range(30):
        np.testing.assert_allclose(states.observation, found.observation[t], atol=1e-6)
        states, _ = step(states, actions[t], chances[:, t])
    np.testing.assert_allclose(states.observation, end.observation, atol=1e-6)
    np.testing.assert_array_equal(states.length, end.length)
    np.testing.assert_array_equal(found.kept, found.observation[..., 0])
    assert found.found.done.sum() > 8


def test_play_and_record_tell_of_the_same_episodes():
    environment = CartPole(time_limit=60)

    def act(observations):
        return (observations[:, 2] > 0).astype(jnp.int32)

    keys = row_keys(KEY, jnp.arange(6))
    total, length = jax.jit(lambda keys: play(environment, act, keys))(keys)
    found = jax.jit(lambda keys: record(environment, act, keys, 60))(keys)
    np.testing.assert_array_equal(length, found["length"])
    np.testing.assert_allclose(total, found["reward"].sum(axis=1))
    assert len(set(np.asarray(length).tolist())) > 2
    for k, steps in enumerate(np.asarray(length)):
        motion = CartPoleState(found["observation"][k, 0], jnp.int32(0))
        for t in range(int(steps)):
            motion, step = CARTPOLE_STEP(motion, found["action"][k, t], KEY)
            np.testing.assert_allclose(step.observation, found["observation"][k, t + 1], rtol=1e-4, atol=1e-5)
        assert bool(step.terminated)
        assert (np.asarray(found["observation"][k, steps:]) == np.asarray(found["observation"][k, steps])).all()


# --- grid world ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", MAPS)
def test_grid_steps_follow_its_transition_table(name):
    grid = GridWorld(MAPS[name], slip=0.3, random_start=True)
    probability, rewards = grid.transitions()
    np.testing.assert_allclose(probability.sum(axis=2), 1.0)
    count, step = 4000, jax.jit(jax.vmap(grid.step, in_axes=(None, None, 0)))
    from jaxdl.rl.gridworld import GridState

    for cell in grid.starts[::5]:
        for action in range(4):
            _, found = step(GridState(jnp.int32(cell), jnp.int32(0)), action, jax.random.split(KEY, count))
            share = np.asarray(found.observation).mean(axis=0)
            np.testing.assert_allclose(share, probability[cell, action], atol=0.035)
            assert abs(float(found.reward.mean()) - rewards[cell, action]) < 0.07
            assert not np.any(np.asarray(found.observation)[:, grid.letters == "#"])


def test_value_iteration_solves_the_bellman_equation_and_a_corridor_by_hand():
    grid = GridWorld(("S..G",), slip=0.0, step_reward=-0.1)
    q = value_iteration(*grid.transitions(), grid.ends, discount=0.5)
    # from the right: 1, -0.1 + 0.5 * 1, -0.1 + 0.5 * 0.4; to the left of the start is a wall
    np.testing.assert_allclose(q[:3, 1], [0.1, 0.4, 1.0])
    np.testing.assert_allclose(q[0, 3], -0.1 + 0.5 * 0.1)
    rooms = GridWorld()
    probability, rewards = rooms.transitions()
    q = value_iteration(probability, rewards, rooms.ends, 0.97)
    value = np.where(rooms.ends, 0.0, q.max(axis=1))
    np.testing.assert_allclose(q, rewards + 0.97 * probability @ value, atol=1e-10)


def test_grid_begins_where_it_says():
    fixed, anywhere = GridWorld(), GridWorld(random_start=True)
    keys = jax.random.split(KEY, 400)
    for grid in (fixed, anywhere):
        first = np.asarray(jax.vmap(grid.reset)(keys)[1]).argmax(axis=1)
        assert set(first.tolist()) == set(grid.starts.tolist())
    assert len(fixed.starts) == 1 and len(anywhere.starts) > 30


@pytest.mark.parametrize("rows", [("S.", "G"), ("SG", "??"), ("..", "G."), ("S.", "..")])
def test_a_map_that_cannot_be_is_refused(rows):
    with pytest.raises(ValueError, match="map"):
        GridWorld(rows)


# --- by name ---------------------------------------------------------------------------------------------------------


def test_an_unknown_environment_is_one_line_with_the_nearest_name():
    with pytest.raises(UserError, match="unknown environment 'cart_pole'; did you mean cartpole") as caught:
        make_environment("cart_pole")
    assert "\n" not in str(caught.value)


def test_a_missing_extra_names_the_command(monkeypatch):
    monkeypatch.setitem(sys.modules, "gymnax", None)
    with pytest.raises(UserError, match=r"pip install -e '\.\[rl\]'") as caught:
        make_environment("breakout")
    assert "\n" not in str(caught.value)


@pytest.fixture(scope="module")
def gymnax():
    return pytest.importorskip("gymnax", reason="gymnax (extra rl) is not installed")


def test_gymnaxs_cartpole_agrees_with_ours(gymnax):
    theirs = make_environment("gymnax:CartPole-v1")
    assert (theirs.num_actions, theirs.observation_shape, theirs.time_limit) == (2, (4,), 500)
    state, observation = theirs.reset(KEY)
    ours = CartPoleState(observation, jnp.int32(0))
    step = jax.jit(theirs.step)
    for t in range(30):
        action = jnp.int32(t % 3 > 0)
        state, found = step(state, action, KEY)
        ours, mine = CARTPOLE_STEP(ours, action, KEY)
        np.testing.assert_allclose(found.observation, mine.observation, rtol=1e-4, atol=1e-5)
        assert bool(found.terminated) == bool(mine.terminated)
        if found.done:
            break
    assert found.done


def test_gymnaxs_games_keep_their_types_and_their_terminal_observation(gymnax):
    breakout = make_environment("breakout")
    assert (breakout.num_actions, breakout.observation_shape, breakout.time_limit) == (3, (10, 10, 4), 1000)
    environment = for_training(breakout)
    rows = jnp.arange(3)
    states, _ = jax.vmap(environment.reset)(row_keys(KEY, rows))
    noise = jnp.zeros((60, 3), jnp.int32)
    end, found = jax.jit(lambda s: rollout(environment, s, lambda o, n: (n, ()), noise, row_keys(KEY, rows)))(states)
    assert jax.tree.map(lambda leaf: leaf.dtype, end) == jax.tree.map(lambda leaf: leaf.dtype, states)
    assert found.found.terminated.any()
    t, row = np.argwhere(np.asarray(found.found.done))[0]
    # the ball lies on the bottom row where the paddle is not; the next episode begins with the ball high up
    assert found.found.observation[t, row, 9, :, 1].any() and not found.observation[t + 1, row, 9, :, 1].any()


def test_gymnax_refuses_what_it_has_not(gymnax):
    with pytest.raises(UserError, match="no environment 'Brakeout'"):
        make_environment("gymnax:Brakeout")
    with pytest.raises(UserError, match="continuous actions"):
        make_environment("gymnax:Pendulum-v1")
