"""Context metrics: equal to loops over rows, their nulls, and what each cannot see."""

import numpy as np
import oracles_neighbors_context as oracle
import pytest
from scipy import stats

import genmem.neighbors.sets as sets_module
from genmem.errors import DataError
from genmem.neighbors.metrics import closest_record, context, gan_leaks, neighbor_ratio
from genmem.neighbors.prdc import precision_recall
from genmem.neighbors.sets import Sets
from genmem.neighbors.two_sample import one_nn_two_sample

NAMES = (
    "dcr_median dcr_tail nndr_median nndr_tail gan_leaks one_nn_train one_nn_test precision recall density coverage"
).split()


@pytest.fixture
def rng():
    return np.random.default_rng(0)


def gaussian(rng, *sizes, width=4):
    return tuple(rng.normal(size=(n, width)) for n in sizes)


def by_name(results):
    return {result.name: result for result in results}


KINDS = {
    "float64": lambda rng, n: rng.normal(size=(n, 3)),
    "float32 far from 0": lambda rng, n: (1000 + rng.normal(size=(n, 3))).astype(np.float32),
    "uint8 images": lambda rng, n: rng.integers(0, 256, size=(n, 3, 3), dtype=np.uint8),
    "integers, many ties": lambda rng, n: rng.integers(0, 3, size=(n, 3)),
    "truth values": lambda rng, n: rng.random((n, 4)) < 0.5,
}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("copied", [False, True])
def test_equal_to_loops(rng, kind, copied):
    train, test, samples = (KINDS[kind](rng, n) for n in (34, 23, 29))
    if copied:
        samples = np.concatenate([train, train[:5]])  # every border case of a reach occurs
    found = by_name(context(train, test, samples, rows=1000))
    for name, rows in (("value", samples), ("null", test)):
        for level, which in ((0.5, "median"), (0.05, "tail")):
            dcr, nndr = oracle.closest(rows, train), oracle.neighbor_ratios(rows, train)
            assert getattr(found[f"dcr_{which}"], name) == pytest.approx(oracle.quantile(dcr, level), abs=1e-12)
            assert getattr(found[f"nndr_{which}"], name) == pytest.approx(oracle.quantile(nndr, level), abs=1e-12)
    leaks = oracle.auc(oracle.closest(train, samples), oracle.closest(test, samples))
    assert found["gan_leaks"].value == pytest.approx(leaks, abs=1e-12)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("case", ["fresh", "train itself", "one row"])
@pytest.mark.parametrize("k", [1, 4])
def test_manifolds_equal_to_loops(rng, kind, case, k, monkeypatch):
    monkeypatch.setattr("genmem.neighbors.prdc._PAIRS", 100)
    train, test = KINDS[kind](rng, 25), KINDS[kind](rng, 25)
    samples = {"fresh": KINDS[kind](rng, 25), "train itself": train[::-1], "one row": train[:1].repeat(25, 0)}[case]
    found = by_name(precision_recall(train, test, samples, k=k))
    ours, theirs = oracle.manifolds(train, samples, k), oracle.manifolds(train, test, k)
    for name, value in ours.items():
        assert found[name].value == pytest.approx(value, abs=1e-12), name
        assert found[name].null == pytest.approx(theirs[name], abs=1e-12), name


def test_two_sample_accuracy_equals_a_loop(rng):
    train, test, samples = gaussian(rng, 30, 30, 30)
    samples[:7] = train[:7] + 1e-6 * rng.normal(size=(7, 4))
    on_train, on_test = one_nn_two_sample(train, test, samples)
    assert on_train.value == pytest.approx(oracle.one_nn_accuracy(train, samples))
    assert on_test.value == pytest.approx(oracle.one_nn_accuracy(test, samples))
    assert on_train.null == pytest.approx(29 / 59)


