"""Regions of the data, what is known of each, and which need more examples."""

import math
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.stats import fisher_exact

from genmem.errors import DataError
from genmem.protocols import Brief
from genmem.regions.amount import NO_AMOUNT, Amount, Decline, by_score, by_share
from genmem.regions.groups import MIN_EXAMPLES, Group, GroupScore, group_scores

FloatArray = NDArray[np.float64]
Strings = NDArray[np.str_]
DECLINE = Decline(0.33, (0.1, 0.6))  # of thinned classes of digits: docs/regions.md
LEVEL = 0.05
LEAST = 0.1  # a mean score counts as this share of the mean of all at least
NONE_THERE = "There is no training example in the region: its score is unknown."
NOWHERE = ""  # the region of an example outside all regions


@dataclass(frozen=True)
class Region(Group):
    """One region of the data of a run; scores in nats.

    Attributes:
        kind: "found" by the search, "cell", "label", or the name of a column.
        p_corrected: of a mean score above the rest, corrected for all regions that were looked at; NaN if not tested.
        train_share: its share of the training examples.
        held_out: number of held-out examples in it; None if none were given.
        held_out_share: their share.
        share_p: p of a share of held-out examples above that of training ones, corrected likewise; NaN if not tested.
        samples: number of samples of the model in it; None if none were drawn.
        sample_share: their share.
        need: how much more an example collected there is expected to help than one collected at random: the mean score
            over that of all, times the share of held-out examples over that of training ones.
        identified: share of the examples that an attacker identifies, at a false-positive rate of 1%.
        log_prob_out: mean log p of its training examples under models that held them out.
        distance: mean distance of its training examples to their fifth nearest neighbour.
        more: number of examples to collect.
        more_interval: 95% interval of it.
        why: the reasoning behind `more`.
        more_by_score: the number after which the mean score is that of the rest, if the score falls as assumed.
        more_by_score_interval: 95% interval of it.
    """

    p_corrected: float = math.nan
    train_share: float = math.nan
    held_out: int | None = None
    held_out_share: float = math.nan
    share_p: float = math.nan
    samples: int | None = None
    sample_share: float = math.nan
    need: float = math.nan
    identified: float = math.nan
    log_prob_out: float = math.nan
    distance: float = math.nan
    more: float = math.nan
    more_interval: tuple[float, float] = NO_AMOUNT
    why: str = ""
    more_by_score: float = math.nan
    more_by_score_interval: tuple[float, float] = NO_AMOUNT

    @property
    def p_any(self) -> float:
        """The smaller of the two corrected p-values, doubled if both were tested; NaN if none was."""
        tested = [p for p in (self.p_corrected, self.share_p) if not math.isnan(p)]
        return min(1.0, len(tested) * min(tested)) if tested else math.nan

    @property
    def stands_out(self) -> bool:
        """Whether its mean score or its share of held-out examples exceeds that of the rest, at 5% for both."""
        return self.p_any < LEVEL


@dataclass(frozen=True, eq=False)
class Known(Brief):
    """What is known of the examples of a run.

    Attributes:
        per_repeat: (L, n) score of each training example within each repeat, nats.
        belong: (n,) which examples belong together; None if none do.
        identified: (n,) share of the models in which an attacker identifies it.
        log_prob_out: (n,) held-out log p, nats.
        distance: (n,) to the fifth nearest neighbour.
    """

    per_repeat: FloatArray
    belong: NDArray[Any] | None = None
    identified: FloatArray | None = None
    log_prob_out: FloatArray | None = None
    distance: FloatArray | None = None

    def headline(self) -> str:
        """Return the number of examples and of repeats."""
        return f"{self.n:,} examples, {len(self.per_repeat)} repeats"

    @property
    def n(self) -> int:
        """Number of training examples."""
        return int(self.per_repeat.shape[1])


