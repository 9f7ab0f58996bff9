"""Influence by the method that fits the model: gradients, a closed form if there is one, otherwise refits."""

from collections.abc import Sequence
from concurrent.futures import Executor
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from genmem.influence.checkpoints import Settings
from genmem.influence.closed_form import family_of, formula_scores, formula_top, refuse_scale, self_influence_of
from genmem.influence.ledger import Ledger
from genmem.influence.selection import TopInfluences
from genmem.influence.tracin import network_scores, network_self_influence, network_top
from genmem.influence.trained import Trained, refuse_bare
from genmem.models.base import DeepDensity
from genmem.protocols import Listener, ignore

FloatArray = NDArray[np.float64]


def influence_scores(
    model: Any,
    X_train: ArrayLike,
    X_query: ArrayLike,
    *,
    weights: str = "complete",
    draws: int = 16,
    seed: int = 0,
    scale: str = "dot",
    groups: ArrayLike | None = None,
    checkpoints: Sequence[int] | None = None,
    ledger: Ledger | None = None,
    progress: Listener = ignore,
    executor: Executor | None = None,
) -> FloatArray:
    """Return how much each training example shaped the model at each query: (n_train, n_query), nats.

    `IF(x_i, z) = l(z; without x_i) - l(z; all)` with l = -log p. A positive score marks a proponent of z: training on
    x_i makes z more likely. A negative score marks an opponent.

    - Networks (a fitted `DeepDensity` with a trajectory, or your own as `Trained`): TracIn, the sum over checkpoints of
      w_c <g_c(x_i), g_c(z)>, with g_c the gradient of the training loss (with its beta, not -log p), averaged over
      `draws` draws that are independent between x_i and z. It is how much training on x_i reduced the loss of z, to
      first order, not the effect of a refit without it. `top_influences` returns the strongest without the matrix.
    - scikit-learn's `KernelDensity` (any kernel of Euclidean distances; bandwidths "scott" and "silverman" depend on
      the number of examples, so leaving one out changes them) and `TorchKernelDensity`: exact, whether fitted or
      not. With the Gaussian kernel scores are always finite: an isolated example, with its neighbour r bandwidths away,
      has a self-influence of about r^2 / 2. With a kernel of bounded support, +inf if x_i alone reaches the query.
    - `KNNDensity`: exact, whether fitted or not. If more than k training examples coincide with a query, its density is
      infinite with and without any one of them, and the ratio of the two counts as 1. If exactly k coincide, each has
      influence +inf. Scores are never NaN.
    - scikit-learn's `GaussianMixture` and `TorchGaussianMixture`: there is no closed form. The mixture is refitted
      n_train times without one example, starting from the converged fit to all, until the mean log p changes by less
      than 1e-12. The fit to all examples starts from the given mixture if it is fitted, otherwise from its own fit.

    Images are flattened for all models but networks.

    Args:
        model: one of the above.
        X_train: (n_train, *event) examples that the model is, or is to be, fitted to; for a network, also a subset.
        X_query: (m, *event); may be the training examples.
        weights: of checkpoints, see `checkpoint_weights`; networks only, as are all of the following but the seed.
        draws: of latent variables, for each example and checkpoint; networks that draw nothing have one.
        seed: of the draws, or of the fit of an unfitted mixture without a random_state of its own.
        scale: "dot"; "cosine", divided by the norms of x_i and z; or "query", by that of x_i alone, because large
            gradients dominate dot products. Norms are over all checkpoints together, sqrt(sum_c w_c |g_c|^2) with
            gradients averaged over draws, so a cosine is within [-1, 1]. The last two are not in nats.
        groups: (m,) the group of each query, integers from 0 without gaps: the losses of a group are summed, and it
            counts as one query.
        checkpoints: positions of the checkpoints to use in the trajectory; None: all.
        ledger: where sums are stored, so that a killed computation resumes.
        progress: is told of every finished block.
        executor: runs the refits of a mixture; without it, this process does.

    Raises:
        DataError: the arrays are empty, not finite or do not fit each other, or leave too few examples for a fit.
        ModelError: the model is none of the above, its settings do not allow a fit, the network has no trajectory, or
            its loss has no gradient for each example.
        RunMismatchError: the ledger belongs to another computation.

    References:
        Understanding Instance-based Interpretability of Variational Auto-Encoders (Kong & Chaudhuri, 2021),
        https://arxiv.org/abs/2105.14203

    >>> from sklearn.neighbors import KernelDensity
    >>> X = np.array([[0.0], [1.0], [8.0]])
    >>> influence_scores(KernelDensity(bandwidth=1.0), X, [[0.0]]).round(3)
    array([[ 0.569],
           [ 0.069],
           [-0.405]])
    """
    if isinstance(model, DeepDensity | Trained):
        return network_scores(
            model,
            X_train,
            X_query,
            scale=scale,
            groups=groups,
            ledger=ledger,
            progress=progress,
            settings=Settings(weights, draws, seed, checkpoints),
        )
    refuse_bare(model)
    refuse_scale(scale)
    return formula_scores(family_of(model, seed, executor), X_train, X_query, groups)