def test_ties_favour_neither_set():
    # Every row occurs in both sets, and twice in the pool's other half: half the nearest rows are of the own set.
    X = np.repeat(np.arange(200.0)[:, None], 2, axis=0)
    on_train, _ = one_nn_two_sample(X, X, X, rows=400)
    assert abs(on_train.value - 1 / 3) < 0.08  # one of three equal rows
    assert on_train.p_value < 0.05  # as many rows of X among one another are told apart less often than by chance


@pytest.mark.parametrize("rows", [15, 1000])
def test_the_order_of_rows_changes_nothing(rng, rows):
    sets = gaussian(rng, 60, 40, 50)
    sets[2][:10] = sets[0][:10]
    shuffled = [rng.permutation(X) for X in sets]
    for one, other in zip(context(*sets, rows=rows), context(*shuffled, rows=rows), strict=True):
        numbers = [(r.value, r.null, r.p_value, *r.interval) for r in (one, other)]
        np.testing.assert_allclose(*numbers, rtol=1e-12, err_msg=one.name)


def test_rows_are_counted_and_drawn_by_the_seed(rng):
    sets = gaussian(rng, 300, 200, 250)
    first, second = (by_name(context(*sets, rows=50, seed=seed)) for seed in (0, 1))
    again = by_name(context(*sets, rows=50, seed=0))
    assert [r.value for r in again.values()] == [r.value for r in first.values()]
    assert first["precision"].n == 50 and first["one_nn_train"].n == 100 and first["dcr_tail"].n == 250
    assert first["density"].value != second["density"].value
    assert "50 of 300" in first["one_nn_train"].cannot_see
    assert "50 of" not in by_name(context(*sets[:1] * 3, rows=500))["one_nn_train"].cannot_see


def test_every_result_is_complete(rng):
    results = context(*gaussian(rng, 60, 40, 50))
    assert [r.name for r in results] == NAMES
    for r in results:
        assert r.sentence.endswith(".") and r.cannot_see.endswith(".") and "http" in r.citation
        assert r.interval[0] <= r.value <= r.interval[1]
        assert np.isfinite([r.value, r.null, *r.interval]).all()


def test_each_pair_is_searched_once(rng, monkeypatch):
    made = []
    real = sets_module.nearest

    def counted(queries, base, k=1, *, exclude=None):
        made.append((len(queries), len(base), k))
        return real(queries, base, k, exclude=exclude)

    monkeypatch.setattr(sets_module, "nearest", counted)
    shared = Sets(*gaussian(rng, 60, 40, 50))
    results = context(shared)
    assert sorted(made) == [(40, 50, 1), (40, 60, 2), (50, 60, 2), (60, 50, 1)]
    assert [r.value for r in context(shared["train"], shared["test"], shared["samples"])] == [r.value for r in results]


# --- nulls


@pytest.mark.slow
def test_p_values_of_fresh_data_are_uniform(rng):
    leaks, two = [], []
    for _ in range(150):
        train, test, samples = gaussian(rng, 40, 30, 35, width=3)
        leaks.append(gan_leaks(train, test, samples).p_value)
        two.append(one_nn_two_sample(train, test, samples)[0].details)
    assert stats.kstest(leaks, "uniform").pvalue > 0.01
    for key in ("p_lower", "p_different"):  # discrete: valid, and not far from uniform
        p = np.array([details[key] for details in two])
        for level in (0.05, 0.2, 0.5):
            # No larger than chance allows: the upper 99.9% bound of a binomial share.
            assert (p <= level).mean() <= stats.binom.ppf(0.999, len(p), level) / len(p)
        assert (p <= 0.5).mean() > 0.3


def test_held_out_rows_are_the_null(rng):
    train, test, samples = gaussian(rng, 900, 600, 600)
    for r in context(train, test, samples, rows=600):
        low, high = r.interval
        margin = high - low
        assert low - margin <= r.null <= high + margin, r.name


# --- what they see, and what not


