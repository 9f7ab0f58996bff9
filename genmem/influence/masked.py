"""The gradients of a weight that a mask of zeros and ones is multiplied with, as in autoregressive networks.

With left factors d and right factors a, and L_p the rows of the weight that see the same columns C_p,

    <M * (d a^T), M * (d' a'^T)> = sum over p of (d . d' over L_p) (a . a' over C_p)

An autoregressive mask is a staircase, C_1 within C_2 within C_3: the second factor of each step is that of the one
before and what its new columns add. So all steps together take as many multiplications as the layer without a mask.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.utils.weak import WeakIdKeyDictionary

from genmem.influence.pieces import Outer

OF_A_STEP = 12  # multiplications in a long sum that take as long as adding up one step
_MADE: Any = WeakIdKeyDictionary()  # from the mask of a layer


@dataclass(frozen=True)
class Step:
    """Rows of a weight that see the same columns: those of the step before and some new ones, or `afresh` only these.

    `rows` and `columns` are places in the orders of a `Mask`.
    """

    rows: slice
    columns: slice
    afresh: bool


@dataclass(frozen=True)
class Mask:
    """A mask as steps: `values` is (l, r), `rows` and `columns` are the orders in which steps are stretches."""

    values: Tensor
    rows: Tensor
    columns: Tensor
    steps: Sequence[Step]

    @classmethod
    def of(cls, layer: nn.Module) -> Self | None:
        """Return the mask of a layer; None if it has none of the shape of its weight, or one of other numbers.

        That the layer multiplies by it is not known from here: gradients read off so are to be checked.
        """
        mask, weight = getattr(layer, "mask", None), getattr(layer, "weight", None)
        if not isinstance(mask, Tensor) or not isinstance(weight, Tensor) or mask.shape != weight.shape:
            return None
        state = (mask._version, weight.dtype)
        if mask not in _MADE or _MADE[mask][0] != state:
            _MADE[mask] = state, cls._made(mask.detach(), weight.dtype)
        made: Self | None = _MADE[mask][1]
        return made

    @classmethod
    def _made(cls, mask: Tensor, dtype: torch.dtype) -> Self | None:
        known = mask.cpu().numpy()
        if mask.dim() != 2 or not ((known == 0) | (known == 1)).all():
            return None
        rows, columns, steps = steps_of(known != 0)
        of_rows, of_columns = (torch.from_numpy(order).to(mask.device) for order in (rows, columns))
        return cls(mask.to(dtype), of_rows, of_columns, steps)

    @property
    def cost(self) -> int:
        """The multiplications that the product of two outer products takes."""
        return len(self.rows) + len(self.columns) + OF_A_STEP * len(self.steps)

    def products(self, left: Tensor, right: Tensor, other_left: Tensor, other_right: Tensor) -> Tensor:
        """Return the products of masked outer products, of (..., n, l) and (..., n, r) with others: (..., n, m)."""
        same = left is other_left and right is other_right
        left, right = left.index_select(-1, self.rows), right.index_select(-1, self.columns)
        if same:
            other_left, other_right = left, right
        else:
            other_left, other_right = other_left.index_select(-1, self.rows), other_right.index_select(-1, self.columns)
        total = left.new_zeros(*left.shape[:-1], other_left.shape[-2])
        seen = torch.zeros_like(total)
        for step in self.steps:
            seen = torch.zeros_like(total) if step.afresh else seen
            seen += right[..., step.columns] @ other_right[..., step.columns].mT
            total.addcmul_(seen, left[..., step.rows] @ other_left[..., step.rows].mT)
        return total


def steps_of(mask: NDArray[np.bool_]) -> tuple[NDArray[np.intp], NDArray[np.intp], list[Step]]:
    """Return the orders of rows and of columns of a mask (l, r), and its steps; rows without columns are left out.

    Columns that are seen afresh come up in the order of columns again.

    >>> steps_of(np.array([[True, False, True], [True, False, False]]))
    (array([1, 0]), array([0, 2]), [Step(rows=slice(0, 1, None), columns=slice(0, 1, None), afresh=True), \
Step(rows=slice(1, 2, None), columns=slice(1, 2, None), afresh=False)])
    """
    alike: dict[bytes, list[int]] = {}
    for row, seen in enumerate(np.packbits(mask, axis=1)):
        alike.setdefault(seen.tobytes(), []).append(row)
    groups = sorted((group for group in alike.values() if mask[group[0]].any()), key=lambda g: int(mask[g[0]].sum()))
    rows: list[int] = []
    columns: list[int] = []
    steps: list[Step] = []
    before = np.zeros(mask.shape[1], np.bool_)
    for group in groups:
        seen = mask[group[0]]
        afresh = not steps or bool((before & ~seen).any())
        new = np.flatnonzero(seen if afresh else seen & ~before).tolist()
        steps.append(Step(_next(rows, len(group)), _next(columns, len(new)), afresh))
        rows, columns, before = rows + group, columns + new, seen
    return np.array(rows, np.intp), np.array(columns, np.intp), steps


def _next(taken: Sequence[int], count: int) -> slice:
    return slice(len(taken), len(taken) + count)


@dataclass(frozen=True)
class Masked(Outer):
    """The gradients of a masked weight as sums of outer products, (1, n, terms, l) and (1, n, terms, r), of which the
    mask takes away what it covers.
    """

    mask: Mask | None = None

    @property
    def _mask(self) -> Mask:
        assert self.mask is not None
        return self.mask

    @property
    def cost(self) -> int:
        """The multiplications that the product of two terms takes."""
        return self._mask.cost

    def products(self, other: Outer, some: slice, others: slice) -> list[Tensor]:
        """Return the products of all terms with all others, in one matrix: (some terms, other terms)."""
        assert isinstance(other, Masked)
        mine = (factor[0, some].flatten(0, 1) for factor in (self.left, self.right))
        theirs = (factor[0, others].flatten(0, 1) for factor in (other.left, other.right))
        return [self._mask.products(*mine, *theirs)]

    def gram(self, some: slice, draws: int) -> Tensor:
        """Return the products of the terms of one example: (examples, draws terms, draws terms)."""
        left, right = (self._by_example(factor[:, some], draws) for factor in (self.left, self.right))
        return self._mask.products(left, right, left, right)

    def dense(self, start: int, stop: int) -> Tensor:
        """Return some of the gradients, flat: (stop - start, size)."""
        return super().dense(start, stop).mul_(self._mask.values.flatten())

    def sum(self) -> Tensor:
        """Return the sum of all the gradients, flat: (size,)."""
        return super().sum() * self._mask.values.flatten()

    def along(self, direction: Tensor) -> Tensor:
        """Return the product of each gradient with a flat direction: (n,)."""
        return super().along(direction * self._mask.values.flatten())

    def squares(self) -> Tensor:
        """Return the squared norm of each gradient: (n,)."""
        if self.terms > 1:
            return super().squares()
        left, right = self.left[0, :, 0].square(), self.right[0, :, 0].square()
        return ((left @ self._mask.values) * right).sum(1)
