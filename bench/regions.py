"""Where are more data needed? Thin out a class or a style, find it without labels, and add examples where it is said.

Each draw divides the data into training, held-out, test and held-back examples, thins out one class (or one style, a
k-means cell of 4 in the pixels of one class, found on data held apart) of the training set to 5%, and refits 3 folds x
3 repeats. Then:

(a) Regions are found without labels. Is the first one the thinned one, that is, are most of the test examples in it of
    the thinned class or style? By genmem's need, by the share of held-out examples alone, by the distance to the fifth
    nearest training example, and by held-out loss, the last two by a lower bound, all over the same hierarchy; and by
    scores alone, without held-out examples.
(b) The same number of held-back examples is added in the regions of each rule, in their order, and at random. Held-out
    nats of all test examples and of thinned ones, over two trainings; memorization by refits.
(c) "About n more": the first region gets that many held-back examples, or all there are, and is refitted.

`runs/regions-*` resume; each draw is a JSON file. Digits: two to four minutes a draw on one core. MNIST (--mnist),
4,000 training examples: 20 to 30 minutes.
"""

import json
import warnings
from pathlib import Path

import numpy as np
from common import machine, options, parse, scratch
from scipy.spatial import KDTree
from sklearn.cluster import KMeans
from sklearn.decomposition import PCA
from sklearn.metrics import roc_auc_score

import genmem
from genmem.regions import Known, find_regions
from genmem.regions.scan import BOUND, allowed, count, share_evidence
from genmem.regions.tree import ward_tree
from genmem.run.directory import Run

SHARE, COMPONENTS, NAMED = 0.05, 16, 10
RULES = ("need", "share", "distance", "loss", "scores")
ARMS = ("need", "random", "distance", "loss")


def mean_interval(values):
    """Return "mean (low to high)" of 95% by the t distribution over draws."""
    values = np.asarray(values, float)
    from scipy.stats import t

    half = t.ppf(0.975, len(values) - 1) * values.std(ddof=1) / np.sqrt(len(values)) if len(values) > 1 else np.nan
    return f"{values.mean():.2f} ({values.mean() - half:.2f} to {values.mean() + half:.2f})"


class Draw:
    """One division of the data, with what is thinned."""

    def __init__(self, given, kind, seed):
        X, labels, sizes = source(given)
        self.X, self.kind, self.given = X, kind, given
        self.pixels = X.reshape(len(X), -1).astype(np.float64)
        rng = np.random.default_rng([seed, kind == "style"])
        order, classes = rng.permutation(len(X)), np.unique(labels)
        train, self.held_out, self.test, spare = np.split(order, np.cumsum(sizes))
        self.thin = classes[seed % len(classes)]
        thinned = labels == self.thin
        if kind == "style":
            apart = np.r_[self.held_out, self.test]
            apart = apart[labels[apart] == self.thin]
            cells = KMeans(4, n_init=10, random_state=seed).fit(self.pixels[apart])
            which = int(rng.integers(4))
            thinned = thinned & (cells.predict(self.pixels) == which)
        self.thinned = thinned
        inside = train[thinned[train]]
        self.few = rng.permutation(inside)[: max(1, round(SHARE * len(inside)))]
        gone = np.setdiff1d(inside, self.few)
        self.train, self.held_back = np.setdiff1d(train, gone), np.r_[spare, gone]
        self.count = min(len(gone), len(spare))  # held-back examples that each rule may add
        self.rng, self.seed = rng, seed

    def coordinates(self, *rows):
        fitted = PCA(COMPONENTS, svd_solver="randomized", random_state=0).fit(self.pixels[np.r_[rows[0], rows[1]]])
        return [fitted.transform(self.pixels[part]) for part in rows]


def source(given):
    """Return images, labels, and how many are for training, held out, and for the test; the rest is held back."""
    if given.mnist is None:
        data = genmem.load("digits")
        rows = np.random.default_rng(0).permutation(len(data.X))[: given.examples]
        n = len(rows)
        return data.X[rows], np.asarray(data.labels).astype(int)[rows], [int(n * s) for s in (0.55, 0.17, 0.17)]
    with np.load(given.mnist) as mnist:
        return mnist["x_train"], mnist["y_train"].astype(int), [4000, 1000, 3000]


def model(given, seed=0):
    hidden, latent = ((128, 64), 8) if given.mnist is None else ((256, 128), 16)
    return genmem.VAE(hidden=hidden, latent_dim=latent, epochs=given.epochs, random_state=seed)


