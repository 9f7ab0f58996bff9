"""The plan in run.json (model, data, versions), how two plans differ, and the inputs that a run stores."""

import importlib.metadata
import json
import platform
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from genmem.data.arrays import constant_columns, fingerprint
from genmem.data.examples import Data
from genmem.errors import DataError, ModelError, RunError, RunMismatchError
from genmem.run.callables import digest_of, name_of
from genmem.run.splits import Splits
from genmem.run.storage import frozen, read_arrays, write_arrays, write_atomically
from genmem.version import __version__

COMPARED = ("model", "data", "seed", "splits", "match", "score_epochs", "importance_samples")
MATCHES = ("steps", "epochs")  # what refits share with the model trained on everything; "epochs" in plans without it
AS_PLANNED = "as_planned"  # sections before a resumption with another `sample` or with labels: shards are tied to them
# Keys that differ only because another one does, and so are not the ones to name.
DERIVED = ("sha256", "n_splits", "splits.n", "constants", "constant_columns")
WORDS = ("data.source", "data.notes")  # about data whose values `sha256` tells
VERSIONED = ("torch", "numpy", "scikit-learn", "faiss-cpu")


# The type of each key of a plan, or None for a list of integers. A name that ends in "?" may be null or missing.
CONTENTS: dict[str, type | None] = {
    "model": dict,
    "model.name": str,
    "model.params": dict,
    "data": dict,
    "data.sha256": str,
    "data.source": str,
    "data.dtype": str,
    "data.preparation": str,
    "data.labels_sha256?": str,
    "data.groups_sha256?": str,
    "data.n": int,
    "data.event_shape": None,
    "data.constant_columns": None,
    "data.columns?": list,
    "data.notes?": list,
    "data.image_shape?": None,
    "splits": dict,
    "splits.kind": str,
    "splits.sha256": str,
    "splits.n_splits": int,
    "splits.repeats": int,
    "seed": int,
    "match?": str,
    "score_epochs": None,
    "importance_samples": int,
    "keep_weights?": bool,
    "versions?": dict,
    "probe?": dict,
    "probe?.method": str,
    "probe?.device": str,
    "probe?.lanes": int,
    "probe?.estimate?": str,
    "probe?.encoder?": bool,
    "probe?.threads?": int,
    "probe?.workers?": int,
    "probe?.expected_seconds?": float,
}


def check_match(match: Any) -> None:
    """Check that refits are asked to share steps or epochs with the model trained on everything; None leaves it open.

    Raises:
        DataError: it is another word.
    """
    if match not in (None, *MATCHES):
        raise DataError(expected=f"match to be one of {', '.join(MATCHES)}", got=repr(match), do="Change match.")


def check_plan(plan: Any) -> None:
    """Check that the contents of a run.json are a plan.

    Raises:
        ValueError: a key is missing, or has a value of another type.
    """
    for dotted, kind in CONTENTS.items():
        value = plan
        for part in dotted.split("."):
            value = value.get(part.rstrip("?")) if isinstance(value, dict) else None
            if value is None and part.endswith("?"):
                break
        else:
            if not _is_kind(value, kind) or dotted == "match?" and value not in MATCHES:
                raise ValueError(f"{dotted.replace('?', '')} is {_short(value)}")


def _is_kind(value: Any, kind: type | None) -> bool:
    if kind is None:
        return isinstance(value, list) and all(type(item) is int for item in value)
    if kind is float:
        return type(value) in (int, float)
    return type(value) is kind and not (isinstance(value, int) and value < 0)


def describe_model(model: Any) -> dict[str, Any]:
    """Return the class of a model and its parameters as the plan stores them.

    A model made by a factory carries `made_by = {"factory": "package.module:name", "settings": {...}}`.

    Raises:
        ModelError: the model has no `get_params`, or a parameter cannot be written to the plan.
    """
    made_by = getattr(model, "made_by", None)
    if made_by is not None:
        return {"name": made_by["factory"], "params": made_by["settings"]}
    if not hasattr(model, "get_params"):
        raise ModelError(
            expected="a model that follows scikit-learn's convention (get_params, fit, score_samples, sample)",
            got=f"{type(model).__name__} without get_params",
            do="Derive it from sklearn.base.BaseEstimator.",
        )
    return {
        "name": name_of(type(model)),
        "params": {key: _plain(key, value) for key, value in model.get_params(deep=False).items()},
    }


def planned_description(model: Any) -> dict[str, Any]:
    """Return `describe_model`, and as "code" what tells the functions among its parameters from changed ones."""
    described = describe_model(model)
    if hasattr(model, "made_by"):
        return described
    code = {key: digest_of(value) for key, value in model.get_params(deep=False).items() if callable(value)}
    return {**described, "code": code} if code else described


