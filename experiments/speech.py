"""Speech as an experiment: what the recipes on single and on connected digits share."""

import dataclasses
import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxdl.data.digit_strings import ConnectedDigits, SpeechTransform, StringConfig, fixed_strings
from jaxdl.data.source import Resident
from jaxdl.data.spectrogram import FeatureConfig
from jaxdl.data.speech import RATE, Recordings, load
from jaxdl.engine.experiment import Experiment, Phase
from jaxdl.optimizers import depends_on_total_steps, describe, hyper_parameters, make_optimizer
from jaxdl.tasks.classification import classification as classifier
from jaxdl.tasks.transcription import INPUTS, transcription

# the fixed sets of connected digits are made from these, whatever the run's seed
STRING_SEEDS = {"validation": 1, "test": 2}


def single_digits(config: Any) -> Experiment:
    """A classifier of single spoken digits, judged by validation accuracy.

    Args:
      config: the recipe's, with `data`, `features`, `vary`, `mask`, `model`, `optimizer`, `loss` and `train`.
    """
    from experiments.speech_report import classifier_report, describe_digit
    from jaxdl.models.deep_speech import SpeechClassifier

    recordings = load(config.data)
    clean = SpeechTransform(config.features)
    training = SpeechTransform(config.features, config.mask, config.vary)
    model = SpeechClassifier(
        len(recordings.classes), config.model.features, config.model.hidden, dropout=config.model.dropout
    )
    longest = {split: recordings.padded(split) for split in recordings.splits}

    def evaluation(split: str) -> Resident:
        return Resident.of(longest[split], config.train.eval_batch_size, shuffle=False, transform=clean)

    task = classifier(
        model,
        make_optimizer(config.optimizer, config.train.steps),
        inputs_of(recordings.longest, config.features),
        inputs=INPUTS,
        accumulate=config.train.accumulate,
        ema_decay=config.optimizer.ema_decay,
    )
    phase = Phase(
        name="train",
        task=task,
        source=Resident.of(longest["train"], config.train.batch_size, shuffle=True, transform=training),
        steps=config.train.steps,
        hyper={**hyper_parameters(config.optimizer), "label_smoothing": config.loss.label_smoothing},
        evaluations={"validation": evaluation("validation")},
        objective=("validation/accuracy", "max"),
        patience=config.train.patience,
    )
    return Experiment(
        name="",
        phases=(phase,),
        train=config.train,
        final={"test": evaluation("test")},
        items="recordings",
        report=lambda view: classifier_report(view, recordings),
        read_input=reader(recordings.longest),
        show=describe_digit(recordings.classes),
        check=lambda: single_baselines(recordings, config.features),
        expected_loss=math.log(len(recordings.classes)),
        **described(config, recordings),
    )


def connected_digits(config: Any) -> Experiment:
    """A transcriber of strings of digits by CTC, judged by the digit error rate on the validation strings.

    Args:
      config: the recipe's, with `data`, `features`, `strings`, `mask`, `model`, `optimizer`, `decoding` and `train`.
    """
    from experiments.speech_report import describe_string, judge, transcriber_report
    from jaxdl.models.deep_speech import DeepSpeech

    recordings = load(config.data)
    clean = SpeechTransform(config.features)
    samples = round(config.strings.seconds * RATE)
    model = DeepSpeech(
        len(recordings.classes) + 1,
        config.model.features,
        units=config.model.units,
        layers=config.model.layers,
        dropout=config.model.dropout,
    )

    def evaluation(split: str) -> Resident:
        made = fixed_strings(recordings.splits[split], config.strings.evaluated, config.strings, STRING_SEEDS[split])
        return Resident.of(made, config.train.eval_batch_size, shuffle=False, transform=clean)

    task = transcription(
        model,
        make_optimizer(config.optimizer, config.train.steps),
        inputs_of(samples, config.features),
        accumulate=config.train.accumulate,
        ema_decay=config.optimizer.ema_decay,
    )
    training = SpeechTransform(config.features, config.mask)
    phase = Phase(
        name="train",
        task=task,
        source=ConnectedDigits.of(recordings.splits["train"], config.train.batch_size, config.strings, training),
        steps=config.train.steps,
        hyper=hyper_parameters(config.optimizer),
        evaluations={"validation": evaluation("validation")},
        objective=("validation/digit_error_rate", "min"),
        patience=config.train.patience,
    )
    return Experiment(
        name="",
        phases=(phase,),
        train=config.train,
        final={"test": evaluation("test")},
        items="strings",
        report=lambda view: transcriber_report(view, config),
        judge=lambda judged: judge(judged, config),
        read_input=reader(samples),
        show=describe_string(config.decoding.beams, config.strings.most),
        check=lambda: string_baselines(config.strings),
        **described(config, recordings),
    )


