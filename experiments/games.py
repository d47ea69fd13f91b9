"""Board games by self-play as an experiment: games and opponents by name, matches as validation and test, positions as text."""

import dataclasses
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import flax.linen as nn
import jax.numpy as jnp
import numpy as np

from experiments.inputs import file_text, named_file
from jaxdl.data.source import Resident
from jaxdl.engine.experiment import Experiment, Phase, TrainConfig
from jaxdl.errors import UserError
from jaxdl.optimizers import depends_on_total_steps, describe, hyper_parameters, make_optimizer
from jaxdl.rl.alphazero import AlphaZero
from jaxdl.rl.game import Game, Opponent, attacking_player, uniform_player
from jaxdl.rl.pgx_adapter import GAMES as PGX_GAMES
from jaxdl.rl.search import GumbelSearch
from jaxdl.settings import setting

OWN = ("tic_tac_toe",)
_TEST_NUMBER = 1 << 20  # far from validation's game numbers, which the opponents' moves are drawn by


@dataclass(frozen=True)
class GameConfig:
    """What is played."""

    name: str = setting("tic_tac_toe", "the game; those of pgx need the [rl] extra", choices=(*OWN, *PGX_GAMES))


@dataclass(frozen=True)
class NetworkConfig:
    """Policy and value."""

    features: tuple[int, ...] = setting((128, 128), "units of the dense layers (where blocks is 0)", minimum=1)
    blocks: int = setting(0, "residual blocks; 0: dense layers", minimum=0)
    width: int = setting(32, "maps of the residual blocks", minimum=1)


@dataclass(frozen=True)
class SearchConfig:
    """How a move is searched."""

    simulations: int = setting(32, "simulations a move", minimum=1)
    considered: int = setting(16, "actions tried at the root, at most", minimum=1)
    value_scale: float = setting(0.1, "weight of values against the policy", minimum=0.0)


@dataclass(frozen=True)
class SelfPlayConfig:
    """What the network learns from."""

    plies: int = setting(8, "plies of every game in one step", minimum=1)
    updates: int = setting(8, "updates of the network in one step", minimum=1)
    samples: int = setting(4, "positions of each game's ring in one update", minimum=1)
    capacity: int = setting(64, "positions that are kept for each game", minimum=1)
    openings: int = setting(0, "a game begins with 0 to this many random plies", minimum=0)
    symmetries: bool = setting(True, "turn and mirror positions at random")
    gumbel_scale: float = setting(1.0, "exploration: scale of the noise at the root", minimum=0.0)
    value_weight: float = setting(1.0, "weight of the value's loss", minimum=0.0)


@dataclass(frozen=True)
class MatchConfig:
    """The games that an agent is judged by, half of them from each seat."""

    random: int = setting(512, "games against the uniformly random player", minimum=0)
    strong: int = setting(100, "games against the perfect player, or one that wins where it can in one move", minimum=0)


def make_game(name: str) -> Game:
    """The game called `name`.

    Raises:
      UserError: it needs the [rl] extra, which is not installed.
    """
    if name == "tic_tac_toe":
        from jaxdl.rl.tictactoe import TicTacToe

        return TicTacToe()
    from jaxdl.rl.pgx_adapter import PgxGame

    return PgxGame(name)


def opponents_of(game: Game) -> dict[str, Opponent]:
    """The strongest player that the game has for comparison, and the random one."""
    if game.name == "tic_tac_toe":
        from jaxdl.rl.tictactoe import perfect_player

        return {"perfect": perfect_player(), "random": uniform_player(game)}
    return {"attacking": attacking_player(game), "random": uniform_player(game)}


def matches(counts: Mapping[str, int], batch_size: int, first_number: int = 0) -> Resident:
    """Games to be played: against each opponent in turn, with the seats alternating.

    Args:
      counts: games against each opponent.
      batch_size: games played at once.
      first_number: of the first game; the opponents' moves are drawn by a game's number.

    Raises:
      UserError: no games at all.
    """
    opponent = np.repeat(np.arange(len(counts), dtype=np.int32), list(counts.values()))
    if not len(opponent):
        raise UserError("there is nothing to judge the agent by: --match.random and --match.strong are both 0")
    number = np.arange(len(opponent), dtype=np.int32)
    seat = np.concatenate([np.arange(count, dtype=np.int32) % 2 for count in counts.values()])
    arrays = {"opponent": opponent, "seat": seat, "number": number + first_number}
    return Resident.of(arrays, batch_size, shuffle=False)


def network(config: NetworkConfig, game: Game) -> nn.Module:
    """Dense layers, or residual blocks."""
    from jaxdl.models.alphazero import PolicyValueMLP, PolicyValueResNet

    if config.blocks:
        return PolicyValueResNet(game.num_actions, config.width, config.blocks)
    return PolicyValueMLP(game.num_actions, config.features)


