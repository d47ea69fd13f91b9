"""Who is told how training goes."""

from typing import Protocol


class Watcher(Protocol):
    """Who is told how training goes: the terminal, or nobody."""

    def update(self, step: int, total: int, metrics: dict[str, float], items_per_second: float) -> None: ...

    def say(self, line: str) -> None: ...


class Silent:
    """A watcher that shows nothing."""

    def update(self, step: int, total: int, metrics: dict[str, float], items_per_second: float) -> None:
        """Shows nothing."""

    def say(self, line: str) -> None:
        """Says nothing."""
