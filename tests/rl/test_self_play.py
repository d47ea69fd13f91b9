"""The ring of positions against a list in plain Python."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxdl.rl.self_play import Ring, below, recorded, sampled, settled
from jaxdl.rl.tictactoe import TicTacToe

GAME = TicTacToe()
CAPACITY = 12


@pytest.fixture(scope="module")
def history():
    """A row of 200 plies with games of 1 to 9 plies: what happened, and the ring after each ply."""
    draw = np.random.default_rng(0)
    plies = []
    while len(plies) < 200:
        length, skipped = draw.integers(1, 10), draw.integers(0, 4)
        result = float(draw.integers(-1, 2))
        for ply in range(length):
            # the first plies of an opening are not recorded
            plies.append((ply >= skipped, ply == length - 1, result))
    plies = plies[:200]
    number = np.arange(len(plies))
    seen = (number[:, None] >> np.arange(18)) & 1 > 0  # an observation that tells which ply it was
    policies = draw.dirichlet(np.ones(9), len(plies)).astype(np.float32)
    keep, ended, reward = (np.array(each) for each in zip(*plies, strict=True))

    def body(ring, ply):
        observation, policy, keep, ended, reward = ply
        ring = recorded(ring, observation, policy, keep)
        ring = settled(ring, reward, ended)
        return ring, ring

    scanned = (seen.reshape(-1, 3, 3, 2), policies, keep, ended, reward.astype(np.float32))
    _, rings = jax.lax.scan(body, Ring.empty(GAME, CAPACITY), scanned)
    return plies, policies, jax.tree.map(np.asarray, rings)


def finished_after(plies, count):
    """(ply number, value) of all positions of finished games after `count` plies, oldest first, and how many are open."""
    done, open_ones = [], []
    for number, (keep, ended, reward) in enumerate(plies[:count]):
        if keep:
            open_ones.append(number)
        if ended:
            # the last ply is number `number`: its mover got `reward`, the one before the opposite, and so on
            done += [(ply, reward if (number - ply) % 2 == 0 else -reward) for ply in open_ones]
            open_ones = []
    return done, len(open_ones)


def ply_of(observation):
    return int((observation.reshape(-1) * 2 ** np.arange(18)).sum())


def test_values_alternate_and_games_never_mix(history):
    plies, policies, rings = history
    for count in range(1, len(plies) + 1):
        ring = jax.tree.map(lambda leaf, i=count - 1: leaf[i], rings)
        done, playing = finished_after(plies, count)
        assert int(ring.playing) == playing and int(ring.written) == len(done) + playing
        for age, (ply, value) in enumerate(reversed(done)):
            if age + playing >= CAPACITY:
                break
            slot = (int(ring.written) - playing - 1 - age) % CAPACITY
            assert ply_of(ring.observation[slot]) == ply
            np.testing.assert_array_equal(ring.policy[slot], policies[ply])
            assert ring.value[slot] == value


def test_only_positions_of_finished_games_are_drawn_and_all_of_them(history):
    plies, policies, rings = history
    identity = tuple(table[:1] for table in GAME.symmetries)
    draw = jax.jit(lambda ring, key: sampled(ring, key, 400, identity))
    for count in (1, 5, 23, 120, 199):
        ring = jax.tree.map(lambda leaf, i=count - 1: leaf[i], rings)
        done, playing = finished_after(plies, count)
        kept = dict(done[-(CAPACITY - playing) :]) if done else {}
        batch = jax.tree.map(np.asarray, draw(ring, jax.random.key(count)))
        assert (batch["mask"] == bool(kept)).all()
        if kept:
            drawn = [ply_of(observation) for observation in batch["observation"]]
            assert set(drawn) == set(kept)
            np.testing.assert_array_equal(batch["value"], [kept[ply] for ply in drawn])
            np.testing.assert_array_equal(batch["policy"], policies[drawn])


def test_symmetries_turn_board_and_policy_together():
    ring = Ring.empty(GAME, 9)
    for cell in range(9):  # position `cell` has its one stone there, and its policy points there
        observation = jnp.zeros((9, 2), bool).at[cell, 0].set(True).reshape(3, 3, 2)
        ring = recorded(ring, observation, jax.nn.one_hot(cell, 9), True)
    ring = settled(ring, 1.0, True)
    batch = sampled(ring, jax.random.key(0), 500, GAME.symmetries)
    stones = np.asarray(batch["observation"])[..., 0].reshape(-1, 9)
    np.testing.assert_array_equal(stones, batch["policy"])
    counts = stones.sum(axis=0)
    corners, edges, centre = counts[[0, 2, 6, 8]], counts[[1, 3, 5, 7]], counts[4]
    # corners stay corners: about 4/9 of the draws, spread over all four
    assert corners.min() > 25 and edges.min() > 25 and 25 < centre < 90


def test_below_is_even():
    drawn = np.asarray(below(jax.random.bits(jax.random.key(0), (60000,), jnp.uint32), 6))
    assert drawn.min() == 0 and drawn.max() == 5
    assert np.abs(np.bincount(drawn) / 10000 - 1).max() < 0.05
