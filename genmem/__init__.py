"""Audit a generative model for memorization.

Public names are resolved on first use, so that `import genmem` loads nothing heavy.
"""

import importlib
from typing import TYPE_CHECKING, Any

from genmem.errors import DataError, GenmemError, IncompleteRunError, ModelError, RunError, RunMismatchError
from genmem.version import __version__

if TYPE_CHECKING:
    from genmem.data import Data, load, prepare
    from genmem.leaveout import MemorizationScores, memorization_score, refit
    from genmem.models import VAE, DeepDensity, make_model
    from genmem.pipeline import Audit, audit
    from genmem.protocols import Density, draw
    from genmem.run import Run
    from genmem.search import nearest
    from genmem.splits import Splits
    from genmem.training import Checkpoint

_HOMES = {
    "genmem.data": ("Data", "load", "prepare"),
    "genmem.leaveout": ("MemorizationScores", "memorization_score", "refit"),
    "genmem.models": ("VAE", "DeepDensity", "make_model"),
    "genmem.pipeline": ("Audit", "audit"),
    "genmem.protocols": ("Density", "draw"),
    "genmem.run": ("Run",),
    "genmem.search": ("nearest",),
    "genmem.splits": ("Splits",),
    "genmem.training": ("Checkpoint",),
}
_MODULES = ("plots", "stages")  # `genmem.stages.score(run)`, as the help texts say
_HOME_OF = {name: home for home, names in _HOMES.items() for name in names}

__all__ = [
    "VAE",
    "Audit",
    "Checkpoint",
    "Data",
    "DataError",
    "DeepDensity",
    "Density",
    "GenmemError",
    "IncompleteRunError",
    "MemorizationScores",
    "ModelError",
    "Run",
    "RunError",
    "RunMismatchError",
    "Splits",
    "__version__",
    "audit",
    "draw",
    "load",
    "make_model",
    "memorization_score",
    "nearest",
    "prepare",
    "refit",
]


def __getattr__(name: str) -> Any:
    home = _HOME_OF.get(name)
    if home is None and name in _MODULES:
        return importlib.import_module(f"genmem.{name}")
    if home is None:
        raise AttributeError(f"module 'genmem' has no attribute {name!r}")
    return getattr(importlib.import_module(home), name)


def __dir__() -> list[str]:
    return sorted(__all__)
