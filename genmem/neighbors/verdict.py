"""One verdict from all tests: copies found, sharp but not copying, or no evidence."""

from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from genmem.neighbors.exact_copies import Identical
from genmem.neighbors.power import Power
from genmem.neighbors.results import Result

FloatArray = NDArray[np.float64]
Verdict = Literal["copies found", "sharp but not copying", "no evidence"]

ALPHA = 0.01  # false alarms of either verdict on fresh samples, at most
SCAN, GATHERED = 0.4 * ALPHA, 0.5 * ALPHA  # what ways to "copies found" take of it; identical rows take FRESH, a tenth
AGREED = 0.95  # of samples as near to a row as copies are must be so to a training row


@dataclass(frozen=True)
class Evidence:
    """What the verdict is read from.

    Attributes:
        scan_p: of `scan_share_test`: whatever the samples are like, labels of their nearest rows are chance.
        identical: samples that are identical to training rows, see `identical_rows`.
        gathered: lower bound, at an error of GATHERED, of the share of samples far nearer to one training row than
            their neighbourhood lets expect (`copied_share`, by neighbourhoods); 0 where others lie as near to
            held-out rows, see `gathered_share`.
        closer_p: three times the smallest p of C_T, Z_U and the tail excess: samples lie nearer to training rows
            than held-out rows do, by copying or by sharpness.
    """

    scan_p: float
    identical: Identical
    gathered: float
    closer_p: float


def decide(evidence: Evidence) -> Verdict:
    """Return the verdict. Fresh samples get each of the first two with a probability of ALPHA at most."""
    if evidence.scan_p <= SCAN or evidence.identical.copies > 0 or evidence.gathered > 0:
        return "copies found"
    return (
        "sharp but not copying" if evidence.closer_p <= ALPHA and not unexplained(evidence.identical) else "no evidence"
    )


def unexplained(identical: Identical) -> bool:
    """Return whether more samples are identical to training rows than held-out rows are, and none to those.

    Sharpness does not make rows identical; where it could (rows of few values), held-out rows are met as well.
    """
    return identical.p_samples <= ALPHA and identical.at_test == 0


def closer_p(c_t: Result, tail_excess: Result) -> float:
    """Return the p-value of samples lying nearer to training rows than held-out rows do, by three tests at once."""
    each = np.array([c_t.p_value, c_t.details["p_u"], tail_excess.p_value])
    return float(min(1.0, 3 * np.nanmin(each))) if np.isfinite(each).any() else np.nan


def gathered_share(low: float, local: FloatArray, local_test: FloatArray) -> float:
    """Return `low`, or 0 where samples lie as near to held-out rows as those it counts lie to training rows.

    A model that draws far too often from one dense spot of the data has samples as near to rows as copies are; but
    then near to rows of both sets.

    Args:
        low: share of samples said to be copies.
        local: (m,) distance to the nearest training row over the mean distance to 50 of them, of each sample.
        local_test: (m,) the same with held-out rows.
    """
    counted = int(np.ceil(low * len(local) - 1e-9))
    if counted == 0:
        return 0.0
    last = np.sort(local)[counted - 1]
    own, other = int((local <= last).sum()), int((local_test <= last).sum())
    return low if own >= AGREED * (own + other) else 0.0


def verdict_sentence(verdict: Verdict, share: Result, power: Power, identical: Identical, source: Result) -> str:
    """Return the verdict in words, with what would have been missed."""
    low, high = share.interval
    if verdict == "copies found":
        said = (
            f"At least {low:.2%} of the samples are copies of training rows (estimate {share.value:.1%}, 95% interval "
            f"to {high:.1%}): they lie nearer to training rows than chance allows, and held-out rows do not explain it."
        )
    elif verdict == "sharp but not copying":
        said = (
            "Samples lie nearer to training rows than held-out rows do, but just as near to held-out rows: they are "
            f"sharper than the data, not copies. {unseen(power)}"
        )
    elif unexplained(identical):
        said = (
            "Copying is not shown, but not unlikely: samples are identical to training rows and none to a held-out "
            f"row, yet so few different rows are hit that chance could have put them on one side. {unseen(power)}"
        )
    else:
        said = f"No evidence of copying. {unseen(power)}"
    return _caution(source) + said + _identical(identical, share.n)


def unseen(power: Power) -> str:
    """Return what share of copies would have gone unseen."""
    if power.trials == 0:
        return power.sentence
    if np.isnan(power.smallest):
        return f"There are too few rows: even samples that are all copies would go unseen (power {power.at:.0%})."
    return f"Copies of less than {power.smallest:.2%} of the samples would go unseen (power {power.at:.0%})."


def _identical(identical: Identical, n: int) -> str:
    if not identical.any_train:
        return ""
    said = f" {identical.any_train:,} of {n:,} samples are identical to a training row"
    return f"{said}, {identical.at_test:,} to a held-out row." if identical.at_test else f"{said}."


def _caution(source: Result) -> str:
    if not source.p_value <= ALPHA:
        return ""
    return (
        "Training and held-out rows differ beyond chance; unless they are of one source, no comparison with held-out "
        f"rows can be read ({source.sentence}) What the tests say: "
    )
