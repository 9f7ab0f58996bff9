"""Audit a generative model for memorization.

Public names are resolved on first use, so that `import genmem` loads nothing heavy.
"""

import importlib
from typing import TYPE_CHECKING, Any

from genmem.errors import DataError, GenmemError, IncompleteRunError, ModelError, RunError, RunMismatchError
from genmem.version import __version__

if TYPE_CHECKING:
    from genmem.data import Data, load, prepare
    from genmem.influence import Trained, checkpoint_weights, influence_scores, self_influence
    from genmem.leaveout import (
        MembershipAttack,
        MemorizationScores,
        leave_one_out,
        membership_attack,
        memorization_score,
        refit,
    )
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
    from genmem.neurons import ablate, drops, units_of
    from genmem.pipeline import Audit, audit
    from genmem.protocols import Density, draw
    from genmem.run import Run, Splits
    from genmem.search import nearest, nearest_approximately
    from genmem.training import Checkpoint, Trajectory

_HOMES = {
    "genmem.data": ("Data", "load", "prepare"),
    "genmem.influence": ("Trained", "checkpoint_weights", "influence_scores", "self_influence"),
    "genmem.leaveout": (
        "MembershipAttack",
        "MemorizationScores",
        "leave_one_out",
        "membership_attack",
        "memorization_score",
        "refit",
    ),
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
    "genmem.neurons": ("ablate", "drops", "units_of"),
    "genmem.pipeline": ("Audit", "audit"),
    "genmem.protocols": ("Density", "draw"),
    "genmem.run": ("Run", "Splits"),
    "genmem.search": ("nearest", "nearest_approximately"),
    "genmem.training": ("Checkpoint", "Trajectory"),
}
_PACKAGES = (  # `genmem.stages.score(run)`, as the help texts and docs write it
    "compare",
    "data",
    "findings",
    "gradients",
    "influence",
    "leaveout",
    "models",
    "neighbors",
    "neurons",
    "plots",
    "regions",
    "report",
    "run",
    "search",
    "stages",
    "training",
)
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
    "MembershipAttack",
    "MemorizationScores",
    "MixtureOfFactorAnalysers",
    "ModelError",
    "Run",
    "RunError",
    "RunMismatchError",
    "Splits",
    "TorchGaussianMixture",
    "TorchKernelDensity",
    "Trained",
    "Trajectory",
    "__version__",
    "ablate",
    "audit",
    "checkpoint_weights",
    "conformal_rows",
    "conformal_samples",
    "copycheck",
    "data_copying_test",
    "distance_ratio",
    "draw",
    "drops",
    "from_module",
    "from_pyro",
    "influence_scores",
    "leave_one_out",
    "load",
    "load_model",
    "make_model",
    "membership_attack",
    "memorization_score",
    "nearest",
    "nearest_approximately",
    "prepare",
    "refit",
    "save_model",
    "self_influence",
    "units_of",
]


def __getattr__(name: str) -> Any:
    if name in _PACKAGES:
        return importlib.import_module(f"genmem.{name}")
    home = _HOME_OF.get(name)
    if home is None and name[:1].isupper():  # a density that stands in the list of `genmem.models.factory` alone
        home = "genmem.models"
    if home is None or not hasattr(importlib.import_module(home), name):
        raise AttributeError(f"module 'genmem' has no attribute {name!r}")
    return getattr(importlib.import_module(home), name)


def __dir__() -> list[str]:
    return sorted([*__all__, *_PACKAGES])
