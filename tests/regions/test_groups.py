"""Regions: group means with honest errors, cells of the latent space."""

import numpy as np
import oracles_nulls
import pytest
from scipy import stats as scipy_stats

from genmem.errors import DataError
from genmem.regions import group_scores, latent_cells, neediest


def scores_of(rng, repeats, groups, effect=0.0, *, between=1.0, refit=0.5, noise=1.0):
    """Scores whose groups are draws from a population (sd `between`) and move together from refit to refit."""
    names = np.unique(groups)
    together = rng.normal(0, refit, (repeats, len(names)))[:, np.searchsorted(names, groups)]
    return effect + rng.normal(0, between, len(groups)) + together + rng.normal(0, noise, (repeats, len(groups)))


@pytest.mark.parametrize("repeats", [3, 4])
def test_groups_equal_the_formulas_by_hand(repeats):
    rng = np.random.default_rng(0)
    groups = np.array(["b", "a", "c", "a", "b", "b", "a", "c"])
    scores = rng.normal(5, 2, (repeats, 8)) + rng.normal(0, 3, (repeats, 3))[:, [1, 0, 2, 0, 1, 1, 0, 2]]
    found = group_scores(scores, groups, n_exemplars=2)
    assert [g.mean for g in found] == sorted((g.mean for g in found), reverse=True)
    for group in found:
        inside = [i for i in range(8) if groups[i] == group.name]
        outside = [i for i in range(8) if groups[i] != group.name]
        mean = scores.mean(axis=0)
        assert group.n == len(inside)
        assert group.mean == pytest.approx(mean[inside].mean())
        assert group.rest == pytest.approx(mean[outside].mean())
        runs = oracles_nulls.shared_variance_by_loop(scores, groups, group.name, False)
        assert runs > 0
        drawn = np.var(mean[inside], ddof=1) / len(inside)
        assert group.standard_error == pytest.approx(np.sqrt(runs + drawn))
        half = np.hypot(
            scipy_stats.t.ppf(0.975, repeats - 1) * np.sqrt(runs),
            scipy_stats.t.ppf(0.975, len(inside) - 1) * np.sqrt(drawn),
        )
        assert group.interval == pytest.approx((group.mean - half, group.mean + half))
        assert group.examples == tuple(sorted(inside, key=lambda i: -mean[i])[:2])


def test_p_is_the_tail_at_which_the_interval_of_the_difference_touches_zero():
    rng = np.random.default_rng(1)
    groups = np.arange(30) % 3
    scores = scores_of(rng, 4, groups, refit=1.5)
    for group in group_scores(scores, groups):
        inside, mean = groups == int(group.name), scores.mean(axis=0)
        shared = oracles_nulls.shared_variance_by_loop(scores, groups, int(group.name), True)
        assert shared > 0
        errors = [np.sqrt(shared), scipy_stats.sem(mean[inside]), scipy_stats.sem(mean[~inside])]
        tail = min(group.p_value, 1 - group.p_value)
        half = np.linalg.norm(scipy_stats.t.isf(tail, [3, 9, 19]) * errors)
        assert abs(group.mean - group.rest) == pytest.approx(half)
        assert (group.p_value < 0.5) == (group.mean > group.rest)


def test_one_repeat_rests_on_the_examples_alone():
    scores = np.random.default_rng(2).normal(size=(1, 20))
    (whole,) = group_scores(scores, np.zeros(20))
    assert whole.standard_error == pytest.approx(scipy_stats.sem(scores[0]))
    assert whole.interval == pytest.approx(scipy_stats.t.interval(0.95, 19, scores.mean(), whole.standard_error))
    parts = group_scores(scores + 9 * (np.arange(20) < 8), np.arange(20) < 8)
    assert np.isnan([part.p_value for part in parts]).all()  # what refits share is not known


