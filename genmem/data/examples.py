"""The examples of an audit: loaded, checked, and prepared once."""

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeGuard

import numpy as np
from numpy.typing import ArrayLike, NDArray

from genmem.data.arrays import as_array, blocks, first_where, identical_groups
from genmem.data.csv_files import TableOptions
from genmem.data.files import Raw, read
from genmem.data.frames import arrow_table
from genmem.data.images import alpha_in_words, classes_in_words, image_shape_of
from genmem.data.labels import read_labels, tidy_labels
from genmem.data.named_labels import labels_by_name, order_in_words
from genmem.data.pixels import as_meant
from genmem.data.precision import Precision, examples_in
from genmem.data.table_files import examples_of, only_data
from genmem.errors import DataError
from genmem.protocols import Brief
from genmem.seeding import stream

_TOGETHER = 256  # rows of the source that share a random stream


@dataclass(frozen=True, eq=False)
class Data(Brief):
    """Examples and their metadata.

    Attributes:
        X: the examples, (n, *event_shape), float32, uint8, or float64 (see `load`).
        labels: (n,) integers, booleans or text, or None.
        groups: (n,) integers, booleans or text: examples with the same value belong together. None if unknown.
        index: (n,) the row of each example in the source, from 0.
        source: "digits", a path as passed, or "array".
        names: (n,) the path of each image within its folder, or None.
        columns: the names of the columns of a table, or None.
        image_shape: (h, w) or (h, w, 3) if an example can be shown as an image (by `to_images`), or None.
        preparation: how the values were transformed, once.
        notes: sentences on how the source was read, and what was left out.
    """

    X: NDArray[Any]
    labels: NDArray[Any] | None
    index: NDArray[np.intp]
    source: str
    names: NDArray[Any] | None = None
    columns: tuple[str, ...] | None = None
    image_shape: tuple[int, ...] | None = None
    preparation: str = "as given"
    groups: NDArray[Any] | None = None
    notes: tuple[str, ...] = ()

    def headline(self) -> str:
        """Return the size and the main figures."""
        return f"{len(self.X):,} examples of {' x '.join(map(str, self.X.shape[1:])) or 1} values from {self.source}"

    def take(self, positions: ArrayLike) -> "Data":
        """Return the examples at `positions`, in that order, or those where a mask is True."""
        given = np.asarray(positions)
        at = np.flatnonzero(given) if given.dtype == bool else given.astype(np.intp)
        beside = {name: getattr(self, name) for name in ("labels", "groups", "names")}
        taken: dict[str, Any] = {name: None if values is None else values[at] for name, values in beside.items()}
        return replace(self, X=self.X[at], index=self.index[at], **taken)


# --- load


