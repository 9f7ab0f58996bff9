"""Do tests keep their size where their usual assumptions fail, and with what power?

Prints tables of docs/calibration.md: tests of single examples where log p of held-out examples is noisier than that of
training examples, scores of examples that no model trained on where folds are unequal, and tests of groups whose
examples share noise. `--run FOLDER` takes the scores of groups from a
finished run, such as the default audit of digits. `--smoke` runs a few studies.
"""

from functools import partial
from pathlib import Path

import numpy as np
from calibration import false_share, noise, pm, row, table
from common import options, parse, run_parts

from genmem.leaveout import memorization_score
from genmem.regions import group_scores
from genmem.run.directory import Run
from genmem.run.splits import Splits

LAWS = {
    "normal": lambda rng, shape: rng.standard_normal(shape),
    "t, 4 df": lambda rng, shape: rng.standard_t(4, shape) / np.sqrt(2),
    "skewed": lambda rng, shape: noise(rng, shape, 0.5),
}


# --- held-out log p noisier than in-sample log p


def noisy_out(rng, splits, law, ratio, truth, shared):
    """Log p whose noise has `ratio` times the variance where an example is held out."""
    own = LAWS[law](rng, splits.held_out.shape) * np.sqrt(4 / rng.chisquare(4, splits.n))
    together = LAWS[law](rng, (splits.n_splits, 1))
    spread = np.where(splits.held_out, np.sqrt(ratio), 1.0)
    return -50 + (np.sqrt(1 - shared) * own + np.sqrt(shared) * together) * spread - truth * splits.held_out


def ratios(smoke, n=600, folds=5):
    """Size, false-discovery rate and power at two and three repeats, by the ratio of variances out and in."""
    head = ["L", "noise", "shared", "memorized", "ratio", "size at .05", "at .01", "FDR at q = .05", "power"]
    table(f"Held-out log p noisier than in-sample log p, {n} examples, K = {folds}", head)
    for repeats in (2,) if smoke else (2, 3):
        for law in LAWS:
            for shared in (0.0,) if smoke else (0.0, 0.5):
                for memorized in (0.0, 0.3, 0.7):
                    for ratio in (3.0,) if smoke else (1.0, 2.0, 3.0):
                        found = []
                        for study in range(3 if smoke else 100):
                            found.append(_rates(study, n, folds, repeats, law, shared, memorized, ratio))
                        cells = [pm(column, 3) for column in zip(*found, strict=True)]
                        row(repeats, law, shared, memorized, ratio, *cells)


def _rates(study, n, folds, repeats, law, shared, memorized, ratio):
    rng = np.random.default_rng([study, repeats, list(LAWS).index(law), round(10 * memorized), round(10 * shared)])
    truth = np.where(rng.random(n) < memorized, 2 + 2 * rng.standard_exponential(n), 0.0)
    splits = Splits.k_fold(n, folds, repeats, seed=study)
    found = memorization_score(noisy_out(rng, splits, law, ratio, truth, shared), splits.held_out, seed=study)
    p, flagged, null = found.p_value, found.q_value <= 0.05, truth == 0
    power = flagged[~null].mean() if memorized else np.nan
    return (p[null] <= 0.05).mean(), (p[null] <= 0.01).mean(), false_share(flagged, truth > 0), power


# --- unequal folds


def fitted_normal(X, Y, held):
    """Log p of Y under the normal law fitted to the examples of X that each split keeps."""
    n, d = X.shape
    keep = ~held / (~held).sum(1, keepdims=True)
    mean = keep @ X
    covariance = (keep @ (X[:, :, None] * X[:, None]).reshape(n, -1)).reshape(-1, d, d) - mean[:, :, None] * mean[
        :, None
    ]
    apart = Y - mean[:, None]  # (splits, n, d)
    squares = np.einsum("sni,sij,snj->sn", apart, np.linalg.inv(covariance), apart, optimize=True)
    return -0.5 * (squares + np.linalg.slogdet(covariance)[1][:, None] + d * np.log(2 * np.pi))


ONE_BIG = np.r_[np.zeros(120, int), np.repeat(np.arange(1, 9), 10)]
POWER_LAW = np.repeat(np.arange(12), [50, 40, 30, 20, 15, 10, 10, 8, 6, 5, 4, 2])
DESIGNS = {
    "one group of 120, eight of 10": lambda seed: Splits.k_fold(200, 4, 4, seed=seed, groups=ONE_BIG),
    "the same, each left out once": lambda seed: Splits.leave_out(200, ONE_BIG, seed=seed),
    "12 groups of 50 to 2": lambda seed: Splits.k_fold(200, 5, 4, seed=seed, groups=POWER_LAW),
    "10 groups of 20": lambda seed: Splits.k_fold(200, 5, 4, seed=seed, groups=np.arange(200) % 10),
    "folds of random sizes": lambda seed: random_sizes(200, 5, 4, seed),
    "equal folds": lambda seed: Splits.k_fold(200, 5, 4, seed=seed),
}