def free_params(model: Any) -> frozenset[str]:
    """Return the parameters of a model that change neither its training nor its log p, and so may change on resume.

    Those are the `free` ones that its class declares. A factory's settings are all its own, so none of them is free.
    """
    if hasattr(model, "made_by"):
        return frozenset()
    if type(model).__module__.startswith("sklearn."):
        return frozenset({"verbose", "verbose_interval"})
    return frozenset(getattr(model, "free", ()))


def with_free_params(planned: dict[str, Any], asked: dict[str, Any], free: frozenset[str]) -> dict[str, Any]:
    """Return the description of a planned model with the free parameters of the one that was asked for."""
    new = dict(planned)
    for part in ("params", "code"):
        taken = {key: value for key, value in asked.get(part, {}).items() if key in free}
        kept = {key: value for key, value in planned.get(part, {}).items() if key not in free}
        if taken or kept:
            new[part] = {**kept, **taken}
    return new


def _plain(key: str, value: Any) -> Any:
    if callable(value):
        return {"callable": name_of(value)}
    if isinstance(value, np.generic | np.ndarray):
        value = value.tolist()
    try:
        return json.loads(json.dumps(value, allow_nan=False))
    except (TypeError, ValueError) as error:
        raise ModelError(
            expected=f"a value of {key!r} that the plan can hold (number, text, list, importable function)",
            got=repr(value)[:80],
            do="Pass a plain value, or create the model with a `package.module:factory`.",
        ) from error


def describe_data(data: Data) -> dict[str, Any]:
    """Return where the examples are from, their shape and hash, and how they were prepared."""
    return {
        "source": data.source,
        "sha256": fingerprint(data.X),
        "labels_sha256": None if data.labels is None else fingerprint(data.labels),
        "groups_sha256": None if data.groups is None else fingerprint(data.groups),
        "n": len(data.X),
        "event_shape": list(data.X.shape[1:]),
        "constant_columns": constant_columns(data.X).tolist(),
        "dtype": str(data.X.dtype),
        "preparation": data.preparation,
        "columns": None if data.columns is None else list(data.columns),
        "image_shape": None if data.image_shape is None else list(data.image_shape),
        "notes": list(data.notes),
    }


def versions() -> dict[str, str]:
    """Return the versions of Python and of the libraries that the numbers depend on."""
    found = {"genmem": __version__, "python": platform.python_version()}
    for name in VERSIONED:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:  # faiss-gpu replaces faiss-cpu
            continue
    return found


def differ(planned: dict[str, Any], asked: dict[str, Any]) -> list[str]:
    """Return the keys in which two plans differ.

    Not counted are the name of the same data and the notes on how it was read, the code of functions that the plan does
    not have or that another version of Python compiled, and a device that means the one the refits are on.
    """
    before, after = _settings(planned), _settings(asked)
    found = [key for key in {**before, **after} if before.get(key) != after.get(key) and key not in WORDS]
    return [key for key in found if not _alike(key, before.get(key), after.get(key), planned.get("probe"))]


def _alike(key: str, before: Any, after: Any, probe: dict[str, Any] | None) -> bool:
    if key.startswith("model.code."):
        return before is None or after is None or before.partition(":")[0] != after.partition(":")[0]
    return key == "model.params.device" and probe is not None and after in ("auto", probe["device"])


def _settings(plan: dict[str, Any]) -> dict[str, Any]:
    plan = {**plan, "match": plan.get("match") or "epochs"}
    return {k: v for section in COMPARED for k, v in _flat(section, plan[section]).items()}


def refuse_other_plan(planned: dict[str, Any], asked: dict[str, Any]) -> None:
    """Compare the plan on disk with the requested one.

    Raises:
        RunMismatchError: they differ; the message names the first key that does.
    """
    differing = differ(planned, asked)
    if not differing:
        return
    before, after = _settings(planned), _settings(asked)
    key = _blamed(differing)
    if key.endswith("sha256"):
        raise _other_contents(key, before.get(key), after.get(key))
    name = key.removesuffix(".callable").rsplit(".", 1)[-1]
    if key.startswith("model.code."):
        raise RunMismatchError(
            expected=f"{name} to do what it did when the run was planned ({key}={before[key]})",
            got=f"a function of the same name with other code, arguments or closed-over values ({after[key]})",
            do=f"Undo the change of {name}, or use a new run directory; nothing was deleted.",
        )
    again = "give the same data" if key.startswith("data.") else f"ask for the planned {name}"
    raise RunMismatchError(
        expected=f"the settings run.json was planned with, {key}={_short(before.get(key))}",
        got=f"{name}={_short(after.get(key))}",
        do=f"Use a new run directory, or {again} again.",
    )


