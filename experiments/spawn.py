"""`--processes=N`: starts N processes of the same command on this machine, and ends them together."""

import contextlib
import ctypes
import os
import queue
import re
import shlex
import signal
import socket
import subprocess
import sys
import tempfile
import threading
from typing import IO

from experiments import cli
from jaxdl.engine import processes
from jaxdl.engine.signals import EXIT_INTERRUPTED

# how long the others may go on once one has failed, and once one has ended after a signal (the first may still save)
_GRACE, _GRACE_SAVING = 10, 60
_ATTEMPTS = 3
_PARENT = "JAXDL_PARENT"
# logs of XLA, gRPC and Gloo, which an aborted process leaves behind
_NOISE = re.compile(r"^([IWEF]\d{4} |\[Gloo\]|WARNING: All log messages)")


def spawn(arguments: cli.Arguments, count: int, verdict: int = 0) -> int:
    """Runs the command line in `count` processes that train together; the exit code of them all.

    0 if all ended well, 75 after SIGTERM or Ctrl-C, else the first failure's. Once one process fails or is killed the
    others are ended too, since they would wait for it; what went wrong is said in one line.

    Args:
      arguments: of this process.
      count: how many.
      verdict: an exit code of the first process that is an answer, explained by what it printed.
    """
    for attempt in range(_ATTEMPTS):
        with _Company(shlex.split(arguments.command)[1:], count, arguments.flags.debug) as company:
            index, code = company.wait()
            if code and attempt + 1 < _ATTEMPTS and company.port_was_taken():
                continue
            return company.report(index, code, verdict)
    raise AssertionError


class _Company:
    """Some processes of one command."""

    def __init__(self, words: list[str], count: int, debug: bool):
        self.count, self.debug, self.signalled = count, debug, False
        self.logs: list[IO[str]] = []
        self.open = contextlib.ExitStack()
        self.children: list[subprocess.Popen] = []
        self.ended: queue.Queue[tuple[int, int]] = queue.Queue()
        self._before: dict = {}
        self._words, self._port = words, _free_port()

    def __enter__(self) -> "_Company":
        for number in (signal.SIGTERM, signal.SIGINT):
            self._before[number] = signal.signal(number, self._pass_on)
        for index in range(self.count):
            self._start(index)
        return self

    def __exit__(self, *_) -> None:
        self._kill()
        for number, handler in self._before.items():
            signal.signal(number, handler)
        self.open.close()

    def _start(self, index: int) -> None:
        own = {
            processes.COORDINATOR: f"localhost:{self._port}",
            processes.COUNT: str(self.count),
            processes.INDEX: str(index),
            _PARENT: str(os.getpid()),
        }
        log: IO[str] = self.open.enter_context(
            tempfile.TemporaryFile("w+", encoding="utf-8", errors="replace")  # noqa: SIM115
        )
        child = subprocess.Popen(
            [sys.executable, *self._words],
            env={**os.environ, **own},
            stdin=subprocess.DEVNULL,
            stdout=None if index == 0 else subprocess.DEVNULL,
            stderr=None if self.debug else log,
            start_new_session=True,  # a Ctrl-C at the terminal comes from here alone, once
        )
        self.logs.append(log)
        self.children.append(child)
        threading.Thread(target=lambda: self.ended.put((index, child.wait())), daemon=True).start()

    def _pass_on(self, number: int, _frame) -> None:
        self.signalled = True
        for child in self.children:
            if child.poll() is None:
                child.send_signal(number)

    def wait(self) -> tuple[int, int]:
        """Number and exit code of the first process that did not end well, or (0, 0) once all have."""
        worst = (0, 0)
        for _ in range(self.count):
            grace = None if worst[1] == 0 else _GRACE_SAVING if worst[1] == EXIT_INTERRUPTED else _GRACE
            try:
                index, code = self.ended.get(timeout=grace)
            except queue.Empty:
                break
            # a process that was killed may be heard of later than those that it took along
            if code and (worst[1] in (0, EXIT_INTERRUPTED) or code == -signal.SIGKILL):
                worst = (index, code)
            if code < 0:
                break
        self._kill()
        return worst

    def _kill(self) -> None:
        for child in self.children:
            if child.poll() is None:
                child.kill()
            child.wait()

    def lines(self, index: int) -> list[str]:
        """What a process wrote to its standard error, without other libraries' logs."""
        self.logs[index].seek(0)
        return [line for line in self.logs[index].read().splitlines() if not _NOISE.match(line)]

    def port_was_taken(self) -> bool:
        """Whether another program took the port before the first process could."""
        self.logs[0].seek(0)
        return "Failed to add port" in self.logs[0].read()

    def report(self, index: int, code: int, verdict: int = 0) -> int:
        """Says what happened; the exit code for all."""
        if code in (0, EXIT_INTERRUPTED):
            for line in self.lines(0):
                print(line, file=sys.stderr)
            return code
        if code < 0:
            name = signal.Signals(-code).name
            if self.signalled and name in ("SIGTERM", "SIGINT"):
                print("interrupted before training began", file=sys.stderr)
                return 128 - code
            print(
                f"error: process {index} of {self.count} was ended by {name}, so the others were too: "
                "the same command goes on from the newest checkpoint",
                file=sys.stderr,
            )
            return 1
        errors = [line for k in (index, *range(self.count)) for line in self.lines(k) if line.startswith("error: ")]
        if code == verdict and index == 0 and not errors:
            return code
        print(
            errors[0] if errors else f"error: process {index} ended with code {code} (--debug shows why)",
            file=sys.stderr,
        )
        return code


def _free_port() -> int:
    with socket.socket() as found:
        found.bind(("", 0))
        return found.getsockname()[1]


def end_with_parent() -> None:
    """In a process that `spawn` started: SIGTERM when the starting one ends, which cannot pass it on if it is killed."""
    parent = os.environ.get(_PARENT)
    if parent is None or sys.platform != "linux":
        return
    ctypes.CDLL(None).prctl(1, signal.SIGTERM)  # PR_SET_PDEATHSIG
    if os.getppid() != int(parent):  # it has ended already
        os.kill(os.getpid(), signal.SIGTERM)
