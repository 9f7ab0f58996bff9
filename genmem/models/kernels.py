"""Sums of kernels over all pairs of rows, in float64, log space and tiles: nothing of size n^2 is ever held.

Rows are ordered so that a tile is a neighbourhood, and each tile of pairs is centred on it. Close pairs then have small
coordinates, so |a - b|^2 = |a|^2 + |b|^2 - 2 a.b, one matrix product, loses little to rounding wherever the data are.
Its error has a bound. If this is not small relative to the distance of a pair, the distance is recomputed from the
values as given. Tiles too far apart to contribute are skipped.
"""

import math
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor

from genmem.data.arrays import HUGE, largest, matrix, require_shape
from genmem.errors import DataError
from genmem.models.base import is_count, require, resolve_device
from genmem.models.kernel_shapes import KERNELS, check_kernel

FloatArray = NDArray[np.float64]
TILE = {"cpu": 1024, "cuda": 8192}  # rows of a tile, at most: it stays in a CPU's cache, and fills a GPU
_FEWEST = 256  # rows of a tile, at least
_ABSOLUTE = 1e-11  # tolerated error of the log kernel of a pair, nats,
_RELATIVE = 1e-12  # or relative to it
_NEGLIGIBLE = 45.0  # nats below a sum: e^-45 of it is below rounding, however many tiles
_SPREAD = 600.0  # nats over which exponentials share a shift
_LEAST = -700.0  # exp below this is slow (denormal), and negligible beside e^-600
_CHUNK = 2**21  # values processed at a time when pairs are computed one by one


def log_kernel_sums(
    queries: ArrayLike,
    base: ArrayLike,
    bandwidth: float,
    *,
    kernel: str = "gaussian",
    device: str = "auto",
    block: int | None = None,
) -> FloatArray:
    """Return log sum_j K(|x_i - x_j| / h) of each query x_i over the rows x_j of `base`: (m,), with K(0) = 1.

    Accurate to about 1e-11 nats or 1e-12 of the value, whichever is more; -inf if a kernel of bounded support reaches
    no row.

    Args:
        queries: (m, d), any real dtype.
        base: (n, d), any real dtype.
        bandwidth: h > 0.
        kernel: as in scikit-learn. "gaussian" uses matrix products; the others compute every pair separately, which
            takes twenty times as long in 784 dimensions.
        device: "cpu", "cuda", or "auto".
        block: rows of a tile. Memory beyond the data is a few tiles of block^2 and block x d float64.

    Raises:
        DataError: the arguments are not matrices of finite numbers of one width.
        ModelError: a setting is out of range.

    >>> log_kernel_sums([[0.0], [1000.0]], [[0.0], [0.0]], 1.0).round(4).tolist()
    [0.6931, -499999.3069]
    """
    Q, B = matrix(queries, "queries"), matrix(base, "base")
    require_shape(Q.shape[1:], B.shape[1:])
    pairs, size = _pairs(Q, B, bandwidth, kernel, device, block)
    tiles, sums = neighbourhoods(B, size), np.empty(len(Q))
    centres = np.stack([B[columns].mean(axis=0, dtype=np.float64) for columns in tiles])
    for rows in neighbourhoods(Q, size):
        left, total = pairs.centred(rows), pairs.nothing(rows)
        away = np.square(centres - left.centre.cpu().numpy()).sum(axis=1)
        for nearby in np.argsort(away):  # the nearest first: they determine which of the others can be skipped
            pairs.add(left, tiles[nearby], total)
        sums[rows] = total.log_sum.cpu().numpy()
    return sums


def log_kernel_sums_without_self(
    X: ArrayLike, bandwidth: float, *, kernel: str = "gaussian", device: str = "auto", block: int | None = None
) -> FloatArray:
    """Return log sum over j != i of K(|x_i - x_j| / h) of each row of X: (n,); the rest as `log_kernel_sums`.

    Each pair is computed once for both rows. Copies of a row count; only the row itself does not. The value is -inf for
    a single row, and for rows that no other row reaches.

    >>> log_kernel_sums_without_self([[0.0], [0.0], [1000.0]], 1.0).round(4).tolist()
    [0.0, 0.0, -499999.3069]
    """
    array = matrix(X, "X")
    pairs, size = _pairs(array, array, bandwidth, kernel, device, block)
    tiles = neighbourhoods(array, size)
    totals = [pairs.nothing(rows) for rows in tiles]
    for rows, total in zip(tiles, totals, strict=True):  # first: they determine which of the others can be skipped
        pairs.add(pairs.centred(rows), rows, total, itself=True)
    for i, rows in enumerate(tiles):
        left = pairs.centred(rows)
        for j in range(i + 1, len(tiles)):
            pairs.add(left, tiles[j], totals[i], totals[j])
    sums = np.empty(len(array))
    for rows, total in zip(tiles, totals, strict=True):
        sums[rows] = total.log_sum.cpu().numpy()
    return sums


