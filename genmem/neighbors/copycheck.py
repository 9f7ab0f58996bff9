"""Does the model repeat its training set? All tests on three sets, one shared plan of searches, one verdict."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from genmem.errors import DataError
from genmem.neighbors.battery import Asked, run_all
from genmem.neighbors.copied_share import Errors, bounded_share
from genmem.neighbors.data_copying import CopyingTest, data_copying_test
from genmem.neighbors.exact_copies import FRESH, fewest_rows, identical_rows
from genmem.neighbors.flagged import calibrated_distance, conformal_rows, conformal_samples, suspicious_pairs
from genmem.neighbors.pooled import NEAR, Closest
from genmem.neighbors.power import TRIALS, Power, detectable_share
from genmem.neighbors.results import Flags, Result
from genmem.neighbors.scan import critical_value, scan_share_test
from genmem.neighbors.sets import Sets, of_three_sets, over_mean
from genmem.neighbors.shares import tail_excess_test
from genmem.neighbors.spaces import Features, Space, placed
from genmem.neighbors.verdict import (
    GATHERED,
    SCAN,
    Evidence,
    Verdict,
    closer_p,
    decide,
    gathered_share,
    verdict_sentence,
)

if TYPE_CHECKING:
    import pyarrow as pa

NOISE = 0.5  # of the noisy copies that power is also told for, in median distances of held-out rows
_FEWEST = 2  # rows of training and held-out sets
_ABOVE = 0.025  # error of the upper end of the share of copies
_LABELS = 0.025 - SCAN - FRESH - GATHERED  # of its lower end, what is left for rows hit


@dataclass(frozen=True, eq=False, kw_only=True)
class CopyCheck:
    """Whether samples repeat training rows, and what that rests on.

    Attributes:
        verdict: "copies found", "sharp but not copying" or "no evidence", by the rule of `decide`.
        sentence: the verdict in words, with its numbers and what would have been missed.
        copied_share: of the samples, an estimate with a 95% interval.
        power: the smallest share of exact copies that would have been found four times in five.
        power_noisy: the same of copies off by half of a held-out row's typical distance to the training set.
        evidence: what the verdict was read from.
        tests: all tests, those that decide first.
        cells: C_T with its table of cells; the same as in `tests`.
        samples: which samples lie too near to training rows (by distance: sharp samples are flagged as well).
        rows: which training rows lie too near to samples.
        calibrated: which samples lie too near for how dense the data are there.
        pairs: columns of the most suspicious samples with their nearest training and held-out rows, see
            `suspicious_pairs`.
        near_test: (n_test,) distance of each held-out row to its nearest training row.
        space: in words, where distances were taken.
        level: false-discovery rate of the lists.
    """

    verdict: Verdict
    sentence: str
    copied_share: Result
    power: Power
    power_noisy: Power
    evidence: Evidence
    tests: tuple[Result, ...]
    cells: CopyingTest
    samples: Flags
    rows: Flags
    calibrated: Flags
    pairs: Mapping[str, NDArray[Any]] = field(repr=False)
    near_test: NDArray[np.float64] = field(repr=False)
    space: str
    level: float

    def __getitem__(self, name: str) -> Result:
        """Return a test by its name."""
        return {test.name: test for test in self.tests}[name]

    def to_frame(self) -> "pa.Table":
        """Return one row per test as an Arrow table: name, title, value, null, interval, p-value, direction, n."""
        import pyarrow as pa

        names = ("name", "title", "value", "null", "p_value", "direction", "n", "sentence", "cannot_see", "citation")
        columns: dict[str, Any] = {name: [getattr(test, name) for test in self.tests] for name in names}
        columns["low"], columns["high"] = zip(*(test.interval for test in self.tests), strict=True)
        return pa.table({name: pa.array(column, from_pandas=True) for name, column in columns.items()})


@of_three_sets
def copycheck(
    sets: Sets,
    *,
    space: Space = "raw",
    level: float = 0.1,
    log_prob: Sequence[ArrayLike] | None = None,
    latent: Features | None = None,
    image_shape: tuple[int, ...] | None = None,
    n_cells: int | None = None,
    context_rows: int = 2000,
    power_trials: int = TRIALS,
    seed: int = 0,
) -> CopyCheck:
    """Check whether samples of a model are copies of the rows it was trained on. No model is needed.

    Pass 2 or more rows it was trained on, all of them: a copy of a row that is not here cannot be seen. Pass 2 or more
    held-out rows, and samples as the model makes them: none dropped, none sorted out.

    Args:
        sets: the three sets.
        space: where distances are taken, see `in_space`.
        level: false-discovery rate of the lists of samples and rows.
        log_prob: log p of the model, nats, of rows of `train` and of `test`: adds membership inference.
        latent: for the space "latent", what maps rows to points.
        image_shape: (h, w) or (h, w, c) of flattened images, for spaces of images.
        n_cells: of C_T.
        context_rows: of each set, at most, for measures that search sets within themselves.
        power_trials: of each share of planted copies; 0 leaves out what would have been missed.
        seed: of permutations, planted copies, cells.

    Raises:
        DataError: a set has too few rows, is not finite or not numbers, widths differ, or a setting is none.

    >>> rng = np.random.default_rng(0)
    >>> T, H, fresh = (rng.normal(size=(200, 4)) for _ in range(3))
    >>> copycheck(T, H, fresh).verdict, copycheck(T, H, T).verdict
    ('no evidence', 'copies found')
    """
    near, where = placed(space, sets, seed=seed, image_shape=image_shape, latent=latent)
    scan, c_t, excess, share, evidence = read(searched(near), n_cells=n_cells, seed=seed)
    asked = Asked(sets=near, scan=scan, c_t=c_t, excess=excess, rows=context_rows, seed=seed, log_prob=log_prob)
    flagged, calibrated = conformal_samples(near, level=level), calibrated_distance(near, level=level)
    verdict, power, tests = decide(evidence), _power(near, scan, 0.0, power_trials, seed), run_all(asked)
    source = next(test for test in tests if test.name == "same_source")
    return CopyCheck(
        verdict=verdict,
        sentence=verdict_sentence(verdict, share, power, evidence.identical, source),
        copied_share=share,
        power=power,
        power_noisy=_power(near, scan, NOISE, power_trials, seed),
        evidence=evidence,
        tests=tests,
        cells=c_t,
        samples=flagged,
        rows=conformal_rows(near, level=level),
        calibrated=calibrated,
        pairs=suspicious_pairs(near, flagged, calibrated),
        near_test=near.distance("test", "train"),
        space=where,
        level=level,
    )


class Reading(NamedTuple):
    """The tests that decide, the share of copies, and what the verdict is read from."""

    scan: Result
    c_t: CopyingTest
    excess: Result
    share: Result
    evidence: Evidence


def read(sets: Sets, *, n_cells: int | None = None, seed: int = 0) -> Reading:
    """Return what `decide` needs, and no more."""
    scan, excess = scan_share_test(sets, seed=seed), tail_excess_test(sets)
    c_t = data_copying_test(sets, n_cells=n_cells, seed=seed)
    by_rows = bounded_share(sets, Errors(_LABELS, GATHERED, _ABOVE), seed)
    to_test = over_mean(sets.near("samples", "test", NEAR)[0])
    gathered = gathered_share(by_rows.details["low_by_neighbourhoods"], sets.local_ratio("samples")[0], to_test)
    evidence = Evidence(scan.p_value, identical_rows(sets), gathered, closer_p(c_t, excess))
    return Reading(scan, c_t, excess, merged_share(by_rows, evidence, sets.closest), evidence)


def searched(sets: Sets) -> Sets:
    """Make the searches that several tests share, each once, for the most neighbours that any asks for."""
    for name, rows in (("train", sets.train), ("test", sets.test)):
        if len(rows) < _FEWEST:
            raise DataError(
                expected=f"{_FEWEST} or more rows to train on and held out",
                got=f"{len(rows)} in {name}",
                do="Add rows: nothing can be told from so few.",
            )
    sets.near("samples", "train", NEAR)
    sets.near("test", "train", NEAR)
    sets.near("samples", "test", NEAR)
    return sets


def merged_share(by_rows: Result, evidence: Evidence, closest: Closest) -> Result:
    """Return the share of samples that are copies, with a 95% interval: errors of its ends add up to 2.5% each.

    From below the largest of bounds by rows hit and by neighbourhoods (`copied_share`), by identical rows, and of one
    sample where the verdict is that copies were found; 0 otherwise, so that the two never disagree. From above by
    rows, samples at rows of both sets counted in.
    """
    found = decide(evidence) == "copies found"
    bounds = {
        "labels": by_rows.details["low_by_labels"],
        "neighbourhoods": evidence.gathered,
        "identity": evidence.identical.copies / by_rows.n,
        "verdict": 1 / by_rows.n,
    }
    bounds = {name: bound if found else 0.0 for name, bound in bounds.items()}
    either = closest.labels[closest.group]
    low = max(bounds.values())
    high = max(low, min(1.0, by_rows.interval[1] + float(((either > 0) & (either < 1)).mean())))
    estimate = float(np.clip(by_rows.details["estimate"] if found else 0.0, low, high))
    return replace(
        by_rows,
        value=estimate,
        interval=(low, high),
        p_value=np.nan,
        sentence=(
            f"Of the samples {estimate:.2%} are copies of training rows by estimate (95% interval {low:.2%} "
            f"to {high:.2%}); 0 of fresh data."
        ),
        details={f"low_by_{name}": bound for name, bound in bounds.items()},
    )


def _power(sets: Sets, scan: Result, noise: float, trials: int, seed: int) -> Power:
    critical = critical_value(scan.details["null_draws"], SCAN)
    rows = fewest_rows(sets) if noise == 0 and trials else np.inf
    errors = {"alpha": SCAN, "alone": GATHERED, "identical": rows}
    return detectable_share(sets, critical=critical, **errors, noise=noise, trials=trials, seed=seed)
