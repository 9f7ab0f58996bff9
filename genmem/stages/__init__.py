"""The stages of an audit: each reads a run, computes one thing and stores it; a stored result is not made again."""

from genmem.stages.attributing import influence
from genmem.stages.checking import check_copies
from genmem.stages.copying import copies
from genmem.stages.exploring import neighbors, regions, report
from genmem.stages.planning import plan
from genmem.stages.refitting import fit, reached, refit
from genmem.stages.scoring import posterior, score

__all__ = [
    "check_copies",
    "copies",
    "fit",
    "influence",
    "neighbors",
    "plan",
    "posterior",
    "reached",
    "refit",
    "regions",
    "report",
    "score",
]
