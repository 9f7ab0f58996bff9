"""Comparisons of audits: zeros against itself, intervals that cover, planted changes found, bad input refused."""

import json
import shutil
from dataclasses import replace

import numpy as np
import oracles_compare as oracle
import pytest
from audits import audited_run, blobs, simulated
from sklearn.neighbors import KernelDensity

import genmem
from genmem import stages
from genmem.compare import compare
from genmem.compare.comparison import CONDITIONS
from genmem.compare.differences import held_out_difference, mean_difference
from genmem.compare.same_data import aligned
from genmem.compare.sources import ARRAYS, Audited
from genmem.data import load
from genmem.errors import DataError, IncompleteRunError, RunError
from genmem.leaveout import memorization_score


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """Four audits of the same examples: two kernel densities, one with other folds, and the rows in another order."""
    folder, X = tmp_path_factory.mktemp("runs"), blobs()
    return {
        "kde": audited_run(folder / "kde", X),
        "wide": audited_run(folder / "wide", X, settings={"bandwidth": 2.0}),
        "other": audited_run(folder / "other", X, seed=1, repeats=4),
        "mixed": audited_run(folder / "mixed", X[np.random.default_rng(5).permutation(60)], seed=0),
    }


# --- the same


@pytest.mark.parametrize("kind", ["scores", "run", "path"])
def test_a_comparison_with_itself_is_all_zeros(runs, kind):
    one = {"scores": simulated(np.arange(60.0), np.random.default_rng(0)), "run": runs["kde"], "path": runs["kde"].path}
    found = compare(one[kind], one[kind])
    pair = found.pairs[0]
    assert pair.mean == (0, (0, 0)) and pair.held_out.value == 0
    assert not pair.difference.any() and not pair.standard_error.any() and not len(pair.changed)
    assert (pair.q_value == 1).all() and pair.overlap.share == (1, (1, 1))
    np.testing.assert_allclose([pair.agreement.rho.value, pair.agreement.corrected.value], 1, atol=1e-12)
    assert all(rate == (0, (0, 0)) for rate in pair.tpr.values() if np.isfinite(rate.value))
    assert not any(len(only) for only in found.memorized.only)
    assert len(set(found.names)) == 2


def test_repeats_that_recur_give_zeros_with_themselves_and_no_interval_with_others():
    held_out = np.tile(np.repeat(np.eye(2, dtype=bool), 20, axis=1), (3, 1))  # the same halves in each repeat
    one, other = (
        memorization_score(np.random.default_rng(seed).normal(size=(6, 40)) - 3 * held_out, held_out)
        for seed in range(2)
    )
    assert compare(one, one).pairs[0].mean == (0, (0, 0))
    found = compare(one, other, names=["A", "B"])
    assert np.isnan(found.pairs[0].mean.interval).all() and np.isnan(found.pairs[0].q_value).all()
    assert any(note.startswith("A: repeats leave out the same examples together") for note in found.notes)


def test_the_rows_in_another_order_are_matched_by_content(runs):
    straight, mixed = compare(runs["kde"], runs["wide"]), compare(runs["kde"], runs["mixed"])
    assert not straight.notes
    assert "another order" in mixed.notes[0] and "mixed" in mixed.notes[0]
    order = np.random.default_rng(5).permutation(60)
    np.testing.assert_array_equal(mixed.scores[1][order], runs["mixed"].result("scores")["score"])
    assert mixed.pairs[0].agreement.corrected.value > 0.9


def test_images_and_flat_rows_are_the_same_examples():
    scores, X = simulated(np.zeros(60), np.random.default_rng(0)), blobs()
    X[7] = X[3]  # duplicates are matched in their order
    flat = Audited("flat", "", scores, data=load(X))
    for shaped in (X.reshape(60, 3, 1), X.astype(np.float64), X.reshape(60, 1, 3).astype(np.float64)):
        assert aligned([flat, Audited("shaped", "", scores, data=load(shaped))])[1] == []
    order = np.random.default_rng(1).permutation(60)
    (_, moved), notes = aligned([flat, Audited("shaped", "", scores, data=load(X[order].reshape(60, 3, 1)))])
    np.testing.assert_array_equal(moved.data.X[..., 0], X)
    assert len(notes) == 1 and np.array_equal(np.sort(moved.scores.score), np.sort(scores.score))
    X = X + (np.arange(60) == 5)[:, None]
    with pytest.raises(DataError, match="59 examples are in both"):
        aligned([flat, Audited("shaped", "", scores, data=load(X))])


# --- intervals


