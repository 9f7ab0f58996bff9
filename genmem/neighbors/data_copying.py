"""Are samples closer to training examples than held-out examples are, within cells of the space?"""

import warnings
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from genmem.data.arrays import identical_groups
from genmem.errors import DataError
from genmem.neighbors.results import Result
from genmem.neighbors.sets import NAMES, Name, Sets, of_three_sets
from genmem.protocols import Brief, figure
from genmem.search.exact import nearest
from genmem.seeding import seed32, stream

CellOf = dict[Name, NDArray[np.intp]]

ROWS_A_CELL = 200  # of the smallest set, by default
MOST_CELLS = 50
FIT_ROWS = 10_000  # of the training examples: any partition that depends on these alone is valid


def default_cells(n_train: int, n_test: int, n_samples: int) -> int:
    """Return one cell for every 200 examples of the smallest set, from 1 to 50.

    >>> default_cells(2_000, 1_000, 1_000), default_cells(60_000, 10_000, 10_000), default_cells(50, 50, 50)
    (5, 50, 1)
    """
    return int(np.clip(min(n_train, n_test, n_samples) // ROWS_A_CELL, 1, MOST_CELLS))


def cells_of(sets: Sets, n_cells: int | None = None, seed: int = 0) -> CellOf:
    """Return the cell (n,) of each point of each set, from 0: the closest of `n_cells` k-means centres.

    The centres are fitted on the training examples, or on 10,000 of them drawn at random if there are more. The cells
    do not depend on the order of the examples; ties between centres are resolved by `nearest`. There are at most as
    many cells as there are distinct examples to fit.

    Args:
        sets: the three sets.
        n_cells: the number of cells; by default one for every 200 examples of the smallest set, from 1 to 50.
        seed: of the examples drawn and of the starting centres.

    Raises:
        DataError: n_cells < 1.
    """
    count = default_cells(*map(len, sets)) if n_cells is None else int(n_cells)
    if count < 1:
        raise DataError(expected="n_cells of 1 or more", got=str(n_cells), do="Ask for at least one cell.")
    if count == 1:
        return {name: np.zeros(len(sets[name]), np.intp) for name in NAMES}
    centres = _centres(_rows_to_fit(sets, seed), count, seed)
    return {name: nearest(sets[name], centres)[1][:, 0].astype(np.intp) for name in NAMES}


def nearest_within(sets: Sets, queries: Name, cells: CellOf) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """Return distance (m,) to and index (m,) of the closest training example in each query's own cell.

    If the closest training example of all is in the cell, it is the answer; only the other queries are searched again.
    In a cell without training examples the distance is infinite and the index -1.
    """
    found, index = sets.near(queries, "train")
    distances, partners = found[:, 0].copy(), index[:, 0].copy()
    elsewhere = cells["train"][partners] != cells[queries]
    for cell in np.unique(cells[queries][elsewhere]):
        ask, base = np.flatnonzero(elsewhere & (cells[queries] == cell)), np.flatnonzero(cells["train"] == cell)
        distances[ask], partners[ask] = np.inf, -1
        if len(base):
            near, at = nearest(sets[queries][ask], sets.train[base])
            distances[ask], partners[ask] = near[:, 0], base[at[:, 0]]
    return distances, partners


def _rows_to_fit(sets: Sets, seed: int) -> NDArray[Any]:
    order = sets.order("train")
    if len(order) > FIT_ROWS:
        order = order[np.sort(stream(seed, "rows for cells").choice(len(order), FIT_ROWS, replace=False))]
    return sets.train[order]


def _centres(some: NDArray[Any], count: int, seed: int) -> NDArray[np.float64]:
    """Return the centres, `count` or as many as there are distinct rows.

    They are fitted in float32, which is twice as fast. The closest centre of a row is then found in float64.
    """
    from sklearn.cluster import KMeans
    from sklearn.exceptions import ConvergenceWarning

    middle = some.mean(axis=0, dtype=np.float64)  # far from the origin, squares would lose the differences between rows
    apart = some - middle
    scale = float(np.abs(apart).max()) or 1.0  # squares of much larger or smaller values do not fit float32
    model = KMeans(min(count, _distinct(some, count)), n_init=1, random_state=seed32(seed, "cells"))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # rows may differ by less than float32 resolves
        model.fit((apart / scale).astype(np.float32))
    return np.asarray(model.cluster_centers_.astype(np.float64) * scale + middle)


def _distinct(rows: NDArray[Any], enough: int) -> int:
    """Return the number of distinct rows, or any number from `enough` on."""
    few = int(identical_groups(rows[: 4 * enough]).max()) + 1
    return few if few >= enough else int(identical_groups(rows).max()) + 1


# --- the test


Floats = NDArray[np.float64]

FEWEST = 20  # samples: a cell is used if it has more
_EXEMPLARS = 6


@dataclass(frozen=True)
class Cell(Brief):
    """One cell of the space and its points of the three sets.

    Attributes:
        number: of the cell, as in `details["cell_of_samples"]`.
        n_train: training examples in it; likewise `n_test`, `n_samples`.
        share_train: share of all training examples; likewise `share_test`, `share_samples`.
        z: Mann-Whitney Z of its distances, below 0 if samples are closer than held-out examples; NaN if one is missing.
        used: whether it counts in C_T.
        weight: its weight in C_T, its share of the held-out examples of all cells used; 0 if it is not used.
        reason: why it is not used, or "".
        samples: indices of its samples that are closest to a training example in it, closest first.
        partners: indices of these training examples.
    """

    number: int
    n_train: int
    n_test: int
    n_samples: int
    share_train: float
    share_test: float
    share_samples: float
    z: float
    used: bool
    weight: float
    reason: str
    samples: tuple[int, ...]
    partners: tuple[int, ...]

    def headline(self) -> str:
        """Return the size and the main figures."""
        held_out = f"{self.n_test:,} held out, {self.n_samples:,} samples"
        return f"{self.n_train:,} training examples, {held_out}, Z {figure(self.z)}"


@dataclass(frozen=True, eq=False, kw_only=True)
class CopyingTest(Result):
    """C_T, raw as `value` and `statistic`, standardized as `z`, with its cells.

    Attributes:
        z: C_T over its standard deviation on fresh samples; standard normal on fresh samples.
        cells: in order of Z, the lowest first; cells not used are last.
    """

    z: float
    cells: tuple[Cell, ...]

    @property
    def statistic(self) -> float:
        """C_T, the same as `value`."""
        return self.value


@of_three_sets
def data_copying_test(sets: Sets, *, n_cells: int | None = None, seed: int = 0) -> CopyingTest:
    """Test whether samples are closer to training examples than held-out examples are, within cells of the space.

    In each cell, the distances of samples (m of them) and held-out examples (n) to the training examples of the cell
    are ranked together, ties by mid-ranks. U counts the pairs in which the sample is farther. The sum is over the cells
    with more than 20 samples and at least one held-out example:

        Z = (U - (n m / 2 - 1/2)) / sqrt(n m (n + m + 1) / 12)
        C_T = sum w Z,    w a cell's share of the held-out examples of these cells.

    Far below 0, samples are copies or sharper than the data. Far above 0, they are farther away than fresh samples. C_T
    is not a z-score: given the counts, cells are independent on fresh samples, so its variance is sum w^2 v, where v is
    1 less a correction for ties. `z` is C_T divided by the root of this variance, and `p_value` the lower tail of the
    normal distribution at `z`. The interval is for C_T: its variance is that of the placements of both sets, with
    training examples and cells fixed.

    Args:
        sets: the three sets.
        n_cells: k-means cells, fitted on the training examples. By default one for every 200 examples of the smallest
            set, from 1 to 50.
        seed: of the starting centres.

    Returns:
        `details` holds "z_u" and "p_u", the same test with the whole space as one cell; "sd" of C_T on fresh samples;
        "tau", the smallest share of the samples in a used cell; "cell_of_train", "cell_of_test" and "cell_of_samples",
        (n,) each. If no cell can be used, value, z and p_value are NaN.

    Raises:
        DataError: a set is empty or not finite, widths differ, or n_cells < 1.

    References:
        A Non-Parametric Test to Detect Data-Copying in Generative Models (Meehan, Chaudhuri & Dasgupta, 2020),
        https://arxiv.org/abs/2004.05675
        Comparing the Areas under Two or More Correlated Receiver Operating Characteristic Curves: A Nonparametric
        Approach (DeLong, DeLong & Clarke-Pearson, 1988), Biometrics 44: the interval.

    >>> rng = np.random.default_rng(0)
    >>> T, H, fresh = (rng.normal(size=(400, 2)) for _ in range(3))
    >>> data_copying_test(T, H, T).z < -15 < -2 < data_copying_test(T, H, fresh).z
    True
    """
    cells = cells_of(sets, n_cells, seed)
    ranks, table = _table(sets, cells)
    value, sd, half = _sum(ranks, table)
    z = value / sd if sd else sd
    p = _p_below(z, sd)
    return CopyingTest(
        name="c_t",
        title="Data-copying, C_T",
        value=value,
        null=0.0,
        interval=(value - half, value + half),
        p_value=p,
        direction="lower",
        n=sum(cell.n_test + cell.n_samples for cell in table if cell.used),
        sentence=_sentence(value, z, p, table),
        cannot_see=_CANNOT_SEE,
        citation="Meehan, Chaudhuri & Dasgupta (2020)",
        details={"sd": sd, "tau": FEWEST / len(sets.samples), **_global(sets), **_by_row(cells)},
        z=z,
        cells=tuple(sorted(table, key=lambda cell: (not cell.used, np.isnan(cell.z), cell.z, cell.number))),
    )


_CANNOT_SEE = (
    "A minority of copies among samples that are otherwise too far away, because the two effects cancel; copies "
    "of few examples. Samples that are sharper than the data are mistaken for copies. So are fresh samples if "
    "held-out examples were duplicated after the split, because every duplicate counts as an example of its "
    "own."
)


def _sum(ranks: list["Rank"], table: list[Cell]) -> tuple[float, float, float]:
    """Return C_T, its standard deviation on fresh samples, and half its interval; NaN if no cell is used."""
    used = [(cell.weight, rank) for cell, rank in zip(table, ranks, strict=True) if cell.used]
    if not used:
        return np.nan, np.nan, np.nan
    fresh, here = sum(w**2 * rank.ties for w, rank in used), sum(w**2 * rank.variance for w, rank in used)
    return sum(w * rank.z for w, rank in used), float(np.sqrt(fresh)), 1.96 * float(np.sqrt(here))


class Rank(NamedTuple):
    """How one set of distances ranks against another: Z, its variance on fresh samples, its variance on these sets."""

    z: float
    ties: float
    variance: float


_NO_RANK = Rank(np.nan, np.nan, np.nan)


def rank_distances(of_samples: Floats, of_test: Floats) -> Rank:
    """Return the Mann-Whitney Z of samples' distances (m,) against held-out examples' (n,); NaN if one set is empty.

    Z is below 0 if samples are closer. It uses mid-ranks and the continuity correction of the lower tail, without a
    correction for ties: these reduce the variance from 1 to `ties` = 1 - sum(t^3 - t) / (N^3 - N), N = n + m, with t
    distances in a tie.
    """
    m, n = len(of_samples), len(of_test)
    if not m or not n:
        return _NO_RANK
    scale = np.sqrt(n * m * (n + m + 1) / 12)
    below = _share_below(of_samples, of_test)
    u = n * below.sum()
    ties = float(stats.tiecorrect(stats.rankdata([*of_samples, *of_test])))
    if ties <= 0:  # all at one distance
        return Rank(0.0, 0.0, 0.0)
    spread = _variance(below) / m + _variance(_share_below(of_test, of_samples)) / n
    return Rank(float((u - (n * m / 2 - 0.5)) / scale), ties, float(spread * (n * m / scale) ** 2))


def _share_below(values: Floats, others: Floats) -> Floats:
    """Return the share of `others` below each value; ties count half."""
    ordered = np.sort(others)
    count = np.searchsorted(ordered, values, "left") + np.searchsorted(ordered, values, "right")
    return np.asarray(count / (2 * len(others)))


def _variance(shares: Floats) -> float:
    # One more value at either end: complete separation in a finite sample has a positive error.
    return float(np.var([*shares, 0.0, 1.0], ddof=1))


def _p_below(z: float, sd: float) -> float:
    """Return the normal distribution's probability below z; 1 if nothing varies, NaN if z is undefined."""
    return 1.0 if sd == 0 else float(stats.norm.cdf(z))


def _global(sets: Sets) -> dict[str, float]:
    whole = rank_distances(sets.distance("samples", "train"), sets.distance("test", "train"))
    sd = float(np.sqrt(whole.ties))
    return {"z_u": whole.z, "p_u": _p_below(whole.z / sd if sd else sd, sd)}


def _by_row(cells: CellOf) -> dict[str, NDArray[np.intp]]:
    return {f"cell_of_{name}": cells[name] for name in cells}


def _table(sets: Sets, cells: CellOf) -> tuple[list[Rank], list[Cell]]:
    """Return ranks and table entries of all cells, by number."""
    near = {name: nearest_within(sets, name, cells) for name in _QUERIES}
    counts = np.stack([np.bincount(cells[name], minlength=_count(cells)) for name in NAMES], axis=1)  # (cells, 3)
    reasons = [_reason(*row) for row in counts.tolist()]
    in_use = sum(row[1] for row, reason in zip(counts.tolist(), reasons, strict=True) if not reason)
    ranks: list[Rank] = []
    rows: list[Cell] = []
    for number, ((in_train, in_test, drawn), reason) in enumerate(zip(counts.tolist(), reasons, strict=True)):
        test, mine = (np.flatnonzero(cells[name] == number) for name in _QUERIES)
        ranks.append(rank_distances(near["samples"][0][mine], near["test"][0][test]) if in_train else _NO_RANK)
        exemplars = mine[np.argsort(near["samples"][0][mine], kind="stable")][:_EXEMPLARS] if in_train else mine[:0]
        rows.append(
            Cell(
                number=number,
                n_train=in_train,
                n_test=in_test,
                n_samples=drawn,
                share_train=in_train / len(cells["train"]),
                share_test=in_test / len(cells["test"]),
                share_samples=drawn / len(cells["samples"]),
                z=ranks[-1].z,
                used=not reason,
                weight=0.0 if reason else in_test / in_use,
                reason=reason,
                samples=tuple(exemplars.tolist()),
                partners=tuple(near["samples"][1][exemplars].tolist()),
            )
        )
    return ranks, rows


_QUERIES: tuple[Name, ...] = ("test", "samples")


def _count(cells: CellOf) -> int:
    return 1 + max(int(of.max()) for of in cells.values())


def _reason(train: int, test: int, samples: int) -> str:
    """Return why a cell with these counts is not used, or ""."""
    if samples <= FEWEST:
        return f"{samples} samples; more than {FEWEST} are needed"
    if not test:
        return "no held-out example"
    return "" if train else "no training example"


def _sentence(value: float, z: float, p: float, table: list[Cell]) -> str:
    used = sum(cell.used for cell in table)
    if not used:
        return (
            f"C_T is undefined: no cell of {len(table)} has more than {FEWEST} samples, a held-out example and a "
            "training example."
        )
    where = f"in {used} of {len(table)} cells" if len(table) > 1 else "with the whole space as one cell"
    how = "closer to training examples than" if p <= 0.05 else "about as close to training examples as"
    if z > 1.645:
        how = "farther from training examples than"
    return (
        f"C_T is {value:.2f}, {z:.1f} standard deviations from 0, its mean for fresh samples (p = {p:.2g}): "
        f"{where}, samples are {how} held-out examples are."
    )
