"""What the report of a board-game agent shows, from a finished run."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from jaxdl.reports.games import (
    Position,
    accuracy_section,
    game_section,
    mean_scores,
    positions_section,
    results_section,
)
from jaxdl.reports.page import Section
from jaxdl.rl.alphazero import SEATS
from jaxdl.rl.game import Game, stones

_AT_ONCE = 64
# tic-tac-toe positions that every player should know
_KNOWN = (
    ("an empty board", "........."),
    ("the centre is taken", "....X...."),
    ("a win in one", "XX./OO./..."),
    ("a threat to block", "X.O/.OX/..."),
    ("opposite corners", "X../.O./..X"),
)


def report(view: Any, counts: Mapping[str, int]) -> list[Section]:
    """Sections: games, accuracy over all positions (where they are known), policies on the board, a game."""
    task = view.experiment.phases[-1].task
    look = looker(task, view.state(view.done[0]))

    def test(name: str) -> list[float]:
        return view.values(f"test/{name}")

    seats = list(zip(SEATS, ("first", "second"), strict=True))
    sections = [results_section(mean_scores(test, list(counts), seats, _played(view, counts)))]
    game = task.game
    if game.name == "tic_tac_toe":
        from jaxdl.rl.tictactoe import moves_to

        sections.append(_accuracy(look))
        known = {title: moves_to(board) for title, board in _KNOWN}
        found = _positions(game, look, known, _optimal)
    else:
        plies = _game(game, look)
        known = {f"after {len(moves)} plies": moves for moves in (plies[: len(plies) * k // 4] for k in range(4))}
        found = _positions(game, look, known, None)
    sections.append(positions_section(found))
    sections.append(_example_game(game, look))
    return sections


def looker(task: Any, state: Any) -> Callable[[Sequence[Sequence[int]]], dict[str, np.ndarray]]:
    """Lists of actions so far -> what rules, network and search say of each position, [n, ...]; compiled once."""
    from jaxdl.engine.compiled import predictor

    asked = predictor(task, state)

    def look(lines: Sequence[Sequence[int]]) -> dict[str, np.ndarray]:
        padded = np.full((-(-len(lines) // _AT_ONCE) * _AT_ONCE, task.game.max_plies), -1, np.int32)
        for row, moves in zip(padded, lines, strict=False):
            row[: len(moves)] = moves
        parts = [asked({"moves": part}) for part in np.split(padded, len(padded) // _AT_ONCE)]
        return {name: np.concatenate([part[name] for part in parts])[: len(lines)] for name in parts[0]}

    return look


def _played(view: Any, counts: Mapping[str, int]) -> dict[str, int]:
    """Games of each opponent in the test split; a smoke run plays the first ones only."""
    source = view.experiment.final["test"]
    opponent = np.asarray(source.arrays["opponent"])[: source.size]
    return {name: int((opponent == index).sum()) for index, name in enumerate(counts)}


def _accuracy(look: Callable) -> Section:
    from jaxdl.rl.tictactoe import CODES, count_results, every_position, perfect_play

    codes, lines = every_position()
    found, perfect = look(lines), perfect_play()
    actions = np.zeros(CODES, int)
    actions[codes] = found["action"]
    against_all = [count_results(actions, seat) for seat in (0, 1)]
    rows, value = np.arange(len(codes)), perfect.value[codes]
    prior = np.where(found["legal"], found["prior"], -1).argmax(axis=1)
    chosen = (("the network alone", prior, found["guess"]), ("the search", found["action"], found["value"]))
    table = [
        (name, float(perfect.optimal[codes][rows, action].mean()), float(np.abs(guess - value).mean()))
        for name, action, guess in chosen
    ]
    return accuracy_section(table, len(codes), against_all)


def _optimal(moves: Sequence[int]) -> np.ndarray:
    from jaxdl.rl.tictactoe import code_of, perfect_play

    return perfect_play().optimal[code_of(moves)]


def _positions(
    game: Game, look: Callable, known: Mapping[str, Sequence[int]], optimal: Callable | None
) -> list[Position]:
    found = look(list(known.values()))
    positions = []
    for i, (title, moves) in enumerate(known.items()):
        legal, player = found["legal"][i], int(found["player"][i])
        positions.append(
            Position(
                title=title,
                owners=stones(found["observation"][i], player),
                prior=np.where(legal, found["prior"][i], 0.0),
                policy=np.where(legal, found["policy"][i], 0.0),
                value=float(found["value"][i]),
                player=player,
                optimal=None if optimal is None else optimal(moves),
            )
        )
    return positions


def _game(game: Game, look: Callable) -> list[int]:
    """The actions of a game of the agent against itself."""
    moves: list[int] = []
    while not (found := look([moves]))["terminated"][0]:
        moves.append(int(found["action"][0]))
    return moves


def _example_game(game: Game, look: Callable) -> Section:
    moves = _game(game, look)
    found = look([moves[: ply + 1] for ply in range(len(moves))])
    plies = []
    before = np.full(game.observation_shape[:2], -1)
    for ply, action in enumerate(moves):
        player = int(found["player"][ply])
        owners = stones(found["observation"][ply], player)
        new = np.flatnonzero((owners != before) & (owners >= 0))
        mine = [cell for cell in new if before.ravel()[cell] < 0]
        ended = bool(found["terminated"][ply])
        value = float("nan") if ended else float(found["value"][ply])
        title = f"{ply + 1}. {'XO'[ply % 2]} {game.action_names[action]}"
        nothing = np.zeros(game.num_actions)
        plies.append(Position(title, owners, nothing, nothing, value, player, last=int(mine[0]) if mine else -1))
        before = owners
    reward = found["reward"][-1][0]
    return game_section(plies, "X wins." if reward > 0 else "O wins." if reward < 0 else "A draw.")
