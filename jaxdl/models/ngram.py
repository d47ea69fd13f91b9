"""Counts of n-grams as a language model: what a network must beat."""

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class NGramModel:
    """Interpolated n-grams with Witten-Bell smoothing (Witten and Bell 1991, method C; Chen and Goodman 1999, 2.6).

    With c(h x) the count of character x after the history h of n - 1 characters, h' the history without its first
    character, N(h) = sum_x c(h x), and R(h) the number of different characters seen after h,

        p_n(x | h) = (c(h x) + R(h) p_{n-1}(x | h')) / (N(h) + R(h)),     p_0(x) = 1 / V.

    Attributes:
      order: n, characters of the longest window, the predicted one included; at most what 64 bits can number.
      classes: V.
      tables: for each order 1 ... n: (histories [m], N [m], R [m], windows [k], counts [k]), both keys sorted.
    """

    order: int
    classes: int
    tables: tuple[tuple[np.ndarray, ...], ...]

    @classmethod
    def fit(cls, text: np.ndarray, order: int, classes: int) -> "NGramModel":
        """Counts all windows of 1 ... `order` tokens of `text` [n].

        Raises:
          ValueError: V^order does not fit into 63 bits, or the text is shorter than one window.
        """
        if order < 1 or classes**order >= 2**63 or len(text) < order:
            raise ValueError(f"windows of {order} of {classes} characters cannot be counted in {len(text)} characters")
        tables = []
        for n in range(1, order + 1):
            windows, counts = np.unique(_codes(text, n, classes), return_counts=True)
            histories, first, different = np.unique(windows // classes, return_index=True, return_counts=True)
            totals = np.add.reduceat(counts, first)
            tables.append((histories, totals, different, windows, counts))
        return cls(order, classes, tuple(tables))

    def probabilities(self, text: np.ndarray, order: int | None = None) -> np.ndarray:
        """p(text[i] | the up to n - 1 characters before it), [n] float64; `order` takes a shorter window."""
        p = np.full(len(text), 1.0 / self.classes)
        for n in range(1, (order or self.order) + 1):
            if len(text) < n:
                break
            histories, totals, different, windows, counts = self.tables[n - 1]
            codes = _codes(text, n, self.classes)
            total = _look_up(histories, totals, codes // self.classes)
            kinds = _look_up(histories, different, codes // self.classes)
            count = _look_up(windows, counts, codes)
            shorter = p[n - 1 :]
            seen = total > 0
            # where a history was never seen, the shorter window alone speaks
            p[n - 1 :] = np.where(seen, (count + kinds * shorter) / np.where(seen, total + kinds, 1), shorter)
        return p

    def nats(self, text: np.ndarray, order: int | None = None) -> float:
        """Mean of -log p over the characters of `text` [n]."""
        return float(-np.log(self.probabilities(text, order)).mean())


def _codes(text: np.ndarray, n: int, classes: int) -> np.ndarray:
    """The windows of n tokens as numbers in base V, [len - n + 1] int64, the last token last."""
    count = len(text) - n + 1
    codes = np.zeros(count, np.int64)
    for i in range(n):
        codes = codes * classes + text[i : i + count]
    return codes


def _look_up(keys: np.ndarray, values: np.ndarray, wanted: np.ndarray) -> np.ndarray:
    """values of `wanted` keys, 0 for those that are not there; `keys` are sorted."""
    found = np.minimum(np.searchsorted(keys, wanted), len(keys) - 1)
    return np.where(keys[found] == wanted, values[found], 0)
