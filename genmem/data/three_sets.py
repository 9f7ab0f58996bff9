"""Three sets from files, folders or memory, in one form: training examples, held-out examples and samples."""

import os
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from genmem.data.arrays import Triple, as_array
from genmem.data.column_types import typed
from genmem.data.csv_files import TableOptions, TextTable, is_text_table
from genmem.data.encoding import Scale, mixed_space
from genmem.data.files import kind_of, read, reading
from genmem.data.frames import arrow_table, is_frame
from genmem.data.image_tables import holds_images
from genmem.data.images import alpha_in_words, as_one_kind_of_image, check_backgrounds, check_levels, image_shape_of
from genmem.data.matrices import require_one
from genmem.data.roles import Role, roles_of
from genmem.data.set_groups import groups_of_column, without_column
from genmem.data.table_files import DETECT, checked_names, only_data, read_untyped
from genmem.data.tables import Columns, columns_of, same_columns
from genmem.errors import DataError
from genmem.protocols import Brief

Source: TypeAlias = Any  # a path, or an array, mapping, pyarrow table or data frame

_SETS = ("train", "test", "samples")
_ARRAYS = {"train": ("train", "x_train"), "test": ("test", "x_test"), "samples": ("samples", "x_samples")}


@dataclass(frozen=True, eq=False)
class ThreeSets(Brief):
    """Training examples, held-out examples and samples in one form.

    Attributes:
        arrays: the rows to compare, (n, *event) of numbers each.
        values: the rows to show: the same arrays, or (n, columns) of numbers and text if a table was encoded.
        sources: by set ("train", "test", "samples"), the path as passed, or "array" or "table".
        image_shape: (h, w) or (h, w, 3) if rows can be shown as images.
        columns: names of the columns of tables.
        names: by kind of row ("train", "test", "sample"), the name of each row; empty if rows have only numbers.
        words: a description of distances between the arrays.
        notes: by set, sentences on how its source was read, and what was left out.
        groups: of training and of held-out examples, and perhaps of samples, from a column; None if there is none.
        roles: what each column of tables is.
    """

    arrays: Triple
    values: Triple
    sources: Mapping[str, str]
    image_shape: tuple[int, ...] | None = None
    columns: tuple[str, ...] | None = None
    names: Mapping[str, Sequence[str]] = field(default_factory=dict)
    words: str = "values as given"
    notes: Mapping[str, Sequence[str]] = field(default_factory=dict)
    roles: tuple[Role, ...] = ()
    groups: tuple[NDArray[np.str_], ...] | None = None

    def headline(self) -> str:
        """Return the size and the main figures."""
        return "{:,} training examples, {:,} held out, {:,} samples".format(*map(len, self.arrays))


@dataclass(frozen=True, eq=False)
class _Read:
    """The contents of one source: an array or a table, and the names of its rows."""

    name: str
    source: str
    X: NDArray[Any] | None = None
    table: Columns | None = None
    text: TextTable | None = None
    names: Sequence[str] | None = None
    is_folder: bool = False
    notes: tuple[str, ...] = ()
    see_through: int = 0
    dropped: tuple[str, ...] = ()

    @property
    def is_tabular(self) -> bool:
        """Whether it is a table, or an array without names that holds more than numbers."""
        return self.X is None or self.X.dtype.kind in "OUSmM"


