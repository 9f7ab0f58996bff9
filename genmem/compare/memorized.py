"""Which examples do all models memorize, and which only one?

A model is shown to memorize an example by more than `above` nats if its test rejects. All models do if every test
rejects, so the largest of their p values is a p value of "not all" (an intersection-union test; Berger, 1982). Only one
does if its own test rejects, if its score is higher than that of each other model beyond the noise of both, and if no
other model is flagged. The false-discovery rate of each list is controlled over the examples.

References:
    Multiparameter Hypothesis Testing and Acceptance Sampling (Berger, 1982), Technometrics 24.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.stats import rankdata

from genmem import stats
from genmem.compare.differences import Law
from genmem.leaveout.estimators import FloatArray
from genmem.leaveout.scoring import WITHOUT_ERROR, MemorizationScores
from genmem.protocols import Brief

Positions = NDArray[np.intp]


@dataclass(frozen=True, eq=False)
class Memorized(Brief):
    """Examples by the models that memorize them, as positions, strongest first.

    Attributes:
        flagged: (models, n) whether a model is shown to memorize an example.
        everywhere: examples that all models are shown to memorize.
        only: for each model, examples that it is shown to memorize, more than each other model, and no other is.
        tested: (models,) whether the scores of a model allow tests; without, both kinds of list are empty.
    """

    flagged: NDArray[np.bool_]
    everywhere: Positions
    only: tuple[Positions, ...]
    tested: tuple[bool, ...]

    def headline(self) -> str:
        """Return how many examples are memorized by all models, and by one only."""
        alone = ", ".join(f"{len(part):,}" for part in self.only)
        return f"{len(self.everywhere):,} examples memorized by all models; by one only: {alone}"


def memorized(
    scores: Sequence[MemorizationScores], laws: Mapping[tuple[int, int], Law], above: float, level: float
) -> Memorized:
    """Return which examples are memorized by all models and by one, at a false-discovery rate of `level`.

    `laws[i, j]`, i < j, is the law of the scores of j less those of i.
    """
    p = np.stack([p_memorized(one, above) for one in scores])
    flagged = np.stack([_discovered(each, level) for each in p])
    ranks = np.sum([rankdata(np.nan_to_num(one.score, nan=-np.inf)) for one in scores], axis=0)
    only = []
    for i, one in enumerate(scores):
        higher = [p[i], *(_law(laws, j, i).p_above() for j in range(len(scores)) if j != i)]
        others = np.delete(flagged, i, axis=0).any(axis=0)
        only.append(strongest(_discovered(np.max(higher, axis=0), level) & ~others, one.score))
    everywhere = strongest(_discovered(p.max(axis=0), level), ranks)
    return Memorized(flagged, everywhere, tuple(only), tuple(bool(np.isfinite(each).any()) for each in p))


def p_memorized(scores: MemorizationScores, above: float) -> FloatArray:
    """Return p values (n,) of a score of at most `above`; 0 or 1 of scores without noise, NaN without a test."""
    if scores.estimator in WITHOUT_ERROR:
        return np.where(scores.score > above, 0.0, 1.0)
    return scores.p_value if above == 0 else scores.p_above(above)


def strongest(mask: NDArray[np.bool_], by: FloatArray) -> Positions:
    """Return the positions under a mask, highest value first."""
    at = np.flatnonzero(mask)
    return at[np.argsort(-by[at], kind="stable")]


def _law(laws: Mapping[tuple[int, int], Law], i: int, j: int) -> Law:
    """Return the law of the scores of j less those of i."""
    return laws[i, j] if i < j else laws[j, i].reversed()


def _discovered(p: FloatArray, level: float) -> NDArray[np.bool_]:
    return np.asarray(stats.benjamini_hochberg(p) <= level)  # NaN is no discovery
