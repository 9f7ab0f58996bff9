"""Products of per-example gradients that are kept as sums of few outer products, never written out where that is dear.

The gradient of a layer's weight for one example is G = sum over terms of left_t right_t^T: what went into the layer
and what came back, at every position and draw. With it, as matrices of terms,

    <G_x, G_z> = sum of (left_x left_z^T) * (right_x right_z^T)

A product of two gradients of l x r numbers costs terms_x terms_z (l + r) operations so, and l r written out. Each
layer goes the cheaper way; sums over layers are kept in float64.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

AT_ONCE = 2**22  # values of an intermediate result

Direction = Mapping[str, Tensor]


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
        """Return the product of each gradient with a flat direction: (n,)."""
        return self.values @ direction

    def squares(self) -> Tensor:
        """Return the squared norm of each gradient: (n,)."""
        return self.values.square().sum(1)


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

    def left_products(self, other: "Outer", group: int, some: slice, others: slice) -> Tensor:
        """Return the products of every left factor with every other: (some terms, other terms)."""
        return self.left[group, some].flatten(0, 1) @ other.left[group, others].flatten(0, 1).T

    def left_gram(self, some: slice, draws: int) -> Tensor:
        """Return the products of left factors of one example: (groups * examples, draws terms, draws terms)."""
        left = self._by_example(self.left[:, some], draws)
        return left @ left.mT

    def right_gram(self, some: slice, draws: int) -> Tensor:
        """Return the products of right factors of one example: (groups * examples, draws terms, draws terms)."""
        right = self._by_example(self.right[:, some], draws)
        return right @ right.mT

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
        return _gram(self, 1)[:, 0, 0]


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

    def left_products(self, other: Outer, group: int, some: slice, others: slice) -> Tensor:
        """Return 1 where two terms go to the same row."""
        return _same(self.left[0, some].flatten(), other.left[0, others].flatten(), self.right)

    def left_gram(self, some: slice, draws: int) -> Tensor:
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


def _same(rows: Tensor, others: Tensor, like: Tensor) -> Tensor:
    here, there = rows.unsqueeze(-1), others.unsqueeze(-2)
    return ((here == there) & (here >= 0)).to(like.dtype)


Piece = Rows | Outer


@dataclass(frozen=True)
class Features:
    """The gradients of n examples: a piece for each parameter.

    `draws` gradients in a row belong to one example; 1 where draws are averaged.
    """

    pieces: Mapping[str, Piece]
    n: int
    draws: int = 1

    def __len__(self) -> int:
        return self.n

    @property
    def bytes(self) -> int:
        """The memory held, in bytes."""
        return sum(piece.kept * len(piece) * _any(piece).element_size() for piece in self.pieces.values())


# --- products


def inner(x: Features, z: Features, *, scale: Direction | None = None) -> Tensor:
    """Return <g_x, g_z> of all pairs: (len(x), len(z)), float64.

    Args:
        x: gradients under one network.
        z: gradients under the same network.
        scale: the diagonal of a preconditioner P, by parameter: then <g_x, P g_z>. Gradients are written out for it,
            a bounded number at a time; for a few directions `along` with P g_z is cheaper.
    """
    total = _zeros(x, len(x), len(z))
    for name, piece in x.pieces.items():
        _add_pairs(total, piece, z.pieces[name], None if scale is None else scale[name].flatten())
    return total


def squared_norms(x: Features, *, scale: Direction | None = None) -> Tensor:
    """Return |g|^2 of each gradient, or <g, P g> for a diagonal P: (len(x),), float64."""
    total = _zeros(x, len(x))
    for name, piece in x.pieces.items():
        total += piece.squares() if scale is None else _scaled_squares(piece, scale[name].flatten())
    return total


def gram(x: Features) -> Tensor:
    """Return the products of the gradients of an example's draws: (n, draws, draws), float64."""
    total = _zeros(x, len(x) // x.draws, x.draws, x.draws)
    for piece in x.pieces.values():
        total += _gram(piece, x.draws)
    return total


def along(x: Features, direction: Direction) -> Tensor:
    """Return <g_x, v> of each gradient with one direction: (len(x),), float64."""
    total = _zeros(x, len(x))
    for name, piece in x.pieces.items():
        total += piece.along(direction[name].flatten().to(_any(piece).dtype))
    return total


def unbiased_self_influence(products: Tensor) -> tuple[Tensor, Tensor]:
    """Return |E g|^2 without bias, and its standard error by the jackknife over draws: (n,) each.

    (|sum_j g_j|^2 - sum_j |g_j|^2) / (m (m - 1)) for m draws: products of different draws only, for those of a draw
    with itself add their variance. It may be negative. NaN with 1 draw; the standard error also with 2.

    Args:
        products: (n, m, m), from `gram`; weighted sums over checkpoints are good too.
    """
    m = products.shape[1]
    if m == 1:
        return torch.full_like(products[:, 0, 0], torch.nan), torch.full_like(products[:, 0, 0], torch.nan)
    own = products.diagonal(dim1=1, dim2=2)
    rows = products.sum(2) - own  # of a draw with all others
    pairs = rows.sum(1)
    if m == 2:
        return pairs / 2, torch.full_like(pairs, torch.nan)
    without = (pairs[:, None] - 2 * rows) / ((m - 1) * (m - 2))
    variance = (m - 1) / m * (without - without.mean(1, keepdim=True)).square().sum(1)
    return pairs / (m * (m - 1)), variance.sqrt()


# --- one parameter


def _add_pairs(total: Tensor, x: Piece, z: Piece, scale: Tensor | None) -> None:
    if scale is None and isinstance(x, Outer) and isinstance(z, Outer) and x.terms * z.kept < x.size:
        _add_factored(total, x, z)
        return
    for others in _dense_chunks(z):
        right = z.dense(others.start, others.stop)
        right = right if scale is None else right * scale.to(right.dtype)
        for some in _dense_chunks(x):
            total[some, others] += x.dense(some.start, some.stop) @ right.T


def _add_factored(total: Tensor, x: Outer, z: Outer) -> None:
    terms = x.terms * z.terms
    for others in chunks(len(z), terms):
        for some in chunks(len(x), terms * (others.stop - others.start)):
            for group in range(len(x.right)):
                products = x.left_products(z, group, some, others)
                products *= x.right[group, some].flatten(0, 1) @ z.right[group, others].flatten(0, 1).T
                total[some, others] += _sum_terms(products, x.terms, z.terms)


def _sum_terms(products: Tensor, here: int, there: int) -> Tensor:
    if here == there == 1:
        return products
    return products.view(products.shape[0] // here, here, -1, there).sum((1, 3), dtype=torch.float64)


def _gram(piece: Piece, draws: int) -> Tensor:
    """Return the products of an example's draws: (n, draws, draws), float64."""
    n = len(piece) // draws
    if not isinstance(piece, Outer) or _written_out_is_cheaper(piece, draws):
        parts = [_dense_gram(piece, some, draws) for some in chunks(n, draws * piece.size, _limit(piece))]
    else:
        parts = [_factored_gram(piece, some, draws) for some in chunks(n, (draws * piece.terms) ** 2)]
    return torch.cat(parts)


def _written_out_is_cheaper(piece: Outer, draws: int) -> bool:
    # Of one example: (draws terms)^2 (l + r) against draws terms l r to write out and draws^2 l r to multiply.
    return draws * piece.terms * piece.kept > piece.size * (piece.terms + draws)


def _dense_gram(piece: Piece, some: slice, draws: int) -> Tensor:
    rows = piece.dense(some.start * draws, some.stop * draws).view(-1, draws, piece.size)
    return (rows @ rows.mT).to(torch.float64)


def _factored_gram(piece: Outer, some: slice, draws: int) -> Tensor:
    rows = slice(some.start * draws, some.stop * draws)
    products = piece.left_gram(rows, draws)
    products *= piece.right_gram(rows, draws)
    groups, n = len(piece.right), some.stop - some.start
    return products.view(groups, n, draws, piece.terms, draws, piece.terms).sum((0, 3, 5), dtype=torch.float64)


def _scaled_squares(piece: Piece, scale: Tensor) -> Tensor:
    scale = scale.to(_any(piece).dtype)
    return torch.cat([piece.dense(some.start, some.stop).square() @ scale for some in _dense_chunks(piece)])


def chunks(n: int, each: int, limit: int = AT_ONCE) -> Iterator[slice]:
    """Yield slices of n things that have `each` values: as many at once as fit the limit, one at least."""
    step = max(1, limit // max(1, each))
    return (slice(start, min(n, start + step)) for start in range(0, n, step))


def _dense_chunks(piece: Piece) -> Iterator[slice]:
    return chunks(len(piece), piece.size, _limit(piece))


def _limit(piece: Piece) -> int:
    """Gradients that are written out already are not cut; of others a few megabytes are, for a good product."""
    return 2**62 if isinstance(piece, Rows) else 4 * AT_ONCE


def _any(piece: Piece) -> Tensor:
    return piece.values if isinstance(piece, Rows) else piece.right


def _zeros(x: Features, *shape: int) -> Tensor:
    device = next((_any(piece).device for piece in x.pieces.values()), None)
    return torch.zeros(shape, dtype=torch.float64, device=device)
