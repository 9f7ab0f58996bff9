"""A fitted model in one safetensors file: its arrays, and in the header its class and its settings."""

import copy
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open
from safetensors.torch import save

from genmem.data.arrays import fingerprint
from genmem.errors import ModelError
from genmem.models.base import DeepDensity
from genmem.models.factory import model_of_plan
from genmem.models.trust import foreign_names
from genmem.run.plan import describe_model
from genmem.run.storage import write_atomically

FORMAT = "genmem-model-1"
NETWORK = "network/"


def save_model(model: Any, path: str | Path) -> Path:
    """Write a fitted model to `path`: class, settings and arrays, never code.

    It works for every `DeepDensity`, and for scikit-learn models whose learned state consists of arrays and numbers,
    such as `GaussianMixture`. A model that stores its training data (`KernelDensity`, `KNNDensity`) writes them.

    The header also contains a checksum of the arrays.

    Returns:
        The path.

    Raises:
        ModelError: the model is not fitted, a setting cannot be written, or its state is neither arrays nor numbers.
    """
    arrays, plain = _state(model)
    about = {"format": FORMAT, "model": describe_model(_with_settings(model)), "plain": plain}
    about["sha256"] = _checksum(arrays)
    tensors = {name: torch.from_numpy(np.array(value, order="C")) for name, value in arrays.items()}
    payload = save(tensors, metadata={"genmem": json.dumps(about)})
    write_atomically(Path(path), lambda handle: handle.write(payload))
    return Path(path)


def load_model(path: str | Path, *, trust: bool = False) -> Any:
    """Return the fitted model in a file written by `save_model`.

    Args:
        path: the file.
        trust: a file names the class of its model, and functions among its settings. Those that are neither genmem's
            own nor scikit-learn's densities are imported and called only if you trust the file: they can run any code.

    Raises:
        ModelError: the file does not exist, is damaged or foreign, or needs `trust`, or the model's class or a callable
            of its settings cannot be imported here.
    """
    about, arrays = _read(Path(path))
    if not trust and (named := foreign_names(about["model"])):
        raise ModelError(
            expected="a model of genmem's or scikit-learn's own classes, without functions of others",
            got=f"{', '.join(named)} in {path}",
            do="Pass trust=True if you know where the file is from: loading it imports and calls these.",
        )
    model = model_of_plan(about["model"])
    try:
        restored = _restore(model, arrays, about["plain"])
    except (KeyError, RuntimeError, TypeError, ValueError, AttributeError) as error:
        raise _foreign(Path(path), f"a state that does not fit the model ({error})") from error
    return restored


def _state(model: Any) -> tuple[dict[str, NDArray[Any]], dict[str, Any]]:
    """Return the arrays of a fitted model, and its other learned state as JSON."""
    if isinstance(model, DeepDensity):
        model._check_fitted()
        network = {NETWORK + name: _array(value) for name, value in model.module_.state_dict().items()}
        return network, {"event_shape": [int(size) for size in model.event_shape_], "n_train": model.n_train_}
    learned = _learned(model)
    if not learned:
        raise ModelError(expected=f"a fitted {type(model).__name__}", got="an unfitted one", do="Call `fit(X)` first.")
    arrays = {name: value for name, value in learned.items() if isinstance(value, np.ndarray)}
    return arrays, {name: _number(name, value) for name, value in learned.items() if name not in arrays}


def _array(value: torch.Tensor) -> NDArray[Any]:
    """Return the values as an array; float32 holds those of smaller floats, which numpy does not know, exactly."""
    value = value.detach().cpu()
    return (value.float() if value.is_floating_point() and value.element_size() < 4 else value).numpy()


def _learned(model: Any) -> dict[str, Any]:
    if type(model).__name__ == "KernelDensity" and hasattr(model, "tree_"):  # a tree is not an array: store its data
        weights = model.tree_.sample_weight
        return {"fitted_to": np.asarray(model.tree_.data)} | (
            {} if weights is None else {"weights": np.asarray(weights)}
        )
    return {name: value for name, value in vars(model).items() if name.endswith("_") and not name.startswith("_")}


def _number(name: str, value: Any) -> Any:
    plain = value.item() if isinstance(value, np.generic) else value
    if plain is None or isinstance(plain, bool | int | float | str):
        return plain
    if isinstance(plain, list | tuple):
        return [_number(name, item) for item in plain]
    raise ModelError(
        expected="a learned state of arrays and numbers",
        got=f"{name} of {type(value).__name__}",
        do="Save this model with the tools of the library it comes from.",
    )


def _restore(model: Any, arrays: dict[str, Any], plain: dict[str, Any]) -> Any:
    if isinstance(model, DeepDensity):
        state = {name.removeprefix(NETWORK): value for name, value in arrays.items()}
        return model.restore(state, tuple(plain["event_shape"]), plain["n_train"])
    if "fitted_to" in arrays:
        weights = arrays.get("weights")
        return model.fit(arrays["fitted_to"].numpy(), sample_weight=None if weights is None else weights.numpy())
    for name, value in {**{k: v.numpy() for k, v in arrays.items()}, **plain}.items():
        setattr(model, name, value)
    return model


def _with_settings(model: Any) -> Any:
    """Return the object to read settings from; a factory's model is described by its class and all its settings."""
    settled = copy.copy(model.settled_ if isinstance(model, DeepDensity) else model)
    if hasattr(settled, "made_by"):
        del settled.made_by
    return settled


def _read(path: Path) -> tuple[dict[str, Any], dict[str, torch.Tensor]]:
    read: Callable[..., Any] = safe_open
    try:
        with read(path, framework="pt") as file:
            about = json.loads((file.metadata() or {})["genmem"])
            arrays = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        described = about["model"]
        if not (isinstance(described["name"], str) and isinstance(described["params"], dict)):
            raise ValueError("a header without a model")
        if about["format"] != FORMAT or not isinstance(about["plain"], dict) or not (arrays or about["plain"]):
            raise ValueError(f"the format {about['format']!r}, or no state")
        if about["sha256"] != _checksum({name: value.numpy() for name, value in arrays.items()}):
            raise ValueError("arrays that do not match their checksum")
    except (OSError, SafetensorError, ValueError, KeyError, TypeError) as error:
        raise _foreign(path, f"{type(error).__name__}: {error}") from error
    return about, arrays


def _checksum(arrays: Mapping[str, NDArray[Any]]) -> str:
    """Return one checksum of all arrays, names included."""
    return fingerprint("\n".join(f"{name} {fingerprint(value)}" for name, value in sorted(arrays.items())))


def _foreign(path: Path, got: str) -> ModelError:
    return ModelError(expected=f"a model written by save_model in {path}", got=got, do="Save the model again.")
