"""Gaussian mixtures far from 0: fitted to a copy of the data that is moved near 0, because densities move with it.

scikit-learn computes |x - m|^2 / s^2 as |x|^2 - 2 x.m + |m|^2 for diagonal and spherical covariances, and variances as
the mean of x^2 minus m^2. Both lose about eps (|m| / s)^2: a nat at 3e7 standard deviations from 0, and the whole
covariance beyond. The density of X - c at x - c is that of X at x, and so are the steps of its fit.
"""

import copy
import warnings
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.mixture import BayesianGaussianMixture, GaussianMixture

from genmem.errors import ModelError
from genmem.models.inside import as_plain, inside, plain_class
from genmem.models.torch_gmm import TorchGaussianMixture

FloatArray = NDArray[np.float64]
MIXTURES = (GaussianMixture, BayesianGaussianMixture, TorchGaussianMixture)
EXPANDED = ("diag", "spherical", "tied")  # their scores or covariances are differences of squares
EPSILON = float(np.finfo(np.float64).eps)
NEGLIGIBLE = 1e-8  # nats: below it a mixture is fitted where the data are
WRONG = 1e-3  # nats: above it a model that holds a mixture is refused
# What is left in moved data comes from components of single, distant examples: told above the first, refused above the
# second, nats.
TOLD, WRONG_MOVED = 1e-2, 1.0
_LOCATIONS = ("means_init", "means_", "mean_prior", "mean_prior_")  # what moves with the data
_PROBED = 8  # components


def is_mixture(model: Any) -> bool:
    """Return whether a model is a Gaussian mixture that fits and scores as its class does."""
    return plain_class(model, MIXTURES) is not None


def centre_of(X: FloatArray) -> FloatArray:
    """Return the lower median of each column, (d,): a value of the data, from which those near it differ exactly."""
    middle = (len(X) - 1) // 2
    return np.asarray(np.partition(X, middle, axis=0)[middle])


def is_far(model: Any, X: FloatArray) -> bool:
    """Return whether one Gaussian of X would lose `NEGLIGIBLE` or more to rounding, in a mixture of this class."""
    mean, spread = X.mean(axis=0), X.var(axis=0) + getattr(model, "reg_covar", 0.0)
    if model.covariance_type == "tied" and X.shape[1] > 1 and EPSILON * float(mean @ mean) > 1e-4 * NEGLIGIBLE:
        spread = np.maximum(np.linalg.eigvalsh(np.cov(X.T, bias=True)).min(), 0) + getattr(model, "reg_covar", 0.0)
    with np.errstate(divide="ignore", invalid="ignore"):
        ratio = float(np.nan_to_num(np.square(mean) / spread, posinf=1e300).max())
    return EPSILON * (ratio if _is_expanded(model) else np.sqrt(ratio)) > NEGLIGIBLE


def _is_expanded(model: Any) -> bool:
    return not isinstance(model, TorchGaussianMixture) and model.covariance_type in EXPANDED


def moved(model: Any, by: FloatArray) -> Any:
    """Return a copy of a mixture, fitted or not, with everything that is a location moved by (d,)."""
    copied = copy.copy(model)
    for name in _LOCATIONS:
        value = getattr(copied, name, None)
        if value is not None and np.shape(value)[-1:] == by.shape:
            setattr(copied, name, np.asarray(value, np.float64) + by)
    return copied


def rounding_of(fitted: Any) -> float:
    """Return the error of log p near the means of a fitted mixture, nats: by comparison with a copy moved to 0.

    `fitted` may be of a subclass: what is compared is the arithmetic of the class.
    """
    kind = next(kind for kind in MIXTURES if isinstance(fitted, kind))
    plain = as_plain(fitted, kind)
    errors = [0.1 * _lost_by_squares(plain)]  # luck may hide an error at the points below, or within the covariances
    for mean, spread in zip(plain.means_[:_PROBED], _spreads(plain)[:_PROBED], strict=True):
        points = spread * np.linspace(-1.31, 1.73, 5)[:, None]
        with np.errstate(all="ignore"):
            there, here = plain.score_samples(points + mean), moved(plain, -mean).score_samples(points + mean - mean)
        errors.append(float(np.nan_to_num(np.abs(there - here), nan=np.inf).max()))
    return max(errors)


