"""A space for tables of numbers and categories: a Gower-type distance as a squared Euclidean distance."""

from collections.abc import Collection
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from genmem.data.arrays import Triple
from genmem.data.tables import Columns, Table, as_numbers_or_text, columns_of, same_columns
from genmem.errors import DataError

Scale = Literal["range", "spread"]

_WIDEST = 4096  # columns of the encoding, at most
_QUANTILES = ((0.25, 0.75), (0.1, 0.9), (0.05, 0.95), (0.01, 0.99), (0.0, 1.0))


def mixed_space(
    train: Table, test: Table, samples: Table, *, categorical: Collection[str] = (), scale: Scale = "range"
) -> tuple[Triple, str]:
    """Return three tables as points whose squared Euclidean distance is a Gower-type distance, with a description.

    The distance of two rows is the mean over the columns of

    - (x - y)^2 / s^2 for numbers, where s is the scale of the column in `train`;
    - 0 for equal categories and 1 for different ones;
    - for missing values: 0 if both are missing; 1 if one of two categories is missing; 1 + (x - m)^2 / s^2 if one of
      two numbers is missing, where x is the other and m the median of `train`.

    Gower's coefficient uses |x - y| / s for numbers and omits columns with missing values; neither is possible with
    squared Euclidean distances in a few dimensions. A square reduces small differences and enlarges large ones: if s is
    the range, a difference of a tenth of it counts as a hundredth of a mismatch of categories, not a tenth.
    `scale="spread"` increases the weight of numbers.

    Categories are text, and the columns named in `categorical`. A category that `train` lacks differs from all that it
    has. Text is compared without surrounding spaces, and empty text is missing. Booleans are the numbers 0 and 1, and
    dates are numbers. Numbers beyond the range of `train` are not truncated.

    Args:
        train: a mapping from names to columns, a pyarrow table, a data frame, or an array (n, columns).
        test: the same for held-out examples.
        samples: the same for samples; columns are matched by name, in any order.
        categorical: columns whose numbers are codes.
        scale: "range", the largest value in `train` minus the smallest; or "spread", the interquartile range (if that
            is 0, as with many zeros, the range of wider quantiles). Either is 1 if `train` has a single value.

    Returns:
        Three float64 arrays (n, width) with one column for each number, one more if any value is missing, and one for
        each category; and the description.

    Raises:
        DataError: an argument is not a table, lacks a column, or has values that are infinite or of another kind; or
            the categories would take more than 4,096 columns.

    References:
        A General Coefficient of Similarity and Some of Its Properties (Gower, 1971), https://doi.org/10.2307/2528823

    >>> (train, test, samples), words = mixed_space(
    ...     {"age": [20, 60, 40], "work": ["a", "b", "b"]}, {"age": [30], "work": ["a"]}, {"age": [20], "work": ["b"]}
    ... )
    >>> [float(value) for value in ((samples - train) ** 2).sum(axis=1).round(3)]  # categories, age, and age by half
    [0.5, 0.5, 0.125]
    >>> words
    'Gower-type distance over 1 column of numbers (by range) and 1 of categories'
    """
    _check_scale(scale)
    given = (columns_of(train, "train"), columns_of(test, "test"), columns_of(samples, "samples"))
    tables = same_columns(given)
    _check_named(categorical, tables[0])
    encoded, levels = [], {}
    for name in tables[0]:
        parts, is_text = as_numbers_or_text(name, (tables[0][name], tables[1][name], tables[2][name]), categorical)
        if is_text:
            codes, levels[name] = _codes(parts)
            _check_width(levels)
            encoded.append([_one_hot(part, levels[name]) for part in codes])
        else:
            encoded.append(_scaled(parts, scale))
    weight = 1 / np.sqrt(len(encoded))
    sets = [np.hstack([column[i] for column in encoded]) * weight for i in range(3)]
    return (sets[0], sets[1], sets[2]), _words(len(encoded) - len(levels), len(levels), scale)


def _scaled(parts: list[NDArray[np.float64]], scale: Scale) -> list[NDArray[np.float64]]:
    """Return numbers in units of their scale from the median of train, with an indicator column if any is missing."""
    known = parts[0][~np.isnan(parts[0])]
    middle, unit = (float(np.median(known)), _unit(known, scale)) if known.size else (0.0, 1.0)
    gaps = [np.isnan(part) for part in parts]
    values = [np.where(gap, 0.0, (part - middle) / unit) for part, gap in zip(parts, gaps, strict=True)]
    if not any(gap.any() for gap in gaps):
        return [value[:, None] for value in values]
    return [np.column_stack([value, gap]) for value, gap in zip(values, gaps, strict=True)]


def _unit(known: NDArray[np.float64], scale: Scale) -> float:
    for low, high in _QUANTILES if scale == "spread" else _QUANTILES[-1:]:
        width = float(np.subtract(*np.quantile(known, [high, low])))
        if width > 0:
            return width
    return 1.0


def _codes(parts: list[NDArray[np.object_]]) -> tuple[list[NDArray[np.intp]], int]:
    """Return categories as numbers from 0 over all three sets, and the number of categories."""
    found, code = np.unique(np.concatenate(parts).astype(str), return_inverse=True)
    return np.split(code, np.cumsum([len(part) for part in parts])[:2]), len(found)


def _one_hot(code: NDArray[np.intp], levels: int) -> NDArray[np.float64]:
    marks = np.zeros((len(code), levels))
    marks[np.arange(len(code)), code] = np.sqrt(0.5)  # two rows with different categories differ in two columns
    return marks


def _words(numbers: int, categories: int, scale: Scale) -> str:
    columns = f"{numbers} column{'s' * (numbers != 1)} of numbers (by {scale})"
    if not categories:
        return f"Gower-type distance over {columns}"
    if not numbers:
        return f"Gower-type distance over {categories} column{'s' * (categories != 1)} of categories"
    return f"Gower-type distance over {columns} and {categories} of categories"


def _check_scale(scale: str) -> None:
    if scale not in ("range", "spread"):
        raise DataError(expected='scale "range" or "spread"', got=repr(scale), do="Pass one of these.")


def _check_named(categorical: Collection[str], columns: Columns) -> None:
    unknown = [name for name in categorical if name not in columns]
    if unknown or isinstance(categorical, str):
        raise DataError(
            expected=f"categorical as a list of columns, such as {', '.join(list(columns)[:12])}",
            got=repr(categorical) if isinstance(categorical, str) else ", ".join(map(str, unknown)),
            do="Pass names of columns of the tables.",
        )


def _check_width(levels: dict[str, int]) -> None:
    if sum(levels.values()) > _WIDEST:
        most = sorted(levels, key=lambda name: -levels[name])[:3]
        raise DataError(
            expected=f"categories that take at most {_WIDEST:,} columns, one for each category",
            got="more: " + ", ".join(f"{levels[name]:,} values in {name!r}" for name in most),
            do="Drop identifiers and free text, and merge rare categories.",
        )
