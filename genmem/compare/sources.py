"""What is compared of an audit: its scores, log p and attack by repeat, and the examples they belong to."""

import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from genmem.data.arrays import fingerprint
from genmem.data.examples import Data
from genmem.errors import DataError, IncompleteRunError
from genmem.findings.folds import left_uneven
from genmem.leaveout.attack import leave_out_repeats
from genmem.leaveout.estimators import BoolArray, FloatArray, Rows, mean_where, repeats_of
from genmem.leaveout.matrix import remaining
from genmem.leaveout.posterior import correction_of, estimate_of, has_encoder, scored_log_probs
from genmem.leaveout.scoring import MemorizationScores
from genmem.run.directory import Run

ARRAYS = ("score", "log_prob_in", "log_prob_out", "standard_error", "p_value", "q_value", "per_repeat", "placebo")


@dataclass(frozen=True, eq=False)
class Rates:
    """True-positive rates of the likelihood-ratio attack, by false-positive rate, and without one repeat each.

    Attributes:
        values: (2,) at 1% and .1%; NaN where there are too few examples.
        left: (L, 2) the same without each repeat; no rows with fewer than three.
    """

    values: FloatArray
    left: FloatArray


@dataclass(frozen=True, eq=False)
class Audited:
    """One of the audits that are compared.

    Attributes:
        name: how it is called in the results.
        path: its run directory, "" for scores.
        scores: of all n examples.
        log_prob_out: (L, n) mean log p of the refits without the example, by repeat; None if it is not known.
        held: which examples each refit of each repeat left out, L arrays (splits, n); None if it is not known.
        rates: of the membership attack; None if there is none.
        data: the examples; None if they are not known.
        prepared: the source of the data and how they were prepared, in words.
        plain: what decides the meaning of the numbers, each in a few words: design, match, estimator, kind of log p.
    """

    name: str
    path: str
    scores: MemorizationScores
    log_prob_out: FloatArray | None = None
    held: list[BoolArray] | None = None
    rates: Rates | None = None
    data: Data | None = None
    prepared: str = ""
    plain: tuple[tuple[str, str], ...] = ()

    @property
    def n(self) -> int:
        """The number of examples."""
        return len(self.scores.score)

    @property
    def repeats(self) -> list[str]:
        """A key for each repeat: audits share those that left out the same examples together, or have equal scores."""
        if self.held is None:
            keys = [fingerprint(scores) for scores in self.scores.per_repeat]
        else:
            keys = [fingerprint(np.packbits(held)) for held in self.held]
        return [f"{key} {keys[:r].count(key)}" for r, key in enumerate(keys)]

    def ordered(self, order: NDArray[np.intp]) -> "Audited":
        """Return the same with the examples in another order."""
        moved = {name: getattr(self.scores, name)[..., order] for name in ARRAYS}
        left = self.scores.uneven
        uneven = None if left is None else type(left)(*(np.asarray(part)[order] for part in left))
        return replace(
            self,
            scores=replace(self.scores, **moved, uneven=uneven),
            log_prob_out=None if self.log_prob_out is None else self.log_prob_out[:, order],
            held=None if self.held is None else [held[:, order] for held in self.held],
            data=None if self.data is None else self.data.take(order),
        )


def audited(sources: Sequence[Any], names: Sequence[str] | None = None) -> list[Audited]:
    """Return what is compared of each source: a `Run`, the path of one, or `MemorizationScores`.

    Raises:
        DataError: a source is something else, or `names` are not one for each.
        IncompleteRunError: a run has no scores, or none of all its refits; the message names the command.
        RunError: there is no run at a path, or a file is damaged.
    """
    if names is not None and (len(names) != len(sources) or len(set(names)) < len(names)):
        raise DataError(
            expected=f"a different name for each of the {len(sources)} audits",
            got=", ".join(map(repr, names)) or "none",
            do="Give one name per run, in their order.",
        )
    opened = [_opened(source) for source in sources]
    for run in opened:
        if isinstance(run, Run):
            run.check_results()
    called = list(names) if names is not None else _names(opened)
    return [
        _of_run(source, name) if isinstance(source, Run) else Audited(name, "", source)
        for source, name in zip(opened, called, strict=True)
    ]