def top_influences(
    model: Any,
    X_train: ArrayLike,
    X_query: ArrayLike,
    *,
    k: int = 5,
    weights: str = "complete",
    draws: int = 16,
    seed: int = 0,
    scale: str = "dot",
    groups: ArrayLike | None = None,
    checkpoints: Sequence[int] | None = None,
    ledger: Ledger | None = None,
    progress: Listener = ignore,
    executor: Executor | None = None,
) -> TopInfluences:
    """Return the k strongest proponents and opponents of each query, without holding n_train x n_query scores.

    (Refits of a mixture yield the scores of all queries at once; these are held.) Among equal scores, the training
    example that comes first counts as the stronger. If all examples out of reach of a query are equal opponents, as for
    k-NN, none of them is named: -1.

    Args:
        model: as in `influence_scores`, and so are all but k.
        X_train: (n_train, *event).
        X_query: (m, *event); may be the training examples, or samples of the model.
        k: how many of each.
        weights: of checkpoints.
        draws: of latent variables, for each example and checkpoint.
        seed: of the draws, or of the fit of a mixture.
        scale: what scores are divided by.
        groups: (m,) the group of each query.
        checkpoints: positions of the checkpoints to use in the trajectory; None: all.
        ledger: where sums are stored, so that a killed computation resumes, and another k or scale costs nothing.
        progress: is told of every finished block.
        executor: runs the refits of a mixture.

    Raises:
        DataError, ModelError, RunMismatchError: see `influence_scores`; also if k exceeds n_train.

    >>> from sklearn.neighbors import KernelDensity
    >>> X = np.array([[0.0], [1.0], [8.0]])
    >>> top_influences(KernelDensity(bandwidth=1.0), X, [[0.0], [7.0]], k=2).proponents
    array([[0, 1],
           [2, 1]])
    """
    if isinstance(model, DeepDensity | Trained):
        return network_top(
            model,
            X_train,
            X_query,
            k=k,
            scale=scale,
            groups=groups,
            ledger=ledger,
            progress=progress,
            settings=Settings(weights, draws, seed, checkpoints),
        )
    refuse_bare(model)
    refuse_scale(scale)
    return formula_top(family_of(model, seed, executor), X_train, X_query, groups, k, progress)


def self_influence(
    model: Any,
    X: ArrayLike,
    *,
    weights: str = "complete",
    draws: int = 16,
    seed: int = 0,
    return_std: bool = False,
    checkpoints: Sequence[int] | None = None,
    ledger: Ledger | None = None,
    progress: Listener = ignore,
    executor: Executor | None = None,
) -> FloatArray | tuple[FloatArray, FloatArray]:
    """Return how much each training example shaped the model at itself: (n,), nats.

    The diagonal of `influence_scores(model, X, X)`, without the matrix; see there for models, arguments and errors.
    It is never below log((n-1)/n) for k-NN and kernel densities. For networks it is sum_c w_c |E g_c(x)|^2, estimated
    without bias from pairs of different draws, so it may be negative. (The square of an average over draws is too large
    by their variance divided by their number.)

    Args:
        model: as there.
        X: (n, *event).
        weights: as there.
        draws: as there; 2 or more.
        seed: as there.
        return_std: return a pair, with the standard error over draws (by the jackknife; up to twice too large if
            self-influence is within its noise of 0): 0 for models that draw nothing, NaN with 2 draws.
        checkpoints: as there.
        ledger: as there.
        progress: as there.
        executor: as there.

    >>> from sklearn.neighbors import KernelDensity
    >>> self_influence(KernelDensity(bandwidth=1.0), [[0.0], [1.0], [8.0]]).round(2)
    array([ 0.57,  0.57, 24.09])
    """
    if isinstance(model, DeepDensity | Trained):
        settings = Settings(weights, draws, seed, checkpoints)
        found = network_self_influence(model, X, ledger=ledger, progress=progress, settings=settings)
        return found if return_std else found[0]
    refuse_bare(model)
    scores = self_influence_of(family_of(model, seed, executor), X)
    return (scores, np.zeros(len(scores))) if return_std else scores
