"""Are p values uniform without memorization, do false discovery rates hold, do 95% intervals cover?

Prints the tables of docs/calibration.md, each number with its Monte-Carlo error over independent studies. `--smoke`
runs a few studies. `--refits FOLDER` adds studies on real refits: VAEs on digits, some of which no refit trains on;
given placebo labels of in and out, those must have uniform p. Their log p are kept in FOLDER and used again.
"""

import time
from pathlib import Path

import numpy as np
import torch
from common import options, parse, run_parts, scratch
from scipy import stats as scipy_stats
from sklearn.datasets import load_digits

from genmem.leaveout import memorization_score
from genmem.leaveout.estimators import log_mean, mean_log, repeats_of
from genmem.leaveout.tasks import refit_recipe
from genmem.models import VAE, log_prob
from genmem.run.splits import Splits
from genmem.training import Lane, train

ESTIMATORS = ("mean_log", "log_mean")
NOISE = {"normal": None, "skewed": 0.5}  # skewness -2.8
SHARED = (0.0, 0.5)


def noise(rng, shape, skew=None):
    """Standard normal noise, or left-skewed noise of variance 1: minus a centred gamma variable."""
    if skew is None:
        return rng.standard_normal(shape)
    return (skew - rng.gamma(skew, 1, shape)) / np.sqrt(skew)


def simulated(splits, rng, *, skew=None, shared=0.0, effect=0.0, spread=None):
    """Log p under refits: own noise, spread differently by example, and a part that a refit's examples share."""
    spread = np.sqrt(4 / rng.chisquare(4, splits.n)) if spread is None else spread
    own = noise(rng, splits.held_out.shape, skew) * spread
    together = noise(rng, (splits.n_splits, 1), skew)
    return -50 + np.sqrt(1 - shared) * own + np.sqrt(shared) * together - effect * splits.held_out


def distance(p):
    """Largest distance of the distribution of p from uniform, both ways and on the liberal side."""
    found = (
        scipy_stats.ks_1samp(p, scipy_stats.uniform.cdf),
        scipy_stats.ks_1samp(p, scipy_stats.uniform.cdf, alternative="greater"),
    )
    return [test.statistic for test in found]


def pm(values, digits=4):
    """Mean and Monte-Carlo error over studies."""
    values = np.asarray(values, float)
    if len(values) < 2 or np.isnan(values).any():
        return "" if np.isnan(values).any() else f"{values[0]:.{digits}f}"
    return f"{values.mean():.{digits}f} ± {values.std(ddof=1) / np.sqrt(len(values)):.{digits}f}"


def seed_of(study, folds, repeats, skew, shared):
    """No two designs share a stream: their deviations are independent."""
    return [study, folds, repeats, 0 if skew is None else 1, round(10 * shared)]


def table(title, head):
    print(f"\n## {title}\n\n| {' | '.join(head)} |\n|{'---|' * len(head)}", flush=True)


def row(*cells):
    print("| " + " | ".join(str(cell) for cell in cells) + " |", flush=True)


# --- p under no effect


def sizes(smoke):
    n, studies = 500, 4 if smoke else 100
    table("Size of p", ["estimator", "noise", "shared", "L", "K", "size at .05", "size at .01", "KS", "KS liberal"])
    for estimator in ESTIMATORS:
        for name, skew in NOISE.items():
            for shared in SHARED:
                for repeats in (3,) if smoke else tested((1, 2, 3, 5, 10), estimator):
                    for folds in (5,) if smoke else (5, 10):
                        p = null_p(n, folds, repeats, studies, estimator, skew, shared)
                        level = [pm([(one <= a).mean() for one in p]) for a in (0.05, 0.01)]
                        ks = [f"{d:.3f}" for d in distance(np.concatenate(p))]
                        row(estimator, name, shared, repeats, folds, *level, *ks)


def tested(repeats, estimator):
    """The numbers of repeats at which an estimator has a test."""
    return [r for r in repeats if r > 1 or estimator == "log_mean"]


def null_p(n, folds, repeats, studies, estimator, skew, shared):
    found = []
    for study in range(studies):
        splits = Splits.k_fold(n, folds, repeats, seed=study)
        rng = np.random.default_rng(seed_of(study, folds, repeats, skew, shared))
        ell = simulated(splits, rng, skew=skew, shared=shared)
        found.append(memorization_score(ell, splits.held_out, estimator=estimator, seed=study).p_value)
    return found