def _opened(source: Any) -> Run | MemorizationScores:
    if isinstance(source, str | os.PathLike):
        return Run.open(source)
    if isinstance(source, Run | MemorizationScores):
        return source
    if isinstance(getattr(source, "path", None), os.PathLike) and hasattr(source, "summary"):  # what `audit` returns
        return Run.open(source.path)
    raise DataError(
        expected="runs, paths of run directories, or memorization scores",
        got=f"an object of type {type(source).__name__}",
        do="Pass what `genmem.audit`, `genmem.Run.open` or `genmem.memorization_score` returns.",
    )


def _names(opened: Sequence[Run | MemorizationScores]) -> list[str]:
    """Return the last part of each path, all of it where different paths end alike, and a number if need be."""
    short = [one.path.name or str(one.path) if isinstance(one, Run) else "scores" for one in opened]
    full = [str(one.path) if isinstance(one, Run) else "scores" for one in opened]
    names = [
        name if len({path for other, path in zip(short, full, strict=True) if other == name}) == 1 else path
        for name, path in zip(short, full, strict=True)
    ]
    return [f"{name} ({names[:i].count(name) + 1})" if names.count(name) > 1 else name for i, name in enumerate(names)]


# --- of a run


def _of_run(run: Run, name: str) -> Audited:
    _require_scores(run)
    stored, splits = run.result("scores"), run.used_splits()
    failed = np.isin(np.arange(splits.n_splits), list(run.failed()))
    held, rows = remaining(splits.held_out, repeats_of(splits.held_out, splits.repeat), failed)
    if len(rows) != len(stored["per_repeat"]):
        raise _outdated(run, len(stored["per_repeat"]), len(rows))
    log_probs = scored_log_probs(run)[~failed]
    outside = np.stack([mean_where(log_probs[r].astype(np.float64), held[r]) for r in rows])
    arrays: dict[str, Any] = {key: stored[key] for key in ARRAYS}
    scores = MemorizationScores(**arrays, estimator=str(stored["estimator"]), uneven=left_uneven(run))
    return Audited(
        name=name,
        path=str(run.path),
        scores=scores,
        log_prob_out=outside,
        held=[held[r] for r in rows],
        rates=_rates(run, run.log_probs()[~failed], held, rows),
        data=run.data(),
        prepared=f"{run.plan['data']['source']}, {run.plan['data']['preparation']}",
        plain=_plain(run, scores, held),
    )


def _require_scores(run: Run) -> None:
    if run.pending():
        left, whole = len(run.pending()), len(run.shards())
        raise IncompleteRunError(
            expected=f"a finished audit in {run.path}",
            got=f"{left} of {whole} shards of refits missing",
            do=f"Repeat its `genmem audit`, or run `genmem refit {run.path}` and `genmem score {run.path}`.",
        )
    run.result("scores")


def _outdated(run: Run, stored: int, there: int) -> IncompleteRunError:
    return IncompleteRunError(
        expected=f"scores of all refits of {run.path}",
        got=f"scores of {stored} repeats, and refits of {there}",
        do=f"Run `genmem score {run.path}` again.",
    )


def _rates(run: Run, log_probs: NDArray[Any], held: BoolArray, rows: Rows) -> Rates | None:
    """Return the rates of the attack on a run that stored one: that is, on one that allows it."""
    if not run.has_result("membership"):
        return None
    repeat = np.empty(len(held), np.intp)
    for r, splits in enumerate(rows):
        repeat[splits] = r
    inside = np.concatenate(rows)  # in repeats in which some example has a score
    values, left = leave_out_repeats(log_probs[np.sort(inside)], held[np.sort(inside)], repeat[np.sort(inside)])
    return Rates(values[1:], left[:, 1:])


def _plain(run: Run, scores: MemorizationScores, held: BoolArray) -> tuple[tuple[str, str], ...]:
    """Return what the numbers of a run are of; what does not apply to its kind of model is left out."""
    found = {"share trained on": f"{1 - held.mean():.0%}", "estimator": scores.estimator, "log p": estimate_of(run)}
    if match := run.plan.get("match"):
        found["match"] = match
    if has_encoder(run):
        correction = correction_of(run)
        fitted = correction is not None and bool(correction["everywhere"])
        found["posteriors"] = "fitted to each example" if fitted else "amortized"
    return tuple(found.items())
