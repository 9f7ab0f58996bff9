"""The k-nearest-neighbour density against a loop; its samples; what it refuses."""

import numpy as np
import pytest
from oracles_densities import NeighboursByLoop

from genmem.errors import DataError, ModelError
from genmem.models import KNNDensity
from genmem.protocols import draw


@pytest.fixture
def rng():
    return np.random.default_rng(0)


@pytest.mark.parametrize("k", [1, 3, 20])
@pytest.mark.parametrize("d", [1, 4, 20])
def test_neighbour_density_equals_the_loop(rng, k, d):
    X, Z = rng.normal(size=(60, d)), rng.normal(size=(30, d))
    X[10:13] = X[13]
    Z[0], Z[1] = X[0], X[10]
    expected = NeighboursByLoop(k).fit(X).score_samples(Z)
    np.testing.assert_allclose(KNNDensity(k=k).fit(X).score_samples(Z), expected, rtol=1e-10, atol=1e-10)


def test_k_copies_have_infinite_density_and_one_less_does_not():
    X = np.array([[0.0], [0.0], [0.0], [5.0], [6.0]])
    assert KNNDensity(k=3).fit(X).score_samples(X[:1])[0] == np.inf
    assert np.isfinite(KNNDensity(k=4).fit(X).score_samples(X)).all()
    assert (KNNDensity(k=1).fit(X).score_samples(X) == np.inf).all()


def test_neighbours_sample_around_examples():
    X = np.array([[0.0, 0.0], [0.0, 2.0], [100.0, 0.0], [100.0, 1.0]])
    samples = draw(KNNDensity(k=2).fit(X), 2000, seed=0)
    gap = np.linalg.norm(samples[:, None] - X, axis=2).min(axis=1)
    left = samples[:, 0] < 50
    assert 0.4 < left.mean() < 0.6 and gap[left].max() <= 2 and gap[~left].max() <= 1
    at_first = np.linalg.norm(draw(KNNDensity(k=2).fit(X[:2]), 4000, seed=1) - X[0], axis=1)
    assert 0.4 < (at_first <= 2).mean()  # a disc of radius 2 around each of the two
    copies = np.zeros((5, 3))
    np.testing.assert_array_equal(draw(KNNDensity(k=3).fit(copies), 4, seed=0), np.zeros((4, 3)))


def test_fewer_examples_than_neighbours_are_refused():
    with pytest.raises(DataError, match="at least k=10 examples; got 9"):
        KNNDensity().fit(np.zeros((9, 2)))
    for k in (0, 2.5, True, "3"):
        with pytest.raises(ModelError, match="k to be"):
            KNNDensity(k=k).fit(np.zeros((9, 2)))
