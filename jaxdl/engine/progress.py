"""What training shows: a header, one live line (plain lines where there is no terminal), and the result."""

import os
import shutil
import sys
import textwrap
import time
from collections.abc import Callable, Mapping
from typing import TextIO

from jaxdl.engine.watcher import Compiled

REDRAW_SECONDS = 0.2
PLAIN_SECONDS = 5.0
PLAIN_SECONDS_MOST = 60.0
_CLEAR = "\r\x1b[K"
_BOLD, _DIM, _RESET = "\x1b[1m", "\x1b[2m", "\x1b[0m"


class Progress:
    """One live line: percent, step, loss, metrics, items a second, MFU, time left. An engine's `Watcher`.

    In a terminal the line is redrawn in place at most five times a second and is never longer than the terminal is
    wide: what matters least is left out first. Elsewhere whole lines are printed, every 5 s at first and more rarely
    later. The first and the last step are always shown.

    Args:
      stream: where to write; standard output by default.
      interactive: whether the stream is a terminal; None: ask it.
      items: what is counted a second: "images".
      flops_per_item: floating-point operations of training on one item; 0: not known.
      peak_flops: what the devices can do in a second together; 0: not known, no MFU is shown.
      clock: seconds that never go back; for tests.
    """

    def __init__(
        self,
        stream: TextIO | None = None,
        interactive: bool | None = None,
        *,
        items: str = "examples",
        flops_per_item: float = 0.0,
        peak_flops: float = 0.0,
        clock: Callable[[], float] = time.monotonic,
    ):
        self.stream = stream or sys.stdout
        self.interactive = is_interactive(self.stream) if interactive is None else interactive
        self.items = items
        self.peak_items = peak_flops / flops_per_item if flops_per_item and peak_flops else 0.0
        self.clock = clock
        self._color = self.interactive and not os.environ.get("NO_COLOR")
        self._parts: list[tuple[int, str]] = []
        self._shown = False  # whether the newest values are on the screen
        self._open = False  # whether the cursor stands behind a live line
        self._drawn = float("-inf")
        self._anchor: tuple[float, int] | None = None
        self._step = 0

    def update(self, step: int, total: int, metrics: Mapping[str, float], items_per_second: float = 0.0) -> None:
        """Shows how far training is.

        Args:
          step: updates made.
          total: updates to make.
          metrics: most important first; "train/loss" is shown as "loss".
          items_per_second: 0 where it is not known yet.
        """
        now = self.clock()
        if self._anchor is None or step < self._step:  # the first update, or the next seed
            self._flush(now)
            self._anchor, self._drawn = (now, step), float("-inf")
        self._step = step
        self._parts = self._describe(now, step, total, metrics, items_per_second)
        self._shown = False
        # the last step may come several times, with more metrics each: a plain line waits for the last of them
        last = step >= total
        if (last and self.interactive) or (not last and now - self._drawn >= self._pause(now - self._anchor[0])):
            self._draw(now)

    def compiled(self, found: Compiled) -> None:
        """Says nothing: what is worth a line is for whoever shows the rest."""

    def say(self, line: str) -> None:
        """Prints a line that stays, above the live one."""
        if not self.interactive:
            self._flush(self.clock())
        if self._open:
            self._write(_CLEAR)
        self._write(line + "\n")
        if self._open:
            self._write(self._fitted())

    def close(self) -> None:
        """Shows the newest values if they were held back, and ends the live line."""
        self._flush(self.clock())
        if self._open:
            self._write("\n")
        self._open, self._parts, self._anchor = False, [], None

    def __enter__(self) -> "Progress":
        return self

    def __exit__(self, *_) -> None:
        self.close()

    def _flush(self, now: float) -> None:
        if not self._shown and self._parts:
            self._draw(now)

    def _pause(self, elapsed: float) -> float:
        if self.interactive:
            return REDRAW_SECONDS
        return min(PLAIN_SECONDS_MOST, max(PLAIN_SECONDS, 0.05 * elapsed))

    def _describe(
        self, now: float, step: int, total: int, metrics: Mapping[str, float], rate: float
    ) -> list[tuple[int, str]]:
        """The line's parts from left to right, each with its rank: the highest is left out first."""
        shown = [f"{name.removeprefix('train/')} {number(value)}" for name, value in metrics.items()]
        parts = [(0, f"{100 * step // max(total, 1):3d}%"), (2, f"step {step}/{total}")]
        parts += [(rank, text) for rank, text in zip((1, 3, *range(7, 7 + len(shown))), shown, strict=False)]
        if rate > 0:
            parts.append((5, f"{quantity(rate)} {self.items}/s"))
            if self.peak_items:
                parts.append((6, f"MFU {100 * rate / self.peak_items:.0f}%"))
        assert self._anchor is not None
        seconds, steps = now - self._anchor[0], step - self._anchor[1]
        if step >= total:
            parts.append((4, f"in {duration(seconds)}"))
        elif steps > 0:
            parts.append((4, f"ETA {duration(seconds * (total - step) / steps)}"))
        return parts

    def _draw(self, now: float) -> None:
        self._drawn, self._shown = now, True
        if self.interactive:
            self._write(_CLEAR + self._fitted())
            self._open = True
        else:
            self._write("  ".join(text for _, text in self._parts) + "\n")

    def _fitted(self) -> str:
        room = width(self.stream) - 1  # a full last column makes some terminals wrap
        parts = list(self._parts)
        while len(parts) > 1 and sum(len(text) + 2 for _, text in parts) - 2 > room:
            parts.remove(max(parts))
        line = "  ".join(text for _, text in parts)[:room]
        head, tail = line[:4], line[4:]
        return f"{_BOLD}{head}{_RESET}{tail}" if self._color else line

    def _write(self, text: str) -> None:
        write(self.stream, text)


