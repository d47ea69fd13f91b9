"""The search: masks, wins and blocks with an untrained network, and perfect play with a perfect one."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxdl.rl.game import replay
from jaxdl.rl.search import GumbelSearch, gumbel_noise
from jaxdl.rl.tictactoe import LINES, TicTacToe, board_code, every_position, perfect_play

# thousands of positions are searched: it takes longer to compile, and a third of the time in all
pytestmark = pytest.mark.optimized
GAME = TicTacToe()
SIMULATIONS = 128
ROWS = 1507  # every third position with a move to make


def knows_nothing(states):
    """Equal logits, value 0: what the networks of `jaxdl.models.alphazero` start as."""
    rows = states.player.shape[0]
    return jnp.zeros((rows, 9)), jnp.zeros(rows)


def knows_all(states):
    """The values of minimax, and logits that prefer the right moves a little."""
    codes = jax.vmap(board_code)(states.board)
    return 1.0 * jnp.asarray(perfect_play().optimal)[codes], jnp.asarray(perfect_play().value)[codes].astype(
        jnp.float32
    )


@pytest.fixture(scope="module")
def positions():
    """Codes [ROWS] and states."""
    codes, lines = every_position()
    codes, lines = codes[::3], lines[::3]
    padded = np.full((len(lines), 9), -1, np.int32)
    for row, moves in zip(padded, lines, strict=True):
        row[: len(moves)] = moves
    return codes, jax.jit(jax.vmap(lambda moves: replay(GAME, moves)))(padded)


class Forbidden(TicTacToe):
    """An illegal action is worth a hundred wins: a search that tries one anywhere in its tree shows it."""

    def step(self, state, action):
        legal = self.legal_actions(state)[action]
        after = super().step(state, action)
        prize = jnp.where(legal | state.terminated, 0.0, 100.0)
        return after.replace(reward=after.reward + prize * jnp.where(jnp.arange(2) == state.player, 1.0, -1.0))


@pytest.fixture(scope="module")
def searched(positions):
    """One compiled search: (network, noise [ROWS, 9]) -> Found, network 0 knows nothing, 1 all, 2 prefers illegal ones."""
    search = GumbelSearch(Forbidden(), simulations=SIMULATIONS)

    @jax.jit
    def run(states, network, noise):
        def evaluate(states):
            blank, truth = knows_nothing(states), knows_all(states)
            illegal = ~jax.vmap(GAME.legal_actions)(states)
            logits = jnp.where(network == 2, 20.0 * illegal, jnp.where(network == 1, truth[0], blank[0]))
            return logits, jnp.where(network == 1, truth[1], blank[1])

        return search(evaluate, states, noise)

    return lambda network, noise: jax.tree.map(np.asarray, run(positions[1], jnp.int32(network), noise))


@functools.cache
def threats(code):
    """Cells where the player to move (first) and where the other would complete a line."""
    board = np.array([code // 3**i % 3 for i in range(9)])
    player = 1 + (board > 0).sum() % 2
    found = []
    for mark in (player, 3 - player):
        cells = set()
        for line in LINES:
            values = board[line]
            if (values == mark).sum() == 2 and (values == 0).sum() == 1:
                cells.add(int(line[np.flatnonzero(values == 0)[0]]))
        found.append(cells)
    return found


def test_an_untrained_network_finds_every_win_in_one(positions, searched):
    found = searched(0, jnp.zeros((ROWS, 9)))
    tried = 0
    for code, action in zip(positions[0], found.action, strict=True):
        if threats(int(code))[0]:
            tried += 1
            assert action in threats(int(code))[0]
    assert tried > 300


def test_an_untrained_network_blocks_every_win_in_one(positions, searched):
    found = searched(0, jnp.zeros((ROWS, 9)))
    tried = 0
    for code, action in zip(positions[0], found.action, strict=True):
        mine, theirs = threats(int(code))
        # where all is lost any move is as good as the block
        if not mine and len(theirs) == 1 and perfect_play().value[code] >= 0:
            tried += 1
            assert action in theirs
    assert tried > 200


def test_with_a_perfect_network_it_plays_perfectly(positions, searched):
    found = searched(1, jnp.zeros((ROWS, 9)))
    solved = perfect_play()
    assert solved.optimal[positions[0]][np.arange(ROWS), found.action].all()
    # mean results behind the move: drawn games count the other's blunders too
    assert (found.value[solved.value[positions[0]] == -1] < 0).all()
    assert (found.value[solved.value[positions[0]] == 1] > 0.5).all()


@pytest.mark.parametrize("network", [0, 2])
def test_no_illegal_action_is_ever_tried(positions, searched, network):
    noise = 3.0 * gumbel_noise(jax.random.split(jax.random.key(1), ROWS), 9)
    found = searched(network, noise)
    board = positions[0][:, None] // 3 ** np.arange(9) % 3
    assert (board[np.arange(ROWS), found.action] == 0).all()
    assert (found.visits[board > 0] == 0).all() and (found.policy[board > 0] == 0).all()
    assert (found.prior[board > 0] == 0).all()
    assert (found.visits.sum(axis=1) == SIMULATIONS).all()
    assert np.abs(found.value).max() <= 1.0  # an illegal action below the root would have shown
    np.testing.assert_allclose(found.policy.sum(axis=1), 1.0, atol=1e-5)


def test_a_row_does_not_depend_on_the_batch_around_it(positions):
    search = GumbelSearch(GAME, simulations=8)
    run = jax.jit(lambda states, noise: search(knows_nothing, states, noise))
    noise = gumbel_noise(jax.random.split(jax.random.key(2), 16), 9)
    states = jax.tree.map(lambda leaf: leaf[:16], positions[1])
    whole = run(states, noise)
    order = np.arange(16)[::-1]
    turned = run(jax.tree.map(lambda leaf: leaf[order], states), noise[order])
    for a, b in zip(whole, turned, strict=True):
        np.testing.assert_array_equal(np.asarray(a)[order], b)


def test_search_settings_are_fields():
    assert dataclasses.replace(GumbelSearch(GAME), simulations=64).simulations == 64
