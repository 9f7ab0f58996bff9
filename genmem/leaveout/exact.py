"""Leave-one-out scores without training n models: in closed form, or by refits of a few steps."""

from concurrent.futures import Executor
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from genmem.data.arrays import matrix
from genmem.leaveout.executors import refuse_fork, spread
from genmem.leaveout.scoring import MemorizationScores
from genmem.models.leave_one_out import How, Refits, leave_one_out_of, log_probs_without

FloatArray = NDArray[np.float64]


def leave_one_out(
    model: Any,
    X: ArrayLike,
    *,
    executor: Executor | None = None,
    device: str | None = None,
    block: int | None = None,
) -> MemorizationScores:
    """Return `M_i = log p(x_i | D) - log p(x_i | D without i)` of each example, with both terms.

    This is what n refits of `clone(model).fit(X[keep])` would give, at the cost of one or two evaluations:

    - scikit-learn's `KernelDensity` (every kernel, Euclidean distance) and `TorchKernelDensity`:
      with S_i the sum of kernels over the other examples, `M_i = log(1 + K(0) / S_i) + log((n-1) / n)`, in log space.
      With the Gaussian kernel it is always finite: about r^2 / 2 for an example whose nearest neighbour is r bandwidths
      away. With a kernel of bounded support it is +inf if no other example is within reach. A bandwidth by "scott" or
      "silverman" depends on the number of examples: one term uses n and the other n - 1. The sample weights of a
      fitted `KernelDensity` are used: p is the weighted mean, and X must be the examples it was fitted to.
    - `KNNDensity`: `M_i = log((n-1) / n) + d log(R_k / R_(k-1))` with the distances R to the *other* examples, because
      x_i is its own first neighbour. It is +inf if exactly k - 1 others coincide with x_i (for k = 1: if none does). If
      k or more do, both densities are +inf and the ratio of the radii counts as 1. It is never NaN.
    - scikit-learn's `GaussianMixture` and `TorchGaussianMixture`: there is no closed form. EM continues from the
      mixture of all examples (`model`'s own if it is fitted) until it converges, and n more times without one example.
      The scores are those of this local optimum: they ignore that a fit from scratch without x_i might reach another.
      Data so far from 0 that rounding matters are moved near 0 first. `estimator` is then "warm_refit".

    Subclasses count as their class if they override no method that fits or scores.

    Nothing here is random: standard errors are 0, intervals have no width, and there is nothing to test, so p and q
    values are NaN.

    Args:
        model: fitted or not; a fitted mixture must have been fitted to X.
        X: (n, d), used in the lower of float64 precision and that of its dtype.
        executor: where a mixture's refits run; without it, in this process. The numbers are the same.
        device: for kernels; by default the model's own, or "auto" for those of scikit-learn.
        block: rows of a tile of kernels.

    Raises:
        DataError: X is not a matrix of finite numbers, has too few rows to leave one out, or is not what a weighted
            density was fitted to.
        ModelError: there is no exact way for this model or its settings (use `refit`), or a mixture does not converge.
        RunError: the executor fails.

    References:
        On Memorization in Probabilistic Deep Generative Models (van den Burg & Williams, 2021),
        https://arxiv.org/abs/2106.03216

    >>> from sklearn.neighbors import KernelDensity
    >>> leave_one_out(KernelDensity(), [[0.0], [0.0], [9.0]]).score.round(3)
    array([ 0.288,  0.288, 39.401])
    """
    refits = None if executor is None else partial(_refits_on, executor)
    family = leave_one_out_of(model, How(device=device, block=block, refits=refits))
    return _as_scores(*family.terms(matrix(X, least=2)), "warm_refit" if family.by_refits else "exact")


def _refits_on(
    executor: Executor, mixture: Any, X: FloatArray, parts: list[NDArray[np.intp]], Z: FloatArray | None
) -> Refits:
    refuse_fork(executor)
    found = dict(spread(executor, _without, range(len(parts)), lambda i, deaths: (mixture, parts[i], Z), X))
    return [found[i] for i in range(len(parts))]


def _without(
    mixture: Any, rows: NDArray[np.intp], Z: FloatArray | None, X: FloatArray | None = None
) -> tuple[FloatArray, int] | None:
    return None if X is None else log_probs_without(mixture, X, rows, Z)


def _as_scores(score: FloatArray, log_in: FloatArray, log_out: FloatArray, estimator: str) -> MemorizationScores:
    untested = np.full(len(score), np.nan)
    return MemorizationScores(
        score=score,
        log_prob_in=log_in,
        log_prob_out=log_out,
        standard_error=np.zeros(len(score)),
        p_value=untested,
        q_value=untested.copy(),
        estimator=estimator,
        per_repeat=score[None],
        placebo=np.empty((0, len(score))),
        moderated=False,
    )
