"""How three sets were read, in sentences: sizes, types, columns, what was done to them, and what was left out."""

from typing import Any

from numpy.typing import NDArray

from genmem.data.as_read import by, range_of
from genmem.data.notes import Note, in_digits
from genmem.data.roles import in_words
from genmem.data.three_sets import ThreeSets

_SETS = ("train", "test", "samples")


def as_read_sets(sets: ThreeSets) -> list[Note]:
    """Return sentences about three sets as they were read, the most important first.

    >>> from genmem.data.three_sets import load_three
    >>> table = {"age": [18, 90], "work": ["a", "b"]}
    >>> for sentence in as_read_sets(load_three(table, table, {"age": [20], "work": [""]})):
    ...     print(sentence)
    train, test: 2 examples of 2 columns.
    samples: 1 example of 2 columns.
    Columns: age number 18 to 90 (samples 20 to 20); work category of 2 values: a (1), b (1), 1 gap in samples.
    Values were encoded: Gower-type distance over 1 column of numbers (by range) and 1 of categories.
    """
    sizes = [_size(rows, shown, sets) for rows, shown in zip(sets.arrays, sets.values, strict=True)]
    told = [*_together(zip(_SETS, sizes, strict=True))]
    told += [in_words(sets.roles)] if sets.roles else []
    told += [_done(sets)] if sets.columns else []
    return told + notes_on(sets)


def notes_on(sets: ThreeSets) -> list[Note]:
    """Return the sentences on what was left out or changed when the sets were read."""
    return _together([(name, note) for name in _SETS for note in sets.notes.get(name, ())])


def _size(rows: NDArray[Any], shown: NDArray[Any], sets: ThreeSets) -> Note:
    count = f"{len(rows):,} example{'' if len(rows) == 1 else 's'}"
    if rows is not shown:
        return Note(f"{count} of {shown.shape[1]:,} columns.")
    image = f" (images of {by(sets.image_shape)} pixels)" if sets.image_shape else ""
    said = f"{count} of {by(rows.shape[1:])} values{image}, {rows.dtype}"
    low, high = range_of(rows)
    return Note(f"{said}, from {in_digits(low)} to {in_digits(high)}.", f"{said}.")


def _done(sets: ThreeSets) -> Note:
    if sets.arrays[0] is sets.values[0]:
        return Note("Values are compared as they are: neither scaled nor encoded.")
    return Note(f"Values were encoded: {sets.words}.", f"Values were encoded: {sets.words.partition(':')[0]}.")


def _together(notes: Any) -> list[Note]:
    """Return notes with the names of the sets that they are about, equal ones as one."""
    about: dict[tuple[str, str], list[str]] = {}
    for name, note in notes:
        about.setdefault((note, getattr(note, "without_names", "")), []).append(name)
    return [
        Note(f"{', '.join(names)}: {said}", f"{', '.join(names)}: {other}" if other else "")
        for (said, other), names in about.items()
    ]