def described(config: Any, recordings: Recordings) -> dict[str, Any]:
    """Fields of Experiment that say what it is about."""
    parts = [f"{len(recordings.splits[split]['label']):,} {split}" for split in ("train", "validation", "test")]
    return {
        "data": {"name": recordings.name, "version": recordings.version, "fingerprint": recordings.fingerprint},
        "facts": {
            "data": f"{recordings.name}: {', '.join(parts)} recordings",
            "optimiser": describe(config.optimizer),
        },
        "steps_may_grow": not depends_on_total_steps(config.optimizer),
    }


def inputs_of(samples: int, features: FeatureConfig) -> tuple[jax.ShapeDtypeStruct, jax.ShapeDtypeStruct]:
    """Shapes of one example's features [T, M] and of its number of frames."""
    frames = 1 + (samples - features.window) // features.hop
    return (
        jax.ShapeDtypeStruct((frames, features.cepstra or features.mels), jnp.float32),
        jax.ShapeDtypeStruct((), jnp.int32),
    )


def reader(longest: int) -> Callable[[str], dict]:
    """A user's WAV file -> {"wave" int16 [longest], "samples"}; of a longer file the loudest part."""

    def read(path: str) -> dict:
        from jaxdl.data.audio import loudest_part, read_wav

        wave = loudest_part(read_wav(path, RATE), longest)
        loudest = float(np.abs(wave).max(initial=0.0))
        padded = np.zeros(longest, np.int16)
        # the level does not matter to the features, the resolution of int16 does
        padded[: len(wave)] = np.rint(wave * (32000.0 / loudest if loudest > 0 else 1.0))
        return {"wave": padded, "samples": np.int32(len(wave))}

    return read


def single_baselines(recordings: Recordings, features: FeatureConfig) -> list[tuple[str, float, str]]:
    """(name, test accuracy, note) of what a network must beat, fitted on the training split."""
    train, test = recordings.padded("train"), recordings.padded("test")
    majority = np.bincount(train["label"]).argmax()
    found = [("majority class", float((test["label"] == majority).mean()), "")]
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    transform = SpeechTransform(dataclasses.replace(features, cepstra=13))
    inputs = [mean_cepstra(transform, each) for each in (train, test)]
    model = make_pipeline(StandardScaler(), LogisticRegression(max_iter=1000))
    model.fit(inputs[0], train["label"])
    note = "13 mel-frequency cepstra, mean over each third of the recording"
    return [*found, ("logistic regression", float(model.score(inputs[1], test["label"])), note)]


def mean_cepstra(transform: SpeechTransform, arrays: dict[str, np.ndarray]) -> np.ndarray:
    """Mean features of each third of each recording, [n, 3 C]."""
    made = transform(
        {name: jnp.asarray(arrays[name]) for name in ("wave", "samples")}, jax.random.split(jax.random.key(0))
    )
    speech, frames = np.asarray(made["speech"]), np.asarray(made["frames"])
    rows = []
    for spectrum, count in zip(speech, frames, strict=True):
        parts = np.array_split(spectrum[: max(int(count), 3)], 3)
        rows.append(np.concatenate([part.mean(axis=0) for part in parts]))
    return np.stack(rows)


def string_baselines(strings: StringConfig) -> list[tuple[str, float, str]]:
    """(name, digit error rate, note) of hypotheses made without listening."""
    digits = (strings.least + strings.most) / 2
    return [
        ("empty string", 1.0, "digit error rate"),
        (f"the same {digits:.0f} digits always", 0.9, "digit error rate, about"),
    ]
