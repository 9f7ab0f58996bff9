"""Which rows are nearest?"""

from genmem.search.approximate import nearest_approximately
from genmem.search.exact import nearest

__all__ = ["nearest", "nearest_approximately"]