def audited(draw, rows, name):
    """Return the run of an audit of these examples: 3 folds x 3 repeats."""
    out = draw.given.out / f"regions-{name}"
    genmem.audit(
        draw.X[rows],
        model(draw.given),
        out=out,
        folds=3,
        repeats=3,
        seed=draw.seed,
        score_epochs=(draw.given.epochs,),
        posterior="amortised",
        workers=1,
    )
    return Run.open(out)


# --- the rules


def lower(tree, members, values, n):
    """Return a lower bound of the mean over each cluster of values of which there are only some."""
    there, centred = np.zeros(n), np.zeros(n)
    there[members], centred[members] = 1, values - values.mean()
    size = np.maximum(tree.sums(there), 1)
    return tree.sums(centred) / size - BOUND * values.std() / np.sqrt(size)


def ranked(draw, run):
    """Return, for each rule, the clusters in its order: lists of coordinates of their points."""
    train, held_out = draw.coordinates(draw.train, draw.held_out)
    scores, pooled = run.result("scores"), np.concatenate([train, held_out])
    M, n = scores["per_repeat"].mean(axis=0), len(train)
    tree, alone = ward_tree(pooled), ward_tree(train)
    counted, by_scores = count(tree, M, len(held_out)), count(alone, M, 0)
    distance = KDTree(train).query(held_out, 5)[0][:, -1]
    bounds = {
        "need": counted.rank,
        "share": share_evidence(counted.held_out, counted),
        "distance": lower(tree, np.arange(n, len(pooled)), distance, len(pooled)),
        "loss": lower(tree, np.arange(n), -scores["log_prob_out"], len(pooled)),
        "scores": by_scores.rank,
    }
    found = {}
    for rule, bound in bounds.items():
        nodes, these, points = (alone, by_scores, train) if rule == "scores" else (tree, counted, pooled)
        usable = np.flatnonzero(allowed(these, 5))
        order = usable[np.argsort(-bound[usable], kind="stable")]
        regions = np.full(len(points), NAMED)
        for rank, node in enumerate(nodes.disjoint(order, NAMED)):
            regions[nodes.members(node)] = rank
        found[rule] = (points, regions)
    return found


def assigned(draw, found, rows):
    """Return the rank of the region of each of these examples: that of the nearest clustered point."""
    points, regions = found
    part = draw.coordinates(draw.train, draw.held_out, rows)[2]
    return regions[KDTree(points).query(part)[1]]


def placed(draw, found):
    """Return the held-back examples to add: those in the first regions, then at random."""
    if found is None:
        return draw.rng.permutation(draw.held_back)[: draw.count]
    order = draw.rng.permutation(draw.held_back)
    return order[np.argsort(assigned(draw, found, order), kind="stable")][: draw.count]


# --- what is measured


def nats(draw, rows):
    """Return the held-out nats of all test examples and of thinned ones, mean over two trainings."""
    X, thin = prepared(draw), draw.thinned[draw.test]
    log_p = [model(draw.given, seed).fit(X[rows]).score_samples(X[draw.test]) for seed in (1, 2)]
    log_p = np.mean(log_p, axis=0)
    return float(log_p.mean()), float(log_p[thin].mean()) if thin.any() else np.nan


def prepared(draw):
    from genmem.data.examples import prepare

    if not hasattr(draw, "values"):
        draw.values = prepare(genmem.load(draw.X), "bernoulli", 0).X if draw.given.mnist else draw.X
    return draw.values


def memorization(draw, rows, name):
    """Return the mean score of thinned training examples and of the others."""
    M, thin = audited(draw, rows, name).result("scores")["per_repeat"].mean(axis=0), draw.thinned[rows]
    return float(M[thin].mean()), float(M[~thin].mean())


def trial(given, kind, seed):
    draw, name = Draw(given, kind, seed), f"{'mnist' if given.mnist else 'digits'}-{kind}-{seed}"
    file = given.out / f"{name}.json"
    if file.exists():
        return json.loads(file.read_text())
    run = audited(draw, draw.train, name)
    M, thin, found = run.result("scores")["per_repeat"].mean(axis=0), draw.thinned[draw.train], ranked(draw, run)
    of_test = draw.thinned[draw.test]
    told = {"thinned": int(draw.thin), "few": len(draw.few), "added": draw.count, "first": {}, "auc": {}}
    told |= {"M": [float(M[thin].mean()), float(M[~thin].mean())], "nats": {"none": nats(draw, draw.train)}}
    for rule in RULES:
        rank = assigned(draw, found[rule], draw.test)
        first = of_test[rank == 0]
        told["first"][rule] = [float(first.mean()) if len(first) else 0.0, float((rank[of_test] == 0).mean())]
        told["auc"][rule] = float(roc_auc_score(of_test, -rank))
    told["memorization"] = {}
    for arm in ARMS:
        added = np.r_[draw.train, placed(draw, found.get(arm))]
        told["nats"][arm] = nats(draw, added)
        if arm in ("need", "random"):
            told["memorization"][arm] = memorization(draw, added, f"{name}-{arm}")
    told["amount"] = amount(draw, run, name)
    file.write_text(json.dumps(told))
    return told


