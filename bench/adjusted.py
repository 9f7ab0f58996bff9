"""What is an adjusted score worth? Correlation with the raw scores of other models, at one, two and four repeats.

Refits of digits in eight repeats (or a run given by --run). The repeats are drawn apart: raw and adjusted scores come
from the first L of them, the raw scores they are compared with from four others. Shown are means over such choices
and, in brackets, their 2.5% and 97.5% quantiles; choices share refits, so that is spread and no error.
"""

from pathlib import Path

import numpy as np
from common import machine, options, parse, scratch
from scipy.stats import spearmanr

from genmem import stages
from genmem.data.arrays import identical_groups
from genmem.leaveout.adjusted import adjust
from genmem.leaveout.covariates import covariates
from genmem.leaveout.scoring import memorization_score
from genmem.run.directory import Run
from genmem.search.exact import nearest

SHARES = (0.05, 0.25, 0.5)  # of the training, at which log_prob_in is a covariate


class Refits:
    """Log p of all examples under all refits, and what a subset of the repeats says."""

    def __init__(self, log_probs, splits, X, labels, epochs):
        self.log_probs, self.splits, self.labels, self.epochs = log_probs, splits, labels, list(epochs)
        self.groups = identical_groups(X)
        self.distances = nearest(X, X, 10, exclude=np.arange(len(X)))[0]

    @classmethod
    def of_run(cls, run):
        data = run.data()
        log_probs = np.stack([run.log_probs(e) for e in range(len(run.score_epochs))], axis=1)
        return cls(log_probs, run.splits(), np.asarray(data.X), data.labels, run.score_epochs)

    def rows(self, repeats):
        return np.isin(self.splits.repeat, repeats)

    def scores(self, repeats):
        rows = self.rows(repeats)
        return memorization_score(
            self.log_probs[rows, -1], self.splits.held_out[rows], repeat=self.splits.repeat[rows], seed=0
        )

    def mean(self, repeats, epoch, held_out):
        rows = self.rows(repeats)
        use = self.splits.held_out[rows] == held_out
        return self.log_probs[rows, self.epochs.index(epoch)].astype(float).mean(axis=0, where=use)

    def checkpoints(self):
        at = [np.argmin(np.abs(np.array(self.epochs) - share * self.epochs[-1])) for share in SHARES]
        return [self.epochs[i] for i in sorted(set(at))]

    def covariates(self, repeats, epochs=None, neighbors=True, labels=True, out=None):
        epochs = self.checkpoints() if epochs is None else epochs
        within = np.stack([self.mean(repeats, e, False) for e in epochs], axis=1) if epochs else None
        extra = {} if out is None else {"leak": self.mean(repeats, out, True)}
        use = self.labels if labels else None
        return covariates(self.distances if neighbors else None, within, use, epochs=epochs, extra=extra)

    def adjusted(self, repeats, **about):
        scores, (a, b) = self.scores(repeats), (repeats[::2], repeats[1::2])
        halves = {}
        if len(repeats) > 1:
            halves["half_scores"] = [self.scores(a).score, self.scores(b).score]
            halves["half_covariates"] = [self.covariates(a, **about), self.covariates(b, **about)]
        return adjust(
            scores.score,
            scores.standard_error,
            self.covariates(repeats, **about),
            groups=self.groups,
            repeats=len(repeats),
            placebo=scores.placebo,
            **halves,
        )


def pearson(a, b):
    return float(np.corrcoef(a, b)[0, 1])


def spearman(a, b):
    return float(spearmanr(a, b).statistic)


def shown(values):
    low, high = np.quantile(values, (0.025, 0.975))
    return f"{np.mean(values):6.3f} ({low:.3f} to {high:.3f})"


def gains(refits, choices, lengths):
    for length in lengths:
        rows = {}
        for order in choices:
            mine, others = order[:length], refits.scores(order[-4:] if len(order) >= 8 else order[length:])
            raw, found = refits.scores(mine), refits.adjusted(mine)
            ways = {
                "raw": raw.score,
                "prediction": found.prediction,
                "adjusted": found.score,
                "5-NN distance": refits.distances[:, 4],
                "-log_prob_out": -raw.log_prob_out,
                "-log p, one model": -refits.log_probs[refits.rows(mine)][0, -1],
            }
            for name, values in ways.items():
                rows.setdefault(name, []).append((pearson(values, others.score), spearman(values, others.score)))
            gain = np.subtract(rows["adjusted"][-1], rows["raw"][-1])
            rows.setdefault("adjusted - raw", []).append(gain)
            expected = np.sqrt(found.reliability * others.reliability)
            plain = np.sqrt(raw.reliability * others.reliability)
            rows.setdefault("expected: raw, adjusted", []).append((plain, expected))
            rows.setdefault("mean weight, guard slope", []).append((found.weight.mean(), found.slope))
        print(f"\n{length} repeat(s), {len(choices)} choices        Pearson                  Spearman")
        for name, values in rows.items():
            first, second = np.transpose(values)
            print(f"  {name:<26} {shown(first)}   {shown(second)}", flush=True)


def guards(refits, choices, length, every=1):
    last, early = refits.epochs[-1], refits.checkpoints()
    cases = {
        "distances and labels": {"epochs": []},
        f"log_prob_in at {early}": {},
        f"log_prob_in at {last}": {"epochs": [last]},
        f"log_prob_in at all of {refits.epochs}": {"epochs": refits.epochs},
        "no labels": {"labels": False},
        "no distances": {"neighbors": False},
        **{f"FORBIDDEN log_prob_out at {e}": {"out": e} for e in refits.epochs[::-1]},
    }
    cases = dict(list(cases.items())[::every])
    print(
        f"\n{length} repeats: Pearson with the same models' raw score, with other models'; slope of the guard; verdicts"
    )
    for name, about in cases.items():
        rows, verdicts = [], []
        for order in choices:
            raw, found = refits.scores(order[:length]).score, refits.adjusted(order[:length], **about)
            other = refits.scores(order[length:]).score
            rows.append((pearson(found.score, raw), pearson(found.score, other), found.slope, found.slope_error))
            verdicts.append(str(found.ok)[0])
        own, other, slope, error = np.transpose(rows)
        print(
            f"  {name[:46]:<46} {own.mean():.3f}  {shown(other)}  {shown(slope)}  z sd {np.std(slope / error):.1f}  ",
            end="",
        )
        print("".join(verdicts), flush=True)


def main(argv=None):
    parser = options(__doc__)
    parser.add_argument("--run", type=Path, help="a run whose refits are done; else digits are refitted (minutes)")
    parser.add_argument("--choices", type=int, default=20, help="random orders of the repeats")
    parser.add_argument("--guards", type=int, default=8, help="of them for the guards; 0 skips these")
    parser.set_defaults(repeats=8, epochs=200, subset=None, every=1)
    given = parse(parser, argv, choices=1, guards=1, repeats=4, epochs=3, subset=80, every=4)
    print(machine())
    if given.run is None:
        sizes = {"folds": 5, "repeats": given.repeats, "epochs": given.epochs, "subset": given.subset}
        run = stages.plan("digits", out=scratch() / "run", **sizes)
        stages.refit(run)
    else:
        run = Run.open(given.run)
    refits = Refits.of_run(run)
    repeats = np.unique(refits.splits.repeat)
    rng = np.random.default_rng(0)
    choices = [rng.permutation(repeats) for _ in range(given.choices)]
    half = len(repeats) // 2
    gains(refits, choices, [length for length in (1, 2, 4) if length <= half])
    if given.guards and half >= 2:
        guards(refits, choices[: given.guards], half, given.every)


if __name__ == "__main__":
    main()
