"""Board games of pgx (Koyamada et al. 2023) as a `jaxdl.rl.game.Game`."""

import functools
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxdl.errors import UserError
from jaxdl.rl.game import GameState, board_symmetries, choose

Array = jax.Array

# plies after which a game is over at the latest: pgx ends go after 2·H·W plies; each pass in othello is a ply
GAMES = {"connect_four": 42, "othello": 128, "go_9x9": 162}


@functools.cache
def _environment(name: str) -> Any:
    try:
        import pgx
    except ImportError as error:
        raise UserError(f"{name} needs the [rl] extra: pip install -e .[rl]") from error
    return pgx.make(name)


@dataclass(frozen=True)
class PgxGame:
    """A game of pgx; see `jaxdl.rl.game.Game`. pgx draws which player begins; here it is always player 0.

    Attributes:
      name: one of `GAMES`.

    Raises:
      UserError: pgx is not installed.
      ValueError: another name.
    """

    name: str = "connect_four"

    def __post_init__(self) -> None:
        if self.name not in GAMES:
            raise ValueError(f"{self.name!r} is no game of this adapter; choose one of {', '.join(GAMES)}")
        _environment(self.name)

    @property
    def num_actions(self) -> int:
        """A."""
        return int(_environment(self.name).num_actions)

    @property
    def observation_shape(self) -> tuple[int, int, int]:
        """(H, W, C)."""
        height, width, planes = _environment(self.name).observation_shape
        return int(height), int(width), int(planes)

    @property
    def max_plies(self) -> int:
        """See `GAMES`."""
        return GAMES[self.name]

    @property
    def action_names(self) -> tuple[str, ...]:
        """Columns "1" ... of connect four; elsewhere fields "a1" (top left), row by row, and "pass"."""
        height, width, _ = self.observation_shape
        if self.num_actions == width:
            return tuple(str(column + 1) for column in range(width))
        fields = tuple(f"{chr(ord('a') + column)}{row + 1}" for row in range(height) for column in range(width))
        return (*fields, "pass")

    @property
    def symmetries(self) -> tuple[np.ndarray, np.ndarray]:
        """The mirror of connect four, the 8 of a square board elsewhere (of othello those that keep its start: 4)."""
        height, width, _ = self.observation_shape
        if self.num_actions == width:
            cells = board_symmetries(height, width, turns=False)
            return cells, np.stack([np.arange(width), np.arange(width)[::-1]]).astype(np.int32)
        cells = board_symmetries(height, width, turns=True)
        last = np.full((len(cells), 1), height * width, np.int32)
        return cells, np.concatenate([cells, last], axis=1)

    def init(self) -> GameState:
        """The first position."""
        return self._wrapped(_environment(self.name).init(jax.random.key(0)))

    def step(self, state: GameState, action: Array) -> GameState:
        """One ply."""
        board, first = state.board
        after = _environment(self.name).step(board, action)
        # pgx gives the reward once and then zeros
        found = self._state(after, first, state.reward + self._rewards(after, first))
        return choose(state.terminated, state, found)

    def legal_actions(self, state: GameState) -> Array:
        """pgx calls all actions legal after the end; here none is."""
        return state.board[0].legal_action_mask & ~state.terminated

    def observation(self, state: GameState) -> Array:
        """pgx's observation for the player to move."""
        return state.board[0].observation

    def _wrapped(self, board: Any) -> GameState:
        return self._state(board, board.current_player, jnp.zeros(2, jnp.float32))

    def _rewards(self, board: Any, first: Array) -> Array:
        return jnp.stack([board.rewards[first], board.rewards[1 - first]]).astype(jnp.float32)

    def _state(self, board: Any, first: Array, reward: Array) -> GameState:
        player = jnp.where(board.current_player == first, 0, 1).astype(jnp.int32)
        return GameState(player, board.terminated | board.truncated, reward, (board, first))
