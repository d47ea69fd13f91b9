"""A shuffled order that is computed, not stored: a keyed bijection of [0, n) for every epoch.

The domain is written as a x b >= n and an index as (left, right) in Z_a x Z_b. Each Feistel round adds a keyed hash of
one half to the other half, modulo its size, which is invertible whatever the hash is (Luby and Rackoff 1988; with
modular addition instead of XOR: Black and Rogaway 2002, "Ciphers with arbitrary finite domains"). A value that lands in
the excess [n, a·b) is sent through again ("cycle walking"). A cycle holds at most a·b - n such values, so that many
repetitions are always enough: the program has a fixed length and no data-dependent loop.
"""

import functools
import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

_ROUNDS = 8


def permuted_index(key: jax.Array, position: Any, n: int) -> Any:
    """The example that stands at `position` of an endless sequence of shuffled epochs.

    Epoch `position // n` visits every index of [0, n) exactly once, in an order that depends on `key` and the epoch.
    The same bits come out of an XLA program and, for a NumPy `position`, of plain NumPy on the host.

    Args:
      key: random key of the order; typically one per seed.
      position: whole numbers >= 0, any shape; read as uint32, so the sequence repeats itself after 2^32 positions.
      n: number of examples, >= 1; static.

    Returns:
      int32 array like `position` with values in [0, n).

    Raises:
      ValueError: n < 1.
    """
    if n < 1:
        raise ValueError(f"an order needs at least one example, got n={n}")
    words = jax.random.bits(key, (_ROUNDS, 2), jnp.uint32)
    if isinstance(position, jax.Array):
        return _permute(words, position.astype(jnp.uint32), n, jnp).astype(jnp.int32)
    return _permute(jax.device_get(words), np.asarray(position).astype(np.uint32), n, np).astype(np.int32)


@functools.lru_cache(maxsize=None)
def domain(n: int) -> tuple[int, int]:
    """Sizes (a, b) with a·b >= n, both near the square root of n, and the fewest values in excess (at most 16 for
    n <= 100 000). Both are at least two from n = 3 on, because with b = 1 only rotations could come out."""
    if n <= 4:
        return ((1, 1), (2, 1), (2, 2), (2, 2))[n - 1]
    root = math.isqrt(n - 1) + 1
    candidates = ((a, -(-n // a)) for a in range(root, 2 * root + 1))
    return min((sizes for sizes in candidates if sizes[1] >= 2), key=lambda sizes: sizes[0] * sizes[1])


def _permute(words: Any, position: Any, n: int, xp: Any) -> Any:
    a, b = domain(n)
    excess = a * b - n
    epoch, index = position // np.uint32(n), position % np.uint32(n)
    # one word per round and position: several epochs may meet in one batch
    subkeys = [_mix(epoch ^ words[r, 0]) + words[r, 1] for r in range(_ROUNDS)]
    index = _feistel(index, subkeys, a, b)
    if excess == 0:
        return index

    def walk(_, value):
        return xp.where(value >= np.uint32(n), _feistel(value, subkeys, a, b), value)

    if xp is jnp:
        return jax.lax.fori_loop(0, excess, walk, index)
    for i in range(excess):
        index = walk(i, index)
    return index


def _feistel(index: Any, subkeys: list, a: int, b: int) -> Any:
    size_a, size_b = np.uint32(a), np.uint32(b)
    left, right = index // size_b, index % size_b
    for r in range(0, _ROUNDS, 2):
        left = (left + _mix(right + subkeys[r]) % size_a) % size_a
        right = (right + _mix(left + subkeys[r + 1]) % size_b) % size_b
    return left * size_b + right


def _mix(x: Any) -> Any:
    """The finaliser of MurmurHash3: every input bit reaches every output bit."""
    x = (x ^ (x >> np.uint32(16))) * np.uint32(0x85EBCA6B)
    x = (x ^ (x >> np.uint32(13))) * np.uint32(0xC2B2AE35)
    return x ^ (x >> np.uint32(16))
