"""Exact leave-one-out against 50 digits: data that are shifted, scaled and duplicated."""

import math

import mpmath
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.mixture import GaussianMixture
from sklearn.neighbors import KernelDensity

import genmem
from genmem.models.torch_gmm import TorchGaussianMixture

N = 10


class Named(GaussianMixture):
    """A subclass with nothing but a name."""


def rows_of(seed, offset, scale, duplicated):
    rows = np.round(np.random.default_rng(seed).normal(size=(N, 2)) * 2**20) / 2**20
    if duplicated:
        rows[-1] = rows[0]
    return rows * scale + offset


def exact(value):
    return mpmath.mpf(float(value))


def gaussian_log_p(rows, z, regular, spherical):
    columns = [[exact(v) for v in column] for column in rows.T]
    means = [mpmath.fsum(c) / len(c) for c in columns]
    variances = [
        mpmath.fsum((v - m) ** 2 for v in c) / len(c) + exact(regular) for c, m in zip(columns, means, strict=True)
    ]
    if spherical:
        variances = [mpmath.fsum(variances) / len(variances)] * len(variances)
    gaps = [(exact(v) - m) ** 2 / s for v, m, s in zip(z, means, variances, strict=True)]
    return -mpmath.fsum(gaps) / 2 - mpmath.fsum(mpmath.log(2 * mpmath.pi * s) for s in variances) / 2


def kernel_log_p(rows, z, bandwidth):
    h = exact(bandwidth)
    squared = [mpmath.fsum((exact(a) - exact(b)) ** 2 for a, b in zip(z, x, strict=True)) for x in rows]
    total = mpmath.fsum(mpmath.exp(-s / (2 * h**2)) for s in squared)
    return mpmath.log(total / len(rows)) - len(z) * mpmath.log(2 * mpmath.pi * h**2) / 2


def neighbour_log_p(rows, z, k):
    squared = sorted(mpmath.fsum((exact(a) - exact(b)) ** 2 for a, b in zip(z, x, strict=True)) for x in rows)
    return mpmath.log(mpmath.mpf(k) / len(rows) / (mpmath.pi * squared[k - 1]))


def scores_by_mpmath(log_p, rows):
    with mpmath.workdps(50):
        return np.array([float(log_p(rows, z) - log_p(np.delete(rows, i, 0), z)) for i, z in enumerate(rows)])


CASES = {
    "offset": st.sampled_from([0.0, 2.0**20, -(2.0**25), 2.0**30]),
    "scale": st.sampled_from([1.0, 2.0**-10, 2.0**30]),
    "seed": st.integers(0, 5),
    "duplicated": st.booleans(),
}


@pytest.mark.slow
@settings(max_examples=15)
@given(kind=st.sampled_from(["diag", "spherical"]), **CASES)
def test_one_gaussian(kind, seed, offset, scale, duplicated):
    rows = rows_of(seed, offset, scale, duplicated)
    right = scores_by_mpmath(lambda T, z: gaussian_log_p(T, z, 1e-6, kind == "spherical"), rows)
    models = [make(covariance_type=kind, random_state=0) for make in (GaussianMixture, Named)]
    for model in [*models, models[0].fit(rows - offset)][: 2 + (offset == 0)]:
        np.testing.assert_allclose(genmem.leave_one_out(model, rows).score, right, atol=1e-6, rtol=1e-6)
        np.testing.assert_allclose(genmem.self_influence(model, rows), right, atol=1e-6, rtol=1e-6)
    if kind == "diag":
        found = genmem.leave_one_out(TorchGaussianMixture(covariance_type=kind), rows).score
        np.testing.assert_allclose(found, right, atol=1e-6, rtol=1e-6)


@pytest.mark.slow
@settings(max_examples=15)
@given(**CASES)
def test_kernels_and_neighbours(seed, offset, scale, duplicated):
    rows = rows_of(seed, offset, scale, duplicated)
    right = scores_by_mpmath(lambda T, z: kernel_log_p(T, z, 0.5 * scale), rows)
    np.testing.assert_allclose(genmem.leave_one_out(KernelDensity(bandwidth=0.5 * scale), rows).score, right, atol=1e-8)
    right = scores_by_mpmath(lambda T, z: neighbour_log_p(T, z, 4), rows)
    np.testing.assert_allclose(genmem.leave_one_out(genmem.KNNDensity(k=4), rows).score, right, atol=1e-8)
    assert math.isfinite(right.sum())


@pytest.mark.parametrize("kind", ["full", "tied", "diag", "spherical"])
def test_a_fitted_mixture_moves_with_the_data(kind):
    rows = rows_of(0, 0.0, 1.0, False)
    near = genmem.leave_one_out(GaussianMixture(covariance_type=kind, random_state=0), rows).score
    far = GaussianMixture(covariance_type=kind, random_state=0).fit(rows + 2.0**20)
    np.testing.assert_allclose(genmem.leave_one_out(far, rows + 2.0**20).score, near, atol=1e-7)
    influence = genmem.influence_scores(far, rows + 2.0**20, rows[:3] + 2.0**20)
    np.testing.assert_allclose(
        influence, genmem.influence_scores(GaussianMixture(covariance_type=kind), rows, rows[:3]), atol=1e-7
    )
