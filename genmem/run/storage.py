"""Files that are written completely or not at all: atomic writes, arrays with checksums, one writer at a time."""

import errno
import fcntl
import os
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any, NamedTuple, TypeVar

import numpy as np
from numpy.typing import NDArray
from safetensors import safe_open
from safetensors.numpy import save

from genmem.data.arrays import fingerprint
from genmem.errors import RunError

Arrays = dict[str, NDArray[Any]]
PARTIAL = ".partial"
SETTLED = 0.02  # seconds after which another change of a file changes its time stamps: two ticks of a kernel's clock
HELD, SMALL = 2**30, 2**20  # bytes of all arrays held during a stage; of one file's arrays that stay in memory after it
T = TypeVar("T")
Look = tuple[int, ...] | None
_held: set[tuple[Path, int]] = set()


def write_atomically(file: Path, fill: Callable[[IO[bytes]], object]) -> None:
    """Call `fill(handle)` on a temporary file beside `file` and move it into place once it is on disk.

    Raises:
        RunError: the disk is full or the path cannot be written; no partial file remains.
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
    except OSError:  # the folder itself could not be created: there is nothing to remove
        return


def write_arrays(file: Path, arrays: Mapping[str, NDArray[Any]], stamp: str = "") -> None:
    """Write named arrays with a checksum over their contents and `stamp` (which says what they belong to)."""
    signed = {**arrays, "checksum": np.asarray(_checksum(arrays, stamp))}
    write_atomically(file, lambda handle: np.savez(handle, **signed))  # type: ignore[arg-type]


def read_arrays(file: Path, stamp: str = "") -> Arrays:
    """Read what `write_arrays` wrote; nothing is ever unpickled.

    Raises:
        RunError: the file is damaged, or belongs to another `stamp`.
        FileNotFoundError: there is no such file.
    """
    try:
        with open(file, "rb") as handle, np.load(handle, allow_pickle=False) as stored:
            arrays = {name: stored[name] for name in stored.files}
        checksum = str(arrays.pop("checksum"))
    except FileNotFoundError:
        raise
    except Exception as error:  # zipfile, zlib, numpy and struct each raise their own errors
        raise damaged(file, f"one that cannot be read ({type(error).__name__})") from error
    if checksum != _checksum(arrays, stamp):
        raise damaged(file, "one whose contents do not match its checksum or this plan")
    return arrays


def write_tensors(file: Path, arrays: Mapping[str, NDArray[Any]], stamp: str = "") -> None:
    """Write named arrays as safetensors, with the checksum of `write_arrays` and `stamp` in the metadata."""
    whole = {name: np.asarray(array, order="C") for name, array in arrays.items()}
    payload = save(whole, {"stamp": stamp, "sha256": _checksum(whole, stamp)})
    write_atomically(file, lambda handle: handle.write(payload))


def read_tensors(file: Path, stamp: str = "") -> Arrays:
    """Read what `write_tensors` wrote.

    Raises:
        RunError: the file is damaged, or belongs to another `stamp`.
        FileNotFoundError: there is no such file.
    """
    try:
        with safe_open(file, framework="numpy") as stored:
            arrays = {name: stored.get_tensor(name) for name in stored.keys()}  # noqa: SIM118
            checksum = stored.metadata()["sha256"]
    except FileNotFoundError:
        raise
    except Exception as error:  # safetensors and numpy each raise their own errors
        raise damaged(file, f"one that cannot be read ({type(error).__name__})") from error
    if checksum != _checksum(arrays, stamp):
        raise damaged(file, "one whose contents do not match its checksum or this plan")
    return arrays


def damaged(file: Path, got: str) -> RunError:
    """Return the error for a file with other contents than were written."""
    return RunError(
        expected=f"an undamaged file {file}",
        got=got,
        do="Run the same command with --recompute, or delete the file and run the command that writes it.",
    )


def _checksum(arrays: Mapping[str, NDArray[Any]], stamp: str) -> str:
    parts: list[NDArray[Any] | str] = [stamp]
    for name in sorted(arrays):
        parts += [name, arrays[name]]
    return fingerprint(*parts)


# --- contents in memory


class _Known(NamedTuple):
    looks: tuple[Look, ...]
    value: Any
    size: int


class Held:
    """Contents of files, read and verified: they are used until a file changes, and then read again.

    A file has changed if its inode, its size or one of its times has; restoring the time of modification still changes
    the time of the last status change. All contents come from these reads, so no number rests on unverified bytes.
    """

    def __init__(self) -> None:
        self._known: dict[tuple[object, ...], _Known] = {}
        self._changing = threading.Lock()
        self._stages = 0  # that are open: large contents stay for these alone

    def __getstate__(self) -> dict[str, Any]:
        """Leave the contents behind: a copy, or a run that is sent to a worker, reads for itself."""
        return {}

    def __setstate__(self, _: dict[str, Any]) -> None:
        Held.__init__(self)

    def get(self, read: Callable[[], T], *files: Path, stamp: str = "") -> T:
        """Return what `read()` makes of some files (one may be missing), now or earlier if none has changed since.

        Dicts of arrays count against `HELD`, and outside a stage only those up to `SMALL` are kept: the others are read
        again next time.
        """
        key, looks = (*files, stamp), tuple(_look(file) for file in files)
        known = self._known.get(key)
        if known is None or known.looks != looks:
            _settle(looks)
            found = read()
            known = _Known(looks, found, _bytes(found))
        with self._changing:
            self._known.pop(key, None)
            others = sum(other.size for other in self._known.values())
            if known.size + others <= HELD and (self._stages or known.size <= SMALL):
                self._known[key] = known
        value: T = known.value
        return value

    def arrays(self, file: Path, stamp: str = "") -> Arrays:
        """Return `read_arrays` of a file; the arrays are shared, and therefore read-only."""
        return dict(self.get(lambda: frozen(read_arrays(file, stamp)), file, stamp=stamp))

    @contextmanager
    def during_stage(self) -> Iterator[None]:
        """Keep large contents until the block ends."""
        with self._changing:
            self._stages += 1
        try:
            yield
        finally:
            with self._changing:
                self._stages -= 1
            if not self._stages:
                self.release()

    def release(self) -> None:
        """Release everything large."""
        with self._changing:
            self._known = {key: known for key, known in self._known.items() if known.size <= SMALL}


def _look(file: Path) -> Look:
    try:
        about = os.stat(file)
    except OSError:
        return None
    return about.st_ino, about.st_size, about.st_mtime_ns, about.st_ctime_ns


def _settle(looks: tuple[Look, ...]) -> None:
    """Wait until another change of these files would change their time stamps."""
    age = time.time() - max((look[-1] for look in looks if look), default=0) / 1e9
    if age < SETTLED:  # a time stamp in the future is from another machine's clock
        time.sleep(min(SETTLED, SETTLED - age))


def _bytes(value: object) -> int:
    return sum(array.nbytes for array in value.values()) if isinstance(value, dict) else 0


def frozen(arrays: Arrays) -> Arrays:
    """Return the arrays, read-only: they are shared between all that use a run."""
    for array in arrays.values():
        array.flags.writeable = False
    return arrays


# --- one writer at a time


@contextmanager
def lock(folder: Path) -> Iterator[None]:
    """Lock `folder` for writing; the kernel releases it when the process ends, however it ends.

    A thread that holds the lock may take it again.

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
            leftover.unlink(missing_ok=True)  # of a process that was killed: only the holder of the lock writes
        _held.add(key)
        try:
            yield
        finally:
            _held.discard(key)


def unwritable(path: Path, error: OSError) -> RunError:
    """Return the error for a `path` that could not be written."""
    # numpy writes through C and reports "n requested and m written" without a number when the disk is full
    if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG) or (error.errno is None and "written" in str(error)):
        do = "Free some space and run the same command again; what is finished is kept."
    else:
        do = "Choose another --out, or change the permissions."
    return RunError(expected=f"to write {path}", got=error.strerror or str(error), do=do)
