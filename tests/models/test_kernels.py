"""Kernel sums in tiles, and the densities of vectors: k-NN, KDE and mixtures."""

import math

import numpy as np
import pytest
import torch
from contract import check_density, check_normalised
from oracles_densities import log_kernel_sums_by_loop
from scipy import integrate, stats
from scipy.linalg import hadamard
from sklearn.mixture import GaussianMixture
from sklearn.neighbors import KernelDensity

from genmem.errors import DataError, ModelError
from genmem.models import KNNDensity, TorchGaussianMixture, TorchKernelDensity, kernels
from genmem.models.kernel_shapes import KERNELS, kernel_draws, log_normaliser
from genmem.models.kernels import (
    log_kernel_sums,
    log_kernel_sums_without_self,
    neighbourhoods,
    squared_distances,
)
from genmem.models.torch_kde import bandwidth_for, choose_bandwidth
from genmem.protocols import draw

DEVICES = ["cpu", pytest.param("cuda", marks=pytest.mark.gpu)]
CLOSE = {"rtol": 1e-11, "atol": 2e-11}


@pytest.fixture
def rng():
    return np.random.default_rng(0)


def compare(X, bandwidth, kernel="gaussian", block=32, device="cpu"):
    settings = {"kernel": kernel, "block": block, "device": device}
    with_self = log_kernel_sums(X, X, bandwidth, **settings)
    np.testing.assert_allclose(with_self, log_kernel_sums_by_loop(X, X, bandwidth, kernel), **CLOSE)
    without = log_kernel_sums_without_self(X, bandwidth, **settings)
    np.testing.assert_allclose(without, log_kernel_sums_by_loop(X, X, bandwidth, kernel, without_self=True), **CLOSE)
    return without


# --- sums in tiles


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("kernel", KERNELS)
@pytest.mark.parametrize("d", [1, 2, 7, 20])
def test_sums_equal_the_loop(rng, kernel, d, device):
    X = rng.normal(size=(101, d))
    X[40:44] = X[44]  # copies
    X[7] += 30  # on its own
    for bandwidth in (1.5 * math.sqrt(d), 0.05):
        compare(X, bandwidth, kernel, device=device)


@pytest.mark.parametrize("dtype", ["uint8", "int16", "int64", "float16", "float32", ">f8", "bool", "uint32"])
def test_any_dtype_is_measured_in_float64(rng, dtype):
    X = rng.integers(0, 2 if dtype == "bool" else 200, (70, 5)).astype(dtype)
    compare(X, 3.0)


def test_queries_against_another_base(rng):
    Q, B = rng.normal(size=(45, 3)) * 2, rng.normal(size=(130, 3))
    for block in (9, 50, 1000):
        found = log_kernel_sums(Q, B, 0.3, block=block, device="cpu")
        np.testing.assert_allclose(found, log_kernel_sums_by_loop(Q, B, 0.3), **CLOSE)


def test_tiles_do_not_change_the_sums(rng):
    X = rng.normal(size=(100, 4))
    whole = log_kernel_sums_without_self(X, 0.4, block=100, device="cpu")
    for block in (3, 13, 64, None):
        np.testing.assert_allclose(log_kernel_sums_without_self(X, 0.4, block=block, device="cpu"), whole, atol=1e-12)


@pytest.mark.parametrize("bandwidth", [1.0, 1e-3])
def test_far_offsets_and_clusters_cost_no_accuracy(rng, bandwidth):
    X = rng.normal(size=(120, 3))
    near = compare(X, bandwidth)
    moved = np.round(X * 2**20) / 2**20 + 2.0**30  # exactly representable there
    np.testing.assert_allclose(
        log_kernel_sums_without_self(moved, bandwidth, block=32, device="cpu"),
        log_kernel_sums_by_loop(moved - 2.0**30, moved - 2.0**30, bandwidth, without_self=True),
        **CLOSE,
    )
    apart = X.copy()
    apart[::2] += 2.0**24
    compare(apart, bandwidth)
    compare(apart, bandwidth, block=7)
    assert np.isfinite(near).all()


def test_an_outlier_does_not_spoil_its_tile(rng):
    X = rng.normal(size=(100, 3))
    X[3] = 1e12
    sums = compare(X, 0.5, block=128)
    assert sums[3] < -1e23


