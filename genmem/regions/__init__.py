"""Where would more data help?"""

from genmem.regions.cells import GroupScore, group_scores, latent_cells, neediest

__all__ = ["GroupScore", "group_scores", "latent_cells", "neediest"]
