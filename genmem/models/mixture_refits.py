"""Gaussian mixtures without one example: expectation-maximisation continued from the solution on all."""

import warnings
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.base import clone
from sklearn.exceptions import ConvergenceWarning

from genmem.errors import DataError, ModelError
from genmem.seeding import seed32

FloatArray = NDArray[np.float64]
# Change of the mean log p at which EM stops, nats. It goes with the square of what is left of the way, so a parameter
# is right to about a millionth. Rounding alone changes the mean by the second, relatively.
TOLERANCE, ROUNDING = 1e-12, 1e-14
STEPS, STAGES = 500, 10  # of EM, at most, in stages


def settled_mixture(model: Any, X: FloatArray, seed: int = 0) -> Any:
    """Return the mixture on all examples, settled: `model` continued where it is fitted, else fitted and continued.

    `seed` is for an unfitted one that has none of its own (`random_state=None`).

    Raises:
        ModelError: EM does not settle, or scikit-learn refuses the data.
        DataError: a covariance is singular.
    """
    start = model
    if not hasattr(model, "means_") or model.means_.shape[1] != X.shape[1]:
        start = clone(model)
        if start.random_state is None:
            start.set_params(random_state=seed32(seed, "mixture"))
        start = _fitted(start, X)
    fit, settled = _continued(start, X)
    if not settled:
        raise ModelError(
            expected=f"EM on all examples to settle within {STEPS * STAGES} steps",
            got=f"a mean log p that still changes by more than {TOLERANCE:g} nats a step",
            do="Use fewer components or a larger reg_covar: what one example changes would drown in this drift.",
        )
    return fit


def log_probs_without(
    mixture: Any, X: FloatArray, rows: NDArray[np.intp], Z: FloatArray | None = None
) -> tuple[FloatArray, int]:
    """Return log p without each of `rows`, at that row (rows,) or at Z (rows, m), and how many did not settle."""
    log_p, unsettled = [], 0
    for row in rows:
        fit, settled = _continued(mixture, np.delete(X, row, axis=0))
        log_p.append(fit.score_samples(X[row : row + 1])[0] if Z is None else fit.score_samples(Z))
        unsettled += not settled
    return np.array(log_p), unsettled


def _continued(start: Any, X: FloatArray) -> tuple[Any, bool]:
    """Return a fit to X that starts from the parameters of another, and whether it settled."""
    for _ in range(STAGES):
        tolerance = max(TOLERANCE, ROUNDING * abs(start.lower_bound_))
        unfitted = clone(start).set_params(
            weights_init=start.weights_,
            means_init=start.means_,
            precisions_init=start.precisions_,
            tol=tolerance,
            max_iter=STEPS,
            n_init=1,
        )
        fit = _fitted(unfitted, X)
        # Rounding of a nearly singular covariance can exceed the tolerance in one step, but not on average.
        if fit.converged_ or abs(fit.lower_bound_ - start.lower_bound_) < STEPS * tolerance:
            return fit, True
        start = fit
    return start, False


def _fitted(unfitted: Any, X: FloatArray) -> Any:
    if getattr(unfitted, "warm_start", False):
        unfitted.set_params(warm_start=False)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ConvergenceWarning)  # told apart by the caller
            return unfitted.fit(X)
    except (DataError, ModelError):
        raise
    except ValueError as error:
        raise ModelError(
            expected=f"a mixture that fits {len(X)} examples of {X.shape[1]} values",
            got=f"{type(error).__name__}: {error}",
            do="Use fewer components or a larger reg_covar.",
        ) from error
