"""Memorization during training: the published claims re-tested on MNIST at two learning rates.

    python bench/trajectory.py --mnist mnist.npz --out runs/trajectory     # refits, then tables; resumes
    python bench/trajectory.py --out runs/trajectory --page curves.html    # tables of what is there, and the figure

Numbers are estimates with a 95% interval over repeats: jackknife, Student t; of quantiles and means the bias of order
1/L is taken off. Claims: memorization starts before the generalization gap; it stabilises; it is smaller at the lower
learning rate; early stopping does not remove it; scores are skewed with a long tail; the highest 5% are not all
unlikely examples.
"""

import itertools
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from common import like_mnist, machine, options, parse, scratch
from scipy import stats as scipy_stats

from genmem import plots, stages, stats
from genmem.leaveout import memorization_score
from genmem.leaveout.curves import MemorizationCurve, memorization_curve

EPOCHS = (1, 2, 3, 4, 6, 8, 11, 16, 25, 40, 65, 100)
LEVELS = (0.5, 0.95, 0.999)
NAMES = ("median", "95% quantile", "99.9% quantile", "mean (the gap)")
DRAWS = 999


# --- the refits


def scored(epochs):
    """Return the epochs that are scored, in a training of so many."""
    return tuple(sorted({max(1, round(epochs / EPOCHS[-1] * epoch)) for epoch in EPOCHS}))


def refit(mnist, out, images, folds, repeats, epochs, learning_rate):
    run = stages.plan(
        mnist, out=out, array="x_train", label_array="y_train", subset=images, folds=folds, repeats=repeats,
        epochs=epochs, settings={"learning_rate": learning_rate},
        score_epochs=scored(epochs),
    )  # fmt: skip
    stages.refit(run)


@dataclass
class Study:
    """The refits of whole repeats: log_probs (E, n_splits, n), held_out (n_splits, n), repeat (n_splits,)."""

    name: str
    epochs: np.ndarray
    log_probs: np.ndarray
    held_out: np.ndarray
    repeat: np.ndarray

    def __post_init__(self):
        ids = np.unique(self.repeat)
        rows = [self.repeat == r for r in ids]
        ell, held = self.log_probs.astype(np.float64), self.held_out
        self.ins = np.stack([ell[:, r].mean(axis=1, where=~held[r]) for r in rows], axis=1)  # (E, L, n)
        self.outs = np.stack([ell[:, r].mean(axis=1, where=held[r]) for r in rows], axis=1)
        self.scores = self.ins - self.outs

    @property
    def L(self):
        return self.scores.shape[1]

    def at(self, epoch):
        return int(np.flatnonzero(self.epochs == epoch)[0])

    def curve(self) -> MemorizationCurve:
        return memorization_curve(
            self.log_probs, self.held_out, self.repeat, epochs=self.epochs, levels=LEVELS, draws=DRAWS
        )


def read(path, epochs):
    """Read the whole repeats that are there, straight from the shards: one split each."""
    with np.load(path / "splits.npz") as kept:
        held, repeat = kept["held_out"], kept["repeat"]
    shards = {int(file.stem): file for file in (path / "shards").glob("[0-9]*.npz")}
    whole = [r for r in np.unique(repeat) if all(s in shards for s in np.flatnonzero(repeat == r))]
    rows = np.flatnonzero(np.isin(repeat, whole))
    log_probs = np.concatenate([np.load(shards[s])["log_probs"] for s in rows]).transpose(1, 0, 2)
    return Study(path.name, np.asarray(epochs), log_probs, held[rows], repeat[rows])


# --- estimates with intervals


@dataclass
class Estimate:
    value: np.ndarray
    low: np.ndarray
    high: np.ndarray

    def __getitem__(self, at):
        return Estimate(self.value[at], self.low[at], self.high[at])

    def __format__(self, spec):
        return f"{self.value:{spec}} ({self.low:{spec}} to {self.high:{spec}})"


