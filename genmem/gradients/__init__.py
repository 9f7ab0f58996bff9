"""What is the gradient of each example's loss, and how do these gradients multiply?"""

from genmem.gradients.engine import PerExampleGradients
from genmem.gradients.probe import Coverage
from genmem.gradients.products import Direction, Features, gram, inner, squared_norms

__all__ = ["Coverage", "Direction", "Features", "PerExampleGradients", "gram", "inner", "squared_norms"]
