"""Where would more data help?"""

from genmem.regions.groups import (
    MIN_EXAMPLES,
    Group,
    GroupScore,
    candidates,
    corrected,
    group_scores,
    latent_cells,
    most_in_need,
    neediest,
)

__all__ = [
    "MIN_EXAMPLES",
    "Group",
    "GroupScore",
    "candidates",
    "corrected",
    "group_scores",
    "latent_cells",
    "most_in_need",
    "neediest",
]
