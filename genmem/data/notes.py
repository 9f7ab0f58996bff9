"""Sentences on how data were read, which can also be said without names and values."""

from collections import Counter
from collections.abc import Iterable

_WHOLE = 1e15


class Note(str):
    """A sentence, and the same without names of files, rows and columns and without values.

    >>> note = Note("1 file skipped: secret.txt.", "1 file skipped.")
    >>> note, note.without_names
    ('1 file skipped: secret.txt.', '1 file skipped.')
    """

    without_names: str

    def __new__(cls, said: str, without_names: str | None = None) -> "Note":
        """Return a note; without a second sentence, the first holds no names."""
        note = super().__new__(cls, said)
        note.without_names = said if without_names is None else without_names
        return note


def in_digits(value: float) -> str:
    """Return a number in six digits, or in all of them if it is whole.

    >>> in_digits(20201231.0), in_digits(0.123456789)
    ('20201231', '0.123457')
    """
    return str(int(value)) if float(value).is_integer() and abs(value) < _WHOLE else f"{value:g}"


def without_names(notes: Iterable[str]) -> list[str]:
    """Return sentences without names, equal ones once with their number; those that are no `Note` are left out.

    >>> without_names([Note("'a' is text.", "A column is text."), Note("'b' is text.", "A column is text."), "'c'"])
    ['A column is text. (2 times)']
    """
    counts = Counter(note.without_names for note in notes if isinstance(note, Note))
    return [said + (f" ({count} times)" if count > 1 else "") for said, count in counts.items()]
