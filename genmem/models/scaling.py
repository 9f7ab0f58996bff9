"""The scale that a network works on: data as they are where that is sensible, else shifted and scaled."""

import math
from collections.abc import Collection, Iterator, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from genmem.errors import DataError, ModelError
from genmem.rows import blocks

REACH = 10.0  # values within that distance of 0 are what a network takes as they are
LEAST_SPAN = 0.1  # of the widest column: the standard deviation of a Gaussian likelihood is at least 0.03
MOST_UNEQUAL = 1000.0  # the widest column over the narrowest; pixels of 8 bits never exceed 255
SMALLEST = 1e-30  # of a scale: float32 holds it, and its reciprocal
PER_COLUMN = 1024  # columns up to which each has a shift and a scale of its own
Numbers = float | Sequence[float]


def find_standards(X: NDArray[Any], left_out: Collection[int], *, per_column: bool = True) -> tuple[Numbers, Numbers]:
    """Return the shift and the scale of data; [] and [] where they are taken as they are.

    As they are: all values, those of the columns left out too, lie in [-10, 10]; the widest column spans (largest less
    smallest value) at least 0.1; and none that varies spans less than a thousandth of that. A standard deviation would
    not do: a pixel that is black but once has a small one, and needs no scale of its own.

    Else a column's shift is its mean, and its scale the standard deviation or a tenth of the largest distance from the
    mean, whichever is larger, so that the values lie in [-10, 10]; 1 for a column that never varies.

    Args:
        X: examples, (n, *event).
        left_out: flattened columns that get none.
        per_column: up to 1024 columns get a pair each, (columns,); without it, or with more, all are taken as one.

    Raises:
        DataError: a value is NaN or infinite.
    """
    kept = np.setdiff1d(np.arange(X[0].size), list(left_out))
    apart = per_column and len(kept) <= PER_COLUMN

    def each() -> Iterator[NDArray[np.float64]]:
        for _, block in blocks(X):
            values = block[:, kept].astype(np.float64)
            yield values if apart else values.reshape(-1, 1)

    low = np.min([values.min(0) for values in each()], axis=0)
    high = np.max([values.max(0) for values in each()], axis=0)
    if not np.isfinite(high - low).all():
        raise DataError(expected="finite numbers", got="some that are NaN or infinite", do="Drop or fill them.")
    within = -REACH <= float(X.min()) and float(X.max()) <= REACH
    if within and _are_alike(high - low):
        return [], []
    count = sum(len(values) for values in each())
    mean = sum(values.sum(0) for values in each()) / count
    deviation = np.sqrt(sum(np.square(values - mean).sum(0) for values in each()) / count)
    scale = np.maximum(deviation, np.maximum(high - mean, mean - low) / REACH)
    scale = np.where(high > low, np.maximum(scale, SMALLEST), 1.0)
    shifts, scales = _rounded(mean, scale)
    return (shifts, scales) if apart else (shifts[0], scales[0])


def _are_alike(span: NDArray[np.float64]) -> bool:
    varying = span[span > 0]
    return len(varying) == 0 or bool(varying.max() >= LEAST_SPAN and varying.min() * MOST_UNEQUAL >= varying.max())


def _rounded(shift: NDArray[np.float64], scale: NDArray[np.float64]) -> tuple[list[float], list[float]]:
    """Return both to a thousandth of the scale: near enough, and a plan stays readable."""
    digits = 3 - np.floor(np.log10(scale)).astype(int)
    return [round(float(m), int(d)) for m, d in zip(shift, digits, strict=True)], [float(f"{s:.4g}") for s in scale]


class Standards(nn.Module):
    """Shift and scale of flattened examples. Constant columns, which are no part of log p, become 0.

    Args:
        shift, scale: a number, one for each column that is kept, or none: 0 and 1.
        size: values of an example.
        constants: the columns that are not kept.

    Raises:
        ModelError: there are more or fewer numbers than columns that are kept.
    """

    def __init__(self, shift: Numbers, scale: Numbers, size: int, constants: Collection[int]) -> None:
        super().__init__()
        self.kept = torch.tensor([column for column in range(size) if column not in constants])
        self.shift: Tensor
        self.per_scale: Tensor
        for name in ("shift", "per_scale"):
            self.register_buffer(name, torch.zeros(size))
        self.shift[self.kept] = _for_columns("shift", shift, 0.0, len(self.kept)).float()
        self.per_scale[self.kept] = (1 / _for_columns("scale", scale, 1.0, len(self.kept))).float()

    def forward(self, flat: Tensor) -> Tensor:
        """Return examples, (batch, columns), standardised."""
        return (flat - self.shift) * self.per_scale

    def undo(self, standardised: Tensor) -> Tensor:
        """Return standardised values of the columns that are kept, (batch, kept), as data."""
        return standardised / self._of_kept(self.per_scale) + self._of_kept(self.shift)

    def log_jacobian(self) -> Tensor:
        """Return log |det| of the standardised values over the values, of the columns kept."""
        return self._of_kept(self.per_scale).log().sum()

    def _of_kept(self, values: Tensor) -> Tensor:
        return values.index_select(-1, self.kept.to(values.device))


def standards_of(
    shift: Numbers | None, scale: Numbers | None, size: int, constants: Collection[int]
) -> Standards | None:
    """Return the standards of two settings; None where data are taken as they are."""
    given = [() if value is None else value for value in (shift, scale)]
    if all(isinstance(value, Sequence) and not value for value in given):
        return None
    return Standards(given[0], given[1], size, constants)


def _for_columns(name: str, value: Numbers, neutral: float, columns: int) -> Tensor:
    numbers = torch.as_tensor(value, dtype=torch.float64)
    if not numbers.numel():
        return torch.full((columns,), neutral, dtype=torch.float64)
    if numbers.ndim and len(numbers) != columns:
        raise ModelError(
            expected=f"{name} to be a number, or one for each of the {columns} columns that are kept",
            got=f"{len(numbers)} numbers",
            do=f"Leave {name} out to have it found from the data.",
        )
    return numbers.expand(columns).clone()


def are_numbers(value: Any, *, above: float = -math.inf) -> bool:
    """Return whether a value is None, a finite number above a bound, or a list of such numbers, which may be empty."""
    if value is None:
        return True
    if isinstance(value, str | bool):
        return False
    try:
        numbers = np.asarray(value, np.float64)
    except (TypeError, ValueError):
        return False
    return numbers.ndim <= 1 and bool((np.isfinite(numbers) & (numbers > above)).all())