@pytest.mark.slow
@pytest.mark.parametrize("repeats", [2, 4])
def test_groups_keep_their_size_under_noise_that_their_examples_share(repeats):
    rng, groups, p = np.random.default_rng(8), np.arange(300) % 10, []
    for _ in range(60):
        true = rng.gamma(1.2, 5.0, 300)  # a long tail
        scores = true + (2 + 0.6 * true) * rng.normal(size=(repeats, 300)) + rng.normal(0, 3, (repeats, 10))[:, groups]
        p += [g.p_value for g in group_scores(scores, groups)]
    assert 0.005 <= np.mean(np.array(p) <= 0.05) <= 0.06 and np.mean(np.array(p) <= 0.005) <= 0.012


def test_noise_that_examples_do_not_share_enters_once():
    """Independent noise is in the variation over examples already: the error is that of a plain mean."""
    rng, errors, plain = np.random.default_rng(7), [], []
    for _ in range(200):
        scores = rng.normal(size=(4, 50))
        (whole,) = group_scores(scores, np.zeros(50))
        errors.append(whole.standard_error**2)
        plain.append(scipy_stats.sem(scores.mean(axis=0)) ** 2)
    assert 1 <= np.mean(errors) / np.mean(plain) < 1.4  # it was 2 when the variance over repeats was added whole


@pytest.mark.slow
@pytest.mark.parametrize("repeats", [3, 8])
def test_intervals_cover_the_mean_of_the_region_and_those_over_examples_alone_do_not(repeats):
    rng = np.random.default_rng(2)
    groups = np.repeat(np.arange(6), 60)
    honest, naive = [], []
    for _ in range(60):
        scores = scores_of(rng, repeats, groups, effect=3.0)
        for group in group_scores(scores, groups):
            honest.append(group.interval[0] <= 3.0 <= group.interval[1])
            examples = scores.mean(axis=0)[groups == int(group.name)]
            naive.append(abs(examples.mean() - 3.0) <= 1.96 * examples.std(ddof=1) / np.sqrt(60))
    assert 0.93 <= np.mean(honest) <= 0.995
    assert np.mean(naive) < 0.87


@pytest.mark.slow
def test_no_difference_gives_uniform_p_and_a_needy_region_is_found():
    rng = np.random.default_rng(3)
    groups = np.repeat(np.arange(5), 80)
    p = [g.p_value for _ in range(60) for g in group_scores(scores_of(rng, 5, groups), groups)]
    assert 0.005 <= np.mean(np.array(p) <= 0.05) <= 0.06
    needy = group_scores(scores_of(rng, 5, groups, effect=2.0 * (groups == 3)), groups)
    assert needy[0].name == "3" and needy[0].p_value < 0.01 and neediest(needy) == needy[0]


def test_groups_too_small_for_an_error_say_so():
    scores = np.array([[1.0, 2.0, 9.0], [1.5, 2.5, 9.5]])
    lone, pair = group_scores(scores, [0, 0, 1])
    assert lone.name == "1" and lone.mean == 9.25 and lone.rest == 1.75
    assert np.isnan([lone.standard_error, *lone.interval, lone.p_value]).all()
    assert np.isfinite(pair.standard_error) and np.isnan(pair.p_value)  # its rest is one example
    (whole,) = group_scores(scores, ["all"] * 3)
    assert np.isnan(whole.rest) and np.isnan(whole.p_value) and np.isfinite(whole.standard_error)


def test_neediest_passes_over_small_groups():
    groups = group_scores(np.array([[9.0, 1.0, 2.0, 3.0]]), ["x", "y", "y", "y"])
    assert neediest(groups, min_n=3).name == "y"
    assert neediest(groups, min_n=1).name == "x"
    assert neediest(groups) is None


@pytest.mark.parametrize(
    ("scores", "groups", "named"),
    [
        (np.zeros((2, 3)), [0, 1], r"\(2, 3\) and \(2,\)"),
        (np.zeros(3), [0, 0, 1], r"\(3,\)"),
        (np.array([[0.0, np.nan], [0.0, np.nan]]), [0, 1], "for example 1"),
        (np.array([[0.0, np.inf], [0.0, 1.0]]), [0, 1], "for example 1"),
    ],
)
def test_scores_that_do_not_fit_are_refused(scores, groups, named):
    with pytest.raises(DataError, match=named):
        group_scores(scores, groups)


