"""Search by an index: what is returned is exact, what is missed is counted; candidates by torch; bounded memory."""

import subprocess
import sys

import numpy as np
import pytest
from oracles import brute_force_nearest

import genmem.search.approximate as approximate
import genmem.search.exact as search
import genmem.search.exact as torch_search
from genmem.errors import DataError
from genmem.search import nearest, nearest_approximately


@pytest.fixture
def rng():
    return np.random.default_rng(0)


def clustered(rng, n, width=8):
    return (4 * rng.normal(size=(n // 10, width)).repeat(10, 0) + rng.normal(size=(n // 10 * 10, width))).astype("f4")


# --- IVF and HNSW


@pytest.mark.parametrize("index", ["ivf", "hnsw"])
@pytest.mark.parametrize("k", [1, 5])
def test_what_is_found_is_measured_exactly_and_recall_is_the_share_found(rng, index, k):
    base, queries = clustered(rng, 1500), clustered(rng, 100)
    found = nearest_approximately(queries, base, k, index=index, effort=1, check=1000)
    distances, indices = brute_force_nearest(queries, base, k)
    again = np.linalg.norm(queries[:, None].astype(float) - base[found.indices], axis=2)
    np.testing.assert_allclose(found.distances, again, rtol=1e-12)
    assert (np.diff(found.distances, axis=1) >= 0).all()
    share = np.mean([len(set(a) & set(b)) / k for a, b in zip(indices, found.indices, strict=True)])
    assert found.recall == pytest.approx(share)  # without ties, and with every query checked
    assert found.interval[0] <= found.recall <= found.interval[1]
    np.testing.assert_array_equal(found.checked, np.arange(100))
    if index == "ivf":
        assert found.recall < 0.9 and found.effort == 1
        assert (found.distances >= distances * (1 - 1e-12)).all()


@pytest.mark.parametrize("index", ["ivf", "hnsw"])
def test_the_recall_asked_for_is_reached_on_queries_not_used_to_choose(rng, index):
    base, queries = clustered(rng, 4000), clustered(rng, 400)
    found = nearest_approximately(queries, base, 3, index=index, recall=0.9, check=150)
    true = nearest(queries, base, 3)[1]
    share = np.mean([len(set(a) & set(b)) / 3 for a, b in zip(true, found.indices, strict=True)])
    assert share > 0.85 and found.interval[0] - 0.02 < share < found.interval[1] + 0.02
    assert len(found.checked) == 150


@pytest.mark.slow
def test_the_most_effort_of_an_inverted_file_is_exact(rng):
    base = rng.normal(size=(900, 5))
    base[700:] = base[:200]
    found = nearest_approximately(base, base, 4, exclude=np.arange(900), recall=1.0, effort=10**6)
    distances, indices = brute_force_nearest(base, base, 4, np.arange(900))
    np.testing.assert_array_equal(found.indices, indices)
    np.testing.assert_allclose(found.distances, distances, rtol=1e-12)
    assert found.recall == 1 and found.effort == 900 // 39


def test_an_equally_near_row_counts_as_found(rng):
    found = nearest_approximately(np.zeros((20, 3)), np.ones((400, 3)), 2, effort=1, index="hnsw")
    assert found.recall == 1


@pytest.mark.parametrize("index", ["ivf", "hnsw"])
def test_a_row_is_not_its_own_neighbour(rng, index):
    base = clustered(rng, 1000)
    base[500:] = base[:500]
    found = nearest_approximately(base, base, 1, exclude=np.arange(1000), index=index, effort=64)
    assert (found.indices[:, 0] != np.arange(1000)).all()
    assert (found.distances[:, 0] == 0).mean() > 0.95


def test_a_query_whose_cells_hold_fewer_than_k_rows_is_searched_exactly(rng, monkeypatch):
    monkeypatch.setattr(approximate, "_TOGETHER", 100)
    base = np.concatenate([rng.normal(size=(400, 3)), 1e3 + rng.normal(size=(20, 3))])
    queries = np.concatenate([rng.normal(size=(30, 3)), 1e3 + rng.normal(size=(5, 3))])[rng.permutation(35)]
    found = nearest_approximately(queries, base, 60, effort=1, check=35)
    _, indices = brute_force_nearest(queries, base, 60)
    far = queries[:, 0] > 500
    np.testing.assert_array_equal(found.indices[far], indices[far])


def test_same_seed_same_answer(rng):
    base, queries = clustered(rng, 2000), clustered(rng, 200)
    one, other = (nearest_approximately(queries, base, 2, effort=2, check=50, seed=3) for _ in range(2))
    np.testing.assert_array_equal(one.indices, other.indices)
    np.testing.assert_array_equal(one.checked, other.checked)
    assert one.recall == other.recall


@pytest.mark.parametrize("dtype", [bool, np.uint8, np.int64, np.float64])
@pytest.mark.parametrize("sizes", [(1, 1), (1, 30), (7, 50)])
def test_small_sets_and_dtypes(rng, dtype, sizes, capfd):
    queries, base = (rng.integers(0, 2, size=(n, 2, 3)).astype(dtype) for n in sizes)
    found = nearest_approximately(queries, base)
    assert found.distances.shape == (sizes[0], 1) and 0 <= found.recall <= 1
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"index": "lsh"}, "index='lsh'"),
        ({"recall": 0}, "recall=0"),
        ({"recall": 1.1}, "recall=1.1"),
        ({"effort": 0}, "effort=0"),
        ({"check": 0}, "check=0"),
        ({"k": 6}, "k=6"),
    ],
)
def test_refusals_name_what_came(settings, message):
    with pytest.raises(DataError, match=message):
        nearest_approximately(np.zeros((5, 3)), np.zeros((5, 3)), **settings)