def load(
    source: str | os.PathLike[str] | ArrayLike,
    *,
    array: str | None = None,
    label_array: str | None = None,
    label_column: str | None = None,
    labels: str | os.PathLike[str] | ArrayLike | None = None,
    group_column: str | None = None,
    groups: str | os.PathLike[str] | ArrayLike | None = None,
    sep: str | None = None,
    decimal: str | None = None,
    na: str | Sequence[str] | None = None,
    drop: str | Sequence[str] = (),
    pixels: bool | None = None,
    subset: int | None = None,
    seed: int = 0,
    precision: Precision = "single",
) -> Data:
    """Load and check examples. uint8 and float32 are kept, bool becomes uint8, other numbers become float32.

    Args:
        source: "digits" (scikit-learn's 8 x 8 digits, values 0 to 1), an array of shape (n, *event), a data frame
            (pandas, polars, pyarrow, or anything with Arrow's stream interface), a mapping of columns, or a path to a
            .npy, .npz, .csv or .parquet file, an MNIST-style IDX file (gzipped or not), or a folder of images.
        array: the array of an .npz file that holds the examples; not needed if only one array can.
        label_array: the array of an .npz file that holds the labels.
        label_column: the column of a table that holds the labels.
        labels: labels as an array or in a separate file (.npy, .csv of one column, .txt, IDX). They replace the labels
            of a folder of images or of "digits". For a folder, a table or .txt file may also name the image of each
            label; of several columns, `label_column` is then the one of the labels.
        group_column: the column of a table that says which rows belong together.
        groups: the same as an array or in a separate file, as for `labels`: examples of one group (a patient, a film,
            augmentations of one image) have the same value.
        sep: separator of the fields of a text table; detected by default.
        decimal: decimal mark of a text table, "." or ","; detected by default.
        na: words of a text table that mark a missing value, instead of "", NA, NaN, null and the like.
        drop: columns of a table to leave out. `na` and `drop` are lists, or text with commas.
        pixels: whether bytes, and whole numbers of a table, are 8-bit pixels (True) or numbers (False). By default,
            those of images are pixels; those of tables, and those up to 63 but above 1, are numbers.
        subset: keep this many examples, drawn at random without replacement, in their original order.
        seed: of the draw.
        precision: "single"; "needed", which keeps float64 if rounding to float32 would change a column by more than a
            ten-thousandth of its range; or "double".

    Raises:
        DataError: the source is missing, damaged, not numeric, not finite or has fewer than two examples; labels or
            groups are missing, given twice or of another length; `subset` exceeds the number of examples.

    >>> data = load("digits", subset=100)
    >>> data.X.shape, data.X.dtype.name, data.image_shape
    ((100, 64), 'float32', (8, 8))
    """
    options = table_options(sep, decimal, na, drop)
    of_images = _is_path(source) and os.path.isdir(source)  # columns of files beside it: see `labels_by_name`
    named = {
        "array": array,
        "label_array": label_array,
        "label_column": None if of_images and _is_path(labels) else label_column,
        "group_column": None if of_images and _is_path(groups) else group_column,
    }
    raw, name = _read(source, options, named, classes=labels is None)
    X = examples_in(precision, raw.X, name, raw.columns, least=2)
    X, meant = as_meant(X, name, pixels, encoded=raw.names is not None)
    tidy, of_labels = _beside("label", labels, label_array, label_column, raw, name)
    belong, of_groups = _beside("group", groups, None, group_column, raw, name)
    shape = (8, 8) if name == "digits" else image_shape_of(X.shape)
    notes = (*raw.notes, *meant, *alpha_in_words(raw.X), *of_labels, *of_groups)
    data = Data(X, tidy, np.arange(len(X)), name, raw.names, raw.columns, shape, groups=belong, notes=notes)
    return data if subset is None else _subset(data, subset, seed)


def table_options(
    sep: str | None, decimal: str | None, na: str | Sequence[str] | None, drop: str | Sequence[str]
) -> TableOptions:
    """Return the options of tables, as they are given in Python or on the command line."""
    words = None if na is None else tuple(_listed(na))
    return TableOptions(None if sep is None else sep.replace("\\t", "\t"), decimal, words, tuple(_listed(drop)))


def _listed(given: str | Sequence[str]) -> list[str]:
    return [part.strip() for part in given.split(",") if given] if isinstance(given, str) else list(given)


def _read(source: Any, options: TableOptions, named: Mapping[str, str | None], classes: bool) -> tuple[Raw, str]:
    if _is_path(source):
        return read(Path(source), options=options, classes=classes, **named), os.fspath(source)
    if not isinstance(source, str) and (table := arrow_table(source)) is not None:
        return _from_memory(table, options, named), "table"
    of_tables = {**options.given, **({"drop": options.drop} if options.drop else {})}
    _refuse_options(_name_of(source), **named, **of_tables)
    return (_digits(), "digits") if isinstance(source, str) else (Raw(as_array(source)), "array")


def _from_memory(table: Any, options: TableOptions, named: Mapping[str, str | None]) -> Raw:
    """Return a table from memory as it would be read from the file it were written to."""
    of_files = {name: value for name, value in named.items() if not name.endswith("_column")}
    _refuse_options("a table", **of_files, **options.given)
    where = Path("the table")
    table, notes = only_data(table, where, options.drop)
    roles = {"label": named["label_column"], "group": named["group_column"]}
    X, (labels, groups), columns = examples_of(table, where, **roles)
    return Raw(X, labels, columns=columns, groups=groups, notes=notes)