def coverage(truth_of, true_mean, same, pairs=240):
    """Return how often intervals of mean scores and of mean held-out log p contain the true difference."""
    rng, inside = np.random.default_rng(0), np.zeros(2)
    for _ in range(pairs):
        truth = truth_of(rng)
        seed = int(rng.integers(2**31)) if same else None
        audits = [Audited(str(i), "", simulated(t, rng, repeats=5, seed=seed)) for i, t in enumerate(truth)]
        low, high = mean_difference(*audits, None).interval
        inside += [low <= true_mean <= high, high - low]
    return inside / pairs


@pytest.mark.slow
@pytest.mark.parametrize("same", [False, True])
def test_two_seeds_of_one_model_lie_within_the_interval(same):
    """The same examples with the same true scores: 95% of 240 intervals contain 0, within chance."""
    truth = np.random.default_rng(1).gamma(1.0, 3.0, 80)
    covered, width = coverage(lambda rng: (truth, truth), 0.0, same)
    assert 0.91 <= covered <= 0.99
    assert width < 1.0


@pytest.mark.slow
def test_the_interval_holds_for_other_examples_too():
    """True differences vary over examples by 2 nats: another draw of examples has another mean."""

    def drawn(rng):
        truth = rng.gamma(1.0, 3.0, 60)
        return truth, truth + rng.normal(0.5, 2.0, 60)

    covered, _ = coverage(drawn, 0.5, same=False)
    assert 0.91 <= covered <= 0.99


def test_independent_audits_differ_by_welch():
    rng, truth = np.random.default_rng(2), np.zeros(50)
    a, b = simulated(truth, rng, repeats=4, common=2.0), simulated(truth, rng, repeats=7, common=0.2)
    found = compare(a, b).pairs[0]
    difference, error, df = oracle.welch(a.per_repeat.mean(axis=1), b.per_repeat.mean(axis=1))
    assert found.mean.value == pytest.approx(difference) and found.shared == 0
    from scipy.stats import t

    half = (found.mean.interval[1] - found.mean.interval[0]) / 2
    assert half >= t.isf(0.025, df) * error * (1 - 1e-9)
    assert half == pytest.approx(t.isf(0.025, df) * error, rel=0.1)  # the examples add nearly nothing


def test_audits_with_the_same_folds_are_compared_repeat_by_repeat(runs):
    pair = compare(runs["kde"], runs["wide"]).pairs[0]
    apart = runs["wide"].result("scores")["per_repeat"] - runs["kde"].result("scores")["per_repeat"]
    assert pair.shared == 3
    np.testing.assert_allclose(pair.difference, apart.mean(axis=0))
    assert compare(runs["kde"], runs["other"]).pairs[0].shared == 0


def test_the_held_out_difference_is_of_refits_without_the_example(runs):
    pair = compare(runs["kde"], runs["wide"]).pairs[0]
    out = [run.result("scores")["log_prob_out"] for run in (runs["kde"], runs["wide"])]
    assert pair.held_out.value == pytest.approx(np.mean(out[1] - out[0]), abs=1e-5)
    assert pair.held_out.interval[0] < pair.held_out.value < pair.held_out.interval[1]


def test_scores_alone_have_no_interval_of_held_out_log_p():
    a, b = (Audited(str(i), "", simulated(np.zeros(40), np.random.default_rng(i))) for i in range(2))
    assert np.isfinite(held_out_difference(a, b, None).value) and np.isnan(held_out_difference(a, b, None).interval[0])


# --- single examples


def planted(rng, n=200, changed=15, repeats=5):
    truth = rng.gamma(1.0, 2.0, n)
    after = truth.copy()
    after[:changed] += 5.0
    return simulated(truth, rng, repeats=repeats), simulated(after, rng, repeats=repeats)


def test_planted_changes_are_found_and_named():
    before, after = planted(np.random.default_rng(0))
    pair = compare(before, after, names=["before", "after"]).pairs[0]
    assert set(range(15)) <= set(pair.changed.tolist()) and len(pair.changed) <= 18
    assert set(range(15)) <= set(pair.rose.tolist())
    back = compare(after, before).pairs[0]
    assert set(back.fell) == set(pair.rose) and back.mean.value == -pair.mean.value


@pytest.mark.slow
def test_the_false_discovery_rate_of_changes_is_kept():
    rng, rates = np.random.default_rng(1), []
    for _ in range(40):
        changed = compare(*planted(rng)).pairs[0].changed
        rates.append((np.mean(changed >= 15) if len(changed) else 0.0, np.mean(np.isin(np.arange(15), changed))))
    false, power = np.mean(rates, axis=0)
    assert false < 0.08 and power > 0.9