def test_near_duplicates_are_measured_again(rng, monkeypatch):
    X = rng.normal(size=(90, 50)) * 100
    X[10] = X[11] + 1e-7
    bandwidth = 1e-7
    compare(X, bandwidth, block=64)
    monkeypatch.setattr(kernels._Pairs, "_measure_again", lambda *_: None)
    with pytest.raises(AssertionError):  # it is this that keeps them right
        compare(X, bandwidth, block=64)


def test_copies_are_at_distance_zero_whatever_the_scale(rng):
    X = np.repeat(rng.normal(size=(20, 6)) * 1e5 + 1e8, 3, axis=0)
    sums = log_kernel_sums_without_self(X, 1e-3, block=16, device="cpu")
    np.testing.assert_allclose(sums, math.log(2), atol=1e-11)


def test_sums_that_underflow_stay_finite():
    X = np.array([[0.0], [1e3], [1e6], [1e9], [1e9 + 40]])
    sums = compare(X, 1.0)
    assert np.isfinite(sums).all() and sums[3] == pytest.approx(-800)
    assert sums[2] == pytest.approx(-((1e6 - 1e3) ** 2) / 2, rel=1e-12)
    assert math.exp(sums[3]) == 0


def test_dense_and_isolated_rows_share_a_tile(rng):
    X = rng.normal(size=(60, 2)) * 1e-3
    X[:4] = [[50, 0], [0, 90], [40, 40], [1, 300]]  # hundreds to ten thousands of nats below the others
    sums = compare(X, 1.0, block=64)
    assert np.ptp(sums) > 600


def test_tiles_too_far_apart_are_passed_over(rng, monkeypatch):
    X = np.concatenate([rng.normal(size=(64, 2)), rng.normal(size=(64, 2)) + 1000])
    made = []
    original = kernels._Pairs.log_kernels

    def counted(self, left, right):
        made.append((len(left.rows), len(right.rows)))
        return original(self, left, right)

    monkeypatch.setattr(kernels._Pairs, "log_kernels", counted)
    compare(X, 1.0, block=64)
    assert len(made) == 2 + 2  # queries against their own side, and the two diagonal tiles


@pytest.mark.parametrize("side", [1, -1])
def test_a_tile_negligible_to_its_rows_may_be_all_its_columns_have(rng, side):
    # The far rows are nearer to the cluster (113) than to each other (141); the last column cuts the tiles.
    far = np.column_stack([25 * hadamard(16), np.full(16, side * 53)])
    X = np.concatenate([rng.normal(size=(16, 17)) * 0.1, far])
    sums = compare(X, 1.0, block=16)
    assert -6800 < sums[16:].min() and sums[16:].max() < -6000


@pytest.mark.parametrize("kernel", ["gaussian", "linear"])
def test_memory_is_a_few_tiles_each_pair_once(rng, monkeypatch, kernel):
    X = rng.normal(size=(500, 3))
    sizes = []
    original = kernels._Pairs.log_kernels

    def watched(self, left, right):
        found = original(self, left, right)
        sizes.append(found.numel())
        return found

    monkeypatch.setattr(kernels._Pairs, "log_kernels", watched)
    log_kernel_sums_without_self(X, 5.0, kernel=kernel, block=50, device="cpu")
    assert max(sizes) == 50 * 50
    assert sum(sizes) == 500 * 500 / 2 + 10 * 50 * 50 / 2


def test_neighbourhoods_are_a_partition_into_whole_tiles(rng):
    X = rng.normal(size=(1000, 2))
    tiles = neighbourhoods(X, 64)
    assert sorted(np.concatenate(tiles)) == list(range(1000))
    assert sorted(map(len, tiles))[1:] == [64] * 15
    assert np.mean([np.ptp(X[tile], axis=0).prod() for tile in tiles]) < np.ptp(X, axis=0).prod() / 8
    assert [len(tile) for tile in neighbourhoods(np.zeros((9, 2)), 4)] == [4, 4, 1]


@pytest.mark.parametrize("scale", [1e-9, 1.0, 1e9])
def test_squared_distances_are_right_for_near_pairs_too(rng, scale):
    X = rng.normal(size=(80, 30))
    X[5] = X[6] * (1 + 1e-9)
    X = (X + 1000) * scale
    exact = np.square(X[:20, None] - X).sum(axis=2)
    found = squared_distances(X[:20], X, device="cpu").numpy()
    np.testing.assert_allclose(found, exact, rtol=1e-6)
    assert 0 < found[5, 6] < 1e-10 * scale**2


