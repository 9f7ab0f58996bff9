"""Three sets as matrices of one width: what distances are taken between."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from genmem.data.arrays import Triple
from genmem.errors import DataError

_SETS = ("train", "test", "samples")


def three_matrices(train: ArrayLike, test: ArrayLike, samples: ArrayLike) -> Triple:
    """Return training examples, held-out examples and samples, (n, *event) each, as matrices of one width.

    Raises:
        DataError: a set is empty, not finite or not numeric, or widths differ.
    """
    given = (train, test, samples)
    arrays = [_matrix(rows, name) for rows, name in zip(given, _SETS, strict=True)]
    require_one("width", arrays, [f"{name} of {X[0].size} values" for name, X in zip(_SETS, arrays, strict=True)])
    return arrays[0], arrays[1], arrays[2]


def _matrix(rows: ArrayLike, name: str) -> NDArray[Any]:
    array = np.asarray(rows)
    if array.dtype.kind not in "biuf" or array.ndim < 1 or array.size == 0:
        raise DataError(
            expected=f"{name} of numbers, with one or more rows, shape (n, *event)",
            got=f"dtype {array.dtype}, shape {array.shape}",
            do="Pass a numeric array of examples; encode text columns first.",
        )
    flat = array.reshape(len(array), -1)
    if flat.dtype.kind == "f" and not np.isfinite(flat).all():
        bad = int((~np.isfinite(flat).all(1)).sum())
        raise DataError(
            expected=f"{name} of finite values",
            got=f"NaN or infinity in {bad:,} of {len(flat):,} rows",
            do="Remove or fill in these values, in the same way in all three sets.",
        )
    return flat


def require_one(what: str, arrays: Sequence[NDArray[Any]], said: Sequence[str]) -> None:
    """Check that the examples of three sets have equally many values; `said` tells how many, for the message.

    Raises:
        DataError: they differ.
    """
    if len({X[0].size for X in arrays}) > 1:
        raise DataError(
            expected=f"training examples, held-out examples and samples of one {what}",
            got=", ".join(said),
            do="Pass all three in the same form.",
        )
