"""How often does the copy check speak where nothing was copied, and how few copies does it see?

    bench/copycheck_calibration.py [--draws 500] [--only NAME ...]

Parts: `fresh` (all p-values and the verdict on fresh data of several kinds), `shapes` (verdicts on samples that are
sharp, wide or lopsided, but no copies), `lists` (false discoveries), `bounds` (how often the share of copies lies
within its interval), `power` (verdicts over the share of copies, next to what the check itself says), `look` (how often
"inspect these pairs" speaks with few held-out examples), `films` (rows that belong together), `drift` (held-out sets of
another source), `others` (what the numbers of other tools say on planted sets).
"""

import time

import numpy as np
from common import machine, options, parse
from scipy import stats
from sklearn.datasets import load_digits, make_moons

from genmem.neighbors.belonging import belonging
from genmem.neighbors.cautions import differs
from genmem.neighbors.copycheck import copycheck, read, searched
from genmem.neighbors.sets import Sets
from genmem.neighbors.two_sample import same_source_test, same_spread_test
from genmem.neighbors.verdict import decide
from genmem.neighbors.visible import visible_copies
from genmem.search.exact import nearest


def normal(rng, n, d=16):
    return rng.normal(size=(n, d))


def moons(rng, n):
    return make_moons(n, noise=0.2, random_state=int(rng.integers(2**31)))[0]


def integers(rng, n):
    return rng.integers(0, 3, (n, 6))


def digits(rng, n):
    return load_digits().data[rng.choice(1797, n)]  # with replacement: some rows are identical


def unequal(rng, n):
    return normal(rng, n, 4)


SOURCES = {
    "normal, 16-D": (normal, (200, 150, 150)),
    "two moons": (moons, (200, 150, 150)),
    "integers 0-2, 6-D": (integers, (200, 150, 150)),
    "digits, drawn with replacement": (digits, (200, 150, 150)),
    "normal, 4-D, n_T = 9 n_H": (unequal, (900, 100, 150)),
}


def check(T, H, S, seed=0):
    return copycheck(T, H, S, power_trials=0, context_rows=100, seed=seed)


def quick(T, H, S, seed=0, n_cells=None):
    """Return the verdict and the share of copies without the other tests; C_T decides about sharpness only."""
    found = read(searched(Sets(T, H, S)), n_cells=n_cells, seed=seed)
    return decide(found.evidence), found.share


def row(*cells):
    print("| " + " | ".join(str(cell) for cell in cells) + " |", flush=True)


def table(title, head):
    print(f"\n### {title}\n")
    row(*head)
    row(*["---"] * len(head))


def rate(hits):
    hits = np.asarray(hits, float)
    return f"{hits.mean():.3f} ± {np.sqrt(max(hits.mean() * (1 - hits.mean()), 0.25 / len(hits)) / len(hits)):.3f}"