def describe_regions(
    kind: str,
    known: Known,
    train: ArrayLike,
    held_out: ArrayLike | None = None,
    samples: ArrayLike | None = None,
    *,
    decline: Decline = DECLINE,
    searched: int | None = None,
) -> list[Region]:
    """Return what is known of each region, most in need of data first.

    Args:
        kind: what the regions are: "label", "cell", the name of a column.
        known: what is known of the training examples.
        train: (n,) the region of each training example; "" for none.
        held_out: (h,) that of each held-out example.
        samples: (s,) that of each sample.
        decline: how scores fall with the number of examples.
        searched: the number of regions that p-values and intervals of shares are corrected for; by default that of the
            regions with five training or held-out examples.

    Raises:
        DataError: a region is not given for every example, or a score is infinite.
    """
    inside, outside = (
        _names(train, known.n, "training"),
        None if held_out is None else _names(held_out, None, "held-out"),
    )
    drawn = None if samples is None else _names(samples, None, "sampled")
    scored = {group.name: group for group in group_scores(known.per_repeat, inside, belong=known.belong)}
    names = [name for name in np.unique(inside if outside is None else np.r_[inside, outside]) if name != NOWHERE]
    sizes = {
        name: int((inside == name).sum()) + (0 if outside is None else int((outside == name).sum())) for name in names
    }
    several = searched or max(1, sum(size >= MIN_EXAMPLES for size in sizes.values()))
    found = [
        _describe(
            Place(kind, str(name), inside == name, _at(outside, name), _at(drawn, name)),
            scored,
            known,
            decline,
            several,
        )
        for name in names
    ]
    return sorted(found, key=lambda region: -region.need)


@dataclass(frozen=True, eq=False)
class Place:
    """Which training examples (n,), held-out examples (h,) and samples (s,) are in one region."""

    kind: str
    name: str
    train: NDArray[np.bool_]
    held_out: NDArray[np.bool_] | None
    samples: NDArray[np.bool_] | None


def _at(regions: Strings | None, name: str) -> NDArray[np.bool_] | None:
    return None if regions is None else np.asarray(regions == name)


def _describe(place: Place, scored: dict[str, GroupScore], known: Known, decline: Decline, searched: int) -> Region:
    mean, n = float(np.nanmean(known.per_repeat, axis=0).mean()), int(place.train.sum())
    group = scored.get(place.name) or GroupScore(place.name, 0, math.nan, math.nan, NO_AMOUNT, mean, math.nan, ())
    region = Region(
        **vars(group),
        kind=place.kind,
        p_corrected=float(np.minimum(1.0, group.p_value * searched)) if n >= MIN_EXAMPLES else math.nan,
        train_share=n / known.n,
        need=max(group.mean / mean, LEAST) if n and mean > 0 else 1.0,
        identified=_mean(known.identified, place.train),
        log_prob_out=_mean(known.log_prob_out, place.train),
        distance=_mean(known.distance, place.train),
    )
    amount = (
        by_score(n, group.mean, group.interval, group.rest, decline) if n else Amount(math.nan, NO_AMOUNT, NONE_THERE)
    )
    region = replace(region, more_by_score=amount.more, more_by_score_interval=amount.interval)
    if place.samples is not None:
        region = replace(region, samples=int(place.samples.sum()), sample_share=_share(place.samples))
    if place.held_out is None or not place.held_out.size:
        return replace(region, more=amount.more, more_interval=amount.interval, why=amount.why)
    region = _with_share(region, place.held_out, n, known.n, searched)
    if known.belong is not None:  # both take examples as independent
        region = replace(region, share_p=math.nan, more_interval=NO_AMOUNT)
    return region


def _with_share(region: Region, outside: NDArray[np.bool_], n: int, n_train: int, searched: int) -> Region:
    """Add what held-out examples tell: the share of the region in the population, and what restores it."""
    h, n_held_out = int(outside.sum()), len(outside)
    amount = by_share(n, n_train, h, n_held_out, searched)
    table = [[h, n_held_out - h], [n, n_train - n]]
    return replace(
        region,
        held_out=h,
        held_out_share=h / n_held_out,
        share_p=min(1.0, float(fisher_exact(table, "greater").pvalue) * searched),
        need=region.need * ((h + 0.5) / n_held_out) / ((n + 0.5) / n_train),
        more=amount.more,
        more_interval=amount.interval,
        why=amount.why,
    )


def _names(regions: ArrayLike, n: int | None, what: str) -> Strings:
    names = np.asarray(regions)
    if names.ndim != 1 or (n is not None and len(names) != n):
        raise DataError(
            expected=f"the region of each of the {'' if n is None else f'{n:,} '}{what} examples",
            got=f"an array of shape {names.shape}",
            do="Pass one region per example.",
        )
    return np.asarray(names.astype(str))


def _mean(values: FloatArray | None, inside: NDArray[np.bool_]) -> float:
    there = np.empty(0) if values is None else values[inside]
    there = there[np.isfinite(there)]
    return float(there.mean()) if len(there) else math.nan


def _share(inside: NDArray[np.bool_]) -> float:
    return float(inside.mean()) if inside.size else math.nan