def _is_path(source: Any) -> TypeGuard[str | os.PathLike[str]]:
    return isinstance(source, str | os.PathLike) and source != "digits"


def _refuse_options(source: str | None, **options: Any) -> None:
    for name, value in options.items():
        if value is not None:
            raise DataError(
                expected=f"{name} only with a file",
                got=f"{name}={value!r} with {source}",
                do=f"Drop {name}; pass {'groups' if 'group' in name else 'labels'} of an array as "
                f"`{'groups' if 'group' in name else 'labels'}`.",
            )


def _name_of(source: Any) -> str | None:
    if source is None:
        return None
    return os.fspath(source) if isinstance(source, str | os.PathLike) else "an array"


def _digits() -> Raw:
    from sklearn.datasets import load_digits

    pixels, digits = load_digits(return_X_y=True)
    return Raw((pixels / 16).astype(np.float32), digits)


def _beside(
    what: str, given: Any, array: str | None, column: str | None, raw: Raw, source: str
) -> tuple[NDArray[Any] | None, tuple[str, ...]]:
    """Return the labels or groups, those given or those found in the source, and notes on them."""
    if given is None:
        found = raw.labels if what == "label" else raw.groups
        is_told = found is not None and raw.names is not None and column is None
        notes = (classes_in_words(found),) if found is not None and is_told else ()
        return None if found is None else tidy_labels(found, len(raw.X), source, what), notes
    by_name = None
    if array is None and raw.names is not None and _is_path(given):
        by_name = labels_by_name(Path(given), raw.names.tolist(), what, column)
    if by_name is None and (array or column) is not None:
        options = "groups (--groups) and group_column (--group-column)"
        if what == "label":
            options = "labels, label_array and label_column"
        raise DataError(
            expected=f"{what}s from one source",
            got=f"{array or column!r} and {_name_of(given)}",
            do=f"Pass only one of {options}.",
        )
    if by_name is not None:
        return tidy_labels(by_name[0], len(raw.X), os.fspath(given), what), by_name[1]
    found = read_labels(Path(given), what) if _is_path(given) else as_array(given, f"{what}s")
    tidy = tidy_labels(found, len(raw.X), _name_of(given) or source, what)
    return tidy, () if raw.names is None else (order_in_words(tidy, raw.names.tolist(), what),)


def _subset(data: Data, size: int, seed: int) -> Data:
    if not 2 <= size <= len(data.X) or size != int(size):
        raise DataError(
            expected=f"a subset of 2 to {len(data.X)} examples",
            got=str(size),
            do="Choose a number in this range, or leave it out to keep all.",
        )
    taken = data.take(np.sort(stream(seed, "subset").choice(len(data.X), int(size), replace=False)))
    return replace(taken, notes=(*data.notes, f"{size:,} of {len(data.X):,} examples, drawn at random, seed {seed}."))


# --- prepare


def prepare(data: Data, likelihood: str | None, seed: int) -> Data:
    """Binarize or dequantize pixels once, so that every model is trained and evaluated on the same values.

    With likelihood "bernoulli", uint8 data become x ~ Bernoulli(pixel / 255), uint8 0 or 1, and data in [0, 1] become x
    ~ Bernoulli(value); data that are already 0 or 1 are kept. With likelihood "discretized_logistic", which models
    whole levels, all data are kept. With any other likelihood, uint8 data become (pixel + u) / 256, with u uniform on
    [0, 1) in steps of 2^-16, so that floor(256 x) is the pixel in float32; if all pixels are 0 or 1, they become (pixel
    + u) / 2. Other data are kept.

    The noise of an example depends on `seed` and on its row in the source, not on its position or its neighbours:
    examples of subsets and duplicates have the same values as in the full data.

    Raises:
        DataError: the likelihood is "bernoulli" and values are outside [0, 1].
    """
    if likelihood == "bernoulli":
        return _binarise(data, seed)
    if data.X.dtype != np.uint8 or likelihood == "discretized_logistic":
        return data
    X, levels = np.empty(data.X.shape, np.float32), 2 if data.X.max() <= 1 else 256
    for at, noise in _each(data, seed, "dequantise", lambda draw, size: draw.integers(2**16, size=size)):
        X[at] = (data.X[at] * 2.0**16 + noise) / (2.0**16 * levels)
    return replace(data, X=X, preparation=f"dequantised once, seed {seed}", notes=(*data.notes, _before(data)))