def random_sizes(n, folds, repeats, seed):
    """Folds of 10 to 30% of the examples, dealt anew in each repeat."""
    rng, sizes = np.random.default_rng(seed), (np.array([0.1, 0.15, 0.2, 0.25, 0.3]) * n).astype(int)
    fold = np.stack([rng.permutation(np.repeat(np.arange(folds), sizes)) for _ in range(repeats)])
    held = (fold[:, None] == np.arange(folds)[:, None]).reshape(-1, n)
    return Splits(held, np.repeat(np.arange(repeats), folds), np.arange(folds * repeats))


def folds(smoke, n=200, d=8):
    """Scores of rows no model trained on, with labels of in and out as the others; apart where nothing balances."""
    head = ["design", "balanced: never trained", "size at .05", "flagged", "trained"]
    table("Unequal folds, normal law of 8 dimensions", [*head, "not balanced", "never trained", "told", "trained"])
    for name, design in DESIGNS.items():
        found = []
        for study in range(3 if smoke else 100):
            rng, splits = np.random.default_rng([4, study]), design(study)
            X, fresh = rng.standard_normal((2, n, d))
            one, other = (
                memorization_score(
                    fitted_normal(X, Y, splits.held_out), splits.held_out, repeat=splits.repeat, seed=study
                )
                for Y in (fresh, X)
            )
            biased = np.zeros(n, bool) if other.uneven is None else other.uneven.size_bias != 0
            tested = one.p_value[np.isfinite(one.p_value)]
            size = (tested <= 0.05).mean() if len(tested) else np.nan
            cells = [one.score[~biased].mean(), size, (one.q_value < 0.05).mean(), other.score[~biased].mean()]
            told = (
                [one.score[biased].mean(), other.uneven.size_bias[biased].mean(), other.score[biased].mean()]
                if biased.any()
                else []
            )
            found.append([*cells, biased.mean(), *told])
        shown = [one for one in found if len(one) == max(map(len, found))]
        row(name, *(pm(column, 3) for column in zip(*shown, strict=True)))


# --- groups


SIZES = {"60 each": [60] * 10, "200 to 5": [200, 120, 80, 60, 50, 40, 20, 15, 10, 5]}
RAISED, THINNED = 8.0, 0.3


def simulated_scores(n=1800, repeats=8):
    """Scores within repeats, with a long tail over examples and noise that grows with the score."""
    rng = np.random.default_rng(0)
    true = rng.gamma(1.2, 5.0, n)
    return true + rng.standard_t(5, (repeats, n)) * (2 + 0.6 * true)


def drawn(rng, scores, repeats, sizes, regional, thinned):
    """Random examples and repeats in random groups; every group's examples share noise of sd `regional` in a repeat.

    If `thinned`, the first group keeps three tenths of its examples, and these score 8 nats more.
    """
    examples, few = rng.choice(scores.shape[1], sum(sizes), replace=False), rng.permutation(len(scores))[:repeats]
    members = rng.permutation(np.repeat(np.arange(len(sizes)), sizes))
    some = scores[np.ix_(few, examples)] + regional * rng.standard_normal((repeats, len(sizes)))[:, members]
    if not thinned:
        return some, members
    mine = np.flatnonzero(members == 0)
    kept = np.delete(np.arange(len(members)), mine[round(THINNED * len(mine)) :])
    return (some + RAISED * (members == 0))[:, kept], members[kept]


def groups(smoke, scores):
    """Tests of groups: size over all groups of a study, and power for one thinned group, plain and times ten."""
    head = ["sizes", "shared noise, nats", "L", "size at .05", "at .005", "power at .05", "corrected for 10 groups"]
    table(f"Tests of groups, 600 of {scores.shape[1]:,} examples", head)
    for name, sizes in SIZES.items():
        for regional in (0.0, 1.0, 3.0):
            for repeats in (4,) if smoke else (2, 3, 4, 8):
                found = []
                for study in range(3 if smoke else 200):
                    rng = np.random.default_rng([study, repeats, round(regional), len(name)])
                    p = np.array(
                        [g.p_value for g in group_scores(*drawn(rng, scores, repeats, sizes, regional, False))]
                    )
                    raised = group_scores(*drawn(rng, scores, repeats, sizes, regional, True))
                    one = next(g.p_value for g in raised if g.name == "0")
                    found.append([(p <= 0.05).mean(), (p <= 0.005).mean(), one <= 0.05, one <= 0.005])
                row(name, regional, repeats, *(pm(column, 3) for column in zip(*found, strict=True)))


def main(argv=None):
    parser = options(__doc__)
    parts = {"ratios": ratios, "folds": folds, "groups": groups}
    parser.add_argument("--only", nargs="*", choices=parts, default=list(parts))
    parser.add_argument("--run", type=Path, metavar="FOLDER", help="a finished run whose scores make the groups")
    given = parse(parser, argv)
    scores = simulated_scores() if given.run is None else Run.open(given.run).result("scores")["per_repeat"]
    run_parts(given, {**parts, "groups": partial(groups, scores=scores)})


if __name__ == "__main__":
    main()
