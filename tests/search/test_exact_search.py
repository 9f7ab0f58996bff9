"""Exact neighbours: the same as brute force whatever the units, ties, duplicates and exclusions."""

import numpy as np
import pytest
from oracles import brute_force_nearest

import genmem.search.exact as search
from genmem.errors import DataError
from genmem.search import nearest


def agrees(queries, base, k=1, exclude=None):
    distances, indices = nearest(queries, base, k, exclude=exclude)
    expected_distances, expected_indices = brute_force_nearest(queries, base, k, exclude)
    assert distances.dtype == np.float64 and indices.dtype == np.int64
    np.testing.assert_array_equal(indices, expected_indices)
    np.testing.assert_allclose(distances, expected_distances, rtol=1e-12, atol=0)
    return distances, indices


@pytest.fixture
def rng():
    return np.random.default_rng(0)


@pytest.fixture(autouse=True)
def expanded_form():
    """Make FAISS compute |q|^2 + |b|^2 - 2 q.b, which it otherwise does for large problems only."""
    import faiss

    usual = faiss.cvar.distance_compute_blas_threshold
    faiss.cvar.distance_compute_blas_threshold = 1
    yield usual
    faiss.cvar.distance_compute_blas_threshold = usual


@pytest.fixture
def searched_again(monkeypatch):
    """Count the queries that the float32 list could not settle."""
    counts = []
    again = search.ExactSearch.in_float64

    def counted(self, at):
        counts.append(len(at))
        return again(self, at)

    monkeypatch.setattr(search.ExactSearch, "in_float64", counted)
    return counts


@pytest.fixture(params=["one block", "many blocks"])
def block_size(request, monkeypatch):
    if request.param == "many blocks":
        monkeypatch.setattr(search, "_CHUNK", 1)
        monkeypatch.setattr(search, "_CACHED", 7)
        monkeypatch.setattr(search, "_QUERIES", 64)


@pytest.mark.parametrize("width", [1, 2, 16, 784])
@pytest.mark.parametrize("k", [1, 3, 30])
def test_equals_brute_force(rng, width, k, block_size):
    agrees(rng.normal(size=(130, width)).astype(np.float32), rng.normal(size=(200, width)).astype(np.float32), k)


def test_equals_brute_force_in_the_other_form(rng, expanded_form, block_size):
    import faiss

    faiss.cvar.distance_compute_blas_threshold = expanded_form
    X = rng.normal(size=(150, 4))
    X[100:] = X[:50]
    agrees(X, X, 5, exclude=np.arange(150))


@pytest.mark.parametrize("dtype", [bool, np.uint8, np.int16, np.int64, np.float16, np.float32, np.float64])
def test_any_real_dtype_on_either_side(rng, dtype, block_size):
    ints = rng.integers(0, 2 if dtype is bool else 100, size=(150, 12))
    agrees(ints[:40].astype(dtype), ints[40:].astype(np.float32), 4)
    agrees(ints[:40].astype(np.float64) + 0.25, ints[40:].astype(dtype), 4)


def test_event_shapes_are_flattened(rng):
    images = rng.integers(0, 256, size=(60, 8, 8), dtype=np.uint8)
    distances, indices = nearest(images[:9], images[9:], 2)
    flat_distances, flat_indices = nearest(images[:9].reshape(9, 64), images[9:].reshape(51, 1, 64), 2)
    np.testing.assert_array_equal(distances, flat_distances)
    np.testing.assert_array_equal(indices, flat_indices)


def test_a_search_within_itself_excludes_the_row_not_its_copies(rng, block_size):
    X = rng.normal(size=(100, 5))
    X[70] = X[3]
    distances, indices = agrees(X, X, 2, exclude=np.arange(100))
    assert indices[3, 0] == 70 and indices[70, 0] == 3
    assert distances[3, 0] == distances[70, 0] == 0
    assert not (indices == np.arange(100)[:, None]).any()


def test_exclusion_of_some_queries_only(rng):
    X = rng.normal(size=(50, 4))
    out = np.where(np.arange(50) % 2, np.arange(50), -1)
    _, indices = agrees(X, X, 1, exclude=out)
    assert (indices[::2, 0] == np.arange(0, 50, 2)).all()
    assert (indices[1::2, 0] != np.arange(1, 50, 2)).all()


