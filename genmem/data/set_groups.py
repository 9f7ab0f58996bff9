"""Columns and folders that say which row, or which group, a row of three sets is."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from genmem.data.tables import Columns
from genmem.errors import DataError


def without_column(
    tables: Sequence[Columns], names: Sequence[str], column: str, option: str
) -> tuple[list[Columns], dict[str, list[Any]]]:
    """Return tables without a column, and its values by the names of the tables that have it.

    Raises:
        DataError: no table has it.
    """
    if not any(column in table for table in tables):
        raise DataError(
            expected=f"{option} to be a column of the tables: {', '.join(list(tables[0])[:12])}",
            got=repr(column),
            do="Pass one of these.",
        )
    values = {name: table[column].tolist() for name, table in zip(names, tables, strict=True) if column in table}
    return [{name: part for name, part in table.items() if name != column} for table in tables], values


def groups_of_column(values: Mapping[str, Sequence[Any]], column: str) -> tuple[NDArray[np.str_], ...]:
    """Return the groups of training and of held-out examples, and of samples if they have the column, as text.

    Raises:
        DataError: training or held-out examples lack the column, or a value is missing.
    """
    lacking = [name for name in ("train", "test") if name not in values]
    if lacking:
        raise DataError(
            expected=f"the group column {column!r} in the training and in the held-out set",
            got=f"none in {lacking[0]}",
            do="Add the column, or pass no groups.",
        )
    return tuple(_text(values[name], name, column) for name in ("train", "test", "samples") if name in values)


def _text(values: Sequence[Any], name: str, column: str) -> NDArray[np.str_]:
    missing = sum(value is None or value != value or value == "" for value in values)
    if missing:
        raise DataError(
            expected=f"a group in every row of the column {column!r}",
            got=f"{missing:,} missing values in {name}",
            do="Give a row that belongs to no other a group of its own.",
        )
    return np.array([str(value) for value in values])


def groups_of_folders(names: Mapping[str, Sequence[str]]) -> tuple[NDArray[np.str_], NDArray[np.str_]]:
    """Return the subfolders of training and of held-out images as groups; an image in none is a group of its own.

    Args:
        names: by set, the names of the images within its folder.

    Raises:
        DataError: a set is no folder of images, or has no image in a subfolder.

    >>> groups_of_folders({"train": ["a/1.png", "a/2.png", "3.png"], "test": ["b/1.png"]})[0].tolist()
    ['a', 'a', '/3.png']
    """
    for name in ("train", "test"):
        if not any("/" in of for of in names.get(name, ())):
            raise DataError(
                expected=f"{name} to be a folder of images with a subfolder for each group",
                got="no image in a subfolder" if name in names else "no folder of images",
                do="Move images that belong together into subfolders, or pass the groups another way.",
            )
    train, test = ([of.rpartition("/")[0] or f"/{of}" for of in names[name]] for name in ("train", "test"))
    return np.array(train), np.array(test)
