"""Are bytes 8-bit pixels, or numbers that happen to be stored as bytes?"""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from genmem.data.arrays import largest
from genmem.errors import DataError

SMALL = 63  # bytes up to this, and above 1, are numbers unless they are said to be pixels


def as_meant(X: NDArray[Any], source: str, pixels: bool | None, encoded: bool) -> tuple[NDArray[Any], tuple[str, ...]]:
    """Return bytes as uint8 if they are pixels and as float32 if they are numbers, and a note if it was not clear.

    Args:
        X: examples, float or uint8.
        source: for messages.
        pixels: True or False if it is said, None to decide.
        encoded: whether X was decoded from image files, whose bytes are pixels.

    Raises:
        DataError: the values are said to be pixels and are not whole numbers from 0 to 255.
    """
    if pixels is None:
        if X.dtype != np.uint8 or encoded or not 1 < (highest := int(largest(X))) <= SMALL:
            return X, ()
        told = f"Bytes up to {highest} were taken as numbers, not as 8-bit pixels (--pixels takes them as pixels)."
        return X.astype(np.float32), (told,)
    if not pixels:
        return (X.astype(np.float32) if X.dtype == np.uint8 else X), ()
    if X.dtype != np.uint8 and not ((X >= 0) & (X <= 255) & (X == np.floor(X))).all():
        raise DataError(
            expected="whole numbers from 0 to 255 as 8-bit pixels",
            got=f"values from {X.min():g} to {X.max():g} in {source}",
            do="Omit --pixels, or rescale the values to 0 to 255.",
        )
    return X.astype(np.uint8), ()