def test_near_duplicates_at_1e_4_on_vectors_of_norm_100(rng):
    base = rng.normal(size=(500, 64))
    base *= 100 / np.linalg.norm(base, axis=1, keepdims=True)
    steps = rng.normal(size=base.shape)
    steps *= np.linspace(0.5e-4, 1.5e-4, 500)[:, None] / np.linalg.norm(steps, axis=1, keepdims=True)
    distances, indices = agrees(base + steps, base)
    assert (indices[:, 0] == np.arange(500)).all()
    np.testing.assert_allclose(distances[:, 0], np.linspace(0.5e-4, 1.5e-4, 500), rtol=1e-8)


@pytest.mark.parametrize("crowd", [6, 60])
def test_what_float32_ranks_wrong(rng, crowd):
    # Around each query of norm 100 a crowd at squared distances 1, 1.0001, 1.0002, ...
    import faiss

    queries = rng.normal(size=(20, 64))
    queries *= 100 / np.linalg.norm(queries, axis=1, keepdims=True)
    steps = rng.normal(size=(20, crowd, 64))
    steps *= np.sqrt(1 + 1e-4 * np.arange(crowd))[:, None] / np.linalg.norm(steps, axis=2, keepdims=True)
    base = (queries[:, None] + rng.permutation(steps, axis=1)).reshape(-1, 64)
    _, indices = agrees(queries, base)
    in_float32 = faiss.knn(queries.astype(np.float32), base.astype(np.float32), 1)[1]
    assert (in_float32 != indices).any()


def test_a_crowd_of_near_duplicates_around_one_point(rng, searched_again):
    # 200 rows within 1e-4 of one vector of norm 100: float32 cannot rank them, 1 + 8 candidates cannot hold them.
    crowd = np.concatenate([rng.normal(size=(300, 32)), np.full((200, 32), 100 / 32**0.5)])
    crowd[300:] += rng.normal(size=(200, 32)) * 1e-5
    agrees(crowd[300:350], crowd, 3)
    assert sum(searched_again) == 50


def test_data_far_from_the_origin(rng, block_size, searched_again):
    agrees(1e6 + rng.normal(size=(60, 8)), 1e6 + rng.normal(size=(120, 8)), 3)
    assert not searched_again


def test_clusters_far_apart(rng, block_size):
    centres = np.repeat([-1e5, 0, 1e5], 60)[:, None]
    X = centres + rng.normal(size=(180, 3))
    agrees(X, X, 4, exclude=np.arange(180))


@pytest.mark.parametrize("k", [1, 2, 40])
@pytest.mark.parametrize("exclude", [False, True])
def test_more_ties_than_candidates_come_in_order_of_index(k, exclude, block_size, searched_again):
    base = np.tile(np.eye(3), (100, 1))
    out = np.arange(300) if exclude else None
    _, indices = agrees(base, base, k, exclude=out)
    assert sum(searched_again) == 300
    if not exclude:
        assert (np.diff(indices, axis=1) == 3).all()


def test_ties_between_different_rows_come_in_order_of_index(rng, block_size):
    corners = rng.integers(0, 2, size=(400, 8))
    agrees(corners, corners, 5, exclude=np.arange(400))
    one_hot = np.eye(100)
    agrees(one_hot, one_hot, 7, exclude=np.arange(100))


def test_ties_that_float32_takes_for_different(rng):
    # Multiples of 1/1024 whose differences have exact squares, but whose own squares float32 rounds.
    queries = rng.integers(-(2**20), 2**20, size=(50, 6)) / 1024
    steps = rng.integers(-64, 64, size=(50, 6)) / 1024
    base = rng.permutation(np.concatenate([queries + steps, queries - steps]))
    distances, _ = agrees(queries, base, 2)
    np.testing.assert_array_equal(distances[:, 0], distances[:, 1])


def test_constant_data():
    distances, indices = nearest(np.ones((5, 3)), np.ones((1000, 3)), 4)
    assert (distances == 0).all()
    assert (indices == np.arange(4)).all()


def test_ties_of_very_wide_rows_are_exact(rng, monkeypatch):
    monkeypatch.setattr(search, "_CACHED", 2 * 9001)
    row = rng.normal(size=9001)
    base = np.stack([row, *rng.normal(size=(3, 9001)), row, row])
    for query in row + rng.normal(size=(20, 1, 9001)):
        assert nearest(query, base, 3)[1].tolist() == [[0, 4, 5]]


def test_all_rows_can_be_asked_for(rng, block_size):
    X = rng.normal(size=(90, 2))
    agrees(X[:10], X, 90)
    agrees(X, X, 89, exclude=np.arange(90))


