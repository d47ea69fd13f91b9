"""Strings of spoken digits, transcribed by CTC without alignments: Deep Speech 2 in small.

Amodei et al.: Deep Speech 2, ICML 2016; Graves et al.: Connectionist temporal classification, ICML 2006. Strings of 3 to 7
digits of one voice with random gaps, levels, speed and noise are made inside the program, new ones for each step, from
the training recordings; the validation and the test strings are fixed and made from their own recordings alone (test:
takes 0-4 of the Free Spoken Digit Dataset).

    python -m experiments.train --recipe=connected_digits         # synthetic tone digits, nothing to download
    python -m experiments.train --recipe=connected_digits:fsdd    # the real recordings
    python -m experiments.predict --workdir=runs/connected_digits-fsdd --input=number.wav

digit_error_rate: edit distance to the true strings in all, by the digits they hold, greedily decoded;
test/beam_digit_error_rate: by prefix beam search. Measured here: the README's table of recipes.
"""

from dataclasses import dataclass, replace

from experiments.speech import connected_digits
from jaxdl.data.digit_strings import StringConfig
from jaxdl.data.spectrogram import FeatureConfig, SpecAugmentConfig
from jaxdl.data.speech import SpeechConfig
from jaxdl.engine.experiment import Experiment, TrainConfig
from jaxdl.optimizers import OptimizerConfig
from jaxdl.settings import setting


@dataclass(frozen=True)
class ModelConfig:
    """The network."""

    features: tuple[int, ...] = setting(
        (16, 16), "maps of the convolutions, each of which halves the frames", minimum=1
    )
    units: int = setting(64, "units of each GRU and direction", minimum=1)
    layers: int = setting(1, "bidirectional GRUs", minimum=1)
    dropout: float = setting(0.1, "share of units dropped around the GRUs", minimum=0.0, maximum=0.99)


@dataclass(frozen=True)
class DecodingConfig:
    """How strings are read off the posteriors for predict, the report and test/beam_digit_error_rate."""

    beams: int = setting(8, "prefixes that the search keeps", minimum=1)


@dataclass(frozen=True)
class Config:
    """Everything that can change the result."""

    data: SpeechConfig = SpeechConfig()
    features: FeatureConfig = FeatureConfig()
    strings: StringConfig = StringConfig(seconds=4.0, evaluated=200)
    mask: SpecAugmentConfig = SpecAugmentConfig()
    model: ModelConfig = ModelConfig()
    decoding: DecodingConfig = DecodingConfig()
    optimizer: OptimizerConfig = OptimizerConfig(
        name="adamw", learning_rate=3e-3, schedule="cosine", warmup_steps=50, clip_norm=5.0
    )
    train: TrainConfig = TrainConfig(
        steps=400, batch_size=32, eval_batch_size=40, eval_every=50, log_every=10, checkpoint_every=200
    )


VARIANTS = {
    "fsdd": replace(
        Config(),
        data=SpeechConfig(name="spoken_digit"),
        strings=StringConfig(),
        mask=SpecAugmentConfig(bands=1, stretches=2, stretch_width=12),
        model=ModelConfig(features=(16, 32), units=128, dropout=0.2),
        optimizer=replace(Config().optimizer, warmup_steps=200),
        train=replace(Config().train, steps=2500, eval_every=125, log_every=25, checkpoint_every=500),
    )
}


def build(config: Config) -> Experiment:
    """The experiment."""
    return connected_digits(config)
