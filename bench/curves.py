"""How often does a curve over training raise a false alarm, and how small an effect does it find?

Null studies whose epochs share most of their noise: normal, strongly skewed, and with effects shared by all examples,
by groups of them and by the folds of a repeat. Prints, for each number of repeats, the share of studies with a
corrected p <= .05 at any epoch and the share of single epochs with p <= .05, for three quantiles and the gap. Then the
same with a memorization of `strength` noise spreads in half of the examples from the third epoch on.
"""

import numpy as np
from common import machine, options, parse

from genmem.leaveout import fold_shifts
from genmem.leaveout.curves import memorization_curve
from genmem.run.splits import Splits

EPOCHS = 5


def noise(rng, kind, splits):
    shape, repeats = (splits.n_splits, splits.n), splits.n_repeats
    z = rng.normal(size=shape)
    if kind == "skewed":
        return (0.5 - rng.gamma(0.5, size=shape)) / np.sqrt(0.5)
    if kind == "shared":
        groups = rng.normal(size=(splits.n_splits, 10)) @ rng.normal(size=(10, splits.n))
        folds = rng.normal(size=(repeats, splits.n)).repeat(splits.n_splits // repeats, axis=0)
        return 0.5 * z + 1.5 * rng.normal(size=(splits.n_splits, 1)) + 0.5 * groups + folds
    return z


def study(rng, kind, splits, strength):
    """Yield log p (n_splits, n) of each epoch."""
    spread, z = np.exp(0.5 * rng.normal(size=splits.n)), noise(rng, kind, splits)
    for epoch in range(EPOCHS):
        z = 0.8 * z + 0.6 * noise(rng, kind, splits) if epoch else z
        effect = strength * (epoch >= 2) * (np.arange(splits.n) % 2)
        yield spread * (np.sqrt(1 + epoch) * z - effect * splits.held_out)


def rates(kind, repeats, studies, n, strength=0.0):
    rng, folds = np.random.default_rng(repeats), 5
    alarms, single, early = np.zeros(4), np.zeros(4), np.zeros(4)
    for i in range(studies):
        splits = Splits.k_fold(n, folds, repeats, seed=i)
        curve = memorization_curve(study(rng, kind, splits, strength), splits.held_out, splits.repeat, draws=99, seed=i)
        p = np.column_stack([curve.quantiles.p_value, curve.gap.p_value])
        corrected = np.column_stack([curve.quantiles.p_corrected, curve.gap.p_corrected])
        alarms += (corrected <= 0.05).any(axis=0)
        early += (corrected[:2] <= 0.05).any(axis=0)
        single += (p <= 0.05).mean(axis=0)
    return [part / studies for part in (alarms, early, single)]


def main(argv=None):
    parser = options(__doc__)
    parser.add_argument("--studies", type=int, default=1000)
    parser.add_argument("--examples", type=int, default=400)
    parser.add_argument("--repeats", type=int, nargs="+", default=[2, 3, 5, 8])
    parser.add_argument("--strength", type=float, nargs="+", default=[0.0, 0.1, 0.3, 1.0])
    given = parse(parser, argv, studies=4, examples=60, repeats=[2, 3], strength=[0.0, 1.0])
    print(machine())
    fold_shifts.JACKKNIFE_DRAWS = 1  # not what is asked here
    print("columns: median, 95%, 99.9%, gap; 5 folds, 5 epochs")
    for strength in given.strength:
        for kind in ("normal", "skewed", "shared"):
            for repeats in given.repeats:
                found = rates(
                    kind, repeats, given.studies if strength == 0 else given.studies // 4, given.examples, strength
                )
                text = "  ".join(
                    f"{name} {np.round(part, 3)}"
                    for name, part in zip(("any epoch", "before the third", "one epoch"), found, strict=True)
                )
                print(f"strength {strength:g}, {kind}, {repeats} repeats: {text}", flush=True)


if __name__ == "__main__":
    main()
