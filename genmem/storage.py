"""Files that are there whole or not at all: atomic writes, arrays with checksums, one writer at a time."""

import errno
import fcntl
import hashlib
import os
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from genmem.errors import RunError

Arrays = dict[str, NDArray[Any]]
PARTIAL = ".partial"
_held: set[tuple[Path, int]] = set()


def write_atomically(file: Path, fill: Callable[[IO[bytes]], object]) -> None:
    """Call `fill(handle)` on a temporary file beside `file` and move it into place once it is on disk.

    Raises:
        RunError: the disk is full or the path cannot be written; nothing is left behind.
    """
    partial = file.with_name(f"{file.name}.{os.getpid()}{PARTIAL}")
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        with open(partial, "wb") as handle:
            fill(handle)
            handle.flush()
            os.fsync(handle.fileno())
        os.replace(partial, file)
    except OSError as error:
        raise unwritable(file, error) from error
    finally:
        _remove(partial)


def _remove(file: Path) -> None:
    try:
        file.unlink(missing_ok=True)
    except OSError:  # the folder itself could not be made: there is nothing to remove
        return


def write_arrays(file: Path, arrays: Mapping[str, NDArray[Any]], stamp: str = "") -> None:
    """Write named arrays with a checksum over their contents and `stamp` (what they belong to)."""
    signed = {**arrays, "checksum": np.asarray(_checksum(arrays, stamp))}
    write_atomically(file, lambda handle: np.savez(handle, **signed))  # type: ignore[arg-type]


def read_arrays(file: Path, stamp: str = "") -> Arrays:
    """Read what `write_arrays` wrote; nothing is ever unpickled.

    Raises:
        RunError: the file is damaged, or belongs to something else than `stamp`.
        FileNotFoundError: there is no such file.
    """
    try:
        with open(file, "rb") as handle, np.load(handle, allow_pickle=False) as stored:
            arrays = {name: stored[name] for name in stored.files}
        checksum = str(arrays.pop("checksum"))
    except FileNotFoundError:
        raise
    except Exception as error:  # zipfile, zlib, numpy and struct each have errors of their own
        raise _damaged(file, f"one that cannot be read ({type(error).__name__})") from error
    if checksum != _checksum(arrays, stamp):
        raise _damaged(file, "one whose contents do not match its checksum or this plan")
    return arrays


def _damaged(file: Path, got: str) -> RunError:
    return RunError(
        expected=f"a sound file {file}",
        got=got,
        do="Run the same command with --recompute to make it again, or delete the file.",
    )


def _checksum(arrays: Mapping[str, NDArray[Any]], stamp: str) -> str:
    total = hashlib.sha256(stamp.encode())
    for name in sorted(arrays):
        array = np.ascontiguousarray(arrays[name])
        total.update(f"{name}{array.dtype.str}{array.shape}".encode())
        total.update(array.reshape(-1).view(np.uint8).data)
    return total.hexdigest()


@contextmanager
def lock(folder: Path) -> Iterator[None]:
    """Hold `folder` for writing; the kernel lets go when the process ends, however it ends.

    A thread that holds the folder may enter again.

    Raises:
        RunError: another process or thread holds it.
    """
    key = (folder.resolve(), threading.get_ident())
    if key in _held:
        yield
        return
    try:
        handle = open(folder / ".lock", "a")
    except OSError as error:
        raise unwritable(folder, error) from error
    with handle:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            if error.errno not in (errno.EWOULDBLOCK, errno.EAGAIN):
                raise unwritable(folder, error) from error
            raise RunError(
                expected=f"{folder} to be free",
                got="another process writing to it",
                do="Wait for it to finish, stop it, or use another run directory.",
            ) from error
        for leftover in folder.glob(f"**/*{PARTIAL}"):
            leftover.unlink(missing_ok=True)  # of a process that was killed: only the holder writes
        _held.add(key)
        try:
            yield
        finally:
            _held.discard(key)


def unwritable(path: Path, error: OSError) -> RunError:
    """Return the error to raise when `path` could not be written."""
    # numpy writes through C and says "n requested and m written" without a number when the disk is full
    if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG) or (error.errno is None and "written" in str(error)):
        do = "Free some space and run the same command again; what is finished is kept."
    else:
        do = "Choose another --out, or change the permissions."
    return RunError(expected=f"to write {path}", got=error.strerror or str(error), do=do)
