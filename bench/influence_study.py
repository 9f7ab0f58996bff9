"""Influence put to the test: does it find what it should, and do models agree on it?

    python bench/influence_study.py check outliers score agreement --mnist mnist.npz --out runs/influence-study

- check: the share of the first 128 training examples that are their own strongest proponent, and among their own five
  strongest, with 1, 4 and 16 latent draws; and how much of the spread of self-influence is not noise of the draws.
- outliers: 1,000 foreign images among 9,000 of MNIST: which number finds them? ROC-AUC, and the area under the curve
  of the share found against the share looked at, beside the least and the most it can be.
- score: self-influence against the memorization score of refits, and what cheaper numbers rank as well; labels of
  proponents and opponents.
- agreement: VAEs of two latent sizes and two weights of the KL term, a flow and a kernel density on the same digits: do
  they memorize the same examples, and rely on the same ones for a query?

Whatever is computed is kept under --out and not computed again. Intervals are 95%: over examples for correlations and
areas, by their own formula or by bootstrap; where several models were trained, the range over trainings is beside it.
"""

import argparse
import itertools
import warnings
from pathlib import Path

import numpy as np
from scipy.ndimage import zoom
from scipy.stats import rankdata
from sklearn.datasets import load_digits
from sklearn.metrics import roc_auc_score
from sklearn.neighbors import KernelDensity

import genmem
from genmem import stages, stats
from genmem.influence import Ledger, influence_scores, self_influence, top_influences
from genmem.models.torch_kde import choose_bandwidth
from genmem.seeding import stream

CHECKED, DRAWS, SEEDS = 128, 16, 3


# --- data and models


def mnist(path, n, seed=0):
    """Return n images of MNIST, binarised once, uint8 (n, 784), and their labels."""
    with np.load(path) as arrays:
        chosen = np.random.default_rng(seed).permutation(len(arrays["x_train"]))[:n]
        levels, labels = arrays["x_train"][chosen], arrays["y_train"][chosen]
    return binarised(levels, seed), labels


def binarised(levels, seed):
    drawn = np.random.default_rng([seed, 1]).random(levels.shape) < levels / 255
    return drawn.astype(np.uint8).reshape(len(levels), -1)


def digits():
    """Return scikit-learn's digits, dequantised once, float32 (1797, 64) between 0 and 1, and their labels."""
    found = load_digits()
    noise = np.random.default_rng(0).random(found.data.shape)
    return ((found.data + noise) / 17).astype(np.float32), found.target


def large(seed, epochs):
    """The VAE of an audit of MNIST."""
    return genmem.VAE(
        hidden=(512, 256), latent_dim=16, likelihood="bernoulli", epochs=epochs, checkpoint_every=epochs // 10,
        random_state=seed,
    )  # fmt: skip


def small(seed, epochs=100, latent_dim=8, beta=1.0):
    return genmem.VAE(
        hidden=(128, 64), latent_dim=latent_dim, beta=beta, epochs=epochs, checkpoint_every=epochs // 10,
        random_state=seed,
    )  # fmt: skip


class Kept:
    """Arrays computed once: one .npz for each name."""

    def __init__(self, folder):
        self.folder = Path(folder)
        self.folder.mkdir(parents=True, exist_ok=True)

    def get(self, name, compute, *arguments):
        path = self.folder / f"{name}.npz"
        if not path.exists():
            arrays = compute(*arguments)
            part = path.with_name("part.npz")
            np.savez(part, **arrays)
            part.replace(path)
        with np.load(path) as arrays:
            return dict(arrays)


# --- the self check


def check(kept, arguments):
    print("\n## Self check: the first 128 against all training examples\n")
    print("| data | draws | weights | products | strongest | among five | lowest to highest | not noise |")
    print("|---|---|---|---|---|---|---|---|")
    for name, draws in itertools.product(("digits", "MNIST"), (1, 4, 16)):
        for weights in ("complete", "adam") if draws == 16 else ("complete",):
            made = [
                kept.get(f"check-{name}-{draws}-{weights}-{seed}", checked, name, draws, weights, seed, arguments)
                for seed in range(SEEDS)
            ]
            for scale in ("dot", "query", "cosine"):
                print(check_row(name, draws, weights, scale, made), flush=True)