def load_three(
    train: Source,
    test: Source,
    samples: Source,
    *,
    array: str | Sequence[str | None] | None = None,
    categorical: str | Collection[str] | None = None,
    scale: Scale | None = None,
    id_column: str | None = None,
    group_column: str | None = None,
    options: TableOptions = DETECT,
) -> ThreeSets:
    """Load training examples, held-out examples and samples, and convert them to one form.

    Each source is an array, a table (a mapping of columns, a pyarrow table, a data frame), or a path: .npy, .npz, .csv
    or .parquet file, MNIST-style IDX file, or folder of images. Values keep their type and scale.

    Images must have one height and width. If only some sets are in colour, those whose channels are all equal become
    gray; otherwise gray ones get three equal channels. If channels come first in some sets, they move last in all.

    Columns of tables are matched by name; an array without names beside tables is matched by position. A numeric table
    without missing values is compared as it is. With text, missing values, `categorical` or `scale`, all columns are
    encoded, see `mixed_space`.

    Args:
        train: what the model was trained on.
        test: held-out examples of the same source.
        samples: samples of the model.
        array: the array of .npz files that holds the rows: one name, or three, also as text "x_train,x_test,samples".
            Without it, the only candidate, or one named after the set: "train" or "x_train", and so on.
        categorical: columns whose numbers are codes, as a list or as text with commas.
        scale: of numeric columns: "range" or "spread" of `train`; if given, every table is encoded.
        id_column: a column that only identifies rows; it is not compared.
        group_column: a column that says which rows belong together; it is not compared, and samples need not have it.
        options: how files of tables are read.

    Raises:
        DataError: a source is missing, damaged or of an unknown kind; the sets do not have one form, or their scales
            are incompatible (0 to 255 beside 0 to 1); an option does not apply.

    >>> sets = load_three({"a": [1, 2], "b": ["x", ""]}, {"b": ["x"], "a": [3]}, {"a": [1], "b": ["y"]})
    >>> sets.arrays[0].shape, sets.values[1].tolist()
    ((2, 4), [[3, 'x']])
    """
    wanted = _arrays_named(array)
    coded = _listed(categorical)
    named = zip((train, test, samples), _SETS, wanted, strict=True)
    given = _typed([_read(source, name, which, options) for source, name, which in named], coded)
    _refuse_unused(options, given)
    if array is not None and not any(part.source.endswith(".npz") for part in given):
        raise DataError(expected="array only with .npz files", got=repr(array), do="Drop --array.")
    if any(part.is_tabular for part in given):
        return _of_tables(given, coded, scale, id_column, group_column)
    options_of_tables = {"categorical": categorical, "scale": scale, "id_column": id_column}
    for name, value in {**options_of_tables, "group_column": group_column}.items():
        if value:
            raise DataError(
                expected=f"{name} only with tables", got=f"{name}={value!r}", do=f"Drop {name}, or pass tables."
            )
    return _of_arrays(given)


# --- one source


def _read(source: Source, name: str, array: str | None, options: TableOptions) -> _Read:
    if isinstance(source, str | os.PathLike):
        return _from_path(Path(source), name, array, options)
    if isinstance(source, Mapping) and not is_frame(source):
        columns, drop = columns_of(source, name), _of_these(options, source)
        return _Read(name, "table", table={key: columns[key] for key in columns if key not in drop}, dropped=drop)
    if (table := arrow_table(source)) is not None:
        drop = _of_these(options, table.column_names)
        table, notes = only_data(table, name, drop)
        return _Read(name, "table", table=columns_of(table, name), notes=notes, dropped=drop)
    X = as_array(source)
    return _Read(name, "table", table=columns_of(X, name)) if X.dtype.names else _Read(name, "array", X)


def _of_these(options: TableOptions, names: Collection[str]) -> tuple[str, ...]:
    """Return the columns to drop that a source has; another may have the others."""
    return tuple(name for name in options.drop if name in names)


def _refuse_unused(options: TableOptions, given: list[_Read]) -> None:
    """Raise a DataError if an option of tables applies to none of the sources."""
    if not any(part.text is not None for part in given):
        for name, value in options.given.items():
            raise DataError(
                expected=f"{name} only with text tables (.csv, .tsv)", got=f"{name}={value!r}", do=f"Drop --{name}."
            )
    if lacking := set(options.drop) - {name for part in given for name in part.dropped}:
        known = next((list(part.table) for part in given if part.table is not None), [])
        raise DataError(
            expected=f"columns of tables to drop: {', '.join(known[:12]) or 'these are no tables'}",
            got=", ".join(sorted(lacking)),
            do="Correct --drop." if known else "Drop --drop.",
        )


