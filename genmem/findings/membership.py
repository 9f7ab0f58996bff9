"""Findings about membership inference: how well an attacker tells which examples a model was trained on."""

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from genmem.findings.records import Finding, Interval
from genmem.leaveout.attack import RATES, SCORES
from genmem.run.directory import Run

SHOWN = 12
OFTEN = 0.5  # share of the models in which an example counts as identified
LIRA = "Carlini et al. 2022, arXiv 2112.03570"
AUDITING = "Steinke, Nasr & Jagielski 2023, arXiv 2305.08846"


def find_membership(run: Run) -> list[Finding]:
    """Return the findings of a run's membership attack; none if it has none."""
    if not run.has_result("membership"):
        return []
    stored = run.result("membership")
    aside = "" if run.data().groups is None else " Whole groups are trained on or held out: it is about groups."
    found = [_auc(stored, aside)]
    if math.isfinite(float(stored["tpr"][0, 0, 0])):
        found.append(_identified(stored, aside))
    return [*found, _epsilon(stored, aside)]


def _auc(stored: dict[str, NDArray[Any]], aside: str) -> Finding:
    ratio, difference, alone = (float(stored["auc"][SCORES.index(name), 0]) for name in SCORES)
    return Finding(
        "membership_auc",
        "memorized",
        "AUC of membership inference",
        ratio,
        interval=_interval(stored["auc"][0]),
        null=0.5,
        n=stored["identified"].size,
        unit="area under the ROC curve",
        sentence=f"An attacker with other models as references tells examples trained on from examples held out with "
        f"an AUC of {ratio:.2f}; by log p alone it is {alone:.2f}, by log p less its mean without the example "
        f"{difference:.2f}.",
        meaning="At 0.5 the attacker guesses. The refits of one repeat are attacked, those of the others are the "
        f"references (shadow models).{aside}",
        source=LIRA,
    )


def _identified(stored: dict[str, NDArray[Any]], aside: str) -> Finding:
    ratio, difference, alone = (float(stored["tpr"][SCORES.index(name), 0, 0]) for name in SCORES)
    share = stored["identified"]
    often = float((share >= OFTEN).mean())
    order = np.argsort(-np.nan_to_num(share), kind="stable")[:SHOWN]
    return Finding(
        "membership_tpr",
        "memorized",
        "Training examples identified at a false-positive rate of 1%",
        ratio,
        interval=_interval(stored["tpr"][0, 0]),
        null=RATES[0],
        n=share.size,
        unit="of the training examples",
        sentence=f"At a false-positive rate of 1%, the attacker identifies {ratio:.1%} of the training examples "
        f"(by log p alone {alone:.1%}, by the difference {difference:.1%}); {often:.1%} of the examples are identified "
        "in half or more of the models trained on them.",
        meaning="By chance it would be 1%. The column identified of scores.parquet is the share of the models trained "
        f"on an example in which it is identified.{aside}",
        source=LIRA,
        examples=tuple(int(i) for i in order if share[i] > 0),
    )


def _epsilon(stored: dict[str, NDArray[Any]], aside: str) -> Finding:
    epsilon = float(stored["epsilon"])
    evidence = f"is at least {epsilon:.1f}" if epsilon > 0 else "has no lower bound above 0"
    return Finding(
        "epsilon_bound",
        "memorized",
        "Lower bound on epsilon",
        epsilon,
        null=0.0,
        n=stored["identified"].size,
        unit="epsilon",
        sentence=f"The epsilon of pure differential privacy of this training {evidence} at 95% confidence, if folds "
        "are taken as independent draws of the training set, which they only approximate.",
        meaning="A training algorithm with a smaller epsilon would not allow guesses as good as these. Each guess "
        "counts as less than one because folds are not independent. No bound says nothing in favour of privacy."
        f"{aside}",
        source=AUDITING,
    )


def _interval(row: NDArray[np.float64]) -> Interval:
    return float(row[1]), float(row[2])
