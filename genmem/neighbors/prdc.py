"""Precision, recall, density and coverage: are samples where the data are, and data where the samples are?"""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from genmem.errors import DataError
from genmem.neighbors.results import Result
from genmem.neighbors.sets import NAMES, Sets, of_three_sets
from genmem.search.exact import nearest
from genmem.stats import mean_interval, share_interval

FloatArray = NDArray[np.float64]

_PAIRS = 2**21  # in memory at a time

_BLIND = "Copying: the training set itself, passed as samples, has the best possible values."
_IMPROVED = (
    "Improved Precision and Recall Metric for Assessing Generative Models (Kynkäänniemi et al., 2019), "
    "https://arxiv.org/abs/1904.06991"
)
_RELIABLE = (
    "Reliable Fidelity and Diversity Metrics for Generative Models (Naeem et al., 2020), "
    "https://arxiv.org/abs/2002.09797"
)
_WORDS = {
    "precision": "{:.1%} of samples are within the k-nearest-neighbour radius of a training example",
    "recall": "{:.1%} of training examples are within the k-nearest-neighbour radius of a sample",
    "density": "A sample is within the k-nearest-neighbour radius of {:.3f} k training examples on average",
    "coverage": "{:.1%} of training examples have a sample within their k-nearest-neighbour radius",
}


@of_three_sets
def precision_recall(
    sets: Sets, *, k: int = 5, rows: int = 2000, seed: int = 0
) -> tuple[Result, Result, Result, Result]:
    """Return precision, recall, density and coverage of samples, each with that of held-out examples as its null.

    The radius of a row is the distance to its k-th nearest other row of its set; a point at that distance is within it.
    With as many training examples R as samples S, precision is the share of S within the radius of some row of R,
    recall the share of R within the radius of some row of S, density the mean number of rows of R within whose radius a
    row of S is, over k, and coverage the share of R with a row of S within their radius. All depend on the number of
    rows, so all sets contribute the same number. None is a test of copying, and none has a p-value. Intervals are for a
    share (Wilson) or a mean (Student), with the other set fixed.

    Args:
        sets: the three sets.
        k: the neighbour that defines the radius; less if the sets are smaller.
        rows: the largest number of rows of each set; they are drawn with the seed.
        seed: of the draw of rows.

    Returns:
        `precision`, `recall`, `density`, `coverage`: between 0 and 1, but density between 0 and rows / k. NaN if a set
        has one row.

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


# --- the four measures, as means over rows


def _four(real: NDArray[Any], made: NDArray[Any], k: int) -> dict[str, FloatArray]:
    """Return for each measure the values (rows,) that it is the mean of."""
    if k < 1:
        raise DataError(
            expected="k of 1 or more", got=f"k={k}", do="Pass the number of the neighbour that defines the radius."
        )
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
    """Return how many `centres` have each point within their radius `reach`, (n_points,); the border counts as within.

    If rounding could decide, the distance of the pair is computed again as `nearest` computes it: a copy of the
    neighbour that defines a radius is exactly on its border.
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
        sentence=f"{words} (k = {k}, {n:,} points of each set); with held-out examples in place of the samples, "
        + (f"{null:.1%}." if share else f"{null:.3f}."),
        cannot_see=_BLIND,
        citation=_IMPROVED if name in ("precision", "recall") else _RELIABLE,
        details={"rows": ours, "null_rows": theirs, "k": k},
    )
