"""Do errors by group hold where rows belong together, and how wrong are errors by row?

Prints a table of docs/calibration.md: coverage of 95% intervals for the mean, a rank correlation and the rates of an
attack, and the size of the test that a label has a higher mean. `--smoke` runs a few studies.
"""

import time

import numpy as np
from calibration import pm, row, table
from common import machine, options, parse

from genmem import clusters
from genmem.leaveout import membership_attack
from genmem.regions import group_scores
from genmem.run.splits import Splits


def both(measure, member):
    """What a measure gives by group and by row."""
    return [measure(member), measure(None)]


def mean(rng):
    """Groups of 1 to 11 rows that share most of their value, 2 on average."""
    sizes = rng.integers(1, 12, 40)
    member = np.repeat(np.arange(40), sizes)
    x = rng.exponential(2, 40)[member] + 0.3 * rng.standard_normal(len(member))
    return both(lambda groups: abs(x.mean() - 2) <= clusters.half_width([clusters.mean_variance(x, groups)]), member)


def correlation(rng):
    """Two unrelated values, each shared by the 8 rows of a group."""
    member = np.repeat(np.arange(40), 8)
    a, b = (rng.standard_normal(40)[member] + 0.2 * rng.standard_normal(320) for _ in range(2))

    def covers(groups):
        low, high = clusters.spearman(a, b, groups).interval
        return low <= 0 <= high

    return both(covers, member)


def label(rng):
    """A label of the patient that has nothing to do with the score: is its mean called higher at .05?"""
    member = np.repeat(np.arange(40), 6)
    labels, scores = (np.arange(40) % 2)[member], rng.exponential(3, 40)[member] + rng.standard_normal((4, 240))
    return both(
        lambda belong: np.mean([g.p_value <= 0.05 for g in group_scores(scores, labels, belong=belong)]), member
    )


def attacks(rng, studies, count=45, size=6, repeats=4):
    """AUC and true-positive rate at 1%: intervals that cover the mean over fresh groups."""
    found = []
    member = np.repeat(np.arange(count), size)
    for study in range(studies):
        splits = Splits.k_fold(count * size, 5, repeats, seed=study, groups=member)
        noise = rng.standard_normal((splits.n_splits, count))[:, member] + rng.standard_normal(splits.held_out.shape)
        ell = noise / np.sqrt(2) - rng.exponential(2, count)[member] * splits.held_out
        found.append(both(lambda g, ell=ell, s=splits: membership_attack(ell, s.held_out, s.repeat, groups=g), member))
    for name, rate in (("AUC", lambda one: one.auc), ("TPR at 1% FPR", lambda one: one.tpr[0.01])):
        truth = np.mean([rate(by_group).value for by_group, _ in found])
        inside = [[rate(one).interval[0] <= truth <= rate(one).interval[1] for one in pair] for pair in found]
        row(f"{name}, covers", *(pm(column, 3) for column in zip(*inside, strict=True)))


MEASURES = {"mean, covers": mean, "rank correlation, covers": correlation, "label, size at .05": label}


def main(argv=None):
    given = parse(options(__doc__), argv)
    print(machine())
    start = time.process_time()
    table("Rows that belong together", ["", "by group", "by row"])
    for name, measure in MEASURES.items():
        found = [measure(np.random.default_rng([study, 5])) for study in range(5 if given.smoke else 400)]
        row(name, *(pm(column, 3) for column in zip(*found, strict=True)))
    attacks(np.random.default_rng(6), 3 if given.smoke else 100)
    print(f"\n{time.process_time() - start:.0f} s of processor time")


if __name__ == "__main__":
    main()
