"""Folders of files: what lies in them, links followed, in the order of the numbers in the names."""

import os
import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from genmem.data.notes import Note
from genmem.errors import DataError


@dataclass
class Found:
    """The files of a folder.

    Attributes:
        names: the paths of the wanted files within the folder, in order.
        skipped: by reason (".txt", "hidden", ...), the names of the files that were left out.
        linked: the links to files and folders that were followed.
        again: the names of files that another name leads to as well.
        empty: the subfolders without a wanted file.
    """

    names: list[str] = field(default_factory=list)
    skipped: dict[str, list[str]] = field(default_factory=dict)
    linked: list[str] = field(default_factory=list)
    again: list[str] = field(default_factory=list)
    empty: list[str] = field(default_factory=list)

    def notes(self) -> tuple[str, ...]:
        """Return one sentence on what was left out, one on links, and one on files that were read twice."""
        total = counted(sum(map(len, self.skipped.values())), "file")
        said = [Note(skipped_words(self.skipped), f"{total} skipped.")] if self.skipped else []
        for names, what in (
            (self.linked, "symbolic link{} followed"),
            (self.again, "file{} read again under another name"),
            (self.empty, "subfolder{} without images"),
        ):
            count = f"{len(names):,} {what.format('' if len(names) == 1 else 's')}"
            said += [Note(f"{count}: {some(names)}.", f"{count}.")] if names else []
        return tuple(said)


def files_below(folder: Path, is_wanted: Callable[[str], bool]) -> Found:
    """Return the files of a folder and its subfolders, through symbolic links; hidden ones are skipped.

    Raises:
        DataError: a link leads to a folder that contains it, or to nothing.
        OSError: a folder cannot be read.
    """
    found, seen = Found(), set[str]()
    _walk(folder, "", (os.path.realpath(folder),), is_wanted, found)
    found.names = in_order(found.names)
    for name in found.names:
        real = os.path.realpath(folder / name)
        if real in seen:
            found.again.append(name)
        seen.add(real)
    return found


def _walk(folder: Path, below: str, above: tuple[str, ...], is_wanted: Callable[[str], bool], found: Found) -> None:
    with os.scandir(folder / below) as entries:
        listed = sorted(entries, key=lambda entry: entry.name)
    for entry in listed:
        name = f"{below}{entry.name}"
        reason = _why_not(entry, is_wanted)
        if reason is not None:
            found.skipped.setdefault(reason, []).append(name)
            continue
        if entry.is_symlink():
            found.linked.append(name)
        if entry.is_dir():
            before = len(found.names)
            _walk(folder, f"{name}/", (*above, _not_above(entry, above)), is_wanted, found)
            found.empty += [name] if len(found.names) == before else []
        else:
            found.names.append(name)


def _why_not(entry: "os.DirEntry[str]", is_wanted: Callable[[str], bool]) -> str | None:
    """Return the reason to skip a file or folder, or None."""
    if entry.name.startswith(".") or entry.name == "__MACOSX":  # which programs write beside the files
        return "hidden"
    if entry.is_dir():
        return None
    if not is_wanted(entry.name):
        return Path(entry.name).suffix.lower() or "without a suffix"
    if entry.is_symlink() and not os.path.exists(entry.path):
        raise DataError(
            expected="symbolic links to files",
            got=f"{entry.path}, which leads to {os.readlink(entry.path)}, where nothing is",
            do="Restore the file it leads to, or remove the link.",
        )
    return None if entry.is_file() else "neither file nor folder"


def _not_above(entry: "os.DirEntry[str]", above: tuple[str, ...]) -> str:
    real = os.path.realpath(entry.path)
    if real in above:
        raise DataError(
            expected="symbolic links that lead out of the folder they are in",
            got=f"{entry.path}, which leads back to {real}",
            do="Remove this link.",
        )
    return real


# --- order


def in_order(names: Iterable[str]) -> list[str]:
    """Return names sorted as text, or by the numbers in them if they are numbered.

    Names are numbered if, with their digits left out, at most half of them differ; hashes are not. Numbers of one
    width are in the same order either way.

    >>> in_order(["10.png", "9.png", "1.png"]), in_order(["3fa.png", "12c4.png"])
    (['1.png', '9.png', '10.png'], ['12c4.png', '3fa.png'])
    """
    listed = sorted(names)
    if 2 * len({without_numbers(name) for name in listed}) > len(listed):
        return listed
    width = max((len(run) for name in listed for run in re.findall(r"[0-9]+", name)), default=0)
    return sorted(listed, key=lambda name: (re.sub(r"[0-9]+", lambda run: run.group().zfill(width), name), name))


def without_numbers(name: str) -> str:
    """Return the name with "#" for each number."""
    return re.sub(r"[0-9]+", "#", name)


# --- words


def counted(count: int, what: str) -> str:
    """Return the count and the noun: "1 file", "3 files"."""
    return f"{count:,} {what}{'' if count == 1 else 's'}"


def some(names: Sequence[str], most: int = 3) -> str:
    """Return the first names, and how many more there are."""
    more = f" and {len(names) - most:,} more" if len(names) > most else ""
    return ", ".join(names[:most]) + more


def skipped_words(skipped: dict[str, list[str]]) -> str:
    """Return how many files were skipped, by reason, most frequent first.

    >>> skipped_words({".txt": ["a.txt", "b.txt"], "hidden": [".x"]})
    '3 files skipped: 2 .txt (a.txt, b.txt), 1 hidden (.x).'
    """
    total = sum(len(names) for names in skipped.values())
    parts = sorted(skipped.items(), key=lambda item: (-len(item[1]), item[0]))
    return f"{counted(total, 'file')} skipped: " + ", ".join(f"{len(n)} {why} ({some(n)})" for why, n in parts) + "."