def failures(smoke):
    """Sizes where two splits failed, apart for examples with a score in fewer and in more repeats."""
    table("Size of p with two failed splits, K = 5", ["noise", "shared", "L", "repeats left", "at .05", "at .01"])
    for name, skew in NOISE.items():
        for shared in SHARED:
            for repeats, lost in ((2, [1, 2]), (3, [1, 7])):
                found = {}
                for study in range(4 if smoke else 100):
                    splits = Splits.k_fold(500, 5, repeats, seed=study)
                    rng = np.random.default_rng([7, *seed_of(study, 5, repeats, skew, shared)])
                    ell = simulated(splits, rng, skew=skew, shared=shared)
                    ell[lost] = np.nan
                    scores = memorization_score(ell, splits.held_out, seed=study)
                    for left in np.unique(scores.repeats_used):
                        found.setdefault(left, []).append(scores.p_value[scores.repeats_used == left])
                for left, p in sorted(found.items()):
                    level = [pm([(one <= a).mean() for one in p]) for a in (0.05, 0.01)]
                    untested = np.isnan(np.concatenate(p)).all()
                    row(name, shared, repeats, left, *(["(no p)"] * 2 if untested else level))


# --- false discoveries


def discoveries(smoke, share=0.3):
    n, studies = 600, 4 if smoke else 40
    head = ["estimator", "noise", "shared", "L", "K", "FDR, BH", "power, BH", "FDR, BY", "power, BY", "FDR, M <= 1"]
    table(f"False discovery rate at q = .05, {share:.0%} memorized", head)
    for estimator in ESTIMATORS:
        for name, skew in NOISE.items():
            for shared in SHARED:
                for repeats in (3,) if smoke else (2, 3, 5, 10):
                    for folds in (5,) if smoke else (5, 10):
                        found = [
                            rates(n, folds, repeats, study, estimator, skew, shared, share) for study in range(studies)
                        ]
                        row(estimator, name, shared, repeats, folds, *(pm(c, 3) for c in zip(*found, strict=True)))


def rates(n, folds, repeats, study, estimator, skew, shared, share):
    rng = np.random.default_rng(seed_of(study, folds, repeats, skew, shared))
    effect = np.where(rng.random(n) < share, 2 * rng.standard_exponential(n) + 2, 0.0)
    splits = Splits.k_fold(n, folds, repeats, seed=study)
    ell = simulated(splits, rng, skew=skew, shared=shared, effect=effect)
    scores = memorization_score(ell, splits.held_out, estimator=estimator, seed=study)
    found = []
    for method in ("bh", "by"):
        flagged = scores.q_values(method) <= 0.05
        found += [false_share(flagged, effect > 0), flagged[effect > 0].mean()]
    above = scores.q_values(delta=1.0) <= 0.05
    return [*found, np.nan if np.isnan(scores.p_above(1.0)).all() else false_share(above, effect > 1)]


def false_share(flagged, true):
    return (flagged & ~true).sum() / max(flagged.sum(), 1)


# --- the bias of log_mean


def bias(smoke):
    n, studies = 2000 if smoke else 20_000, 3 if smoke else 6
    table("Score without memorization, normal noise of spread s, K = 10", ["L", "s", "log_mean", "95%", "mean_log"])
    for repeats, spread in [(10, s) for s in ((1, 5) if smoke else range(1, 11))] + [(1, 5)]:
        splits = Splits.k_fold(n, 10, repeats)
        rows, held, found = repeats_of(splits.held_out), splits.held_out, []
        for study in range(studies):
            ell = np.random.default_rng([spread, study]).normal(0, spread, held.shape)
            log_in, log_out = log_mean(ell, held, ~held, rows)
            plain_in, plain_out = mean_log(ell, held, ~held, rows)
            score = log_in - log_out
            found.append((score.mean(), np.quantile(score, 0.95), (plain_in - plain_out).mean()))
        row(repeats, spread, *(pm(c, 3) for c in zip(*found, strict=True)))


# --- coverage


def kernel_density(n=200, bandwidth=0.4):
    """Log p of every point under a Gaussian kernel density estimate of those kept, up to a constant."""
    X = np.random.default_rng(0).standard_t(5, (n, 2))
    kernel = np.exp(-((X[:, None] - X) ** 2).sum(-1) / (2 * bandwidth**2))
    return n, lambda held: np.log(~held @ kernel) - np.log((~held).sum(1))[:, None]