def test_few_rows_bound_a_tail_on_one_side_only(rng):
    _, tail = closest_record(*gaussian(rng, 60, 40, 50))
    assert tail.interval[0] == 0 and tail.interval[1] > tail.value
    median, _ = closest_record(*gaussian(rng, 60, 40, 3))
    assert median.interval[0] == 0 and np.isnan(median.interval[1])


def test_training_rows_passed_as_samples(rng):
    train, test, _ = gaussian(rng, 400, 300, 1)
    found = by_name(context(train, test, train))
    assert found["dcr_median"].value == found["nndr_tail"].value == 0 < found["dcr_tail"].null
    assert found["gan_leaks"].value == 1 and found["gan_leaks"].p_value < 1e-10
    assert found["gan_leaks"].details["tpr_at_1_percent"] == 1 and 0.9 < found["gan_leaks"].interval[0] < 1
    assert found["one_nn_train"].p_value == 0.001 and found["one_nn_train"].value < 0.3


def test_precision_and_recall_cannot_see_copying(rng):
    train, test, _ = gaussian(rng, 400, 300, 1)
    found = by_name(precision_recall(train, test, train))
    for r in found.values():
        assert r.value >= r.null and np.isnan(r.p_value) and "Copying" in r.cannot_see


def test_a_median_cannot_see_few_copies(rng):
    train, test, samples = gaussian(rng, 1000, 800, 800, width=8)
    samples[:80] = train[:80]
    median, tail = closest_record(train, test, samples)
    assert tail.value == 0 and tail.interval[1] < tail.null
    assert median.interval[1] > 0.9 * median.null


def test_a_sharp_model_lowers_distances_without_copies(rng):
    train, test, samples = gaussian(rng, 1000, 800, 800, width=16)
    median, _ = closest_record(train, test, 0.7 * samples)
    assert median.interval[1] < median.null and "sharper" in median.cannot_see


def test_large_distances_stay_apart(rng):
    # exp(-d^2) of all of these is 0.
    train, test, samples = (1000 * X for X in gaussian(rng, 200, 200, 200))
    samples[:100] = train[:100] + 50
    assert gan_leaks(train, test, samples).value > 0.6


def test_copies_of_a_row_that_occurs_twice(rng):
    train, test, samples = gaussian(rng, 100, 90, 80)
    train[50:] = train[:50]
    samples[:20] = train[:20]
    _, tail = neighbor_ratio(train, test, samples)
    assert tail.value == 0 and np.isfinite(tail.details["samples"]).all()


# --- small, constant and wrong input


@pytest.mark.parametrize("sizes", [(1, 1, 1), (2, 1, 1), (2, 2, 2), (1, 9, 9), (30, 1, 30), (30, 30, 1)])
def test_few_rows(rng, sizes):
    found = by_name(context(*gaussian(rng, *sizes)))
    assert np.isnan(found["nndr_median"].value) == (sizes[0] == 1)
    assert np.isnan(found["precision"].value) == (min(sizes) == 1)
    assert np.isfinite([found[name].value for name in ("dcr_tail", "gan_leaks", "one_nn_train")]).all()
    assert all(0 < r.p_value <= 1 or np.isnan(r.p_value) for r in found.values())


def test_constant_data():
    found = by_name(context(np.ones((20, 3)), np.ones((9, 3)), np.ones((5, 3))))
    assert found["gan_leaks"].value == 0.5 and found["gan_leaks"].p_value == 1
    assert found["dcr_median"].value == found["nndr_median"].value == 0
    assert found["precision"].value == found["coverage"].value == 1


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda X: context(X, X, X, rows=0), "rows=0"),
        (lambda X: precision_recall(X, X, X, k=0), "k=0"),
        (lambda X: context(X, X, X[:0]), r"samples.*\(0, 4\)"),
        (lambda X: context(X, X[:, :2], X), "test of 2 values"),
        (lambda X: context(X, np.where(X < 0, np.nan, X), X), "NaN"),
    ],
)
def test_refusals_name_what_came(rng, call, message):
    with pytest.raises(DataError, match=message):
        call(rng.normal(size=(12, 4)))
