"""Why do different models memorize the same examples?

    python bench/compare.py digits --out runs/compare-study
    python bench/compare.py mnist --mnist mnist.npz --out runs/compare-study

Audits of six models of digits, and of three of 2,000 binarised images of MNIST, each with folds and seeds of its own,
so that no two share noise. How well do their scores agree in rank, and how much of that agreement is left once the
distance to the fifth nearest neighbour, the held-out log p of two simple models (a kernel density and a mixture of
Gaussians), the number of near-duplicates, and the label are held fixed?

Controls have no noise; scores have. The ranks of both halves of the repeats of each model are regressed on the ranks
of the controls (and, in one column, on their squares, cubes and products), and the residuals of halves that share no
refit are correlated, as in genmem.compare.ranks. Intervals are 95%, by bootstrap over examples; each draw is ranked
anew. Runs are kept under --out and resumed (docs/findings.md has the results).
"""

import itertools
import warnings
from pathlib import Path

import numpy as np
from common import add_parts, like_mnist, machine, options, parse, scratch
from sklearn.datasets import load_digits
from sklearn.mixture import GaussianMixture
from sklearn.neighbors import KernelDensity

import genmem
from genmem import Run, stages
from genmem.compare import compare
from genmem.compare.ranks import bootstrap_weights, weighted_ranks
from genmem.leaveout.estimators import mean_where
from genmem.models.torch_kde import choose_bandwidth
from genmem.search import nearest
from genmem.seeding import stream

NEAREST = 5
NEAR = 0.1  # near-duplicates are closer than the closest pairs of this share of the examples
LEAST = 0.1  # rank correlation of residuals of halves below which there is nothing to correlate
COMPONENTS, SEEDS, FOLDS = 10, 8, 10  # of the mixture, and of its folds
SETS = (
    *("none", "distance", "log p, kernels", "log p, mixture", "near-duplicates"),
    *("all four", "and products", "and label"),
)
# Model, settings, and how it is planned. Seeds differ, so folds do.
DIGITS = {
    "VAE": ("vae", {}, {"repeats": 8, "seed": 0}),
    "ConvVAE": ("conv-vae", {"width": 16}, {"repeats": 4, "seed": 1, "epochs": 120, "score_epochs": [120]}),
    "flow": ("flow", {"kind": "affine"}, {"repeats": 4, "seed": 2, "epochs": 80, "score_epochs": [80]}),
    "diffusion": ("diffusion", {"width": 128}, {"repeats": 4, "seed": 3, "epochs": 150, "score_epochs": [150]}),
    "GMM": ("gmm-torch", {}, {"repeats": 32, "seed": 4}),
    "KDE": ("kde-torch", {}, {"repeats": 8, "seed": 5}),
}
BERNOULLI = {"latent_dim": 16, "likelihood": "bernoulli"}
MNIST = {
    "VAE": ("vae", {**BERNOULLI, "hidden": [512, 256]}, {"repeats": 3, "seed": 0, "epochs": 50, "score_epochs": [50]}),
    "ConvVAE": (
        "conv-vae",
        {**BERNOULLI, "width": 8},
        {"repeats": 3, "seed": 1, "epochs": 20, "score_epochs": [20], "importance_samples": 16},
    ),
    "KDE": ("kde-torch", {}, {"repeats": 8, "seed": 2}),
}


# --- the audits


def audits(name, models, data_of, given):
    """Return the finished runs of a data set by the name of their model; what is missing is computed."""
    found = {}
    for model, (kind, settings, how) in models.items():
        if given.models and model not in given.models:
            continue
        how = {**how, **(given.tiny if "epochs" in how or kind == "vae" else {"repeats": 2})} if given.smoke else how
        data = data_of(model)
        run = stages.plan(data, kind, given.out / f"{name}-{model}", settings=settings, folds=given.folds, **how)
        stages.refit(run, workers=1)
        if name == "digits":
            stages.posterior(run, workers=1)
        if not run.has_result("scores"):
            stages.score(run)
        found[model] = Run.open(run.path)
    return found


def mnist(path, n):
    """Return the first n images of MNIST, binarised once, uint8 (n, 28, 28), and their labels."""
    with np.load(path) as arrays:
        levels, labels = arrays["x_train"][:n], arrays["y_train"][:n]
    return (np.random.default_rng(0).random(levels.shape) < levels / 255).astype(np.uint8), labels


# --- what may explain the agreement