def fitted_normal(n=100, d=5):
    """Log p of every point under the normal law fitted to those kept by maximum likelihood."""
    X = np.random.default_rng(1).standard_t(5, (n, d))
    products = (X[:, :, None] * X[:, None]).reshape(n, -1)

    def log_p(held):
        keep = ~held / (~held).sum(1, keepdims=True)
        mean = keep @ X
        covariance = (keep @ products).reshape(-1, d, d) - mean[:, :, None] * mean[:, None]
        apart = X - mean[:, None]  # (splits, n, d)
        squares = np.einsum("sni,sij,snj->sn", apart, np.linalg.inv(covariance), apart, optimize=True)
        return -0.5 * (squares + np.linalg.slogdet(covariance)[1][:, None] + d * np.log(2 * np.pi))

    return n, log_p


def design_mean(n, log_p, folds, repeats):
    """The estimand: the score of each point averaged over random cuts into folds, from very many of them."""
    total = np.zeros(n)
    for part in range(repeats // 50):
        splits = Splits.k_fold(n, folds, 50, seed=10_000 + part)
        total += memorization_mean(log_p(splits.held_out), splits)
    return total / (repeats // 50)


def memorization_mean(ell, splits):
    inside, outside = mean_log(ell, splits.held_out, ~splits.held_out, repeats_of(splits.held_out))
    return inside - outside


def coverage(smoke):
    studies = 10 if smoke else 200
    table("Coverage of the 95% interval", ["case", "K", "L", *COVERAGE])
    for name, case in {"KDE": kernel_density, "normal, fitted": fitted_normal}.items():
        n, log_p = case()
        for folds in (5,) if smoke else (5, 10):
            truth = design_mean(n, log_p, folds, 200 if smoke else 4000)
            for repeats in (3,) if smoke else (3, 5, 8, 10):
                refit = ((s, log_p(s.held_out)) for s in (Splits.k_fold(n, folds, repeats, i) for i in range(studies)))
                covered(name, folds, repeats, ((*pair, truth) for pair in refit))
    for (name, skew), shared in [(item, s) for item in NOISE.items() for s in SHARED]:
        for repeats in (3,) if smoke else (3, 5, 8, 10):
            some = (simulation(skew, shared, repeats, study) for study in range(max(4, studies // 5)))
            covered(f"simulated, {name}, shared {shared}", 5, repeats, some)


def simulation(skew, shared, repeats, study):
    rng = np.random.default_rng(seed_of(study, 5, repeats, skew, shared))
    splits, effect = Splits.k_fold(500, 5, repeats, seed=study), rng.standard_exponential(500)
    return splits, simulated(splits, rng, skew=skew, shared=shared, effect=effect), effect


COVERAGE = ["interval", "covers", "truth above", "truth below", "top tenth covers", "width", "FDR, M <= median M"]


def covered(name, folds, repeats, studies):
    found = {True: [], False: []}
    for splits, ell, truth in studies:
        for moderate in (False, True):
            scores = memorization_score(ell, splits.held_out, moderate=moderate)
            found[moderate].append(hits(scores, scores.interval(), truth))
    for moderate, values in found.items():
        columns = zip(*values, strict=True)
        row(name, folds, repeats, "moderated" if moderate else "plain", *(pm(c, 3) for c in columns))


def hits(scores, interval, truth):
    """How an interval does in one study, and the false share among those flagged as above the median of the truth."""
    (low, high), top, median = interval, truth >= np.quantile(truth, 0.9), np.median(truth)
    inside = (low <= truth) & (truth <= high)
    false = false_share(scores.q_values(delta=median) <= 0.05, truth > median)
    return inside.mean(), (truth > high).mean(), (truth < low).mean(), inside[top].mean(), (high - low).mean(), false


# --- real refits


STUDIES = {  # settings, digits folded, digits that no refit trains on, repeats
    "small": ({"hidden": (32,), "latent_dim": 4, "epochs": 150, "learning_rate": 3e-3}, 300, 300, 80),
    "default": ({"hidden": (128, 64), "latent_dim": 8, "epochs": 100}, 1647, 150, 8),
}


def digits_refits(folder, name, smoke, folds=5):
    """Splits, and log p of the folded digits, then of those that no refit trains on: (splits, n)."""
    settings, n, never, repeats = STUDIES[name]
    if smoke:
        settings, n, never, repeats = {**settings, "epochs": 1}, n // 5, never // 5, max(4, repeats // 10)
    splits, path = Splits.k_fold(n, folds, repeats), folder / f"{name}.npz"
    if path.exists():
        with np.load(path) as kept:
            return splits, kept["ell"]
    X = (load_digits().data / 16).astype(np.float32)
    X = X[np.random.default_rng(0).permutation(len(X))][: n + never]
    model = VAE(**settings).resolve(X)
    recipe = refit_recipe(model, X.shape[1:], int((~splits.held_out).sum(1).min()), n, seed=0)
    tensor, ell, start = torch.from_numpy(X), [], time.perf_counter()
    for some in np.array_split(np.arange(splits.n_splits), max(1, splits.n_splits // 20)):
        lanes = [Lane(np.flatnonzero(~splits.held_out[s]), int(s), int(splits.repeat[s])) for s in some]
        for lane, module in zip(lanes, train(recipe, tensor, lanes, batched=True), strict=True):
            ell.append(log_prob(module, tensor, draws=64, seed=0, keys=(lane.repeat,)).log_prob)
        print(f"{name}: {len(ell)} of {splits.n_splits} refits, {time.perf_counter() - start:.0f} s", flush=True)
    folder.mkdir(parents=True, exist_ok=True)
    np.savez(path, ell=np.array(ell))
    return splits, np.array(ell)


def placebo_labels(name, splits, ell, labelings, folds=5):
    """Give examples that no refit trained on random labels of in and out, again and again."""
    fresh, whole = ell[:, splits.n :], splits.n_repeats
    head = ["estimator", "L", "studies", "size at .05", "size at .01", "KS", "KS liberal", "KS test rejects at .05"]
    table(f"{fresh.shape[1]} digits that no {name} refit trained on, placebo labels, K = {folds}", head)
    for estimator in ESTIMATORS:
        for repeats in [r for r in tested((1, 2, 3, 5, 8, 10), estimator) if r <= whole]:
            found = []  # one entry for each set of refits; only these are independent
            for first in range(0, whole - repeats + 1, repeats):
                part = fresh[first * folds : (first + repeats) * folds]
                found.append([placebo_p(part, repeats, estimator, first + 1000 * i) for i in range(labelings)])
            p = np.concatenate([np.concatenate(one) for one in found])
            level = [pm([np.mean([(p <= a).mean() for p in one]) for one in found]) for a in (0.05, 0.01)]
            rejects = np.mean([scipy_stats.kstest(p, "uniform").pvalue < 0.05 for one in found for p in one])
            discrete = estimator == "log_mean" and repeats < 5
            ks = [f"{d:.3f}" for d in distance(p)]
            row(estimator, repeats, len(found), *level, *ks, "(discrete)" if discrete else f"{rejects:.2f}")


def placebo_p(ell, repeats, estimator, seed):
    placebo = Splits.k_fold(ell.shape[1], len(ell) // repeats, repeats, seed=seed)
    return memorization_score(ell, placebo.held_out, estimator=estimator, seed=seed).p_value


def refit_coverage(name, splits, ell, folds=5):
    """Coverage of the mean over all repeats by intervals from L of them, narrowed by what L have in it already."""
    ell, whole = ell[:, : splits.n], splits.n_repeats
    truth = memorization_mean(ell, splits)
    top = truth >= np.quantile(truth, 0.9)
    title = f"Coverage, {name} refits: mean M {truth.mean():.2f}, top tenth {truth[top].mean():.2f} nats"
    table(title, ["L", "studies", *COVERAGE])
    for repeats in [r for r in (3, 5, 8, 10) if r <= whole]:
        for moderate in (False, True):
            found = []
            for first in range(0, whole - repeats + 1, repeats):
                rows = slice(first * folds, (first + repeats) * folds)
                scores = memorization_score(ell[rows], splits.held_out[rows], moderate=moderate)
                narrowed = scores.score + (scores.interval() - scores.score) * np.sqrt(1 - repeats / whole)
                found.append(hits(scores, narrowed, truth))
            columns = zip(*found, strict=True)
            row(repeats, len(found), "moderated" if moderate else "plain", *(pm(c, 3) for c in columns))


def refits(folder, smoke):
    for name in STUDIES:
        splits, ell = digits_refits(folder, name, smoke)
        many = STUDIES[name][-1] > 20
        placebo_labels(name, splits, ell, 2 if smoke else 5 if many else 100)
        if many:
            refit_coverage(name, splits, ell)


def main(argv=None):
    parser = options(__doc__)
    parts = {"sizes": sizes, "failures": failures, "discoveries": discoveries, "bias": bias, "coverage": coverage}
    parser.add_argument("--refits", type=Path, metavar="FOLDER", help="also real refits, kept in FOLDER")
    parser.add_argument("--only", nargs="*", choices=parts, default=list(parts))
    given = parse(parser, argv)
    run_parts(given, parts)
    folder = scratch() if given.smoke else given.refits
    if folder:
        refits(folder, given.smoke)


if __name__ == "__main__":
    main()
