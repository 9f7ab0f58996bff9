"""Where would more data help?"""

from genmem.regions.amount import Amount, Decline, by_score, by_share
from genmem.regions.groups import (
    MIN_EXAMPLES,
    Group,
    GroupScore,
    candidates,
    corrected,
    group_scores,
    hdbscan_cells,
    latent_cells,
    most_in_need,
    neediest,
)
from genmem.regions.regions import DECLINE, Known, Region, describe_regions
from genmem.regions.search import Regions, find_regions

__all__ = [
    "DECLINE",
    "MIN_EXAMPLES",
    "Amount",
    "Decline",
    "Group",
    "GroupScore",
    "Known",
    "Region",
    "Regions",
    "by_score",
    "by_share",
    "candidates",
    "corrected",
    "describe_regions",
    "find_regions",
    "group_scores",
    "hdbscan_cells",
    "latent_cells",
    "most_in_need",
    "neediest",
]
