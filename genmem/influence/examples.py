"""Arrays that influence can be computed from."""

from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from genmem.errors import DataError
from genmem.models.vectors import matrix


def array_of(X: ArrayLike, name: str) -> NDArray[Any]:
    """Return anything like an array as one.

    Raises:
        DataError: its rows are of different lengths.
    """
    try:
        return np.asarray(X)
    except ValueError as error:
        raise DataError(
            expected=f"{name} of rows of one shape", got=f"what is no array: {error}", do="Pad them to one shape."
        ) from error


def flat_examples(X: ArrayLike, name: str, least: int = 1) -> NDArray[Any]:
    """Return examples (n, *event) as a matrix (n, d), common dtypes as they are.

    Raises:
        DataError: not numbers, fewer than 2 dimensions or `least` rows, or values that are not finite or whose
            squares are not.
    """
    array = array_of(X, name)
    flat = matrix(array.reshape(len(array), -1) if array.ndim > 2 and array.size else array, name)
    if len(flat) < least:
        raise DataError(
            expected=f"{name} of {least} or more examples, so that one can be left out",
            got=f"{len(flat)}",
            do="Add examples, or ask the model for less: fewer neighbours or components.",
        )
    return flat


def same_width(X_train: NDArray[Any], X_query: NDArray[Any]) -> None:
    """Check that queries have the shape of the training examples.

    Raises:
        DataError: they have not.
    """
    if X_train.shape[1:] != X_query.shape[1:]:
        raise DataError(
            expected=f"queries of shape {X_train.shape[1:]}, as the training examples have",
            got=f"{X_query.shape[1:]}",
            do="Pass both in the same form.",
        )


def groups_of(groups: ArrayLike | None, n: int) -> NDArray[np.intp]:
    """Return the group of each of n queries, integers from 0 without gaps; without groups, each is its own.

    Raises:
        DataError: they are something else.
    """
    if groups is None:
        return np.arange(n)
    found = np.asarray(groups)
    whole = found.shape == (n,) and found.dtype.kind in "iu"
    if not whole or not np.array_equal(np.unique(found), np.arange(found.max() + 1)):
        raise DataError(
            expected=f"a group for each of {n} queries, integers from 0 without gaps",
            got=f"shape {found.shape}, dtype {found.dtype}" + (f", {np.unique(found)[:5]}..." if whole else ""),
            do="Number them with np.unique(groups, return_inverse=True)[1].",
        )
    return found.astype(np.intp)
