"""A comparison in words: sentences, five lines, and notes on what is not alike or could not be tested."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from genmem.compare.memorized import Memorized
from genmem.compare.sources import Audited
from genmem.stats import Rate

if TYPE_CHECKING:
    from genmem.compare.comparison import Comparison, Pair

BOUND = "bound"


def sentences(found: "Comparison") -> list[str]:
    """Return the answer: what is memorized by all and by one, then the pair; of more audits, what matters most.

    That is how alike the rankings of each pair are, and how the audits differ from the first one.
    """
    if len(found.pairs) == 1:
        return [*about_memorized(found), *about_pair(found, found.pairs[0])]
    against = [
        sentence
        for pair in found.against_first().values()
        for sentence in (mean_sentence(pair), held_out_sentence(pair), changed_sentence(found, pair))
    ]
    return [*about_memorized(found), *map(rank_sentence, found.pairs), *against]


def five_lines(found: "Comparison") -> list[str]:
    """Return the summary that `repr` shows; of more than two audits, the pair that differs most."""
    pair = max(found.pairs, key=lambda pair: (len(pair.changed), abs(pair.mean.value)))
    return [
        f"Comparison of {len(found.audits)} audits of {found.n:,} examples: {', '.join(found.names)}",
        *about_memorized(found)[:1],
        rank_sentence(pair),
        mean_sentence(pair),
        changed_sentence(found, pair),
    ]


# --- memorized by all, by one


def about_memorized(found: "Comparison") -> list[str]:
    """Return sentences on the examples that all models memorize, and those that only one does."""
    who, over = found.memorized, f" by more than {found.above:g} nats" if found.above else ""
    if not all(who.tested):
        untested = ", ".join(name for name, tested in zip(found.names, who.tested, strict=True) if not tested)
        first = f"Which examples all models memorize{over} was not tested: scores of {untested} allow no test."
    else:
        flagged = ", ".join(
            f"{name} {count:,}" for name, count in zip(found.names, who.flagged.sum(axis=1), strict=True)
        )
        all_of = "Both models" if len(found.audits) == 2 else f"All {len(found.audits)} models"
        first = (
            f"{all_of} memorize {_count(len(who.everywhere))}{over} (FDR {found.level:g}; flagged by each: {flagged})."
        )
    return [first, *_only(found), *([_tops(found)] if len(found.audits) > 2 else [])]


def _only(found: "Comparison") -> list[str]:
    counts = [
        f"{name} {len(only):,}" for name, only in zip(found.names, found.memorized.only, strict=True) if len(only)
    ]
    if not counts:
        return ["No example is shown to be memorized by one model only."]
    return [f"Examples shown to be memorized by one model only: {', '.join(counts)}."]


def _tops(found: "Comparison") -> str:
    tops = found.overlap
    if not np.isfinite(tops.share.value):
        return "There are no highest scores to compare: all scores of one audit are equal."
    return (
        f"Of the {tops.k:,} highest scores of each, {tops.count:,} are the same in all; "
        f"by chance {tops.chance * tops.k:.2g}{_p(tops.p_value)}."
    )


# --- a pair


def about_pair(found: "Comparison", pair: "Pair") -> list[str]:
    """Return the sentences on two audits."""
    attack = [tpr_sentence(pair, at) for at, rate in pair.tpr.items() if np.isfinite(rate.value)]
    return [
        rank_sentence(pair),
        overlap_sentence(pair),
        mean_sentence(pair),
        held_out_sentence(pair),
        *attack,
        changed_sentence(found, pair),
    ]


def rank_sentence(pair: "Pair") -> str:
    """Say how alike the rankings are."""
    rho, corrected = pair.agreement.rho, pair.agreement.corrected
    if not np.isfinite(rho.value):
        return f"{pair.one} and {pair.other}: no rank correlation, because all scores of one are equal."
    more = f"; {corrected.value:.2f}{_between(corrected, 2)} without the noise of refits"
    if not np.isfinite(corrected.value):
        more = "" if np.isnan(pair.agreement.reliability[0]) else "; too noisy to correct for the noise of refits"
    return f"{pair.one} and {pair.other}: rank correlation {rho.value:.2f}{_between(rho, 2)}{more}."


def overlap_sentence(pair: "Pair") -> str:
    """Say how much the tops overlap."""
    tops = pair.overlap
    if not np.isfinite(tops.share.value):
        return f"{pair.one} and {pair.other}: no highest scores to compare."
    return (
        f"{pair.one} and {pair.other}: {tops.count:,} of the {tops.k:,} highest scores are the same "
        f"({tops.share.value:.0%}{_percent(tops.share, 0)}; by chance {tops.chance:.0%}{_p(tops.p_value)})."
    )


def mean_sentence(pair: "Pair") -> str:
    """Say how the mean scores differ."""
    return f"{pair.other} less {pair.one}: mean score {_nats(pair.mean)}{_pairing(pair)}."


def held_out_sentence(pair: "Pair") -> str:
    """Say how the held-out log p differ."""
    return f"{pair.other} less {pair.one}: mean held-out log p {_nats(pair.held_out)}."


def tpr_sentence(pair: "Pair", at: float) -> str:
    """Say how the rates of the attack differ."""
    rate = pair.tpr[at]
    return (
        f"{pair.other} less {pair.one}: share identified at a false-positive rate of {at:.1%} "
        f"{100 * rate.value:+.1f} points{_between(_hundredfold(rate), 1)}."
    )


def changed_sentence(found: "Comparison", pair: "Pair") -> str:
    """Say how many examples changed."""
    if not np.isfinite(pair.q_value).any():
        return f"{pair.other} less {pair.one}: changes of single examples could not be tested (see the notes)."
    return (
        f"{pair.other} less {pair.one}: {_count(len(pair.changed))} changed beyond the noise of both "
        f"(FDR {found.level:g}), {len(pair.rose):,} up and {len(pair.fell):,} down."
    )


def _pairing(pair: "Pair") -> str:
    return f", paired over {pair.shared} repeats" if pair.shared else ""


def _count(number: int) -> str:
    return f"{number:,} example{'s' * (number != 1)}"


def _nats(rate: Rate) -> str:
    return f"{rate.value:+.2f} nats{_between(rate, 2)}"


def _between(rate: Rate, digits: int) -> str:
    low, high = rate.interval
    return f" ({low:.{digits}f} to {high:.{digits}f})" if np.isfinite(low) and np.isfinite(high) else ""


def _percent(rate: Rate, digits: int) -> str:
    low, high = rate.interval
    return f" ({low:.{digits}%} to {high:.{digits}%})" if np.isfinite(low) and np.isfinite(high) else ""


def _hundredfold(rate: Rate) -> Rate:
    return Rate(100 * rate.value, (100 * rate.interval[0], 100 * rate.interval[1]))


def _p(p: float) -> str:
    return f", p {p:.2g}" if p >= 1e-300 else ", p < 1e-300"


# --- notes


def notes(found: Sequence[Audited], pairs: "Sequence[Pair]", who: Memorized) -> list[str]:
    """Return what is not alike in the audits, and what could not be tested, and why."""
    return [*_unlike(found), *_untested(found), *_partly_shared(found, pairs)]


def _unlike(found: Sequence[Audited]) -> list[str]:
    """Return a note for each way in which the numbers of the audits do not mean the same."""
    said = []
    for what in dict.fromkeys(key for one in found for key, _ in one.plain):
        values = {one.name: dict(one.plain)[what] for one in found if what in dict(one.plain)}
        if len(set(values.values())) > 1 and (what != "log p" or BOUND in values.values()):
            listed = ", ".join(f"{name} {value}" for name, value in values.items())
            said.append(f"Not alike: {what} ({listed}).{MEANS.get(what, '')}")
    if len(kinds := {one.scores.estimator for one in found}) > 1 and not any("estimator" in note for note in said):
        said.append(f"Not alike: estimator ({', '.join(sorted(kinds))}).{MEANS['estimator']}")
    return said


MEANS = {
    "share trained on": " Scores are of models trained on different shares of the data.",
    "estimator": " Differences of scores are partly differences of the estimators.",
    "match": " Refits with matched steps take more of them, which raises scores.",
    "posteriors": " Amortized posteriors add the amortization gap to scores.",
    "log p": " A bound is below log p by an unknown amount, so held-out log p differs not only by the models.",
}


def _untested(found: Sequence[Audited]) -> list[str]:
    said = []
    for one in found:
        scores, factor = one.scores, one.scores.variance_factor
        if scores.estimator == "log_mean":
            said.append(f"{one.name}: scores of log_mean have no t law, so changes of examples are not tested.")
        elif scores.estimator == "mean_log" and scores.n_repeats < 3:
            said.append(
                f"{one.name}: {scores.n_repeats} repeat{'s' * (scores.n_repeats > 1)}; the noise of single examples "
                "is known from three on."
            )
        if factor is not None and (factor != 1).any():
            said.append(f"{one.name}: repeats leave out the same examples together, so means have no intervals.")
    return said


def _partly_shared(found: Sequence[Audited], pairs: "Sequence[Pair]") -> list[str]:
    repeats = {one.name: one.scores.n_repeats for one in found}
    return [
        f"{pair.one} and {pair.other}: differences are over the {pair.shared} repeats that both have, of "
        f"{repeats[pair.one]} and {repeats[pair.other]}."
        for pair in pairs
        if 0 < pair.shared < max(repeats[pair.one], repeats[pair.other])
    ]
