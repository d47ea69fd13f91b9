"""The recipes of dates and char_gpt from the command line, in a few steps."""

import json

import pytest

from experiments import cli, predict, sample, train


def command(module, *flags):
    """Runs a binary in this process."""
    return cli.execute(module.main, module.BINARY, ["program", *flags])


@pytest.fixture(scope="module")
def dates(tmp_path_factory):
    """A short run over two seeds."""
    folder = tmp_path_factory.mktemp("runs") / "dates"
    flags = [f"--workdir={folder}", "--recipe=dates_attention", "--smoke", "--seeds=2", "--model.features=8"]
    assert command(train, *flags) == 0
    return folder


def test_predict_reads_a_file_of_dates_and_dates_themselves(dates, tmp_path, capsys):
    (tmp_path / "dates.txt").write_text("3 March 2021\n\n  Mar 3, 2021 \n")
    flags = [f"--workdir={dates}", "--format=json", f"--input={tmp_path / 'dates.txt'}", "--input=20210303"]
    assert command(predict, *flags) == 0
    rows = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [row["input"] for row in rows] == ["3 March 2021", "Mar 3, 2021", "20210303"]
    for row in rows:
        assert len(row["top"]) == 5 and row["label"] == row["top"][0]["label"]
        assert row["confidence"] == max(each["confidence"] for each in row["top"])


@pytest.mark.parametrize(
    ("given", "said"), [("3 März 2021", "never seen"), ("", "empty"), ("x" * 60, "at most"), ("{empty}", "no date")]
)
def test_predict_says_in_one_line_what_was_wrong(dates, tmp_path, given, said, capsys):
    (tmp_path / "empty.txt").write_text("\n")
    given = given.format(empty=tmp_path / "empty.txt")
    assert command(predict, f"--workdir={dates}", f"--input={given}") == 1
    error = capsys.readouterr().err.strip()
    assert error.startswith("error: ") and said in error and "\n" not in error


def test_the_report_shows_alignments_and_formats(dates):
    page = (dates / "report.html").read_text()
    for words in ("Exact match", "By format", "Where the decoder looks", "Mistakes", "beam of 5"):
        assert words in page
    assert len(list((dates / "plots").glob("attention_*.png"))) >= 3


def test_char_gpt_writes_beyond_its_context_and_the_same_again(tmp_path, capsys):
    folder = tmp_path / "gpt"
    flags = [
        "--recipe=char_gpt",
        "--smoke",
        "--model.layers=1",
        "--model.features=8",
        "--model.heads=2",
        "--data.length=16",
    ]
    assert command(train, f"--workdir={folder}", *flags, "--model.dropout=0.1") == 0
    capsys.readouterr()
    texts = []
    for _ in range(2):
        assert command(sample, f"--workdir={folder}", "--length=70", "--prompt=The statement") == 0
        texts.append((folder / "samples" / "000.txt").read_text())
        assert texts[-1] in capsys.readouterr().out
    assert texts[0] == texts[1] and len(texts[0]) == 70 + len("The statement")