def _blamed(differing: list[str]) -> str:
    """Return the key to name: of the data if these differ as they were read, else one that others do not follow from.

    Settings that suit the data, such as a bandwidth, follow from these. Prepared data also differ if the seed or the
    likelihood of the model does, and splits if groups do.
    """
    if "data.sha256" in differing and not {"seed", "model.params.likelihood"} & set(differing):
        differing = [key for key in differing if key.startswith("data.") and "s_sha256" not in key]
    return min(differing, key=lambda key: (key.endswith(DERIVED), key == "splits.sha256"))


def _other_contents(key: str, before: Any, after: Any) -> RunMismatchError:
    """Return the error for examples, labels, groups or splits that are not the planned ones."""
    what = next((name for name in ("labels", "groups", "splits") if name in key), "data")
    if before is None:
        return RunMismatchError(
            expected=f"no {what}, as the run was planned without",
            got=what,
            do=f"Use a new run directory, or omit the {what}.",
        )
    again = "ask for the same folds, leave_out, together and groups" if what == "splits" else f"give the same {what}"
    return RunMismatchError(
        expected=f"the {what} the run was planned with ({key}={_short(before)})",
        got="others" if after else "none",
        do=f"Use a new run directory, or {again} again.",
    )


def _flat(prefix: str, value: Any) -> dict[str, Any]:
    if not isinstance(value, dict):
        return {prefix: value}
    return {k: v for key, inner in value.items() for k, v in _flat(f"{prefix}.{key}", inner).items()}


def _short(value: Any) -> str:
    text = json.dumps(value)
    return text if len(text) <= 80 else f"{text[:77]}..."


# --- the examples and splits that a run stores


INPUTS = ("X", "index", "labels", "names", "groups")
START_AGAIN = "Restore it, or start again in a new run directory."


def write_inputs(path: Path, data: Data, splits: Splits) -> None:
    """Write data/*.npy and splits.npz into the run directory `path`."""
    for name, file in zip(INPUTS, data_files(path), strict=True):
        array = getattr(data, name)
        if array is not None:
            _save(file, array)
        else:
            file.unlink(missing_ok=True)
    arrays = {"held_out": splits.held_out, "repeat": splits.repeat, "shard": splits.shard}
    write_arrays(path / "splits.npz", arrays)


def write_labels(path: Path, data: Data) -> None:
    """Write the labels of the examples of a run that was planned without."""
    assert data.labels is not None
    _save(data_files(path)[INPUTS.index("labels")], data.labels)


def _save(file: Path, array: NDArray[Any]) -> None:
    write_atomically(file, lambda handle: np.save(handle, array, allow_pickle=False))


def data_files(path: Path) -> list[Path]:
    """Return the files of the examples of a run; those of labels, names and groups may be missing."""
    return [path / "data" / f"{name}.npy" for name in INPUTS]


def read_data(path: Path, about: dict[str, Any]) -> Data:
    """Return the examples of a run, `X` memory-mapped; `about` is their description in the plan.

    Raises:
        RunError: the files are missing or damaged, or X, the labels or the groups are not the planned ones.
    """
    of_X, of_index, *others = data_files(path)
    try:
        X = np.load(of_X, mmap_mode="r", allow_pickle=False)
        index = np.load(of_index, allow_pickle=False)
        labels, names, groups = (np.load(file, allow_pickle=False) if file.exists() else None for file in others)
    except (OSError, ValueError, EOFError) as error:
        raise _lost(of_X.parent, f"files that cannot be read ({error})") from error
    if fingerprint(X) != about["sha256"]:
        raise _lost(of_X, "other values")
    labels = None if about.get("labels_sha256", "unknown") is None else labels  # of an interrupted resumption
    if labels is not None and fingerprint(labels) != about.get("labels_sha256", fingerprint(labels)):
        raise _lost(others[0], "other values")
    if (None if groups is None else fingerprint(groups)) != about.get("groups_sha256"):
        raise _lost(others[2], "other values")
    shared = {"index": index, "labels": labels, "names": names, "groups": groups}
    frozen({name: array for name, array in shared.items() if array is not None})
    return Data(
        X=X,
        labels=labels,
        groups=groups,
        index=index,
        source=about["source"],
        names=names,
        columns=about["columns"] and tuple(about["columns"]),
        image_shape=about["image_shape"] and tuple(about["image_shape"]),
        preparation=about["preparation"],
        notes=tuple(about.get("notes") or ()),
    )


def read_splits(path: Path, kind: str) -> Splits:
    """Return the splits of a run.

    Raises:
        RunError: splits.npz is missing or damaged.
    """
    try:
        arrays = read_arrays(path / "splits.npz")
    except (FileNotFoundError, RunError) as error:
        raise _lost(path / "splits.npz", "a file that is missing or damaged") from error
    frozen(arrays)
    return Splits(held_out=arrays["held_out"], repeat=arrays["repeat"], shard=arrays["shard"], kind=kind)


def _lost(file: Path, got: str) -> RunError:
    return RunError(expected=f"the data the run was planned with in {file}", got=got, do=START_AGAIN)
