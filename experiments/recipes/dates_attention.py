"""Dates by a recurrent encoder-decoder with additive attention: "3 March 2021" becomes "2021-03-03".

Bahdanau, Cho, Bengio: Neural machine translation by jointly learning to align and translate, ICLR 2015.

    python -m experiments.train --recipe=dates_attention
    python -m experiments.predict --workdir=runs/dates_attention --input="3rd of March '21" --input=dates.txt

Generated data (20,000 dates in 26 ways of writing, nothing to download); a file for predict holds one date a line.
Published: none. Measured here: the README's table of recipes.
"""

from dataclasses import dataclass

from experiments.dates import DecodeConfig, LossConfig, dates_experiment
from jaxdl.data.dates import DatesConfig
from jaxdl.engine.experiment import Experiment, TrainConfig
from jaxdl.optimizers import OptimizerConfig
from jaxdl.settings import setting


@dataclass(frozen=True)
class ModelConfig:
    """The network."""

    features: int = setting(96, "units of each encoder direction, of the decoder and of the attention", minimum=1)
    embedding: int = setting(32, "size of the characters' vectors", minimum=1)
    cell: str = setting("gru", "recurrent cell", choices=("rnn", "lstm", "gru"))
    layers: int = setting(1, "encoder layers", minimum=1)
    dropout: float = setting(0.0, "share of units dropped", minimum=0.0, maximum=0.9)


@dataclass(frozen=True)
class Config:
    """Everything that can change the result."""

    data: DatesConfig = DatesConfig()
    model: ModelConfig = ModelConfig()
    decode: DecodeConfig = DecodeConfig()
    loss: LossConfig = LossConfig()
    optimizer: OptimizerConfig = OptimizerConfig(
        name="adam", learning_rate=4e-3, schedule="cosine", warmup_steps=50, clip_norm=1.0
    )
    train: TrainConfig = TrainConfig(
        steps=2000, batch_size=64, eval_batch_size=250, eval_every=250, log_every=50, checkpoint_every=500
    )


def build(config: Config) -> Experiment:
    """The experiment."""
    from jaxdl.models.seq2seq import AttentionSeq2Seq

    model = config.model

    def network(source: int, target: int, length: int) -> AttentionSeq2Seq:
        del length
        return AttentionSeq2Seq(
            source, target, model.features, model.embedding, model.cell, model.layers, model.dropout
        )

    return dates_experiment(config, network)
