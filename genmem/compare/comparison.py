"""`compare`: audits of the same data side by side, every pair of them, and the result as text, JSON and numbers."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Any

import numpy as np
from numpy.typing import NDArray

from genmem import stats
from genmem.compare import words
from genmem.compare.differences import (
    Law,
    attack_difference,
    example_law,
    held_out_difference,
    mean_difference,
    shared_repeats,
)
from genmem.compare.memorized import Memorized, Positions, memorized
from genmem.compare.ranks import DRAWS, Agreement, Overlap, agreement, bootstrap_weights, overlap
from genmem.compare.same_data import aligned
from genmem.compare.sources import Audited, audited
from genmem.errors import DataError
from genmem.findings.records import to_json
from genmem.leaveout.attack import RATES
from genmem.leaveout.estimators import FloatArray
from genmem.protocols import Brief, figure
from genmem.stats import Rate

TOP = 0.05  # the share of examples called highly memorized, as in van den Burg & Williams (2021)
LEVEL = 0.05  # false-discovery rate
MANY = 20_000  # examples from which on the bootstrap has half as many draws


@dataclass(frozen=True, eq=False)
class Pair(Brief):
    """Two of the audits. Differences are the second, `other`, less the first, `one`.

    Attributes:
        one: the name of the first.
        other: the name of the second.
        agreement: of the rankings.
        overlap: of the highest scores.
        mean: the difference of the mean scores, nats.
        held_out: of the mean held-out log p, nats.
        tpr: of the true-positive rates of the membership attack, by false-positive rate; empty if one has no attack.
        shared: the number of repeats compared one by one; 0 if the noise of the audits is independent.
        difference: (n,) of the scores, nats; over the shared repeats if there are any.
        standard_error: (n,) of it, with the noise of both; NaN where it is not known.
        q_value: (n,) of no difference, Benjamini-Hochberg over the examples.
        changed: examples with q at most the level of the comparison, largest difference first.
    """

    one: str
    other: str
    agreement: Agreement
    overlap: Overlap
    mean: Rate
    held_out: Rate
    tpr: Mapping[float, Rate]
    shared: int
    difference: FloatArray
    standard_error: FloatArray
    q_value: FloatArray
    changed: Positions

    def headline(self) -> str:
        """Return the names, the difference of the mean scores and the rank correlation."""
        by = f"mean score {figure(self.mean.value, self.mean.interval)} nats higher in {self.other} than in {self.one}"
        return f"{by}; rank correlation {figure(self.agreement.rho.value)}; {len(self.changed):,} examples changed"

    @property
    def rose(self) -> Positions:
        """The changed examples that the second audit scores higher."""
        return self.changed[self.difference[self.changed] > 0]

    @property
    def fell(self) -> Positions:
        """The changed examples that the second audit scores lower."""
        return self.changed[self.difference[self.changed] < 0]

    def numbers(self) -> dict[str, float]:
        """Return the numbers that a condition of `genmem compare --fail-if` can name (`CONDITIONS`)."""
        low, high = self.mean.interval
        at = {rate: self.tpr.get(rate, Rate(np.nan, (np.nan, np.nan))) for rate in RATES}
        return {
            "mean_difference": self.mean.value,
            "mean_difference_low": low,
            "mean_difference_high": high,
            "held_out_difference": self.held_out.value,
            "held_out_difference_low": self.held_out.interval[0],
            "held_out_difference_high": self.held_out.interval[1],
            "tpr_difference": at[RATES[0]].value,
            "tpr_difference_low": at[RATES[0]].interval[0],
            "tpr_difference_high": at[RATES[0]].interval[1],
            "changed": self._tested(len(self.changed)),
            "rose": self._tested(len(self.rose)),
            "fell": self._tested(len(self.fell)),
            "rank_correlation": self.agreement.rho.value,
            "rank_correlation_corrected": self.agreement.corrected.value,
            "top_overlap": self.overlap.share.value,
        }

    def _tested(self, count: int) -> float:
        return float(count) if np.isfinite(self.q_value).any() else np.nan


CONDITIONS = (
    *("mean_difference", "mean_difference_low", "mean_difference_high"),
    *("held_out_difference", "held_out_difference_low", "held_out_difference_high"),
    *("tpr_difference", "tpr_difference_low", "tpr_difference_high"),
    *("changed", "rose", "fell", "rank_correlation", "rank_correlation_corrected", "top_overlap"),
)


@dataclass(frozen=True, eq=False, repr=False)
class Comparison(Brief):
    """Audits of the same examples, compared.

    Attributes:
        audits: what was compared of each, in the order given and with the examples of the first.
        memorized: which examples all models are shown to memorize, and which only one.
        overlap: of the highest scores of all audits.
        pairs: every two audits, in order.
        above: nats above which a score counts as memorized.
        level: false-discovery rate of all lists.
        notes: what a reader has to know: how examples were matched, what is not alike, what could not be tested.
    """

    audits: tuple[Audited, ...]
    memorized: Memorized
    overlap: Overlap
    pairs: tuple[Pair, ...]
    above: float
    level: float
    notes: tuple[str, ...]

    @property
    def names(self) -> list[str]:
        """The names of the audits."""
        return [one.name for one in self.audits]

    @property
    def n(self) -> int:
        """The number of examples."""
        return self.audits[0].n

    @property
    def scores(self) -> FloatArray:
        """The scores (audits, n), nats."""
        return np.stack([one.scores.score for one in self.audits])

    def against_first(self) -> dict[str, Pair]:
        """Return the pairs of the first audit with each other one, by the name of the other."""
        return dict(zip(self.names[1:], self.pairs, strict=False))

    def sentences(self) -> list[str]:
        """Return the answer in plain words, the most important first, without the notes."""
        return words.sentences(self)

    def to_dict(self) -> dict[str, Any]:
        """Return all results as JSON types: positions of examples in lists, strongest first; null if undefined."""
        return {
            "n": self.n,
            "above": self.above,
            "level": self.level,
            "audits": [_audit_json(one) for one in self.audits],
            "memorized": {
                "tested": dict(zip(self.names, self.memorized.tested, strict=True)),
                "flagged": dict(zip(self.names, self.memorized.flagged.sum(axis=1).tolist(), strict=True)),
                "everywhere": self.memorized.everywhere.tolist(),
                "only": {name: only.tolist() for name, only in zip(self.names, self.memorized.only, strict=True)},
            },
            "overlap": to_json(self.overlap),
            "pairs": [_pair_json(pair) for pair in self.pairs],
            "sentences": self.sentences(),
            "notes": list(self.notes),
        }

    def to_json(self) -> str:
        """Return `to_dict` as text."""
        return json.dumps(self.to_dict(), indent=2, allow_nan=False)

    def __repr__(self) -> str:
        return "\n".join(words.five_lines(self))


def compare(
    *runs: Any, names: Sequence[str] | None = None, above: float = 0.0, top: float = TOP, level: float = LEVEL
) -> Comparison:
    """Compare audits of the same data: what they agree on, and what changed from one to another.

    Args:
        runs: two audits or more: each a `Run`, the path of one, an `Audit`, or `MemorizationScores`. Designs may
            differ: splits, repeats, seeds. Of scores alone, only what needs no data or refits is compared.
        names: how to call them; by default the last part of their paths.
        above: nats above which a score counts as memorized.
        top: the share of examples in the top of each audit.
        level: false-discovery rate of the lists of examples.

    Raises:
        DataError: fewer than two audits, different examples, or a setting out of its range.
        IncompleteRunError: a run has no scores; the message names the command that computes them.
        RunError: a path is no run directory, or a file of a run is damaged.

    >>> from genmem import Splits, memorization_score
    >>> splits = Splits.k_fold(40, folds=4, repeats=3)
    >>> log_probs = np.random.default_rng(0).normal(size=(12, 40)) - 3 * splits.held_out
    >>> scores = memorization_score(log_probs, splits.held_out)
    >>> compare(scores, scores, names=["before", "after"]).pairs[0].mean
    Rate(value=0.0, interval=(0.0, 0.0))
    """
    _check(runs, above, top, level)
    found, notes = aligned(audited(runs, names))
    n, known = found[0].n, [one.data.groups for one in found if one.data is not None]
    groups = next((each for each in known if each is not None), None)
    weights = bootstrap_weights(n, groups, DRAWS if n <= MANY else DRAWS // 2)
    k = max(1, round(top * n))
    laws = {(i, j): example_law(found[i], found[j]) for i, j in combinations(range(len(found)), 2)}
    pairs = tuple(_pair(found[i], found[j], law, groups, k, level, weights) for (i, j), law in laws.items())
    who = memorized([one.scores for one in found], laws, above, level)
    return Comparison(
        audits=tuple(found),
        memorized=who,
        overlap=overlap([one.scores.score for one in found], k, weights),
        pairs=pairs,
        above=above,
        level=level,
        notes=tuple(notes + words.notes(found, pairs, who)),
    )


def _check(runs: Sequence[Any], above: float, top: float, level: float) -> None:
    if len(runs) < 2:
        raise DataError(
            expected="two audits or more", got=f"{len(runs)}", do="Give another run of the same data to compare with."
        )
    ranges = (
        ("above", np.isfinite(above), "a finite number of nats", above),
        ("top", 0 < top < 1, "a share between 0 and 1", top),
        ("level", 0 < level < 1, "a false-discovery rate between 0 and 1", level),
    )
    for name, fine, expected, got in ranges:
        if not fine:
            raise DataError(expected=expected, got=f"{got}", do=f"Change `{name}`.")


def _pair(
    one: Audited,
    other: Audited,
    law: Law,
    groups: NDArray[np.generic] | None,
    k: int,
    level: float,
    weights: NDArray[np.int32],
) -> Pair:
    shared, scores = shared_repeats(one, other), (one.scores, other.scores)
    q = stats.benjamini_hochberg(law.p_two_sided())
    changed = np.flatnonzero(q <= level)
    return Pair(
        one=one.name,
        other=other.name,
        agreement=agreement(*scores, (one.repeats, other.repeats), weights),
        overlap=overlap([each.score for each in scores], k, weights),
        mean=mean_difference(one, other, groups),
        held_out=held_out_difference(one, other, groups),
        tpr=attack_difference(one, other),
        shared=0 if shared is None else len(shared[0]),
        difference=law.difference,
        standard_error=law.error,
        q_value=q,
        changed=changed[np.argsort(-np.abs(law.difference[changed]), kind="stable")],
    )


# --- JSON


def _audit_json(one: Audited) -> dict[str, Any]:
    return {
        "name": one.name,
        "path": one.path,
        "repeats": one.scores.n_repeats,
        "mean_score": to_json(float(np.nanmean(one.scores.score))),
        "held_out_log_prob": to_json(float(np.nanmean(one.scores.log_prob_out))),
        "tpr": {} if one.rates is None else _by_rate(dict(zip(RATES, to_json(one.rates.values), strict=True))),
        **dict(one.plain),
    }


def _pair_json(pair: Pair) -> dict[str, Any]:
    changed = pair.changed
    return {
        "one": pair.one,
        "other": pair.other,
        "shared_repeats": pair.shared,
        "rank_correlation": _rate(pair.agreement.rho),
        "rank_correlation_corrected": _rate(pair.agreement.corrected),
        "reliability": to_json(list(pair.agreement.reliability)),
        "overlap": to_json({**vars(pair.overlap), "share": _rate(pair.overlap.share)}),
        "mean_difference": _rate(pair.mean),
        "held_out_difference": _rate(pair.held_out),
        "tpr_difference": {name: _rate(rate) for name, rate in _by_rate(pair.tpr).items()},
        "changed": {
            "examples": changed.tolist(),
            "difference": to_json(pair.difference[changed]),
            "standard_error": to_json(pair.standard_error[changed]),
            "q_value": to_json(pair.q_value[changed]),
        },
    }


def _rate(rate: Rate) -> dict[str, Any]:
    return {"value": to_json(float(rate.value)), "interval": to_json(tuple(map(float, rate.interval)))}


def _by_rate(rates: Mapping[float, Any]) -> dict[str, Any]:
    return {f"{at:g}": rate for at, rate in rates.items()}
