"""Densities and leave-one-out scores the slow way: one pair, one refit at a time."""

import numpy as np
from scipy.special import logsumexp
from scipy.stats import multivariate_normal
from sklearn.base import clone


def log_kernel_by_pair(r, kernel):
    """Return log K(r) of one distance in bandwidths."""
    if kernel == "gaussian":
        return -(r**2) / 2
    if kernel == "exponential":
        return -r
    if r >= 1:
        return -np.inf
    value = {"tophat": 1.0, "epanechnikov": 1 - r**2, "linear": 1 - r, "cosine": np.cos(np.pi * r / 2)}[kernel]
    return np.log(value)


def log_kernel_sums_by_loop(queries, base, bandwidth, kernel="gaussian", without_self=False):
    """Return log sum_j K(|x_i - x_j| / h), each distance from a difference."""
    queries, base = np.asarray(queries, np.float64), np.asarray(base, np.float64)
    sums = []
    for i, query in enumerate(queries):
        r = np.sqrt(np.square(query - base).sum(axis=1)) / bandwidth
        logs = [log_kernel_by_pair(x, kernel) for j, x in enumerate(r) if not (without_self and j == i)]
        sums.append(logsumexp(logs) if np.max(logs) > -np.inf else -np.inf)
    return np.array(sums)


def leave_one_out_by_refits(model, X):
    """Return log_prob_in and log_prob_out (n,): one fit with all examples and n without one."""
    log_in = clone(model).fit(X).score_samples(X)
    log_out = [
        clone(model).fit(np.delete(X, i, axis=0)).score_samples(np.asarray(X)[i : i + 1])[0] for i in range(len(X))
    ]
    return np.asarray(log_in), np.array(log_out)


class NeighboursByLoop:
    """The k-nearest-neighbour density, all distances sorted."""

    def __init__(self, k=10):
        self.k = k

    def get_params(self, deep=True):
        return {"k": self.k}

    def fit(self, X):
        self.X = np.asarray(X, np.float64)
        return self

    def score_samples(self, X):
        from math import lgamma, log, pi

        n, d = self.X.shape
        log_ball = d / 2 * log(pi) - lgamma(d / 2 + 1)
        values = []
        for x in np.asarray(X, np.float64):
            radius = np.sort(np.sqrt(np.square(x - self.X).sum(axis=1)))[self.k - 1]
            values.append(np.inf if radius == 0 else log(self.k) - log(n) - log_ball - d * log(radius))
        return np.array(values)


def gaussian_without_each(X, reg_covar):
    """Return log_prob_out (n,) of the maximum-likelihood Gaussian, from its formula."""
    log_out = []
    for i in range(len(X)):
        kept = np.delete(X, i, axis=0)
        covariance = np.cov(kept.T, bias=True).reshape(X.shape[1], X.shape[1]) + reg_covar * np.eye(X.shape[1])
        log_out.append(multivariate_normal(kept.mean(axis=0), covariance).logpdf(X[i]))
    return np.array(log_out)


def em_by_loop(X, weights, means, covariances, reg_covar, steps):
    """Return the mixture (full covariances) after so many steps of expectation-maximisation."""
    n, d = X.shape
    for _ in range(steps):
        joint = np.array(
            [
                np.log(w) + multivariate_normal(m, c).logpdf(X)
                for w, m, c in zip(weights, means, covariances, strict=True)
            ]
        ).T
        shares = np.exp(joint - logsumexp(joint, axis=1, keepdims=True))
        sizes = shares.sum(axis=0)
        weights, means = sizes / n, (shares.T @ X) / sizes[:, None]
        covariances = [
            sum(s * np.outer(x - m, x - m) for s, x in zip(shares[:, j], X, strict=True)) / sizes[j]
            + reg_covar * np.eye(d)
            for j, m in enumerate(means)
        ]
    return weights, means, np.array(covariances)


# --- leaving out one example at a time


def brute_force_leave_one_out(make, X):
    """Return log p(x_i) of the model of all examples less that of the model without x_i, refitted n times: (n,)."""
    whole = make().fit(X).score_samples(X)
    return np.array(
        [whole[i] - make().fit(np.delete(X, i, axis=0)).score_samples(X[i : i + 1])[0] for i in range(len(X))]
    )