def _typed(given: list[_Read], categorical: Collection[str]) -> list[_Read]:
    """Return the sources with columns of text tables typed, as one over all sets; categories stay as written."""
    texts = [part.text for part in given if part.text is not None]
    tables, notes = typed(texts, categorical) if texts else ([], ())
    found, left = [], iter(tables)
    for part in given:
        if part.text is not None:
            part = replace(part, table=columns_of(next(left), part.source), notes=(*part.notes, *notes))
        found.append(part)
    return found


def _from_path(path: Path, name: str, array: str | None, options: TableOptions) -> _Read:
    if not path.exists():
        raise DataError(expected=f"{name}: a file or folder at {path}", got="nothing there", do="Correct the path.")
    source, kind = os.fspath(path), kind_of(path)
    with reading(path):
        are_images = kind == "images" or (kind == "parquet" and holds_images(path))
    if kind in ("csv", "parquet") and not are_images:
        with reading(path):
            read_as = read_untyped(path, options if is_text_table(path) else DETECT)
            is_text = isinstance(read_as, TextTable)
            whole = read_as.table if is_text else read_as
            drop = _of_these(options, whole.column_names)
            table, notes = only_data(whole, path, drop)
            checked_names(table.column_names, path, {})
            if is_text:
                text, notes = replace(read_as, table=table), (*read_as.notes, *notes)
                return _Read(name, source, text=text, notes=notes, dropped=drop)
            return _Read(name, source, table=columns_of(table, source), notes=notes, dropped=drop)
    if kind == "npz":
        return _Read(name, source, read(path, array=array or _array_for(path, name)).X)
    drop = options.drop if kind == "parquet" else ()
    raw = read(path, classes=False, options=TableOptions(drop=drop))
    names = None if raw.names is None else raw.names.tolist()
    if raw.X.dtype.names:
        return _Read(name, source, table=columns_of(raw.X, name))
    found = _Read(name, source, raw.X, names=names, is_folder=are_images, notes=raw.notes, dropped=drop)
    return replace(found, see_through=raw.see_through)


def _array_for(path: Path, name: str) -> str | None:
    with reading(path), np.load(path, allow_pickle=False) as stored:
        found = [option for option in _ARRAYS[name] if option in stored.files]
    return found[0] if len(found) == 1 else None


def _arrays_named(array: str | Sequence[str | None] | None) -> list[str | None]:
    if array is None:
        return [None] * 3
    parts = array.split(",") if isinstance(array, str) else list(array)
    if len(parts) == 1:
        parts *= 3
    if len(parts) != 3:
        raise DataError(
            expected="the name of one array, or three names: train, test, samples",
            got=f"{len(parts)} names: {array}",
            do="Pass one name or three; leave a name empty if its file needs none.",
        )
    return [part.strip() or None if part else None for part in parts]


def _listed(categorical: str | Collection[str] | None) -> list[str]:
    parts = categorical.split(",") if isinstance(categorical, str) else categorical or ()
    return [part.strip() for part in parts]


# --- three together


def _of_arrays(given: list[_Read]) -> ThreeSets:
    arrays = [_with_rows(part) for part in given]
    shapes = [X.shape[1:] if part.is_folder else image_shape_of(X.shape) for part, X in zip(given, arrays, strict=True)]
    shape: tuple[int, ...] | None
    known = [shape for shape in shapes if shape is not None]
    if len(known) == 3:
        arrays, shape = as_one_kind_of_image(arrays, known, [part.source for part in given])
        if shape[:2] == arrays[0].shape[1:3]:
            check_backgrounds(arrays, [part.see_through for part in given], [part.source for part in given])
    else:
        shape = next((shape for shape in known if all(np.prod(shape) == X[0].size for X in arrays)), None)
    require_one("shape", arrays, [f"{X.shape[1:]} in {part.source}" for part, X in zip(given, arrays, strict=True)])
    check_levels(arrays, [part.source for part in given], shape is not None)
    together = (arrays[0], arrays[1], arrays[2])
    names = {part.name.rstrip("s"): part.names for part in given if part.names is not None}
    sources = {part.name: part.source for part in given}
    told = [replace(part, notes=(*part.notes, *alpha_in_words(_with_rows(part)))) for part in given]
    return ThreeSets(together, together, sources, shape, names=names, notes=_notes(told))