@pytest.mark.parametrize("scale", [1e-30, 1e-12, 1e12, 1e30, 1e140])
def test_extreme_units(rng, scale):
    X = rng.normal(size=(80, 6))
    _, indices = nearest(X, X, 3, exclude=np.arange(80))
    distances, scaled = agrees(X * scale, X * scale, 3, exclude=np.arange(80))
    np.testing.assert_array_equal(scaled, indices)


def test_one_outlier_does_not_slow_down_the_others(rng, searched_again):
    base = rng.normal(size=(2000, 50)).astype(np.float32)
    base[0] = 1e6
    agrees(base[1:20], base, 3)
    assert not searched_again


def test_random_small_cases(rng):
    for _ in range(60):
        m, n, d = rng.integers(1, 40, size=3)
        levels = rng.integers(1, 6)
        queries, base = rng.integers(0, levels, size=(m, d)), rng.integers(0, levels, size=(n, d))
        out = rng.integers(-1, n, size=m) if n > 1 else None
        agrees(queries * 0.5, base * 0.5, int(rng.integers(1, n + (out is None))), out)


def test_memory_mapped_base(rng, tmp_path):
    X = rng.normal(size=(50, 4)).astype(np.float32)
    np.save(tmp_path / "X.npy", X)
    mapped = np.load(tmp_path / "X.npy", mmap_mode="r")
    np.testing.assert_array_equal(nearest(X[:5], mapped, 2)[1], nearest(X[:5], X, 2)[1])


def test_arguments_are_not_changed(rng):
    queries, base = rng.normal(size=(5, 3)), rng.normal(size=(9, 3))
    before = queries.copy(), base.copy()
    nearest(queries, base, 2)
    np.testing.assert_array_equal(queries, before[0])
    np.testing.assert_array_equal(base, before[1])


X = np.zeros((5, 3))


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: nearest(np.zeros((2, 4)), X), "4 and 3 values per row"),
        (lambda: nearest(X, X, 6), "k from 1 to 5.*k=6"),
        (lambda: nearest(X, X, 0), "k=0"),
        (lambda: nearest(X, X, 5, exclude=np.arange(5)), "k from 1 to 4"),
        (lambda: nearest(X[:0], X), r"queries.*\(0, 3\)"),
        (lambda: nearest(X, X[:0]), r"base.*\(0, 3\)"),
        (lambda: nearest(np.zeros(3), X), r"shape \(3,\)"),
        (lambda: nearest(np.array([["a"]]), X), "<U1"),
        (lambda: nearest(X + 0j, X), "complex128"),
        (lambda: nearest(np.vstack([X, np.full(3, np.nan)]), X), "queries.*row 5"),
        (lambda: nearest(X, np.vstack([X, np.full(3, np.inf)])), "base.*row 5"),
        (lambda: nearest(X, X + 1e200), "1e\\+150"),
        (lambda: nearest(X, X, exclude=np.arange(4)), r"shape \(4,\)"),
        (lambda: nearest(X, X, exclude=np.full(5, 5)), "values 5 to 5"),
        (lambda: nearest(X, X, exclude=np.full(5, 0.5)), "float64"),
    ],
)
def test_refusals_name_what_came(call, message):
    with pytest.raises(DataError, match=message):
        call()


def test_a_gpu_is_used_where_faiss_sees_one(rng, monkeypatch):
    import faiss

    calls = []

    def knn_gpu(resources, queries, block, count):
        calls.append((resources, count))
        return faiss.knn(queries, block, count)

    monkeypatch.setattr(faiss, "get_num_gpus", lambda: 1, raising=False)
    monkeypatch.setattr(faiss, "StandardGpuResources", lambda: "resources", raising=False)
    monkeypatch.setattr(faiss, "knn_gpu", knn_gpu, raising=False)
    search._gpu.cache_clear()
    try:
        agrees(rng.normal(size=(5, 3)), rng.normal(size=(3000, 3)), 2)
        assert calls == [("resources", 11)]
        nearest(rng.normal(size=(5, 3)), rng.normal(size=(3000, 3)), 2500)
        assert len(calls) == 1
    finally:
        search._gpu.cache_clear()


@pytest.mark.gpu
def test_gpu_gives_the_same_answers(rng):
    faiss = pytest.importorskip("faiss")
    if getattr(faiss, "get_num_gpus", lambda: 0)() == 0:
        pytest.skip("this faiss sees no GPU")
    agrees(rng.normal(size=(200, 64)), rng.normal(size=(3000, 64)), 5)
