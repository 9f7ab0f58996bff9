"""Settle the model of an audit: settings that suit the data where it is asked for by name, data in a shape it takes."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.base import clone

from genmem.data import Data, to_images
from genmem.errors import DataError, ModelError
from genmem.models import make_model
from genmem.models.naming import check_density

SMALL = 128  # up to so many values an example, the small network
CHOSEN_BANDWIDTH = ("kde", "kde-torch")


def settle_model(model: Any, settings: Mapping[str, Any], data: Data, epochs: int | None) -> Any:
    """Return the model asked for; one asked for by name gets a size and a likelihood that suit the data.

    Raises:
        ModelError: no such model or setting, or it is not a density.
    """
    changes = {**settings} | ({} if epochs is None else {"epochs": epochs})
    if isinstance(model, str):
        defaults = _defaults(model, data)
        if "likelihood" in changes:  # the levels were for another
            defaults.pop("levels", None)
        return make_model(model, {**defaults, **changes})
    check_density(model, "model")
    return _changed(model, changes) if changes else model


def _changed(model: Any, changes: dict[str, Any]) -> Any:
    try:
        return clone(model).set_params(**changes)
    except ValueError as error:
        raise ModelError(
            expected=f"settings of {type(model).__name__} ({', '.join(model.get_params())})",
            got=", ".join(changes),
            do="Correct them, or set them where the model is made.",
        ) from error


def _defaults(name: str, data: Data) -> dict[str, Any]:
    """Return what a built-in model gets where its own defaults do not know the data."""
    small = np.prod(data.X.shape[1:]) <= SMALL
    if name == "vae":
        size = {"hidden": [128, 64], "latent_dim": 8, "epochs": 200} if small else {"hidden": [512, 256]}
        return {**size, **_likelihood(data)}
    if name == "conv-vae":
        return {"latent_dim": 8 if small else 16, **_likelihood(data)}
    if name == "flow" and data.X.dtype == np.uint8:
        return {"logit": 1e-3}  # pixels lie in [0, 1], most of them at its ends
    if name in ("gmm", "gmm-torch"):
        return {"n_components": 10, "covariance_type": "diag", "reg_covar": 1e-3}
    return {}


def _likelihood(data: Data) -> dict[str, Any]:
    if data.X.dtype != np.uint8:
        return {"likelihood": "gaussian"}
    colour = data.image_shape is not None and len(data.image_shape) == 3
    if not colour:
        return {"likelihood": "bernoulli"}
    return {"likelihood": "logit_normal", "levels": 2 if data.X.max() <= 1 else 256}


def shape_for(model: Any, data: Data) -> Data:
    """Return the data with examples of the shape the model takes: vectors, images, or as they are.

    Raises:
        DataError: the model takes images and these are not.
    """
    kind = getattr(model, "example_kind", "vector" if type(model).__module__.startswith("sklearn.") else "any")
    if kind == "vector" and data.X.ndim > 2:
        return replace(data, X=data.X.reshape(len(data.X), -1))
    images = kind == "image" or (kind == "image or vector" and data.X.ndim > 2)
    small = data.image_shape is None and data.X.ndim > 2  # or no image at all: the model says
    if not images or small or data.X.shape[1:] == data.image_shape:
        return data
    if data.image_shape is None:
        raise DataError(
            expected=f"images for {type(model).__name__}: (n, height, width) or (n, height, width, 3)",
            got=f"shape {data.X.shape}",
            do="Give images, or choose a model of vectors, such as vae.",
        )
    return replace(data, X=to_images(data.X, data.image_shape))


def settle_on_data(name: Any, model: Any, settings: Mapping[str, Any], X: NDArray[Any]) -> Any:
    """Return the model with what only prepared data can tell: the bandwidth of a kernel density.

    It is chosen once, on all the data, so that every refit has the same.
    """
    if name in CHOSEN_BANDWIDTH and "bandwidth" not in settings and settings.get("kernel", "gaussian") == "gaussian":
        from genmem.models.torch_kde import choose_bandwidth

        return clone(model).set_params(bandwidth=choose_bandwidth(X))
    return model
