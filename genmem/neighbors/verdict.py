"""One verdict from all tests: copies found, sharp but not copying, or no evidence."""

from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from genmem.neighbors.exact_copies import Identical
from genmem.neighbors.power import Power
from genmem.neighbors.results import Result
from genmem.protocols import Brief, figure

FloatArray = NDArray[np.float64]
Verdict = Literal["copies found", "sharp but not copying", "no evidence"]

ALPHA = 0.01  # largest probability of each of the first two verdicts on fresh samples
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
    """

    scan_p: float
    identical: Identical
    gathered: float
    closer_p: float

    def headline(self) -> str:
        """Return the size and the main figures."""
        return f"scan p {figure(self.scan_p)}, {self.identical.copies:,} identical samples"


def decide(evidence: Evidence) -> Verdict:
    """Return the verdict. On fresh samples, each of the first two has a probability of at most ALPHA."""
    if evidence.scan_p <= SCAN or evidence.identical.copies > 0 or evidence.gathered > 0:
        return "copies found"
    return (
        "sharp but not copying" if evidence.closer_p <= ALPHA and not unexplained(evidence.identical) else "no evidence"
    )


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


def verdict_sentence(verdict: Verdict, share: Result, power: Power, identical: Identical, source: Result) -> str:
    """Return the verdict in words, with the copying that would have gone undetected."""
    low, high = share.interval
    if verdict == "copies found":
        said = (
            f"At least {100 * low:.3g}% of the samples are copies of training examples (estimate "
            f"{100 * share.value:.3g}%, 95% interval up to {100 * high:.3g}%): samples are closer to training "
            "examples than chance and sharpness explain."
        )
    elif verdict == "sharp but not copying":
        said = (
            "Samples are closer to training examples than held-out examples are, but equally close to held-out "
            f"examples: they are sharper than the data, not copies. {unseen(power)}"
        )
    elif unexplained(identical):
        said = (
            "Copying is not shown, but it is not excluded: samples are identical to training examples and none "
            "to a held-out example, yet so few distinct examples are hit that all of them may be training "
            f"examples by chance. {unseen(power)}"
        )
    else:
        said = f"No evidence of copying. {unseen(power)}"
    return _caution(source) + said + _identical(identical, share.n)


def unseen(power: Power) -> str:
    """Return what share of copies would have gone undetected, in words."""
    if power.trials == 0:
        return power.sentence
    if np.isnan(power.smallest):
        return (
            "There are too few examples: even if all samples were copies, this would go undetected (power "
            f"{power.at:.0%})."
        )
    return (
        f"Copies that make up less than {100 * power.smallest:.3g}% of the samples would go undetected (power "
        f"{power.at:.0%})."
    )


def _identical(identical: Identical, n: int) -> str:
    if not identical.any_train:
        return ""
    said = f" {identical.any_train:,} of {n:,} samples are identical to a training example"
    return f"{said}, {identical.at_test:,} to a held-out example." if identical.at_test else f"{said}."


def _caution(source: Result) -> str:
    if not source.p_value <= ALPHA:
        return ""
    return (
        "Training and held-out examples differ beyond chance; unless they are from one source, no comparison "
        f"with held-out examples is valid. {source.sentence} The tests say: "
    )
