"""Audit a generative model for memorization.

Public names are resolved on first use, so that `import genmem` loads nothing heavy.
"""

import importlib
from typing import TYPE_CHECKING, Any

from genmem.errors import DataError, GenmemError, IncompleteRunError, ModelError, RunError, RunMismatchError
from genmem.version import __version__

if TYPE_CHECKING:
    from genmem.approximate import nearest_approximately
    from genmem.data import Data, load, prepare
    from genmem.influence import influence_scores, self_influence
    from genmem.leaveout import MemorizationScores, leave_one_out, memorization_score, refit
    from genmem.models import (
        VAE,
        ConvVAE,
        DeepDensity,
        DiffusionModel,
        Flow,
        GaussianMixture,
        KernelDensity,
        KNNDensity,
        MixtureOfFactorAnalysers,
        TorchGaussianMixture,
        TorchKernelDensity,
        from_module,
        from_pyro,
        load_model,
        make_model,
        save_model,
    )
    from genmem.neighbors import (
        CopyCheck,
        CopyingTest,
        conformal_rows,
        conformal_samples,
        copycheck,
        data_copying_test,
        distance_ratio,
    )
    from genmem.pipeline import Audit, audit
    from genmem.protocols import Density, draw
    from genmem.run import Run
    from genmem.search import nearest
    from genmem.splits import Splits
    from genmem.training import Checkpoint

_HOMES = {
    "genmem.approximate": ("nearest_approximately",),
    "genmem.data": ("Data", "load", "prepare"),
    "genmem.influence": ("influence_scores", "self_influence"),
    "genmem.leaveout": ("MemorizationScores", "leave_one_out", "memorization_score", "refit"),
    "genmem.models": (
        "VAE",
        "ConvVAE",
        "DeepDensity",
        "DiffusionModel",
        "Flow",
        "GaussianMixture",
        "KernelDensity",
        "KNNDensity",
        "MixtureOfFactorAnalysers",
        "TorchGaussianMixture",
        "TorchKernelDensity",
        "from_module",
        "from_pyro",
        "load_model",
        "make_model",
        "save_model",
    ),
    "genmem.neighbors": (
        "CopyCheck",
        "CopyingTest",
        "conformal_rows",
        "conformal_samples",
        "copycheck",
        "data_copying_test",
        "distance_ratio",
    ),
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
    "ConvVAE",
    "CopyCheck",
    "CopyingTest",
    "Data",
    "DataError",
    "DeepDensity",
    "Density",
    "DiffusionModel",
    "Flow",
    "GaussianMixture",
    "GenmemError",
    "IncompleteRunError",
    "KNNDensity",
    "KernelDensity",
    "MemorizationScores",
    "MixtureOfFactorAnalysers",
    "ModelError",
    "Run",
    "RunError",
    "RunMismatchError",
    "Splits",
    "TorchGaussianMixture",
    "TorchKernelDensity",
    "__version__",
    "audit",
    "conformal_rows",
    "conformal_samples",
    "copycheck",
    "data_copying_test",
    "distance_ratio",
    "draw",
    "from_module",
    "from_pyro",
    "influence_scores",
    "leave_one_out",
    "load",
    "load_model",
    "make_model",
    "memorization_score",
    "nearest",
    "nearest_approximately",
    "prepare",
    "refit",
    "save_model",
    "self_influence",
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
