"""Does the memorization score find what nearest-neighbour tests miss?

    python bench/neighbor_study.py digits MNIST planted --mnist mnist.npz --out runs/neighbor-study --figure venn.svg

Digits and 4,000 images of MNIST: memorization scores M of an audit (5 folds), beside what tests of nearest neighbours
say of each training example. For each of the first five splits the network is refitted without the fold, T being what
it trained on, H the fold, and as many samples as H drawn from it; what is said of an example is averaged over the four
splits that trained on it. rho is on images halved by 2 x 2 average pooling, as published, and besides "as released":
with the distances of row 0 of each block of 256 read for all its rows.

Planted: digits with 20 examples that are there ten times over, and 20 that are like no other (pixels shuffled alike).
Which number tells them from the rest? Once with folds drawn as ever, once with identical examples left out together.

Intervals are 95%, over examples: Bonett and Wright's for rank correlations, bootstrap for areas.
"""

import itertools
import warnings
from pathlib import Path

import numpy as np
from common import add_parts, like_mnist, machine, options, parse, scratch
from sklearn.base import clone
from sklearn.metrics import roc_auc_score

import genmem
from genmem import stats
from genmem.data.examples import load, plant_duplicates
from genmem.leaveout import planned_model
from genmem.neighbors.data_copying import data_copying_test
from genmem.neighbors.flagged import conformal_rows
from genmem.neighbors.ratios import authenticity, distance_ratio
from genmem.neighbors.sets import Sets
from genmem.search import nearest
from genmem.stages._describe import nearest_others

TOP, BLOCK = 0.05, 256
RHO, RELEASED = "rho", "rho, as released"
PARTS = ("digits", "MNIST", "planted")


# --- what is known of each training example


def numbers_of(run, n_splits):
    """Return what each test says of each example, (n,) by name: the higher, the more suspect."""
    X, scores = np.asarray(run.data().X), run.result("scores")
    splits, model = run.splits(), planned_model(run, None)
    shape = run.data().image_shape or (8, 8)  # planted digits come as an array
    found = {name: np.full((n_splits, len(X)), np.nan) for name in by_split_names()}
    for split in range(n_splits):
        kept = np.flatnonzero(~splits.held_out[split])
        values = by_split(model, X, kept, np.flatnonzero(splits.held_out[split]), shape, split)
        for name, value in values.items():
            found[name][split, kept] = value
    near = nearest_others(run)["distances"]
    return {
        "memorization score": scores["score"],
        **{name: np.nanmean(values, axis=0) for name, values in found.items()},
        "distance to the 5th neighbour": near[:, 4],
        "-log p, trained on": -scores["log_prob_in"],
        "-log p, held out": -scores["log_prob_out"],
    }


def by_split_names():
    return (
        RHO,
        RELEASED,
        "C_T, -Z of its cell",
        "samples not authentic to it",
        "conformal: 1 - p",
        "- distance to the nearest sample",
    )


def by_split(model, X, kept, held, shape, seed):
    """Return for each row of T: rho and its like, from one network trained on T."""
    fitted = clone(model).set_params(random_state=seed).fit(X[kept])
    S = np.asarray(fitted.sample(len(held), random_state=seed))
    T, H = X[kept], X[held]
    near = Sets(T, H, S)
    copying = data_copying_test(near, seed=seed)
    z = np.array([cell.z for cell in copying.cells])
    test = authenticity(near)
    pooled = [as_images(rows, shape) for rows in (T, H, S)]
    values = (
        np.log(np.clip(distance_ratio(*pooled, pool=True), 1e-9, 1e9)),
        np.log(np.clip(released(*(halved(rows) for rows in pooled)), 1e-9, 1e9)),
        -z[copying.details["cell_of_train"]],
        np.bincount(near.near("samples", "train")[1][~test.details["authentic"], 0], minlength=len(T)),
        1 - conformal_rows(near).p_value,
        -near.distance("train", "samples"),
    )
    return dict(zip(by_split_names(), values, strict=True))


def as_images(rows, shape):
    return np.asarray(rows, np.float32).reshape(len(rows), *shape)


