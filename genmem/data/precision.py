"""The precision that examples are kept in: float32, or float64 where float32 would change what a density sees."""

from collections.abc import Sequence
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from genmem.data.arrays import blurred_columns, checked_examples, largest
from genmem.errors import DataError

Precision = Literal["single", "needed", "double"]
SHARE = 1e-4  # of a column's range: rounding to float32 steps this wide changes log p by about a thousandth of a nat


def examples_in(
    precision: Precision,
    X: NDArray[Any],
    source: str = "the examples",
    columns: Sequence[str] | None = None,
    *,
    least: int = 1,
) -> NDArray[Any]:
    """Return examples as `checked_examples` does, or as float64.

    Args:
        precision: "single"; "needed", which is float64 if a step of float32 is wider than `SHARE` of the range of a
            column; "double", which is float64 for all numbers but bytes.
        X: the array as read.
        source: the name of the source, for messages.
        columns: the names of the columns of a table.
        least: the smallest number of examples allowed.

    Raises:
        DataError: see `checked_examples`; or float64 does not tell the values of a column apart.

    >>> seconds = np.array([[1.7e9], [1.7e9 + 60]])
    >>> examples_in("needed", seconds).dtype.name, examples_in("needed", seconds - 1.7e9).dtype.name
    ('float64', 'float32')
    """
    if precision == "single" or not _is_wide(X, least) or not (precision == "double" or _is_rounded(X)):
        return checked_examples(X, source, columns, least=least)
    if (lost := blurred_columns(X, 0.1, np.float64)).size:
        raise DataError(
            expected="columns whose values differ in float64",
            got=f"integers in column {repr(columns[lost[0]]) if columns else int(lost[0])} of {source} that do not",
            do="Subtract an offset from such columns, for example their least value.",
        )
    return np.ascontiguousarray(X, np.float64)


def _is_wide(X: NDArray[Any], least: int) -> bool:
    """Return whether X holds finite numbers of a type that float32 may round, in a form that can be checked."""
    numbers = (X.dtype.kind == "f" and X.dtype.itemsize > 4) or (X.dtype.kind in "iu" and X.dtype.itemsize >= 4)
    return numbers and X.ndim >= 2 and X.size > 0 and len(X) >= least and bool(np.isfinite(X).all())


def _is_rounded(X: NDArray[Any]) -> bool:
    """Return whether steps of float32 are wider than `SHARE` of the range of a column; larger values are refused."""
    return largest(X) < float(np.finfo(np.float32).max) and blurred_columns(X, SHARE).size > 0