def _lost_by_squares(fitted: Any) -> float:
    """Return the bound on the error of differences of squares, nats: eps |m|^2 / s^2; 0 if there are none."""
    if not _is_expanded(fitted):
        return 0.0
    if fitted.covariance_type == "tied":
        least = max(float(np.linalg.eigvalsh(fitted.covariances_)[0]), 1e-300)
        return EPSILON * float(np.square(fitted.means_).sum(axis=1).max()) / least
    return EPSILON * float(np.square(fitted.means_ / _spreads(fitted)).max())


def _spreads(fitted: Any) -> FloatArray:
    """Return the standard deviations of each component in each column, (k, d)."""
    k, d = fitted.means_.shape
    covariances = np.asarray(fitted.covariances_)
    if fitted.covariance_type in ("full", "tied"):
        covariances = covariances.diagonal(axis1=-2, axis2=-1)
    elif fitted.covariance_type == "spherical":
        covariances = covariances[:, None]
    return np.asarray(np.sqrt(np.broadcast_to(covariances, (k, d))))


def refuse_rounding(fitted: Any) -> None:
    """Refuse a fitted model if a Gaussian mixture that it is or holds loses too much to rounding, or tell how much.

    Raises:
        ModelError: one does; the message says by how much.
    """
    most = WRONG_MOVED if is_mixture(fitted) else WRONG
    for mixture in (one for kind in MIXTURES for one in inside(fitted, kind)):
        error = rounding_of(mixture) if hasattr(mixture, "means_") else 0.0
        if most >= error > TOLD:
            warnings.warn(
                f"Rounding changes log p of single examples far from all others by about {error:.2g} nats: each has a "
                "component of its own, of hardly any variance. A larger reg_covar, or fewer components, avoids it.",
                stacklevel=2,
            )
        if error > most:
            name = type(fitted).__name__
            held = "" if mixture is fitted else f" in a {type(mixture).__name__} that {name} holds"
            raise ModelError(
                expected="a Gaussian mixture whose log p float64 can compute",
                got=f"log p that rounding changes by {error:.2g} nats{held}: its means are too far from 0 for its "
                "covariances",
                do="Subtract an offset from the columns, for example their mean; or use a TorchGaussianMixture, "
                "which takes differences first.",
            )


@dataclass(eq=False)
class Moved:
    """A mixture that was fitted to X - centre, as a density of X."""

    mixture: Any
    centre: FloatArray
    random_state: Any = None

    def score_samples(self, X: Any) -> FloatArray:
        """Return log p of each row: (n,), nats."""
        return np.asarray(self.mixture.score_samples(np.asarray(X, np.float64) - self.centre))

    def sample(self, n_samples: int = 1) -> FloatArray:
        """Return draws: (n_samples, d)."""
        seeded = copy.copy(self.mixture)
        seeded.random_state = self.random_state
        drawn = seeded.sample(n_samples)
        return np.asarray(drawn[0] if isinstance(drawn, tuple) else drawn) + self.centre


def fitted_mixture(unfitted: Any, X: FloatArray) -> Any:
    """Return a mixture fitted to X, (n, d) float64, or to a moved copy if it would lose `NEGLIGIBLE` nats otherwise."""
    if not is_far(unfitted, X):
        found = copy.copy(unfitted).fit(X)
        if rounding_of(found) <= NEGLIGIBLE:
            return found
    centre = centre_of(X)
    return Moved(moved(unfitted, -centre).fit(X - centre), centre, unfitted.random_state)