def test_what_one_model_memorizes_and_what_all_do():
    rng, n = np.random.default_rng(3), 200
    both, first, second = np.zeros(n), np.zeros(n), np.zeros(n)
    both[:10], first[10:20], second[20:30] = 8, 8, 8
    found = compare(simulated(both + first, rng), simulated(both + second, rng), names=["A", "B"])
    assert set(range(10)) <= set(found.memorized.everywhere) and len(found.memorized.everywhere) <= 12
    for only, start in zip(found.memorized.only, (10, 20), strict=True):
        assert set(range(start, start + 10)) <= set(only) and len(only) <= 12
    none = compare(simulated(both + first, rng), simulated(both + second, rng), above=20.0)
    assert not len(none.memorized.everywhere) and "more than 20 nats" in none.sentences()[0]


@pytest.mark.slow
def test_the_false_discovery_rates_of_all_and_only_are_kept():
    rng, rates = np.random.default_rng(0), []
    truth = np.zeros((2, 200))
    truth[:, :20], truth[0, 20:60], truth[1, 60:80] = 3, 3, 3
    for _ in range(30):
        found = compare(*(simulated(one, rng, repeats=5, common=0.1) for one in truth)).memorized
        lists = ((found.everywhere, range(20)), (found.only[0], range(20, 60)), (found.only[1], range(60, 80)))
        rates.append([(np.mean(~np.isin(got, true)), np.mean(np.isin(true, got))) for got, true in lists])
    false, power = np.mean(rates, axis=0).T
    assert (false < 0.06).all() and (power > 0.7).all()


def test_exact_scores_are_compared_without_noise_of_their_own():
    X = blobs().astype(np.float64)
    exact = [genmem.leave_one_out(KernelDensity(bandwidth=b), X) for b in (0.5, 1.0)]
    found = compare(*exact)
    pair = found.pairs[0]
    np.testing.assert_allclose(pair.difference, exact[1].score - exact[0].score)
    assert len(pair.changed) == 60 and not pair.standard_error.any()
    assert pair.mean.interval[0] < pair.mean.value < pair.mean.interval[1]  # over examples
    assert pair.agreement.rho.value == pytest.approx(pair.agreement.corrected.value)
    mixed = compare(exact[0], simulated(exact[0].score, np.random.default_rng(0))).pairs[0]
    assert (mixed.standard_error > 0).all() and mixed.agreement.corrected.value > mixed.agreement.rho.value


def test_two_repeats_allow_no_test_of_changes_and_the_notes_say_so():
    rng = np.random.default_rng(0)
    found = compare(simulated(np.zeros(40), rng, repeats=2), simulated(np.zeros(40), rng, repeats=4), names=["A", "B"])
    assert np.isnan(found.pairs[0].q_value).all() and np.isnan(found.pairs[0].numbers()["changed"])
    assert any(note.startswith("A: 2 repeats") for note in found.notes)
    assert "could not be tested" in found.sentences()[-1]


# --- what it says


def test_the_summary_is_five_lines_and_the_rest_is_json(runs):
    found = compare(runs["kde"], runs["wide"], runs["other"])
    assert len(repr(found).splitlines()) == 5 and "kde" in repr(found)
    read = json.loads(found.to_json())
    assert [audit["name"] for audit in read["audits"]] == ["kde", "wide", "other"]
    assert len(read["pairs"]) == 3 and set(read["pairs"][0]["mean_difference"]) == {"value", "interval"}
    assert set(found.pairs[0].numbers()) == set(CONDITIONS)
    assert list(found.against_first()) == ["wide", "other"]


@pytest.mark.slow
def test_audits_of_different_shares_are_told(tmp_path, runs):
    run = stages.plan(blobs(), "kde-torch", tmp_path / "half", folds=2, repeats=3)
    stages.refit(run, workers=1)
    stages.score(run)
    notes = compare(runs["kde"], run).notes
    assert any("share trained on (kde 67%, half 50%)" in note for note in notes)


# --- refused


@pytest.mark.slow
def test_different_data_are_refused_by_name(tmp_path, runs):
    other = audited_run(tmp_path / "elsewhere", blobs(seed=9))
    with pytest.raises(DataError, match=r"kde: 60 examples of 3 values.*elsewhere: 60 examples.*sha256.*; 0 examples"):
        compare(runs["kde"], other)
    fewer = audited_run(tmp_path / "fewer", blobs()[:40])
    with pytest.raises(DataError, match=r"fewer: 40 examples of 3 values.*; 40 examples are in both"):
        compare(runs["kde"], fewer)
    narrow = audited_run(tmp_path / "narrow", blobs()[:, :2])
    with pytest.raises(DataError, match="narrow: 60 examples of 2 values"):
        compare(runs["kde"], narrow)
    with pytest.raises(DataError, match="40 scores"):
        compare(runs["kde"], simulated(np.zeros(40), np.random.default_rng(0)))


