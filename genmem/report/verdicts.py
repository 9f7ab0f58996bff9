"""The first page: findings ordered by weight, and one sentence that answers each question."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.stats import norm

from genmem.findings.records import Finding
from genmem.plots import FLAGGED, Group
from genmem.regions import MIN_EXAMPLES, corrected, most_in_need
from genmem.report import words
from genmem.report.results import Results

QUESTIONS = {
    "memorized": "Which examples are memorized?",
    "regions": "Where is more data needed?",
    "neighbors": "Are the memorized examples isolated?",
}
SHOWN = 6  # examples beside a verdict


@dataclass(frozen=True)
class Verdict:
    """The answer to one question: a sentence, the number behind it, and positions of examples to show."""

    question: str
    sentence: str
    evidence: Finding | Group | None
    examples: list[int]
    aside: str = ""


@dataclass(frozen=True)
class Strip:
    """A number line: the places of value, null and interval, in percent of its width."""

    value: float
    null: float | None
    low: float | None
    high: float | None


def weight(finding: Finding) -> float:
    """Return the distance of a value from its null in standard errors; 0 if nothing was tested."""
    error, (low, high) = finding.standard_error, finding.interval
    if not error > 0:
        error = (high - low) / (2 * norm.isf(0.025))
    if error > 0 and math.isfinite(away := abs(finding.value - finding.null)):
        return away / error
    return float(norm.isf(max(finding.p_value, 1e-300) / 2)) if math.isfinite(finding.p_value) else 0.0


def ranked(findings: Sequence[Finding]) -> list[Finding]:
    """Sort findings by weight, largest first."""
    return sorted(findings, key=weight, reverse=True)


def stands_out(group: Group, groups: Sequence[Group]) -> bool:
    """Return whether the mean of a group exceeds that of the rest, corrected for the choice among groups."""
    return corrected(groups, group) < FLAGGED


def most_memorized(results: Results, count: int) -> list[int]:
    """Return positions of the `count` highest finite scores, highest first."""
    score = results.scores["score"]
    return [int(p) for p in np.argsort(-score, kind="stable")[:count] if np.isfinite(score[p])]


def strip(value: float | None, null: float | None, bounds: Sequence[float] | None) -> Strip | None:
    """Place a value, its null and its interval on one line; None if there is only a value.

    >>> strip(2.0, 0.0, [1.0, 3.0])
    Strip(value=64.0, null=8.0, low=36.0, high=92.0)
    """
    low, high = bounds or (None, None)
    known = [x for x in (value, null, low, high) if words.known(x)]
    if not words.known(value) or len(known) < 2 or min(known) == max(known):
        return None
    least, span = min(known), max(known) - min(known)

    def place(x: float) -> float:
        return round(8 + 84 * (x - least) / span, 2)

    return Strip(place(value), *(place(x) if words.known(x) else None for x in (null, low, high)))


def verdicts(results: Results) -> list[Verdict]:
    """Answer the three questions; the evidence is the first finding that audit.json lists for each."""
    first: dict[str, Finding] = {}
    for finding in results.findings:
        first.setdefault(finding.question, finding)
    return [
        _memorized(results, first.get("memorized")),
        _regions(results.groups, first.get("regions"), results.one_repeat),
        _neighbors(results, first.get("neighbors")),
    ]


def _memorized(results: Results, evidence: Finding | None) -> Verdict:
    q_value, n = results.scores["q_value"], len(results.index)
    untested = int(np.isnan(q_value).sum())
    flagged, top = int((q_value < FLAGGED).sum()), most_memorized(results, SHOWN)
    if not np.isfinite(q_value).any():
        missing = f"p-values are {words.MISSING}."
        if results.one_repeat:
            missing = (
                "with one repeat, memorization and noise look alike. Folds with three repeats or more can test them."
            )
        elif any(check.id == "folds" for check in results.checks):
            missing = "folds differ in size, or repeats leave out the same examples together (see the checks)."
        sentence = f"Single examples could not be tested: {missing}"
    else:
        named = f"{flagged:,} of {n:,} examples ({words.share(flagged, n)}) are" if flagged else "No example is"
        sentence = f"{_prevalence(results)}{named} named as memorized at a false-discovery rate of 5%."
        sentence += f" {untested:,} of {n:,} could not be tested." if untested else ""
    return Verdict("memorized", sentence, evidence, top, _strongest(results, top[0]) if top else "")


def _prevalence(results: Results) -> str:
    """Return how many examples are memorized by estimate, whether or not a test names them; nothing if unknown."""
    found = next((f for f in results.findings if f.id == "prevalence_3"), None)
    return "" if found is None else f"{found.sentence} "


def _strongest(results: Results, position: int) -> str:
    label = f" (label {words.quoted(results.labels[position])})" if results.labels else ""
    who, gain = f"row {results.index[position]}{label}", words.number(float(results.scores["score"][position]))
    told = f"The most memorized is {who}: it is {gain} nats more likely under models that trained on it"
    listed = results.listed or {}
    expected = dict(zip(listed.get("examples", ()), listed.get("expected", ()), strict=True)).get(position)
    return f"{told}{f'; {words.number(expected)} nats are expected to be true' if words.known(expected) else ''}."


def _regions(groups: Sequence[Group], evidence: Finding | None, one_repeat: bool) -> Verdict:
    named = [group for kind in ("label", "cell") if (group := most_in_need(groups, kind))]
    if not named:
        few = f"No group has at least {MIN_EXAMPLES} examples and other examples to compare it with."
        none = few if groups else "This run has no groups of examples."
        sentence = evidence.sentence if evidence else none
        return Verdict("regions", sentence, evidence, list(evidence.examples[:SHOWN]) if evidence else [])
    group = named[0]
    who, mean = f"{group.kind} {words.quoted(group.name)}", words.number(group.mean)
    gap = f"{mean} nats on average, all others {words.number(group.rest)}"
    sentence = f"No group clearly stands out. The highest is {who}: its {group.n:,} examples score {gap}."
    if not math.isfinite(group.p_value):
        why = "that takes two repeats" if one_repeat else "it takes examples that vary and do not all belong together"
        sentence = f"The highest group could not be tested: {why}. It is {who}: {group.n:,} examples, {gap}."
    if stands_out(group, groups):
        sentence = f"The group most in need of data is {who}: its {group.n:,} examples score {gap}."
    return Verdict("regions", sentence, group, list(group.examples[:SHOWN]), _cell(named[1]) if named[1:] else "")


def _cell(group: Group) -> str:
    mean, bounds = words.number(group.mean), words.interval(group.interval)
    return f"Cell {group.name} has the highest mean of all cells: {mean} nats (95% interval {bounds}; n = {group.n:,})."


def _neighbors(results: Results, evidence: Finding | None) -> Verdict:
    sentence = evidence.sentence if evidence else "This run has no nearest neighbours."
    near = results.neighbors or {}
    if not len(near.get("most", ())):
        return Verdict("neighbors", sentence, evidence, [])
    examples = [int(p) for p in (near["most"][0], *near["most_neighbors"][0][: SHOWN - 1]) if p >= 0]
    aside = (
        "A value near 1 means that they are. The most memorized example is shown first, then its nearest neighbours."
    )
    return Verdict("neighbors", sentence, evidence, examples, aside)
