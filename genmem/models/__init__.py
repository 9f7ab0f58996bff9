"""Probabilistic models that can be audited, all with the face of scikit-learn's densities."""

from genmem.models.base import DeepDensity
from genmem.models.evaluation import LogProbs, log_prob
from genmem.models.naming import make_model
from genmem.models.vae import VAE

__all__ = ["VAE", "DeepDensity", "LogProbs", "log_prob", "make_model"]
