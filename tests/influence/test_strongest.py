"""The strongest proponents and opponents of models without gradients, against the whole matrix of their scores."""

import tracemalloc

import numpy as np
import pytest
from sklearn.mixture import BayesianGaussianMixture, GaussianMixture
from sklearn.neighbors import KernelDensity

from genmem.errors import DataError, ModelError
from genmem.influence import closed_form, influence_scores, top_influences
from genmem.influence.selection import strongest
from genmem.models import KNNDensity, TorchKernelDensity, leave_one_out

MODELS = [
    KernelDensity(bandwidth=0.7),
    KernelDensity(kernel="tophat", bandwidth=1.5),
    TorchKernelDensity(bandwidth="scott"),
    KNNDensity(k=3),
    GaussianMixture(2, random_state=0),
]
RNG = np.random.default_rng(0)
X, Z = RNG.normal(size=(24, 2)), RNG.normal(size=(7, 2))


@pytest.fixture(params=[10**6, 50], ids=["at once", "two queries at a time"])
def parts(request, monkeypatch):
    monkeypatch.setattr(closed_form, "AT_ONCE", request.param)


def expected(scores, k):
    """Of equals the first wins; an opponent is named where fewer than n are as much so."""
    ahead = np.array([sorted(range(len(scores)), key=lambda i: (-c[i], i))[:k] for c in scores.T])
    against = np.array([sorted(range(len(scores)), key=lambda i: (c[i], i)) for c in scores.T])
    named = []
    for column, order in zip(scores.T, against, strict=True):
        least_of_others = column[order[k]] if k < len(order) else np.inf
        named.append([int(i) if column[i] < least_of_others else -1 for i in order[:k]])
    return ahead, np.array(named)


@pytest.mark.parametrize("k", [1, 4, 24])
@pytest.mark.parametrize("model", MODELS, ids=str)
def test_they_are_those_of_the_whole_matrix(model, k, parts):
    told = []
    found = top_influences(model, X, Z, k=k, progress=told.append)
    scores = influence_scores(model, X, Z)
    ahead, against = expected(scores, k)
    np.testing.assert_array_equal(found.proponents, ahead)
    np.testing.assert_allclose(found.proponent_scores, np.take_along_axis(scores.T, ahead, 1), rtol=1e-12)
    np.testing.assert_array_equal(found.opponents, against)
    np.testing.assert_allclose(found.opponent_scores, np.sort(scores.T, 1)[:, :k], rtol=1e-12)
    assert (found.scale, found.weights, found.coverage) == ("dot", "", "")
    assert found.note.startswith("24 refits" if isinstance(model, GaussianMixture) else "In closed form")
    assert told[-1].done == told[-1].total == 7


@pytest.mark.slow
@pytest.mark.parametrize("model", MODELS, ids=str)
def test_groups_are_summed(model, parts):
    groups = [2, 0, 1, 1, 2, 0, 2]
    each = influence_scores(model, X, Z)
    whole = np.stack([each[:, np.equal(groups, g)].sum(1) for g in range(3)], 1)
    np.testing.assert_allclose(influence_scores(model, X, Z, groups=groups), whole, rtol=1e-12)
    found = top_influences(model, X, Z, k=2, groups=groups)
    np.testing.assert_allclose(found.proponent_scores, -np.sort(-whole.T, 1)[:, :2], rtol=1e-12)


def test_ties_and_infinities():
    scores = np.array([[np.inf, 0.0], [np.inf, 0.0], [-1.0, 0.0], [-2.0, -5.0]])
    ahead, _, against, _ = strongest(scores, 2)
    assert ahead.tolist() == [[0, 1], [0, 1]] and against.tolist() == [[3, 2], [3, -1]]
    copies = np.repeat(X[:6], 2, 0)
    found = top_influences(KNNDensity(k=2), copies, X[:3], k=3)
    assert (found.proponents[:, :2] == [[0, 1], [2, 3], [4, 5]]).all() and np.isposinf(
        found.proponent_scores[:, :2]
    ).all()
    assert (found.opponents == -1).all()


def test_mixtures_are_refitted_once_for_all_queries(monkeypatch):
    monkeypatch.setattr(closed_form, "AT_ONCE", 1)
    calls, settled = [], leave_one_out.settled_mixture
    monkeypatch.setattr(leave_one_out, "settled_mixture", lambda *how: calls.append(1) or settled(*how))
    top_influences(GaussianMixture(2, random_state=0), X, Z, k=2)
    assert len(calls) == 1


def test_no_matrix_of_all_pairs_is_held(monkeypatch):
    monkeypatch.setattr(closed_form, "AT_ONCE", 2**15)
    many, queries = RNG.normal(size=(2000, 2)), RNG.normal(size=(400, 2))

    def peak(call):
        call(KNNDensity(k=5), many[:10], queries[:1])  # whatever is loaded late
        tracemalloc.start()
        call(KNNDensity(k=5), many, queries)
        most = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return most

    assert peak(top_influences) < 8 * 2000 * 400 / 2
    assert peak(influence_scores) >= 8 * 2000 * 400  # the test can see what it looks for


def test_what_is_asked_has_to_make_sense():
    for k in (0, 25, 2.0, True, None):
        with pytest.raises(ModelError, match="k from 1 to 24"):
            top_influences(KNNDensity(k=2), X, Z, k=k)
    with pytest.raises(DataError, match=r"queries of shape \(2,\)"):
        top_influences(KNNDensity(k=2), X, Z[:, :1])
    with pytest.raises(DataError, match="without gaps"):
        top_influences(KNNDensity(k=2), X, Z, groups=[0] * 6 + [2])
    with pytest.raises(ModelError, match='scale="dot"'):
        top_influences(KNNDensity(k=2), X, Z, scale="cosine")
    with pytest.raises(ModelError, match="got BayesianGaussianMixture"):
        top_influences(BayesianGaussianMixture(), X, Z)
