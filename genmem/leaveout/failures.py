"""What went wrong in a refit: the refit itself, so that the others go on, or the machine, so that nothing can."""

import gc

import torch

from genmem.errors import GenmemError, RunError

LONGEST = 300


class OutOfMemory(Exception):
    """The machine or its accelerator has no memory left for what was asked."""


def reason(error: BaseException) -> str:
    r"""Return what went wrong in one line.

    >>> reason(ValueError("two\nlines"))
    'ValueError: two lines'
    """
    said = f"expected {error.expected}, got {error.got}" if isinstance(error, GenmemError) else str(error)
    return f"{type(error).__name__}: {' '.join(said.split())}"[:LONGEST]


def refuse_blame(error: BaseException) -> None:
    """Raise what no refit is to blame for; another refit would fail the same, or none if there were fewer at once.

    Raises:
        OutOfMemory: there is no memory left.
        RunError: the device has failed, and every later call to it fails too.
    """
    if isinstance(error, OutOfMemory):
        raise error
    said = str(error).lower()
    memory = isinstance(error, MemoryError | torch.OutOfMemoryError)
    if memory or (isinstance(error, RuntimeError) and ("out of memory" in said or "allocate memory" in said)):
        raise OutOfMemory(reason(error)) from error
    if isinstance(error, RuntimeError) and "cuda error" in said:
        raise RunError(
            expected="the device to compute",
            got=reason(error),
            do="Run the same command again in a new process; what is finished is kept.",
        ) from error


def no_memory(error: BaseException) -> RunError:
    """Return the error to raise where even one refit at a time does not fit."""
    return RunError(
        expected="enough memory for one refit",
        got=str(error),
        do="Use fewer --workers, a smaller batch_size or network, fewer --importance-samples, or a larger machine.",
    )


def free_memory() -> None:
    """Hand back what a failed attempt left behind."""
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