def squared_distances(queries: ArrayLike, base: ArrayLike, *, device: str = "auto") -> Tensor:
    """Return squared Euclidean distances (m, n) as float32, accurate to rounding for close pairs too."""
    Q, B = matrix(queries, "queries"), matrix(base, "base")
    # If the bandwidth is far below all distances, only an error that is small relative to the distance is small.
    unit = 2.0 ** (math.frexp(max(largest(Q), largest(B)))[1] - 60)
    pairs, size = _pairs(Q, B, unit, "gaussian", device, None)
    found = torch.empty(len(Q), len(B), dtype=torch.float32)
    for rows in neighbourhoods(Q, size):
        left = pairs.centred(rows)
        for columns in neighbourhoods(B, size):
            L = pairs.log_kernels(left, pairs.beside(left, columns)).mul_(-2 * unit**2)
            found[np.ix_(rows, columns)] = L.to("cpu", torch.float32)
    return found


def neighbourhoods(X: NDArray[Any], size: int) -> list[NDArray[np.intp]]:
    """Cut the rows of a matrix into sets of at most `size` rows close together: halved along the widest column."""
    tiles: list[NDArray[np.intp]] = []
    waiting = [np.arange(len(X))]
    while waiting:
        rows = waiting.pop()
        if len(rows) <= size:
            tiles.append(np.sort(rows))
            continue
        some = X[rows[:: -(-len(rows) // 512)]].astype(np.float64)
        column = X[rows, int(np.argmax(some.max(axis=0) - some.min(axis=0)))]
        half = size * (-(-len(rows) // size) // 2)  # whole tiles
        order = np.argpartition(column, half)
        waiting += [rows[order[half:]], rows[order[:half]]]
    return tiles


# --- a tile of pairs


class _Tile(NamedTuple):
    """Rows relative to a centre, in bandwidths, as a factor of a matrix product."""

    rows: NDArray[np.intp]
    factor: Tensor  # (rows, d + 2): coordinates, then 1 and minus half the squared norm, in either order
    centre: Tensor  # (d,)
    nearest: float  # half the squared norm of the row nearest to the centre
    farthest: float


@dataclass
class _Total:
    """Log sums so far of a tile's rows, and the least of them, which determines what can be skipped."""

    log_sum: Tensor
    least: float = -math.inf

    def add(self, more: Tensor) -> None:
        self.log_sum = torch.logaddexp(self.log_sum, more)
        self.least = float(self.log_sum.min())


@dataclass(frozen=True, eq=False)
class _Pairs:
    """Kernels between queries and a base, a tile at a time."""

    Q: NDArray[Any]
    B: NDArray[Any]
    bandwidth: float
    kernel: str
    device: torch.device

    def nothing(self, rows: NDArray[np.intp]) -> _Total:
        return _Total(torch.full((len(rows),), -math.inf, dtype=torch.float64, device=self.device))

    def centred(self, rows: NDArray[np.intp]) -> _Tile:
        """Return queries relative to their own centre."""
        return self._tile(self.Q, rows, self._values(self.Q, rows).mean(0), norms_last=True)

    def beside(self, left: _Tile, columns: NDArray[np.intp]) -> _Tile:
        """Return rows of the base relative to the centre of a tile of queries."""
        return self._tile(self.B, columns, left.centre, norms_last=False)

    def add(
        self,
        left: _Tile,
        columns: NDArray[np.intp],
        total: _Total,
        mirrored: _Total | None = None,
        *,
        itself: bool = False,
    ) -> None:
        """Add the kernels of a tile to the sums of its rows, and of its columns if they are `mirrored`."""
        right = self.beside(left, columns)
        least = min(total.least, math.inf if mirrored is None else mirrored.least)
        if not itself and self._too_far(left, right, least):
            return
        L = self.log_kernels(left, right)
        if itself:
            L.fill_diagonal_(-math.inf)
        found = _sums(L, total.log_sum, None if mirrored is None else mirrored.log_sum)
        total.add(found[0])
        if mirrored is not None:
            mirrored.add(found[1])

    def _too_far(self, left: _Tile, right: _Tile, least: float) -> bool:
        gap = (math.sqrt(2 * right.nearest) - math.sqrt(2 * left.farthest)) * (1 - 1e-9)
        most = float(KERNELS[self.kernel](torch.tensor(max(0.0, gap), dtype=torch.float64)))
        return most == -math.inf or most + math.log(len(left.rows) + len(right.rows)) < least - _NEGLIGIBLE

    def _values(self, X: NDArray[Any], rows: NDArray[np.intp]) -> Tensor:
        return torch.from_numpy(X[rows]).to(self.device, torch.float64)

    def _tile(self, X: NDArray[Any], rows: NDArray[np.intp], centre: Tensor, norms_last: bool) -> _Tile:
        d = X.shape[1]
        factor = torch.ones(len(rows), d + 2, dtype=torch.float64, device=self.device)
        scaled = factor[:, :d]
        torch.sub(self._values(X, rows), centre, out=scaled)
        scaled.div_(self.bandwidth)
        half = scaled.square().sum(1).mul_(0.5)
        factor[:, d + norms_last] = -half
        return _Tile(rows, factor, centre, float(half.min()), float(half.max()))

    def log_kernels(self, left: _Tile, right: _Tile) -> Tensor:
        """Return log kernels of all pairs of a tile: (rows, columns)."""
        if self.kernel != "gaussian":
            return KERNELS[self.kernel](self._distances(left, right))
        L = left.factor @ right.factor.T  # -|a|^2 / 2 + a.b - |b|^2 / 2
        # A dot product of d terms has an error of about sqrt(d) roundings of its largest partial sum.
        error = 2.0**-52 * (8 + math.sqrt(self.Q.shape[1])) * (left.farthest + right.farthest)
        if error > _ABSOLUTE and float(L.max()) > (near := -error / _RELATIVE):
            self._measure_again(L, near, left, right)
        return L

    def _measure_again(self, L: Tensor, near: float, left: _Tile, right: _Tile) -> None:
        at = torch.nonzero(L > near)
        if len(at) * 16 > L.numel():
            L.copy_(KERNELS["gaussian"](self._distances(left, right)))
            return
        step = max(1, _CHUNK // self.Q.shape[1])
        for start in range(0, len(at), step):
            i, j = at[start : start + step].T
            gap = self._values(self.Q, left.rows[i.cpu().numpy()])
            gap = gap.sub_(self._values(self.B, right.rows[j.cpu().numpy()])).div_(self.bandwidth)
            L[i, j] = gap.square_().sum(1).mul_(-0.5)

    def _distances(self, left: _Tile, right: _Tile) -> Tensor:
        """Return distances in bandwidths from differences: 0 exactly for copies."""
        a, b = self._values(self.Q, left.rows), self._values(self.B, right.rows)
        return torch.cdist(a, b, compute_mode="donot_use_mm_for_euclid_dist").div_(self.bandwidth)


def _sums(L: Tensor, rows: Tensor, columns: Tensor | None) -> list[Tensor]:
    """Return log sums of exp(L) over each row, and over each column if there are columns; overwrites L.

    Rows and columns that contribute nothing to the sums so far are -inf. If the maxima of the others are close enough,
    rows and columns share one exponential.
    """
    highest = [L.amax(1)] if columns is None else [L.amax(1), L.amax(0)]
    so_far = [rows] if columns is None else [rows, columns]
    enough = -_NEGLIGIBLE - math.log(L.numel())
    wanted = [(m > -math.inf) & (m > before + enough) for m, before in zip(highest, so_far, strict=True)]
    peaks = torch.cat([m[some] for m, some in zip(highest, wanted, strict=True)])
    if len(peaks) == 0:
        return [torch.full_like(m, -math.inf) for m in highest]
    top = float(highest[0].max())
    if top - float(peaks.min()) < _SPREAD:
        E = L.sub_(top).clamp_(min=_LEAST).exp_()
        sums = [E.sum(dim).log_().add_(top) for dim in (1, 0)[: len(highest)]]
    else:
        shifts = [m.clamp(min=-1e300) for m in highest]  # a row of -inf stays -inf instead of NaN
        sums = [(L - shifts[0][:, None]).clamp_(min=_LEAST).exp_().sum(1).log_().add_(shifts[0])]
        if columns is not None:
            sums.append(L.sub_(shifts[1]).clamp_(min=_LEAST).exp_().sum(0).log_().add_(shifts[1]))
    return [torch.where(some, found, -math.inf) for some, found in zip(wanted, sums, strict=True)]


# --- checks


def _pairs(
    Q: NDArray[Any], B: NDArray[Any], bandwidth: float, kernel: str, device: str, block: int | None
) -> tuple[_Pairs, int]:
    """Return the pairs, and the rows of a tile."""
    check_kernel(kernel, bandwidth)
    where = resolve_device(device)
    check_block(block)
    most = max(largest(Q), largest(B))
    if most > HUGE * min(1.0, bandwidth):
        raise DataError(
            expected=f"values below {HUGE} bandwidths",
            got=f"{most:g} at a bandwidth of {bandwidth:g}",
            do="Rescale the data, or choose a wider bandwidth.",
        )
    size = int(np.clip(-(-len(B) // 8), _FEWEST, TILE[where.type])) if block is None else int(block)
    return _Pairs(Q, B, float(bandwidth), kernel, where), size


def check_block(block: Any) -> None:
    """Check the rows of a tile.

    Raises:
        ModelError: it is neither None nor an integer above 0.
    """
    if block is not None:
        require("block", block, is_count, "None or an integer >= 1")
