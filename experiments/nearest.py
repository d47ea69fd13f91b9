"""The nearest names to a misspelt one."""

import difflib
from collections.abc import Sequence


def nearest(name: str, known: Sequence[str], count: int = 3) -> list[str]:
    """Up to `count` known names that `name` may have meant, best first; a forgotten section counts as no mistake."""
    plain = _plain(name)
    last = plain.rsplit(".", 1)[-1]
    scores = {}
    for candidate in known:
        whole = _similarity(plain, _plain(candidate))
        leaf = _similarity(last, _plain(candidate).rsplit(".", 1)[-1])
        scores[candidate] = max(whole, 0.98 * leaf if len(last) > 2 else 0.0) + 0.01 * whole
    best = max(scores.values(), default=0.0)
    ranked = sorted((c for c in known if scores[c] >= max(0.7, best - 0.1)), key=lambda c: -scores[c])
    if not ranked and len(plain) > 2:
        ranked = [candidate for candidate in known if plain in _plain(candidate)]
    return ranked[:count]


def did_you_mean(name: str, known: Sequence[str], prefix: str = "") -> str:
    """The words '; did you mean ...?' to end an error line with; none where nothing is near."""
    names = nearest(name, known, 1)
    return f"; did you mean {prefix}{names[0]}?" if names else ""


def _plain(name: str) -> str:
    return name.lower().replace("-", "_")


def _similarity(a: str, b: str) -> float:
    return difflib.SequenceMatcher(None, a, b).ratio()
