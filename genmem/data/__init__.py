"""What are the examples? Files, tables, folders of images and arrays: read, checked and prepared once."""

from genmem.data.arrays import constant_columns, fingerprint, identical_groups
from genmem.data.examples import Data, load, plant_duplicates, prepare
from genmem.data.images import to_images

__all__ = [
    "Data",
    "constant_columns",
    "fingerprint",
    "identical_groups",
    "load",
    "plant_duplicates",
    "prepare",
    "to_images",
]
