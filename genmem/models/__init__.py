"""Probabilistic models that can be audited, all with the interface of scikit-learn's densities.

Names are resolved on first use: using a VAE does not import Pyro, and using a flow does not import diffusers.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from sklearn.mixture import GaussianMixture
    from sklearn.neighbors import KernelDensity

    from genmem.models.base import DeepDensity
    from genmem.models.conv_vae import ConvVAE
    from genmem.models.custom import from_module
    from genmem.models.diffusion import DiffusionModel
    from genmem.models.evaluation import LogProbs, log_prob
    from genmem.models.factory import make_model
    from genmem.models.flow import Flow
    from genmem.models.knn import KNNDensity
    from genmem.models.mfa import MixtureOfFactorAnalysers
    from genmem.models.pyro_density import from_pyro
    from genmem.models.saving import load_model, save_model
    from genmem.models.torch_gmm import TorchGaussianMixture
    from genmem.models.torch_kde import TorchKernelDensity
    from genmem.models.vae import VAE

_HOMES = {
    "genmem.models.base": ("DeepDensity",),
    "genmem.models.conv_vae": ("ConvVAE",),
    "genmem.models.custom": ("from_module",),
    "genmem.models.diffusion": ("DiffusionModel",),
    "genmem.models.evaluation": ("LogProbs", "log_prob"),
    "genmem.models.flow": ("Flow",),
    "genmem.models.knn": ("KNNDensity",),
    "genmem.models.mfa": ("MixtureOfFactorAnalysers",),
    "genmem.models.factory": ("make_model",),
    "genmem.models.pyro_density": ("from_pyro",),
    "genmem.models.saving": ("load_model", "save_model"),
    "genmem.models.torch_gmm": ("TorchGaussianMixture",),
    "genmem.models.torch_kde": ("TorchKernelDensity",),
    "genmem.models.vae": ("VAE",),
    "sklearn.mixture": ("GaussianMixture",),
    "sklearn.neighbors": ("KernelDensity",),
}
_HOME_OF = {name: home for home, names in _HOMES.items() for name in names}

__all__ = [
    "VAE",
    "ConvVAE",
    "DeepDensity",
    "DiffusionModel",
    "Flow",
    "GaussianMixture",
    "KNNDensity",
    "KernelDensity",
    "LogProbs",
    "MixtureOfFactorAnalysers",
    "TorchGaussianMixture",
    "TorchKernelDensity",
    "from_module",
    "from_pyro",
    "load_model",
    "log_prob",
    "make_model",
    "save_model",
]


def __getattr__(name: str) -> Any:
    home = _HOME_OF.get(name) or _home_of_density(name)
    if home is None:
        raise AttributeError(f"module 'genmem.models' has no attribute {name!r}")
    return getattr(importlib.import_module(home), name)


def _home_of_density(name: str) -> str | None:
    """Return the module of a class in the list of built-in densities, None where it has no such class."""
    if not name[:1].isupper():
        return None
    from genmem.models.factory import BUILT_IN

    paths = (path.split(":") for path in BUILT_IN.values())
    return next((module for module, kind in paths if kind == name), None)


def __dir__() -> list[str]:
    return sorted(__all__)
