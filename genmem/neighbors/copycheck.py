"""Does the model repeat its training set? All tests on three sets, with shared searches, and one verdict."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from genmem.errors import DataError
from genmem.neighbors.battery import Asked, run_all
from genmem.neighbors.belonging import Groups, belonging
from genmem.neighbors.cautions import cautions_of, off_of
from genmem.neighbors.copied_share import Errors, bounded_share
from genmem.neighbors.data_copying import CopyingTest, data_copying_test
from genmem.neighbors.exact_copies import FRESH, fewest_copies, fewest_rows, identical_rows
from genmem.neighbors.flagged import calibrated_distance, conformal_rows, conformal_samples, suspicious_pairs
from genmem.neighbors.pooled import NEAR, Closest
from genmem.neighbors.power import TRIALS, Power, detectable_share
from genmem.neighbors.results import Flags, Result
from genmem.neighbors.scan import critical_value, scan_share_test
from genmem.neighbors.sentences import Told, verdict_sentence
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
)
from genmem.neighbors.visible import NONE, Visible, visible_copies
from genmem.protocols import Brief, figure

if TYPE_CHECKING:
    import pyarrow as pa

NOISE = 0.5  # of the noisy copies whose power is also reported, in median distances of held-out examples
_FEWEST = 2  # examples in the training and held-out sets
_ABOVE = 0.025  # error of the upper end of the share of copies
_LABELS = 0.025 - SCAN - FRESH - GATHERED  # error of its lower end that remains for the bound by labels


@dataclass(frozen=True, eq=False, kw_only=True)
class CopyCheck(Brief):
    """Whether samples repeat training examples, and the evidence for it.

    Attributes:
        verdict: "copies found", "inspect these pairs", "sharp but not copying" or "no evidence", by `decide`.
        sentence: the verdict in words, with its numbers and the copying that would have gone undetected.
        copied_share: of the samples, an estimate with a 95% interval.
        power: the smallest share of exact copies that is detected with 80% power.
        power_noisy: the same for copies moved by half the median distance of a held-out example to the training set.
        evidence: what determines the verdict.
        tests: all tests, those that decide first.
        cells: C_T with its table of cells; the same as in `tests`.
        samples: which samples are too close to training examples (by plain distance: sharp samples are flagged as
            well).
        rows: which training examples are too close to samples.
        calibrated: which samples are too close relative to the local density of the data.
        visible: samples that stand out so far that one should look at them, if the tests do not find copies.
        pairs: columns of the most suspicious samples with their closest training and held-out examples, see
            `suspicious_pairs`.
        near_test: (n_test,) distance of each held-out example to its closest training example.
        space: the feature space in words.
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
    visible: Visible
    pairs: Mapping[str, NDArray[Any]] = field(repr=False)
    near_test: NDArray[np.float64] = field(repr=False)
    space: str
    level: float

    def headline(self) -> str:
        """Return the size and the main figures."""
        return (
            f"{self.verdict}; copied share {figure(self.copied_share.value, self.copied_share.interval)}; "
            f"{len(self.samples.flagged):,} samples, {len(self.rows.flagged):,} training examples, "
            f"{len(self.near_test):,} held out"
        )

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
    groups: Groups | None = None,
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
    """Check whether samples of a model are copies of the examples it was trained on. No model is needed.

    Pass the whole training set, 2 or more examples: copies of examples that are missing cannot be detected. Pass 2 or
    more held-out examples, and samples as the model generates them: none selected, none dropped.

    Args:
        sets: the three sets.
        groups: which rows belong together (frames of one film, visits of one patient), as (train_groups, test_groups)
            or (train_groups, test_groups, sample_groups): one number or name for each row. Labels are then permuted by
            groups, held-out examples count once per group, and a group in both sets has the label of one of its rows.
        space: the feature space in which distances are taken, see `in_space`.
        level: false-discovery rate of the lists of samples and examples.
        log_prob: log p of the model, nats, for the examples of `train` and of `test`: adds membership inference.
        latent: the function from examples to points for the space "latent".
        image_shape: (h, w) or (h, w, c) of flattened images, for spaces of images.
        n_cells: of C_T.
        context_rows: the largest number of rows of each set for measures that search sets within themselves.
        power_trials: for each share of planted copies; 0 skips the power.
        seed: of permutations, planted copies and cells.

    Raises:
        DataError: a set has too few examples, is not finite or not numeric, widths differ, or a setting is invalid.

    >>> rng = np.random.default_rng(0)
    >>> T, H, fresh = (rng.normal(size=(200, 4)) for _ in range(3))
    >>> copycheck(T, H, fresh).verdict, copycheck(T, H, T).verdict
    ('no evidence', 'copies found')
    """
    near, where = placed(space, sets, seed=seed, image_shape=image_shape, latent=latent)
    near = near.belonging(belonging(groups, [len(rows) for rows in near]))
    scan, c_t, excess, share, evidence, visible = read(searched(near), n_cells=n_cells, seed=seed)
    each = near.one_each(seed, "test")
    asked = Asked(
        sets=near, each=each, scan=scan, c_t=c_t, excess=excess, rows=context_rows, seed=seed, log_prob=log_prob
    )
    flagged, calibrated = conformal_samples(each, level=level), calibrated_distance(each, level=level)
    power, noisy = (_power(near, scan, noise, power_trials, seed) for noise in (0.0, NOISE))
    tests = run_all(asked)
    told = Told(
        verdict=decide(evidence),
        share=share,
        power=power,
        power_noisy=noisy,
        identical=evidence.identical,
        cautions=cautions_of(near, tests, seed),
        off=off_of(near, scan, rows=fewest_rows(near)),
        visible=visible,
        partner=near.nearest_row("samples", "train")[1],
        n_test=len(near.test),
    )
    return CopyCheck(
        verdict=told.verdict,
        sentence=verdict_sentence(told),
        copied_share=share,
        power=power,
        power_noisy=noisy,
        evidence=evidence,
        tests=tests,
        cells=c_t,
        samples=flagged,
        rows=conformal_rows(each, level=level),
        calibrated=calibrated,
        visible=visible,
        pairs=suspicious_pairs(near, flagged, calibrated, first=visible.samples),
        near_test=near.distance("test", "train"),
        space=where,
        level=level,
    )