def alphazero(config: Any, **changes: Any) -> Experiment:
    """Self-play with search, judged by games against other players.

    Args:
      config: a recipe's, with `game`, `model`, `search`, `play`, `match`, `optimizer` and `train`.
      **changes: fields of Experiment that differ.
    """
    game = make_game(config.game.name)
    opponents = opponents_of(game)
    counts = dict(zip(opponents, (config.match.strong, config.match.random), strict=True))
    train: TrainConfig = config.train
    phase = Phase(
        name="train",
        task=task_for(config, game, opponents),
        source=None,
        steps=train.steps,
        hyper={
            **hyper_parameters(config.optimizer),
            "gumbel_scale": config.play.gumbel_scale,
            "value_weight": config.play.value_weight,
        },
        evaluations={"validation": matches(counts, train.eval_batch_size)},
        patience=train.patience,
    )
    experiment = Experiment(
        name="",
        phases=(phase,),
        train=train,
        reported="last",
        final={"test": matches(counts, train.eval_batch_size, _TEST_NUMBER)},
        data={"name": game.name},
        items="moves",
        report=lambda view: _report(view, counts),
        read_input=reader(game),
        show=describe_position(game),
        facts={
            "game": f"{game.name}, {train.batch_size} at once, {config.search.simulations} simulations a move",
            "optimiser": describe(config.optimizer),
        },
        steps_may_grow=not depends_on_total_steps(config.optimizer),
    )
    return dataclasses.replace(experiment, **changes)


def task_for(config: Any, game: Game, opponents: Mapping[str, Opponent]) -> AlphaZero:
    """The task of a recipe's configuration."""
    search, play, train = config.search, config.play, config.train
    return AlphaZero(
        game=game,
        model=network(config.model, game),
        optimizer=make_optimizer(config.optimizer, max(1, train.steps * play.updates)),
        search=GumbelSearch(game, search.simulations, search.considered, search.value_scale),
        opponents=opponents,
        games=train.batch_size,
        plies=play.plies,
        updates=play.updates,
        samples=play.samples,
        capacity=play.capacity,
        openings=play.openings,
        symmetries=play.symmetries,
        ema_decay=config.optimizer.ema_decay,
    )


# --- positions as text ----------------------------------------------------------------------------------------------


def reader(game: Game) -> Callable[[str], dict]:
    """A position as text, or a file that holds it -> {"moves": [T] int32}: a board ("X.O/.X./..O", in a file also a row a
    line) or the moves so far ("5,1,3")."""

    def read(given: str) -> dict:
        path = named_file(given)
        text = given if path is None else file_text(path)
        moves = np.full(game.max_plies, -1, np.int32)
        found = parse_position(game, text)
        moves[: len(found)] = found
        return {"moves": moves}

    return read


def parse_position(game: Game, text: str) -> list[int]:
    """The actions that lead to a position given as text.

    Raises:
      UserError: it is no position of this game, or none in which there is a move to make.
    """
    known = {name.lower(): action for action, name in enumerate(game.action_names)}
    names = [part.strip().lower() for part in text.split(",") if part.strip()]
    try:
        if game.name == "tic_tac_toe" and not all(name in known for name in names):
            from jaxdl.rl.tictactoe import moves_to

            return moves_to(text)
        return _checked(game, [_known_move(game, known, name) for name in names])
    except ValueError as error:
        raise UserError(str(error)) from error


def _known_move(game: Game, known: Mapping[str, int], name: str) -> int:
    if name not in known:
        raise ValueError(f"{name!r} is no move of {game.name}: give the moves so far, as in {','.join([*known][:3])}")
    return known[name]


def _checked(game: Game, moves: list[int]) -> list[int]:
    state = game.init()
    for action in moves:
        if not bool(game.legal_actions(state)[action]):
            raise ValueError(f"{game.action_names[action]} is no legal move where it stands")
        state = game.step(state, jnp.int32(action))
    if bool(state.terminated):
        raise ValueError("the game is over after these moves: there is no move to make")
    return moves


def describe_position(game: Game) -> Callable[[dict], dict]:
    """What the search says of one position -> best move, its weight, value and the next best moves."""

    def describe(found: dict) -> dict:
        # over several seeds the outputs are means: the seeds vote, and their policies decide between equals
        policy = np.where(found["legal"] > 0, np.asarray(found["policy"], np.float64), 0.0)
        sorted_actions = np.argsort(-(np.asarray(found["choice"], np.float64) + 1e-3 * policy), kind="stable")
        order = [int(action) for action in sorted_actions if found["legal"][action] > 0][:5]
        if not order:
            raise UserError("the game is over in this position, or a move on the way to it was not legal")
        top = [{"label": game.action_names[a], "confidence": float(policy[a])} for a in order]
        value = float(found["value"])
        player = "XO"[round(float(found["player"]))]
        return {**top[0], "top": top, "value": value, "player": player}

    return describe


def _report(view: Any, counts: Mapping[str, int]) -> list:
    from experiments.games_report import report

    return report(view, counts)
