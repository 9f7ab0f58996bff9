"""Sums over checkpoints, block by block: in memory, or on disk so that a killed computation resumes where it was."""

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from genmem.data.arrays import fingerprint
from genmem.errors import RunError, RunMismatchError
from genmem.run.storage import lock, read_arrays, write_arrays, write_atomically

FloatArray = NDArray[np.float64]
SETTINGS = "ledger.json"


class Part(NamedTuple):
    """The sums of one block, and a bitmap of the checkpoints included in them."""

    sums: FloatArray
    done: NDArray[np.bool_]


class Store(Protocol):
    """Where parts are stored by name while checkpoints are visited."""

    def read(self, name: str) -> Part | None:
        """Return a part; None before the first `write`."""

    def write(self, name: str, part: Part) -> None:
        """Store a part completely or not at all."""

    def drop(self, name: str) -> None:
        """Declare that this computation no longer needs a part."""

    @property
    def lasts(self) -> bool:
        """Whether parts outlive the process and take none of its memory."""


class Memory:
    """Parts in the memory of this process."""

    lasts = False

    def __init__(self) -> None:
        self._parts: dict[str, Part] = {}

    def read(self, name: str) -> Part | None:
        """Return a part; None before the first `write`."""
        return self._parts.get(name)

    def write(self, name: str, part: Part) -> None:
        """Store a part."""
        self._parts[name] = part

    def drop(self, name: str) -> None:
        """Delete a part."""
        self._parts.pop(name, None)


class Ledger:
    """A folder of finished sums of one call; the same call with it again resumes there, with equal bits.

    It holds a float64 sum for each training example and query (or draw, for self-influence). Each block of examples has
    a file, rewritten after each checkpoint together with the list of checkpoints included in it. Another `k` or `scale`
    then costs nothing; a call with other data, checkpoints, draws or weights is refused.

    Args:
        folder: created if there is none; one for each computation.
    """

    lasts = True

    def __init__(self, folder: Path | str) -> None:
        self.folder = Path(folder)
        self._stamp = ""

    @contextmanager
    def opened(self, settings: Mapping[str, object]) -> Iterator["Ledger"]:
        """Hold the folder for a computation with these settings.

        Raises:
            RunMismatchError: the folder belongs to another computation.
            RunError: another process holds the folder, or it cannot be read or written.
        """
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise RunError(
                expected=f"to make the folder {self.folder}", got=str(error), do="Choose another one."
            ) from error
        with lock(self.folder):
            text = json.dumps(dict(settings), indent=2, sort_keys=True) + "\n"
            self._agree(json.loads(text))
            write_atomically(self.folder / SETTINGS, lambda handle: handle.write(text.encode()))
            self._stamp = fingerprint(text)
            yield self

    def _agree(self, settings: Mapping[str, object]) -> None:
        file = self.folder / SETTINGS
        if not file.exists():
            return
        try:
            known = dict(json.loads(file.read_text()))
        except (OSError, ValueError, TypeError) as error:
            raise RunError(
                expected=f"the settings of a computation in {file}", got=f"a damaged file ({error})", do="Delete it."
            ) from error
        names = [name for name in sorted({*settings, *known}) if settings.get(name) != known.get(name)]
        if names:
            raise RunMismatchError(
                expected=f"the computation that {self.folder} was created for",
                got=f"another: {', '.join(f'{n} {settings.get(n)!r} after {known.get(n)!r}' for n in names)}",
                do="Use another folder, or delete this one.",
            )

    def read(self, name: str) -> Part | None:
        """Return a part; None before the first `write`.

        Raises:
            RunError: its file is damaged.
        """
        try:
            arrays = read_arrays(self._file(name), self._stamp)
        except FileNotFoundError:
            return None
        return Part(arrays["sums"], arrays["done"])

    def write(self, name: str, part: Part) -> None:
        """Store a part completely or not at all."""
        write_arrays(self._file(name), part._asdict(), self._stamp)

    def drop(self, name: str) -> None:
        """Keep the part nevertheless."""

    def _file(self, name: str) -> Path:
        return self.folder / f"{name}.npz"
