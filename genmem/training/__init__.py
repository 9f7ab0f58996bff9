"""Training one network, or many as lanes of one batch."""

from genmem.training.ensemble import Lane, Recipe, train
from genmem.training.probe import Pace, can_batch, fitting_lanes, measure_pace
from genmem.training.trajectory import Checkpoint, Trajectory

__all__ = ["Checkpoint", "Lane", "Pace", "Recipe", "Trajectory", "can_batch", "fitting_lanes", "measure_pace", "train"]
