"""A stage that fails after the refits: the others still run, and what is finished stays."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from typing import Any

from genmem.errors import GenmemError, ModelError, RunError
from genmem.findings.stages import failed_stages, write_failed
from genmem.leaveout.worker import reason
from genmem.protocols import Listener
from genmem.run.callables import digest_of
from genmem.run.directory import Run
from genmem.run.plan import free_params
from genmem.stages._describe import report_again


@contextmanager
def kept(run: Run) -> Iterator[None]:
    """Add to an error that the refits are kept, and how to continue."""
    try:
        yield
    except RunError:
        raise  # it says what to do with the directory
    except GenmemError as error:
        raise _with(error, run) from error


def try_each(run: Run, wanted: Mapping[str, Callable[..., Any]], progress: Listener) -> None:
    """Run stages that do not depend on each other; then write those that failed into the report, and raise.

    Raises:
        GenmemError: of the first stage that failed.
    """
    errors: dict[str, BaseException] = {}
    for name, stage in wanted.items():
        try:
            stage(run, progress=progress)
        except (Exception, SystemExit) as error:  # of the user's model, too
            errors[name] = error
    before = failed_stages(run)
    with suppress(RunError):  # if the disk is full, the error of the stage is the better message
        write_failed(run, {name: reason(error) for name, error in errors.items()})
        if failed_stages(run) != before:
            report_again(run, progress=progress)
    for name, failure in errors.items():
        raise _named(name, failure) from failure


def _named(name: str, error: BaseException) -> GenmemError:
    if isinstance(error, GenmemError):
        return error
    return ModelError(expected=f"the stage {name} to finish", got=reason(error), do="Correct the model.")


def _with(error: GenmemError, run: Run) -> GenmemError:
    done = f"Finished work is kept in {run.path}"
    do = f"{error.do} {done}; the same call continues with it, also if only `sample` was changed."
    return type(error)(expected=error.expected, got=error.got, do=do)


def sampler_of(run: Run, model: Any) -> dict[str, str]:
    """Return what tells the function that samples the model from another, to notice a changed one; or nothing."""
    model = run.model if model is None else model
    if model is None:
        told = run.plan["model"].get("code", {}).get("sampler")
    else:
        sampler = getattr(model, "sampler", None) if "sampler" in free_params(model) else None
        told = None if sampler is None else digest_of(sampler)
    return {} if told is None else {"sampler": told}
