"""The examples and splits a run keeps: written once, checked when they are used."""

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from genmem.data import Data, fingerprint
from genmem.errors import RunError
from genmem.splits import Splits
from genmem.storage import read_arrays, write_arrays, write_atomically

START_AGAIN = "Restore it, or start again in a new run directory."


def write(path: Path, data: Data, splits: Splits) -> None:
    """Write data/*.npy and splits.npz into the run directory `path`."""
    for name in ("X", "index", "labels", "names"):
        array = getattr(data, name)
        if array is not None:
            _save(path / "data" / f"{name}.npy", array)
        else:
            (path / "data" / f"{name}.npy").unlink(missing_ok=True)
    arrays = {"held_out": splits.held_out, "repeat": splits.repeat, "shard": splits.shard}
    write_arrays(path / "splits.npz", arrays)


def _save(file: Path, array: NDArray[Any]) -> None:
    write_atomically(file, lambda handle: np.save(handle, array, allow_pickle=False))


def read_data(path: Path, about: dict[str, Any]) -> Data:
    """Return the examples of a run, `X` memory-mapped; `about` is what the plan says of them.

    Raises:
        RunError: the files are gone or damaged.
    """
    folder = path / "data"

    def optional(name: str) -> NDArray[Any] | None:
        file = folder / f"{name}.npy"
        return np.load(file, allow_pickle=False) if file.exists() else None

    try:
        X = np.load(folder / "X.npy", mmap_mode="r", allow_pickle=False)
        index = np.load(folder / "index.npy", allow_pickle=False)
        labels, names = optional("labels"), optional("names")
    except (OSError, ValueError, EOFError) as error:
        raise _lost(folder, f"files that cannot be read ({error})") from error
    return Data(
        X=X,
        labels=labels,
        index=index,
        source=about["source"],
        names=names,
        columns=about["columns"] and tuple(about["columns"]),
        image_shape=about["image_shape"] and tuple(about["image_shape"]),
        preparation=about["preparation"],
    )


def read_splits(path: Path, kind: str) -> Splits:
    """Return the splits of a run.

    Raises:
        RunError: splits.npz is gone or damaged.
    """
    try:
        arrays = read_arrays(path / "splits.npz")
    except (FileNotFoundError, RunError) as error:
        raise _lost(path / "splits.npz", "a file that is missing or damaged") from error
    return Splits(held_out=arrays["held_out"], repeat=arrays["repeat"], shard=arrays["shard"], kind=kind)


def check_unchanged(path: Path, about: dict[str, Any]) -> None:
    """Check the examples of a run against the hash in its plan.

    Raises:
        RunError: data/X.npy holds other values.
    """
    if fingerprint(read_data(path, about).X) != about["sha256"]:
        raise _lost(path / "data" / "X.npy", "other values")


def _lost(file: Path, got: str) -> RunError:
    return RunError(expected=f"what the run was planned with in {file}", got=got, do=START_AGAIN)
