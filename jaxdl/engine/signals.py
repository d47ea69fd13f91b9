"""SIGTERM and Ctrl-C as a flag that the loop looks at between chunks."""

import signal
import threading

EXIT_INTERRUPTED = 75


class Interrupted(Exception):
    """Training stopped on a signal after its checkpoint was saved; the process exits with 75."""


class Signals:
    """While this context is open, SIGTERM and SIGINT only set `pending`; a second Ctrl-C raises KeyboardInterrupt.

    Contexts nest: an inner one knows of signals that came before it, the outer one of those that came meanwhile.
    """

    def __init__(self):
        self.pending = False
        self._before: dict = {}

    def __enter__(self) -> "Signals":
        if threading.current_thread() is threading.main_thread():  # elsewhere Python allows no handlers
            for number in (signal.SIGTERM, signal.SIGINT):
                self._before[number] = signal.signal(number, self._handle)
        outer = self._outer()
        self.pending |= outer is not None and outer.pending
        return self

    def __exit__(self, *_) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)
        outer = self._outer()
        if outer is not None:
            outer.pending |= self.pending

    def _outer(self) -> "Signals | None":
        owner = getattr(self._before.get(signal.SIGTERM), "__self__", None)
        return owner if isinstance(owner, Signals) else None

    def _handle(self, number, _frame) -> None:
        if self.pending and number == signal.SIGINT:
            raise KeyboardInterrupt
        self.pending = True