def controls(X, labels):
    """Return distance, both log p and near-duplicates, (4, n), and 0 or 1 for each label but the first."""
    X = np.asarray(X, np.float64).reshape(len(X), -1)
    own = nearest(X, X, k=NEAREST, exclude=np.arange(len(X)))[0]
    radius = np.quantile(own[:, 0], NEAR)
    close = np.array([(np.linalg.norm(X - x, axis=1) <= radius).sum() - 1 for x in X])
    density = KernelDensity(bandwidth=choose_bandwidth(X), leaf_size=len(X))
    log_p = genmem.leave_one_out(density, X).log_prob_out
    print(f"near-duplicates: within {radius:.3g}; {(close > 0).mean():.1%} of the examples have one")
    dummies = np.array([labels == label for label in np.unique(labels)[1:]], np.float64)
    return {"all": np.array([own[:, -1], log_p, by_mixture(X), close]), "label": dummies.reshape(-1, len(X))}


def by_mixture(X):
    """Return the held-out log p of a mixture with diagonal covariances, the mean over divisions into folds: (n,)."""
    found = np.zeros(len(X))
    for seed in range(SEEDS):
        fold = np.random.default_rng(seed).permutation(len(X)) % FOLDS
        for out in (fold == f for f in range(FOLDS)):
            model = GaussianMixture(COMPONENTS, covariance_type="diag", reg_covar=1e-3, random_state=seed)
            found[out] += model.fit(X[~out]).score_samples(X[out]) / SEEDS
    return found


def regressors(ranks, labels):
    """Return the regressors of each of `SETS` in one weighted sample, (k, n) each, from the ranks of the controls."""
    centred, ones = ranks - 0.5, np.ones((1, ranks.shape[1]))
    pairs = [centred[i] * centred[j] for i, j in itertools.combinations_with_replacement(range(len(ranks)), 2)]
    each = [centred[i : i + 1] for i in range(len(ranks))]
    sets = [[], *each, centred, [*centred, *pairs, *centred**3], [*centred, *labels]]
    return {name: np.concatenate([ones, *(row[None] for row in rows)]) for name, rows in zip(SETS, sets, strict=True)}


# --- residual ranks of halves


def divided(run, division):
    """Return the scores of two halves of the repeats, (2, n)."""
    scores = run.result("scores")["per_repeat"]
    order = stream(run.seed, "study halves", division).permutation(len(scores))
    parts = [scores[order[half::2]] for half in (0, 1)]
    return [mean_where(np.nan_to_num(part), ~np.isnan(part)) for part in parts]


def ranked(rows, weights):
    """Return the ranks of rows (k, n) in one weighted sample, between 0 and 1."""
    return np.array([weighted_ranks(row, weights[None])[0] for row in rows]).reshape(len(rows), -1) / weights.sum()


def covariances(ranks, regressors, weights):
    """Return the weighted covariances of what the regressors (k, n) leave of ranks (2m, n): (2m, 2m)."""
    root = np.sqrt(weights)
    regressors, ranks = (regressors * root).T, (ranks * root).T
    left = ranks - regressors @ np.linalg.lstsq(regressors, ranks, rcond=None)[0]
    return left.T @ left / weights.sum()


def study(runs, known, given):
    """Return, for each set of controls, covariances of models without noise and within halves: (2, 1 + draws, m, m)."""
    n = len(known["label"].T)
    draws = np.concatenate([np.ones((1, n)), bootstrap_weights(n, draws=given.draws)])
    found = {name: np.zeros((2, len(draws), len(runs), len(runs))) for name in SETS}
    parts = [[half for run in runs.values() for half in divided(run, d)] for d in range(given.divisions)]
    for d, weights in enumerate(draws):
        sets = regressors(ranked(known["all"], weights), known["label"])
        for halves in parts:
            ranks = ranked(halves, weights)
            for name, regress in sets.items():
                whole = covariances(ranks, regress, weights)
                found[name][0, d] += (whole[::2, 1::2] + whole[1::2, ::2]) / 2 / given.divisions
                found[name][1, d] += (whole[::2, ::2] + whole[1::2, 1::2]) / 2 / given.divisions
    return found


def reliable(sums, i):
    """Return the noise-free variance of a model's residual ranks, (1 + draws,); NaN if it is nearly all noise."""
    apart, within = (part[:, i, i] for part in sums)
    return np.where(apart / within > LEAST, apart, np.nan)


def correlation(sums, i, j):
    """Return the correlation of two models without noise, (1 + draws,)."""
    return np.clip((sums[0][:, i, j] + sums[0][:, j, i]) / 2 / np.sqrt(reliable(sums, i) * reliable(sums, j)), -1, 1)


def explained(sums, base, i):
    """Return the share of the noise-free variance of a model's ranks that controls explain, (1 + draws,)."""
    return 1 - sums[0][:, i, i] / reliable(base, i)


def accounted(sums, base, i, j):
    """Return the share of the noise-free covariance of two models' ranks that controls account for, (1 + draws,)."""
    return 1 - (sums[0][:, i, j] + sums[0][:, j, i]) / (base[0][:, i, j] + base[0][:, j, i])