def fresh(draws):
    """Print p-values on fresh data: the first source with all draws, the others with a quarter of them."""
    for place, (name, (draw, sizes)) in enumerate(SOURCES.items()):
        draws = draws if place != 1 else max(1, draws // 4)
        p, mid, verdicts, any_flag = {}, {}, [], []
        for seed in range(draws):
            rng = np.random.default_rng([1, seed])
            found = check(*(draw(rng, n) for n in sizes), seed=seed)
            for test in found.tests:
                if np.isfinite(test.p_value):
                    p.setdefault(test.name, []).append(test.p_value)
                    mid.setdefault(test.name, []).append(test.details.get("mid_p", test.p_value))
            verdicts.append(found.verdict)
            any_flag.append([f.flagged.any() for f in (found.samples, found.rows, found.calibrated)])
        table(
            f"{name}, {draws} draws of {sizes}",
            ["test", "P(p <= .05)", "P(p <= .01)", "KS of p", "KS of mid-p", "KS p-value"],
        )
        for test, values in p.items():
            v, m = np.array(values), np.array(mid[test])
            ks = stats.kstest(m, "uniform")
            row(
                test,
                f"{(v <= 0.05).mean():.3f}",
                f"{(v <= 0.01).mean():.3f}",
                f"{stats.kstest(v, 'uniform').statistic:.3f}",
                f"{ks.statistic:.3f}",
                f"{ks.pvalue:.3f}",
            )
        for verdict in ("copies found", "inspect these pairs", "sharp but not copying"):
            print(f"\nverdict {verdict!r}: {rate([v == verdict for v in verdicts])}", end="")
        flags = np.array(any_flag).mean(0)
        print(f"\nany flag at .1: samples {flags[0]:.3f}, rows {flags[1]:.3f}, calibrated {flags[2]:.3f}", flush=True)


def tight(rng, n, share):
    """A 16-D normal with a spot, one-dimensional and a hundred times denser, that holds a share of it."""
    x, there = normal(rng, n), rng.random(n) < share
    x[there, 1:] = 5 + 0.01 * x[there, 1:]
    return x


def centres(rng, n, T):
    from sklearn.cluster import KMeans

    means = KMeans(10, n_init=1, random_state=0).fit(T).cluster_centers_
    return means[rng.integers(10, size=n)] + 0.05 * rng.normal(size=(n, T.shape[1]))


def shapes(draws):
    sets = {
        "normal x .7, 16-D": lambda r: (normal(r, 500), normal(r, 300), 0.7 * normal(r, 300)),
        "normal x .4, 64-D": lambda r: (normal(r, 500, 64), normal(r, 300, 64), 0.4 * normal(r, 300, 64)),
        "normal x 1.3, 16-D": lambda r: (normal(r, 500), normal(r, 300), 1.3 * normal(r, 300)),
        "one point of the data's law, 300 times": lambda r: (
            normal(r, 500),
            normal(r, 300),
            np.repeat(normal(r, 1), 300, 0),
        ),
        "ten means of k-means, small noise": lambda r: ((T := normal(r, 500)), normal(r, 300), centres(r, 300, T)),
        "all from a dense spot of 2% of the data": lambda r: (
            tight(r, 500, 0.02),
            tight(r, 300, 0.02),
            tight(r, 300, 1),
        ),
        "all from a dense spot of .5% of the data": lambda r: (
            tight(r, 500, 0.005),
            tight(r, 300, 0.005),
            tight(r, 300, 1),
        ),
        "n_T = 9 n_H, normal x .7": lambda r: (normal(r, 900), normal(r, 100), 0.7 * normal(r, 300)),
    }
    table(
        f"Samples that are no copies, {draws} draws each",
        ["samples", "copies found", "inspect these pairs", "sharp but not copying", "no evidence"],
    )
    for name, make in sets.items():
        found = [quick(*make(np.random.default_rng([2, seed])), seed=seed)[0] for seed in range(draws)]
        row(
            name,
            *(
                rate([v == verdict for v in found])
                for verdict in ("copies found", "inspect these pairs", "sharp but not copying", "no evidence")
            ),
        )


def copied(rng, share, scale=1.0, noise=0.0, sizes=(500, 300, 300)):
    T, H, S = (normal(rng, n) for n in sizes)
    k = round(share * len(S))
    S = np.concatenate([T[rng.choice(len(T), k, replace=False)] + noise * normal(rng, k), scale * S[k:]])
    return T, H, S, k


def lists(draws):
    table(
        f"False discoveries at .1, {draws} draws",
        ["copies", "rest", "samples: FDR", "found", "rows: FDR", "found", "calibrated: FDR", "found"],
    )
    for share, scale in ((0.1, 1.0), (0.3, 1.0), (0.3, 1.3), (0.3, 0.7)):
        rates = []
        for seed in range(draws):
            T, H, S, k = copied(np.random.default_rng([3, seed]), share, scale)
            found = check(T, H, S, seed)
            copies = np.arange(len(S)) < k
            rows = np.isin(np.arange(len(T)), [np.flatnonzero((T == s).all(1))[0] for s in S[:k]])
            rates.append(
                [x for f, true in ((found.samples, copies), (found.rows, rows), (found.calibrated, copies))
                 for x in ((f.flagged & ~true).sum() / max(1, f.flagged.sum()), f.flagged[true].mean())]
            )  # fmt: skip
        row(f"{share:.0%}", f"x {scale}", *(f"{value:.3f}" for value in np.mean(rates, 0)))


def bounds(draws):
    table(
        f"The share of copies and its 95% interval, {draws} draws",
        ["copies", "noise", "rest", "below the interval", "above it", "mean lower end", "mean value", "mean upper end"],
    )
    for share, noise, scale in (
        (0, 0, 1),
        (0.02, 0, 1),
        (0.05, 0, 1),
        (0.05, 0, 0.7),
        (0.2, 0, 1.3),
        (0.2, 0.3, 1),
        (0.6, 0.3, 1),
    ):
        out = []
        for seed in range(draws):
            T, H, S, k = copied(np.random.default_rng([4, seed]), share, scale, noise)
            found = quick(T, H, S, seed, n_cells=1)[1]
            low, high = found.interval
            out.append([k / len(S) < low - 1e-9, k / len(S) > high + 1e-9, low, found.value, high])
        out = np.array(out, float)
        row(
            f"{share:.0%}",
            noise,
            f"x {scale}",
            rate(out[:, 0]),
            rate(out[:, 1]),
            *(f"{value:.3f}" for value in out[:, 2:].mean(0)),
        )


def power(draws):
    shares = (0.01, 0.02, 0.03, 0.05, 0.1)
    table(
        f"Copies found, {draws} draws of 500, 300 and 300 rows",
        ["noise", "rest", *(f"{s:.1%}" for s in shares), "told (median)"],
    )
    for noise, scale in ((0, 1.0), (0, 0.7), (0, 1.3), (0.5, 1.0)):
        cells = []
        for share in shares:
            made = (copied(np.random.default_rng([5, seed]), share, scale, noise)[:3] for seed in range(draws))
            cells.append(
                f"{np.mean([quick(*sets, seed, n_cells=1)[0] == 'copies found' for seed, sets in enumerate(made)]):.2f}"
            )
        told = [
            getattr(
                copycheck(*copied(np.random.default_rng([6, seed]), 0, scale)[:3], seed=seed),
                "power_noisy" if noise else "power",
            ).smallest
            for seed in range(min(draws, 9))
        ]
        row(noise, f"x {scale}", *cells, f"{np.median(told):.3f}")


SIDE = np.mgrid[:32, :32]


def cells(rng, n):
    """Pictures of blobs with sensor noise, (n, 1024)."""
    images = np.full((n, 32, 32), 0.2)
    for image in images:
        for _ in range(rng.integers(3, 8)):
            at, r = rng.uniform(4, 28, (2, 1, 1)), rng.uniform(2, 5)
            image += rng.uniform(0.2, 0.5) * np.exp(-((SIDE - at) ** 2).sum(0) / (2 * r * r))
    return np.clip(images + rng.normal(0, 0.03, images.shape), 0, 1).reshape(n, -1)


def duplicated(share, noise, sizes):
    def make(rng):
        X = normal(rng, sum(sizes))
        at = rng.permutation(len(X))[: 2 * round(share * len(X))].reshape(2, -1)
        X[at[0]] = X[at[1]] + noise * normal(rng, at.shape[1])
        return np.split(X, np.cumsum(sizes)[:-1])

    return make


FEW = (350, 60, 300)


def drawn(draw, sizes=FEW):
    return lambda rng: [draw(rng, n) for n in sizes]


def with_copies(count, noise):
    def make(rng):
        T, H, S = (cells(rng, n) for n in (350, 150, 300))
        S[:count] = np.clip(T[:count] + rng.normal(0, noise, (count, 1024)), 0, 1)
        return T, H, S

    return make


LOOKED = {
    **{name: drawn(draw, sizes) for name, (draw, sizes) in SOURCES.items()},
    "normal, 1-D": drawn(lambda r, n: normal(r, n, 1)),
    "normal, 16-D, 60 held out": drawn(normal),
    "two moons, 60 held out": drawn(moons),
    "digits, drawn with replacement, 60 held out": drawn(digits),
    "Cauchy, 8-D": drawn(lambda r, n: r.standard_cauchy((n, 8))),
    "log-normal": drawn(lambda r, n: np.exp(2 * normal(r, n, 5))),
    "scales from .001 to 1": drawn(lambda r, n: 10 ** r.uniform(-3, 0, (n, 1)) * normal(r, n, 6)),
    "integers 0-2, 10-D": drawn(lambda r, n: r.integers(0, 3, (n, 10))),
    "200 tiny clusters": drawn(lambda r, n: 10 * r.integers(0, 200, (n, 1)) + 0.01 * normal(r, n, 8)),
    "near-duplicates, 5%": duplicated(0.05, 0.05, FEW),
    "near-duplicates, .3%": duplicated(0.003, 0.02, FEW),
    "normal x .7": lambda r: (normal(r, 400), normal(r, 100), 0.7 * normal(r, 300)),
    "normal x .02": lambda r: (normal(r, 400), normal(r, 20), 0.02 * normal(r, 300)),
    "held out + 5": lambda r: (normal(r, 400), 5 + normal(r, 100), normal(r, 300)),
    "pictures, 150 held out": with_copies(0, 0.0),
    "15 of 300 pictures are copies with noise": with_copies(15, 0.015),
    "3 of 300": with_copies(3, 0.015),
}


def look(draws):
    table(f"Samples stand out, {draws} draws", ["data", "inspect these pairs", "named, but chance explains so few"])
    for name, make in LOOKED.items():
        found = [visible_copies(searched(Sets(*make(np.random.default_rng([7, s])))), 0.005, s) for s in range(draws)]
        out = [len(one.samples) > 0 for one in found]
        row(name, *(rate([a and one.by_chance == b for a, one in zip(out, found, strict=True)]) for b in (False, True)))


def frames(rng, n, length):
    return np.repeat(normal(rng, n // length), length, 0) + 0.3 * normal(rng, n)


def films(draws):
    table(f"Films, {draws} draws", ["frames", "copies", "noise", "copies found by groups", "the same by rows"])
    for length in (20, 5):
        for share, noise in ((0, 0), (0.05, 0), (0.05, 0.6)):
            hits = []
            for seed in range(draws):
                rng = np.random.default_rng([8, seed])
                T, H, S = frames(rng, 400, length), frames(rng, 400, length), frames(rng, 400, 1)
                k = round(share * 400)
                S[:k] = T[rng.choice(400, k, replace=False)] + noise * normal(rng, k)
                own = belonging((np.arange(400) // length, 400 + np.arange(400) // length), (400, 400, 400))
                both = [searched(Sets(T, H, S).belonging(one)) for one in (own, None)]
                hits.append([decide(read(sets, n_cells=1, seed=seed).evidence) == "copies found" for sets in both])
            row(length, f"{share:.0%}", noise, *(rate(one) for one in np.array(hits).T))


def drift(draws):
    table(f"Held-out sets of another source, {draws} draws", ["held out", "copies found", "caution", "red without it"])
    for scale, shift in ((1, 0), (0.7, 0), (0.85, 0), (1.15, 0), (1.4, 0), (1, 0.1), (1, 0.2), (1, 0.3), (1, 0.5)):
        out = []
        for seed in range(draws):
            rng = np.random.default_rng([9, seed])
            sets = searched(Sets(normal(rng, 400), scale * normal(rng, 250) + shift, normal(rng, 300)))
            red = decide(read(sets, n_cells=1, seed=seed).evidence) == "copies found"
            said = differs(same_source_test(sets, seed=seed), same_spread_test(sets, seed=seed))
            out.append([red, said, red and not said])
        row(f"x {scale} + {shift}", *(rate(one) for one in np.array(out).T))


def identifiable(T, S):
    """Return the share of training examples that are closer to a sample than to another training example."""
    return float((nearest(T, S, 1)[0] < nearest(T, T, 1, exclude=np.arange(len(T)))[0]).mean())


PLANTED = {
    "fresh, as many held out as trained on": lambda r: (normal(r, 400), normal(r, 400), normal(r, 400)),
    "fresh, n_train = 2 n_test": lambda r: (normal(r, 400), normal(r, 200), normal(r, 400)),
    "sharper, x .7": lambda r: (normal(r, 400), normal(r, 400), 0.7 * normal(r, 400)),
    "fresh, every training example twice": lambda r: (np.repeat(normal(r, 200), 2, 0), normal(r, 200), normal(r, 400)),
    "5% copies": lambda r: copied(r, 0.05, sizes=(400, 400, 400))[:3],
    "5% copies, the rest x 1.25": lambda r: copied(r, 0.05, 1.25, sizes=(400, 400, 400))[:3],
}


def others(draws):
    table(
        f"What other numbers say, means of {draws} draws",
        ["samples", "closer to training", "DCR, median", "authentic", "identifiable", "verdicts"],
    )
    for name, make in PLANTED.items():
        sets = [make(np.random.default_rng([10, seed])) for seed in range(draws)]
        found = [check(*three, seed=seed) for seed, three in enumerate(sets)]
        pairs = [
            " (".join(f"{np.mean([getattr(one[key], part) for one in found]):.2f}" for part in ("value", "null")) + ")"
            for key in ("train_share", "dcr_median", "authenticity")
        ]
        verdicts = [one.verdict for one in found]
        said = ", ".join(f"{verdicts.count(verdict)} {verdict}" for verdict in dict.fromkeys(verdicts))
        row(name, *pairs, f"{np.mean([identifiable(T, S) for T, _, S in sets]):.2f}", said)


def main(argv=None):
    parser = options(__doc__)
    parts = {"fresh": fresh, "shapes": shapes, "lists": lists, "bounds": bounds, "power": power, "look": look}
    parts |= {"films": films, "drift": drift, "others": others}
    parser.add_argument("--draws", type=int, default=500)
    parser.add_argument("--only", nargs="*", choices=parts, default=list(parts))
    given = parse(parser, argv, draws=1)
    print(machine())
    for name in given.only:
        start = time.perf_counter()
        parts[name](given.draws)
        print(f"\n{name}: {time.perf_counter() - start:.0f} s", flush=True)


if __name__ == "__main__":
    main()
