"""Plan an audit: data, a model with settings that suit them, splits, and the method of refitting."""

import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from sklearn.base import clone

from genmem.data.arrays import checked_examples, identical_groups
from genmem.data.examples import Data, load, prepare
from genmem.data.images import to_images
from genmem.errors import DataError, ModelError, RunError
from genmem.leaveout import ensure_probe, scored_epochs
from genmem.leaveout.probe import remember_choice
from genmem.models import DeepDensity, make_model
from genmem.models.factory import BUILT_IN, check_density, check_settings, import_callable, suited
from genmem.models.weights import refuse_weights
from genmem.run.directory import Run, stage
from genmem.run.plan import check_match
from genmem.run.splits import Splits, joined, subset_length

FOLDS = 5
TRAJECTORY_SHARES = (0.05, 0.1, 0.25, 0.5, 1.0)


def plan(
    data: Any,
    model: Any = "vae",
    out: str | Path | None = None,
    *,
    settings: Mapping[str, Any] | None = None,
    labels: Any = None,
    array: str | None = None,
    label_array: str | None = None,
    label_column: str | None = None,
    groups: Any = None,
    group_column: str | None = None,
    sep: str | None = None,
    decimal: str | None = None,
    na: str | Sequence[str] | None = None,
    drop: str | Sequence[str] = (),
    pixels: bool | None = None,
    subset: int | None = None,
    folds: int | None = None,
    repeats: int = 8,
    max_repeats: int | None = None,
    together: bool = False,
    fraction: float | None = None,
    leave_out: Any = None,
    epochs: int | None = None,
    match: Literal["steps", "epochs"] | None = None,
    seed: int = 0,
    score_epochs: Sequence[int] | Literal["auto"] = "auto",
    importance_samples: int | Literal["auto"] = "auto",
    keep_weights: bool = False,
    request: Mapping[str, Any] | None = None,
) -> Run:
    """Load and prepare the data, set up the model, choose splits and the method of refitting, and write the plan.

    Arguments and errors are those of `audit`. An existing run with the same plan is opened.
    """
    start = time.perf_counter()
    numbers = {"folds": folds, "repeats": repeats, "seed": seed, "importance_samples": importance_samples}
    _check_numbers({**numbers, "subset": subset, "epochs": epochs, "max_repeats": max_repeats})
    check_match(match)
    if max_repeats is not None and max_repeats < repeats:
        raise DataError(
            expected=f"max_repeats of at least repeats ({repeats})", got=f"{max_repeats}", do="Change one of them."
        )
    score_epochs = [score_epochs] if isinstance(score_epochs, int) else score_epochs
    loaded = load(
        data,
        array=array,
        label_array=label_array,
        label_column=label_column,
        labels=labels,
        group_column=group_column,
        groups=groups,
        sep=sep,
        decimal=decimal,
        na=na,
        drop=drop,
        pixels=pixels,
        subset=subset,
        seed=int(seed),
        precision="single" if _is_network(model) else "needed",
    )
    seed = int(seed)
    out = Path(out) if out is not None else _default_out(data, model)
    loaded = _in_planned_order(loaded, out)
    chosen = settle_model(model, settings or {}, loaded, epochs, seed)
    check_settings(chosen)  # before epochs are counted with
    loaded = _as_planned(loaded, chosen, out)
    prepared = prepare(shape_for(chosen, loaded), getattr(chosen, "likelihood", None), seed)
    run = Run.create(
        out,
        model=chosen,
        data=prepared,
        splits=_design(prepared, folds, max(repeats, max_repeats or 0), seed, together, fraction, leave_out),
        seed=seed,
        match=match,
        score_epochs=_score_epochs(chosen, score_epochs),
        importance_samples=importance_samples,
        keep_weights=keep_weights,
    )
    remember_choice(run)
    with stage(run, "plan", start):
        if request is not None:
            run.write_json("request.json", dict(request))
        if not run.looks and repeats < run.splits().n_repeats:
            run.use_repeats(repeats)  # the others may be added later
        ensure_probe(run)
    return run


def _design(
    data: Data, folds: int | None, repeats: int, seed: int, together: bool, fraction: float | None, leave_out: Any
) -> Splits:
    """Return the requested splits: folds, unless a fraction or groups are given."""
    n = len(data.X)
    if sum((together, fraction is not None, leave_out is not None)) > 1:
        raise DataError(
            expected="one design of the splits",
            got="several of together, fraction and leave_out",
            do="Choose one of them.",
        )
    if folds is not None and (fraction is not None or leave_out is not None):
        raise DataError(
            expected="one design of the splits",
            got="folds together with fraction or leave_out, which replace folds",
            do="Omit folds.",
        )
    belong = joined(data.groups, identical_groups(data.X) if together else None)
    if together:
        _require_enough(belong, data.groups, folds or FOLDS)
    if fraction is not None:
        return Splits.subsets(n, fraction, subset_length(fraction) * repeats, seed, groups=belong)
    if leave_out is not None:
        return Splits.leave_out(n, _whole(_groups_asked(data, leave_out), data.groups), seed)
    return Splits.k_fold(n, FOLDS if folds is None else folds, repeats, seed, groups=belong)


def _require_enough(belong: Any, groups: NDArray[Any] | None, folds: int) -> None:
    """Check that identical examples, and what belongs together, leave enough to be divided into folds."""
    count = len(np.unique(belong))
    if count < folds:
        groups_too = "" if groups is None else ", or examples that share a group,"
        raise DataError(
            expected=f"{folds} sets of examples or more for {folds} folds, if identical examples{groups_too} are left "
            "out together",
            got=f"{count}",
            do="Omit together (--together), or ask for fewer folds.",
        )


