"""SIGTERM and Ctrl-C as a flag that the loop looks at between chunks."""

import signal
import threading

EXIT_INTERRUPTED = 75


class Interrupted(Exception):
    """Training stopped on a signal after its checkpoint was saved; the process exits with 75."""


class Signals:
    """While this context is open, SIGTERM and SIGINT only set `pending`; a second Ctrl-C raises KeyboardInterrupt."""

    def __init__(self):
        self.pending = False
        self._before = {}

    def __enter__(self) -> "Signals":
        if threading.current_thread() is threading.main_thread():  # elsewhere Python allows no handlers
            for number in (signal.SIGTERM, signal.SIGINT):
                self._before[number] = signal.signal(number, self._handle)
        return self

    def __exit__(self, *_) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _handle(self, number, _frame) -> None:
        if self.pending and number == signal.SIGINT:
            raise KeyboardInterrupt
        self.pending = True