def amount(draw, run, name):
    """Add what genmem says to collect in its first region, as far as there is."""
    train, held_out, held_back = draw.coordinates(draw.train, draw.held_out, draw.held_back)
    scores = run.result("scores")
    found = find_regions(Known(scores["per_repeat"]), train, held_out, held_back, n_regions=1, permutations=99)
    first, there = found.regions[0], draw.held_back[found.samples == "1"]
    added = draw.rng.permutation(there)[: int(first.more)]
    rows = np.r_[draw.train, added]
    M = audited(draw, rows, f"{name}-amount").result("scores")["per_repeat"].mean(axis=0)
    inside = np.r_[found.train == "1", np.ones(len(added), bool)]
    population = draw.coordinates(draw.train, draw.held_out, np.r_[draw.test, draw.held_back])[2]
    pooled = np.concatenate([train, held_out])
    names = np.r_[found.train, found.held_out]
    share = float((names[KDTree(pooled).query(population)[1]][: len(draw.test)] == "1").mean())
    return {
        "n": first.n,
        "more": first.more,
        "interval": list(first.more_interval),
        "by_score": first.more_by_score,
        "added": len(added),
        "share_of_test": share,
        "M_before": first.mean,
        "M_after": [float(M[inside].mean()), float(M[~inside].mean())],
    }


def summary(kind, draws):
    print(f"\n{kind}, {len(draws)} draws, {np.mean([d['few'] for d in draws]):.1f} examples left on average")
    left, rest = ([d["M"][at] for d in draws] for at in (0, 1))
    print(f"M of what is left {mean_interval(left)}, of the rest {mean_interval(rest)}")
    for rule in RULES:
        hits = [d["first"][rule][0] >= 0.5 for d in draws]
        caught, auc = [d["first"][rule][1] for d in draws], [d["auc"][rule] for d in draws]
        first = f"first in {sum(hits)} of {len(hits)}, holding {np.mean(caught):.2f} of it"
        print(f"  {rule:<9} {first}; AUC {mean_interval(auc)}")
    for at, where in enumerate(("all test examples", "thinned test examples")):
        base = np.array([d["nats"]["none"][at] for d in draws])
        gain = {arm: np.array([d["nats"][arm][at] for d in draws]) - base for arm in ARMS}
        print(f"  held-out nats gained, {where}:")
        for arm in ARMS:
            apart = "" if arm == "need" else f"; need minus {arm} {mean_interval(gain['need'] - gain[arm])}"
            print(f"    {arm:<9} {mean_interval(gain[arm])}{apart}")
    for arm in ("need", "random"):
        print(f"  M of the thinned after {arm}: {mean_interval([d['memorization'][arm][0] for d in draws])}")
    ends = [d["amount"] for d in draws]
    full = [a for a in ends if a["added"] >= a["more"]]
    print(f"  about n more: {mean_interval([a['more'] for a in ends])}; as many could be added in {len(full)} draws")
    if full:
        ratio = [a["M_after"][0] / a["M_after"][1] for a in full]
        before = [a["M_before"] / a["M_after"][1] for a in full if a["n"]]
        print(f"  M of the region over that of the rest: before {mean_interval(before)}, after {mean_interval(ratio)}")


def main(argv=None):
    parser = options(__doc__)
    parser.add_argument("--mnist", type=Path)
    parser.add_argument("--kinds", nargs="+", default=["class", "style"])
    parser.add_argument("--draws", type=int, default=20)
    parser.add_argument("--epochs", type=int, default=100)
    parser.add_argument("--out", type=Path, default=Path("runs"))
    parser.set_defaults(examples=None)
    given = parse(parser, argv, draws=1, epochs=2, examples=600, kinds=["class"])
    given.out = scratch() if given.smoke else given.out
    given.out.mkdir(exist_ok=True)
    warnings.simplefilter("ignore", UserWarning)
    print(machine())
    for kind in given.kinds:
        draws = []
        for seed in range(given.draws):
            draws.append(trial(given, kind, seed))
            print(kind, seed, json.dumps(draws[-1]), flush=True)
        summary(kind, draws)


if __name__ == "__main__":
    main()
