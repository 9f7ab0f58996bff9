"""Findings about true scores: how many examples are memorized, whatever the number of repeats."""

import numpy as np
from numpy.typing import NDArray

from genmem.findings.records import Finding
from genmem.leaveout.deconvolution import SOME
from genmem.run.directory import Run

EFRON = "Efron 2016, doi.org/10.1093/biomet/asv068"


def find_prevalence(run: Run) -> list[Finding]:
    """Return the findings of a run's deconvolved scores; none with fewer than three repeats."""
    if not run.has_result("prevalence"):
        return []
    stored = run.result("prevalence")
    known = np.isfinite(stored["posterior_mean"])
    n, some, left_out = int(known.sum()), int(stored["behind_intervals"]), int((~known).sum())
    belong = run.data().groups
    aside = "" if left_out == 0 else f" It leaves out {left_out:,} examples whose folds allow no test."
    aside += "" if belong is None else " It takes examples as independent, although some belong together."
    aside += "" if some < SOME or some == n else f" It is from {some:,} random examples."
    who = "the examples" if left_out == 0 else f"the {n:,} examples that could be tested"
    shares = zip(stored["thresholds"].tolist(), stored["above"], strict=True)
    return [*(_share(at, row, n, who, aside) for at, row in shares), _tail(stored["tail"], n, who, aside)]


def _share(threshold: float, row: NDArray[np.float64], n: int, who: str, aside: str) -> Finding:
    value, low, high = (float(x) for x in row)
    return Finding(
        f"prevalence_{threshold:g}",
        "memorized",
        f"Examples memorized by more than {threshold:g} {_nats(threshold)}",
        value,
        interval=(low, high),
        n=n,
        unit=f"of {who}" if who != "the examples" else "of all examples",
        sentence=f"About {value:.0%} of {who} are memorized by more than {threshold:g} {_nats(threshold)} "
        f"(95% interval {low:.0%} to {high:.0%}).",
        meaning="The share of true scores above the threshold, with the noise of the scores taken out: more repeats "
        f"narrow the interval and do not raise the share. The interval assumes no form of the distribution.{aside}",
        source=EFRON,
    )


def _nats(threshold: float) -> str:
    return "nat" if threshold == 1 else "nats"


def _tail(row: NDArray[np.float64], n: int, who: str, aside: str) -> Finding:
    value, low, high = (float(x) for x in row)
    return Finding(
        "true_tail",
        "memorized",
        "95% quantile of the true scores",
        value,
        interval=(low, high),
        n=n,
        sentence=f"5% of {who} have a true score above about {value:.1f} nats (95% interval {low:.1f} to {high:.1f}).",
        meaning="The same quantile of the scores as measured is higher, because noise spreads them. The interval "
        f"assumes no form of the distribution.{aside}",
        source=EFRON,
    )
