"""Influence without gradients: by the closed form, or the refits, of a model; and the strongest of these scores."""

from concurrent.futures import Executor
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from genmem.data.arrays import groups_of, matrix, require_shape
from genmem.errors import ModelError
from genmem.influence.selection import TopInfluences, check_k, strongest
from genmem.models.leave_one_out import How, LeaveOneOut, Refits, leave_one_out_of, log_probs_without
from genmem.protocols import Listener, Progress

FloatArray = NDArray[np.float64]
AT_ONCE = 2**22  # scores


def family_of(model: Any, seed: int = 0, executor: Executor | None = None) -> LeaveOneOut:
    """Return how a model computes leave-one-out scores; the refits of a mixture run on the executor.

    Raises:
        ModelError: there is no way for this model or its settings.
    """
    refits = None if executor is None else partial(_refits_on, executor)
    return leave_one_out_of(model, How(seed, refits=refits), also="a DeepDensity, or ")


def _refits_on(
    executor: Executor, mixture: Any, X: FloatArray, parts: list[NDArray[np.intp]], Z: FloatArray | None
) -> Refits:
    found = [executor.submit(log_probs_without, mixture, X, rows, Z) for rows in parts]
    return [future.result() for future in found]


def note_on(family: LeaveOneOut, n: int) -> str:
    """Return a sentence that says how the influence of n examples is computed."""
    if family.by_refits:
        return f"{n:,} refits, each without one example, starting from the fit to all examples."
    return "In closed form, exact: the effect of leaving out one example alone."


def self_influence_of(family: LeaveOneOut, X: ArrayLike) -> FloatArray:
    """Return the influence of each example on itself, (n,): see `self_influence`."""
    return family.terms(matrix(X, least=family.least, flatten=True))[0]


def formula_scores(family: LeaveOneOut, X_train: ArrayLike, X_query: ArrayLike, groups: ArrayLike | None) -> FloatArray:
    """Return all scores, (n_train, queries or groups of them): see `influence_scores`."""
    X, Z, of = _flat(family, X_train, X_query, groups)
    return family.influence(X, Z) if groups is None else _summed(family, X, Z, of, range(int(of.max()) + 1))


def formula_top(
    family: LeaveOneOut, X_train: ArrayLike, X_query: ArrayLike, groups: ArrayLike | None, k: int, progress: Listener
) -> TopInfluences:
    """Return the strongest, with the scores of a few queries at a time; of all queries at once if refits give them."""
    X, Z, of = _flat(family, X_train, X_query, groups)
    check_k(k, len(X))
    count = int(of.max()) + 1
    step = count if family.by_refits else max(1, AT_ONCE // len(X))
    found = []
    for start in range(0, count, step):
        some = range(start, min(count, start + step))
        found.append(strongest(_summed(family, X, Z, of, some), k))
        progress(Progress("influence", some.stop, count))
    ahead, for_it, against, against_it = (np.concatenate(parts) for parts in zip(*found, strict=True))
    return TopInfluences(
        ahead, for_it, against, against_it, coverage="", weights="", scale="dot", note=note_on(family, len(X))
    )


def _flat(
    family: LeaveOneOut, X_train: ArrayLike, X_query: ArrayLike, groups: ArrayLike | None
) -> tuple[NDArray[Any], NDArray[Any], NDArray[np.intp]]:
    X, Z = matrix(X_train, "X_train", least=family.least, flatten=True), matrix(X_query, "X_query", flatten=True)
    require_shape(np.shape(X_query)[1:], np.shape(X_train)[1:], "queries", "as the training examples have")
    return X, Z, groups_of(groups, len(Z))


def _summed(family: LeaveOneOut, X: NDArray[Any], Z: NDArray[Any], groups: NDArray[np.intp], some: range) -> FloatArray:
    """Return the summed scores on some groups of queries, (n, groups), from those of a few queries at a time."""
    total = np.zeros((len(X), len(some)))
    rows = np.flatnonzero((groups >= some.start) & (groups < some.stop))
    step = len(rows) if family.by_refits else max(1, AT_ONCE // len(X))
    for start in range(0, len(rows), step):
        part = rows[start : start + step]
        np.add.at(total.T, groups[part] - some.start, family.influence(X, Z[part]).T)
    return total


def refuse_scale(scale: str) -> None:
    """Refuse a scale other than "dot" for a model without gradients.

    Raises:
        ModelError: it is not "dot".
    """
    if scale != "dot":
        raise ModelError(
            expected='scale="dot" for a model without gradients', got=f"scale={scale!r}", do="Leave it out."
        )