def jackknife(statistic, L, unbias=True):
    """Estimate `statistic(repeats)`, leaving out one repeat at a time; repeats are positions below L."""
    every = np.arange(L)
    value = np.asarray(statistic(every), dtype=np.float64)
    left = np.array([statistic(np.delete(every, r)) for r in every])
    error = np.sqrt((L - 1) / L * ((left - left.mean(axis=0)) ** 2).sum(axis=0))
    value = L * value - (L - 1) * left.mean(axis=0) if unbias else value
    half = error * scipy_stats.t.ppf(0.975, L - 1)
    return Estimate(value, value - half, value + half)


def summed_up(scores):
    """Quantiles and mean (..., C) of scores (..., n)."""
    return np.concatenate([np.quantile(scores, LEVELS, axis=-1), scores.mean(axis=-1)[None]]).T


def level_of(study, repeats):
    return summed_up(study.scores[:, repeats].mean(axis=1))  # (E, C)


def rows(names, cells):
    for name, cell in zip(names, cells, strict=True):
        print(f"| {name} | " + " | ".join(cell) + " |")


# --- (a) what comes first


def starts(study, curve):
    found = jackknife(lambda repeats: level_of(study, repeats), study.L)
    print("\n| epoch | training loss | held-out loss | " + " | ".join(NAMES) + " |\n" + "|---" * 7 + "|")
    for e, epoch in enumerate(study.epochs):
        cells = [f"{found[e, c]:.2f}" for c in range(4)]
        print(f"| {epoch} | {-curve.mean_in[e]:.1f} | {-curve.mean_out[e]:.1f} | " + " | ".join(cells) + " |")
    q, gap = curve.quantiles, curve.gap
    print("\nexcess over the null mean, and p corrected over epochs")
    for e, epoch in enumerate(study.epochs):
        excess, p = np.append(q.excess[e], gap.excess[e]), np.append(q.p_corrected[e], gap.p_corrected[e])
        band = np.append(q.null_high[e] - q.null_mean[e], gap.null_high[e] - gap.null_mean[e])
        cells = [f"{x:.2f} ±{b:.2f}, p {y:.3f}" for x, b, y in zip(excess, band, p, strict=True)]
        print(f"| {epoch} | " + " | ".join(cells) + f" | t of the gap: p {curve.gap_student_p[e]:.4f} |")
    first = np.append(q.first(), gap.first())
    low, high = (np.append(a, b) for a, b in zip(q.first_range(), gap.first_range(), strict=True))
    print("first significant epoch (range without one repeat):")
    rows(NAMES, [[f"{first[c]} ({low[c]} to {high[c]})"] for c in range(4)])
    for share in (0.1, 0.5):
        rise = jackknife(lambda repeats, s=share: np.log(rises(study, repeats, s)), study.L, False)
        rise = Estimate(*(np.exp(part) for part in (rise.value, rise.low, rise.high)))
        print(f"epoch at which {share:.0%} of the last excess is reached: ")
        rows(NAMES, [[f"{rise[c]:.1f}"] for c in range(4)])


def rises(study, repeats, share):
    """Epoch (C,), interpolated in its logarithm, at which the excess first reaches a share of its last value."""
    excess = level_of(study, repeats) - null_of(study, repeats)
    return np.array([crossing(study.epochs, column, share * column[-1]) for column in excess.T])


def null_of(study, repeats):
    """Mean of the statistics (E, C) over placebos: a fold trained on called out, the true one dropped."""
    held, ids = study.held_out, np.unique(study.repeat)
    K = int((study.repeat == ids[0]).sum())
    total = np.zeros((len(study.epochs), 4))
    for shift in range(1, K):
        parts = []
        for position, r in enumerate(ids[repeats]):
            at = np.flatnonzero(study.repeat == r)
            placebo = np.roll(held[at], 1 + (shift + position) % (K - 1), axis=0)
            ell = study.log_probs[:, at].astype(np.float64)
            parts.append(ell.mean(axis=1, where=~held[at] & ~placebo) - ell.mean(axis=1, where=placebo))
        total += summed_up(np.mean(parts, axis=0))
    return total / (K - 1)