@pytest.mark.parametrize(
    ("X", "message"),
    [
        (np.zeros((4, 2, 2)), "Flatten images"),
        (np.zeros(4), r"\(n, 1\)"),
        (np.array([["a"]]), "of numbers"),
        (np.empty((0, 2)), "of numbers"),
        (np.array([[0.0], [np.nan]]), "first in row 1"),
        (np.array([[0.0], [np.inf]]), "first in row 1"),
        (np.array([[1e200]]), "below 1e"),
    ],
)
def test_what_is_no_matrix_of_numbers_is_refused(X, message):
    for model in (TorchKernelDensity(), KNNDensity(k=1), TorchGaussianMixture()):
        with pytest.raises(DataError, match=message):
            model.fit(X)


def test_settings_out_of_range_are_refused():
    X = np.zeros((3, 1))
    for settings in ({"bandwidth": 0}, {"bandwidth": math.nan}, {"bandwidth": True}, {"kernel": "box"}, {"block": 0}):
        with pytest.raises(ModelError):
            log_kernel_sums(X, X, **{"bandwidth": 1.0, "device": "cpu"} | settings)
        with pytest.raises(ModelError):
            TorchKernelDensity(**settings).fit(X)
    with pytest.raises(ModelError, match="scott"):
        TorchKernelDensity(bandwidth="scots").fit(X)
    with pytest.raises(DataError, match="wider bandwidth"):
        log_kernel_sums([[1.0]], [[1.0]], 1e-200, device="cpu")
    with pytest.raises(DataError, match="same columns"):
        TorchKernelDensity().fit(X).score_samples(np.zeros((2, 5)))
    with pytest.raises(ModelError, match="an unfitted one"):
        TorchKernelDensity().score_samples(X)


# --- kernel shapes


@pytest.mark.parametrize("kernel", KERNELS)
@pytest.mark.parametrize("d", [1, 2, 5, 40])
def test_normalisers_equal_quadrature(kernel, d):
    def mass(r):
        return math.exp(float(KERNELS[kernel](torch.tensor([r], dtype=torch.float64)))) * r ** (d - 1)

    radial, _ = integrate.quad(
        mass, 0, 1 if kernel not in ("gaussian", "exponential") else 150, limit=500, points=[0.5]
    )
    sphere = math.log(2) + d / 2 * math.log(math.pi) - math.lgamma(d / 2)
    expected = math.log(radial) + sphere + d * math.log(0.7)
    assert log_normaliser(kernel, 0.7, d) == pytest.approx(expected, abs=1e-8)


@pytest.mark.parametrize("kernel", KERNELS)
@pytest.mark.parametrize("d", [1, 3])
def test_draws_follow_the_kernel(rng, kernel, d):
    radii = np.linalg.norm(kernel_draws(kernel, 4000, d, rng), axis=1)
    grid = np.linspace(0, max(1.0, radii.max() * 1.5), 4001)
    mass = np.exp(KERNELS[kernel](torch.from_numpy(grid.copy())).numpy()) * grid ** (d - 1)
    cdf = integrate.cumulative_simpson(mass, x=grid, initial=0)
    assert stats.kstest(radii, lambda r: np.interp(r, grid, cdf / cdf[-1])).pvalue > 1e-3


# --- kernel densities


