"""One verdict from all tests: copies found, inspect these pairs, sharp but not copying, or no evidence."""

from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from genmem.neighbors.exact_copies import Identical
from genmem.neighbors.results import Result
from genmem.protocols import Brief, figure

FloatArray = NDArray[np.float64]
Verdict = Literal["copies found", "inspect these pairs", "sharp but not copying", "no evidence"]

ALPHA = 0.01  # largest probability of each verdict but the last on fresh samples
SCAN, GATHERED = (
    0.4 * ALPHA,
    0.5 * ALPHA,
)  # errors of the criteria for "copies found"; that of identical examples is FRESH
AGREED = 0.95  # of samples as close to an example as copies are, the share that must be at a training example


@dataclass(frozen=True)
class Evidence(Brief):
    """What determines the verdict.

    Attributes:
        scan_p: of `scan_share_test`: without copying, labels of closest examples are random for any kind of samples.
        identical: samples that are identical to training examples, see `identical_rows`.
        gathered: lower bound, at an error of GATHERED, of the share of samples far closer to one training example than
            the local density explains (`copied_share`, by neighbourhoods); 0 if samples are equally close to held-out
            examples, see `gathered_share`.
        closer_p: three times the smallest p of C_T, Z_U and the tail excess: samples are closer to training examples
            than held-out examples are, through copying or sharpness.
        visible: how many samples stand out by a gap that no smooth law of distances explains, see `visible_copies`.
    """

    scan_p: float
    identical: Identical
    gathered: float
    closer_p: float
    visible: int = 0

    def headline(self) -> str:
        """Return the size and the main figures."""
        return f"scan p {figure(self.scan_p)}, {self.identical.copies:,} identical samples"


def decide(evidence: Evidence) -> Verdict:
    """Return the verdict. On fresh samples, each verdict but the last has a probability of at most ALPHA.

    Only "copies found" is proven. Samples that merely stand out ask for a look; without them the verdict would be one
    of the last two.
    """
    if evidence.scan_p <= SCAN or evidence.identical.copies > 0 or evidence.gathered > 0:
        return "copies found"
    if evidence.visible:
        return "inspect these pairs"
    sharp = evidence.closer_p <= ALPHA and not unexplained(evidence.identical)
    return "sharp but not copying" if sharp else "no evidence"


def unexplained(identical: Identical) -> bool:
    """Return whether more samples than held-out examples are identical to training examples, and none to held-out ones.

    Sharpness does not make points identical; where it could (discrete data), held-out examples are hit as well.
    """
    return identical.p_samples <= ALPHA and identical.at_test == 0


def closer_p(c_t: Result, tail_excess: Result) -> float:
    """Return the p-value of samples being closer to training examples than held-out examples are, over three tests."""
    each = np.array([c_t.p_value, c_t.details["p_u"], tail_excess.p_value])
    return float(min(1.0, 3 * np.nanmin(each))) if np.isfinite(each).any() else np.nan


def gathered_share(low: float, local: FloatArray, local_test: FloatArray) -> float:
    """Return `low`, or 0 if samples are as close to held-out examples as those it counts are to training examples.

    A model that samples far too often from one dense region of the data has samples as close to examples as copies are,
    but these are close to examples of both sets.

    Args:
        low: lower bound of the share of copies.
        local: (m,) distance of each sample to the closest training example over the mean distance to 50 of them.
        local_test: (m,) the same with held-out examples.
    """
    counted = int(np.ceil(low * len(local) - 1e-9))
    if counted == 0:
        return 0.0
    last = np.sort(local)[counted - 1]
    own, other = int((local <= last).sum()), int((local_test <= last).sum())
    return low if own >= AGREED * (own + other) else 0.0