def halved(images):
    n, h, w = images.shape
    return images.reshape(n, h // 2, 2, w // 2, 2).mean((2, 4)).reshape(n, -1)


def released(train, held_out, samples):
    """rho with row 0's distances for a whole block: right in one row of 256."""
    sides = []
    for base in (held_out, samples):
        at = nearest(train, base)[1][:, 0]
        first = np.repeat(train[::BLOCK], BLOCK, axis=0)[: len(train)]
        sides.append(np.linalg.norm(first - base[at], axis=1))
    return sides[0] / np.maximum(sides[1], 1e-12)


# --- tables


def compare(name, run, arguments):
    found = numbers_of(run, arguments.splits)
    score = found.pop("memorization score")
    highest = highest_of(score)
    print(f"\n## {name}: {len(score):,} examples, {arguments.splits} splits\n")
    print(f"| | rank correlation with M | ROC-AUC of the highest {TOP:.0%} of M |\n|---|---|---|")
    for number, value in found.items():
        rho = stats.spearman(score[np.isfinite(value)], value[np.isfinite(value)])
        print(f"| {number} | {shown(rho.rho, rho.interval)} | {area(highest, value, arguments.times)} |", flush=True)
    sets = {
        "M": highest,
        RHO: highest_of(found[RHO]),
        "not authentic": highest_of(found["samples not authentic to it"]),
    }
    count = int(highest.sum())
    print(f"\nHighest {TOP:.0%} by each: {count} examples. By chance two have {count**2 / len(score):.1f} in common.\n")
    regions = venn(sets)
    for names, count in regions.items():
        print(f"- {' and '.join(names)} only: {count}")
    return {name: regions}


def highest_of(value):
    order = np.argsort(-np.nan_to_num(value, nan=-np.inf), kind="stable")
    there = np.zeros(len(value), bool)
    there[order[: round(TOP * len(value))]] = True
    return there


def venn(sets):
    """Return how many examples are in just these sets, by their names."""
    regions = {}
    for size in range(1, len(sets) + 1):
        for names in itertools.combinations(sets, size):
            inside = np.logical_and.reduce([sets[name] == (name in names) for name in sets])
            regions[names] = int(inside.sum())
    return regions


def area(there, value, times):
    finite = np.isfinite(value)
    there, value = there[finite], value[finite]
    rng, sides = np.random.default_rng(0), (np.flatnonzero(there), np.flatnonzero(~there))
    drawn = []
    for _ in range(times):
        rows = np.concatenate([rng.choice(side, len(side)) for side in sides])
        drawn.append(roc_auc_score(there[rows], value[rows]))
    return shown(roc_auc_score(there, value), np.quantile(drawn, (0.025, 0.975)))


def shown(value, bounds):
    return f"{value:.2f} ({bounds[0]:.2f} to {bounds[1]:.2f})"


# --- the runs


def audited(name, arguments):
    more = {"array": "x_train", "label_array": "y_train", "subset": 4000, "repeats": 4} if name == "MNIST" else {}
    more |= arguments.tiny
    source = arguments.mnist if name == "MNIST" else "digits"
    return genmem.Run.open(genmem.audit(source, out=arguments.out / f"audit-{name}", **more).path)


def planted(arguments):
    data = load("digits", subset=arguments.tiny.get("subset"))
    rng = np.random.default_rng(0)
    chosen = rng.permutation(len(data.X))[:40]
    X = np.array(data.X)
    pixels = rng.permutation(X[0].size)
    X[chosen[20:]] = X[chosen[20:]].reshape(20, -1)[:, pixels].reshape(20, *X.shape[1:])
    whole, groups = plant_duplicates(genmem.Data(X, data.labels, data.index, "array"), chosen[:20], 9)
    kinds = {"ten times there": chosen[:20], "like no other": chosen[20:]}
    kinds = {kind: np.isin(groups, groups[rows]) for kind, rows in kinds.items()}
    rest = ~np.logical_or.reduce(list(kinds.values()))
    tables = {}
    for together in (False, True):
        out = arguments.out / f"planted-{'together' if together else 'apart'}"
        done = genmem.audit(whole.X, out=out, together=together, **{"repeats": 8, **arguments.tiny, "subset": None})
        tables[together] = numbers_of(genmem.Run.open(done.path), arguments.splits)
    print("\n## Planted in digits: ROC-AUC against the rest\n")
    print(
        "| | "
        + " | ".join(f"{kind}, {how}" for how in ("random folds", "duplicates together") for kind in kinds)
        + " |"
    )
    print("|---|" + "---|" * 4)
    for number in tables[False]:
        cells = [
            area(there[there | rest], tables[how][number][there | rest], arguments.times)
            for how in tables
            for there in kinds.values()
        ]
        print(f"| {number} | {' | '.join(cells)} |", flush=True)


def main(argv=None):
    parser = options(__doc__)
    add_parts(parser, PARTS)
    parser.add_argument("--mnist", help="an .npz with x_train and y_train")
    parser.add_argument("--out", type=Path, default=Path("runs/neighbor-study"))
    parser.add_argument("--figure", type=Path, help="draw the Venn diagrams there, an .svg")
    parser.set_defaults(splits=5, times=400, tiny={})
    arguments = parse(parser, argv, splits=1, times=5, tiny={"subset": 90, "repeats": 1, "epochs": 2})
    if arguments.smoke:
        arguments.mnist, arguments.out = like_mnist(), scratch()
        arguments.figure = arguments.out / "venn.svg"
    print(machine())
    warnings.simplefilter("ignore", UserWarning)
    regions = {}
    for part in arguments.parts or PARTS:
        if part == "planted":
            planted(arguments)
        else:
            regions |= compare(part, audited(part, arguments), arguments)
    if arguments.figure and regions:
        arguments.figure.write_text(drawing(regions))


def drawing(regions):
    """Return circles with counts as SVG, one group of three for each data set."""
    centres, places = ((90, 90), (150, 90), (120, 140)), {(0,): (60, 75), (1,): (180, 75), (2,): (120, 180)}
    places |= {(0, 1): (120, 70), (0, 2): (88, 128), (1, 2): (152, 128), (0, 1, 2): (120, 105)}
    parts = []
    for column, (name, found) in enumerate(regions.items()):
        sets = list(dict.fromkeys(itertools.chain(*found)))
        parts.append(
            f'<g transform="translate({column * 260} 20)"><text x="120" y="5" text-anchor="middle">{name}</text>'
        )
        for (x, y), colour in zip(centres, ("#4477aa", "#ee6677", "#228833"), strict=True):
            parts.append(f'<circle cx="{x}" cy="{y}" r="62" fill="{colour}" fill-opacity=".3"/>')
        for (x, y), label in zip(((20, 25), (190, 25), (120, 222)), sets, strict=True):
            parts.append(f'<text x="{x}" y="{y}" font-size="12">{label}</text>')
        for names, count in found.items():
            x, y = places[tuple(sets.index(one) for one in names)]
            parts.append(f'<text x="{x}" y="{y}" text-anchor="middle" font-size="13">{count}</text>')
        parts.append("</g>")
    size = f'viewBox="0 0 {260 * len(regions)} 260" width="{260 * len(regions)}" height="260"'
    return f'<svg xmlns="http://www.w3.org/2000/svg" {size} font-family="sans-serif">{"".join(parts)}</svg>\n'


if __name__ == "__main__":
    main()