# --- torch


@pytest.fixture
def by_torch(monkeypatch):
    """Let torch list the candidates, on the CPU, few queries at a time."""
    import torch

    calls = []

    def listed(queries, block, count):
        calls.append(len(queries))
        return torch_search.knn(queries, block, count, torch.device("cpu"))

    monkeypatch.setattr(torch_search, "cuda_knn", listed)
    monkeypatch.setattr(torch_search, "_PAIRS", 1000)
    return calls


def check_against_brute_force(rng):
    X = rng.normal(size=(200, 16))
    X *= 100 / np.linalg.norm(X, axis=1, keepdims=True)
    X = np.concatenate([X, X[:60] + 1e-5 * rng.normal(size=(60, 16)), X[:40]])
    for rows in (X, X.astype(np.float32), (10 * X).astype(np.int16), 1e6 + X):
        _, indices = nearest(rows, rows, 3, exclude=np.arange(300))
        np.testing.assert_array_equal(indices, brute_force_nearest(rows, rows, 3, np.arange(300))[1])


def test_candidates_by_torch_give_the_same_answers(rng, by_torch):
    check_against_brute_force(rng)
    assert sum(by_torch) >= 1200


def test_torch_lists_what_faiss_lists(rng):
    import faiss
    import torch

    queries, block = (rng.normal(size=(n, 12)).astype(np.float32) for n in (50, 300))
    squared, found = torch_search.knn(queries, block, 7, torch.device("cpu"))
    expected, indices = faiss.knn(queries, block, 7)
    np.testing.assert_array_equal(found, indices)
    np.testing.assert_allclose(squared, expected, rtol=1e-4)


def test_torch_reads_files_that_must_not_be_written(rng, by_torch, tmp_path):
    np.save(tmp_path / "X.npy", rng.normal(size=(50, 4)).astype(np.float32))
    mapped = np.load(tmp_path / "X.npy", mmap_mode="r")
    assert (nearest(mapped, mapped, 1)[1][:, 0] == np.arange(50)).all() and by_torch


def test_torch_is_used_where_it_sees_cuda_only(rng, monkeypatch):
    import torch

    used = []
    queries = rng.normal(size=(3, 4)).astype(np.float32)
    monkeypatch.setattr(torch_search, "knn", lambda *call: used.append(call[3]))
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert torch_search.cuda_knn(queries, queries, 1) is None and not used
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    torch_search.cuda_knn(queries, queries, 1)
    assert used == [torch.device("cuda")]


@pytest.mark.parametrize("usual", ["tf32", "ieee"])
def test_torch_computes_in_full_float32_and_leaves_the_setting(usual):
    import torch

    settings = torch.backends.cuda.matmul
    before = settings.fp32_precision
    try:
        settings.fp32_precision = usual
        with torch_search._full_float32():
            assert settings.fp32_precision == "ieee"
        assert settings.fp32_precision == usual
    finally:
        settings.fp32_precision = before


@pytest.mark.gpu
def test_torch_on_cuda_gives_the_same_answers(rng, monkeypatch):
    import torch

    if not torch.cuda.is_available():
        pytest.skip("torch sees no CUDA device")
    monkeypatch.setattr(search, "_gpu", lambda: None)
    torch.backends.cuda.matmul.fp32_precision = "tf32"
    try:
        check_against_brute_force(rng)
    finally:
        torch.backends.cuda.matmul.fp32_precision = "none"


# --- what the exact search holds, and what it leaves behind

_PEAK = """
import resource, sys, numpy as np
from genmem.search import nearest
rng = np.random.default_rng(0)
X = rng.random((int(sys.argv[1]), 24), dtype=np.float32)
if sys.argv[2] == "tied":
    X[1000:2000] = X[:1000] = X[0]
nearest(X[:100], X[:100])
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
nearest(X, X, 1, exclude=np.arange(len(X)))
print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024)
"""


@pytest.mark.slow
@pytest.mark.parametrize("case", ["plain", "tied"])
def test_memory_stays_bounded(case):
    # All distances between 8,000 rows take 244 MB in float32, twice that in float64.
    done = subprocess.run([sys.executable, "-c", _PEAK, "8000", case], capture_output=True, text=True, check=True)
    assert float(done.stdout) < 150


def test_settings_of_faiss_are_left_as_they_were(rng):
    import faiss

    before = faiss.cvar.distance_compute_blas_query_bs
    nearest(rng.normal(size=(50, 4)), rng.normal(size=(90, 4)))
    assert faiss.cvar.distance_compute_blas_query_bs == before


def test_centring_is_left_out_only_where_it_gains_little(rng):
    near, far = rng.random((300, 20), dtype=np.float32), 50 + rng.random((300, 20), dtype=np.float32)
    assert search.prepared(near, near, 1, None)._centre is None
    assert search.prepared(far, far, 1, None)._centre is not None
    outlier = far.copy()
    outlier[0] = 1e6
    assert search.prepared(outlier, outlier, 1, None)._centre is not None


def test_centred_rows_are_the_rows_themselves_where_nothing_moves(rng):
    X = rng.normal(size=(40, 3)).astype(np.float32)
    (_, block), *_ = search.prepared(X, X, 1, None).blocks(np.arange(40), np.float32)
    assert np.shares_memory(block, X)
