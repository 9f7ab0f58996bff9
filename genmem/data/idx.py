"""IDX files, the format of MNIST."""

import gzip
import math
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from genmem.errors import DataError

_IDX_TYPES = {0x08: "u1", 0x09: "i1", 0x0B: ">i2", 0x0C: ">i4", 0x0D: ">f4", 0x0E: ">f8"}


def is_idx(path: Path) -> bool:
    """Return whether a file starts as an IDX file does."""
    with open(path, "rb") as file:
        head = file.read(4)
    return len(head) == 4 and head[:2] == b"\0\0" and head[2] in _IDX_TYPES


def read_idx(path: Path) -> NDArray[Any]:
    """Return the array of an IDX file (the format of MNIST), gzipped or not.

    The file holds four bytes (0, 0, type, number of dimensions), the dimensions as big-endian 32-bit integers, and the
    values.

    Raises:
        DataError: the file is not in this format.
        ValueError: its length does not match its header.
    """
    with _maybe_gzip(path) as file:
        head = file.read(4)
        if len(head) < 4 or head[:2] != b"\0\0" or head[2] not in _IDX_TYPES:
            raise DataError(
                expected=f"an IDX file, as those of MNIST, at {path}",
                got=f"one that starts with {head.hex(' ') or 'nothing'}, not with 00 00 and an IDX type",
                do="If it is another kind of file that is compressed, unpack it (gunzip).",
            )
        sizes = file.read(4 * head[3])
        if len(sizes) < 4 * head[3]:
            raise ValueError("its header is truncated")
        shape = np.frombuffer(sizes, ">u4").tolist()
        kind, content = np.dtype(_IDX_TYPES[head[2]]), file.read()
        if len(content) != math.prod(shape) * kind.itemsize:
            meant = f"{math.prod(shape) * kind.itemsize} for {tuple(shape)}"
            raise ValueError(f"it holds {len(content)} bytes of values; its header says {meant}")
        values = np.frombuffer(content, kind).reshape(shape)
        return values.astype(kind.newbyteorder("="))


def _maybe_gzip(path: Path) -> IO[bytes]:
    with open(path, "rb") as file:
        zipped = file.read(2) == b"\x1f\x8b"
    return gzip.open(path) if zipped else open(path, "rb")  # type: ignore[return-value]
