"""The section on influence: which training examples shaped an example or a sample."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from genmem.plots import Floats
from genmem.report import words
from genmem.report.pictures import SIDES, pixels, png, scale_of
from genmem.report.results import Results
from genmem.report.verdicts import Verdict
from genmem.run.storage import Arrays

QUESTION = "Which training examples shaped the model and its samples?"
SHOWN = 6  # samples and their strongest proponents beside the verdict
Scored = list[tuple[int, float]]


@dataclass(frozen=True)
class Query:
    """A query, which is an example or a sample, and the training examples that influenced it most.

    Attributes:
        position: position of the example; None for a sample.
        sample: number of the sample, counted from 1; 0 for an example.
        values: the sample; None for an example.
        itself: influence of the example on itself; None for a sample, or if it is not among the strongest.
        considered: whether the example is among those that could be proponents; true for a sample.
        rank: rank of the example among its own proponents, counted from 1; 0 if it is not among the strongest.
        proponents: positions and scores of its proponents other than itself, strongest first.
        opponents: positions and scores of its opponents, strongest first.
    """

    position: int | None
    sample: int
    values: NDArray[np.generic] | None
    itself: float | None
    rank: int
    proponents: Scored
    opponents: Scored
    considered: bool = True


@dataclass(frozen=True)
class Attribution:
    """The queries on the page: the most memorized examples, and samples of the model."""

    memorized: list[Query]
    samples: list[Query]

    @property
    def positions(self) -> list[int]:
        """Positions of all examples that are shown."""
        queries = [*self.memorized, *self.samples]
        own = [query.position for query in queries if query.position is not None]
        return own + [p for query in queries for p, _ in (*query.proponents, *query.opponents)]


def attribution(results: Results) -> Attribution | None:
    """Return the queries to show, or None if influence was not computed."""
    found = results.influence
    if not found or "memorized" not in found or "influence" not in results.audit:
        return None
    k = results.audit["influence"]["k"]
    memorized = [_query(found, "memorized", row, int(p), 0, None, k) for row, p in enumerate(found["memorized"])]
    samples = [_query(found, "samples", row, None, row + 1, values, k) for row, values in enumerate(found["samples"])]
    return Attribution(memorized, samples)


def _query(
    found: Arrays, kind: str, row: int, position: int | None, sample: int, values: NDArray[np.generic] | None, k: int
) -> Query:
    proponents, opponents = (
        _scored(found[f"{kind}_{side}"][row], found[f"{kind}_{side[:-1]}_scores"][row])
        for side in ("proponents", "opponents")
    )
    rank = next((at for at, (p, _) in enumerate(proponents, 1) if p == position), 0)
    return Query(
        position=position,
        sample=sample,
        values=values,
        itself=proponents[rank - 1][1] if rank else None,
        rank=rank,
        proponents=[one for one in proponents if one[0] != position and one[1] > 0][:k],
        opponents=[one for one in opponents if one[0] != position and one[1] < 0][:k],
        considered=position is None or bool(np.isin(position, found["examples"])),
    )


def _scored(positions: NDArray[np.integer], scores: Floats) -> Scored:
    return [(int(p), float(s)) for p, s in zip(positions, scores, strict=True) if p >= 0]


def pictures_of(
    queries: Sequence[Query], X: NDArray[np.generic], shape: Sequence[int], reduced: int | None
) -> dict[int, str]:
    """Return samples as images, by number: data: addresses on the scale of the examples and no larger than these."""
    if not queries:
        return {}
    scale, side = scale_of(X), reduced or max(*SIDES, *shape)
    return {q.sample: png(pixels(q.values, shape, scale), side) for q in queries if q.values is not None}


def verdict(results: Results, shown: Attribution | None) -> list[Verdict]:
    """Answer the question about influence in a sentence, if influence was computed."""
    if "influence" not in results.audit:
        return []
    first = {f.id: f for f in reversed(results.findings) if f.question == "influence"}
    skipped = results.audit["influence"]["skipped"]
    if skipped or not first:
        return [Verdict("influence", skipped or "This run has no findings about influence.", None, [])]
    evidence = first.get("self_check") or next(iter(first.values()))
    rank = first["self_influence_vs_score"].value if "self_influence_vs_score" in first else None
    top = [query.proponents[0][0] for query in shown.samples if query.proponents] if shown else []
    said = f"Self-influence has a rank correlation of {words.number(rank)} with the memorization score."
    aside = [] if rank is None else [said]
    aside += ["Shown are the strongest proponents of samples of the model."] if top else []
    return [Verdict("influence", evidence.sentence, evidence, list(dict.fromkeys(top))[:SHOWN], " ".join(aside))]


def influence_score(value: float) -> str:
    """Format an influence briefly enough for the space below a small picture.

    >>> influence_score(3.1416), influence_score(-0.04281), influence_score(-0.000921), influence_score(float("inf"))
    ('3.14', '−0.043', '−0.0009', '∞')
    """
    if np.isposinf(value):
        return "∞"
    return words.number(value if abs(value) >= 1 else float(f"{value:.{2 if abs(value) >= 1e-3 else 1}g}"))


QUESTIONS: Mapping[str, str] = {"influence": QUESTION}
