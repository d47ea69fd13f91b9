"""AlphaZero on tic-tac-toe: self-play with Gumbel search, judged against random and perfect play.

Silver et al.: A general reinforcement learning algorithm that masters chess, shogi, and Go through self-play, Science
362 (2018); search: Danihelka et al., Policy improvement by planning with Gumbel, ICLR 2022.

    python -m experiments.train --recipe=tictactoe_alphazero
    python -m experiments.play --workdir=runs/tictactoe_alphazero
    python -m experiments.predict --workdir=runs/tictactoe_alphazero --input=X.O/.X./..O

Expected: no loss in 512 games against the random player and none in 100 against the perfect one.
"""

from dataclasses import dataclass

from experiments.games import GameConfig, MatchConfig, NetworkConfig, SearchConfig, SelfPlayConfig, alphazero
from jaxdl.engine.experiment import Experiment, TrainConfig
from jaxdl.optimizers import OptimizerConfig


@dataclass(frozen=True)
class Config:
    """Everything that can change the result."""

    game: GameConfig = GameConfig(name="tic_tac_toe")
    model: NetworkConfig = NetworkConfig()
    search: SearchConfig = SearchConfig()
    play: SelfPlayConfig = SelfPlayConfig(openings=6)
    match: MatchConfig = MatchConfig()
    optimizer: OptimizerConfig = OptimizerConfig(name="adam", learning_rate=5e-3, schedule="cosine")
    train: TrainConfig = TrainConfig(
        steps=100, batch_size=128, eval_batch_size=208, eval_every=25, log_every=5, checkpoint_every=50
    )


def build(config: Config) -> Experiment:
    """The experiment."""
    return alphazero(config)
