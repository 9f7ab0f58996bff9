"""Do estimates of true scores and attack rates hold what they promise?

Prints tables of docs/calibration.md: shares above a threshold in worlds with known answers, and membership inference on
simulated refits. `--refits FOLDER` adds attacks on digits that no refit trained on, from the refits that
`bench/calibration.py --refits FOLDER` keeps. `--smoke` runs a few studies.
"""

from pathlib import Path

import numpy as np
from calibration import STUDIES, digits_refits, pm, row, simulated, table
from common import options, parse, run_parts, scratch

from genmem.leaveout import membership_attack, memorization_score, prevalence
from genmem.run.splits import Splits


def attacked(smoke, n=500, folds=5):
    """Membership inference: size without memorization; coverage of its intervals for fixed examples."""
    rng = np.random.default_rng(7)
    scores, spread = 2 * rng.exponential(1, n), np.sqrt(4 / rng.chisquare(4, n))
    head = ["M", "shared", "L", "AUC", "covered", "TPR at 1% FPR", "covered", "epsilon > 0"]
    table("Membership inference on simulated refits, 500 examples, K = 5", head)
    for name, effect in (("0", 0.0), ("exponential, mean 2", scores)):
        for shared in (0.0, 0.5):
            for repeats in (3,) if smoke else (2, 3, 4, 8):
                found = []
                for study in range(4 if smoke else 100):
                    splits = Splits.k_fold(n, folds, repeats, seed=study)
                    rng = np.random.default_rng([study, repeats])
                    ell = simulated(splits, rng, shared=shared, effect=effect, spread=spread)
                    found.append(membership_attack(ell, splits.held_out, seed=study))
                row(name, shared, repeats, *_measured(found))


def _measured(found):
    cells = []
    for rates in ([one.auc for one in found], [one.tpr[0.01] for one in found]):
        truth = np.mean([rate.value for rate in rates])
        inside = [rate.interval[0] <= truth <= rate.interval[1] for rate in rates]
        missing = np.isnan(rates[0].interval[0])
        cells += [pm([rate.value for rate in rates]), "none" if missing else pm(inside, 2)]
    return [*cells, pm([one.epsilon > 0 for one in found], 2)]


WORLDS = {
    "all 1.5": lambda rng, n: np.full(n, 1.5),
    "exponential, mean 3": lambda rng, n: rng.exponential(3, n),
    "20% zeros, else gamma": lambda rng, n: np.where(rng.random(n) < 0.2, 0.0, rng.gamma(2, 1.5, n)),
}


def worlds(smoke, n=600):
    """Shares above a threshold and the tail of true scores: estimates and coverage in worlds with known answers."""
    head = ["world", "L", "above 1: true", "estimate", "covered", "above 3: true", "estimate", "covered"]
    table(f"True scores of {n} examples, K = 5", [*head, "95% quantile: true", "estimate", "covered"])
    for name, draw in WORLDS.items():
        for repeats in (3,) if smoke else (3, 4, 8):
            cells = []
            for study in range(3 if smoke else 60):
                rng = np.random.default_rng([study, repeats, 2])
                truth, splits = draw(rng, n), Splits.k_fold(n, 5, repeats, seed=study)
                ell = simulated(splits, rng, effect=truth)
                cells.append(_held_against(prevalence(memorization_score(ell, splits.held_out)), truth))
            row(name, repeats, *(pm(column, 3) for column in zip(*cells, strict=True)))


def _held_against(found, truth):
    cells = []
    known = [(found.above[at], (truth > at).mean()) for at in (1.0, 3.0)] + [(found.tail, np.quantile(truth, 0.95))]
    for rate, true in known:
        cells += [true, rate.value, rate.interval[0] - 2e-3 <= true <= rate.interval[1] + 2e-3]
    return cells


def placebo_attacks(name, ell, labelings, folds=5):
    """Attack examples that no refit trained on, under random labels of in and out."""
    repeats = len(ell) // folds
    found = []
    for i in range(labelings):
        placebo = Splits.k_fold(ell.shape[1], folds, repeats, seed=i)
        found.append(membership_attack(ell, placebo.held_out, seed=i))
    table(f"Membership attacks on {ell.shape[1]} digits that no {name} refit trained on", ["AUC", "TPR at 1% FPR"])
    row(pm([one.auc.value for one in found]), pm([one.tpr[0.01].value for one in found]))


def main(argv=None):
    parser = options(__doc__)
    parts = {"worlds": worlds, "attacked": attacked}
    parser.add_argument("--refits", type=Path, metavar="FOLDER", help="also real refits, kept in FOLDER")
    parser.add_argument("--only", nargs="*", choices=parts, default=list(parts))
    given = parse(parser, argv)
    run_parts(given, parts)
    if folder := scratch() if given.smoke else given.refits:
        for name in STUDIES:
            splits, ell = digits_refits(folder, name, given.smoke)
            placebo_attacks(name, ell[:, splits.n :], 2 if given.smoke else 30)


if __name__ == "__main__":
    main()
