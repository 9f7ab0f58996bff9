"""From the name a user types to a model: built-in names and `package.module:factory`."""

import difflib
import importlib
import inspect
import json
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from sklearn.base import clone

from genmem.data.examples import Data
from genmem.errors import ModelError
from genmem.protocols import Density

# The list of densities that have a name, each a class in a file of its own. Every use of the names reads it.
BUILT_IN = {
    "vae": "genmem.models.vae:VAE",
    "conv-vae": "genmem.models.conv_vae:ConvVAE",
    "flow": "genmem.models.flow:Flow",
    "diffusion": "genmem.models.diffusion:DiffusionModel",
    "gmm": "sklearn.mixture:GaussianMixture",
    "gmm-torch": "genmem.models.torch_gmm:TorchGaussianMixture",
    "kde": "sklearn.neighbors:KernelDensity",
    "kde-torch": "genmem.models.torch_kde:TorchKernelDensity",
    "knn": "genmem.models.knn:KNNDensity",
    "mfa": "genmem.models.mfa:MixtureOfFactorAnalysers",
}
OURS = {"gmm": "gmm-torch", "kde": "kde-torch"}  # with the settings of scikit-learn's


def make_model(name: str, settings: Mapping[str, Any] | None = None) -> Any:
    """Return the model called `name` (one of `BUILT_IN` or "package.module:factory"), made with `settings` as keywords.

    Raises:
        ModelError: the name or a setting does not exist (the closest are offered), the factory raises, or its result is
            not a `Density`.
    """
    given = dict(settings or {})
    _check_name(name)
    factory = import_callable(BUILT_IN.get(name, name))
    _check_keywords(name, factory, given)
    given = _typed(factory, given)
    try:
        model = factory(**given)
    except (
        Exception,
        SystemExit,
    ) as error:  # the user's code: reported without a traceback
        raise ModelError(
            expected=f"{name} to make a model from {given}",
            got=f"{type(error).__name__}: {error}",
            do="Correct the factory or its --set values.",
        ) from error
    check_density(model, name)
    if name not in BUILT_IN and not inspect.isclass(factory):
        model.made_by = {"factory": name, "settings": given}
    return model


def suited(name: str, data: Data, given: Mapping[str, Any], seed: int) -> dict[str, Any]:
    """Return the given settings, and those of a built-in model that suit the data for the others.

    They are from `DeepDensity.suited` of its class; a class without this method has none.

    Raises:
        ModelError: the name or a setting does not exist.
        DataError: nothing suits the data.
    """
    _check_name(name)
    if name not in BUILT_IN:
        return dict(given)
    _check_keywords(name, import_callable(BUILT_IN[name]), given)
    ask = getattr(import_callable(BUILT_IN[OURS.get(name, name)]), "suited", None)
    return {**(ask(data, given, seed) if ask else {}), **given}


def fresh(model: Any) -> Any:
    """Return an unfitted copy: a factory makes its model again, other models are cloned."""
    if not hasattr(model, "get_params"):
        return make_model(model.made_by["factory"], model.made_by["settings"])
    return clone(model)


def model_of_plan(described: Mapping[str, Any]) -> Any:
    """Return the model a plan describes.

    Raises:
        ModelError: it cannot be imported here; the model must then be passed again.
    """
    name = str(described["name"])
    try:
        return make_model(name, {key: _callable(value) for key, value in described["params"].items()})
    except ModelError as error:
        raise ModelError(
            expected=f"the planned model {name} to be importable here",
            got=error.got,
            do="Run from where it can be imported, or pass the same model again from Python.",
        ) from error


def check_density(model: Any, name: str) -> None:
    """Check that a model has fit, score_samples and sample.

    Raises:
        ModelError: it lacks one.
    """
    if inspect.isclass(model) or not isinstance(model, Density):
        lacks = [method for method in ("fit", "score_samples", "sample") if not hasattr(model, method)]
        what = f"no {', '.join(lacks)}" if lacks else "a class"
        raise ModelError(
            expected=f"{name} to be a density: an object with fit, score_samples and sample",
            got=f"{type(model).__name__} ({what})",
            do="Return such an object, for example a genmem.VAE or a scikit-learn KernelDensity.",
        )


