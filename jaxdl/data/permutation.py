"""A shuffled order that is computed, not stored: a keyed bijection of [0, n) for every epoch.

The domain is written as a x b >= n and an index as (left, right) in Z_a x Z_b. Each Feistel round adds a keyed hash of
one half to the other half, modulo its size, which is invertible whatever the hash is (Luby and Rackoff 1988; with
modular addition instead of XOR: Black and Rogaway 2002, "Ciphers with arbitrary finite domains"). A value that lands in
the excess [n, a·b) is sent through again ("cycle walking"). A cycle holds at most a·b - n such values, so that many
repetitions are always enough: the program has a fixed length and no data-dependent loop.
"""

import functools
import math
from collections.abc import Callable
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
    with np.errstate(over="ignore"):  # NumPy warns of what is meant here, arithmetic modulo 2^32, for scalars alone
        return _permute(jax.device_get(words), np.asarray(position).astype(np.uint32), n, np).astype(np.int32)


@functools.cache
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
    repeat = _repeat_in_program if xp is jnp else _repeat_on_host
    epoch, index = position // np.uint32(n), position % np.uint32(n)
    index = _feistel(index, epoch, words, (a, b), repeat)

    def walk(_, value):
        return xp.where(value >= np.uint32(n), _feistel(value, epoch, words, (a, b), repeat), value)

    return repeat(a * b - n, walk, index)


def _feistel(index: Any, epoch: Any, words: Any, sizes: tuple[int, int], repeat: Callable) -> Any:
    size_a, size_b = np.uint32(sizes[0]), np.uint32(sizes[1])

    def two_rounds(i, halves):
        left, right = halves
        # each position has its own epoch: several epochs may meet in one batch
        first, second = (_mix(epoch ^ words[2 * i + r, 0]) + words[2 * i + r, 1] for r in (0, 1))
        left = (left + _mix(right + first) % size_a) % size_a
        right = (right + _mix(left + second) % size_b) % size_b
        return left, right

    left, right = repeat(_ROUNDS // 2, two_rounds, (index // size_b, index % size_b))
    return left * size_b + right


def _repeat_in_program(count: int, body: Callable, value: Any) -> Any:
    # A loop, not its unrolling: XLA:CPU fuses straight-line arithmetic into whatever reads the index and would compute
    # it again for every pixel of an image (measured: 4.0 ms instead of 0.1 for a random crop of 128 images)
    return jax.lax.fori_loop(0, count, body, value) if count else value


def _repeat_on_host(count: int, body: Callable, value: Any) -> Any:
    for i in range(count):
        value = body(i, value)
    return value


def _mix(x: Any) -> Any:
    """The finaliser of MurmurHash3: every input bit reaches every output bit."""
    x = (x ^ (x >> np.uint32(16))) * np.uint32(0x85EBCA6B)
    x = (x ^ (x >> np.uint32(13))) * np.uint32(0xC2B2AE35)
    return x ^ (x >> np.uint32(16))
