"""What do audits of the same data agree on, and what changed from one to another?"""

from genmem.compare.comparison import Comparison, Pair, compare
from genmem.compare.memorized import Memorized
from genmem.compare.ranks import Agreement, Overlap

__all__ = ["Agreement", "Comparison", "Memorized", "Overlap", "Pair", "compare"]
