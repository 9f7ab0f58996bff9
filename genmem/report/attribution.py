"""The examples that shaped an example or a sample, as the page shows them."""

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

QUESTION = "Which examples shaped the model, and its samples?"
SHOWN = 6  # samples and their strongest proponents beside the verdict
Scored = list[tuple[int, float]]


@dataclass(frozen=True)
class Query:
    """An example or a sample, and the training examples that shaped the model there most.

    Attributes:
        position: of the example; None for a sample.
        sample: the number of the sample, counted from 1; 0 for an example.
        values: the sample; None for an example.
        itself: the influence of the example on itself; None for samples and where it is not among the strongest.
        considered: whether the example is one of those that could be proponents; true for samples.
        rank: of the example itself among its proponents, counted from 1.
        proponents: positions and scores of others, the strongest first.
        opponents: the same of those that trained against it.
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
    """The queries of the page: the most memorized examples, and samples of the model."""

    memorized: list[Query]
    samples: list[Query]

    @property
    def positions(self) -> list[int]:
        """Every example that is shown."""
        queries = [*self.memorized, *self.samples]
        own = [query.position for query in queries if query.position is not None]
        return own + [p for query in queries for p, _ in (*query.proponents, *query.opponents)]


def attribution(results: Results) -> Attribution | None:
    """Return what to show; None where influence was not computed."""
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
    """Encode samples on the scale of the examples, no larger than these are shown: data: addresses by number."""
    if not queries:
        return {}
    scale, side = scale_of(X), reduced or max(*SIDES, *shape)
    return {q.sample: png(pixels(q.values, shape, scale), side) for q in queries if q.values is not None}


def verdict(results: Results, shown: Attribution | None) -> list[Verdict]:
    """Answer the question of influence in a sentence, where it was asked."""
    if "influence" not in results.audit:
        return []
    first = {f.id: f for f in reversed(results.findings) if f.question == "influence"}
    skipped = results.audit["influence"]["skipped"]
    if skipped or not first:
        return [Verdict("influence", skipped or "Not available in this run.", None, [])]
    evidence = first.get("self_check") or next(iter(first.values()))
    rank = first["self_influence_vs_score"].value if "self_influence_vs_score" in first else None
    top = [query.proponents[0][0] for query in shown.samples if query.proponents] if shown else []
    aside = [] if rank is None else [f"Self-influence and the score: rank correlation {words.number(rank)}."]
    aside += ["Shown: the strongest proponents of samples of the model."] if top else []
    return [Verdict("influence", evidence.sentence, evidence, list(dict.fromkeys(top))[:SHOWN], " ".join(aside))]


def influence_score(value: float) -> str:
    """Write an influence, short enough to stand below a small picture; infinite where all rests on one example.

    >>> influence_score(3.1416), influence_score(-0.04281), influence_score(-0.000921), influence_score(float("inf"))
    ('3.14', '−0.043', '−0.0009', '∞')
    """
    if np.isposinf(value):
        return "∞"
    return words.number(value if abs(value) >= 1 else float(f"{value:.{2 if abs(value) >= 1e-3 else 1}g}"))


QUESTIONS: Mapping[str, str] = {"influence": QUESTION}
