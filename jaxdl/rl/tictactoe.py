"""Tic-tac-toe, and its perfect play by exhaustive minimax.

Cells are numbered row by row from 0. A board is [9] int8: 0 empty, 1 the first player's X, 2 the second's O. Its code
is Σ_i board[i] · 3^i, in 0 ... 19682.
"""

import functools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxdl.rl.game import GameState, Opponent, board_symmetries

Array = jax.Array

CELLS = 9
CODES = 3**CELLS
LINES = np.array([(0, 1, 2), (3, 4, 5), (6, 7, 8), (0, 3, 6), (1, 4, 7), (2, 5, 8), (0, 4, 8), (2, 4, 6)], np.int32)
_POWERS = 3 ** np.arange(CELLS, dtype=np.int32)


@dataclass(frozen=True)
class TicTacToe:
    """The rules; see `jaxdl.rl.game.Game`. Actions are cells, called "1" ... "9" by people."""

    name: str = "tic_tac_toe"
    num_actions: int = CELLS
    observation_shape: tuple[int, int, int] = (3, 3, 2)
    max_plies: int = CELLS

    @property
    def action_names(self) -> tuple[str, ...]:
        """ "1" (top left) to "9" (bottom right)."""
        return tuple(str(cell + 1) for cell in range(CELLS))

    @property
    def symmetries(self) -> tuple[np.ndarray, np.ndarray]:
        """The 8 of the square."""
        cells = board_symmetries(3, 3, turns=True)
        return cells, cells

    def init(self) -> GameState:
        """The empty board."""
        return GameState(jnp.int32(0), jnp.bool_(False), jnp.zeros(2, jnp.float32), jnp.zeros(CELLS, jnp.int8))

    def step(self, state: GameState, action: Array) -> GameState:
        """Puts the mover's mark on cell `action`."""
        mark = (state.player + 1).astype(jnp.int8)
        board = jnp.where((jnp.arange(CELLS) == action) & ~state.terminated, mark, state.board)
        won = (board[LINES] == mark).all(axis=1).any() & ~state.terminated
        sign = jnp.where(jnp.arange(2) == state.player, 1.0, -1.0)
        return GameState(
            player=jnp.where(state.terminated, state.player, 1 - state.player),
            terminated=state.terminated | won | (board > 0).all(),
            reward=jnp.where(won, sign, state.reward),
            board=board,
        )

    def legal_actions(self, state: GameState) -> Array:
        """The empty cells."""
        return (state.board == 0) & ~state.terminated

    def observation(self, state: GameState) -> Array:
        """[3, 3, 2] bool: the mover's marks and the other's."""
        mark = (state.player + 1).astype(jnp.int8)
        planes = jnp.stack([state.board == mark, (state.board > 0) & (state.board != mark)], axis=-1)
        return planes.reshape(self.observation_shape)


class PerfectPlay(NamedTuple):
    """Minimax over all positions, by code.

    Attributes:
      reachable: [19683] bool, whether the position occurs in a game.
      terminated: [19683] bool, of the reachable ones.
      value: [19683] int8, the result for the player to move if both play perfectly: 1, 0 or -1.
      optimal: [19683, 9] bool, the actions that keep the value; none after the end.
    """

    reachable: np.ndarray
    terminated: np.ndarray
    value: np.ndarray
    optimal: np.ndarray


