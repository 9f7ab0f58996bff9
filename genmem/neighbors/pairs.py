"""Which samples look like which training rows? The most suspicious first."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from genmem.neighbors.results import Flags
from genmem.neighbors.searches import Searches
from genmem.neighbors.ties import nearest_row

MOST = 1000


def suspicious_pairs(
    searches: Searches, samples: Flags, calibrated: Flags, *, most: int = MOST
) -> dict[str, NDArray[Any]]:
    """Return the most suspicious samples with the training row and the held-out row nearest to each.

    Samples nearer to a training row than to any held-out row come first, and among them those whose training row is
    nearest for how dense the data are there (`calibrated_distance`): copies in sparse and in dense regions alike.

    Args:
        searches: the three sets.
        samples: of `conformal_samples`.
        calibrated: of `calibrated_distance`.
        most: how many.

    Returns:
        Columns of one length: "sample", "train", "test" (rows), "distance_train", "distance_test", "ratio" (of
        these, 0 to infinity; 1 where both are 0), "p_value", "q_value", "flagged" (of `samples`), "calibrated",
        "calibrated_flagged".
    """
    (to_train, train), (to_test, test) = (_nearest(searches, base) for base in ("train", "test"))
    place = np.empty(len(train), np.intp)  # equally suspicious ones in an order that their values decide
    place[searches.order("samples")] = np.arange(len(place))
    at = np.lexsort((place, to_train, calibrated.statistic, to_train >= to_test))[:most]
    ratio = np.divide(to_train, to_test, out=np.where(to_train > 0, np.inf, 1.0), where=to_test > 0)
    columns = {
        "train": train,
        "test": test,
        "distance_train": to_train,
        "distance_test": to_test,
        "ratio": ratio,
        "p_value": samples.p_value,
        "q_value": samples.q_value,
        "flagged": samples.flagged,
        "calibrated": calibrated.statistic,
        "calibrated_flagged": calibrated.flagged,
    }
    return {"sample": at, **{name: column[at] for name, column in columns.items()}}


def _nearest(searches: Searches, base: str) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    return nearest_row(searches, "samples", "train" if base == "train" else "test")
