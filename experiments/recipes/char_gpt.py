"""Characters by a decoder-only Transformer: nanoGPT's two settings for tiny_shakespeare; the default is the small one.

Radford et al.: Language models are unsupervised multitask learners, 2019 (GPT-2); Karpathy: nanoGPT, README and
config/train_shakespeare_char.py.

    python -m experiments.train --recipe=char_gpt:cpu    # nanoGPT's setting for a CPU: 4 layers, 128 wide, context 64
    python -m experiments.train --recipe=char_gpt:gpu    # nanoGPT's setting for a GPU: 6 layers, 384 wide, context 256
    python -m experiments.train --recipe=char_gpt:cpu --data.name=tiny_shakespeare --seeds=3
    python -m experiments.train --recipe=char_gpt:gpu --data.name=tiny_shakespeare --precision=bfloat16
    python -m experiments.sample --workdir=runs/char_gpt-cpu --length=1000 --temperature=0.8

Published on tiny_shakespeare: 1.88 (`cpu`, 20 batches of random windows) and 1.4697 nats per character (`gpu`, 200 of
them). Here the loss is that of the whole validation split, read in windows from position 0 that do not overlap, and the
windows of training come in shuffled epochs. Two thousand steps are too few for nanoGPT's learning rate of 1e-3: `cpu`
takes 2e-3. --optimizer.learning_rate=1e-3 is nanoGPT's setting to the letter. Measured here: the README's table of recipes.
"""

import functools
from dataclasses import dataclass, replace
from typing import Any

from experiments.text import language_model
from jaxdl.data.text import TextConfig
from jaxdl.engine.experiment import Experiment, TrainConfig
from jaxdl.nn.activations import PLAIN_ACTIVATIONS
from jaxdl.optimizers import OptimizerConfig
from jaxdl.settings import setting


@dataclass(frozen=True)
class ModelConfig:
    """The network; defaults as nanoGPT's for CPU."""

    layers: int = setting(4, "blocks", minimum=1)
    heads: int = setting(4, "heads of each attention", minimum=1)
    features: int = setting(128, "size of a character's vector", minimum=2)
    positions: str = setting("learned", "positions", choices=("learned", "sinusoidal", "rotary", "none"))
    norm: str = setting("pre", "normalisation before or after each sublayer", choices=("pre", "post"))
    activation: str = setting("gelu", "of the feed-forward sublayers", choices=PLAIN_ACTIVATIONS)
    use_bias: bool = setting(False, "whether layers have biases")
    tied: bool = setting(True, "scores are products with the characters' vectors")
    dropout: float = setting(0.0, "share of weights and units dropped", minimum=0.0, maximum=0.9)


@dataclass(frozen=True)
class Config:
    """Everything that can change the result."""

    data: TextConfig = TextConfig(name="pydoc_topics", length=64)
    model: ModelConfig = ModelConfig()
    optimizer: OptimizerConfig = OptimizerConfig(
        name="adamw",
        learning_rate=2e-3,
        schedule="cosine",
        schedule_floor=0.1,
        warmup_steps=100,
        beta2=0.99,
        weight_decay=0.1,
        clip_norm=1.0,
    )
    train: TrainConfig = TrainConfig(
        steps=2000, batch_size=12, eval_batch_size=48, eval_every=250, log_every=50, checkpoint_every=500
    )


VARIANTS = {
    "cpu": Config(),
    "gpu": replace(
        Config(),
        data=TextConfig(name="pydoc_topics", length=256),
        model=ModelConfig(layers=6, heads=6, features=384, dropout=0.2),
        optimizer=replace(Config().optimizer, learning_rate=1e-3),
        train=TrainConfig(
            steps=5000, batch_size=64, eval_batch_size=64, eval_every=250, log_every=50, checkpoint_every=1000
        ),
    ),
}


def build(config: Config) -> Experiment:
    """The experiment."""
    return language_model(config, functools.partial(network, config))


def network(config: Config, vocabulary: int) -> Any:
    """The model for a number of characters."""
    from jaxdl.models.transformer import Shape, TransformerLM

    model = config.model
    shape = Shape(
        model.features,
        model.heads,
        norm=model.norm,
        activation=model.activation,
        use_bias=model.use_bias,
        positions=model.positions,
        dropout=model.dropout,
    )
    return TransformerLM(vocabulary, config.data.length, shape, model.layers, model.tied)
