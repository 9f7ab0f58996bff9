"""What an audit asks of its model after the refits, tried before them on a few examples: samples and influence."""

import shutil
import warnings
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.base import clone

from genmem.errors import GenmemError, ModelError, RunError
from genmem.influence import self_influence, top_influences
from genmem.influence.closed_form import family_of
from genmem.leaveout import planned_model
from genmem.leaveout.worker import reason
from genmem.models import DeepDensity
from genmem.models.custom import ModuleDensity, can_sample
from genmem.models.factory import fresh
from genmem.models.inside import plain_class
from genmem.models.leave_one_out import FAMILIES
from genmem.models.pyro_density import PairDensity
from genmem.protocols import draw
from genmem.run.directory import Run
from genmem.run.storage import unwritable
from genmem.seeding import seed32
from genmem.training.ensemble import fresh_module

DRAWN = 11  # samples of a trial, at least
FITTED = 500  # examples that a model without a network is fitted to
TRAINED = 32  # examples that a network is trained on, for one epoch
QUERIES = 3
WRITTEN = ("report.html", "audit.json", "scores.parquet", "times.json", "stopping.json")
SHARE = 0.8  # of the bytes of log p, in case shards are smaller than expected


def check_before(run: Run, *, posterior: str = "auto", influence: bool = False, copies: bool = False) -> None:
    """Try what an audit will ask of its model after the refits, and whether its directory takes the results.

    Raises:
        ModelError: the model cannot be sampled, its samples cannot be used or seeded, influence is not defined for it,
            or it has no posterior to refit.
        DataError: influence is not defined for these examples.
        RunError: a result cannot be written, or the disk is too full for the refits.
    """
    _check_room(run)
    if posterior == "refit" and not (run.probe or {}).get("encoder"):
        raise ModelError(
            expected='a network with a posterior over z, for posterior="refit"',
            got=type(planned_model(run, None)).__name__,
            do='Use posterior="auto": log p of other models does not use an encoder.',
        )
    if not (influence or copies):
        return
    model = planned_model(run, None)
    if copies or (isinstance(model, DeepDensity) and can_sample(model)):  # influence on samples of others is optional
        check_samples(run, model)
    if influence:
        check_influence(run, model)


def _check_room(run: Run) -> None:
    """Check that nothing stands in the way of the results, and that the disk holds log p of the missing refits."""
    for name in WRITTEN:
        if (run.path / name).is_dir():
            raise RunError(
                expected=f"to write {run.path / name}",
                got="a folder of that name",
                do="Move it away, or use another out.",
            )
    try:
        for name in ("shards", "results"):
            (run.path / name).mkdir(exist_ok=True)
            trial = run.path / name / ".trial.partial"
            trial.touch()
            trial.unlink()
        free = shutil.disk_usage(run.path).free
    except OSError as error:
        raise unwritable(run.path, error) from error
    splits, n = run.used_splits(), run.plan["data"]["n"]
    done = sum(1 for _ in (run.path / "shards").glob("*.npz"))
    share = max(0.0, 1 - done / max(1, len(run.shards())))
    need = SHARE * share * splits.n_splits * len(run.score_epochs) * n * 4
    if need > free:
        raise RunError(
            expected=f"space for log p of the refits in {run.path}, {need / 1e6:,.0f} MB",
            got=f"{free / 1e6:,.0f} MB",
            do="Free some space, choose another out, or use fewer folds, repeats or score epochs.",
        )


# --- samples


def check_samples(run: Run, model: Any) -> None:
    """Draw a few samples: of the untrained network, and if these cannot be used, of one trained briefly.

    Built-in networks always sample. A model that cannot be fitted to a few examples is not tried.

    Raises:
        ModelError: drawing raises, returns another shape, type or no numbers, or cannot be seeded.
    """
    if not can_sample(model):
        raise ModelError(
            expected="a model that can be sampled, to check its samples for copies",
            got="from_module without `sample`",
            do="Pass sample=lambda network, n: ..., which returns n draws as a tensor (n, *event), or copies=False. "
            "Refits do not depend on it: a run that has begun continues with it.",
        )
    if isinstance(model, DeepDensity) and _is_built_in(model):
        return
    X = np.asarray(run.data().X)
    if isinstance(model, DeepDensity):
        try:
            _try(_untrained(run, model, X), _untrained(run, model, X), X)
        except GenmemError:  # what an untrained network draws may be unusable
            fitted = briefly(run, model, X)
            _try(fitted, fitted, X)
        return
    pair = _small_fits(run, model, X)
    if pair is not None:
        _try(*pair, X)


def _is_built_in(model: Any) -> bool:
    return type(model).__module__.startswith("genmem.") and not isinstance(model, ModuleDensity | PairDensity)


def _untrained(run: Run, model: DeepDensity, X: NDArray[Any]) -> DeepDensity:
    recipe = _here(run, model).recipe(X.shape[1:], len(X), seed=run.seed)
    state = fresh_module(recipe, 0).state_dict()
    return _here(run, model).restore(state, X.shape[1:], len(X))


