"""Where does memorization live in a network?

`genmem.neurons.drops` is the function, and `from genmem.neurons.drops import Drops` still imports from the module.
"""

from genmem.neurons.drops import Drops, drops, joint_drop
from genmem.neurons.interventions import ablate, record
from genmem.neurons.scorers import SCORERS
from genmem.neurons.units import Coverage, Unit, coverage_of, units_of

__all__ = ["SCORERS", "Coverage", "Drops", "Unit", "ablate", "coverage_of", "drops", "joint_drop", "record", "units_of"]