@functools.cache
def perfect_play() -> PerfectPlay:
    """Solves the game backwards, all positions with the same number of marks at once (some milliseconds)."""
    codes = np.arange(CODES)
    boards = (codes[:, None] // _POWERS % 3).astype(np.int8)
    marks = (boards > 0).sum(axis=1)
    mover = (marks % 2 + 1).astype(np.int8)
    lost = (boards[:, LINES] == (3 - mover)[:, None, None]).all(axis=2).any(axis=1)  # the other has just won
    terminated = lost | (marks == CELLS)
    legal = (boards == 0) & ~terminated[:, None]
    after = np.where(legal, codes[:, None] + mover[:, None] * _POWERS, 0)

    reachable = np.zeros(CODES, bool)
    reachable[0] = True
    for count in range(CELLS):
        layer = reachable & (marks == count)
        reachable[after[layer][legal[layer]]] = True
    value = np.where(lost, -1, 0).astype(np.int8)
    optimal = np.zeros((CODES, CELLS), bool)
    for count in reversed(range(CELLS)):
        layer = np.flatnonzero(reachable & ~terminated & (marks == count))
        results = np.where(legal[layer], -value[after[layer]], -2)
        value[layer] = results.max(axis=1)
        optimal[layer] = results == results.max(axis=1, keepdims=True)
    return PerfectPlay(reachable, terminated & reachable, value, optimal)


def board_code(board: Array) -> Array:
    """The code of a board [9]."""
    return (board.astype(jnp.int32) * _POWERS).sum()


def perfect_player() -> Opponent:
    """The player that draws uniformly among the moves that keep the minimax value."""
    # nine bits in one int32: the table is a constant of the program
    bits = (perfect_play().optimal * 2 ** np.arange(CELLS)).sum(axis=1).astype(np.int32)

    def weights(state: GameState) -> Array:
        found = jnp.asarray(bits)[board_code(state.board)]
        allowed = ((found >> jnp.arange(CELLS)) & 1).astype(jnp.float32)
        return jnp.where(state.terminated, 0.0, allowed)

    return weights


def moves_to(text: str) -> list[int]:
    """Actions that lead to a position given as text, X first.

    Args:
      text: nine cells row by row, "X.O/.X./..O": X, O, and "." (or "-", "_") for empty; "/" between rows may be left out.

    Returns:
      The actions. X's and O's marks are set in turn, each in reading order: in a game that goes on no order is a win.

    Raises:
      ValueError: it is no position of a game, or the game is over there.
    """
    cells = "".join(text.upper().replace("/", "").split())
    if len(cells) != CELLS or set(cells) - set("XO.-_"):
        raise ValueError(f'{text!r} is no position: give nine cells of X, O and ".", as in "X.O/.X./..O"')
    first, second = (tuple(i for i, cell in enumerate(cells) if cell == mark) for mark in "XO")
    if len(first) - len(second) not in (0, 1):
        raise ValueError(f"{text!r} has {len(first)} X and {len(second)} O: X moves first, then they move in turn")
    board = np.array([" XO".index(cell) if cell in "XO" else 0 for cell in cells], np.int8)
    if len(first) + len(second) == CELLS or any((board[LINES] == mark).all(axis=1).any() for mark in (1, 2)):
        raise ValueError(f"the game is over in {text!r}: there is no move to make")
    moves = [0] * (len(first) + len(second))
    moves[0::2], moves[1::2] = first, second
    return moves


def code_of(moves: Sequence[int]) -> int:
    """The code of the position after `moves` from the empty board."""
    return int(sum((ply % 2 + 1) * _POWERS[cell] for ply, cell in enumerate(moves)))


def every_position() -> tuple[np.ndarray, list[list[int]]]:
    """All 4520 reachable positions with a move to make: codes [n], and for each actions that lead there."""
    perfect = perfect_play()
    codes = np.flatnonzero(perfect.reachable & ~perfect.terminated)
    lines = []
    for board in codes[:, None] // _POWERS % 3:
        first, second = np.flatnonzero(board == 1), np.flatnonzero(board == 2)
        moves = np.zeros(len(first) + len(second), int)
        moves[0::2], moves[1::2] = first, second  # on the way no line is complete, because in the end none is
        lines.append(moves.tolist())
    return codes, lines


def count_results(actions: np.ndarray, seat: int) -> tuple[int, int, int]:
    """(wins, draws, losses) of a player without chance against every possible line of replies.

    Args:
      actions: [19683], its action in each position, by code.
      seat: 0 if it moves first, else 1.
    """
    solved = perfect_play()

    @functools.cache
    def results(code: int, ply: int) -> tuple[int, int, int]:
        if solved.terminated[code]:
            lost = solved.value[code] < 0  # for the player to move
            return (0, 1, 0) if not lost else (0, 0, 1) if ply % 2 == seat else (1, 0, 0)
        free = [cell for cell in range(CELLS) if code // int(_POWERS[cell]) % 3 == 0]
        moves = [int(actions[code])] if ply % 2 == seat else free
        found = [results(code + (ply % 2 + 1) * int(_POWERS[cell]), ply + 1) for cell in moves]
        wins, draws, losses = (sum(each) for each in zip(*found, strict=True))
        return wins, draws, losses

    return results(0, 0)
