"""Where does memorization live in a network?

`genmem.neurons.drops` is the function, and `from genmem.neurons.drops import Drops` still imports from the module; so
it is with `contrast`, `judge` and `localize`.
"""

from genmem.neurons.contrast import Sets, contrast
from genmem.neurons.drops import Drops, drops, joint_drop
from genmem.neurons.injection import Injected, inject
from genmem.neurons.interventions import ablate, record
from genmem.neurons.judge import Evidence, Judgement, judge
from genmem.neurons.localize import confirm, localize
from genmem.neurons.scorers import SCORERS
from genmem.neurons.search import greedy, paired_search
from genmem.neurons.units import Coverage, Unit, coverage_of, units_of
from genmem.neurons.verdict import Control, Verdict, decide

__all__ = [
    "SCORERS",
    "Control",
    "Coverage",
    "Drops",
    "Evidence",
    "Injected",
    "Judgement",
    "Sets",
    "Unit",
    "Verdict",
    "ablate",
    "confirm",
    "contrast",
    "coverage_of",
    "decide",
    "drops",
    "greedy",
    "inject",
    "joint_drop",
    "judge",
    "localize",
    "paired_search",
    "record",
    "units_of",
]
