"""What the reports, the predictions and the judgement of speech recognisers show."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax.numpy as jnp
import numpy as np

from experiments.classifier_report import describe_prediction, ensemble_accuracy
from jaxdl.data.source import on_device
from jaxdl.engine.compiled import collect, compiled
from jaxdl.objectives.ctc import best_path, prefix_beam_search
from jaxdl.objectives.edit_distance import edit_distance

NOISE_LEVELS = (40.0, 30.0, 20.0, 15.0, 10.0, 5.0, 0.0)
# a hypothesis may be so much longer than the longest string
_SPARE = 3


def describe_digit(classes: Sequence[str]) -> Callable[[dict], dict]:
    """Probabilities of one recording -> label, confidence and the most probable digits."""
    return describe_prediction(classes)


def describe_string(beams: int, most: int) -> Callable[[dict], dict]:
    """Posteriors of one recording -> the most probable string, P of it, and the next ones; by prefix beam search."""
    search = compiled(prefix_beam_search, static=("width", "longest"))

    def describe(outputs: dict) -> dict:
        log_p, frames = jnp.asarray(outputs["log_probabilities"])[None], jnp.asarray([round(float(outputs["frames"]))])
        labels, counts, scores = map(np.asarray, search(log_p, frames, width=beams, longest=most + _SPARE))
        top: list[dict] = []
        for row, count, score in zip(labels[0], counts[0], scores[0], strict=True):
            if score > -1e20 and len(top) < 5:
                label = "".join(map(str, row[:count])) or "(silence)"
                top.append({"label": label, "confidence": float(np.exp(score))})
        return {"label": top[0]["label"], "confidence": top[0]["confidence"], "top": top}

    return describe


def decoded(outputs: Mapping[str, np.ndarray], beams: int, most: int) -> dict[str, list[list[int]]]:
    """Hypotheses of all examples: "greedy" and "beam" -> a list of digits each."""
    log_p, frames = jnp.asarray(outputs["log_probabilities"]), jnp.asarray(outputs["frames"], jnp.int32)
    search = compiled(prefix_beam_search, static=("width", "longest"))
    path, kept = map(np.asarray, best_path(log_p, frames))
    labels, counts, _ = map(np.asarray, search(log_p, frames, width=beams, longest=most + _SPARE))
    return {
        "greedy": [row[keep].tolist() for row, keep in zip(path, kept, strict=True)],
        "beam": [row[0, : count[0]].tolist() for row, count in zip(labels, counts, strict=True)],
    }


def errors_of(hypotheses: Sequence[Sequence[int]], digits: np.ndarray, counts: np.ndarray) -> np.ndarray:
    """Edit distance [n] of each hypothesis to digits [n, K], of which `counts` [n] are meant."""
    longest = max(map(len, hypotheses), default=0)
    padded = np.full((len(hypotheses), max(longest, 1)), -1, np.int32)
    for row, hypothesis in zip(padded, hypotheses, strict=True):
        row[: len(hypothesis)] = hypothesis
    return np.asarray(
        edit_distance(jnp.asarray(padded), jnp.asarray(padded >= 0), jnp.asarray(digits), jnp.asarray(counts))
    )


def judge(judged: Any, config: Any) -> dict[str, float]:
    """Digit error rate and string accuracy of the test strings by prefix beam search."""
    outputs = judged.outputs("test")
    digits, counts = references(judged.experiment.final["test"], len(outputs["frames"]))
    found = decoded(outputs, config.decoding.beams, config.strings.most)
    errors = errors_of(found["beam"], digits, counts)
    return {
        "test/beam_digit_error_rate": float(errors.sum() / counts.sum()),
        "test/beam_string_accuracy": float((errors == 0).mean()),
    }


def references(source: Any, count: int) -> tuple[np.ndarray, np.ndarray]:
    """The true digits [n, K] and how many [n] of the first `count` strings of an evaluation source."""
    return np.asarray(source.arrays["digits"])[:count], np.asarray(source.arrays["count"])[:count]


def heard(source: Any, indices: Sequence[int]) -> tuple[np.ndarray, np.ndarray]:
    """Features [k, T, M] and frames [k] of some examples of an evaluation source, as the network gets them."""
    batch = source.take(np.asarray(indices, np.int32))
    return np.asarray(batch["speech"]), np.asarray(batch["frames"])


def transcriber_report(view: Any, config: Any) -> list:
    """Sections: decoders, posteriors of a few strings beside frame-by-frame ones, errors by length, examples."""
    from jaxdl.reports import speech

    first = view.done[0]
    outputs = view.outputs(first, "test")
    source = view.experiment.final["test"]
    digits, counts = references(source, len(outputs["frames"]))
    hypotheses = decoded(outputs, config.decoding.beams, config.strings.most)
    errors = {name: errors_of(found, digits, counts) for name, found in hypotheses.items()}
    true = ["".join(map(str, row[:count])) for row, count in zip(digits, counts, strict=True)]
    texts = {name: ["".join(map(str, row)) for row in found] for name, found in hypotheses.items()}
    # the first right one, and the first wrong one where there is one
    right, wrong = np.flatnonzero(errors["beam"] == 0)[:1], np.flatnonzero(errors["beam"])[:1]
    shown = [int(i) for i in (*right, *wrong)]
    spectra, frames = heard(source, shown)
    lengths = outputs["frames"].astype(int)
    utterances = []
    for k, i in enumerate(shown):
        begin, end = (np.asarray(source.arrays[name])[i][: counts[i]] for name in ("begin", "end"))
        utterances.append(
            speech.Utterance(
                spectrum=spectra[k, : frames[k]],
                ctc=np.exp(outputs["log_probabilities"][i, : lengths[i]]),
                framewise=np.exp(outputs["framewise"][i, : lengths[i]]),
                reference=true[i],
                hypothesis=texts["beam"][i],
                begin=begin / speech.RATE,
                end=end / speech.RATE,
                hop=config.features.hop / speech.RATE,
            )
        )
    return [
        speech.decoders_section(errors, counts, config.decoding.beams),
        speech.posteriors_section(utterances),
        speech.peakiness_section(outputs["log_probabilities"], outputs["framewise"], lengths, counts),
        speech.lengths_section(errors["beam"], counts),
        speech.examples_section(true, texts, errors),
    ]


def noise_accuracies(view: Any, i: int) -> dict[float, tuple[int, int]]:
    """Ratio of speech to noise in decibels -> (right, all) of the test recordings, for seed number `i`."""
    from jaxdl.data.digit_strings import with_fixed_noise

    source = view.experiment.final["test"]
    clean = {name: np.asarray(array)[: source.size] for name, array in source.arrays.items()}
    waves = [with_fixed_noise(clean["wave"], clean["samples"], level) for level in NOISE_LEVELS]
    # all levels as one source: one program
    arrays = {"wave": on_device(np.concatenate(waves))}
    arrays |= {name: on_device(np.tile(clean[name], len(waves))) for name in ("samples", "label")}
    noisy = source.replace(arrays=arrays, size=len(arrays["label"]))
    found = collect(view.experiment.phases[-1].task, view.state(i), noisy)["probabilities"].argmax(axis=1)
    right = (found == np.asarray(arrays["label"])).reshape(len(waves), -1)
    return {level: (int(row.sum()), len(row)) for level, row in zip(NOISE_LEVELS, right, strict=True)}


def classifier_report(view: Any, recordings: Any) -> list:
    """Sections: comparison with baselines, what the network hears, confusion, mistakes, calibration, layers."""
    import dataclasses

    from jaxdl.nn.summary import example_inputs, layer_table
    from jaxdl.reports.classifier import classifier_sections
    from jaxdl.reports.comparison import Contender, comparison_section, ensemble_section
    from jaxdl.reports.norms import parameter_section
    from jaxdl.reports.speech import noise_section, recordings_section, spectrum_pictures

    shown = view.records[view.done[0]]
    outputs = [view.outputs(i, "test")["probabilities"] for i in view.done]
    source = view.experiment.final["test"]
    labels = np.asarray(source.arrays["label"])[: len(outputs[0])]
    spectra, frames = heard(source, range(len(labels)))
    contenders = [Contender(shown["recipe"], view.values("test/accuracy"), ours=True)]
    contenders += [Contender(name, value, note) for name, value, note in view.experiment.check()]
    sections = []
    if len(outputs) > 1:
        together = ensemble_accuracy(outputs, labels)
        sections.append(ensemble_section({"test/accuracy": view.values("test/accuracy")}, {"test/accuracy": together}))
    notes = " ".join(f"{note[0].upper()}{note[1:]}." for note in recordings.notes)
    sections.append(comparison_section("test/accuracy", contenders, text=notes))
    sections.append(recordings_section(spectra, frames, labels, recordings.classes))
    sections += classifier_sections(outputs[0], labels, spectrum_pictures(spectra, frames), recordings.classes)
    sections.append(noise_section(noise_accuracies(view, view.done[0])))
    task = view.experiment.phases[-1].task
    rows = layer_table(task.model, example_inputs(task.example, 1))
    sections.append(parameter_section([dataclasses.replace(row, output_shape=row.output_shape[1:]) for row in rows]))
    return sections
