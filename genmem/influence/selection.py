"""The strongest scores of a stream, and the scales that scores are divided by."""

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from genmem.errors import ModelError
from genmem.models.base import require
from genmem.protocols import Brief, figure

FloatArray = NDArray[np.float64]
Rows = NDArray[np.int64]
SCALES = ("dot", "cosine", "query")


@dataclass(frozen=True)
class TopInfluences(Brief):
    """The training examples that shaped each query most, strongest first.

    A query is a row of `X_query`, or a group of them.

    Attributes:
        proponents: (n_query, k) indices of training examples, highest score first.
        proponent_scores: (n_query, k).
        opponents: (n_query, k) indices, lowest score first; without gradients, -1 if others are equally strong.
        opponent_scores: (n_query, k).
        coverage: how many parameters are included, and how their gradients were computed; empty without gradients.
        weights: the kind of checkpoint weights; empty without gradients.
        scale: what the scores were divided by.
        note: what the weights assume about the optimizer, or how scores were computed without gradients.
    """

    proponents: NDArray[np.int64]
    proponent_scores: FloatArray
    opponents: NDArray[np.int64]
    opponent_scores: FloatArray
    coverage: str
    weights: str
    scale: str
    note: str

    def headline(self) -> str:
        """Return the size and the main figures."""
        return (
            f"{self.proponents.shape[1]:,} training examples for each of {len(self.proponents):,} queries, strongest "
            f"{figure(np.max(self.proponent_scores, initial=-np.inf))}"
        )


class Best(NamedTuple):
    """The highest scores of each query so far, highest first: (queries, at most k) each."""

    rows: NDArray[np.int64]
    score: FloatArray


def nothing(queries: int) -> Best:
    """Return the best of no scores."""
    return Best(np.empty((queries, 0), np.int64), np.empty((queries, 0)))


def with_block(best: Best, scores: FloatArray, first: int, k: int) -> Best:
    """Return the k highest scores among those so far and those of a block.

    Among equal scores the training example that comes first wins, whatever the blocks are, if these come in order.

    Args:
        best: so far.
        scores: (examples of the block, queries).
        first: the number of the block's first example.
        k: how many to keep.
    """
    index = np.broadcast_to(np.arange(first, first + len(scores)), scores.T.shape)
    all_scores = np.concatenate([best.score, scores.T], 1)
    order = np.argsort(-all_scores, axis=1, kind="stable")[:, :k]
    all_index = np.concatenate([best.rows, index], 1)
    return Best(np.take_along_axis(all_index, order, 1), np.take_along_axis(all_scores, order, 1))


def strongest(scores: FloatArray, k: int) -> tuple[Rows, FloatArray, Rows, FloatArray]:
    """Return the k proponents and opponents of each query, with their scores, from scores (n, m): (m, k) each.

    Opponents that are no stronger than others beyond the k are marked -1, because the choice would be arbitrary.
    """
    # Copies, because a view would keep the whole order of n x m in memory.
    ahead, against = (np.argsort(sign * scores, axis=0, kind="stable")[: k + 1].copy() for sign in (-1, 1))
    ahead, last = ahead[:k], np.take_along_axis(scores, against[-1:], 0)
    for_it, against_it = (np.take_along_axis(scores, order, 0) for order in (ahead, against[:k]))
    told = (against_it < last) | (k >= len(scores))
    return ahead.T, for_it.T, np.where(told, against[:k], -1).T, against_it.T


def scaled(scores: FloatArray, train_squares: FloatArray, query_squares: FloatArray, scale: str) -> FloatArray:
    """Return <x, z>, or its quotient by |x| ("query") or |x| |z| ("cosine"); 0 if a norm is 0.

    Args:
        scores: (examples, queries) products <x, z>.
        train_squares: (examples,) of squared norms |x|^2.
        query_squares: (queries,) of squared norms |z|^2.
        scale: "dot", "cosine" or "query".
    """
    if scale == "dot":
        return scores
    norms = np.sqrt(train_squares)[:, None]
    if scale == "cosine":
        norms = norms * np.sqrt(query_squares)
    return np.divide(scores, norms, out=np.zeros_like(scores), where=norms > 0)


def check_scale(scale: str) -> None:
    """Check the name of a scale.

    Raises:
        ModelError: it is unknown.
    """
    require("scale", scale, SCALES.__contains__, f"one of {', '.join(SCALES)}")


def check_k(k: int, n_train: int) -> None:
    """Check the number of examples asked for.

    Raises:
        ModelError: it is not from 1 to n_train.
    """
    if isinstance(k, bool) or not isinstance(k, int | np.integer) or not 1 <= k <= n_train:
        raise ModelError(
            expected=f"k from 1 to {n_train}, the number of training examples", got=f"{k!r}", do="Change k."
        )
