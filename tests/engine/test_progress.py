"""The live line on fake streams with a fake clock, and once in a real pseudo-terminal."""

import io
import os
import re
import struct
import subprocess
import sys
from pathlib import Path

import pytest

from jaxdl.engine import progress
from jaxdl.engine.progress import Progress, duration, header, number, quantity, result

ROOT = Path(__file__).parents[2]
METRICS = {"train/loss": 0.25, "train/accuracy": 0.5, "train/gradient_norm": 3.0}


class Terminal(io.StringIO):
    """A terminal that keeps all that was written."""

    def __init__(self):
        super().__init__()
        self.columns = 80

    def isatty(self):
        return True


class Clock:
    now = 0.0

    def __call__(self):
        return self.now


@pytest.fixture(autouse=True)
def environment(monkeypatch):
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.delenv("NO_COLOR", raising=False)
    monkeypatch.setattr(progress, "width", lambda stream: getattr(stream, "columns", 80))


def drawn(stream):
    """The states of the live line, without escapes."""
    text = re.sub(r"\x1b\[[0-9;]*m", "", stream.getvalue())
    return [part for part in text.split("\r\x1b[K") if part]


def test_at_most_five_lines_a_second_and_always_the_last():
    stream, clock = Terminal(), Clock()
    live = Progress(stream, clock=clock)
    for step in range(1001):
        clock.now = step * 0.01
        live.update(step, 1000, METRICS, 64.0)
    assert "100%  step 1000/1000" in drawn(stream)[-1]
    live.close()
    lines = drawn(stream)
    assert 45 <= len(lines) <= 52  # 10 s
    assert lines[0].startswith("  0%  step 0/1000  loss 0.2500  accuracy 0.5000")
    assert lines[-1].startswith("100%  step 1000/1000") and lines[-1].endswith("\n")
    assert "in 0:10" in lines[-1]
    assert stream.getvalue().count("\n") == 1


def test_plain_lines_are_few_and_whole():
    stream, clock = io.StringIO(), Clock()
    live = Progress(stream, clock=clock)
    for step in range(36001):
        clock.now = step * 0.1  # one hour
        live.update(step, 36000, METRICS, 64.0)
    live.close()
    text = stream.getvalue()
    lines = text.splitlines()
    assert "\r" not in text and "\x1b" not in text
    assert 60 <= len(lines) <= 110
    assert lines[1].startswith("  0%  step 50/36000  loss")  # after 5 s
    assert lines[-1].startswith("100%  step 36000/36000")
    assert "gradient_norm 3.0000" in lines[0]


def test_eta_and_mfu():
    clock, stream = Clock(), io.StringIO()
    live = Progress(stream, items="images", flops_per_item=2e6, peak_flops=1e9, clock=clock)
    live.update(100, 300, {"loss": 1.0}, 0.0)  # a resumed run; the first update gives no rate
    clock.now = 10.0
    live.update(150, 300, {"loss": 1.0}, 125.0)
    first, second = stream.getvalue().splitlines()
    assert "ETA" not in first and "images/s" not in first
    # 50 steps took 10 s, 150 are left: 30 s; 125 images a second of the 500 that the peak allows
    assert second == " 50%  step 150/300  loss 1.0000  125 images/s  MFU 25%  ETA 0:30"


@pytest.mark.parametrize("columns", [200, 80, *range(64, 18, -1), 10, 5])
def test_never_longer_than_the_terminal(columns):
    stream, clock = Terminal(), Clock()
    stream.columns = columns
    live = Progress(stream, clock=clock, flops_per_item=1.0, peak_flops=1e9)
    for clock.now, step in ((0.0, 0), (1.0, 500), (2.0, 12000)):
        live.update(step, 12345, METRICS, 1e6)
    assert max(len(line.rstrip("\n")) for line in drawn(stream)) < columns
    assert "97%" in drawn(stream)[-1] if columns > 4 else True
    for line in drawn(stream) if columns >= 10 else []:  # parts are left out, not cut
        assert re.fullmatch(
            r" *\d+%(  step \d+/12345)?(  loss 0.2500)?(  accuracy 0.5000)?(  gradient_norm 3.0000)?"
            r"(  1M examples/s)?(  MFU 0%)?(  ETA [0-9.:]+( s)?)?",
            line,
        )
    if columns >= 20:
        assert "loss 0.2500" in drawn(stream)[-1]  # what matters most stays longest
    if columns == 40:
        assert "MFU" not in drawn(stream)[-1]


def test_no_color(monkeypatch):
    stream = Terminal()
    Progress(stream).update(1, 2, METRICS)
    assert "\x1b[1m" in stream.getvalue()
    monkeypatch.setenv("NO_COLOR", "1")
    stream = Terminal()
    Progress(stream).update(1, 2, METRICS)
    header({"recipe": "lenet5"}, stream)
    result("done", {"loss": 1.0}, stream=stream)
    assert not re.search(r"\x1b\[[0-9;]*m", stream.getvalue())


def test_dumb_terminals_get_plain_lines(monkeypatch):
    monkeypatch.setenv("TERM", "dumb")
    stream = Terminal()
    Progress(stream).update(1, 2, METRICS)
    assert "\r" not in stream.getvalue() and "\x1b" not in stream.getvalue()


