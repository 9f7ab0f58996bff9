"""The figure of docs/closed-form-influence.md comes out again with fewer draws, and shows what the page says."""

import importlib.util
import re
import sys
from pathlib import Path

import numpy as np
import pytest

ROOT = Path(__file__).parents[2]
DRAWS = 40


@pytest.fixture(scope="module")
def bench():
    spec = importlib.util.spec_from_file_location("six_clusters", ROOT / "bench" / "six_clusters.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


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


@pytest.mark.slow
def test_the_picture_is_written(bench, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["six_clusters.py", "--draws", "2", "--picture", str(tmp_path / "six.html")])
    bench.main()
    assert "self-influence" in (tmp_path / "six.html").read_text()
    assert "2 draws" in capsys.readouterr().out