class Reading(NamedTuple):
    """The tests that decide, the share of copies, and the evidence that determines the verdict."""

    scan: Result
    c_t: CopyingTest
    excess: Result
    share: Result
    evidence: Evidence
    visible: Visible


def read(sets: Sets, *, n_cells: int | None = None, seed: int = 0) -> Reading:
    """Return what `decide` needs, and no more."""
    each = sets.one_each(seed, "test", "samples")
    scan, excess = scan_share_test(sets, seed=seed), tail_excess_test(each)
    c_t = data_copying_test(each, n_cells=n_cells, seed=seed)
    by_rows = bounded_share(sets, Errors(_LABELS, GATHERED, _ABOVE), seed)
    to_test = over_mean(sets.near("samples", "test", NEAR)[0])
    gathered = gathered_share(by_rows.details["low_by_neighbourhoods"], sets.local_ratio("samples")[0], to_test)
    evidence = Evidence(scan.p_value, identical_rows(sets), gathered, closer_p(c_t, excess))
    visible = NONE if decide(evidence) == "copies found" else visible_copies(sets, GATHERED, seed)
    evidence = replace(evidence, visible=0 if visible.by_chance else len(visible.samples))
    return Reading(scan, c_t, excess, merged_share(by_rows, evidence, sets.closest), evidence, visible)


def searched(sets: Sets) -> Sets:
    """Run the searches that several tests share, each once, for the most neighbours that any test needs."""
    for name, rows in (("train", sets.train), ("test", sets.test)):
        if len(rows) < _FEWEST:
            raise DataError(
                expected=f"{_FEWEST} or more training examples and held-out examples",
                got=f"{len(rows)} in {name}",
                do="Add examples: so few allow no comparison.",
            )
    sets.near("samples", "train", NEAR)
    sets.near("test", "train", NEAR)
    sets.near("samples", "test", NEAR)
    return sets


def merged_share(by_rows: Result, evidence: Evidence, closest: Closest) -> Result:
    """Return the share of samples that are copies, with a 95% interval; the errors of each end add up to 2.5%.

    The lower end is the largest of the bounds by labels and by neighbourhoods (`copied_share`), by identical examples,
    and one sample if the verdict is "copies found"; otherwise it is 0, so that interval and verdict never disagree. The
    upper end is by labels, plus the samples at examples that are in both sets.
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
            f"An estimated {100 * estimate:.3g}% of the samples are copies of training examples (95% interval "
            f"{100 * low:.3g}% to {100 * high:.3g}%; 0% expected without copying)."
        ),
        details={f"low_by_{name}": bound for name, bound in bounds.items()},
    )


def _power(sets: Sets, scan: Result, noise: float, trials: int, seed: int) -> Power:
    critical = critical_value(scan.details["null_draws"], SCAN)
    rows = fewest_copies(sets, seed) if noise == 0 and trials else np.inf
    errors = {"alpha": SCAN, "alone": GATHERED, "identical": rows}
    return detectable_share(sets, critical=critical, **errors, noise=noise, trials=trials, seed=seed)