def test_lines_that_stay_stand_above_the_live_one():
    stream, clock = Terminal(), Clock()
    with Progress(stream, clock=clock) as live:
        live.update(1, 4, {"loss": 1.0})
        live.say("saved")
        clock.now = 0.1
        live.update(2, 4, {"loss": 0.5})  # held back, so `close` must show it
    lines = drawn(stream)
    assert lines[1].startswith("saved\n 25%")
    assert lines[-1].startswith(" 50%  step 2/4  loss 0.5000") and lines[-1].endswith("\n")


def test_the_next_seed_starts_over():
    stream, clock = io.StringIO(), Clock()
    live = Progress(stream, clock=clock)
    for clock.now, step in ((0.0, 0), (10.0, 100), (20.0, 0), (40.0, 50)):
        live.update(step, 100, {"loss": 1.0})
    lines = stream.getvalue().splitlines()
    assert lines[1].endswith("in 0:10")
    assert "ETA" not in lines[2]
    assert lines[3].endswith("ETA 0:20")


def test_header_and_result_are_aligned():
    stream = io.StringIO()
    header({"recipe": "lenet5", "data": " ".join(["word"] * 30)}, stream)
    lines = stream.getvalue().splitlines()
    assert lines[0] == "recipe  lenet5"
    assert lines[1].startswith("data    word") and lines[2].startswith("        word")
    assert max(map(len, lines)) <= 80
    stream = io.StringIO()
    result("done", {"test/accuracy": 0.98611, "loss": "0.1 ± 0.2"}, {"report": "r.html"}, stream)
    assert stream.getvalue() == (
        "\ndone\n  test/accuracy  0.9861\n  loss           0.1 ± 0.2\n  report         r.html\n"
    )


def test_streams_that_cannot_encode_get_question_marks():
    raw = io.BytesIO()
    stream = io.TextIOWrapper(raw, encoding="ascii")
    result("done", {"loss": "0.1 ± 0.2"}, stream=stream)
    assert b"0.1 ? 0.2" in raw.getvalue()


@pytest.mark.parametrize(
    ("value", "text"),
    [(0.98611, "0.9861"), (12.3456, "12.35"), (1234.5, "1234"), (1.2e-5, "1.20e-05"), (0.0, "0.0000"),
     (float("nan"), "nan"), (-3.0, "-3.0000"), (1e7, "1.00e+07")],
)  # fmt: skip
def test_numbers(value, text):
    assert number(value) == text


def test_rates_and_durations():
    rates = (850.4, 12345, 999_600, 2.5e6, 3e9, 0.5)
    assert [quantity(v) for v in rates] == ["850", "12.3k", "1000k", "2.5M", "3G", "0.5"]
    assert [duration(s) for s in (3.21, 45, 59.7, 725, 11230)] == ["3.2 s", "0:45", "1:00", "12:05", "3:07:10"]


def test_in_a_real_terminal():
    pty, termios, fcntl = pytest.importorskip("pty"), pytest.importorskip("termios"), pytest.importorskip("fcntl")
    code = (
        "from jaxdl.engine.progress import Progress\n"
        "p = Progress()\n"
        "for s in range(5): p.update(s, 4, {'loss': 1.0, 'accuracy': 0.5, 'error': 0.5}, 1e6)\n"
        "p.close()\n"
    )
    parent, child = pty.openpty()
    fcntl.ioctl(child, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 40, 0, 0))
    env = {**os.environ, "PYTHONPATH": str(ROOT), "TERM": "xterm"}
    with subprocess.Popen([sys.executable, "-c", code], stdout=child, env=env) as done:
        os.close(child)
        output = b""
        while True:
            try:
                chunk = os.read(parent, 4096)
            except OSError:  # Linux: the other end is closed
                break
            if not chunk:
                break
            output += chunk
        assert done.wait(30) == 0
    os.close(parent)
    lines = re.sub(r"\x1b\[[0-9;]*m", "", output.decode()).split("\r\x1b[K")[1:]
    assert len(lines) == 2  # the first and the last: all came within a fifth of a second
    assert all(0 < len(line.rstrip("\r\n")) < 40 for line in lines)
    assert lines[-1].startswith("100%  step 4/4  loss 1.0000")


def test_a_plain_last_step_is_one_line_with_its_newest_values():
    stream = io.StringIO()
    with Progress(stream, clock=Clock()) as live:
        live.update(1, 4, {"loss": 1.0})
        for loss in (0.3, 0.2, 0.1):
            live.update(4, 4, {"loss": loss})
        live.say("seed 1")
        live.update(0, 4, {"loss": 2.0})
        live.update(4, 4, {"loss": 0.5})
    lines = [line.split("  ") for line in stream.getvalue().splitlines()]
    assert [line[:3] for line in lines] == [
        [" 25%", "step 1/4", "loss 1.0000"],
        ["100%", "step 4/4", "loss 0.1000"],
        ["seed 1"],
        ["", "0%", "step 0/4"],
        ["100%", "step 4/4", "loss 0.5000"],
    ]
