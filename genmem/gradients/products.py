"""Products of per-example gradients that are stored as sums of few outer products, written out only if that is cheaper.

The gradient of a layer's weight for one example is G = sum over terms of left_t right_t^T: the gradient of the output
and the input, at every position and draw. With matrices of terms,

    <G_x, G_z> = sum of (left_x left_z^T) * (right_x right_z^T)

A product of two gradients of l x r numbers then costs terms_x terms_z (l + r) operations, against l r written out. Each
layer uses the cheaper way; sums over layers are float64.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from genmem.gradients.factored import Outer, Piece, Rows, chunks, long_products, some_values
from genmem.protocols import Brief

Direction = Mapping[str, Tensor]


@dataclass(frozen=True)
class Features(Brief):
    """The gradients of n examples: a piece for each parameter.

    `draws` consecutive gradients belong to one example; 1 if draws are averaged.
    """

    pieces: Mapping[str, Piece]
    n: int
    draws: int = 1

    def headline(self) -> str:
        """Return the size and the main figures."""
        return f"gradients of {self.n:,} examples, {len(self.pieces):,} parameters"

    def __len__(self) -> int:
        return self.n

    @property
    def bytes(self) -> int:
        """The memory of the gradients, in bytes."""
        return sum(piece.kept * len(piece) * some_values(piece).element_size() for piece in self.pieces.values())


# --- products


def inner(x: Features, z: Features, *, scale: Direction | None = None) -> Tensor:
    """Return <g_x, g_z> of all pairs: (len(x), len(z)), float64.

    Args:
        x: gradients under one network.
        z: gradients under the same network.
        scale: the diagonal of a preconditioner P, by parameter: then <g_x, P g_z>. This writes gradients out,
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


def gram(x: Features, *, scale: Direction | None = None) -> Tensor:
    """Return the products of the gradients of an example's draws: (n, draws, draws), float64.

    Args:
        x: from `features_by_draw`.
        scale: the diagonal of a preconditioner P, by parameter: then <g_j, P g_k>; see `inner`.
    """
    total = _zeros(x, len(x) // x.draws, x.draws, x.draws)
    for name, piece in x.pieces.items():
        total += _gram(piece, x.draws, None if scale is None else scale[name].flatten())
    return total


def along(x: Features, direction: Direction) -> Tensor:
    """Return <g_x, v> of each gradient with one direction: (len(x),), float64."""
    total = _zeros(x, len(x))
    for name, piece in x.pieces.items():
        total += piece.along(direction[name].flatten().to(some_values(piece).dtype))
    return total


def unbiased_self_influence(products: Tensor) -> tuple[Tensor, Tensor]:
    """Return |E g|^2 without bias, and its standard error by the jackknife over draws: (n,) each.

    (|sum_j g_j|^2 - sum_j |g_j|^2) / (m (m - 1)) for m draws: products of different draws only, because products of a
    draw with itself add their variance. It may be negative. NaN with 1 draw; the standard error also with 2.

    Args:
        products: (n, m, m), from `gram`; weighted sums over checkpoints are allowed too.
    """
    return unbiased_from_pairs(pairs_of_draws(products))


def pairs_of_draws(products: Tensor) -> Tensor:
    """Return the sum of each draw's products with all others, (n, m): the input of `unbiased_from_pairs`."""
    return products.sum(2) - products.diagonal(dim1=1, dim2=2)


def unbiased_from_pairs(rows: Tensor) -> tuple[Tensor, Tensor]:
    """Return what `unbiased_self_influence` does, from `pairs_of_draws` or their sums over checkpoints."""
    m, pairs = rows.shape[1], rows.sum(1)
    if m == 1:
        return torch.full_like(pairs, torch.nan), torch.full_like(pairs, torch.nan)
    if m == 2:
        return pairs / 2, torch.full_like(pairs, torch.nan)
    without = (pairs[:, None] - 2 * rows) / ((m - 1) * (m - 2))
    variance = (m - 1) / m * (without - without.mean(1, keepdim=True)).square().sum(1)
    return pairs / (m * (m - 1)), variance.sqrt()


# --- one parameter


def _add_pairs(total: Tensor, x: Piece, z: Piece, scale: Tensor | None) -> None:
    if scale is None and isinstance(x, Outer) and isinstance(z, Outer) and x.terms * z.terms * x.cost < x.size:
        _add_factored(total, x, z)
        return
    for others in _dense_chunks(z):
        right = z.dense(others.start, others.stop)
        right = right if scale is None else right * scale.to(right.dtype)
        for some in _dense_chunks(x):
            total[some, others] += long_products(x.dense(some.start, some.stop), right)


def _add_factored(total: Tensor, x: Outer, z: Outer) -> None:
    terms = x.terms * z.terms
    for others in chunks(len(z), terms):
        for some in chunks(len(x), terms * (others.stop - others.start)):
            for products in x.products(z, some, others):
                total[some, others] += _sum_terms(products, x.terms, z.terms)


def _sum_terms(products: Tensor, here: int, there: int) -> Tensor:
    if here == there == 1:
        return products
    return products.view(products.shape[0] // here, here, -1, there).sum((1, 3), dtype=torch.float64)


def _gram(piece: Piece, draws: int, scale: Tensor | None) -> Tensor:
    """Return the products of an example's draws: (n, draws, draws), float64."""
    n = len(piece) // draws
    if scale is not None or not isinstance(piece, Outer) or _written_out_is_cheaper(piece, draws):
        parts = [_dense_gram(piece, some, draws, scale) for some in chunks(n, draws * piece.size, 4)]
    else:
        parts = [_factored_gram(piece, some, draws) for some in chunks(n, (draws * piece.terms) ** 2)]
    return torch.cat(parts)


def _written_out_is_cheaper(piece: Outer, draws: int) -> bool:
    # For one example: (draws terms)^2 (l + r), against draws terms l r to write out and draws^2 l r to multiply.
    return draws * piece.terms**2 * piece.cost > piece.size * (piece.terms + draws)


def _dense_gram(piece: Piece, some: slice, draws: int, scale: Tensor | None) -> Tensor:
    rows = piece.dense(some.start * draws, some.stop * draws).view(-1, draws, piece.size)
    others = rows if scale is None else rows * scale.to(rows.dtype)
    return long_products(rows, others)


def _factored_gram(piece: Outer, some: slice, draws: int) -> Tensor:
    rows = slice(some.start * draws, some.stop * draws)
    products = piece.gram(rows, draws)
    groups, n = len(piece.right), some.stop - some.start
    return products.view(groups, n, draws, piece.terms, draws, piece.terms).sum((0, 3, 5), dtype=torch.float64)


def _scaled_squares(piece: Piece, scale: Tensor) -> Tensor:
    scale = scale.to(some_values(piece).dtype)
    return torch.cat(
        [long_products(piece.dense(some.start, some.stop).square(), scale[None])[:, 0] for some in _dense_chunks(piece)]
    )


def _dense_chunks(piece: Piece) -> Iterator[slice]:
    """Yield everything if it is already written out, otherwise as much as makes an efficient matrix product."""
    return iter([slice(0, len(piece))]) if isinstance(piece, Rows) else chunks(len(piece), piece.size, 4)


def _zeros(x: Features, *shape: int) -> Tensor:
    device = next((some_values(piece).device for piece in x.pieces.values()), None)
    return torch.zeros(shape, dtype=torch.float64, device=device)
