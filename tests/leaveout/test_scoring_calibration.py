"""What p, q and intervals promise holds: on simulations, on closed-form densities, and on real refits.

Tolerances are three to four binomial errors, or those over studies where examples of a study depend on each other.
`bench/calibration.py` measures the same at full size.
"""

import numpy as np
import pytest
import torch
from scipy import stats as scipy_stats
from score_matrices import refits

from genmem import stats
from genmem.errors import DataError
from genmem.leaveout.estimators import log_mean, mean_log, repeats_of
from genmem.leaveout.scoring import memorization_score
from genmem.models import VAE, log_prob
from genmem.run import Splits
from genmem.training import Lane, train

# --- p


@pytest.mark.parametrize("repeats", [3, 5, 10])
def test_p_is_uniform_without_memorization(repeats):
    p = []
    for study in range(20):
        splits = Splits.k_fold(300, 5, repeats, seed=study)
        p.append(memorization_score(refits(splits, study), splits.held_out, seed=study).p_value)
    # 6,000 values: the distance stays below 1.63 / sqrt(6,000) = .021 in 99% of studies of an exactly uniform p.
    assert scipy_stats.kstest(np.concatenate(p), "uniform").statistic < 0.03


def test_p_is_not_uniform_with_memorization():
    splits = Splits.k_fold(300, 5, 3)
    p = memorization_score(refits(splits, 0, effect=0.5), splits.held_out).p_value
    assert scipy_stats.kstest(p, "uniform").statistic > 0.1


@pytest.fixture(scope="module")
def real_refits():
    """Log p of 80 examples that were folded, and of 300 that no network trained on, under 5 x 4 small networks."""
    rng = np.random.default_rng(0)
    X = torch.from_numpy(rng.normal(size=(380, 3)) @ rng.normal(size=(3, 8)) + 0.3 * rng.normal(size=(380, 8)))
    X = X.to(torch.float32)
    splits = Splits.k_fold(80, 5, 4)
    model = VAE(hidden=(24,), latent_dim=2, epochs=80, batch_size=32, learning_rate=5e-3, likelihood="gaussian")
    recipe = model.resolve(X.numpy()).recipe((8,), 64, seed=0)
    lanes = [Lane(np.flatnonzero(~splits.held_out[s]), s, int(splits.repeat[s])) for s in range(splits.n_splits)]
    ell = [
        log_prob(module, X, draws=16, seed=0, keys=(lane.repeat,)).log_prob
        for module, lane in zip(train(recipe, X, lanes, batched=True), lanes, strict=True)
    ]
    return splits, np.array(ell)


@pytest.mark.slow
@pytest.mark.parametrize("repeats", [2, 4])
@pytest.mark.parametrize("estimator", ["mean_log", "log_mean"])
def test_examples_no_network_trained_on_have_uniform_p(real_refits, repeats, estimator):
    ell = real_refits[1][: 5 * repeats, 80:]
    assert ell.std(axis=0).min() > 0.05  # the networks do differ
    p = []
    for seed in range(12):  # arbitrary labels of in and out
        labels = Splits.k_fold(300, 5, repeats, seed=seed)
        p.append(memorization_score(ell, labels.held_out, estimator=estimator, seed=seed).p_value)
    p = np.concatenate(p)
    sizes = [(p <= level).mean() for level in (0.5, 0.1, 0.05)]
    if estimator == "mean_log":
        assert 0.45 <= sizes[0] <= 0.55 and 0.07 <= sizes[1] <= 0.13
        assert scipy_stats.kstest(p, "uniform").statistic < 0.06
    assert sizes[1] <= 0.13 and sizes[2] <= 0.07


@pytest.mark.slow
def test_examples_the_networks_did_train_on_do_not(real_refits):
    splits, ell = real_refits
    found = memorization_score(ell[:, :80], splits.held_out)
    assert found.score.mean() > 0.3 and (found.p_value <= 0.05).mean() > 0.2


# --- q


@pytest.mark.parametrize("skew", [None, 0.5])
@pytest.mark.parametrize("repeats", [2, 3, 5])
def test_false_discoveries_are_as_rare_as_promised(repeats, skew):
    rates = {"bh": [], "by": [], "above": []}
    for study in range(16):
        splits, rng = Splits.k_fold(400, 5, repeats, seed=study), np.random.default_rng(study)
        effect = np.where(rng.random(400) < 0.3, 2 + 2 * rng.standard_exponential(400), 0.0)
        found = memorization_score(refits(splits, study, skew=skew, shared=0.3, effect=effect), splits.held_out)
        for name, q, true in (
            ("bh", found.q_values(), effect > 0),
            ("by", found.q_values("by"), effect > 0),
            ("above", found.q_values(delta=1.0), effect > 1),
        ):
            flagged = q <= 0.05
            rates[name].append((flagged & ~true).sum() / max(flagged.sum(), 1))
    error = np.std(rates["bh"]) / 4
    assert np.mean(rates["bh"]) <= 0.05 * 0.7 + 3 * error + 0.01
    assert np.mean(rates["by"]) <= 0.01 and np.mean(rates["above"]) <= 0.05


