"""Labels and groups of examples: read from a file of their own, and checked."""

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from genmem.data.files import kind_of, read_npy, reading
from genmem.data.idx import read_idx
from genmem.data.table_files import only_column, read_table
from genmem.errors import DataError


def read_labels(path: Path, what: str = "label") -> NDArray[Any]:
    """Read labels, or groups, from a .npy file, an IDX file, a .csv file of one named column, or lines of a .txt file.

    Raises:
        DataError: the file is missing, unreadable, damaged or of another kind.
    """
    with reading(path):
        if not path.exists():
            raise DataError(expected=f"a file of {what}s at {path}", got="nothing there", do="Correct the path.")
    kind = "txt" if path.suffix.lower() == ".txt" and path.is_file() else kind_of(path)
    with reading(path):
        if kind == "npy":
            return _text_or_numbers(path, what)
        if kind == "idx":
            return read_idx(path)
        if kind == "txt":
            return _lines(path)
        if kind == "csv":
            return only_column(read_table(path)[0], path, what)
    raise DataError(
        expected=f"{what}s in a .npy, .csv, .txt or IDX file",
        got=str(path),
        do=f"Save one {what} per example in one of these formats.",
    )


def _text_or_numbers(path: Path, what: str) -> NDArray[Any]:
    try:
        return read_npy(path)
    except DataError as error:
        if "Python objects" not in error.got:
            raise
        raise DataError(
            expected=f"{what}s as an array of numbers or text",
            got=error.got,
            do="Save it as one of these: numpy.save(path, array.astype(str)).",
        ) from error


def _lines(path: Path) -> NDArray[Any]:
    lines = np.array([line.strip() for line in path.read_text(encoding="utf-8-sig").splitlines()])
    try:
        return lines.astype(np.int64)
    except (ValueError, OverflowError):
        return lines


def tidy_labels(labels: NDArray[Any], n: int, source: str, what: str = "label") -> NDArray[Any]:
    """Return labels, or groups, as (n,) integers, booleans or text; whole floats become integers, dates text.

    Raises:
        DataError: there is not one label per example, labels are not integers, booleans or text, or some are blank.
    """
    if labels.ndim == 2 and labels.shape[1] == 1:
        labels = labels[:, 0]
    if labels.shape != (n,):
        raise DataError(
            expected=f"one {what} for each of {n} examples",
            got=f"shape {labels.shape} from {source}",
            do=f"Pass one {what} per example, in the order of the examples; a .csv file needs a first line with the "
            "column name.",
        )
    labels = _plain(labels)
    if labels.dtype.kind not in "iuUb":
        raise DataError(
            expected=f"{what}s that are integers, booleans or text",
            got=f"dtype {labels.dtype} from {source}, such as {_odd(labels)!r}",
            do=f"Encode the {'classes' if what == 'label' else 'groups'} as integers or text.",
        )
    if labels.dtype.kind == "U" and (blank := np.flatnonzero(np.char.strip(labels) == "")).size:
        raise DataError(
            expected=f"a {what} for every example",
            got=f"{blank.size} blank from {source}, the first in row {blank[0]} (counted from 0)",
            do=f"Fill in the {what}s, or drop these examples.",
        )
    return labels


def _plain(labels: NDArray[Any]) -> NDArray[Any]:
    if labels.dtype.kind == "O":
        values = labels.tolist()
        for kind in (str, bool, int):
            if all(type(value) is kind for value in values):
                return np.array(values)
    if labels.dtype.kind == "M" and not np.isnat(labels).any():
        return labels.astype(str)
    if labels.dtype.kind == "S":
        return np.char.decode(labels, "utf-8", "replace")
    if labels.dtype.kind == "f" and np.all(np.abs(labels) < 2**53) and np.all(labels == np.trunc(labels)):
        return labels.astype(np.int64)
    return labels


def _odd(labels: NDArray[Any]) -> object:
    values = labels.tolist()
    return next((value for value in values if not isinstance(value, str) and value != value), values[0])
