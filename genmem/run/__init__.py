"""What was planned, and what is done? A run directory: the plan, the splits, the refits, the results."""

from genmem.run.directory import Run
from genmem.run.splits import Splits

__all__ = ["Run", "Splits"]