def check_settings(model: Any) -> None:
    """Check the settings of a density of genmem or of scikit-learn before anything is computed with them.

    Raises:
        ModelError: a setting is out of range.
    """
    home = type(model).__module__
    if home.startswith("genmem.") and hasattr(model, "check_settings"):
        model.check_settings()
    elif home.startswith("sklearn.") and hasattr(model, "_validate_params"):
        try:
            model._validate_params()
        except ValueError as error:
            raise ModelError(
                expected=f"settings that {type(model).__name__} takes",
                got=" ".join(str(error).split()).rstrip("."),
                do="Change this setting.",
            ) from error


def import_callable(name: str) -> Callable[..., Any]:
    """Return the class or function called "package.module:name".

    Raises:
        ModelError: it cannot be imported, or is not callable.
    """
    module_name, _, attribute = name.partition(":")
    if not attribute:
        raise ModelError(
            expected="a name such as package.module:name",
            got=repr(name),
            do="Put a colon between the module and the name in it.",
        )
    try:
        found: Any = _imported(module_name)
        for part in attribute.split("."):
            found = getattr(found, part)
    except Exception as error:  # importing runs the user's code
        raise ModelError(
            expected=f"{name} to be importable",
            got=f"{type(error).__name__}: {error}",
            do="Check the spelling, and that the module is installed or in the current folder.",
        ) from error
    if not callable(found):
        raise ModelError(expected=f"{name} to be callable", got=type(found).__name__, do="Name a class or function.")
    return found  # type: ignore[no-any-return]


def _imported(name: str) -> Any:
    """Import a module: an installed one, or else one in the current folder, which is then searched last.

    Only code of the user is looked for there: a file called pandas.py beside a run must not become pandas.
    """
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        here = str(Path.cwd())
        if error.name != name.partition(".")[0] or here in sys.path:
            raise
        sys.path.append(here)
        importlib.invalidate_caches()
        return importlib.import_module(name)


def parse_settings(texts: Mapping[str, str]) -> dict[str, Any]:
    """Return `--set key=value` texts as values: JSON if they parse as JSON, otherwise text.

    >>> parse_settings({"latent_dim": "16", "hidden": "[128, 64]", "likelihood": "gaussian"})
    {'latent_dim': 16, 'hidden': [128, 64], 'likelihood': 'gaussian'}
    """
    return {key: _value(text) for key, text in texts.items()}


def _value(text: str) -> Any:
    if "," in text and not text.lstrip().startswith(("[", "{", '"')):
        text = f"[{text}]"
    lowered = {"none": None, "true": True, "false": False}
    if text.lower() in lowered:
        return lowered[text.lower()]
    try:
        return json.loads(text)
    except ValueError:
        return text


def _typed(factory: Callable[..., Any], given: Mapping[str, Any]) -> dict[str, Any]:
    """Return the settings, with a single number made a list if the default is a list: `--set hidden=64`."""
    parameters = inspect.signature(factory).parameters
    several = {key for key in given if key in parameters and isinstance(parameters[key].default, tuple | list)}
    return {k: [v] if k in several and isinstance(v, int | float) else v for k, v in given.items()}


def _check_name(name: str) -> None:
    if name not in BUILT_IN and not name.partition(":")[2]:
        near = difflib.get_close_matches(name, BUILT_IN, n=1)
        hint = f"Did you mean {near[0]}? " if near else ""
        raise ModelError(
            expected=f"a built-in model ({', '.join(BUILT_IN)}) or package.module:factory",
            got=repr(name),
            do=f"{hint}Correct --model.",
        )


def _check_keywords(name: str, factory: Callable[..., Any], given: Mapping[str, Any]) -> None:
    parameters = inspect.signature(factory).parameters
    if any(p.kind is p.VAR_KEYWORD for p in parameters.values()):
        return
    for key in given:
        if key not in parameters:
            near = difflib.get_close_matches(key, parameters, n=3, cutoff=0.4)
            hint = f"Did you mean {' or '.join(near)}?" if near else f"It takes {', '.join(parameters) or 'none'}."
            raise ModelError(expected=f"a setting of {name}", got=repr(key), do=hint)


def _callable(value: Any) -> Any:
    if isinstance(value, dict) and set(value) == {"callable"}:
        return import_callable(str(value["callable"]))
    return value