def crossing(epochs, values, target):
    above = np.flatnonzero(values >= target)
    at = above[0] if len(above) else len(epochs) - 1
    if at == 0:
        return float(epochs[0])
    x = np.log(epochs[at - 1 : at + 1])
    return float(np.exp(np.interp(target, values[at - 1 : at + 1], x)))


def published(study):
    """Print what the published estimator shows, log of mean densities, with true and with placebo held-out folds."""
    print("\nlog_mean: 95% quantile, 99.9% quantile, mean; the same of placebos")
    ids = np.unique(study.repeat)
    for e, epoch in enumerate(study.epochs):
        ell = study.log_probs[e].astype(np.float64)
        placebo = np.vstack([np.roll(study.held_out[study.repeat == r], 1 + i % 3, axis=0) for i, r in enumerate(ids)])
        seen = ~study.held_out
        both = [log_mean(ell, seen) - log_mean(ell, ~seen), log_mean(ell, seen & ~placebo) - log_mean(ell, placebo)]
        rows([epoch], [[f"{x:.2f}" for scores in both for x in summed_up(scores)[1:]]])


def log_mean(ell, mask):
    return np.logaddexp.reduce(ell, axis=0, where=mask, initial=-np.inf) - np.log(mask.sum(axis=0))


# --- (b) does it stabilise


def stabilises(study):
    print("\nchange per doubling of epochs, nats")
    levels = lambda repeats: level_of(study, repeats)  # noqa: E731
    for a, b in itertools.pairwise(range(len(study.epochs))):
        doublings = np.log2(study.epochs[b] / study.epochs[a])
        step = jackknife(lambda repeats, a=a, b=b, d=doublings: (levels(repeats)[b] - levels(repeats)[a]) / d, study.L)
        rows([f"{study.epochs[a]} to {study.epochs[b]}"], [[f"{step[c]:.2f}" for c in range(4)]])
    if study.L < 4:
        return
    some = [e for e in (4, 8, 16, 25, 40, 65, 100) if e in study.epochs]
    print("\nrank correlation of scores between epochs, from different repeats; below, corrected for their noise")
    print("| epoch | " + " | ".join(map(str, some)) + " |\n" + "|---" * (len(some) + 1) + "|")
    at = [study.at(e) for e in some]
    raw = jackknife(lambda repeats: across_halves(study.scores[at][:, repeats])[0], study.L, False)
    clean = jackknife(lambda repeats: across_halves(study.scores[at][:, repeats])[1], study.L, False)
    told = np.diag(raw.low) > 0  # epochs whose scores repeat at all
    for estimate, shown in ((raw, np.ones_like(told)), (clean, told)):
        cells = [
            [f"{estimate[i, j]:.2f}" if shown[i] and shown[j] else "" for j in range(len(some))]
            for i in range(len(some))
        ]
        rows(some, cells)
        print()


