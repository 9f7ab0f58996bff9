"""Which training examples are memorized?"""

from genmem.leaveout.adjusted import AdjustedScores, adjust
from genmem.leaveout.attack import MembershipAttack, membership_attack
from genmem.leaveout.covariates import Covariates, covariates
from genmem.leaveout.curves import MemorizationCurve, memorization_curve
from genmem.leaveout.deconvolution import Prevalence, prevalence
from genmem.leaveout.effective import Effective, effective_parameters
from genmem.leaveout.encoder_bias import MODES as POSTERIORS
from genmem.leaveout.encoder_bias import Correction, correct_encoder
from genmem.leaveout.exact import leave_one_out
from genmem.leaveout.executors import dask_workers, local_workers
from genmem.leaveout.posterior import drop_damaged_posteriors, posterior_log_probs
from genmem.leaveout.power import naming_power
from genmem.leaveout.probe import ensure_probe, planned_model, scored_epochs
from genmem.leaveout.refitting import refit
from genmem.leaveout.scoring import ESTIMATORS, MemorizationScores, memorization_score
from genmem.leaveout.selection import list_mean, selected_interval

__all__ = [
    "ESTIMATORS",
    "POSTERIORS",
    "AdjustedScores",
    "Correction",
    "Covariates",
    "Effective",
    "MembershipAttack",
    "MemorizationCurve",
    "MemorizationScores",
    "Prevalence",
    "adjust",
    "correct_encoder",
    "covariates",
    "dask_workers",
    "drop_damaged_posteriors",
    "effective_parameters",
    "ensure_probe",
    "leave_one_out",
    "list_mean",
    "local_workers",
    "membership_attack",
    "memorization_curve",
    "memorization_score",
    "naming_power",
    "planned_model",
    "posterior_log_probs",
    "prevalence",
    "refit",
    "scored_epochs",
    "selected_interval",
]
