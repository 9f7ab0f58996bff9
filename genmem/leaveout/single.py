"""One refit that is kept: a fitted model for whoever wants to sample from it."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from sklearn.base import clone

from genmem.errors import DataError, GenmemError, ModelError
from genmem.leaveout.failures import OutOfMemory, no_memory, reason, refuse_blame
from genmem.leaveout.networks import DIVERGED
from genmem.leaveout.refitting import make_task
from genmem.leaveout.tasks import Task
from genmem.models.base import DeepDensity, as_tensor
from genmem.models.naming import fresh
from genmem.models.torch_kde import exact_leaves
from genmem.progress import Listener, Progress, ignore
from genmem.run import Run
from genmem.seeding import seed32
from genmem.training.ensemble import Lane, train


def refit_one(run: Run, held_out: ArrayLike, model: Any = None, *, progress: Listener = ignore) -> Any:
    """Return the planned model fitted to the examples that are not held out, with the seeds of split 0.

    Where `held_out` is that of split 0 this is the refit of that split, trained alone (networks trained side by side
    round otherwise, and so end elsewhere).

    Args:
        run: a planned run.
        held_out: (n,) which examples to leave out.
        model: the planned model; needed only where it cannot be imported from the plan.
        progress: told of epochs.

    Raises:
        DataError: `held_out` is no mask of the examples, or leaves none.
        ModelError: the model cannot be fitted to them.
    """
    mask = np.asarray(held_out)
    n = run.plan["data"]["n"]
    if mask.shape != (n,) or mask.dtype != bool or mask.all():
        raise DataError(
            expected=f"a mask of {n} examples, one or more of them not held out",
            got=f"dtype {mask.dtype}, shape {mask.shape}",
            do="Pass one boolean an example.",
        )
    task, keep = make_task(run, model), np.flatnonzero(~mask)
    with _blamed(task, len(keep)):
        return _network(task, keep, progress) if isinstance(task.model, DeepDensity) else _density(task, keep)


@contextmanager
def _blamed(task: Task, count: int) -> Iterator[None]:
    """Say in a sentence what the model raised: it may not be ours."""
    try:
        try:
            yield
        except GenmemError:
            raise
        except (Exception, SystemExit) as error:
            refuse_blame(error)
            raise ModelError(
                expected=f"{type(task.model).__name__} to fit {count:,} of the examples",
                got=reason(error),
                do="Check the model's settings against the data.",
            ) from error
    except OutOfMemory as error:
        raise no_memory(error) from error


def _network(task: Task, keep: NDArray[np.intp], progress: Listener) -> DeepDensity:
    X = task.source.read()
    assert X is not None  # held since the task was made
    event_shape = task.source.event_shape
    recipe = task.model.recipe(event_shape, min(task.n_keep, len(keep)), seed=task.seed)

    def tick(_: int, epoch: int) -> None:
        progress(Progress("copies", epoch / recipe.epochs, 1, f"refitting, epoch {epoch} of {recipe.epochs}"))

    lane = Lane(keep, split=0, repeat=0)
    (module,) = train(recipe, as_tensor(X, recipe.device), [lane], batched=False, tick=tick)
    state = module.state_dict()
    if not all(bool(p.isfinite().all()) for p in module.parameters()):
        raise ModelError(
            expected=f"{type(task.model).__name__} to fit {len(keep):,} of the examples",
            got=DIVERGED.partition(";")[0],
            do="Lower the learning rate, or rescale the data.",
        )
    fitted: DeepDensity = clone(task.model).restore(state, event_shape, len(keep))
    return fitted


def _density(task: Task, keep: NDArray[np.intp]) -> Any:
    X = task.source.read()
    assert X is not None
    model = exact_leaves(fresh(task.model), len(X))
    if hasattr(model, "get_params") and "random_state" in model.get_params():
        model.set_params(random_state=seed32(task.seed, "fit", 0))
    # In float32 the covariances of a mixture may be no covariances to whoever draws with them.
    return model.fit(X[keep].astype(np.float64))