def across_halves(scores):
    """Mean rank correlation (E, E) between halves of the repeats, all ways, and the same over its own diagonal."""
    L = scores.shape[1]
    total = []
    for half in itertools.combinations(range(L), L // 2):
        rest = [r for r in range(L) if r not in half]
        ranks = [scipy_stats.rankdata(scores[:, list(part)].mean(axis=1), axis=1) for part in (half, rest)]
        r = np.corrcoef(*ranks)[: len(scores), len(scores) :]
        total.append((r + r.T) / 2)
    mean = np.mean(total, axis=0)
    own = np.sqrt(np.clip(np.diag(mean), 1e-9, None))
    return mean, mean / own[:, None] / own


# --- (c) the lower learning rate


def compare(fast, slow):
    L = min(fast.L, slow.L)
    print(f"\n{slow.name} minus {fast.name} at the same epoch, nats ({L} repeats, paired)")
    same = jackknife(lambda repeats: level_of(slow, repeats) - level_of(fast, repeats), L)
    for e, epoch in enumerate(fast.epochs):
        rows([epoch], [[f"{same[e, c]:.2f}" for c in range(4)]])
    for name, losses in (("training", "ins"), ("held-out", "outs")):
        print(f"\n{slow.name} minus {fast.name} at the same {name} loss")
        found = jackknife(lambda repeats, losses=losses: at_same_loss(fast, slow, repeats, losses), L)
        for e, epoch in enumerate(slow.epochs):
            loss, most = -getattr(slow, losses)[e].mean(), -getattr(fast, losses)[0].mean()
            if loss <= most and loss >= (-getattr(fast, losses).mean(axis=(1, 2))).min():
                cells = [f"{found[e, c]:.2f}, ratio {found[e, c + 4]:.2f}" for c in range(4)]
                rows([f"epoch {epoch} of {slow.name}, loss {loss:.1f}"], [cells])


def at_same_loss(fast, slow, repeats, losses):
    """Differences and ratios (E, 2 C) of the slow study to the fast one where that first had the same mean loss."""
    loss = [-getattr(study, losses)[:, repeats].mean(axis=(1, 2)) for study in (fast, slow)]
    best = int(loss[0].argmin()) + 1  # before it rises again
    level = [level_of(study, repeats) for study in (fast, slow)]
    matched = [np.interp(-loss[1], -loss[0][:best], column[:best]) for column in level[0].T]
    return np.hstack([level[1] - np.transpose(matched), level[1] / np.transpose(matched)])


# --- (d) early stopping


def stopped(study, curve):
    best, q, gap = curve.best, curve.quantiles, curve.gap
    each = np.nanargmax(curve.out_by_split, axis=0)
    print(f"\nbest held-out loss: epoch {study.epochs[best]}; of single refits {study.epochs[np.sort(each)].tolist()}")
    picked = study.log_probs[each, np.arange(len(each))]
    own = Study(study.name, np.array([0]), picked[None], study.held_out, study.repeat)
    alone = own.curve()
    found = jackknife(lambda repeats: level_of(study, repeats), study.L)
    single = jackknife(lambda repeats: level_of(own, repeats), study.L)
    share = jackknife(lambda repeats: level_of(study, repeats)[best] / level_of(study, repeats)[-1], study.L, False)
    print("| | at that epoch | null (95% band) | p | share of the last epoch | each refit at its own best | null | p |")
    for c, name in enumerate(NAMES):
        cells = [f"{found[best, c]:.2f}", beside(q, gap, best, c), f"{share[c]:.2f}"]
        rows([name], [[*cells, f"{single[0, c]:.2f}", beside(alone.quantiles, alone.gap, 0, c)]])
    for name, matrix in (
        ("at that epoch", study.log_probs[best]),
        ("at the last", study.log_probs[-1]),
        ("own", picked),
    ):
        found = memorization_score(matrix, study.held_out, repeat=study.repeat)
        flagged = [int((stats.benjamini_hochberg(p) < 0.05).sum()) for p in (found.p_value, found.p_above(1.0))]
        print(f"flagged {name}: {flagged[0]} of {len(found.score)} above 0, {flagged[1]} above 1 nat")


def beside(q, gap, e, c):
    parts = [np.append(getattr(q, name)[e], getattr(gap, name)[e])[c] for name in
             ("null_mean", "null_low", "null_high", "p_value")]  # fmt: skip
    return "{:.2f} ({:.2f} to {:.2f}) | {:.3f}".format(*parts)


# --- the tail


def tail(study):
    def shape(repeats):
        score = study.scores[-1, repeats].mean(axis=0)
        top = plots.highest(score)
        tenths = np.array_split(np.argsort(study.ins[-1, repeats].mean(axis=0), kind="stable"), 10)
        return [scipy_stats.skew(score), (score < 0).mean(), score[top].mean(), score[top].sum() / score.sum(),
                *(top[part].mean() * len(part) / top.sum() for part in tenths)]  # fmt: skip

    found = jackknife(shape, study.L, False)
    score, log_in = study.scores[-1].mean(axis=0), study.ins[-1].mean(axis=0)
    print(
        f"\nskewness {found[0]:.2f}; below 0 {found[1]:.3f}; mean of the top 5% {found[2]:.1f}, {found[3]:.3f} of all"
    )
    print("share of the top 5% by tenth of log_prob_in, least likely first: ")
    print("; ".join(f"{found[4 + i]:.3f}" for i in range(10)))
    top = plots.highest(score)
    tenths = np.array_split(np.argsort(log_in, kind="stable"), 10)
    print("counts:", [int(top[part].sum()) for part in tenths], "of", int(top.sum()))
    rho = stats.spearman(score, log_in)
    print(f"rank correlation of score with log_prob_in {rho.rho:.2f} {np.round(rho.interval, 2)}")
    quantiles = np.quantile(score, (0.01, 0.25, 0.5, 0.75, 0.95, 0.99, 0.999, 1))
    print("quantiles 1 25 50 75 95 99 99.9 100%:", quantiles.round(1))


# --- the page


def page(curves, path):
    """Write the figures of all studies side by side, as one web page."""
    names = ("epochs", "levels", "score_quantiles", "null_quantiles", "mean_in", "mean_out", "quantiles_null_low",
             "quantiles_null_high", "quantiles_first_epoch", "gap_first_epoch", "best_epoch")  # fmt: skip
    parts = []
    for position, (name, curve) in enumerate(curves.items()):
        arrays = curve.to_arrays()
        figure = plots.trajectory(**{key: arrays[key] for key in names})
        figure.update_layout(width=600, height=560, title={"text": name, "y": 0.99, "yanchor": "top"}, margin_t=90)
        html = figure.to_html(full_html=False, include_plotlyjs=position == 0, config={"displayModeBar": False})
        parts.append(f'<div style="display:inline-block">{html}</div>')
    Path(path).write_text(f'<body style="margin:0;background:#fff;white-space:nowrap">{"".join(parts)}</body>')


def main(argv=None):
    parser = options(__doc__)
    parser.add_argument("--mnist", help="mnist.npz with x_train and y_train; without it, only what is there is read")
    parser.add_argument("--out", type=Path, default=Path("runs/trajectory"))
    parser.add_argument("--images", type=int, default=4000)
    parser.add_argument("--folds", type=int, default=5)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--epochs", type=int, default=100)
    parser.add_argument("--learning-rates", type=float, nargs="+", default=[1e-3, 1e-4])
    parser.add_argument("--page", help="where to write the figure")
    given = parse(parser, argv, images=60, folds=2, repeats=4, epochs=8)
    if given.smoke:
        given.mnist, given.out = like_mnist(), scratch()
        given.page = given.out / "page.html"
    print(machine())
    studies, curves = [], {}
    for rate in given.learning_rates:
        path = given.out / f"lr{rate:g}"
        if given.mnist:
            refit(given.mnist, path, given.images, given.folds, given.repeats, given.epochs, rate)
        study = read(path, scored(given.epochs))
        studies.append(study)
        curves[f"learning rate {rate:g}"] = curve = study.curve()
        print(
            f"\n## {study.name}: {study.L} repeats of {len(study.repeat) // study.L} folds, "
            f"{study.held_out.shape[1]} images"
        )
        starts(study, curve)
        published(study)
        stabilises(study)
        stopped(study, curve)
        tail(study)
    if len(studies) > 1:
        compare(*studies[:2])
    if given.page:
        page(curves, given.page)


if __name__ == "__main__":
    main()