def _notes(given: list[_Read]) -> dict[str, tuple[str, ...]]:
    return {part.name: part.notes for part in given if part.notes}


def _with_rows(part: _Read) -> NDArray[Any]:
    X = part.X
    if X is None or X.ndim < 2 or X.size == 0:
        raise DataError(
            expected=f"{part.name} with one row per example, shape (n, *event)",
            got=f"shape {None if X is None else X.shape} in {part.source}",
            do="Reshape n numbers to (n, 1) with array.reshape(-1, 1)." if X is not None and X.size else "Add rows.",
        )
    return X


def _of_tables(
    given: list[_Read],
    categorical: list[str],
    scale: Scale | None,
    id_column: str | None,
    group_column: str | None,
) -> ThreeSets:
    named = [part.table for part in given if part.table is not None]
    columns = list(named[0]) if named else None
    aside = (id_column, group_column)
    tables = [part.table if part.table is not None else _by_position(part, columns, aside) for part in given]
    names: dict[str, list[str]] = {}
    groups: tuple[NDArray[np.str_], ...] | None = None
    if group_column is not None:
        tables, values_of = without_column(tables, _SETS, group_column, "group_column")
        groups = groups_of_column(values_of, group_column)
    if id_column is not None:
        tables, values_of = without_column(tables, _SETS, id_column, "id_column")
        names = {name.rstrip("s"): [str(value) for value in values] for name, values in values_of.items()}
    train, test, samples = same_columns((tables[0], tables[1], tables[2]))
    plain = not categorical and scale is None and all(map(_is_numeric, (train, test, samples)))
    values = tuple(_shown(table, plain) for table in (train, test, samples))
    together = (values[0], values[1], values[2])
    sources = {part.name: part.source for part in given}
    roles = roles_of((train, test, samples), categorical)
    arrays, words = together, _weights(train) if plain else ""
    if not plain:
        arrays, words = mixed_space(train, test, samples, categorical=categorical, scale=scale or "range")
    roles += () if id_column is None else (Role(id_column, "name"),)
    roles += () if group_column is None else (Role(group_column, "group"),)
    return ThreeSets(arrays, together, sources, None, tuple(train), names, words, _notes(given), roles, groups)


def _by_position(part: _Read, columns: list[str] | None, aside: Collection[str | None]) -> Columns:
    """Return an array without names as a table with these columns, or with "0", "1", ..."""
    X = _with_rows(part)
    names = [str(i) for i in range(X.shape[1])] if columns is None else [c for c in columns if c not in aside]
    if X.ndim != 2 or X.shape[1] != len(names):
        raise DataError(
            expected=f"{part.name} with the {len(names)} columns of the other tables",
            got=f"an array of shape {X.shape} in {part.source}",
            do="Pass a table with the same columns.",
        )
    return {name: X[:, i] for i, name in enumerate(names)}


def _is_numeric(table: Columns) -> bool:
    return all(
        values.dtype.kind in "biu" or (values.dtype.kind == "f" and not np.isnan(values).any())
        for values in table.values()
    )


def _shown(table: Columns, plain: bool) -> NDArray[Any]:
    """Return a table as one array (n, columns), of numbers or of objects."""
    if plain:
        return np.column_stack(list(table.values()))
    values = np.empty((len(next(iter(table.values()))), len(table)), dtype=object)
    for i, column in enumerate(table.values()):
        # Nanoseconds would be shown as integers.
        values[:, i] = (column.astype("datetime64[us]") if column.dtype.kind == "M" else column).tolist()
    return values


def _weights(train: Columns) -> str:
    """Return a description of the values; it says if one column dominates the distances of a table."""
    spread = np.array([np.var(values.astype(np.float64)) for values in train.values()])
    top = int(spread.argmax())
    if len(spread) < 2 or not spread[top] > 0.9 * spread.sum():
        return "values as given"
    return (
        f"values as given: {list(train)[top]!r} has {spread[top] / spread.sum():.1%} of their variance and dominates "
        'distances (scale="range" gives every column the same weight)'
    )