def checked(name, draws, weights, seed, arguments):
    X, model = check_model(name, seed, arguments)
    folder = arguments.out / "ledger" / f"{name}-{draws}-{weights}-{seed}"
    how = {"weights": weights, "draws": draws, "seed": seed, "ledger": Ledger(folder)}
    found = {
        scale: top_influences(model, X, X[:CHECKED], k=5, scale=scale, **how).proponents
        for scale in ("dot", "query", "cosine")
    }
    sure = np.nan
    if draws > 1 and weights == "complete":
        own, error = self_influence(model, X[:1000], draws=draws, weights=weights, seed=seed, return_std=True)
        sure = stats.reliability(own, error)
    return {**found, "reliability": sure}


MODELS = {}


def check_model(name, seed, arguments):
    if (name, seed) not in MODELS:
        MODELS.clear()
        X = digits()[0] if name == "digits" else mnist(arguments.mnist, 4000)[0]
        MODELS[name, seed] = X, (small(seed) if name == "digits" else large(seed, 50)).fit(X)
    return MODELS[name, seed]


def check_row(name, draws, weights, scale, made):
    own = np.arange(CHECKED)[:, None]
    first = [int((one[scale][:, :1] == own).sum()) for one in made]
    five = [int((one[scale] == own).any(1).sum()) for one in made]
    n = CHECKED * len(made)
    ranges = f"{min(first)} to {max(first)}; {min(five)} to {max(five)} of {CHECKED}"
    sure = np.array([float(one["reliability"]) for one in made])
    noise = "" if scale != "dot" or np.isnan(sure).all() else f"{sure.min():.2f} to {sure.max():.2f}"
    cells = (name, draws, weights, scale, share(sum(first), n), share(sum(five), n), ranges, noise)
    return f"| {' | '.join(str(cell) for cell in cells)} |"


def share(count, n):
    low, high = stats.share_interval(count, n)
    return f"{count / n:.1%} ({low:.1%} to {high:.1%})"


# --- planted outliers


