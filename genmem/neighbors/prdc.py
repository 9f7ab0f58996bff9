"""Precision, recall, density and coverage: are samples where the data are, and the data where samples are?"""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from genmem.errors import DataError
from genmem.neighbors.results import Result
from genmem.neighbors.sets import NAMES, Sets, of_three_sets
from genmem.search.exact import nearest
from genmem.stats import mean_interval, share_interval

FloatArray = NDArray[np.float64]

_PAIRS = 2**21  # at a time

_BLIND = "Copying: a training set passed as samples has the best values there are."
_IMPROVED = (
    "Improved Precision and Recall Metric for Assessing Generative Models (Kynkäänniemi et al., 2019), "
    "https://arxiv.org/abs/1904.06991"
)
_RELIABLE = (
    "Reliable Fidelity and Diversity Metrics for Generative Models (Naeem et al., 2020), "
    "https://arxiv.org/abs/2002.09797"
)
_WORDS = {
    "precision": "{:.1%} of samples lie within reach of a training example's k nearest",
    "recall": "{:.1%} of training examples lie within reach of a sample's k nearest",
    "density": "A sample lies within reach of {:.3f} k training examples on average",
    "coverage": "{:.1%} of training examples have a sample within reach of their k nearest",
}


@of_three_sets
def precision_recall(
    sets: Sets, *, k: int = 5, rows: int = 2000, seed: int = 0
) -> tuple[Result, Result, Result, Result]:
    """Return precision, recall, density and coverage of samples, each with that of held-out examples as its null.

    A row reaches as far as its k-th nearest other row of its set. With R training examples and S samples, as many:
    precision is the share of S within reach of some row of R, recall the share of R within reach of some row of S,
    density the average number of rows of R that reach a row of S, over k, and coverage the share of R that reach a
    row of S. Reach includes its border. All depend on the number of rows, so all sets give the same number. None
    is a test of copying: they have no p-value. Intervals are of the share of rows (Wilson) or of the mean (Student),
    the other set as given.

    Args:
        sets: the three sets.
        k: which neighbour marks the reach; fewer where the sets are that small.
        rows: how many rows of each set to use at most; they are drawn by the seed.
        seed: of the draw of rows.

    Returns:
        `precision`, `recall`, `density`, `coverage`: between 0 and 1, but density between 0 and rows / k. NaN where
        a set has one row.

    Raises:
        DataError: the sets do not fit together, or `rows` or `k` is below 1.

    References:
        Improved Precision and Recall Metric for Assessing Generative Models (Kynkäänniemi et al., 2019),
        https://arxiv.org/abs/1904.06991
        Reliable Fidelity and Diversity Metrics for Generative Models (Naeem et al., 2020),
        https://arxiv.org/abs/2002.09797
    """
    count = sets.rows_of_each(rows)
    real, held_out, made = (sets.some_rows(name, count, seed) for name in NAMES)
    ours, theirs = _four(real, made, k), _four(real, held_out, k)
    return tuple(_result(name, ours[name], theirs[name], min(k, count - 1)) for name in _WORDS)  # type: ignore[return-value]


# --- the four, as values over rows


def _four(real: NDArray[Any], made: NDArray[Any], k: int) -> dict[str, FloatArray]:
    """Return for each measure the values (rows,) whose mean it is."""
    if k < 1:
        raise DataError(expected="k of 1 or more", got=f"k={k}", do="Pass which neighbour marks the reach.")
    k = min(k, len(real) - 1)
    if k < 1:
        return {name: np.array([np.nan]) for name in _WORDS}
    reach_real, reach_made = _reach(real, k), _reach(made, k)
    over_made = reached(made, real, reach_real)
    return {
        "precision": (over_made > 0).astype(np.float64),
        "recall": (reached(real, made, reach_made) > 0).astype(np.float64),
        "density": over_made / k,
        "coverage": (nearest(real, made)[0][:, 0] <= reach_real).astype(np.float64),
    }


def _reach(rows: NDArray[Any], k: int) -> FloatArray:
    distances: FloatArray = nearest(rows, rows, k, exclude=np.arange(len(rows)))[0][:, -1]
    return distances


def reached(points: NDArray[Any], centres: NDArray[Any], reach: FloatArray) -> NDArray[np.intp]:
    """Return how many `centres` lie within their `reach` of each point, (n_points,); the border counts.

    Where rounding could decide, the pair is measured again as `nearest` measures it: a copy of the neighbour that
    marks a reach lies on its border.
    """
    at = centres.mean(axis=0, dtype=np.float64)
    moved = centres - at
    step = max(1, _PAIRS // max(centres.shape))
    parts = (points[start : start + step] for start in range(0, len(points), step))
    return np.concatenate([_inside(part, part - at, centres, moved, reach).sum(axis=1) for part in parts])


def _inside(
    points: NDArray[Any], near: FloatArray, centres: NDArray[Any], moved: FloatArray, reach: FloatArray
) -> NDArray[np.bool_]:
    ours, theirs = (np.einsum("ij,ij->i", x, x) for x in (near, moved))
    beyond = ours[:, None] + theirs - 2 * (near @ moved.T) - reach**2
    error = 4 * (moved.shape[1] + 16) * np.finfo(np.float64).eps * (ours[:, None] + theirs + reach**2)
    rows, columns = np.nonzero(np.abs(beyond) <= error)
    inside: NDArray[np.bool_] = beyond < 0
    step = max(1, _PAIRS // moved.shape[1])
    for start in range(0, len(rows), step):
        row, column = rows[start : start + step], columns[start : start + step]
        gap = centres[column].astype(np.float64) - points[row]
        inside[row, column] = np.sqrt(np.square(gap).sum(axis=1)) <= reach[column]
    return inside


def _result(name: str, ours: FloatArray, theirs: FloatArray, k: int) -> Result:
    value, null, n = float(ours.mean()), float(theirs.mean()), len(ours)
    share = name != "density"
    words = _WORDS[name].format(value)
    low, high = share_interval(int(ours.sum()), n) if share and np.isfinite(value) else mean_interval(ours)[2]
    return Result(
        name=name,
        title=f"{name.capitalize()} (k = {k})",
        value=value,
        null=null,
        interval=(low if np.isnan(low) else max(0.0, low), high),
        direction="either",
        n=n,
        sentence=f"{words} (k = {k}, {n:,} rows of each); with held-out examples in their place "
        + (f"{null:.1%}." if share else f"{null:.3f}."),
        cannot_see=_BLIND,
        citation=_IMPROVED if name in ("precision", "recall") else _RELIABLE,
        details={"rows": ours, "null_rows": theirs, "k": k},
    )