def said(values):
    """Format a value with its interval; what is undefined in one draw of twenty or more is not reliable."""
    drawn = values[1:]
    if np.isnan(values[0]) or np.isnan(drawn).mean() > 0.05:
        return "not reliable"
    low, high = np.nanquantile(drawn, [0.025, 0.975])
    return f"{values[0]:.2f} ({low:.2f} to {high:.2f})"


# --- tables


def tables(name, runs, known, given):
    found, names = study(runs, known, given), list(runs)
    print(f"\n## {name}: the audits\n")
    print("| model | mean score, nats | held-out log p | repeats | reliability of ranks |\n|---|---|---|---|---|")
    for i, (model, run) in enumerate(runs.items()):
        scores = run.result("scores")
        apart, within = (part[0, i, i] for part in found["none"])
        half = apart / within
        print(
            f"| {model} | {scores['score'].mean():.2f} | {scores['log_prob_out'].mean():.1f} | "
            f"{len(scores['per_repeat'])} | {2 * half / (1 + half):.2f} |"
        )
    print("\nShare of the noise-free variance of the ranks of M that the controls explain\n")
    print(f"| model | {' | '.join(SETS[1:])} |\n|---|" + "---|" * len(SETS[1:]))
    for i, model in enumerate(names):
        cells = [said(explained(found[each], found["none"], i)) for each in SETS[1:]]
        print(f"| {model} | {' | '.join(cells)} |", flush=True)
    print("\nRank correlation of M without noise, and with the controls held fixed\n")
    print(f"| pair | as measured | {' | '.join(SETS)} |\n|---|---|" + "---|" * len(SETS))
    rows = []
    for i, j in itertools.combinations(range(len(names)), 2):
        plain = compare(runs[names[i]], runs[names[j]]).pairs[0].agreement.rho
        cells = [said(correlation(found[each], i, j)) for each in SETS]
        measured = f"{plain.value:.2f} ({plain.interval[0]:.2f} to {plain.interval[1]:.2f})"
        print(f"| {names[i]}, {names[j]} | {measured} | {' | '.join(cells)} |", flush=True)
        shares = [said(accounted(found[each], found["none"], i, j)) for each in SETS[1:]]
        rows.append(f"| {names[i]}, {names[j]} | {' | '.join(shares)} |")
    print("\nShare of the noise-free covariance of the ranks that the controls account for\n")
    print(f"| pair | {' | '.join(SETS[1:])} |\n|---|" + "---|" * len(SETS[1:]), *rows, sep="\n")
    tops(runs)


def tops(runs):
    """Print how many of the highest 5% all models share, and what all memorize."""
    found = compare(*runs.values(), names=list(runs))
    print(*("", *found.sentences()[:3]), sep="\n")


# --- parts


def digits(given):
    labels = load_digits().target
    data = None if not given.smoke else load_digits().data[: given.examples].astype(np.float32) / 16

    def data_of(model):
        if data is None:
            return "digits"
        return data.reshape(-1, 8, 8) if model == "ConvVAE" else data

    runs = audits("digits", DIGITS, data_of, given)
    X = next(iter(runs.values())).data().X
    tables("digits", runs, controls(X, labels[: len(X)]), given)


def images(given):
    X, labels = mnist(given.mnist, given.examples or 2000)
    flat = X.reshape(len(X), -1)
    shapes = {"VAE": flat, "ConvVAE": X, "KDE": flat.astype(np.float32)}  # bytes would be dequantised for a KDE
    runs = audits("mnist", MNIST, shapes.__getitem__, given)
    tables("MNIST", runs, controls(X, labels), given)


PARTS = {"digits": digits, "mnist": images}


def main(argv=None):
    parser = options(__doc__)
    add_parts(parser, tuple(PARTS))
    parser.add_argument("--mnist", type=Path, help="an .npz file with the arrays of MNIST")
    parser.add_argument("--out", type=Path, default=Path("runs/compare-study"))
    parser.add_argument("--models", nargs="+", help="all without it")
    parser.set_defaults(examples=None, folds=5, draws=200, divisions=6, tiny={})
    small = {"epochs": 1, "score_epochs": [1], "repeats": 2}
    given = parse(parser, argv, examples=60, folds=2, draws=4, divisions=1, tiny=small)
    given.out = scratch() if given.smoke else given.out
    given.mnist = given.mnist or (like_mnist(60, 20) if given.smoke else None)
    warnings.simplefilter("ignore", UserWarning)
    print(machine())
    for part in given.parts or ["digits", *(["mnist"] if given.mnist else [])]:
        PARTS[part](given)


if __name__ == "__main__":
    main()
