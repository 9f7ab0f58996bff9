"""Influence put to the test: does it find what it should, and do models agree on it?

    python bench/influence_study.py check outliers score --mnist mnist.npz --out runs/influence-study

- check: the share of the first 128 training examples that are their own strongest proponent, and among their own five
  strongest, with 1, 4 and 16 latent draws; and how much of the spread of self-influence is not noise of the draws.
- outliers: 1,000 foreign images among 9,000 of MNIST: which number finds them? ROC-AUC, and the area under the curve
  of the share found against the share looked at, beside the least and the most it can be.
- score: self-influence against the memorization score of refits, and what cheaper numbers rank as well; labels of
  proponents and opponents.

Without a part all are done; `bench/agreement.py` compares models.

Whatever is computed is kept under --out and not computed again. Intervals are 95%: over examples for correlations and
areas, by their own formula or by bootstrap; where several models were trained, the range over trainings is beside it.
"""

import itertools
import warnings
from pathlib import Path

import numpy as np
from common import add_parts, like_mnist, machine, options, parse, scratch
from scipy.ndimage import zoom
from scipy.stats import rankdata
from sklearn.datasets import load_digits
from sklearn.metrics import roc_auc_score

import genmem
from genmem import stages, stats
from genmem.influence import Ledger, self_influence, top_influences

DRAWS = 16


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
        hidden=(512, 256), latent_dim=16, likelihood="bernoulli", epochs=epochs,
        checkpoint_every=max(1, epochs // 10), random_state=seed,
    )  # fmt: skip


