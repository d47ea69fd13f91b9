"""What a board-game agent's report shows: results by opponent and seat, policies on the board, a game.

Legend: `A` actions, `H`, `W` rows and columns of the board.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from jaxdl.reports.page import Figure, Section, Table
from jaxdl.reports.style import BLUE, GREEN, GREY, LIGHT_GREY, VERMILLION, image_only, new_figure, percent, plain

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_DARK = "#30373f"


@dataclass(frozen=True)
class Score:
    """Results against one opponent from one seat; shares of `games`, means over the seeds of a run."""

    opponent: str
    seat: str
    games: int
    wins: float
    losses: float

    @property
    def draws(self) -> float:
        """What is neither."""
        return max(0.0, 1.0 - self.wins - self.losses)


@dataclass(frozen=True)
class Position:
    """A position and what is thought of it.

    Attributes:
      title: what it shows.
      owners: [H, W], 0 or 1 for the player whose stone lies there, -1 for none.
      prior: [A], the network's policy.
      policy: [A], the search's improved policy.
      value: of the search, in [-1, 1], for the player to move.
      player: who is to move, 0 or 1.
      optimal: [A] bool, moves that keep the game's true value; None where it is not known.
      last: the cell (row-major) of the last move, -1 for none.
    """

    title: str
    owners: np.ndarray
    prior: np.ndarray
    policy: np.ndarray
    value: float
    player: int
    optimal: np.ndarray | None = None
    last: int = -1


def results_section(scores: Sequence[Score], text: str = "") -> Section:
    """A table and bars of wins, draws and losses; empty without scores."""
    if not scores:
        return Section("Games")
    rows = [
        [
            one.opponent,
            one.seat,
            one.games,
            *(f"{round(share * one.games)} ({percent(share)})" for share in (one.wins, one.draws, one.losses)),
        ]
        for one in scores
    ]
    caption = "Wins, draws and losses of the agent; over several seeds their mean."
    table = Table("", ["opponent", "the agent moves", "games", "wins", "draws", "losses"], rows, caption, wide=True)
    seen = "The agent's wins, draws and losses against each opponent from both seats."
    return Section("Games", [Figure("games", seen, lambda: draw_results(scores)), table], text)


def draw_results(scores: Sequence[Score]):
    """Stacked bars as a matplotlib Figure: one line for each opponent and seat, the first one on top."""
    figure = new_figure(5.2, 1.3 + 0.42 * len(scores))
    axes = figure.add_subplot()
    places = np.arange(len(scores))
    left = np.zeros(len(scores))
    for name, color in (("wins", BLUE), ("draws", LIGHT_GREY), ("losses", VERMILLION)):
        shares = np.array([getattr(one, name) for one in scores])
        axes.barh(places, shares, left=left, color=color, label=name, height=0.7)
        left += shares
    axes.set_yticks(places, [f"{plain(one.opponent)}, {plain(one.seat)}" for one in scores])
    axes.set_ylim(len(scores) - 0.5, -0.5)
    axes.set_xlim(0, 1)
    axes.grid(False)
    axes.xaxis.set_major_formatter(lambda value, place: f"{100 * value:.0f} %")
    axes.set_xlabel("share of the games")
    figure.legend(loc="outside lower center", ncols=3)
    return figure


def accuracy_section(
    rows: Sequence[tuple[str, float, float]], positions: int, against_all: Sequence[tuple[int, int, int]]
) -> Section:
    """How often the chosen move keeps the game's true value, and what every possible line of play leads to.

    Args:
      rows: (who chooses, share of the positions, mean absolute error of its value).
      positions: how many.
      against_all: (wins, draws, losses) of the agent over all lines of the other's moves, from each seat.
    """
    caption = (
        f"Over all {positions:,} positions of the game with a move to make, whatever play leads there. A move is right "
        "if it keeps the value that minimax gives the position."
    )
    cells = [[name, percent(share, 2), f"{error:.3f}"] for name, share, error in rows]
    header = ["who chooses", "right moves", "mean error of the value"]
    seats = ("first", "second")
    results = [[seat, sum(found), *found] for seat, found in zip(seats, against_all, strict=True)]
    every = (
        "The agent always plays the same move in the same position, so its games against all lines of the other's "
        "moves can be counted: without a loss here nobody can beat it."
    )
    tables = [
        Table("Right moves", header, cells, caption),
        Table("Against every reply", ["the agent moves", "lines", "wins", "draws", "losses"], results, every),
    ]
    return Section("All positions", tables)


def positions_section(positions: Sequence[Position], text: str = "") -> Section:
    """Boards with the network's policy, the search's, and the moves that are right; empty without positions."""
    if not positions:
        return Section("What the search adds")
    caption = (
        "Each line is a position: the network's policy, the improved policy of the search, and where it is known the "
        "moves that keep the game's true value. Numbers are percent; a darker cell is more likely."
    )
    figure = Figure("positions", caption, lambda: draw_positions(positions), wide=True)
    return Section("What the search adds", [figure], text)


def draw_positions(positions: Sequence[Position]):
    """The lines of `positions_section` as a matplotlib Figure."""
    known = all(one.optimal is not None for one in positions)
    columns = ["network", "search", *(["right moves"] if known else [])]
    figure = new_figure(2.0 * len(columns) + 1.7, 2.15 * len(positions) + 0.3)
    grid = figure.subplots(len(positions), len(columns), squeeze=False)
    for row, (line, one) in enumerate(zip(grid, positions, strict=True)):
        weights = [one.prior, one.policy]
        if one.optimal is not None and known:
            weights.append(np.asarray(one.optimal, float))
        for axes, column, weight in zip(line, columns, weights, strict=True):
            color = GREEN if column == "right moves" else BLUE
            draw_board(axes, one.owners, cell_weights(weight, one.owners), color, numbers=column != "right moves")
            if row == 0:
                axes.set_title(column)
        side = f"{'XO'[one.player]} to move, value {signed(one.value)}"
        line[0].set_ylabel(f"{plain(one.title, 40)}\n{side}", fontsize=10, color=_DARK)
    return figure


def game_section(plies: Sequence[Position], result: str) -> Section:
    """A game of the agent against itself, one board after each ply; empty without plies."""
    if not plies:
        return Section("A game against itself")
    caption = (
        f"Boards after each ply, the newest stone in red; below, the search's value for the player to move. {result}"
    )
    return Section("A game against itself", [Figure("game", caption, lambda: draw_game(plies), wide=True)])


def draw_game(plies: Sequence[Position], columns: int = 5):
    """The boards of `game_section` as a matplotlib Figure."""
    lines = -(-len(plies) // columns)
    figure = new_figure(1.7 * columns, 2.1 * lines)
    grid = figure.subplots(lines, columns, squeeze=False).ravel()
    for axes, one in zip(grid, plies, strict=False):
        draw_board(axes, one.owners, np.zeros(one.owners.shape), BLUE, numbers=False, last=one.last)
        axes.set_title(plain(one.title), fontsize=10.5)
        axes.set_xlabel(f"value {signed(one.value)}" if np.isfinite(one.value) else "", fontsize=10)
    for axes in grid[len(plies) :]:
        axes.set_visible(False)
    return figure


def draw_board(
    axes: "Axes", owners: np.ndarray, weights: np.ndarray, color: str, numbers: bool = True, last: int = -1
) -> None:
    """One board: stones as X and O, empty cells shaded by weights [H, W] in 0 ... 1."""
    from matplotlib.colors import to_rgb
    from matplotlib.patches import Rectangle

    height, width = owners.shape
    size = min(20.0, 70.0 / max(height, width))
    for i in range(height):
        for j in range(width):
            share = float(weights[i, j])
            faint = 1.0 - 0.75 * min(max(share, 0.0), 1.0) * np.array([1 - c for c in to_rgb(color)])
            axes.add_patch(Rectangle((j, i), 1, 1, facecolor=tuple(faint), edgecolor=GREY, linewidth=0.8))
            if owners[i, j] >= 0:
                newest = i * width + j == last
                mark, shade = "XO"[owners[i, j]], VERMILLION if newest else _DARK
                axes.text(j + 0.5, i + 0.5, mark, ha="center", va="center", fontsize=size, color=shade, weight="bold")
            elif numbers and share >= 0.005:
                text = f"{100 * share:.0f}"
                axes.text(j + 0.5, i + 0.5, text, ha="center", va="center", fontsize=0.62 * size, color=_DARK)
    image_only(axes)
    axes.set_xlim(-0.02, width + 0.02)
    axes.set_ylim(height + 0.02, -0.02)
    axes.set_aspect("equal")


def signed(value: float) -> str:
    """A value with its sign, "+0.12"; nothing is "-0.00"."""
    return f"{round(value, 2) + 0.0:+.2f}"


def cell_weights(weights: np.ndarray, owners: np.ndarray) -> np.ndarray:
    """Weights of actions [A] as cells [H, W]: fields (a pass is left out), or columns, whose lowest free cell gets it."""
    height, width = owners.shape
    weights = np.asarray(weights, float)
    if len(weights) >= height * width:
        return weights[: height * width].reshape(height, width)
    found = np.zeros((height, width))
    for column in range(width):
        free = np.flatnonzero(owners[:, column] < 0)
        if len(free):
            found[free[-1], column] = weights[column]
    return found


def mean_scores(metrics: Any, opponents: Sequence[str], seats: Sequence[tuple[str, str]], games: Any) -> list[Score]:
    """Scores from a run's metrics.

    Args:
      metrics: name -> values of each seed, by a function; "<seat>/wins_<opponent>" and "<seat>/losses_<opponent>".
      opponents: their names.
      seats: (name in the metrics, name in the table).
      games: opponent -> games from both seats.
    """
    scores = []
    for opponent in opponents:
        for number, (seat, shown) in enumerate(seats):
            wins, losses = metrics(f"{seat}/wins_{opponent}"), metrics(f"{seat}/losses_{opponent}")
            if len(wins):
                count = (games[opponent] + 1 - number) // 2
                scores.append(Score(opponent, shown, count, float(np.mean(wins)), float(np.mean(losses))))
    return scores
