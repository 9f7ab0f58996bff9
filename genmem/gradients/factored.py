"""The gradients of one parameter for each of n examples: written out, or as sums of few outer products.

A weight may be multiplied by a mask of zeros and ones, as in autoregressive networks. With left factors d, right
factors a, and L_p the rows of the weight that use the same columns C_p,

    <M * (d a^T), M * (d' a'^T)> = sum over p of (d . d' over L_p) (a . a' over C_p)

An autoregressive mask is a staircase, C_1 within C_2 within C_3: the second factor of each step is that of the previous
step plus the contribution of its new columns. All steps together thus take as many multiplications as the layer
without a mask.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.utils.weak import WeakIdKeyDictionary

AT_ONCE = 2**22  # values of an intermediate result
LONG = 2**15  # numbers whose products are summed in the network's own precision
NOTHING = 64  # roundings: a smaller share of a gradient may be rounding alone


@dataclass(frozen=True)
class Rows:
    """The gradients of one parameter, written out: `values` is (n, size)."""

    values: Tensor

    def __len__(self) -> int:
        return len(self.values)

    def dense(self, start: int, stop: int) -> Tensor:
        """Return some of the gradients, flat: (stop - start, size)."""
        return self.values[start:stop]

    @property
    def size(self) -> int:
        """The number of values in one gradient."""
        return self.values.shape[1]

    @property
    def kept(self) -> int:
        """The number of values stored for one gradient."""
        return self.size

    def sum(self) -> Tensor:
        """Return the sum of all the gradients, flat: (size,)."""
        return self.values.sum(0)

    def along(self, direction: Tensor) -> Tensor:
        """Return the product of each gradient with a flat direction: (n,), float64."""
        return long_products(self.values, direction[None])[:, 0]

    def squares(self) -> Tensor:
        """Return the squared norm of each gradient: (n,)."""
        return torch.cat([self.values[some].square().sum(1) for some in chunks(len(self), self.size)])


@dataclass(frozen=True)
class Outer:
    """The gradients of one parameter as sums of outer products.

    `left` is (groups, n, terms, l), `right` is (groups, n, terms, r); a parameter is (groups, l, r) when flat.
    """

    left: Tensor
    right: Tensor

    def __len__(self) -> int:
        return self.right.shape[1]

    @property
    def terms(self) -> int:
        """The number of outer products of one gradient, in each group."""
        return self.right.shape[2]

    @property
    def size(self) -> int:
        """The number of values in one gradient."""
        return self.right.shape[0] * self.width * self.right.shape[3]

    @property
    def kept(self) -> int:
        """The number of values stored for one gradient."""
        return (self.left.numel() + self.right.numel()) // max(1, len(self))

    @property
    def width(self) -> int:
        """The number of values of a left factor, written out."""
        return self.left.shape[3]

    @property
    def cost(self) -> int:
        """The number of multiplications for the product of two terms."""
        return self.kept // max(1, self.terms)

    def products(self, other: "Outer", some: slice, others: slice) -> Iterable[Tensor]:
        """Yield the products of all terms with all others, for each group: a matrix (some terms, other terms)."""
        for group in range(len(self.right)):
            here, there = self.right[group, some].flatten(0, 1), other.right[group, others].flatten(0, 1)
            yield self._left_products(other, group, some, others).mul_(here @ there.T)

    def gram(self, some: slice, draws: int) -> Tensor:
        """Return the products of the terms of one example: (groups * examples, draws terms, draws terms)."""
        right = self._by_example(self.right[:, some], draws)
        return self._left_gram(some, draws).mul_(right @ right.mT)

    def _left_products(self, other: "Outer", group: int, some: slice, others: slice) -> Tensor:
        """Return the products of every left factor with every other: (some terms, other terms)."""
        return self.left[group, some].flatten(0, 1) @ other.left[group, others].flatten(0, 1).T

    def _left_gram(self, some: slice, draws: int) -> Tensor:
        """Return the products of left factors of one example: (groups * examples, draws terms, draws terms)."""
        left = self._by_example(self.left[:, some], draws)
        return left @ left.mT

    def _by_example(self, factor: Tensor, draws: int) -> Tensor:
        return factor.reshape(-1, draws * self.terms, *factor.shape[3:])

    def dense(self, start: int, stop: int) -> Tensor:
        """Return some of the gradients, flat: (stop - start, size)."""
        return (self.left[:, start:stop].mT @ self.right[:, start:stop]).transpose(0, 1).flatten(1)

    def sum(self) -> Tensor:
        """Return the sum of all the gradients, flat: (size,)."""
        return (self.left.flatten(1, 2).mT @ self.right.flatten(1, 2)).flatten()

    def along(self, direction: Tensor) -> Tensor:
        """Return the product of each gradient with a flat direction: (n,)."""
        ways = direction.view(self.left.shape[0], 1, self.width, -1)
        parts = [
            ((self.left[:, some] @ ways) * self.right[:, some]).sum((0, 2, 3))
            for some in chunks(len(self), self.right[:, :1].numel())
        ]
        return torch.cat(parts)

    def squares(self) -> Tensor:
        """Return the squared norm of each gradient: (n,)."""
        if self.terms == 1 and type(self) is Outer:
            return (self.left.square().sum((2, 3)) * self.right.square().sum((2, 3))).sum(0)
        parts = [
            self.gram(some, 1).view(len(self.right), -1, self.terms**2).sum((0, 2))
            for some in chunks(len(self), len(self.right) * self.terms**2)
        ]
        return torch.cat(parts)


@dataclass(frozen=True)
class Lookup(Outer):
    """The gradients of an embedding: `left` is (1, n, terms), the row that each right factor is added to; -1 is none.

    `rows` is the number of rows of the parameter.
    """

    rows: int = 0

    @property
    def width(self) -> int:
        """The number of values of a left factor, written out: one of them is 1."""
        return self.rows

    def _left_products(self, other: Outer, group: int, some: slice, others: slice) -> Tensor:
        """Return 1 if two terms belong to the same row."""
        return _same(self.left[0, some].flatten(), other.left[0, others].flatten(), self.right)

    def _left_gram(self, some: slice, draws: int) -> Tensor:
        """Return 1 if two terms of an example belong to the same row."""
        rows = self._by_example(self.left[:, some], draws)
        return _same(rows, rows, self.right)

    def dense(self, start: int, stop: int) -> Tensor:
        """Return some of the gradients, flat: (stop - start, size)."""
        return self._spread(self.left[0, start:stop], self.right[0, start:stop]).flatten(1)

    def sum(self) -> Tensor:
        """Return the sum of all the gradients, flat: (size,)."""
        return self._spread(self.left[0].view(1, -1), self.right[0].flatten(0, 1)[None]).flatten()

    def along(self, direction: Tensor) -> Tensor:
        """Return the product of each gradient with a flat direction: (n,)."""
        ways = direction.view(self.rows, -1)[self.left[0].clamp(min=0)]
        return ((ways * self.right[0]).sum(2) * (self.left[0] >= 0)).sum(1)

    def _spread(self, rows: Tensor, right: Tensor) -> Tensor:
        out = right.new_zeros(len(rows), self.rows + 1, right.shape[-1])  # the last row is for -1
        at = torch.where(rows >= 0, rows, self.rows).unsqueeze(-1).expand_as(right)
        return out.scatter_add_(1, at, right)[:, :-1]


def long_products(x: Tensor, z: Tensor) -> Tensor:
    """Return x z^T of matrices with long rows, (..., n, size) and (..., m, size): (..., n, m), float64.

    Libraries add up a long row in few accumulators; a float32 sum of a million squares then has an error of up to 2e-4.
    """
    total = torch.zeros(*x.shape[:-1], z.shape[-2], dtype=torch.float64, device=x.device)
    for start in range(0, x.shape[-1], LONG):
        total += x[..., start : start + LONG] @ z[..., start : start + LONG].mT
    return total


def _same(rows: Tensor, others: Tensor, like: Tensor) -> Tensor:
    here, there = rows.unsqueeze(-1), others.unsqueeze(-2)
    return ((here == there) & (here >= 0)).to(like.dtype)


Piece = Rows | Outer


def some_values(piece: Piece) -> Tensor:
    """Return a tensor of a piece, which has its dtype and device."""
    return piece.values if isinstance(piece, Rows) else piece.right


def chunks(n: int, each: int, times: int = 1) -> Iterator[slice]:
    """Yield slices of n things with `each` values: as many as fit `AT_ONCE`, or so many times it; at least one."""
    step = max(1, times * AT_ONCE // max(1, each))
    return (slice(start, min(n, start + step)) for start in range(0, n, step))


# --- weights under a mask of zeros and ones


OF_A_STEP = 12  # multiplications in a long sum that take as long as the addition of one step
_MADE: Any = WeakIdKeyDictionary()  # by the mask of a layer


@dataclass(frozen=True)
class Step:
    """Rows of a weight that use the same columns: those of the previous step and new ones, or only new ones (`afresh`).

    `rows` and `columns` are positions in the orders of a `Mask`.
    """

    rows: slice
    columns: slice
    afresh: bool


@dataclass(frozen=True)
class Mask:
    """A mask as steps: `values` is (l, r), `rows` and `columns` are orders in which steps are contiguous."""

    values: Tensor
    rows: Tensor
    columns: Tensor
    steps: Sequence[Step]

    @classmethod
    def of(cls, layer: nn.Module) -> Self | None:
        """Return the mask of a layer; None if it has none of the shape of its weight, or one with other numbers.

        This does not tell whether the layer multiplies by it: gradients computed this way must be checked.
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
        """The number of multiplications for the product of two outer products."""
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

    Columns of a step that starts afresh appear in the order of columns again.

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
    """The gradients of a masked weight as sums of outer products, (1, n, terms, l) and (1, n, terms, r), multiplied by
    the mask.
    """

    mask: Mask | None = None

    @property
    def _mask(self) -> Mask:
        assert self.mask is not None
        return self.mask

    @property
    def cost(self) -> int:
        """The number of multiplications for the product of two terms."""
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