def _binarise(data: Data, seed: int) -> Data:
    top = 255 if data.X.dtype == np.uint8 else 1
    _check_probabilities(data, top)
    if all(((block == 0) | (block == 1)).all() for _, block in blocks(data.X)):
        return data
    X = np.empty(data.X.shape, np.uint8)
    for at, noise in _each(data, seed, "binarise", lambda draw, size: draw.random(size)):
        X[at] = noise < data.X[at] / top
    return replace(data, X=X, preparation=f"binarised once, seed {seed}", notes=(*data.notes, _before(data)))


def _before(data: Data) -> str:
    """Return the sentence on the values that were read, before noise."""
    ends = [(block.min(), block.max()) for _, block in blocks(data.X)]
    low, high = min(low for low, _ in ends), max(high for _, high in ends)
    return f"As read, {'pixels' if data.X.dtype == np.uint8 else 'values'} were from {low:g} to {high:g}."


def _each(
    data: Data, seed: int, purpose: str, draw: Callable[[np.random.Generator, tuple[int, ...]], NDArray[Any]]
) -> Iterator[tuple[NDArray[np.intp], NDArray[Any]]]:
    """Yield positions and their noise, drawn for whole blocks of source rows and hence the same in any subset."""
    block = data.index // _TOGETHER
    order = np.argsort(block, kind="stable")
    numbers, starts = np.unique(block[order], return_index=True)
    for number, at in zip(numbers, np.split(order, starts[1:]), strict=True):
        noise = draw(stream(seed, purpose, int(number)), (_TOGETHER, *data.X.shape[1:]))
        yield at, noise[data.index[at] % _TOGETHER]


def _check_probabilities(data: Data, top: int) -> None:
    bad, row, column = first_where(data.X, lambda block: ~((block >= 0) & (block <= top)))
    if bad:
        raise DataError(
            expected="values in [0, 1], or uint8 pixels, for a Bernoulli likelihood",
            got=f"{data.X[row].reshape(-1)[column]} in row {data.index[row]}, column {column} of {data.source}",
            do="Rescale to [0, 1], save whole numbers from 0 to 255 as uint8, or choose another likelihood.",
        )


# --- plant


def plant_duplicates(data: Data, positions: ArrayLike, copies: int) -> tuple[Data, NDArray[np.intp]]:
    """Append `copies` exact copies of each example at `positions`, to study the effect of duplication on an audit.

    Returns:
        The data with the copies at the end (all of the first example, then of the next), each with the source row of
        its original in `index`; and the groups (n + len(positions) * copies,) of `identical_groups`, so that an example
        and its copies can be left out together.

    Raises:
        DataError: a position is outside the data, or `copies` is negative.

    >>> more, groups = plant_duplicates(load("digits"), [5], copies=2)
    >>> len(more.X), groups[-2:]
    (1799, array([5, 5]))
    """
    at = np.asarray(positions, np.intp).reshape(-1)
    n = len(data.X)
    if copies < 0 or (at.size and not 0 <= at.min() <= at.max() < n):
        raise DataError(
            expected=f"positions from 0 to {n - 1} and 0 or more copies",
            got=f"positions {at.tolist()[:8]} and {copies} copies",
            do="Pass valid positions and a number of copies of 0 or more.",
        )
    more = data.take(np.concatenate([np.arange(n), np.repeat(at, copies)]))
    return more, identical_groups(more.X)
