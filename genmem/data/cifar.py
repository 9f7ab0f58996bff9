"""The binary files of CIFAR-10 and CIFAR-100: records of labels and 32 x 32 pixels."""

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from genmem.data.notes import Note
from genmem.errors import DataError

_PIXELS = 3 * 32 * 32
_CLASSES = {1: (10,), 2: (20, 100)}  # by number of labels of a record: coarse labels come before fine ones


def is_cifar(path: Path) -> bool:
    """Return whether a file has the length of records of CIFAR-10 or CIFAR-100."""
    size = path.stat().st_size
    return size > 0 and any(size % (n_labels + _PIXELS) == 0 for n_labels in _CLASSES)


def read_cifar(path: Path) -> tuple[NDArray[np.uint8], NDArray[np.int64], tuple[str, ...]]:
    """Return the images (n, 32, 32, 3) of a .bin file of CIFAR-10 or CIFAR-100, their labels, and notes.

    A record holds one label, or a coarse and a fine one, and the red, green and blue pixels, row by row
    (https://www.cs.toronto.edu/~kriz/cifar.html). The labels of CIFAR-100 are the fine ones.

    Raises:
        DataError: the file is neither: its length is of no number of records, or a label is too large.
    """
    content = np.fromfile(path, np.uint8)
    for n_labels, classes in _CLASSES.items():
        length = n_labels + _PIXELS
        if not content.size or content.size % length:
            continue
        records = content.reshape(-1, length)
        if (records[:, :n_labels] < np.array(classes)).all():
            return _contents(records, n_labels)
    raise DataError(
        expected="a .bin file of CIFAR-10 (records of 3073 bytes) or CIFAR-100 (3074 bytes)",
        got=f"{path}, {content.size:,} bytes that are not such records with labels below 10, or 20 and 100",
        do="Save the examples as an array with numpy.save.",
    )


def _contents(records: NDArray[Any], n_labels: int) -> tuple[NDArray[np.uint8], NDArray[np.int64], tuple[str, ...]]:
    X = np.ascontiguousarray(records[:, n_labels:].reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1))
    said = "Labels are the first byte of each record, of CIFAR-10."
    if n_labels == 2:
        said = "Labels are the 100 fine ones of CIFAR-100; the 20 coarse ones were left out."
    return X, records[:, n_labels - 1].astype(np.int64), (Note(said),)
