"""The gradients of one parameter for each of n examples: written out, or as sums of few outer products."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

AT_ONCE = 2**22  # values of an intermediate result
LONG = 2**15  # numbers whose products are summed in the network's own precision
NOTHING = 64  # roundings: a parameter's share of a gradient that may be no more than that


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
        """The numbers in one gradient."""
        return self.values.shape[1]

    @property
    def kept(self) -> int:
        """The numbers held of one gradient."""
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
        """The outer products of one gradient, in each group."""
        return self.right.shape[2]

    @property
    def size(self) -> int:
        """The numbers in one gradient."""
        return self.right.shape[0] * self.width * self.right.shape[3]

    @property
    def kept(self) -> int:
        """The numbers held of one gradient."""
        return (self.left.numel() + self.right.numel()) // max(1, len(self))

    @property
    def width(self) -> int:
        """The numbers of a left factor, written out."""
        return self.left.shape[3]

    @property
    def cost(self) -> int:
        """The multiplications that the product of two terms takes."""
        return self.kept // max(1, self.terms)

    def products(self, other: "Outer", some: slice, others: slice) -> Iterable[Tensor]:
        """Yield the products of all terms with all others, of each group: (some terms, other terms) in each matrix."""
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
    """The gradients of an embedding: `left` is (1, n, terms), the row each right factor goes to; -1 is nowhere.

    `rows` is the number of rows of the parameter.
    """

    rows: int = 0

    @property
    def width(self) -> int:
        """The numbers of a left factor, written out: one of them is 1."""
        return self.rows

    def _left_products(self, other: Outer, group: int, some: slice, others: slice) -> Tensor:
        """Return 1 where two terms go to the same row."""
        return _same(self.left[0, some].flatten(), other.left[0, others].flatten(), self.right)

    def _left_gram(self, some: slice, draws: int) -> Tensor:
        """Return 1 where two terms of an example go to the same row."""
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
        out = right.new_zeros(len(rows), self.rows + 1, right.shape[-1])  # the last row takes what goes nowhere
        at = torch.where(rows >= 0, rows, self.rows).unsqueeze(-1).expand_as(right)
        return out.scatter_add_(1, at, right)[:, :-1]


def long_products(x: Tensor, z: Tensor) -> Tensor:
    """Return x z^T of matrices with long rows, (..., n, size) and (..., m, size): (..., n, m), float64.

    Libraries add up a long row in few accumulators; a float32 sum of a million squares is off by up to 2e-4 so.
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
    """Return a tensor of a piece, for its dtype and device."""
    return piece.values if isinstance(piece, Rows) else piece.right


def chunks(n: int, each: int, times: int = 1) -> Iterator[slice]:
    """Yield slices of n things that have `each` values: as many as fit `AT_ONCE`, or so many times it; one at least."""
    step = max(1, times * AT_ONCE // max(1, each))
    return (slice(start, min(n, start + step)) for start in range(0, n, step))
