"""How likely is it that the test names an example that is memorized by so much? Shares of named examples are power."""

import numpy as np
from scipy.special import stdtr, stdtrit

from genmem.errors import DataError
from genmem.leaveout.scoring import MemorizationScores, untested


def naming_power(scores: MemorizationScores, delta: float, level: float = 0.05) -> float:
    """Return the probability that an example with a true score of `delta` nats is named at a false-discovery rate.

    The examples named are those with q below `level`, of no memorization; their list ends at some p-value. Given its
    moderated error s, the statistic of an example is delta / s plus a t variable, so its power is a tail of the t law.
    The result is the mean over the examples that are tested: not those of folds that are too unequal (`sizes.Uneven`).

    Args:
        scores: "mean_log" scores of three repeats or more.
        delta: the true score, nats.
        level: the false-discovery rate.

    Raises:
        DataError: the scores have no t law (fewer than three repeats, or "log_mean"), no example is tested, delta is
            not finite or the level not between 0 and 1.
    """
    if not (np.isfinite(delta) and 0 < level < 1):
        raise DataError(
            expected="a finite score and a level between 0 and 1",
            got=f"delta={delta}, level={level}",
            do="Pass nats, and 0.05 for 5%.",
        )
    found = scores.law()
    error = np.sqrt(found.variance / found.repeats)
    known = np.isfinite(error) & np.isfinite(scores.q_value)
    if not known.any():
        raise untested(scores)
    end = _last_p(scores, known, level)
    error, df = np.maximum(error[known], np.finfo(np.float64).tiny), found.df[known]
    return float(stdtr(df, delta / error + stdtrit(df, end)).mean())


def _last_p(scores: MemorizationScores, known: np.ndarray[tuple[int], np.dtype[np.bool_]], level: float) -> float:
    """Return the p-value at which the list of named examples ends; without any, the one that would start it."""
    named = scores.p_value[known & (scores.q_value < level)]
    return float(max(named.max(initial=0.0), level / max(1, known.sum())))
