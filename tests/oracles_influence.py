"""Influence the slow, obvious way: refit without each example in turn and look at the loss of every query."""

import math
from decimal import Decimal, localcontext

import numpy as np

PI = Decimal("3.1415926535897932384626433832795028841972")


def refit_influence(log_prob, X, Z):
    """Return IF(x_i, z) = log p(z; all) - log p(z; without i), (n, m), by n refits.

    `log_prob(X, Z)` fits on X and returns (m,). Equal infinite densities before and after (several training
    examples on the query) have no difference: there k-NN's ratio of radii is 1, and log((n-1)/n) is left. NaN where
    the query is impossible before and after.
    """
    n = len(X)
    everyone = log_prob(X, Z)
    out = np.empty((n, len(Z)))
    for i in range(n):
        without = log_prob(np.delete(X, i, axis=0), Z)
        for j, (before, after) in enumerate(zip(everyone, without, strict=True)):
            if before == after and math.isinf(before):
                out[i, j] = math.log((n - 1) / n) if before > 0 else math.nan
            else:
                out[i, j] = before - after
    return out


def knn_log_prob(k):
    def log_prob(X, Z):
        n, d = X.shape
        volume = math.pi ** (d / 2) / math.gamma(d / 2 + 1)
        out = []
        for z in Z:
            radius = sorted(math.dist(x, z) for x in X)[k - 1]
            out.append(math.inf if radius == 0 else math.log(k / (n * volume)) - d * math.log(radius))
        return np.array(out)

    return log_prob


def kde_log_prob(bandwidth):
    """`bandwidth` is a number, or a function of (n, d). In 40 digits: far from all examples float64 has no decimals."""

    def log_prob(X, Z):
        n, d = X.shape
        s = Decimal(bandwidth(n, d) if callable(bandwidth) else bandwidth)
        with localcontext(prec=40):
            constant = Decimal(n).ln() + d * s.ln() + Decimal(d / 2) * (2 * PI).ln()
            return np.array([_log_sum_exp(-_square(x, z) / (2 * s * s) for x in X) - constant for z in Z])

    return log_prob


def _square(x, z):
    return sum((Decimal(float(a)) - Decimal(float(b))) ** 2 for a, b in zip(x, z, strict=True))


def _log_sum_exp(exponents):
    exponents = list(exponents)
    top = max(exponents)
    return top + sum((e - top).exp() for e in exponents).ln()


def spherical_influence(X, components, Z, query_components):
    """Assignments fixed: weights, means and variances of the components anew without each example in turn."""

    def log_prob(X, components):
        n, d = X.shape
        out = []
        for z, c in zip(Z, query_components, strict=True):
            own = X[components == c]
            mean = own.sum(axis=0) / len(own)
            variance = ((own - mean) ** 2).sum() / (len(own) * d)
            normal = -d / 2 * math.log(2 * math.pi * variance) - ((z - mean) ** 2).sum() / (2 * variance)
            out.append(math.log(len(own) / n) + normal)
        return np.array(out)

    everyone = log_prob(X, components)
    refits = [log_prob(np.delete(X, i, axis=0), np.delete(components, i)) for i in range(len(X))]
    return np.array([everyone - without for without in refits])
