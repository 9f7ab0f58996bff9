"""Covariates that may predict memorization: facts that do not contain the noise of the scores."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.stats import rankdata

from genmem.data.arrays import matrix
from genmem.errors import DataError
from genmem.protocols import Brief

FloatArray = NDArray[np.float64]

NEIGHBORS = 10
MOST_LABELS = 50
FORBIDDEN = ("log_prob_out", "score", "gap", "memorization", "per_repeat", "standard_error", "p_value", "q_value")
COPY = 1 - 1e-6
FEWEST = 20  # distinct examples to learn from


@dataclass(frozen=True, eq=False)
class Covariates(Brief):
    """Facts about n examples that predict memorization but do not contain the noise of its measurement.

    Attributes:
        values: (n, c) float64; NaN if a fact is unknown.
        names: c names.
    """

    values: FloatArray
    names: tuple[str, ...]

    def headline(self) -> str:
        """Return the size and the main figures."""
        return f"{len(self.names):,} facts about {len(self.values):,} examples: {', '.join(self.names)}"

    def __post_init__(self) -> None:
        values = np.asarray(self.values, dtype=np.float64)
        if values.ndim != 2 or values.shape[1] != len(self.names) or not values.size or np.isinf(values).any():
            raise DataError(
                expected="covariates (n, c), finite or NaN, with c names",
                got=f"shape {values.shape}, {len(self.names)} names, {int(np.isinf(values).sum())} infinite",
                do="Pass one row per example and one column per covariate; NaN marks a value that is unknown.",
            )
        object.__setattr__(self, "values", values)
        object.__setattr__(self, "names", tuple(self.names))


def covariates(
    distances: ArrayLike | None = None,
    log_prob_in: ArrayLike | None = None,
    labels: ArrayLike | None = None,
    *,
    epochs: Sequence[int] | None = None,
    extra: Mapping[str, ArrayLike] | None = None,
) -> Covariates:
    """Return the allowed covariates in one table.

    Args:
        distances: (n, k) to the k nearest other training examples, nearest first; the first 10 are used.
        log_prob_in: (n, c) mean log p under refits that trained on the example, at c checkpoints.
        labels: (n,) of any kind; the 50 most frequent become columns of 0 and 1.
        epochs: c names for the checkpoints.
        extra: further facts by name, (n,) each, such as self-influence; NaN if unknown. log_prob_out, the score and the
            gap *of the same refits* must not be among them.

    Raises:
        DataError: nothing is given, lengths disagree, a value is infinite, or a name is forbidden.

    >>> covariates([[1.0, 2.0], [0.5, 3.0]], labels=["a", "b"]).names
    ('distance_1', 'distance_2', 'label_a', 'label_b')
    """
    columns: dict[str, FloatArray] = {}
    if distances is not None:
        near = matrix(distances, "distances", nan=True)[:, :NEIGHBORS]
        columns |= {f"distance_{k + 1}": near[:, k] for k in range(near.shape[1])}
    if log_prob_in is not None:
        within = matrix(log_prob_in, "log_prob_in", nan=True)
        columns |= _checkpoints(within, range(within.shape[1]) if epochs is None else epochs)
    if labels is not None:
        columns |= _indicators(np.asarray(labels))
    columns |= {name: np.asarray(values, dtype=np.float64) for name, values in (extra or {}).items()}
    if not columns or len({values.shape for values in columns.values()}) != 1:
        raise DataError(
            expected="one covariate or more, with one value per example each",
            got=", ".join(f"{name} {values.shape}" for name, values in columns.items()) or "none",
            do="Pass at least distances to the nearest neighbours, and all arrays for the same examples.",
        )
    found = Covariates(np.stack(list(columns.values()), axis=1), tuple(columns))
    refuse_names(found.names)
    return found


# --- forbidden covariates


def refuse_names(names: Sequence[str]) -> None:
    """Refuse covariates by the names of arrays that are computed from the same refits."""
    bad = [name for name in names if name.lower().startswith(FORBIDDEN)]
    if bad:
        raise DataError(
            expected="covariates that do not contain the noise of the scores",
            got=", ".join(bad),
            do="Leave it out, or rename it if it is from other models than the scores.",
        )


def refuse_copies(table: Covariates, forbidden: Mapping[str, FloatArray]) -> None:
    """Refuse a covariate that ranks the examples as a forbidden array does, and covariates that add up to the score."""
    for name, column in zip(table.names, table.values.T, strict=True):
        for what, values in forbidden.items():
            if _copies(column, values):
                raise _copy(f"{name}, which ranks the examples as {what} does")
    # Exact sums count too: log_prob_in and log_prob_out together determine the score.
    whole = np.column_stack([np.nan_to_num(table.values), np.ones(len(table.values))])
    score = forbidden["score"]
    if len(score) > 2 * whole.shape[1] and score.std() > 0:
        whole = whole / np.maximum(np.abs(whole).max(axis=0), 1e-300)
        left = score - whole @ np.linalg.lstsq(whole, score, rcond=None)[0]
        if left.var() < (1 - COPY) * score.var():
            raise _copy("columns with a weighted sum that equals the score")


def _copies(column: FloatArray, values: FloatArray) -> bool:
    known = np.isfinite(column) & np.isfinite(values)
    if known.sum() < FEWEST or np.ptp(column[known]) == 0 or np.ptp(values[known]) == 0:
        return False
    return bool(abs(np.corrcoef(rankdata(column[known]), rankdata(values[known]))[0, 1]) > COPY)


def _copy(got: str) -> DataError:
    return DataError(
        expected="covariates that do not contain the noise of the scores",
        got=got,
        do="Leave out log_prob_out, the score and the gap of the same refits, and everything computed from them.",
    )


# --- checks of the arguments


def as_covariates(given: ArrayLike | Covariates) -> Covariates:
    """Return covariates; a plain array (n, c) gets names by position."""
    if isinstance(given, Covariates):
        return given
    values = matrix(given, "covariates", nan=True)
    return Covariates(values, tuple(f"column_{c}" for c in range(values.shape[1])))


def _checkpoints(log_prob_in: FloatArray, epochs: Sequence[int]) -> dict[str, FloatArray]:
    if len(set(epochs)) != log_prob_in.shape[1]:
        raise DataError(
            expected=f"{log_prob_in.shape[1]} different epochs, one per column of log_prob_in",
            got=f"{list(epochs)}",
            do="Pass the epochs of the columns, or none.",
        )
    return {f"log_prob_in_{epoch}": values for epoch, values in zip(epochs, log_prob_in.T, strict=True)}


def _indicators(labels: NDArray[np.generic]) -> dict[str, FloatArray]:
    if labels.ndim != 1:
        raise DataError(expected="labels of shape (n,)", got=f"shape {labels.shape}", do="Pass one label per example.")
    found, member, count = np.unique(labels, return_inverse=True, return_counts=True)
    kept = np.sort(np.argsort(-count, kind="stable")[:MOST_LABELS])
    return {f"label_{found[c]}": (member == c).astype(np.float64) for c in kept}
