"""Which training examples shaped this one?"""

from genmem.influence.dispatch import influence_scores, self_influence
from genmem.influence.mixtures import spherical_mixture_first_order, spherical_mixture_influence

__all__ = ["influence_scores", "self_influence", "spherical_mixture_first_order", "spherical_mixture_influence"]
