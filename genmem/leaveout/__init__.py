"""Which training examples are memorized?"""

from genmem.leaveout.choosing import ensure_probe, planned_model, scored_epochs
from genmem.leaveout.refitting import refit
from genmem.leaveout.scoring import ESTIMATORS, MemorizationScores, memorization_score

__all__ = [
    "ESTIMATORS",
    "MemorizationScores",
    "ensure_probe",
    "memorization_score",
    "planned_model",
    "refit",
    "scored_epochs",
]
