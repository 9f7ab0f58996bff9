"""Does the interval of the share of copies cover it, and do lists of flagged rows hold their rate?

    python bench/copied_share.py [--repeats 100]

One line a case: mean ends of the interval of `copied_share`, how often its lower end lies above the truth (the
promise: 2.5% at most) and how often the interval misses it (5% at most), the p-value at .05; then of each list the
false-discovery rate (the promise: 10% on average, for fresh rows beside the copies) and the share of copies flagged.
"""

import numpy as np
from common import machine, options, parse

from genmem.neighbors.copied_share import copied_share
from genmem.neighbors.flagged import calibrated_distance, conformal_samples
from genmem.neighbors.sets import Searches

CASES = {
    "fresh, 2-D": {"width": 2},
    "fresh, 16-D": {},
    "fresh, n_T = 9 n_H": {"n_train": 4500},
    "sharp .7, 2-D": {"width": 2, "scale": 0.7},
    "sharp .7, 16-D": {"scale": 0.7},
    "sharp .3, 16-D": {"scale": 0.3},
    "wide 1.3, 16-D": {"scale": 1.3},
    "10 points of the model's own, 2-D": {"width": 2, "points": 10},
    "1 point of the model's own, 2-D": {"width": 2, "points": 1},
    "3 levels, 6-D, ties": {"width": 6, "levels": 3},
    "1% exact copies": {"share": 0.01},
    "2% exact copies": {"share": 0.02},
    "5% exact copies": {"share": 0.05},
    "5% exact copies, n_T = 9 n_H": {"share": 0.05, "n_train": 4500},
    "5% noisy copies (.3)": {"share": 0.05, "noise": 0.3},
    "20% noisy copies (.5)": {"share": 0.2, "noise": 0.5},
    "20% exact copies, wide 1.25": {"share": 0.2, "scale": 1.25},
    "one row, 50%": {"share": 0.5, "one_row": True},
    "all copies": {"share": 1.0},
}


def sized(case, rows):
    """Return a case with so many rows held out and samples."""
    return {**case, "n": rows, "n_train": case.get("n_train", 500) * rows // 500}


def sets(seed, n=500, n_train=500, width=16, *, scale=1.0, share=0.0, noise=0.0, points=0, levels=0, one_row=False):
    rng = np.random.default_rng(seed)
    train, test, samples = rng.normal(size=(n_train, width)), rng.normal(size=(n, width)), rng.normal(size=(n, width))
    samples *= scale
    if points:
        samples = samples[rng.integers(points, size=n)]
    copies = round(share * n)
    rows = np.zeros(copies, int) if one_row else rng.integers(n_train, size=copies)
    samples[:copies] = train[rows] + noise * rng.normal(size=(copies, width))
    if levels:
        train, test, samples = (np.clip(np.round(rows), 0, levels - 1) for rows in (train, test, samples))
    return train, test, samples, copies


def one(seed, case):
    *three, copies = sets(seed, **case)
    searches, m = Searches(*three), len(three[2])
    searches.near("samples", "train", 50)
    found, share = copied_share(*three, searches=searches), copies / m
    low, high = found.interval
    row = [low, high, low > share, not low <= share <= high, found.p_value <= 0.05]
    for list_of in (conformal_samples, calibrated_distance):
        flagged = list_of(*three, searches=searches).flagged
        row += [flagged[copies:].sum() / max(1, flagged.sum()), flagged[:copies].mean() if copies else np.nan]
    return row


def main(argv=None):
    parser = options(__doc__)
    parser.add_argument("--repeats", type=int, default=100)
    parser.set_defaults(rows=500)
    asked = parse(parser, argv, repeats=1, rows=60)
    repeats, rows = asked.repeats, asked.rows
    print(machine())
    print(f"{repeats} repeats, {rows} held out, {rows} samples")
    print(f"{'case':34} {'low':>6} {'high':>6} {'low>truth':>9} {'missed':>7} {'p<=.05':>7}", end="")
    print(f" {'FDR':>6} {'power':>6} {'FDR cal.':>9} {'power':>6}")
    for name, case in CASES.items():
        mean = np.mean([one(seed, sized(case, rows)) for seed in range(repeats)], axis=0)
        low, high, above, missed, p, fdr, power, fdr_calibrated, power_calibrated = mean
        print(f"{name:34} {low:6.3f} {high:6.3f} {above:9.3f} {missed:7.3f} {p:7.3f}", end="")
        print(f" {fdr:6.3f} {power:6.2f} {fdr_calibrated:9.3f} {power_calibrated:6.2f}", flush=True)


if __name__ == "__main__":
    main()
