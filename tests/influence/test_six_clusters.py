"""The closed form of separated mixtures against refits; the figure of docs/closed-form-influence.md comes out again."""

import re
import sys
from pathlib import Path

import numpy as np
import pytest
from oracles_influence import spherical_influence
from sklearn.mixture import GaussianMixture

from genmem import influence_scores, self_influence

ROOT = Path(__file__).parents[2]
DRAWS = 40


@pytest.fixture(scope="module")
def bench():
    import six_clusters

    return six_clusters


@pytest.fixture(scope="module")
def means(bench):
    return bench.cluster_means(DRAWS, first=10_000)  # not the draws of the page


def table():
    """Return means and standard deviations of the page, (3, 6) each."""
    rows = re.findall(
        r"^\| (?:k-NN|kernels|mixture).*$", (ROOT / "docs" / "closed-form-influence.md").read_text(), re.M
    )
    cells = [re.findall(r"(\d+\.\d+)\**\s\((\d+\.\d+)\)", row) for row in rows]
    return np.moveaxis(np.array(cells, float), 2, 0)


def test_the_table_of_the_page_comes_out_again(means):
    expected, spread = table()
    assert expected.shape == (3, 6)
    error = spread * (1 / DRAWS + 1 / 400) ** 0.5
    assert (np.abs(means.mean(axis=0) - expected) < 4 * error + 0.001).all()


def test_the_published_behaviour_shows(means):
    knn, kernels, mixture = means.mean(axis=0)
    assert knn.argmax() == 4 and knn[4] > 15 * np.delete(knn, 4).max()  # exactly k points
    assert kernels.argmax() == 5 and mixture.argmax() == 5


def test_em_finds_what_the_closed_form_says_and_far_points_matter(bench):
    X = bench.draw(3)
    closed = bench.own_influence(X)[2]
    np.testing.assert_allclose(bench.self_influence(bench.fitted_mixture(), X), closed, atol=1e-9)
    for c in range(6):
        own = bench.CLUSTER == c
        distance = np.linalg.norm(X[own] - X[own].mean(axis=0), axis=1)
        assert (np.argsort(distance) == np.argsort(closed[own])).all()


def clusters(seed, d, far, sizes=(6, 9, 13)):
    rng = np.random.default_rng(seed)
    own = rng.permutation(np.repeat(np.arange(len(sizes)), sizes))
    X = rng.normal(size=(len(own), d)) * (1 + own[:, None] / 2) + far * own[:, None]
    asked = np.arange(len(sizes)).repeat(2)
    return X, own, rng.normal(size=(len(asked), d)) + far * asked[:, None], asked


@pytest.mark.parametrize("d", [1, 2, 7, 20])
@pytest.mark.parametrize("seed", range(3))
def test_the_closed_form_equals_refits_of_its_moments(bench, seed, d):
    X, own, Z, asked = clusters(seed, d, far=3.0)  # assignments are given, so the components may overlap
    for queries, of in ((Z, asked), (X, own)):
        found = bench.spherical_mixture_influence(X, own, queries, of)
        np.testing.assert_allclose(found, spherical_influence(X, own, queries, of), rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("d", [1, 3])
def test_em_of_components_far_apart_equals_the_closed_form(bench, d):
    X, own, Z, asked = clusters(4, d, far=60.0)
    model = GaussianMixture(3, covariance_type="spherical", reg_covar=0, random_state=0)
    closed = bench.spherical_mixture_influence(X, own, Z, asked)
    np.testing.assert_allclose(influence_scores(model, X, Z), closed, rtol=1e-9, atol=1e-9)
    closed = bench.spherical_mixture_influence(X, own, X, own).diagonal()
    np.testing.assert_allclose(self_influence(model, X), closed, rtol=1e-9, atol=1e-9)


def test_first_order_form_misses_the_square_of_one_over_n(bench):
    errors = []
    for n in (40, 80, 160):
        v = np.random.default_rng(0).normal(size=(10, 3))
        X = np.vstack([np.tile(v, (n // 10, 1)), np.tile(v, (n // 10, 1)) * 0.5 + 90])  # the same shape at every n
        asked = X, np.repeat([0, 1], n), np.vstack([v, v + 90]), np.repeat([0, 1], 10)
        gap = bench.spherical_mixture_first_order(*asked) - bench.spherical_mixture_influence(*asked)
        errors.append(np.abs(gap).max())
    assert errors[0] / errors[1] == pytest.approx(4, rel=0.15) and errors[1] / errors[2] == pytest.approx(4, rel=0.1)


def test_first_order_form_of_self_influence_is_the_published_one(bench):
    X, own, _, _ = clusters(1, 4, far=50.0, sizes=(30, 20))
    d, N = 4, 50
    for c, n in ((0, 30), (1, 20)):
        v = X[own == c] - X[own == c].mean(axis=0)
        squares = np.square(v).sum(axis=1)
        variance = squares.sum() / (n * d)
        published = (d + 2) / (2 * n) + squares**2 / (2 * n * d * variance**2) - 1 / N
        found = bench.spherical_mixture_first_order(X, own, X, own).diagonal()[own == c]
        np.testing.assert_allclose(found, published, rtol=1e-10, atol=1e-10)


@pytest.mark.slow
def test_the_picture_is_written(bench, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["six_clusters.py", "--draws", "2", "--picture", str(tmp_path / "six.html")])
    bench.main()
    assert "self-influence" in (tmp_path / "six.html").read_text()
    assert "2 draws" in capsys.readouterr().out
