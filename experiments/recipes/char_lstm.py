"""Characters by a recurrent network: a two-layer LSTM writes on in the style of its text.

Hochreiter and Schmidhuber: Long short-term memory, Neural Computation 1997; the variants by Gers et al. 2000 (forget
gate), Cho et al. 2014 (gru) and Mikolov et al. 2010 (rnn); as a writer of texts: Karpathy, char-rnn, 2015.

    python -m experiments.train --recipe=char_lstm                    # source of Python's standard library
    python -m experiments.train --recipe=char_lstm:rnn                # a plain tanh network in the LSTM's place
    python -m experiments.train --recipe=char_lstm:gru                # gated recurrent units in the LSTM's place
    python -m experiments.train --recipe=char_lstm:window             # no recurrence: a fixed window of characters
    python -m experiments.train --recipe=char_lstm:tiny_shakespeare   # tiny_shakespeare, 2 x 256 units with dropout
    python -m experiments.train --recipe=char_lstm:tiny_shakespeare --model.cell=gru --workdir=runs/char_gru
    python -m experiments.train --recipe=char_lstm --data.name=file --data.dir=story.txt
    python -m experiments.sample --workdir=runs/char_lstm-tiny_shakespeare --length=2000 --temperature=0.8

Published on tiny_shakespeare (90/10): LSTM, GRU and minGRU about 1.55 nats per character. Measured here: the README's
table of recipes.
"""

import functools
from dataclasses import dataclass, replace
from typing import Any

from experiments.text import language_model
from jaxdl.data.text import TextConfig
from jaxdl.engine.experiment import Experiment, TrainConfig
from jaxdl.optimizers import OptimizerConfig
from jaxdl.settings import setting

CELLS = ("rnn", "lstm", "gru", "window")


@dataclass(frozen=True)
class ModelConfig:
    """The network."""

    cell: str = setting("lstm", "recurrent cell; window: none, but a fixed window of characters", choices=CELLS)
    features: tuple[int, ...] = setting((128, 128), "units of each layer; of the hidden layer for window", minimum=1)
    embedding: int = setting(64, "size of the characters' vectors", minimum=1)
    dropout: float = setting(
        0.0, "share of units dropped between layers and before the scores", minimum=0.0, maximum=0.9
    )
    peepholes: bool = setting(False, "lstm: the gates see the cell state")
    learn_initial: bool = setting(False, "the first state is learnt instead of zero")
    window: int = setting(8, "window: how many characters are seen", minimum=1)


@dataclass(frozen=True)
class Config:
    """Everything that can change the result."""

    data: TextConfig = TextConfig(name="stdlib", length=64)
    model: ModelConfig = ModelConfig()
    optimizer: OptimizerConfig = OptimizerConfig(
        name="adam", learning_rate=4e-3, schedule="cosine", warmup_steps=50, clip_norm=1.0
    )
    train: TrainConfig = TrainConfig(
        steps=2000, batch_size=32, eval_batch_size=64, eval_every=500, log_every=50, checkpoint_every=500
    )


def _variant(cell: str, **changes) -> Config:
    return replace(Config(), model=replace(ModelConfig(), cell=cell, **changes))


VARIANTS = {
    "rnn": _variant("rnn"),
    "gru": _variant("gru"),
    "window": _variant("window", features=(256,)),
    "tiny_shakespeare": replace(
        Config(),
        data=TextConfig(name="tiny_shakespeare", length=64),
        model=ModelConfig(features=(256, 256), dropout=0.2),
        train=TrainConfig(
            steps=3000, batch_size=64, eval_batch_size=64, eval_every=250, log_every=50, checkpoint_every=500
        ),
    ),
}


def build(config: Config) -> Experiment:
    """The experiment."""
    return language_model(config, functools.partial(network, config))


def network(config: Config, vocabulary: int) -> Any:
    """The model for a number of characters."""
    from jaxdl.models.rnn import RecurrentLM, WindowLM

    model = config.model
    if model.cell == "window":
        return WindowLM(vocabulary, model.window, model.features[0], model.embedding, model.dropout)
    return RecurrentLM(
        vocabulary,
        model.features,
        model.cell,
        model.embedding,
        model.dropout,
        peepholes=model.peepholes,
        learn_initial=model.learn_initial,
    )
