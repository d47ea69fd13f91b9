"""What a speech recogniser hears and says: spectrograms, posteriors as heat maps, spikes, errors, examples.

Shapes: `T` feature frames, `M` mel bands, `T'` output frames, `C` outputs (the blank last), `n` examples.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from jaxdl.reports.intervals import wilson_interval
from jaxdl.reports.page import Figure, Section, Table
from jaxdl.reports.pictures import Tile, draw_grid
from jaxdl.reports.style import BLUE, GREY, PALETTE, VERMILLION, new_figure, percent, percent_axis

RATE = 8000
_BLANK = "–"


@dataclass(frozen=True)
class Utterance:
    """One string as the network heard it.

    Attributes:
      spectrum: features [T, M].
      ctc: probabilities [T', C] of the CTC outputs.
      framewise: probabilities [T', C] of the outputs trained frame by frame.
      reference: the true string.
      hypothesis: the decoded string.
      begin, end: seconds [K] at which each digit begins and ends.
      hop: seconds between feature frames.
    """

    spectrum: np.ndarray
    ctc: np.ndarray
    framewise: np.ndarray
    reference: str
    hypothesis: str
    begin: np.ndarray
    end: np.ndarray
    hop: float

    @property
    def seconds(self) -> float:
        """Its length."""
        return self.hop * len(self.spectrum)


def decoders_section(errors: Mapping[str, np.ndarray], counts: np.ndarray, beams: int) -> Section:
    """A table of decoders, from the edit distances [n] of each and the digits [n] of the true strings."""
    names = {"greedy": "best path", "beam": f"prefix beam search, {beams} beams"}
    rows = []
    for name, found in errors.items():
        right = int((found == 0).sum())
        low, high = wilson_interval(np.array(right), np.array(len(found)))
        interval = f"{percent(float(low))} – {percent(float(high))}"
        rate = percent(found.sum() / max(counts.sum(), 1))
        rows.append([names.get(name, name), rate, int(found.sum()), percent(right / max(len(found), 1)), interval])
    header = ["decoder", "digit error rate", "wrong digits", "strings right", "95 % interval"]
    caption = (
        f"{len(counts):,} test strings with {int(counts.sum()):,} digits. Wrong digits: insertions, deletions and "
        "substitutions. The interval is Wilson's, for the strings."
    )
    return Section("Decoders", [Table("", header, rows, caption, wide=True)])


def posteriors_section(utterances: Sequence[Utterance]) -> Section:
    """For each utterance its spectrogram above the posteriors of CTC and of frame-by-frame training as heat maps."""
    items = []
    for number, one in enumerate(utterances):
        right = one.reference == one.hypothesis
        verdict = "right" if right else f"heard as {one.hypothesis or 'nothing'}"
        caption = (
            f"The string {one.reference}, {verdict}. Above its log-mel spectrogram, then the probability of each digit "
            f"and of the blank ({_BLANK}) over time by CTC, then by targets for every frame ({_BLANK}: silence). White "
            "lines: where the digits really begin and end, which CTC was never told."
        )
        items.append(Figure(f"posteriors{number + 1}", caption, _drawing(draw_posteriors, one), wide=True))
    if utterances:
        caption = (
            f"The same probabilities of {utterances[0].reference} as lines, digits only: CTC above, frame by frame "
            "below. Grey: where the digits really are."
        )
        items.append(Figure("spikes", caption, _drawing(draw_spikes, utterances[0]), wide=True))
    text = (
        "CTC only has to name each digit once, and the blank is free: its posteriors are single spikes. Targets for "
        "every frame make plateaus as long as the digits. Both read the same units of the same network."
    )
    return Section("What the network says when", items, text)


def draw_posteriors(one: Utterance):
    """Spectrogram, CTC posteriors and framewise posteriors over time, as a matplotlib Figure."""
    figure = new_figure(10.4, 6.6)
    axes = figure.subplots(3, 1, sharex=True, height_ratios=(1.0, 1.15, 1.15))
    bands = one.spectrum.shape[1]
    # the floor of digital silence would use up the scale
    low = float(np.quantile(one.spectrum, 0.02))
    axes[0].imshow(
        one.spectrum.T, extent=(0, one.seconds, 0, bands), vmin=low, origin="lower", aspect="auto", cmap="magma"
    )
    axes[0].set_ylabel("mel band")
    axes[0].grid(False)
    for place, probabilities, name in ((axes[1], one.ctc, "CTC"), (axes[2], one.framewise, "frame by frame")):
        outputs = probabilities.shape[1]
        picture = place.imshow(
            probabilities.T,
            extent=(0, one.seconds, outputs - 0.5, -0.5),
            vmin=0.0,
            vmax=1.0,
            aspect="auto",
            cmap="viridis",
            interpolation="nearest",
        )
        place.set_yticks(range(outputs), [*map(str, range(outputs - 1)), _BLANK], fontsize=9)
        place.set_ylabel(name)
        place.grid(False)
    for place in axes:
        for edge in (*one.begin, *one.end):
            place.axvline(edge, color="white", linewidth=0.7, alpha=0.8)
    for begin, end, digit in zip(one.begin, one.end, one.reference, strict=True):
        axes[0].text((begin + end) / 2, bands * 1.04, digit, ha="center", va="bottom", fontsize=12)
    axes[2].set_xlabel("time (s)")
    bar = figure.colorbar(picture, ax=axes[1:], fraction=0.03, pad=0.01)
    bar.set_label("probability")
    bar.outline.set_visible(False)
    return figure


def draw_spikes(one: Utterance):
    """The digits' probabilities over time by CTC and frame by frame, as a matplotlib Figure."""
    figure = new_figure(10.4, 4.6)
    axes = figure.subplots(2, 1, sharex=True, sharey=True)
    spoken = sorted({int(digit) for digit in one.reference})
    styles = ("-", "--", ":")
    for place, probabilities, name in ((axes[0], one.ctc, "CTC"), (axes[1], one.framewise, "frame by frame")):
        time = (np.arange(len(probabilities)) + 0.5) * one.seconds / max(len(probabilities), 1)
        for begin, end in zip(one.begin, one.end, strict=True):
            place.axvspan(begin, end, color="#eceff3", zorder=0)
        for number, digit in enumerate(spoken):
            style = styles[number // len(PALETTE) % len(styles)]
            color = PALETTE[number % len(PALETTE)]
            place.plot(time, probabilities[:, digit], style, color=color, label=str(digit), linewidth=1.6)
        blank = probabilities[:, -1]
        place.plot(time, blank, color=GREY, linewidth=0.9, label="blank / silence")
        place.set_ylabel(f"{name}\nprobability")
        place.set_ylim(-0.03, 1.03)
    axes[1].set_xlabel("time (s)")
    axes[1].set_xlim(0, one.seconds)
    axes[0].legend(loc="upper center", bbox_to_anchor=(0.5, 1.28), ncols=min(len(spoken) + 1, 9), title=None)
    return figure


def peakiness_section(
    log_probabilities: np.ndarray, framewise: np.ndarray, frames: np.ndarray, counts: np.ndarray
) -> Section:
    """How peaky the posteriors are: shares of blank frames and frames for each digit, CTC against frame by frame.

    Args:
      log_probabilities: [n, T', C] of CTC.
      framewise: [n, T', C].
      frames: [n] valid frames.
      counts: [n] digits of the true strings.
    """
    inside = np.arange(log_probabilities.shape[1]) < frames[:, None]
    digits = max(int(counts.sum()), 1)
    rows = []
    for name, log_p in (("CTC", log_probabilities), ("frame by frame", framewise)):
        p = np.exp(log_p[inside].astype(np.float64))
        silent = float((p.argmax(axis=1) == p.shape[1] - 1).mean())
        entropy = float(-(p * np.log(np.maximum(p, 1e-30))).sum(axis=1).mean())
        rows.append([name, percent(silent), f"{(1 - silent) * len(p) / digits:.2f}", f"{entropy:.3f}"])
    header = ["outputs", "frames whose best is the blank", "other frames a digit", "entropy (nats a frame)"]
    caption = "Over all test strings. A spike is one or two frames long; a digit lasts many more."
    return Section("Peaky posteriors", [Table("", header, rows, caption, wide=True)])


def lengths_section(errors: np.ndarray, counts: np.ndarray) -> Section:
    """Digit error rate by the number of digits, from edit distances [n] and lengths [n]."""
    lengths = sorted(set(counts.tolist()))
    rates = [errors[counts == length].sum() / max(length * (counts == length).sum(), 1) for length in lengths]
    wrong = [float((errors[counts == length] > 0).mean()) for length in lengths]

    def draw():
        figure = new_figure()
        axes = figure.add_subplot()
        place = np.arange(len(lengths))
        axes.bar(place - 0.2, rates, 0.38, color=BLUE, label="digits wrong")
        axes.bar(place + 0.2, wrong, 0.38, color=VERMILLION, label="strings wrong")
        axes.set_xticks(place, [str(length) for length in lengths])
        axes.set_xlabel("digits in the string")
        axes.set_ylabel("error rate")
        axes.set_ylim(0, max([*rates, *wrong, 0.01]) * 1.25)
        percent_axis(axes.yaxis)
        axes.grid(axis="x", visible=False)
        axes.legend(loc="upper left")
        return figure

    caption = "Errors of the test strings by their length: edit distance by digits, and strings with any error."
    header = ["digits", "strings", "wrong strings", "digit error rate"]
    rows = [
        [str(length), int((counts == length).sum()), int((errors[counts == length] > 0).sum()), percent(rate)]
        for length, rate in zip(lengths, rates, strict=True)
    ]
    return Section("Errors by length", [Figure("errors_by_length", caption, draw), Table("", header, rows, names=(0,))])


def examples_section(
    references: Sequence[str], texts: Mapping[str, Sequence[str]], errors: Mapping[str, np.ndarray], limit: int = 20
) -> Section:
    """Reference and hypotheses of a few strings, the worst first.

    Args:
      references: [n] true strings.
      texts: decoder -> [n] hypotheses; "greedy" and "beam".
      errors: decoder -> edit distances [n].
      limit: how many are shown.
    """
    order = np.argsort(-errors["beam"], kind="stable")[:limit]
    rows = []
    for i in order:
        rows.append([int(i), references[i], texts["greedy"][i] or "–", texts["beam"][i] or "–", int(errors["beam"][i])])
    header = ["example", "spoken", "best path", "prefix beam search", "wrong digits"]
    wrong = int((errors["beam"] > 0).sum())
    text = f"{wrong:,} of {len(references):,} test strings hold an error; the worst come first."
    return Section("Examples", [Table("", header, rows, names=(1, 2, 3), wide=True)], text)


def noise_section(found: Mapping[float, tuple[int, int]]) -> Section:
    """Accuracy against noise, from ratio of speech to noise in decibels -> (right, all), with Wilson's intervals."""
    levels = sorted(found)
    right, total = (np.array([found[level][k] for level in levels]) for k in range(2))
    low, high = wilson_interval(right, total)
    shares = right / np.maximum(total, 1)

    def draw():
        figure = new_figure()
        axes = figure.add_subplot()
        axes.fill_between(levels, low, high, color=BLUE, alpha=0.18, linewidth=0, label="95 % interval")
        axes.plot(levels, shares, "o-", color=BLUE, label="test accuracy")
        axes.set_xlabel("speech above white noise (dB)")
        axes.set_ylabel("accuracy")
        percent_axis(axes.yaxis)
        axes.legend(loc="lower right")
        return figure

    caption = (
        "Test recordings with white noise of a fixed stream; training knows the noise levels of its settings alone."
    )
    rows = [
        [f"{level:g} dB", int(n), percent(share), f"{percent(float(a))} – {percent(float(b))}"]
        for level, n, share, a, b in zip(levels, right, shares, low, high, strict=True)
    ]
    table = Table("", ["speech above noise", "right", "accuracy", "95 % interval"], rows)
    return Section("Noise", [Figure("noise", caption, draw), table])


def recordings_section(spectra: np.ndarray, frames: np.ndarray, labels: np.ndarray, classes: Sequence[str]) -> Section:
    """The first recording of each class as the network hears it, from spectra [n, T, M] with `frames` [n] of labels [n]."""
    tiles = []
    pictures = spectrum_pictures(spectra, frames)
    for label, name in enumerate(classes):
        found = np.flatnonzero(labels == label)[:1]
        tiles += [Tile(pictures[i, ..., 0], [name]) for i in found]
    caption = (
        "Log-mel spectrograms, one of each digit: time to the right (10 ms a column), frequency upwards. Black behind "
        "the end of a recording is padding, which the network does not see."
    )
    if not tiles:
        return Section("What the network hears")
    return Section(
        "What the network hears", [Figure("spectrograms", caption, lambda: draw_grid(tiles, 5), picture=True)]
    )


def spectrum_pictures(spectra: np.ndarray, frames: np.ndarray) -> np.ndarray:
    """Features [n, T, M] with `frames` [n] valid ones as pictures uint8 [n, M, T, 1], low bands at the bottom."""
    inside = np.arange(spectra.shape[1]) < np.asarray(frames)[:, None]
    low, high = np.quantile(spectra[inside], [0.02, 0.998])
    scaled = np.clip((spectra - low) / max(high - low, 1e-6), 0.0, 1.0) * inside[:, :, None]
    return np.rint(255 * scaled[:, :, ::-1].transpose(0, 2, 1)[..., None]).astype(np.uint8)


def _drawing(draw, one: Utterance):
    return lambda: draw(one)
