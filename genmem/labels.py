"""One label for each example: integers, booleans or text."""

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from genmem.errors import DataError
from genmem.formats import kind_of, read_idx, read_npy, reading
from genmem.tables import only_column, read_table


def read_labels(path: Path) -> NDArray[Any]:
    """Read labels from a .npy file, an IDX file, a .csv file of one named column, or a .txt file, one a line.

    Raises:
        DataError: the file is missing, unreadable, damaged or of another kind.
    """
    kind = "txt" if path.suffix.lower() == ".txt" and path.is_file() else kind_of(path)
    with reading(path):
        if kind == "npy":
            return read_npy(path)
        if kind == "idx":
            return read_idx(path)
        if kind == "txt":
            return _lines(path)
        if kind == "csv":
            return only_column(read_table(path), path)
    raise DataError(
        expected="labels in a .npy, .csv, .txt or IDX file",
        got=str(path),
        do="Save one label for each example in one of these.",
    )


def _lines(path: Path) -> NDArray[Any]:
    lines = np.array([line.strip() for line in path.read_text(encoding="utf-8-sig").splitlines()])
    try:
        return lines.astype(np.int64)
    except (ValueError, OverflowError):
        return lines


def tidy_labels(labels: NDArray[Any], n: int, source: str) -> NDArray[Any]:
    """Return labels as (n,) integers, booleans or text; whole floats become integers.

    Raises:
        DataError: they are not one to an example, are neither integers, booleans nor text, or some are blank.
    """
    if labels.ndim == 2 and labels.shape[1] == 1:
        labels = labels[:, 0]
    if labels.shape != (n,):
        raise DataError(
            expected=f"one label for each of {n} examples",
            got=f"shape {labels.shape} from {source}",
            do="Give one a row, in the order of the examples; in a .csv file below a line with a name.",
        )
    labels = _plain(labels)
    if labels.dtype.kind not in "iuUb":
        raise DataError(
            expected="labels that are integers, booleans or text",
            got=f"dtype {labels.dtype} from {source}, such as {_odd(labels)!r}",
            do="Number the classes or name them.",
        )
    if labels.dtype.kind == "U" and (blank := np.flatnonzero(np.char.strip(labels) == "")).size:
        raise DataError(
            expected="a label for every example",
            got=f"{blank.size} blank from {source}, the first in row {blank[0]} counted from 0",
            do="Fill them in, or drop these examples.",
        )
    return labels


def _plain(labels: NDArray[Any]) -> NDArray[Any]:
    if labels.dtype.kind == "O":
        values = labels.tolist()
        for kind in (str, bool, int):
            if all(type(value) is kind for value in values):
                return np.array(values)
    if labels.dtype.kind == "S":
        return np.char.decode(labels, "utf-8", "replace")
    if labels.dtype.kind == "f" and np.all(np.abs(labels) < 2**53) and np.all(labels == np.trunc(labels)):
        return labels.astype(np.int64)
    return labels


def _odd(labels: NDArray[Any]) -> object:
    values = labels.tolist()
    return next((value for value in values if not isinstance(value, str) and value != value), values[0])
