"""Tic-tac-toe against rules and minimax written out in plain Python."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxdl.rl import tictactoe
from jaxdl.rl.game import board_symmetries, replay, uniform_player
from jaxdl.rl.tictactoe import TicTacToe, every_position, moves_to, perfect_play, perfect_player

GAME = TicTacToe()
LINES = ((0, 1, 2), (3, 4, 5), (6, 7, 8), (0, 3, 6), (1, 4, 7), (2, 5, 8), (0, 4, 8), (2, 4, 6))


def winner(board):
    """1 or 2 for a complete line on a board (a tuple of nine numbers), else 0."""
    return next((board[a] for a, b, c in LINES if board[a] and board[a] == board[b] == board[c]), 0)


def mover(board):
    return 1 + sum(cell > 0 for cell in board) % 2


def over(board):
    return winner(board) > 0 or 0 not in board


def after(board, cell):
    return (*board[:cell], mover(board), *board[cell + 1 :])


def free(board):
    return [] if over(board) else [i for i in range(9) if board[i] == 0]


@functools.cache
def value(board):
    """The minimax result for the player to move."""
    if winner(board):
        return -1
    return max((-value(after(board, cell)) for cell in free(board)), default=0)


def code(board):
    return sum(cell * 3**i for i, cell in enumerate(board))


@functools.cache
def reachable():
    """All positions that occur in a game."""
    found, new = set(), {(0,) * 9}
    while new:
        found |= new
        new = {after(board, cell) for board in new for cell in free(board)} - found
    return found


def test_the_known_counts_of_the_game():
    boards = reachable()
    ends = [board for board in boards if over(board)]
    assert len(boards) == 5478 and len(ends) == 958
    assert [sum(winner(board) == who for board in ends) for who in (1, 2, 0)] == [626, 316, 16]
    assert int(perfect_play().reachable.sum()) == 5478 and int(perfect_play().terminated.sum()) == 958

    @functools.cache
    def games(board):
        return 1 if over(board) else sum(games(after(board, cell)) for cell in free(board))

    assert games((0,) * 9) == 255168
    assert value((0,) * 9) == 0 == perfect_play().value[0]


def test_perfect_play_is_minimax_in_every_position():
    solved = perfect_play()
    assert {int(c) for c in np.flatnonzero(solved.reachable)} == {code(board) for board in reachable()}
    for board in reachable():
        assert solved.value[code(board)] == value(board)
        best = {cell for cell in free(board) if -value(after(board, cell)) == value(board)}
        assert set(np.flatnonzero(solved.optimal[code(board)])) == best
        assert solved.terminated[code(board)] == over(board)


@pytest.fixture(scope="module")
def played():
    """Every position with a move to make: boards, states, and the states after each of the nine actions."""
    codes, lines = every_position()
    padded = np.full((len(lines), 9), -1, np.int32)
    for row, moves in zip(padded, lines, strict=True):
        row[: len(moves)] = moves

    @jax.jit
    def all_steps(moves):
        states = jax.vmap(lambda line: replay(GAME, line))(moves)
        following = jax.vmap(jax.vmap(GAME.step, (None, 0)), (0, None))(states, jnp.arange(9))
        again = jax.vmap(jax.vmap(GAME.step, (0, None)), (0, None))(following, jnp.int32(0))
        seen = jax.vmap(GAME.observation)(states)
        weights = [jax.vmap(player)(states) for player in (perfect_player(), uniform_player(GAME))]
        return states, following, again, jax.vmap(GAME.legal_actions)(states), seen, weights

    boards = [tuple(int(c) // 3**i % 3 for i in range(9)) for c in codes]
    return boards, *jax.tree.map(np.asarray, all_steps(padded))


def test_the_rules_are_those_of_plain_python(played):
    boards, states, following, again, legal, _, _ = played
    assert len(boards) == 4520
    np.testing.assert_array_equal(states.board, boards)
    for i, board in enumerate(boards):
        assert states.player[i] == mover(board) - 1 and not states.terminated[i]
        assert list(np.flatnonzero(legal[i])) == free(board)
        for cell in free(board):
            new = after(board, cell)
            assert tuple(following.board[i, cell]) == new
            assert following.terminated[i, cell] == over(new)
            expected = {0: (0, 0), 1: (1, -1), 2: (-1, 1)}[winner(new)]
            assert tuple(following.reward[i, cell]) == expected
    ended = following.terminated & legal
    for before, later in zip(jax.tree.leaves(following), jax.tree.leaves(again), strict=True):
        np.testing.assert_array_equal(before[ended], later[ended])


def test_the_observation_shows_the_movers_marks_first(played):
    boards, states, _, _, _, seen, _ = played
    boards = np.array(boards).reshape(-1, 3, 3)
    mark = states.player[:, None, None] + 1
    np.testing.assert_array_equal(seen[..., 0], boards == mark)
    np.testing.assert_array_equal(seen[..., 1], boards == 3 - mark)


def test_symmetric_positions_have_symmetric_right_moves():
    cells, actions = GAME.symmetries
    assert len({tuple(row) for row in cells}) == 8 and list(cells[0]) == list(range(9))
    solved = perfect_play()
    codes, _ = every_position()
    boards = codes[:, None] // 3 ** np.arange(9) % 3
    for cell, action in zip(cells, actions, strict=True):
        turned = (boards[:, cell] * 3 ** np.arange(9)).sum(axis=1)
        np.testing.assert_array_equal(solved.optimal[turned], solved.optimal[codes][:, action])
        np.testing.assert_array_equal(solved.value[turned], solved.value[codes])


def test_the_mirror_of_a_board_that_is_not_square():
    assert board_symmetries(2, 3, turns=False).tolist() == [[0, 1, 2, 3, 4, 5], [2, 1, 0, 5, 4, 3]]
    with pytest.raises(ValueError, match="cannot be turned"):
        board_symmetries(2, 3, turns=True)


def test_the_perfect_player_loses_to_nobody_in_any_line(played):
    boards, _, _, _, legal, _, (weights, uniform) = played
    np.testing.assert_array_equal(uniform, legal.astype(np.float32))
    choices = {board: np.flatnonzero(row) for board, row in zip(boards, weights, strict=True)}

    @functools.cache
    def worst(board, seat):
        """The worst result of the perfect player (mark `seat`) against all replies."""
        if over(board):
            return {0: 0, seat: 1, 3 - seat: -1}[winner(board)]
        moves = choices[board] if mover(board) == seat else free(board)
        assert len(moves) and set(moves) <= set(free(board))
        return min(worst(after(board, int(cell)), seat) for cell in moves)

    assert worst((0,) * 9, 1) == 0 and worst((0,) * 9, 2) == 0


def test_positions_are_read_from_text():
    for text in ("X.O/.X./..O", "x-o -x- --o", "X.O.X...O"):
        moves = moves_to(text)
        assert tictactoe.code_of(moves) == code((1, 0, 2, 0, 1, 0, 0, 0, 2))
    assert moves_to(".........") == []


@pytest.mark.parametrize(
    ("text", "said"),
    [("X.O", "nine cells"), ("X.Q/.X./..O", "nine cells"), ("XX./.X./..O", "3 X and 1 O"), ("XXX/OO./...", "over")],
)
def test_what_is_no_position_is_said_in_one_line(text, said):
    with pytest.raises(ValueError, match=said) as error:
        moves_to(text)
    assert "\n" not in str(error.value)