def foreign(path, seed):
    """Return 1,000 images that are no digits of MNIST, binarised, uint8 (1000, 784), and the kind of each."""
    rng = np.random.default_rng([seed, 2])
    embedded = load_digits().images[rng.permutation(1797)[:250]] / 16
    enlarged = np.stack([np.pad(zoom(image, 2.5, order=1), 4) for image in embedded])
    with np.load(path) as arrays:
        some = arrays["x_test"][rng.permutation(10000)[:500]] / 255
    transposed, textured = some[:250].transpose(0, 2, 1), some[250:].copy()
    stripes = (np.add.outer(np.arange(28), np.arange(28)) // 2) % 2
    textured = np.where(textured > 0.3, stripes, 0.0)
    angles = rng.uniform(0, np.pi, 250)[:, None, None]
    grid = np.linspace(-1, 1, 28)
    along = grid[:, None] * np.cos(angles) + grid[None] * np.sin(angles)
    bars = (np.abs(along - rng.uniform(-0.4, 0.4, (250, 1, 1))) < rng.uniform(0.1, 0.3, (250, 1, 1))).astype(float)
    kinds = {"enlarged 8 x 8 digits": enlarged, "transposed": transposed, "striped": textured, "bars": bars}
    levels = np.concatenate(list(kinds.values())) * 255
    return binarised(levels, seed), np.repeat(list(kinds), [len(images) for images in kinds.values()])


def outliers(kept, arguments):
    made = [kept.get(f"outliers-{seed}", among_digits, arguments.mnist, seed) for seed in range(arguments.seeds)]
    kinds = [kind for kind in dict.fromkeys(made[0]["kind"]) if kind != "MNIST"]
    print("\n## 1,000 foreign images among 9,000 of MNIST\n")
    print("Area under the detection curve: .05 at worst, .50 by chance, .95 at best. By kind: ROC-AUC.\n")
    print(f"| by | area under the detection curve | ROC-AUC | of {len(made)} trainings | {' | '.join(kinds)} |")
    print("|---|---|---|---|" + "---|" * len(kinds))
    for number in (name for name in made[0] if name != "kind"):
        roc = [roc_auc_score(one["kind"] != "MNIST", one[number]) for one in made]
        cells = [number, bootstrapped(detection_area, made, number), bootstrapped(roc_auc_score, made, number)]
        cells += [f"{min(roc):.3f} to {max(roc):.3f}"]
        cells += [f"{np.mean([kind_auc(one, number, kind) for one in made]):.3f}" for kind in kinds]
        print(f"| {' | '.join(cells)} |", flush=True)


def among_digits(path, seed):
    strange, kinds = foreign(path, seed)
    X = np.concatenate([mnist(path, 9000, seed)[0], strange])
    kind = np.concatenate([np.repeat("MNIST", 9000), kinds])
    order = np.random.default_rng([seed, 3]).permutation(len(X))
    X, kind = X[order], kind[order]
    model = large(seed, 30).fit(X)
    mean, _ = posterior_means(model, X)
    near = genmem.nearest(X, X, 5, exclude=np.arange(len(X)))[0]
    return {
        "kind": kind,
        "self-influence": self_influence(model, X, draws=DRAWS, seed=seed),
        "loss (-log p)": -model.score_samples(X),
        "distance to the 5th neighbour": near[:, 4],
        "distance to the nearest": near[:, 0],
        "norm of the latent mean": np.linalg.norm(mean, axis=1),
        "ink": X.mean(1),
    }


def posterior_means(model, X):
    import torch

    with torch.no_grad():
        mean, log_variance = model.module_.posterior(torch.from_numpy(np.asarray(X, np.float32)))
    return mean.numpy(), log_variance.numpy()


def kind_auc(one, number, kind):
    some = np.isin(one["kind"], ["MNIST", kind])
    return roc_auc_score(one["kind"][some] == kind, one[number][some])


def detection_area(planted, value):
    """Return the area under the share of planted rows found against the share of rows looked at, highest first."""
    return 1 - (np.mean(rankdata(-np.asarray(value))[planted]) - 0.5) / len(planted)


def bootstrapped(statistic, made, number, times=400):
    """The mean over trainings, with an interval over examples: planted ones and others are drawn anew."""
    planted = [one["kind"] != "MNIST" for one in made]
    value = np.mean([statistic(there, one[number]) for there, one in zip(planted, made, strict=True)])
    rng, drawn = np.random.default_rng(0), []
    for _ in range(times):
        each = []
        for there, one in zip(planted, made, strict=True):
            sides = (np.flatnonzero(there), np.flatnonzero(~there))
            rows = np.concatenate([rng.choice(side, len(side)) for side in sides])
            each.append(statistic(there[rows], one[number][rows]))
        drawn.append(np.mean(each))
    low, high = np.quantile(drawn, (0.025, 0.975))
    return f"{value:.3f} ({low:.3f} to {high:.3f})"


# --- self-influence against the score


def score(kept, arguments):
    print("\n## Self-influence and the memorization score\n")
    for name in ("digits", "MNIST"):
        run = audited(name, arguments)
        about = run.read_json("results/influence.json")
        reliable = stats.reliability(run.result("scores")["score"], run.result("scores")["standard_error"])
        print(f"{name}: {about['n']:,} examples, {about['note']} Reliability of the score {reliable:.2f}, "
              f"of self-influence over draws {about['reliability']:.2f}.\n")  # fmt: skip
        print("| | rank correlation with self-influence | with the score |\n|---|---|---|")
        for one in about["correlations"]:
            alone = "" if one["score_rho"] is None else interval(one["score_rho"], one["score_interval"])
            print(f"| {one['of']} | {interval(one['rho'], one['interval'])} | {alone} |")
        print()
        for finding in run.read_json("audit.json")["findings"]:
            if finding["question"] == "influence" and finding["interval"]:
                print(f"- {finding['sentence']} ({finding['interval'][0]:.3f} to {finding['interval'][1]:.3f})")
        print(flush=True)


def interval(value, bounds):
    return f"{value:.2f} ({bounds[0]:.2f} to {bounds[1]:.2f})"


def audited(name, arguments):
    """Return the run of a scored model with its influences; what is there is kept."""
    out, weights = arguments.out / f"audit-{name}", arguments.weights
    more = {"array": "x_train", "label_array": "y_train", "subset": 4000, "repeats": 4} if name == "MNIST" else {}
    source = arguments.mnist if name == "MNIST" else "digits"
    done = genmem.audit(source, out=out, **more)
    run = genmem.Run.open(done.path)
    stages.influence(run, draws=DRAWS, weights=weights, examples=run.plan["data"]["n"])
    return run


# --- agreement between models

QUERIES, FOLDS, REPEATS, TOP = 100, 5, 8, 10


def family():
    """Return the models that are compared, by name."""
    vaes = {
        f"VAE z={size} beta={beta}": small(0, latent_dim=size, beta=float(beta))
        for size, beta in itertools.product((4, 16), (1, 4))
    }
    flow = genmem.Flow(kind="affine", transforms=2, hidden=(128, 128), epochs=60, checkpoint_every=6)
    return {**vaes, "flow": flow, "KDE": KernelDensity()}


def agreement(kept, arguments):
    X, _ = digits()
    made = {}
    for name, model in family().items():
        if arguments.models and name not in arguments.models:
            continue
        key = name.replace(" ", "-").replace("=", "")
        if name == "KDE":
            model = model.set_params(bandwidth=choose_bandwidth(X.astype(np.float64)), leaf_size=len(X))
            made[name] = kept.get(f"agreement-{key}", by_formula, model, X)
        else:
            scores = kept.get(f"agreement-{key}-scores", memorized, model, X, arguments.out / f"refits-{key}")
            made[name] = {**scores, **kept.get(f"agreement-{key}-influence", shaped, model, X)}
        print(f"{name}: mean score {made[name]['score'].mean():.2f} nats", flush=True)
    matrices(made)


def queries(X):
    return np.sort(stream(0, "study queries").choice(len(X), QUERIES, replace=False))


def by_formula(model, X):
    X = X.astype(np.float64)
    own = genmem.leave_one_out(model, X).score
    found = influence_scores(model.fit(X), X, X[queries(X)])
    return {"score": own, "error": np.zeros(len(X)), "own": own, "influence": found, "influence again": found}


def memorized(model, X, out):
    """Return memorization scores with their errors."""
    run = stages.plan(X, model=model, out=out, folds=FOLDS, repeats=REPEATS, score_epochs=[model.epochs])
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


PARTS = {"check": check, "outliers": outliers, "score": score, "agreement": agreement}


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("parts", nargs="+", choices=PARTS)
    parser.add_argument("--mnist", help="an .npz with x_train, y_train, x_test")
    parser.add_argument("--out", type=Path, default=Path("runs/influence-study"))
    parser.add_argument("--seeds", type=int, default=SEEDS, help="trainings of the outlier study")
    parser.add_argument("--weights", default="complete")
    parser.add_argument("--models", nargs="+", help="of the agreement study; all without it")
    arguments = parser.parse_args()
    warnings.simplefilter("ignore", UserWarning)
    for part in arguments.parts:
        PARTS[part](Kept(arguments.out / "arrays"), arguments)


if __name__ == "__main__":
    main()
