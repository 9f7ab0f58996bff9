"""Does what is said of listed and named examples hold: intervals after selection, power, the leave-one-out scale?

Prints tables of docs/calibration.md. `--refits FOLDER` adds coverage on digits, from the refits that
`bench/calibration.py --refits FOLDER` keeps. `--smoke` runs a few studies.
"""

from pathlib import Path

import numpy as np
from calibration import NOISE, digits_refits, memorization_mean, pm, row, simulated, table
from calibration_truth import WORLDS
from common import options, parse, run_parts, scratch
from scipy.stats import multivariate_normal
from sklearn.mixture import GaussianMixture
from sklearn.neighbors import KernelDensity

from genmem.leaveout import effective_parameters, list_mean, memorization_score, naming_power, selected_interval
from genmem.run.splits import Splits

SHARE = 20  # one in so many is listed


# --- intervals and means of a list


def lists(smoke, n=600):
    """Coverage of the highest 5% by score as shown and by true score, and the mean of the list over its truth."""
    head = ["world", "noise", "L", "shown: ordinary", "after selection", "by true score: ordinary", "after selection"]
    table(f"The highest 5% of {n} examples, K = 5", [*head, "widths", "mean shown / true", "cross-fitted / true"])
    for name, draw in WORLDS.items():
        for kind, skew in NOISE.items():
            for repeats in (3,) if smoke else (3, 4, 8):
                found = []
                for study in range(3 if smoke else 60):
                    rng = np.random.default_rng([study, repeats, 3])
                    truth, splits = draw(rng, n), Splits.k_fold(n, 5, repeats, seed=study)
                    ell = simulated(splits, rng, effect=truth, skew=skew)
                    found.append(_listed(memorization_score(ell, splits.held_out), truth))
                row(name, kind, repeats, *(pm(column, 3) for column in zip(*found, strict=True)))


def _listed(scores, truth, narrowed=1.0):
    k = len(truth) // SHARE
    shown, top = np.argsort(-scores.score)[:k], np.argsort(-truth, kind="stable")[:k]
    cells, widths = [], []
    for chosen in (shown, top):
        for interval in (scores.interval()[:, chosen], selected_interval(scores, chosen)):
            low, high = scores.score[chosen] + narrowed * (interval - scores.score[chosen])
            cells.append(((low <= truth[chosen]) & (truth[chosen] <= high)).mean())
            widths.append((high - low).mean())
    true, mean = truth[shown].mean(), list_mean(scores.per_repeat, k).value
    return [*cells, widths[1] / widths[0], scores.score[shown].mean() / true, mean / true]


def listed_digits(folder, smoke, folds=5):
    """The same on refits of digits: the truth is the mean over all repeats, and intervals are narrowed accordingly."""
    splits, ell = digits_refits(folder, "small", smoke)
    ell, whole = ell[:, : splits.n], splits.n_repeats
    truth = memorization_mean(ell, splits)
    table("The highest 5% of 300 digits", ["L", "shown: ordinary", "after selection", "by true score: ordinary",
          "after selection", "widths", "mean shown / true", "cross-fitted / true"])  # fmt: skip
    for repeats in [r for r in (3, 4, 8) if r <= whole]:
        found = []
        for first in range(0, whole - repeats + 1, repeats):
            rows = slice(first * folds, (first + repeats) * folds)
            scores = memorization_score(ell[rows], splits.held_out[rows])
            found.append(_listed(scores, truth, np.sqrt(1 - repeats / whole)))
        row(repeats, *(pm(column, 3) for column in zip(*found, strict=True)))


# --- power


def named(smoke, n=600, planted=60):
    """The share of planted examples that is named, and the probability that is said."""
    table(f"{planted} of {n} examples with the same true score, K = 5", ["true score", "noise", "L", "named", "said"])
    for delta in (1.0, 3.0):
        for kind, skew in NOISE.items():
            for repeats in (3,) if smoke else (3, 4, 8):
                found = []
                for study in range(3 if smoke else 60):
                    rng = np.random.default_rng([study, repeats, 9])
                    truth, splits = rng.exponential(2, n), Splits.k_fold(n, 5, repeats, seed=study)
                    truth[:planted] = delta
                    scores = memorization_score(simulated(splits, rng, effect=truth, skew=skew), splits.held_out)
                    found.append([(scores.q_value[:planted] < 0.05).mean(), naming_power(scores, delta)])
                row(delta, kind, repeats, *(pm(column, 3) for column in zip(*found, strict=True)))


# --- the effective number of parameters


class Normal:
    """A multivariate normal law by maximum likelihood."""

    def fit(self, X):
        self.law = multivariate_normal(X.mean(0), np.cov(X.T, bias=True))
        return self

    def score_samples(self, X):
        return np.atleast_1d(self.law.logpdf(X))


def _clusters(rng, n, d):
    return rng.standard_normal((n, d)) + 4.0 * (np.arange(n)[:, None] % 3)


MODELS = {
    "normal law, d = 10": (Normal, lambda rng, n: rng.standard_normal((n, 10))),
    "mixture of 3, 3 clusters": (lambda: GaussianMixture(3, random_state=0), lambda rng, n: _clusters(rng, n, 4)),
    "mixture of 6, 3 clusters": (lambda: GaussianMixture(6, random_state=0), lambda rng, n: _clusters(rng, n, 4)),
    "kernel density, d = 8": (lambda: KernelDensity(bandwidth=1.0), lambda rng, n: rng.standard_normal((n, 8))),
    "kernel density, d = 32": (lambda: KernelDensity(bandwidth=1.0), lambda rng, n: rng.standard_normal((n, 32))),
}


def effective(smoke, n=300):
    """The leave-one-out scale of the mean score, as a ratio to refitting without each example."""
    head = ["model", "K = 2", "K = 5", "K = 10", "uncorrected, K = 5", "by K = 5 and 10 together"]
    table(f"Mean leave-one-out score from folds / by brute force, {n} examples, L = 4", head)
    for name, (make, draw) in MODELS.items():
        found = []
        for study in range(1 if smoke else 5):
            X = draw(np.random.default_rng(study), 60 if smoke else n)
            whole = make().fit(X).score_samples(X)
            without = [make().fit(np.delete(X, i, 0)).score_samples(X[i : i + 1])[0] for i in range(len(X))]
            exact, designs = float(np.mean(whole - np.array(without))), [_design(make, X, K) for K in (2, 5, 10)]
            ratios = [effective_parameters([one]).leave_one_out.value / exact for one in designs]
            both = effective_parameters(designs[1:]).leave_one_out.value / exact
            found.append([*ratios, designs[1][0].mean() / exact, np.isfinite(both)])
        columns = list(zip(*found, strict=True))
        row(name, *(pm(column, 3) for column in columns[:-1]), f"given in {sum(columns[-1])} of {len(columns[-1])}")


def _design(make, X, folds, repeats=4):
    splits = Splits.k_fold(len(X), folds, repeats, seed=folds)
    ell = np.stack([make().fit(X[~held]).score_samples(X) for held in splits.held_out])
    return memorization_score(ell, splits.held_out).per_repeat, float((~splits.held_out).sum(1).mean())


def main(argv=None):
    parser = options(__doc__)
    parts = {"lists": lists, "named": named, "effective": effective}
    parser.add_argument("--refits", type=Path, metavar="FOLDER", help="also real refits, kept in FOLDER")
    parser.add_argument("--only", nargs="*", choices=parts, default=list(parts))
    given = parse(parser, argv)
    run_parts(given, parts)
    if folder := scratch() if given.smoke else given.refits:
        listed_digits(folder, given.smoke)


if __name__ == "__main__":
    main()
