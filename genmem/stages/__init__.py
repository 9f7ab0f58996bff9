"""The stages of an audit: each reads a run, computes one thing and stores it; stored results are not recomputed."""

from genmem.stages._compare import compare
from genmem.stages._copies import copies
from genmem.stages._copycheck import check_copies
from genmem.stages._describe import neighbors, report
from genmem.stages._early import check_before
from genmem.stages._influence import influence
from genmem.stages._late import kept, try_each
from genmem.stages._neurons import neurons
from genmem.stages._plan import plan
from genmem.stages._refit import fit, reached, refit
from genmem.stages._regions import regions
from genmem.stages._score import posterior, score

__all__ = [
    "check_before",
    "check_copies",
    "compare",
    "copies",
    "fit",
    "influence",
    "kept",
    "neighbors",
    "neurons",
    "plan",
    "posterior",
    "reached",
    "refit",
    "regions",
    "report",
    "score",
    "try_each",
]
