"""Which training examples shaped this one?"""

from genmem.influence.ledger import Ledger
from genmem.influence.scores import influence_scores, self_influence, top_influences
from genmem.influence.selection import TopInfluences
from genmem.influence.trained import Trained
from genmem.influence.weights import checkpoint_weights

__all__ = [
    "Ledger",
    "TopInfluences",
    "Trained",
    "checkpoint_weights",
    "influence_scores",
    "self_influence",
    "top_influences",
]
