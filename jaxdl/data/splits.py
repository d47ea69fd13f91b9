"""Which example belongs to which split: fixed rules that no seed changes."""

import hashlib
from collections.abc import Sequence

import numpy as np


def stratified_order(labels: np.ndarray) -> np.ndarray:
    """A fixed order of all examples whose every prefix holds the classes in (nearly) their true proportions.

    Within a class the order is a fixed shuffle; the k-th of the n_c examples of class c has the rank (k + 1/2) / n_c,
    and all are sorted by rank.

    Args:
      labels: [n] int.

    Returns:
      [n] int64 permutation of 0 ... n - 1.
    """
    labels = np.asarray(labels)
    # RandomState: NumPy promises that its legacy stream never changes
    shuffled = np.random.RandomState(0).permutation(len(labels))
    rank = np.empty(len(labels))
    for label in np.unique(labels):
        members = shuffled[labels[shuffled] == label]
        rank[members] = (np.arange(len(members)) + 0.5) / len(members)
    return shuffled[np.argsort(rank[shuffled], kind="stable")]


def hold_out(labels: np.ndarray, fraction: float) -> tuple[np.ndarray, np.ndarray]:
    """(kept, held out) sorted indices, stratified by `labels` [n]; round(fraction·n) are held out, at least one.

    Raises:
      ValueError: fewer than two examples.
    """
    if len(labels) < 2:
        raise ValueError(f"at least two examples are needed to hold some out, got {len(labels)}")
    count = min(max(round(fraction * len(labels)), 1), len(labels) - 1)
    order = stratified_order(labels)
    return np.sort(order[count:]), np.sort(order[:count])


def split_by_hash(names: Sequence[str], labels: np.ndarray) -> dict[str, np.ndarray]:
    """Train, validation and test (80/10/10 %) by sha256 of each name, so that adding an example moves no other one.

    Only where that would leave a split empty, or a class without a training example, is one example moved.

    Args:
      names: n names; examples of equal name come into the same split.
      labels: [n] int.

    Returns:
      split -> sorted indices.

    Raises:
      ValueError: fewer than three different names.
    """
    if len(set(names)) < 3:
        raise ValueError(f"three splits need at least three different examples, got {len(set(names))}")
    position = np.array([int.from_bytes(hashlib.sha256(name.encode()).digest()[:6], "big") / 2.0**48 for name in names])
    split = np.where(position < 0.8, 0, np.where(position < 0.9, 1, 2))
    labels = np.asarray(labels)
    for label in np.unique(labels):
        members = labels == label
        if not (split[members] == 0).any():
            split[position == position[members].min()] = 0
    for number in (2, 1):
        if not (split == number).any():
            split[position == _highest_spare(position, split, labels)] = number
    return {name: np.flatnonzero(split == number) for number, name in enumerate(("train", "validation", "test"))}


def _highest_spare(position: np.ndarray, split: np.ndarray, labels: np.ndarray) -> float:
    """The last example in hash order that neither empties its split nor takes a class its last training example."""
    order = np.argsort(position)[::-1]
    for i in order:
        others = (split == split[i]) & (position != position[i])
        if (others & (labels == labels[i])).any() if split[i] == 0 else others.any():
            return position[i]
    return position[next(i for i in order if split[i] == 0)]
