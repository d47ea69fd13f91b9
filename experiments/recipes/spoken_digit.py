"""Single spoken digits from log-mel spectrograms by a small convolutional network.

Free Spoken Digit Dataset (Jackson et al., github.com/Jakobovski/free-spoken-digit-dataset), official split: takes 0-4 of
each digit and speaker are the test set. Recordings of any length; masks make the padding invisible.

    python -m experiments.train --recipe=spoken_digit         # synthetic tone digits, nothing to download
    python -m experiments.train --recipe=spoken_digit:fsdd    # the real recordings
    python -m experiments.predict --workdir=runs/spoken_digit-fsdd --input=seven.wav

Measured here: the README's table of recipes.
"""

from dataclasses import dataclass, replace

from experiments.images import LossConfig
from experiments.speech import single_digits
from jaxdl.data.digit_strings import VariationConfig
from jaxdl.data.spectrogram import FeatureConfig, SpecAugmentConfig
from jaxdl.data.speech import SpeechConfig
from jaxdl.engine.experiment import Experiment, TrainConfig
from jaxdl.optimizers import OptimizerConfig
from jaxdl.settings import setting


@dataclass(frozen=True)
class ModelConfig:
    """The network."""

    features: tuple[int, ...] = setting((16, 32, 48), "maps of the convolutions, each of stride 2", minimum=1)
    hidden: int = setting(96, "units of the dense layer", minimum=1)
    dropout: float = setting(0.2, "share of units dropped in front of each dense layer", minimum=0.0, maximum=0.99)


@dataclass(frozen=True)
class Config:
    """Everything that can change the result."""

    data: SpeechConfig = SpeechConfig()
    features: FeatureConfig = FeatureConfig()
    vary: VariationConfig = VariationConfig()
    mask: SpecAugmentConfig = SpecAugmentConfig(bands=1, stretches=1, stretch_width=10)
    model: ModelConfig = ModelConfig()
    optimizer: OptimizerConfig = OptimizerConfig(name="adamw", learning_rate=3e-3, schedule="cosine", warmup_steps=50)
    loss: LossConfig = LossConfig(label_smoothing=0.05)
    train: TrainConfig = TrainConfig(
        steps=600, batch_size=64, eval_batch_size=64, eval_every=60, log_every=20, checkpoint_every=200
    )


VARIANTS = {
    "fsdd": replace(
        Config(),
        data=SpeechConfig(name="spoken_digit"),
        model=ModelConfig(features=(32, 64, 96), hidden=128, dropout=0.3),
        train=replace(Config().train, steps=1500, eval_every=100, log_every=25, checkpoint_every=500),
    )
}


def build(config: Config) -> Experiment:
    """The experiment."""
    return single_digits(config)
