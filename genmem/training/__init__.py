"""Training one network, or many as lanes of one batch."""

from genmem.training.ensemble import Lane, Recipe, train
from genmem.training.probe import Choice, can_batch, probe
from genmem.training.trajectory import Checkpoint, Trajectory

__all__ = ["Checkpoint", "Choice", "Lane", "Recipe", "Trajectory", "can_batch", "probe", "train"]