def header(facts: Mapping[str, object], stream: TextIO | None = None) -> None:
    """Prints facts as aligned lines: names in one column, values beside them, long ones wrapped."""
    stream = stream or sys.stdout
    column = max((len(name) for name in facts), default=0) + 2
    room = max(20, width(stream) - column)
    dim, reset = (_DIM, _RESET) if _colored(stream) else ("", "")
    lines = []
    for name, value in facts.items():
        wrapped = textwrap.wrap(str(value), room, break_long_words=False, break_on_hyphens=False) or [""]
        lines.append(f"{dim}{name:<{column}}{reset}{wrapped[0]}".rstrip())
        lines += [" " * column + line for line in wrapped[1:]]
    write(stream, "\n".join(lines) + "\n")


def result(
    title: str,
    metrics: Mapping[str, float | str],
    facts: Mapping[str, object] | None = None,
    stream: TextIO | None = None,
) -> None:
    """Prints the end of a run.

    Args:
      title: one line: "done: 2000 steps in 12 s".
      metrics: final values, aligned; a text ("0.981 +- 0.004") is printed as it is.
      facts: what else to say: {"report": "runs/lenet5/report.html"}.
      stream: standard output by default.
    """
    stream = stream or sys.stdout
    bold, reset = (_BOLD, _RESET) if _colored(stream) else ("", "")
    facts = facts or {}
    column = max((len(name) for name in (*metrics, *facts)), default=0)
    lines = ["", f"{bold}{title}{reset}"]
    lines += [f"  {name:<{column}}  {v if isinstance(v, str) else number(v)}" for name, v in metrics.items()]
    lines += [f"  {name:<{column}}  {value}" for name, value in facts.items()]
    write(stream, "\n".join(lines) + "\n")


def number(value: float) -> str:
    """A metric with about four significant digits and a steady width: 0.9861, 12.35, 1.2e-05."""
    size = abs(value)
    if value != value or size == float("inf"):
        return str(value)
    if size != 0 and (size < 1e-3 or size >= 1e6):
        return f"{value:.2e}"
    return f"{value:.4f}" if size < 10 else f"{value:.2f}" if size < 1000 else f"{value:.0f}"


def quantity(value: float) -> str:
    """A rate with its magnitude: 850, 12.3k, 1.25M."""
    for factor, letter in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if value >= factor:
            return f"{value / factor:.3g}{letter}" if value < 999.5 * factor else f"{value / factor:.0f}{letter}"
    return f"{value:.0f}" if value >= 10 else f"{value:.2g}"


def duration(seconds: float) -> str:
    """Seconds as 3.2 s, 0:45, 12:05 or 3:07:10."""
    if seconds < 10:
        return f"{seconds:.1f} s"
    whole = round(seconds)
    hours, minutes, rest = whole // 3600, whole // 60 % 60, whole % 60
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"


def is_interactive(stream: TextIO) -> bool:
    """Whether lines can be redrawn in place."""
    return hasattr(stream, "isatty") and stream.isatty() and os.environ.get("TERM") != "dumb"


def width(stream: TextIO) -> int:
    """Columns of the stream's terminal; COLUMNS or 80 where it is none."""
    try:
        columns = os.get_terminal_size(stream.fileno()).columns
    except (AttributeError, OSError, ValueError):
        columns = 0
    return columns or shutil.get_terminal_size((80, 24)).columns


def write(stream: TextIO, text: str) -> None:
    """Writes at once; characters that the stream cannot encode become question marks."""
    encoding = getattr(stream, "encoding", None) or "utf-8"
    stream.write(text.encode(encoding, "replace").decode(encoding))
    stream.flush()


def _colored(stream: TextIO) -> bool:
    return is_interactive(stream) and not os.environ.get("NO_COLOR")