@pytest.mark.parametrize("kernel", KERNELS)
@pytest.mark.parametrize("bandwidth", [0.8, "scott", "silverman"])
def test_kernel_density_equals_scikit_learn(rng, kernel, bandwidth):
    X, Z = rng.normal(size=(200, 3)), 1.5 * rng.normal(size=(60, 3))
    # Trees of several leaves add and subtract bounds: a billionth is lost there.
    theirs = KernelDensity(bandwidth=bandwidth, kernel=kernel, leaf_size=1000).fit(X)
    ours = TorchKernelDensity(bandwidth=bandwidth, kernel=kernel, device="cpu").fit(X)
    assert ours.bandwidth_ == pytest.approx(theirs.bandwidth_, rel=1e-15)
    np.testing.assert_allclose(ours.score_samples(Z), theirs.score_samples(Z), rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize(
    "model",
    [
        TorchKernelDensity(bandwidth=0.5),
        TorchKernelDensity(bandwidth="scott", kernel="exponential", block=16),
        TorchGaussianMixture(3),
        TorchGaussianMixture(2, covariance_type="diag"),
        KNNDensity(k=5),
        KernelDensity(),
        GaussianMixture(2, random_state=0),
    ],
    ids=lambda model: type(model).__name__,
)
def test_contract(rng, model):
    fitted = check_density(model, rng.normal(size=(60, 3)), tolerance=1e-10)
    assert fitted.score_samples(rng.normal(size=(4, 3)).astype(np.float32)).dtype == np.float64


@pytest.mark.parametrize("d", [1, 2])
@pytest.mark.parametrize(
    "model",
    [
        TorchKernelDensity(bandwidth=0.4),
        TorchKernelDensity(bandwidth=0.7, kernel="epanechnikov"),
        TorchGaussianMixture(3),
        TorchGaussianMixture(3, covariance_type="diag"),
    ],
    ids=str,
)
def test_densities_integrate_to_one(rng, model, d):
    check_normalised(model, rng.normal(size=(50, d)), tolerance=1e-3)


@pytest.mark.parametrize("model", [TorchKernelDensity(bandwidth=0.5), TorchGaussianMixture(2)], ids=str)
def test_samples_agree_with_log_p(rng, model):
    X = np.concatenate([rng.normal(size=(60, 1)) - 3, rng.normal(size=(30, 1)) * 0.5 + 2])
    fitted = model.fit(X)
    grid = np.linspace(-12, 12, 4001)
    cdf = integrate.cumulative_simpson(np.exp(fitted.score_samples(grid[:, None])), x=grid, initial=0)
    samples = draw(fitted, 3000, seed=1)[:, 0]
    assert stats.kstest(samples, lambda x: np.interp(x, grid, cdf)).pvalue > 1e-3


def test_a_full_mixture_samples_its_covariances(rng):
    X = rng.normal(size=(500, 2)) @ [[2.0, 1.5], [0.0, 0.3]] + [5, -5]
    model = TorchGaussianMixture(1).fit(X)
    samples = draw(model, 20_000, seed=0)
    np.testing.assert_allclose(np.cov(samples.T), model.covariances_[0], rtol=0.05)
    np.testing.assert_allclose(samples.mean(axis=0), X.mean(axis=0), atol=0.05)


@pytest.mark.slow
def test_the_bandwidth_chosen_has_the_highest_likelihood(rng):
    X = np.concatenate([rng.normal(size=(150, 2)), rng.normal(size=(150, 2)) * 0.1 + 4])

    def likelihood(bandwidth):
        return log_kernel_sums_by_loop(X, X, bandwidth, without_self=True).mean() - 2 * math.log(bandwidth)

    chosen = choose_bandwidth(X)
    tried = np.exp(np.linspace(-4, 2, 25))
    assert likelihood(chosen) >= max(likelihood(h) for h in tried)
    assert likelihood(chosen) > max(likelihood(chosen * 1.01), likelihood(chosen / 1.01)) - 1e-6
    assert choose_bandwidth(np.concatenate([X, X, X[:7]])) == pytest.approx(chosen, rel=1e-3)  # copies count once
    assert choose_bandwidth(X * 1e6 + 1e7) == pytest.approx(chosen * 1e6, rel=1e-2)
    assert choose_bandwidth(X.reshape(300, 2, 1)) == chosen
    few = choose_bandwidth(X, rows=100, seed=3)
    assert few == choose_bandwidth(X, rows=100, seed=3) and few == pytest.approx(chosen, rel=0.3)


def test_a_bandwidth_needs_two_different_examples():
    with pytest.raises(DataError, match="1 different"):
        choose_bandwidth(np.ones((5, 2)))
    assert choose_bandwidth(np.array([[0.0], [3.0], [3.0]])) == pytest.approx(3.0, rel=1e-6)


def test_bandwidth_rules_are_those_of_scikit_learn():
    X = np.random.default_rng(0).normal(size=(37, 4))
    for rule in ("scott", "silverman"):
        assert bandwidth_for(rule, 37, 4) == pytest.approx(KernelDensity(bandwidth=rule).fit(X).bandwidth_, rel=1e-15)
