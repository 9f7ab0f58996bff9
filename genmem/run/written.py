"""What was written to the results of a run, so that a result that was changed or deleted since is noticed.

`results/written.json` holds for each JSON file the SHA-256 digests that it may have: while it is replaced, that of the
old contents and of the new. Arrays carry a checksum of their own; of them only the name is kept.
"""

import hashlib
import json
from pathlib import Path

from genmem.run.storage import write_atomically

FILE = "written.json"


def note(folder: Path, name: str, payload: bytes | None = None) -> None:
    """Note that a file is about to be written with these bytes, or was written with a checksum of its own."""
    known = noted(folder)
    kept = [] if payload is None else [digest(payload), *known.get(name, ())[:1]]
    if known.get(name) != kept:
        _write(folder, {**known, name: kept})


def forget(folder: Path, *names: str) -> None:
    """Forget files that are about to be deleted."""
    known = noted(folder)
    if any(name in known for name in names):
        _write(folder, {name: kept for name, kept in known.items() if name not in names})


def noted(folder: Path) -> dict[str, list[str]]:
    """Return the digests of each file; none for a run of an earlier version, or if the note itself is damaged."""
    try:
        known = json.loads((folder / FILE).read_text())
        return {str(name): [str(one) for one in kept] for name, kept in known.items()}
    except (OSError, ValueError, AttributeError, TypeError):
        return {}


def sound(file: Path) -> bytes:
    """Return the contents of a file.

    Raises:
        ValueError: they are not what was written.
    """
    payload, kept = file.read_bytes(), noted(file.parent).get(file.name)
    if kept and digest(payload) not in kept:
        raise ValueError(f"{file} was changed")
    return payload


def changed(folder: Path) -> list[tuple[str, str]]:
    """Return each file that was deleted or changed since it was written, and which of the two."""
    found = []
    for name, kept in noted(folder).items():
        file = folder / name
        if not file.is_file():
            found.append((name, "deleted"))
        elif kept and digest(file.read_bytes()) not in kept:
            found.append((name, "changed"))
    return found


def digest(payload: bytes) -> str:
    """Return the SHA-256 digest of bytes."""
    return hashlib.sha256(payload).hexdigest()


def _write(folder: Path, known: dict[str, list[str]]) -> None:
    text = json.dumps(known, indent=1, sort_keys=True) + "\n"
    write_atomically(folder / FILE, lambda handle: handle.write(text.encode()))