def test_separated_clusters_become_cells_the_largest_first():
    rng = np.random.default_rng(4)
    truth = np.repeat([0, 1, 2], [60, 30, 10])
    z = rng.normal(0, 0.1, (100, 2)) + np.array([[0, 0], [5, 0], [0, 5]])[truth]
    order = rng.permutation(100)
    assert (latent_cells(z[order], n_cells=3, seed=5) == truth[order]).all()


def test_the_number_of_cells_follows_the_data():
    rng = np.random.default_rng(5)
    assert len(np.unique(latent_cells(rng.normal(size=(50, 2))))) == 2
    assert len(np.unique(latent_cells(rng.normal(size=(650, 2))))) == 6
    z = rng.normal(size=(300, 3))
    assert (latent_cells(z, n_cells=4, seed=1) == latent_cells(z, n_cells=4, seed=1)).all()


def test_duplicates_and_few_rows_are_no_warning():
    assert latent_cells(np.zeros((40, 3))).tolist() == [0] * 40
    assert sorted(latent_cells(np.array([[0.0], [1.0], [1.0]]), n_cells=10)) == [0, 0, 1]
    assert latent_cells([[1.0, 2.0]]).tolist() == [0]


@pytest.mark.parametrize(
    ("latents", "n_cells", "named"),
    [
        (np.zeros(5), None, r"shape \(5,\)"),
        (np.zeros((0, 2)), None, r"shape \(0, 2\)"),
        (np.array([[np.nan]]), None, "NaN"),
        (np.zeros((5, 2)), 0, "n_cells=0"),
    ],
)
def test_latents_that_cannot_be_cut_are_refused(latents, n_cells, named):
    with pytest.raises(DataError, match=named):
        latent_cells(latents, n_cells=n_cells)


def test_scores_missing_in_a_repeat_do_not_move_the_others():
    rng = np.random.default_rng(5)
    scores = rng.normal(size=(4, 40)) + 3 * (np.arange(40) < 10)
    whole = {g.name: g for g in group_scores(scores, np.arange(40) < 10)}
    scores[2, [1, 2, 20]] = np.nan
    found = {g.name: g for g in group_scores(scores, np.arange(40) < 10)}
    for name in whole:
        assert found[name].mean == pytest.approx(whole[name].mean, abs=0.2)
        assert found[name].standard_error == pytest.approx(whole[name].standard_error, rel=0.5)
    assert found["True"].mean == pytest.approx(np.nanmean(scores[:, :10], axis=0).mean())


def test_a_repeat_that_lost_a_whole_group_is_left_out_for_it():
    scores = np.random.default_rng(6).normal(size=(3, 12))
    scores[1, :4] = np.nan
    (group,) = (g for g in group_scores(scores, np.arange(12) < 4) if g.name == "True")
    assert np.isfinite([group.mean, group.standard_error, group.p_value]).all()


@pytest.mark.slow
def test_errors_are_by_group_where_rows_belong_together():
    found = {"patients": [], "rows": []}
    for seed in range(300):
        rng = np.random.default_rng(seed)
        patient = np.repeat(np.arange(40), 6)
        label = (np.arange(40) % 2)[patient]  # of the patient, unrelated to the score
        scores = rng.exponential(3, 40)[patient] + rng.standard_normal((4, 240))
        for name, belong in (("patients", patient), ("rows", None)):
            found[name].append([group.p_value <= 0.05 for group in group_scores(scores, label, belong=belong)])
    assert np.mean(found["patients"]) <= 0.06 and np.mean(found["rows"]) > 0.12
    with pytest.raises(DataError, match="shape"):
        group_scores(scores, label, belong=patient[1:])
