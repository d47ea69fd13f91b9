"""The speech recipes from WAV file to transcript, and what their reports are made of."""

import dataclasses
import json
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments import cli, predict, recipe_files, speech, speech_report, train
from jaxdl.data.audio import encode_wav
from jaxdl.data.digit_strings import SpeechTransform
from jaxdl.data.spectrogram import FeatureConfig
from jaxdl.data.speech import SpeechConfig, load
from jaxdl.reports import speech as sections
from jaxdl.reports.page import write_report


@pytest.fixture(autouse=True)
def elsewhere(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def command(module, *flags):
    return cli.execute(module.main, module.BINARY, ["program", *flags])


@pytest.fixture(scope="module")
def tones():
    return load(SpeechConfig())


def wav_of(recordings, split, numbers, gap=800):
    """Some recordings of a split one after another, as a WAV file's bytes."""
    part, pieces = recordings.splits[split], [np.zeros(gap)]
    for i in numbers:
        start, length = part["start"][i], part["length"][i]
        wave = part["wave"][start : start + length].astype(float)
        pieces += [0.2 * wave / np.abs(wave).max(), np.zeros(gap)]
    return encode_wav(np.concatenate(pieces))


def test_a_short_run_predicts_and_reports(tones, capsys):
    flags = ["--model.features=4,4,4", "--model.hidden=8", "--train.batch_size=8", "--train.eval_batch_size=16"]
    assert command(train, "--recipe=spoken_digit", "--smoke", "--workdir=run", *flags) == 0, capsys.readouterr().err
    pathlib.Path("mine.wav").write_bytes(wav_of(tones, "test", [0]))
    pathlib.Path("bad.wav").write_bytes(b"RIFF0000WAVEnothing")
    capsys.readouterr()
    assert command(predict, "--workdir=run", "--input=mine.wav", "--input=mine.wav", "--format=json") == 0
    first, second = (json.loads(line) for line in capsys.readouterr().out.splitlines())
    assert first == second and first["label"] in "0123456789" and 0 <= first["confidence"] <= 1
    assert first["top"][0]["label"] == first["label"]
    assert command(predict, "--workdir=run", "--input=bad.wav") == 1
    said = capsys.readouterr().err.strip()
    assert said.startswith("error: bad.wav is no whole WAV file") and "\n" not in said
    page = pathlib.Path("run/report.html").read_text()
    assert all(title in page for title in ("What the network hears", "Confusion matrix", "Noise"))


def test_the_transcribers_sections_are_drawn(tmp_path):
    draw = np.random.default_rng(0)
    probabilities = draw.dirichlet(np.full(11, 0.1), 30)
    one = sections.Utterance(
        spectrum=draw.normal(size=(120, 40)),
        ctc=probabilities,
        framewise=probabilities,
        reference="3307",
        hypothesis="337",
        begin=np.array([0.1, 0.3, 0.6, 0.9]),
        end=np.array([0.25, 0.5, 0.8, 1.1]),
        hop=0.01,
    )
    counts, errors = np.array([4, 5]), {"greedy": np.array([1, 0]), "beam": np.array([1, 0])}
    texts = {"greedy": ["337", "12345"], "beam": ["337", "12345"]}
    made = [
        sections.posteriors_section([one]),
        sections.lengths_section(errors["beam"], counts),
        sections.examples_section(["3307", "12345"], texts, errors),
        sections.decoders_section(errors, counts, 8),
    ]
    write_report(tmp_path, "a run", {}, made)
    assert {path.stem for path in (tmp_path / "plots").iterdir()} == {"posteriors1", "spikes", "errors_by_length"}
    assert made[2].items[0].rows[0][1:] == ["3307", "337", "337", 1]


def test_the_fixed_strings_do_not_depend_on_the_seed_and_not_on_training_data():
    recipe = recipe_files.load("connected_digits")
    one, other = (recipe.build(dataclasses.replace(recipe.config, data=SpeechConfig(limit=limit))) for limit in (0, 40))
    for name, array in one.final["test"].arrays.items():
        np.testing.assert_array_equal(array, other.final["test"].arrays[name])
    assert not np.array_equal(
        one.final["test"].arrays["digits"], one.phases[0].evaluations["validation"].arrays["digits"]
    )


def test_a_users_recording_is_read_as_the_test_recordings_are(tones, tmp_path):
    path = tmp_path / "digit.wav"
    part = tones.splits["test"]
    wave = part["wave"][: part["length"][0]]
    path.write_bytes(encode_wav(wave / 32768.0))
    found = speech.reader(tones.longest)(str(path))
    assert found["samples"] == len(wave) and found["wave"].shape == (tones.longest,)
    scale = np.abs(found["wave"]).max() / np.abs(wave).max()
    np.testing.assert_allclose(found["wave"][: len(wave)], wave * scale, atol=1.0)
    # features of both are the same: the level does not count
    transform = SpeechTransform(FeatureConfig())
    rows = {"wave": np.stack([found["wave"], tones.padded("test")["wave"][0]]), "samples": np.array([len(wave)] * 2)}
    made = transform({k: jnp.asarray(v) for k, v in rows.items()}, jax.random.split(jax.random.key(0)))
    np.testing.assert_allclose(made["speech"][0], made["speech"][1], atol=5e-3)


def test_a_string_is_described_by_its_beams():
    log_p = np.log(np.full((6, 11), 1e-4, np.float32))
    for t, k in enumerate([3, 10, 3, 10, 7, 10]):
        log_p[t, k] = np.log(0.9)
    found = speech_report.describe_string(8, 7)({"log_probabilities": log_p, "frames": np.float32(6.0)})
    assert found["label"] == "337" and 0.5 < found["confidence"] <= 1.0 and len(found["top"]) == 5
    silence = speech_report.describe_string(8, 7)({"log_probabilities": log_p, "frames": np.float32(0.0)})
    assert silence["label"] == "(silence)" and silence["confidence"] == pytest.approx(1.0)


def test_errors_are_counted_by_string():
    digits, counts = np.array([[1, 2, 3], [4, -1, -1], [5, 6, -1]]), np.array([3, 1, 2])
    assert speech_report.errors_of([[1, 3], [4], [5, 5, 6, 6]], digits, counts).tolist() == [1, 0, 2]
    assert speech_report.errors_of([[], [], []], digits, counts).tolist() == [3, 1, 2]


def test_tables_of_the_report_count_right():
    counts, errors = np.array([3, 3, 5]), np.array([0, 1, 2])
    table = sections.lengths_section(errors, counts).items[1]
    assert [row[:3] for row in table.rows] == [["3", 2, 1], ["5", 1, 1]]
    decoders = sections.decoders_section({"greedy": errors, "beam": np.zeros(3, int)}, counts, 8).items[0]
    assert decoders.rows[0][1].startswith("27.3") and decoders.rows[1][3].startswith("100")
    p = np.log(np.array([[[0.9, 0.1], [0.2, 0.8], [0.5, 0.5]]]))
    peaky = sections.peakiness_section(p, p, np.array([2]), np.array([1])).items[0]
    assert peaky.rows[0][1].startswith("50") and peaky.rows[0][2] == "1.00"
