"""Do models agree on what they memorize, and on who shaped a query?

    python bench/agreement.py --out runs/influence-study

VAEs of two latent sizes and two weights of the KL term, a flow and a kernel density on the same digits: do they
memorize the same examples, and rely on the same ones for a query? (docs/findings.md) Whatever is computed is kept under
--out and not computed again. Intervals are 95%, over examples; the diagonal compares two trainings of one model.
"""

import itertools
import warnings
from pathlib import Path

import numpy as np
from common import machine, options, parse, scratch
from influence_study import DRAWS, Kept, digits, interval, small
from sklearn.neighbors import KernelDensity

import genmem
from genmem import stages, stats
from genmem.influence import influence_scores, self_influence
from genmem.models.torch_kde import choose_bandwidth
from genmem.seeding import stream

QUERIES, TOP = 100, 10


def family(epochs):
    """Return the models that are compared, by name."""
    vaes = {
        f"VAE z={size} beta={beta}": small(0, epochs, latent_dim=size, beta=float(beta))
        for size, beta in itertools.product((4, 16), (1, 4))
    }
    flow_epochs = max(2, epochs * 6 // 10)
    how = {"epochs": flow_epochs, "checkpoint_every": max(1, flow_epochs // 10)}
    flow = genmem.Flow(kind="affine", transforms=2, hidden=(128, 128), **how)
    return {**vaes, "flow": flow, "KDE": KernelDensity()}


def agreement(kept, arguments):
    X, design = digits()[0][: arguments.examples], (arguments.folds, arguments.repeats)
    made = {}
    for name, model in family(arguments.epochs).items():
        if arguments.models and name not in arguments.models:
            continue
        key = name.replace(" ", "-").replace("=", "")
        if name == "KDE":
            model = model.set_params(bandwidth=choose_bandwidth(X.astype(np.float64)), leaf_size=len(X))
            made[name] = kept.get(f"agreement-{key}", by_formula, model, X)
        else:
            scores = kept.get(f"agreement-{key}-scores", memorized, model, X, arguments.out / f"refits-{key}", *design)
            made[name] = {**scores, **kept.get(f"agreement-{key}-influence", shaped, model, X)}
        print(f"{name}: mean score {made[name]['score'].mean():.2f} nats", flush=True)
    matrices(made)


def queries(X):
    return np.sort(stream(0, "study queries").choice(len(X), min(QUERIES, len(X) // 2), replace=False))


def by_formula(model, X):
    X = X.astype(np.float64)
    own = genmem.leave_one_out(model, X).score
    found = influence_scores(model.fit(X), X, X[queries(X)])
    return {"score": own, "error": np.zeros(len(X)), "own": own, "influence": found, "influence again": found}


def memorized(model, X, out, folds, repeats):
    """Return memorization scores with their errors."""
    run = stages.plan(X, model=model, out=out, folds=folds, repeats=repeats, score_epochs=[model.epochs])
    stages.refit(run)
    found = stages.score(run)
    return {"score": found.score, "error": found.standard_error}


def shaped(model, X):
    """Return influences in two trainings that differ by their seed."""
    found = []
    for seed in (0, 1):
        fitted = model.set_params(random_state=seed).fit(X)
        found.append((self_influence(fitted, X, draws=DRAWS), influence_scores(fitted, X, X[queries(X)], draws=DRAWS)))
    return {"own": found[0][0], "own again": found[1][0], "influence": found[0][1], "influence again": found[1][1]}


def matrices(made):
    names = list(made)
    print("\n## Agreement on digits: rank correlations, intervals over examples\n")
    print("Memorization scores (diagonal: share of their variance that is not noise of the refits)\n")
    table(names, lambda a, b: reliable(made[a]) if a == b else rho(made[a]["score"], made[b]["score"]))
    print("\nThe same, over the root of the product of these shares: were there no noise\n")
    table(names, lambda a, b: "" if a == b else without_noise(made[a], made[b]))
    print("\nSelf-influence (diagonal: two trainings)\n")
    table(names, lambda a, b: twice(made[a]) if a == b else rho(made[a]["own"], made[b]["own"]))
    print(f"\nWho shaped a query: rank correlation over the other training examples, mean of {QUERIES} queries")
    print("(diagonal: two trainings)\n")
    table(names, lambda a, b: over_queries(made[a], made[b], a == b, per_query))
    chance = TOP / (len(made[names[0]]["score"]) - 1)
    print(f"\nShare of the {TOP} strongest proponents in common, mean of {QUERIES} queries; chance is {chance:.1%}\n")
    table(names, lambda a, b: over_queries(made[a], made[b], a == b, in_common))


def table(names, cell):
    print("| | " + " | ".join(names) + " |\n|---|" + "---|" * len(names))
    for row, a in enumerate(names):
        cells = [cell(a, b) if column >= row else "" for column, b in enumerate(names)]
        print(f"| {a} | " + " | ".join(cells) + " |", flush=True)


def rho(a, b):
    found = stats.spearman(a, b)
    return interval(found.rho, found.interval)


def reliable(one):
    return f"{stats.reliability(one['score'], one['error']):.2f}"


def without_noise(one, other):
    found = stats.spearman(one["score"], other["score"])
    shares = [stats.reliability(each["score"], each["error"]) for each in (one, other)]
    scale = np.sqrt(np.prod(shares)) if min(shares) > 0.3 else np.nan
    return "too noisy" if np.isnan(scale) else interval(found.rho / scale, np.asarray(found.interval) / scale)


def twice(one):
    return rho(one["own"], one["own again"]) if "own again" in one else "exact"


def over_queries(one, other, same, compare):
    second = other["influence again" if same else "influence"]
    each = [compare(one["influence"][:, q], second[:, q], at) for q, at in enumerate(queries(one["score"]))]
    there = np.isfinite(each)  # a kernel density may be so narrow that all others are out of reach alike
    value, _, bounds = stats.mean_interval(np.asarray(each)[there])
    return interval(value, bounds) + ("" if there.all() else f", {there.sum()} queries")


def per_query(a, b, own):
    others = np.arange(len(a)) != own
    return stats.spearman(a[others], b[others]).rho


def in_common(a, b, own):
    first, second = ([p for p in np.argsort(-x, kind="stable")[: TOP + 1] if p != own][:TOP] for x in (a, b))
    return len(set(first) & set(second)) / TOP


def main(argv=None):
    parser = options(__doc__)
    parser.add_argument("--out", type=Path, default=Path("runs/influence-study"))
    parser.add_argument("--models", nargs="+", help="all without it")
    parser.set_defaults(examples=None, epochs=100, folds=5, repeats=8)
    tiny = {"models": ["VAE z=4 beta=1", "flow", "KDE"], "examples": 60, "epochs": 2, "folds": 2, "repeats": 2}
    arguments = parse(parser, argv, **tiny)
    arguments.out = scratch() if arguments.smoke else arguments.out
    warnings.simplefilter("ignore", UserWarning)
    print(machine())
    agreement(Kept(arguments.out / "arrays"), arguments)


if __name__ == "__main__":
    main()
