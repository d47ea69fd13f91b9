"""Two-player zero-sum games as pure functions of one state; batches are made with `jax.vmap`.

Legend: `A` actions, `H`, `W` rows and columns of the board, `C` planes of an observation, `S` symmetries, `T` plies.
A ply is one player's move. Players move in turn; player 0 moves first.
"""

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, Protocol

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct
from jax import lax

Array = jax.Array


class GameState(struct.PyTreeNode):
    """A position.

    Attributes:
      player: int32 scalar, 0 or 1, who is to move; after the end, who would be.
      terminated: bool scalar.
      reward: [2] float32, what each player got: zero before the end, then (1, -1), (-1, 1) or (0, 0).
      board: what else the game needs.
    """

    player: Any
    terminated: Any
    reward: Any
    board: Any

    if TYPE_CHECKING:

        def replace(self, **changes: Any) -> "GameState": ...


class Game(Protocol):
    """The rules. All methods are pure, take one position and can be traced and vmapped.

    Attributes:
      name: what it is called.
      num_actions: A.
      observation_shape: (H, W, C).
      max_plies: no game is longer.
      action_names: A names, as a person types them.
      symmetries: (cells [S, H·W], actions [S, A]) int32: under symmetry s the observation's cell i comes from cell
        cells[s, i] and the weight of action a from action actions[s, a]. Number 0 is the identity.
    """

    @property
    def name(self) -> str:
        """What it is called."""
        ...

    @property
    def num_actions(self) -> int:
        """A."""
        ...

    @property
    def observation_shape(self) -> tuple[int, int, int]:
        """(H, W, C)."""
        ...

    @property
    def max_plies(self) -> int:
        """The most plies of a game."""
        ...

    @property
    def action_names(self) -> tuple[str, ...]:
        """A names, as a person types them."""
        ...

    @property
    def symmetries(self) -> tuple[np.ndarray, np.ndarray]:
        """(cells [S, H·W], actions [S, A]) int32, see the class."""
        ...

    def init(self) -> GameState:
        """The first position."""
        ...

    def step(self, state: GameState, action: Array) -> GameState:
        """The position after a legal action; a terminated one stays as it is, whatever the action."""
        ...

    def legal_actions(self, state: GameState) -> Array:
        """[A] bool; all False after the end."""
        ...

    def observation(self, state: GameState) -> Array:
        """[H, W, C], bool or float32, from the side of the player to move: plane 0 his stones, plane 1 the other's."""
        ...


Opponent = Callable[[GameState], Array]  # position -> weights [A] >= 0 that an action is drawn by


def uniform_player(game: Game) -> Opponent:
    """The player that draws uniformly among the legal actions."""
    return lambda state: game.legal_actions(state).astype(jnp.float32)


def attacking_player(game: Game) -> Opponent:
    """The player that wins in one move where it can, and else draws uniformly among the legal actions."""

    def weights(state: GameState) -> Array:
        legal = game.legal_actions(state)
        after = jax.vmap(game.step, (None, 0))(state, jnp.arange(game.num_actions))
        wins = legal & (after.reward[:, state.player] > 0)
        return jnp.where(wins.any(), wins, legal).astype(jnp.float32)

    return weights


def draw_action(weights: Array, key: Array) -> Array:
    """An action drawn with probability proportional to its weight; action 0 where all are zero.

    Args:
      weights: [A], >= 0.
      key: used for the draw.

    Returns:
      int32 scalar.
    """
    return jax.random.categorical(key, jnp.log(weights)).astype(jnp.int32)


def replay(game: Game, moves: Array) -> GameState:
    """The position after the actions `moves` [T] int32 from the first position on; negative ones are passed over."""

    def body(state: GameState, action: Array) -> tuple[GameState, None]:
        after = game.step(state, jnp.maximum(action, 0))
        return choose(action >= 0, after, state), None

    return lax.scan(body, game.init(), moves)[0]


def choose(condition: Array, yes: Any, no: Any) -> Any:
    """`yes` where the scalar `condition` holds, else `no`, for two trees of one structure."""
    return jax.tree.map(lambda a, b: jnp.where(condition, a, b), yes, no)


def board_symmetries(height: int, width: int, *, turns: bool) -> np.ndarray:
    """Cell permutations [S, H·W]: the 8 of a square (`turns`), or identity and left-right mirror.

    Raises:
      ValueError: turns of a board that is not square.
    """
    if turns and height != width:
        raise ValueError(f"a board of {height} x {width} cells cannot be turned")
    cells = np.arange(height * width).reshape(height, width)
    turned = [np.rot90(cells, k) for k in range(4 if turns else 1)]
    return np.stack([view.ravel() for board in turned for view in (board, board[:, ::-1])]).astype(np.int32)


def stones(observation: np.ndarray, player: int) -> np.ndarray:
    """Who owns each cell [H, W]: 0 or 1, and -1 for nobody, from the observation of `player`."""
    mine, theirs = np.asarray(observation[..., 0]) > 0, np.asarray(observation[..., 1]) > 0
    return np.where(mine, player, np.where(theirs, 1 - player, -1))


def draw_board(owners: np.ndarray, names: Mapping[int, str] | None = None, marks: str = "XO", empty: str = "·") -> str:
    """The board as text.

    Args:
      owners: [H, W], see `stones`.
      names: what stands on empty cells (row-major number -> short text).
      marks: the stones of both players.
      empty: an empty cell without a name.
    """
    width = max([1, *map(len, (names or {}).values())])
    rows = []
    for i, row in enumerate(owners):
        cells = [
            marks[owner] if owner >= 0 else (names or {}).get(i * len(row) + j, empty) for j, owner in enumerate(row)
        ]
        rows.append(" ".join(cell.rjust(width) for cell in cells).rstrip())
    return "\n".join(rows)