def _whole(left_out: Any, groups: NDArray[Any] | None) -> Any:
    """Check that no group is divided by what is left out at a time; return the latter."""
    if groups is None or np.shape(left_out) != np.shape(groups):  # another shape is refused with the splits
        return left_out
    values, part = np.unique(np.asarray(left_out), return_inverse=True)
    _, first, member = np.unique(groups, return_index=True, return_inverse=True)
    divided = np.flatnonzero(part != part[first][member])
    if divided.size:
        one = divided[np.argmin(member[divided])]  # of the first group, by name
        parts = values[sorted([part[first[member[one]]], part[one]])]
        raise DataError(
            expected="examples of one group to be left out together",
            got=f"group {groups[one]!s} with examples of {parts[0]} and of {parts[1]}",
            do="Omit the groups, or leave out folds of groups: omit leave_out (--leave-out).",
        )
    return left_out


def _groups_asked(data: Data, leave_out: Any) -> Any:
    if not (isinstance(leave_out, str) and leave_out == "labels"):
        return leave_out
    if data.labels is None:
        raise DataError(
            expected='labels, for leave_out="labels"',
            got="data without labels",
            do="Pass labels (--labels or --label-column).",
        )
    return data.labels


def _check_numbers(numbers: Mapping[str, Any]) -> None:
    for name, value in numbers.items():
        if value is None or (name == "importance_samples" and value == "auto"):
            continue
        least = {"seed": 0, "folds": 2, "subset": 2}.get(name, 1)
        if isinstance(value, bool) or not isinstance(value, int | np.integer) or value < least:
            raise DataError(
                expected=f"{name} to be a whole number of at least {least}", got=repr(value), do=f"Change {name}."
            )


def _score_epochs(model: Any, asked: Sequence[int] | Literal["auto"]) -> tuple[int, ...]:
    if not isinstance(model, DeepDensity):
        return (-1,)
    if asked == "auto":
        return tuple(sorted({max(1, round(share * model.epochs)) for share in TRAJECTORY_SHARES}))
    return scored_epochs(model, [int(e) for e in asked])


def _is_network(model: Any) -> bool:
    """Return whether a model is known to be a network before it is made; those of factories are not."""
    if isinstance(model, str):
        kind = import_callable(BUILT_IN[model]) if model in BUILT_IN else None
        return isinstance(kind, type) and issubclass(kind, DeepDensity)
    return isinstance(model, DeepDensity)


def _as_planned(data: Data, model: Any, out: Path) -> Data:
    """Return data in float64 as float32 if the model is a network, or an earlier version planned the run so."""
    if data.X.dtype != np.float64 or not (isinstance(model, DeepDensity) or _has_single(out)):
        return data
    return replace(data, X=checked_examples(data.X, data.source, data.columns))


def _in_planned_order(data: Data, out: Path) -> Data:
    """Return images in the order of their names as text if an earlier version planned the run so."""
    if data.names is None or (by_text := np.argsort(data.names, kind="stable")).tolist() == list(range(len(by_text))):
        return data
    try:
        planned = Run.open(out).data().names
    except RunError:
        return data
    if planned is None or not np.array_equal(planned, data.names[by_text]):
        return data
    return replace(data.take(by_text), index=np.arange(len(by_text)))


def _has_single(out: Path) -> bool:
    try:
        return bool(Run.open(out).plan["data"]["dtype"] == "float32")
    except RunError:
        return False


def _default_out(data: Any, model: Any) -> Path:
    source = Path(data).name.split(".")[0] if isinstance(data, str | Path) else "array"
    name = model.rpartition(":")[2] if isinstance(model, str) else type(model).__name__
    return Path("runs") / f"{source or 'data'}-{name.lower()}"


# --- the model


def settle_model(model: Any, settings: Mapping[str, Any], data: Data, epochs: int | None, seed: int = 0) -> Any:
    """Return the requested model; a built-in model given by name gets settings that suit the data.

    Raises:
        ModelError: the model or a setting is unknown, or the model is not a density or was fitted with sample weights.
    """
    changes = {**settings} | ({} if epochs is None else {"epochs": epochs})
    if isinstance(model, str):
        return make_model(model, suited(model, data, changes, seed))
    check_density(model, "model")
    refuse_weights(model)
    return _changed(model, changes) if changes else model


def _changed(model: Any, changes: dict[str, Any]) -> Any:
    try:
        return clone(model).set_params(**changes)
    except ValueError as error:
        raise ModelError(
            expected=f"settings of {type(model).__name__} ({', '.join(model.get_params())})",
            got=", ".join(changes),
            do="Correct the settings, or set them when the model is made.",
        ) from error


def shape_for(model: Any, data: Data) -> Data:
    """Return the data with examples in the shape that the model takes: vectors, images, or unchanged.

    Raises:
        DataError: the model takes images and the examples are not images.
    """
    kind = getattr(model, "example_kind", "vector" if type(model).__module__.startswith("sklearn.") else "any")
    if kind == "vector" and data.X.ndim > 2:
        return replace(data, X=data.X.reshape(len(data.X), -1))
    images = kind == "image" or (kind == "image or vector" and data.X.ndim > 2)
    small = data.image_shape is None and data.X.ndim > 2  # or not an image: the model raises an error
    if not images or small or data.X.shape[1:] == data.image_shape:
        return data
    if data.image_shape is None:
        raise DataError(
            expected=f"images for {type(model).__name__}: (n, height, width) or (n, height, width, 3)",
            got=f"shape {data.X.shape}",
            do="Pass images, or choose a model of vectors, such as vae.",
        )
    return replace(data, X=to_images(data.X, data.image_shape))
