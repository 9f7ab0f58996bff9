"""Files that are there whole or not at all: atomic writes, arrays with checksums, one writer at a time."""

import errno
import fcntl
import math
import os
import struct
import threading
import time
import zipfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray
from safetensors import safe_open
from safetensors.numpy import save

from genmem.data.arrays import fingerprint
from genmem.errors import RunError

Arrays = dict[str, NDArray[Any]]
PARTIAL = ".partial"
SETTLED = 0.1  # seconds after which a new change of a file shows in its time stamps
_sound: dict[Path, tuple[object, ...]] = {}
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


def verify_arrays(file: Path, stamp: str = "") -> None:
    """Check what `write_arrays` wrote; a file that this process has checked and that has not changed is left alone.

    Raises:
        RunError: the file is damaged, or belongs to something else than `stamp`.
        FileNotFoundError: there is no such file.
    """
    about = os.stat(file)
    looks = (about.st_ino, about.st_size, about.st_mtime_ns, about.st_ctime_ns, stamp)
    if _sound.get(file) == looks:
        return
    _sound.pop(file, None)
    read_arrays(file, stamp)
    if time.time() - about.st_mtime > SETTLED:  # a change right after would not show in the time stamps
        _sound[file] = looks


def read_array(file: Path, name: str, at: int | None = None, default: NDArray[Any] | None = None) -> NDArray[Any]:
    """Read one array of a file that was checked; with `at`, only position `at` of its second axis.

    Raises:
        RunError: the file holds no such array and there is no `default`, or it cannot be read.
    """
    try:
        with zipfile.ZipFile(file) as stored:
            if at is not None:
                return _read_position(file, stored.getinfo(f"{name}.npy"), at)
            with stored.open(f"{name}.npy") as member:
                return np.asarray(np.lib.format.read_array(member, allow_pickle=False))
    except KeyError as error:
        if default is not None:
            return default
        raise _damaged(file, f"one without {name}") from error
    except (OSError, ValueError, zipfile.BadZipFile) as error:
        raise _damaged(file, f"one that cannot be read ({type(error).__name__})") from error


def _read_position(file: Path, member: zipfile.ZipInfo, at: int) -> NDArray[Any]:
    """Return array[:, at] of a member that is stored as it is, without reading the rest."""
    with open(file, "rb") as handle:
        handle.seek(member.header_offset + 26)
        handle.seek(sum(struct.unpack("<HH", handle.read(4))), os.SEEK_CUR)
        np.lib.format.read_magic(handle)
        (n, length, *rest), by_column, dtype = np.lib.format.read_array_header_1_0(handle)
        if by_column:
            return np.asarray(read_array(file, member.filename.removesuffix(".npy"))[:, at])
        start, row = handle.tell(), math.prod(rest)
        found = np.empty((n, *rest), dtype)
        for i in range(n):
            offset = start + (i * length + range(length)[at]) * row * dtype.itemsize
            found[i] = np.fromfile(file, dtype, row, offset=offset).reshape(rest)
    return found


def write_tensors(file: Path, arrays: Mapping[str, NDArray[Any]], stamp: str = "") -> None:
    """Write named arrays as safetensors, with the checksum of `write_arrays` and `stamp` in the metadata."""
    whole = {name: np.asarray(array, order="C") for name, array in arrays.items()}
    payload = save(whole, {"stamp": stamp, "sha256": _checksum(whole, stamp)})
    write_atomically(file, lambda handle: handle.write(payload))


def read_tensors(file: Path, stamp: str = "") -> Arrays:
    """Read what `write_tensors` wrote.

    Raises:
        RunError: the file is damaged, or belongs to something else than `stamp`.
        FileNotFoundError: there is no such file.
    """
    try:
        with safe_open(file, framework="numpy") as stored:
            arrays = {name: stored.get_tensor(name) for name in stored.keys()}  # noqa: SIM118
            checksum = stored.metadata()["sha256"]
    except FileNotFoundError:
        raise
    except Exception as error:  # safetensors and numpy each have errors of their own
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
    parts: list[NDArray[Any] | str] = [stamp]
    for name in sorted(arrays):
        parts += [name, arrays[name]]
    return fingerprint(*parts)


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