def test_q_values_are_of_the_method_and_the_hypothesis_asked_for():
    splits = Splits.k_fold(60, 5, 4)
    found = memorization_score(refits(splits, 0, effect=2.0), splits.held_out)
    np.testing.assert_array_equal(found.q_values(), found.q_value)
    np.testing.assert_array_equal(found.q_values("by"), stats.benjamini_yekutieli(found.p_value))
    np.testing.assert_array_equal(found.q_values("by", delta=1), stats.benjamini_yekutieli(found.p_above(1)))
    np.testing.assert_allclose(found.q_values(delta=0.0), found.q_value)
    assert np.isnan(
        memorization_score(refits(splits, 0), splits.held_out, estimator="log_mean").q_values(delta=1)
    ).all()
    with pytest.raises(DataError, match='"bh" or "by"; got \'holm\''):
        found.q_values("holm")


# --- the bias of the published estimator


@pytest.mark.parametrize(
    ("repeats", "spread", "bias", "quantile"),
    [(10, 2, 0.406, 2.05), (10, 4, 1.828, 5.96), (10, 6, 3.560, 10.20), (10, 10, 7.212, 18.72), (1, 5, 5.53, None)],
)
def test_the_bias_of_log_mean_is_the_one_in_the_table(repeats, spread, bias, quantile):
    splits = Splits.k_fold(40_000, 10, repeats)
    ell = np.random.default_rng(spread).normal(0, spread, splits.held_out.shape)
    log_in, log_out = log_mean(ell, splits.held_out, ~splits.held_out, repeats_of(splits.held_out))
    score = log_in - log_out
    assert score.mean() == pytest.approx(bias, abs=4 * score.std() / 200)
    if quantile is not None:
        assert np.quantile(score, 0.95) == pytest.approx(quantile, rel=0.03)


# --- intervals


def test_an_interval_is_the_t_interval():
    splits = Splits.k_fold(30, 5, 4)
    found = memorization_score(refits(splits, 1), splits.held_out, moderate=False)
    by_scipy = scipy_stats.t.interval(0.9, 3, loc=found.score, scale=found.standard_error)
    np.testing.assert_allclose(found.interval(0.9), by_scipy, rtol=1e-9)
    for other in (
        memorization_score(refits(splits, 1), splits.held_out, estimator="log_mean"),
        memorization_score(refits(splits, 1)[:10], splits.held_out[:10]),
    ):
        assert np.isnan(other.interval()).all() and other.interval().shape == (2, 30)
    with pytest.raises(DataError, match="between 0 and 1; got 95"):
        found.interval(95)


@pytest.mark.parametrize("moderate", [True, False])
@pytest.mark.parametrize("repeats", [3, 8])
def test_intervals_cover_simulated_scores(repeats, moderate):
    covered = []
    for study in range(20):
        splits, effect = Splits.k_fold(300, 5, repeats), np.random.default_rng(study).exponential(2.0, 300)
        ell = refits(splits, 50 + study, shared=0.3, effect=effect)
        low, high = memorization_score(ell, splits.held_out, moderate=moderate).interval()
        covered.append(((low <= effect) & (effect <= high)).mean())
    assert np.mean(covered) == pytest.approx(0.95, abs=0.012)


@pytest.mark.slow
def test_intervals_of_a_kernel_density_cover_less_than_they_say():
    """Whether two neighbours are left out together decides the score of an isolated point: rare, hence skewed."""
    X = np.random.default_rng(0).standard_t(5, (120, 2))
    kernel = np.exp(-((X[:, None] - X) ** 2).sum(-1) / 0.32)

    def log_p(held):
        return np.log(~held @ kernel) - np.log((~held).sum(1))[:, None]

    many = Splits.k_fold(120, 5, 1000, seed=99)  # the estimand: the mean over random cuts
    inside, outside = mean_log(log_p(many.held_out), many.held_out, ~many.held_out, repeats_of(many.held_out))
    truth = inside - outside
    found = {repeats: [] for repeats in (3, 10)}
    for study in range(60):
        for repeats, covered in found.items():
            splits = Splits.k_fold(120, 5, repeats, seed=study)
            low, high = memorization_score(log_p(splits.held_out), splits.held_out).interval()
            covered.append(((low <= truth) & (truth <= high)).mean())
    assert 0.85 <= np.mean(found[3]) <= 0.95
    assert 0.88 <= np.mean(found[10]) <= 0.96
