"""pgx's games through our interface, against rules written out in Python; and the line that a missing extra gets."""

import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxdl.errors import UserError
from jaxdl.rl import pgx_adapter
from jaxdl.rl.game import attacking_player, draw_action, stones, uniform_player

PLAYOUTS = 24


def test_a_missing_extra_is_named(monkeypatch):
    pgx_adapter._environment.cache_clear()
    monkeypatch.setitem(sys.modules, "pgx", None)
    with pytest.raises(UserError, match=r"connect_four needs the \[rl\] extra: pip install -e .\[rl\]") as error:
        pgx_adapter.PgxGame("connect_four")
    assert "\n" not in str(error.value)


def test_an_unknown_game_is_named():
    with pytest.raises(ValueError, match="choose one of connect_four"):
        pgx_adapter.PgxGame("chess")


def complete(owners, player):
    """Whether a player has four in a row on a board [6, 7]."""
    mine = owners == player
    for di, dj in ((0, 1), (1, 0), (1, 1), (1, -1)):
        for i in range(6):
            for j in range(7):
                line = [(i + k * di, j + k * dj) for k in range(4)]
                if all(0 <= a < 6 and 0 <= b < 7 and mine[a, b] for a, b in line):
                    return True
    return False


def test_connect_four_is_played_by_its_rules():
    pytest.importorskip("pgx", reason="needs the [rl] extra")
    game = pgx_adapter.PgxGame("connect_four")
    player = uniform_player(game)

    @jax.jit
    def playouts(keys):
        def one(key):
            def body(state, key):
                action = draw_action(player(state), key)
                after = game.step(state, action)
                seen = (state.player, state.terminated, game.legal_actions(state), game.observation(state))
                return after, (*seen, action, after.reward, after.terminated)

            state, plies = jax.lax.scan(body, game.init(), jax.random.split(key, game.max_plies))
            return state.reward, plies

        return jax.vmap(one)(keys)

    rewards, plies = jax.tree.map(np.asarray, playouts(jax.random.split(jax.random.key(0), PLAYOUTS)))
    for row in range(PLAYOUTS):
        owners, ended = np.full((6, 7), -1), False
        for ply in range(game.max_plies):
            mover, over, legal, seen, action, reward, after = (each[row, ply] for each in plies)
            assert over == ended
            if ended:
                assert not legal.any()
                np.testing.assert_array_equal(reward, rewards[row])  # it stays what it was at the end
                continue
            assert mover == ply % 2
            np.testing.assert_array_equal(stones(seen, mover), owners)
            np.testing.assert_array_equal(legal, owners[0] < 0)
            owners[np.flatnonzero(owners[:, action] < 0)[-1], action] = mover
            won, ended = complete(owners, mover), complete(owners, mover) or ply == 41
            expected = [0.0, 0.0] if not won else [1.0, -1.0] if mover == 0 else [-1.0, 1.0]
            np.testing.assert_array_equal(reward, expected)
            assert after == ended


def test_the_attacking_player_wins_where_it_can():
    pytest.importorskip("pgx", reason="needs the [rl] extra")
    game = pgx_adapter.PgxGame("connect_four")

    def weights_after(moves):
        state = jax.lax.fori_loop(0, len(moves), lambda i, state: game.step(state, jnp.asarray(moves)[i]), game.init())
        return attacking_player(game)(state)

    threat = np.asarray(jax.jit(lambda: weights_after([2, 0, 2, 0, 2, 1]))())
    assert threat.tolist() == [0, 0, 1, 0, 0, 0, 0]
    assert game.symmetries[1].tolist() == [[0, 1, 2, 3, 4, 5, 6], [6, 5, 4, 3, 2, 1, 0]]
    assert game.action_names == ("1", "2", "3", "4", "5", "6", "7")
