"""Which rows of an array are the nearest neighbours of others?"""

from genmem.search.approximate import nearest_approximately
from genmem.search.exact import nearest

__all__ = ["nearest", "nearest_approximately"]