def test_scores_without_data_are_taken_in_order_and_the_notes_say_so(runs):
    scores = simulated(np.zeros(60), np.random.default_rng(0))
    assert any("scores without data" in note for note in compare(runs["kde"], scores).notes)


def test_unfinished_runs_name_the_command(tmp_path, runs):
    run = stages.plan(blobs(), "kde-torch", tmp_path / "begun", folds=3, repeats=3)
    with pytest.raises(IncompleteRunError, match="genmem refit .*begun"):
        compare(runs["kde"], run)
    stages.refit(run, workers=1)
    with pytest.raises(IncompleteRunError, match="genmem score .*begun"):
        compare(runs["kde"], run.path)
    with pytest.raises(RunError, match="no readable run.json"):
        compare(runs["kde"], tmp_path / "nowhere")


def test_settings_are_checked(runs):
    with pytest.raises(DataError, match="two audits or more"):
        compare(runs["kde"])
    for wrong in ({"level": 0.0}, {"top": 1.5}, {"above": np.nan}, {"names": ["one"]}, {"names": ["one", "one"]}):
        with pytest.raises(DataError):
            compare(runs["kde"], runs["wide"], **wrong)
    with pytest.raises(DataError, match="type ndarray"):
        compare(runs["kde"], np.zeros(60))


# --- less usual audits


def test_equal_scores_have_no_ranks_and_the_words_say_so():
    scores = simulated(np.arange(40.0), np.random.default_rng(0))
    flat = {name: np.zeros_like(getattr(scores, name)) for name in ARRAYS}
    found = compare(replace(scores, **flat), scores, names=["flat", "rising"])
    assert "no rank correlation, because all scores of one are equal" in repr(found)
    assert not any("nan" in sentence for sentence in found.sentences())
    json.dumps(found.to_dict(), allow_nan=False)


def test_groups_widen_the_intervals():
    rng, n = np.random.default_rng(0), 60
    groups = np.repeat(np.arange(12), 5)
    truth = np.repeat(rng.normal(0, 3, 12), 5)  # what differs, differs by group
    a, b = (Audited(name, "", simulated(t, rng)) for name, t in (("a", np.zeros(n)), ("b", truth)))
    alone, together = (mean_difference(a, b, by) for by in (None, groups))
    assert alone.value == together.value
    assert np.ptp(together.interval) > 1.6 * np.ptp(alone.interval)


def test_an_example_without_a_score_is_left_out_of_means_and_ranks():
    rng = np.random.default_rng(1)
    a, b = simulated(np.zeros(50), rng), simulated(np.ones(50), rng)
    lost = {name: np.where(np.arange(50) == 7, np.nan, getattr(a, name)) for name in ARRAYS}
    found = compare(replace(a, **lost), b)
    pair, whole = found.pairs[0], compare(a, b).pairs[0]
    kept = np.arange(50) != 7
    assert pair.mean.value == pytest.approx((b.score - a.score)[kept].mean())
    assert np.isnan(pair.q_value[7]) and np.isfinite(pair.q_value[kept]).all()
    assert abs(pair.agreement.rho.value - whole.agreement.rho.value) < 0.2
    json.dumps(found.to_dict(), allow_nan=False)


def test_infinite_scores_are_ranked_but_have_no_mean():
    X = np.concatenate([blobs().astype(np.float64), [[99.0, 99.0, 99.0]]])
    tophat = genmem.leave_one_out(KernelDensity(bandwidth=3.0, kernel="tophat"), X)
    wide = genmem.leave_one_out(KernelDensity(bandwidth=3.0), X)
    found = compare(tophat, wide)
    assert np.isinf(tophat.score[60]) and np.isnan(found.pairs[0].mean.value)
    assert 60 in found.memorized.everywhere and found.pairs[0].agreement.rho.value > 0.5
    json.dumps(found.to_dict(), allow_nan=False)


def test_repeats_that_failed_are_not_compared(tmp_path, runs):
    """A copy of a run in which every refit of one repeat failed shares the others."""
    broken = tmp_path / "kde"
    shutil.copytree(runs["kde"].path, broken)
    run = genmem.Run.open(broken)
    for shard in range(3):
        run.write_shard(shard, log_probs=np.full((1, 1, 60), np.nan, np.float32), failed=np.array(["by hand"]))
    run = genmem.Run.open(broken)
    with pytest.raises(IncompleteRunError, match="scores of 3 repeats, and refits of 2"):
        compare(runs["kde"], run)
    stages.score(run)
    pair = compare(runs["kde"], run, names=["a", "b"]).pairs[0]
    assert pair.shared == 0  # two shared repeats are too few to compare one by one
    assert np.isnan(pair.q_value).all() and np.isfinite(pair.mean.value)
