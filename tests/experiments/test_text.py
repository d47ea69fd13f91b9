"""A language model from the command line: trained on a user's file, asked for texts, and given texts to read."""

import json
import pathlib

import numpy as np
import pytest

from experiments import cli, predict, sample, train

TEXT = "".join(f"{i} bottles of beer on the wall, {i} bottles of beer.\n" for i in range(99, 0, -1))


def command(module, *flags):
    """Runs a binary in this process."""
    return cli.execute(module.main, module.BINARY, ["program", *flags])


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A small network that has read one short song."""
    folder = tmp_path_factory.mktemp("text")
    (folder / "song.txt").write_text(TEXT)
    flags = [
        "--recipe=char_lstm:gru",
        "--data.name=file",
        f"--data.dir={folder}/song.txt",
        "--data.length=16",
        "--model.features=32",
        "--model.embedding=16",
        "--train.batch_size=8",
        "--train.steps=300",
        "--train.eval_every=100",
        "--optimizer.learning_rate=1e-2",
        f"--workdir={folder}/run",
    ]
    assert command(train, *flags) == 0
    return folder


def test_training_beats_guessing_and_the_report_shows_what_it_writes(run):
    record = json.loads((run / "run" / "record.json").read_text())
    assert record["metrics"]["validation/loss"] < 1.0 < np.log(28)
    assert record["metrics"]["test/bits"] == pytest.approx(record["metrics"]["test/loss"] / np.log(2), rel=1e-5)
    page = (run / "run" / "report.html").read_text()
    for heading in ("What it writes", "n-grams", "surprised", "truncated backpropagation"):
        assert heading in page
    names = {path.stem for path in (run / "run" / "plots").glob("*.png")}
    assert {"bits_per_character", "surprise", "sample_0_5", "sample_1_1"} <= names


def texts_of(run, capsys, *flags):
    place = (f"--workdir={run}/run", f"--data.dir={run}/song.txt")
    assert command(sample, *place, *flags) == 0
    return capsys.readouterr().out, {p.name: p.read_text() for p in (run / "run" / "samples").glob("*.txt")}


def test_a_sample_streams_is_kept_and_repeats(run, capsys):
    out, files = texts_of(run, capsys, "--length=150", "--prompt=12 bottles", "--seed=3")
    text = files["000.txt"]
    assert text.startswith("12 bottles") and len(text) == len("12 bottles") + 150 and text in out
    again, _ = texts_of(run, capsys, "--length=150", "--prompt=12 bottles", "--seed=3")
    assert again == out
    longer, _ = texts_of(run, capsys, "--length=200", "--prompt=12 bottles", "--seed=3")
    assert text in longer  # a longer text begins like the shorter one
    other, _ = texts_of(run, capsys, "--length=150", "--prompt=12 bottles", "--seed=4")
    assert text not in other
    _, files = texts_of(run, capsys, "--length=80", "--count=2", "--temperature=0")
    assert files["000.txt"] == files["001.txt"]  # greedy: nothing is drawn
    _, files = texts_of(run, capsys, "--length=80", "--count=2", "--top_k=1", "--temperature=2")
    assert files["000.txt"] == files["001.txt"]
    assert "bottles" in files["000.txt"]


def test_predict_scores_texts_of_any_length(run, tmp_path, capsys):
    contents = {"like.txt": TEXT[:700], "unlike.txt": TEXT[:700][::-1], "one.txt": "9"}
    for name, text in contents.items():
        (tmp_path / name).write_text(text)
    paths = [str(tmp_path / name) for name in contents]
    place = (f"--workdir={run}/run", f"--data.dir={run}/song.txt")
    assert command(predict, *place, "--format=json", *(f"--input={path}" for path in paths)) == 0
    rows = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [row["characters"] for row in rows] == [700, 700, 1]
    assert rows[0]["nats"] < 0.6 < 2.0 < rows[1]["nats"]
    assert rows[0]["perplexity"] == pytest.approx(np.exp(rows[0]["nats"]))
    assert command(predict, *place, f"--input={paths[0]}") == 0
    assert "700 characters; nats" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("module", "flag", "said"),
    [
        (predict, "--input={path}", "has the character 'é' (U+00E9) in line 2"),
        (sample, "--prompt=Zé", "--prompt has the character 'Z'"),
        (sample, "--top_p=0", "--top_p"),
        (sample, "--temperature=-1", "--temperature"),
        (sample, "--count=10001", "--count"),
        (sample, "--length=1000001", "--length"),
    ],
)
def test_bad_input_is_one_line(run, tmp_path, capsys, module, flag, said):
    path = tmp_path / "cafe.txt"
    path.write_text("9 bottles\n9 bottlés", encoding="utf-8")
    assert command(module, f"--workdir={run}/run", f"--data.dir={run}/song.txt", flag.format(path=path)) in (1, 2)
    out, error = capsys.readouterr()
    assert said in error and error.count("\n") == 1 and not out


def test_another_text_than_the_one_trained_on_is_refused(run, tmp_path, capsys):
    (tmp_path / "other.txt").write_text(TEXT[::-1])
    assert command(sample, f"--workdir={run}/run", f"--data.dir={tmp_path}/other.txt") == 1
    assert "other data" in capsys.readouterr().err


def test_a_family_that_cannot_sample_says_so(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert command(train, "--recipe=perceptron_nand", "--smoke") == 0
    assert command(sample, f"--workdir={next(pathlib.Path('runs/smoke').iterdir())}") == 1
    error = capsys.readouterr().err.strip()
    assert "makes no samples" in error and "\n" not in error


def test_a_window_model_is_trained_and_writes_too(run, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    flags = ["--data.name=file", f"--data.dir={run}/song.txt", "--data.length=16", "--model.features=32"]
    assert command(train, "--recipe=char_lstm:window", "--smoke", *flags) == 0
    folder = "runs/smoke/char_lstm-window"
    assert (
        command(sample, f"--workdir={folder}", f"--data.dir={run}/song.txt", "--length=40", "--prompt=" + TEXT[:30])
        == 0
    )
    assert len((pathlib.Path(folder) / "samples" / "000.txt").read_text()) == 70
