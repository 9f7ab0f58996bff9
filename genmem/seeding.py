"""Seeds are passed, never set: every purpose and index has its own stream, derived from one root seed.

Streams come from `numpy.random.SeedSequence`: they are independent, and the same on any machine and in any order.
"""

import zlib

import numpy as np


def stream(root: int, purpose: str, *keys: int) -> np.random.Generator:
    """Return the generator for `purpose` (such as "order") at `keys` (such as the split), derived from `root`.

    >>> stream(0, "order", 17).integers(100) == stream(0, "order", 17).integers(100)
    np.True_
    """
    return np.random.Generator(np.random.PCG64(_sequence(root, purpose, keys)))


def seed_for(root: int, purpose: str, *keys: int) -> int:
    """Return a 63-bit seed for libraries that take an integer (torch, faiss).

    >>> seed_for(0, "weights", 3) != seed_for(0, "weights", 4)
    True
    """
    return int(_sequence(root, purpose, keys).generate_state(1, np.uint64)[0] >> 1)


def seed32(root: int, purpose: str, *keys: int) -> int:
    """Return a 31-bit seed for libraries that take at most 32 bits (scikit-learn).

    >>> 0 <= seed32(0, "cells") < 2**31
    True
    """
    return seed_for(root, purpose, *keys) % 2**31


def _sequence(root: int, purpose: str, keys: tuple[int, ...]) -> np.random.SeedSequence:
    # crc32 rather than hash(): Python salts hash() differently in every process.
    return np.random.SeedSequence(root, spawn_key=(zlib.crc32(purpose.encode()), *keys))