def small(seed, epochs=100, latent_dim=8, beta=1.0):
    return genmem.VAE(
        hidden=(128, 64), latent_dim=latent_dim, beta=beta, epochs=epochs,
        checkpoint_every=max(1, epochs // 10), random_state=seed,
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
    print(f"\n## Self check: the first {arguments.checked} against all training examples\n")
    print("| data | draws | weights | products | strongest | among five | lowest to highest | not noise |")
    print("|---|---|---|---|---|---|---|---|")
    for name, draws in itertools.product(arguments.data, (1, 4, DRAWS)):
        for weights in ("complete", "adam") if draws == DRAWS else ("complete",):
            made = [
                kept.get(f"check-{name}-{draws}-{weights}-{seed}", checked, name, draws, weights, seed, arguments)
                for seed in range(arguments.seeds)
            ]
            for scale in ("dot", "query", "cosine"):
                print(check_row(name, draws, weights, scale, made), flush=True)


def checked(name, draws, weights, seed, arguments):
    X, model = check_model(name, seed, arguments)
    folder = arguments.out / "ledger" / f"{name}-{draws}-{weights}-{seed}"
    how = {"weights": weights, "draws": draws, "seed": seed, "ledger": Ledger(folder)}
    found = {
        scale: top_influences(model, X, X[: arguments.checked], k=5, scale=scale, **how).proponents
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
        X = digits()[0] if name == "digits" else mnist(arguments.mnist, arguments.images)[0]
        X, epochs = X[: arguments.images], [max(1, round(arguments.scale * usual)) for usual in (100, 50)]
        MODELS[name, seed] = X, (small(seed, epochs[0]) if name == "digits" else large(seed, epochs[1])).fit(X)
    return MODELS[name, seed]


def check_row(name, draws, weights, scale, made):
    checked = len(made[0][scale])
    own = np.arange(checked)[:, None]
    first = [int((one[scale][:, :1] == own).sum()) for one in made]
    five = [int((one[scale] == own).any(1).sum()) for one in made]
    n = checked * len(made)
    ranges = f"{min(first)} to {max(first)}; {min(five)} to {max(five)} of {checked}"
    sure = np.array([float(one["reliability"]) for one in made])
    noise = "" if scale != "dot" or np.isnan(sure).all() else f"{sure.min():.2f} to {sure.max():.2f}"
    cells = (name, draws, weights, scale, share(sum(first), n), share(sum(five), n), ranges, noise)
    return f"| {' | '.join(str(cell) for cell in cells)} |"


def share(count, n):
    low, high = stats.share_interval(count, n)
    return f"{count / n:.1%} ({low:.1%} to {high:.1%})"


# --- planted outliers


def foreign(path, seed, each=250):
    """Return images that are no digits of MNIST, binarised, uint8 (4 * each, 784), and the kind of each."""
    rng = np.random.default_rng([seed, 2])
    embedded = load_digits().images[rng.permutation(1797)[:each]] / 16
    enlarged = np.stack([np.pad(zoom(image, 2.5, order=1), 4) for image in embedded])
    with np.load(path) as arrays:
        some = arrays["x_test"]
        some = some[rng.permutation(len(some))[: 2 * each]] / 255
    transposed, textured = some[:each].transpose(0, 2, 1), some[each:].copy()
    stripes = (np.add.outer(np.arange(28), np.arange(28)) // 2) % 2
    textured = np.where(textured > 0.3, stripes, 0.0)
    angles = rng.uniform(0, np.pi, each)[:, None, None]
    grid = np.linspace(-1, 1, 28)
    along = grid[:, None] * np.cos(angles) + grid[None] * np.sin(angles)
    bars = (np.abs(along - rng.uniform(-0.4, 0.4, (each, 1, 1))) < rng.uniform(0.1, 0.3, (each, 1, 1))).astype(float)
    kinds = {"enlarged 8 x 8 digits": enlarged, "transposed": transposed, "striped": textured, "bars": bars}
    levels = np.concatenate(list(kinds.values())) * 255
    return binarised(levels, seed), np.repeat(list(kinds), [len(images) for images in kinds.values()])


def outliers(kept, arguments):
    made = [kept.get(f"outliers-{seed}", among_digits, arguments, seed) for seed in range(arguments.seeds)]
    kinds = [kind for kind in dict.fromkeys(made[0]["kind"]) if kind != "MNIST"]
    print(f"\n## {4 * arguments.strange:,} foreign images among {arguments.usual:,} of MNIST\n")
    print("Area under the detection curve: .05 at worst, .50 by chance, .95 at best. By kind: ROC-AUC.\n")
    print(f"| by | area under the detection curve | ROC-AUC | of {len(made)} trainings | {' | '.join(kinds)} |")
    print("|---|---|---|---|" + "---|" * len(kinds))
    for number in (name for name in made[0] if name != "kind"):
        roc = [roc_auc_score(one["kind"] != "MNIST", one[number]) for one in made]
        cells = [number, *(bootstrapped(f, made, number, arguments.times) for f in (detection_area, roc_auc_score))]
        cells += [f"{min(roc):.3f} to {max(roc):.3f}"]
        cells += [f"{np.mean([kind_auc(one, number, kind) for one in made]):.3f}" for kind in kinds]
        print(f"| {' | '.join(cells)} |", flush=True)


def among_digits(arguments, seed):
    strange, kinds = foreign(arguments.mnist, seed, arguments.strange)
    X = np.concatenate([mnist(arguments.mnist, arguments.usual, seed)[0], strange])
    kind = np.concatenate([np.repeat("MNIST", arguments.usual), kinds])
    order = np.random.default_rng([seed, 3]).permutation(len(X))
    X, kind = X[order], kind[order]
    model = large(seed, max(1, round(30 * arguments.scale))).fit(X)
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

    device = next(model.module_.parameters()).device
    with torch.no_grad():
        mean, log_variance = model.module_.posterior(torch.from_numpy(np.asarray(X, np.float32)).to(device))
    return mean.cpu().numpy(), log_variance.cpu().numpy()


def kind_auc(one, number, kind):
    some = np.isin(one["kind"], ["MNIST", kind])
    return roc_auc_score(one["kind"][some] == kind, one[number][some])


def detection_area(planted, value):
    """Return the area under the share of planted rows found against the share of rows looked at, highest first."""
    return 1 - (np.mean(rankdata(-np.asarray(value))[planted]) - 0.5) / len(planted)


def bootstrapped(statistic, made, number, times):
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
    for name in arguments.data:
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
    more = {"array": "x_train", "label_array": "y_train", "subset": arguments.images, "repeats": 4}
    more = more if name == "MNIST" else {}
    more |= {"subset": arguments.images, "repeats": 2, "epochs": 3} if arguments.smoke else {}
    source = arguments.mnist if name == "MNIST" else "digits"
    done = genmem.audit(source, out=out, **more)
    run = genmem.Run.open(done.path)
    stages.influence(run, draws=DRAWS, weights=weights, examples=run.plan["data"]["n"])
    return run


PARTS = {"check": check, "outliers": outliers, "score": score}


def main(argv=None):
    parser = options(__doc__)
    add_parts(parser, PARTS)
    parser.add_argument("--mnist", help="an .npz with x_train, y_train, x_test")
    parser.add_argument("--out", type=Path, default=Path("runs/influence-study"))
    parser.add_argument("--seeds", type=int, default=3, help="trainings")
    parser.add_argument("--images", type=int, default=4000, help="of MNIST, of the check and the score")
    parser.add_argument("--data", nargs="+", choices=("digits", "MNIST"), default=["digits", "MNIST"])
    parser.add_argument("--weights", default="complete")
    parser.set_defaults(usual=9000, strange=250, scale=1.0, checked=128, times=400)
    arguments = parse(parser, argv, out=None, seeds=1, images=50, usual=50, strange=5, scale=0.02, checked=16, times=5)
    if arguments.smoke:
        arguments.mnist, arguments.out = arguments.mnist or like_mnist(), arguments.out or scratch()
    print(machine())
    warnings.simplefilter("ignore", UserWarning)
    for part in arguments.parts or PARTS:
        PARTS[part](Kept(arguments.out / "arrays"), arguments)


if __name__ == "__main__":
    main()