def briefly(run: Run, model: DeepDensity, X: NDArray[Any]) -> DeepDensity:
    """Return the network trained for one epoch on a few examples, with two checkpoints."""
    quick: DeepDensity = _here(run, model).set_params(epochs=1, checkpoint_every=1)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return quick.fit(X[:TRAINED])


def _here(run: Run, model: DeepDensity) -> DeepDensity:
    device = (run.probe or {}).get("device", model.device)
    chosen: DeepDensity = clone(model).set_params(device=device)
    return chosen


def _small_fits(run: Run, model: Any, X: NDArray[Any]) -> tuple[Any, Any] | None:
    """Return two fits to the same examples with the same seed; None if the model cannot be fitted to so few."""
    some = X[:FITTED].astype(np.float64)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            return _seeded(run, model).fit(some), _seeded(run, model).fit(some)
        except Exception:  # the refits will report what is wrong
            return None


def _seeded(run: Run, model: Any) -> Any:
    chosen = fresh(model)
    if hasattr(chosen, "get_params") and "random_state" in chosen.get_params():
        chosen.set_params(random_state=seed32(run.seed, "fit", 0))
    return chosen


def _try(one: Any, other: Any, X: NDArray[Any]) -> None:
    name, shape, count = type(one).__name__, X.shape[1:], DRAWN
    while count in shape:
        count += 1
    drawn, again = _drawn(one, count), _drawn(other, count)
    if drawn.dtype.kind not in "buif" or drawn.size != count * int(np.prod(shape)) or len(drawn) != count:
        raise ModelError(
            expected=f"{name}.sample({count}) to return numbers of shape {(count, *shape)}",
            got=f"{drawn.dtype} of shape {drawn.shape}",
            do="Return one draw per row, each of the shape of an example.",
        )
    finite = np.isfinite(drawn.astype(np.float64)).reshape(count, -1).all(1)
    if finite.mean() < 0.5:
        raise ModelError(
            expected=f"{name}.sample({count}) to return finite numbers",
            got=f"NaN or infinity in {count - int(finite.sum())} of {count} samples",
            do="Check `sample` for log(0), overflow and 0 / 0.",
        )
    if not np.allclose(drawn, again, rtol=1e-3, atol=1e-3, equal_nan=True) and _same_fit(one, other, X):
        raise ModelError(
            expected=f"{name}.sample to draw the same samples with the same seed",
            got="other samples the second time",
            do="Draw from torch's global stream (torch.randn), which is seeded before each call; a model without a "
            "network draws from the `random_state` it is given.",
        )


def _drawn(fitted: Any, count: int) -> NDArray[Any]:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return draw(fitted, count, 0)
    except GenmemError:
        raise
    except (Exception, SystemExit) as error:  # of the user's model, and kernels that scikit-learn cannot sample
        kernel = getattr(fitted, "kernel", None) if isinstance(error, NotImplementedError) else None
        raise ModelError(
            expected=f"{type(fitted).__name__} to sample, which copies and influence need",
            got=reason(error) if kernel is None else f"kernel={kernel!r}, which cannot be sampled",
            do='Use kernel="gaussian" or "tophat", or leave copies out.'
            if kernel is not None
            else "Correct `sample`, use another model, or leave copies and influence out.",
        ) from error


def _same_fit(one: Any, other: Any, X: NDArray[Any]) -> bool:
    """Whether two fits agree, so that only drawing differs."""
    if isinstance(one, DeepDensity):
        return True
    some = X[:QUERIES].astype(np.float64)
    return bool(np.allclose(one.score_samples(some), other.score_samples(some), equal_nan=True))


# --- influence


def check_influence(run: Run, model: Any) -> None:
    """Compute influence once: along two checkpoints of a network trained briefly, or see that there is a closed form.

    Raises:
        ModelError: influence is not defined for this model or its settings.
        DataError: it is not defined for these examples.
    """
    if not isinstance(model, DeepDensity):
        _check_family(model)
        return
    if _is_built_in(model):
        return
    X = np.asarray(run.data().X)
    try:
        fitted = briefly(run, model, X)
        some = X[: min(QUERIES, len(X))]
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            self_influence(fitted, some, draws=2)
            top_influences(fitted, some, some, k=1, draws=2)
    except GenmemError as error:
        raise type(error)(
            expected=f"a model whose influence can be computed ({error.expected})",
            got=error.got,
            do=f"{error.do} Or leave influence out.",
        ) from error
    except (Exception, SystemExit) as error:  # of the user's network
        raise ModelError(
            expected="a network whose influence can be computed along its training",
            got=reason(error),
            do="Correct the network or its loss, or leave influence out.",
        ) from error


def _check_family(model: Any) -> None:
    if plain_class(model, FAMILIES) is None:
        raise ModelError(
            expected=f"a network or {', '.join(kind.__name__ for kind in FAMILIES)}, to compute influence",
            got=type(model).__name__,
            do="Leave influence out: no formula says which examples shaped this model.",
        )
    family_of(model)
