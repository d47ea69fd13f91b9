"""Dates by an encoder-decoder Transformer: "3 March 2021" becomes "2021-03-03".

Vaswani et al.: Attention is all you need, NeurIPS 2017, in small and with normalisation before each sublayer.

    python -m experiments.train --recipe=dates_transformer
    python -m experiments.predict --workdir=runs/dates_transformer --input="3rd of March '21" --input=dates.txt

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

    layers: int = setting(2, "blocks of the encoder, and of the decoder", minimum=1)
    features: int = setting(64, "size of a character's vector", minimum=2)
    heads: int = setting(4, "heads of each attention", minimum=1)
    positions: str = setting("sinusoidal", "positions", choices=("learned", "sinusoidal", "rotary", "none"))
    norm: str = setting("pre", "normalisation before or after each sublayer", choices=("pre", "post"))
    tied: bool = setting(False, "scores are products with the characters' vectors")
    dropout: float = setting(0.0, "share of weights and units dropped", minimum=0.0, maximum=0.9)


@dataclass(frozen=True)
class Config:
    """Everything that can change the result."""

    data: DatesConfig = DatesConfig()
    model: ModelConfig = ModelConfig()
    decode: DecodeConfig = DecodeConfig()
    loss: LossConfig = LossConfig()
    optimizer: OptimizerConfig = OptimizerConfig(
        name="adamw",
        learning_rate=3e-3,
        schedule="cosine",
        warmup_steps=100,
        beta2=0.98,
        weight_decay=0.01,
        clip_norm=1.0,
    )
    train: TrainConfig = TrainConfig(
        steps=2000, batch_size=64, eval_batch_size=250, eval_every=250, log_every=50, checkpoint_every=500
    )


def build(config: Config) -> Experiment:
    """The experiment."""
    from jaxdl.models.transformer import EncoderDecoder, Shape

    model = config.model
    shape = Shape(model.features, model.heads, norm=model.norm, positions=model.positions, dropout=model.dropout)

    def network(source: int, target: int, length: int) -> EncoderDecoder:
        return EncoderDecoder(source, target, length, shape, model.layers, model.tied)

    return dates_experiment(config, network, f"decoder_{model.layers - 1}/cross_attention", halves=True)
