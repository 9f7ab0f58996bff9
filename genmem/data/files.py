"""Readers of data files: they return the contents of a file, which are checked as examples elsewhere.

Nothing is unpickled and nothing is downloaded.
"""

import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from genmem.data.cifar import is_cifar, read_cifar
from genmem.data.csv_files import TableOptions, is_text_table
from genmem.data.folders import counted, files_below, some
from genmem.data.idx import is_idx, read_idx
from genmem.data.image_files import is_image_name
from genmem.data.image_tables import holds_images, images_of, without_columns
from genmem.data.images import read_images
from genmem.data.notes import Note
from genmem.data.other_kinds import is_pointer, what_it_is
from genmem.data.parquet_shards import shards_in
from genmem.data.table_files import DETECT, examples_of, only_data, read_table
from genmem.data.tensors import SUFFIXES, is_sparse, read_sparse, read_tensors
from genmem.errors import DataError

KINDS = (
    "a .npy, .npz, .csv, .tsv, .parquet, .safetensors or .pt file, an MNIST-style IDX file, a .bin file of CIFAR, or a "
    "folder of images"
)


@dataclass(frozen=True, eq=False)
class Raw:
    """The contents of a file: examples, and labels, groups, file names and column names if it has them.

    `notes`: sentences on how they were read, and what was left out. `see_through`: how many images had transparent
    pixels.
    """

    X: NDArray[Any]
    labels: NDArray[Any] | None = None
    names: NDArray[Any] | None = None
    columns: tuple[str, ...] | None = None
    groups: NDArray[Any] | None = None
    notes: tuple[str, ...] = ()
    see_through: int = 0


def read(
    path: Path,
    *,
    array: str | None = None,
    label_array: str | None = None,
    label_column: str | None = None,
    group_column: str | None = None,
    options: TableOptions = DETECT,
    classes: bool = True,
) -> Raw:
    """Read a file or a folder of images; the kind is determined by the suffix or the first bytes.

    Args:
        path: the file or folder.
        array: the array of an .npz file that holds the examples.
        label_array: the array of an .npz file that holds the labels.
        label_column: the column of a table that holds the labels.
        group_column: the column of a table that says which rows belong together.
        options: how tables are read.
        classes: whether the subfolders of a folder of images are their labels.

    Raises:
        DataError: the path is missing, unreadable, damaged or of an unknown kind, or an option does not apply to it.
    """
    kind = kind_of(path)
    if kind not in ("npz", "tensors"):
        _refuse_option("array", array, ".npz files and files of tensors", path)
        _refuse_option("label_array", label_array, ".npz files and files of tensors", path)
    if kind not in ("csv", "parquet"):
        _refuse_option("label_column", label_column, ".csv and .parquet files", path)
        _refuse_option("group_column", group_column, ".csv and .parquet files", path)
        _refuse_option("drop", ",".join(options.drop) or None, ".csv and .parquet files", path)
        for name, value in options.given.items():
            _refuse_option(name, value, "text tables (.csv, .tsv)", path)
    with reading(path):
        if kind == "parquet" and holds_images(path):
            return _read_image_table(path, label_column, group_column, options)
        if kind == "cifar":
            pixels, numbers, said = read_cifar(path)
            return Raw(pixels, numbers, notes=said)
        if kind == "npz":
            return _read_npz(path, array, label_array)
        if kind == "tensors":
            return _read_tensors(path, array, label_array)
        if kind in ("csv", "parquet"):
            table, notes = read_table(path, options)
            table, more = only_data(table, path, options.drop)
            X, (labels, groups), columns = examples_of(table, path, label=label_column, group=group_column)
            return Raw(X, labels, columns=columns, groups=groups, notes=notes + more)
        if kind == "images":
            pictures, labels, names, notes = read_images(path, classes=classes)
            return Raw(pictures.X, labels, names=names, notes=notes, see_through=pictures.see_through)
        return Raw(read_npy(path) if kind == "npy" else read_idx(path))


def _read_image_table(path: Path, label_column: str | None, group_column: str | None, options: TableOptions) -> Raw:
    table, _ = read_table(path, options)
    table = without_columns(table, path, options.drop)
    pictures, (labels, groups), names, notes = images_of(table, path, label=label_column, group=group_column)
    return Raw(pictures.X, labels, names=names, groups=groups, notes=notes, see_through=pictures.see_through)


def kind_of(path: Path) -> str:
    """Return "npy", "npz", "tensors", "csv", "parquet", "idx", "cifar" or "images", by the suffix or the first bytes.

    A folder of .parquet files without images is "parquet".

    Raises:
        DataError: the path does not exist or is of another kind.
    """
    with reading(path):
        if not path.exists():
            raise DataError(
                expected=f"a file or folder at {path}",
                got="nothing there",
                do="Correct the path, or name the built-in data set: digits.",
            )
        if is_pointer(path):
            raise DataError(
                expected=f"the data of {path}",
                got="a pointer of Git LFS to it",
                do="Fetch the file with git lfs pull.",
            )
        if path.is_dir():
            return "parquet" if shards_in(path) and not files_below(path, is_image_name).names else "images"
        suffix = path.suffix.lower()
        if is_text_table(path):
            return "csv"
        if suffix in (".npy", ".npz", ".parquet"):
            return suffix[1:]
        if suffix in SUFFIXES:
            return "tensors"
        if path.is_file() and suffix == ".bin" and (is_cifar(path) or not is_idx(path)):
            return "cifar"
        if path.is_file() and ((suffix == ".gz" and not path.stem.endswith(".tar")) or is_idx(path)):
            return "idx"
        known = what_it_is(path)
    if known is not None:
        raise DataError(expected=KINDS, got=f"{path}, which is {known[0]}", do=known[1])
    if is_image_name(path.name):
        do = "Pass the folder that holds the images."
    else:
        do = "Save the examples as an array with numpy.save; files are never unpickled."
    raise DataError(expected=KINDS, got=str(path), do=do)


def _refuse_option(name: str, value: object, where: str, path: Path) -> None:
    if value is not None:
        raise DataError(
            expected=f"{name} only with {where}",
            got=f"{name}={value!r} with {path}",
            do=f"Drop --{name.replace('_', '-')}.",
        )


@contextmanager
def reading(path: Path) -> Iterator[None]:
    """Turn any error from reading `path` inside the `with` block into a DataError that names the path."""
    try:
        yield
    except DataError:
        raise
    except OSError as error:
        if error.strerror:
            raise DataError(
                expected=f"a readable file at {path}",
                got=error.strerror,
                do="Correct the path or its permissions.",
            ) from error
        raise _damaged(path, error) from error
    except Exception as error:  # zipfile, zlib, numpy, pyarrow and Pillow each raise their own errors
        raise _damaged(path, error) from error


def _damaged(path: Path, error: Exception) -> DataError:
    if "Object arrays cannot be loaded" in str(error):
        return _objects(path)
    reason = " ".join(str(error).split())[:200] or type(error).__name__
    if "pickle" in reason:
        reason = "it holds no numpy array"
    return DataError(
        expected=f"an undamaged {path.suffix or 'IDX'} file at {path}",
        got=f"a file that cannot be read ({reason})",
        do="Write or copy the file again.",
    )


def _objects(path: Path) -> DataError:
    return DataError(
        expected="an array of numbers",
        got=f"Python objects in {path}, which are never unpickled",
        do='Save it as numbers: numpy.save(path, array.astype("float32")).',
    )


# --- numpy


def read_npy(path: Path) -> NDArray[Any]:
    """Return the array of a .npy file.

    Raises:
        DataError: the file is damaged or holds Python objects.
    """
    with reading(path), open(path, "rb") as file:
        if file.read(1) == b"":
            raise ValueError("it is empty")
        file.seek(0)
        return np.lib.format.read_array(file, allow_pickle=False)


def _read_npz(path: Path, array: str | None, label_array: str | None) -> Raw:
    if _is_sparse(path):
        return _read_sparse(path, array or label_array)
    with zipfile.ZipFile(path) as archive:
        members = [name for name in archive.namelist() if name.endswith(".npy")]
        shapes = {name.removesuffix(".npy"): _shape_in(archive, name) for name in members}
    array = _candidate(shapes, path) if array is None else array
    wanted = [array] if label_array is None else [array, label_array]
    for name in wanted:
        if name not in shapes:
            raise DataError(
                expected=f"an array in {path}: {_listing(shapes)}",
                got=repr(name),
                do="Name one of these.",
            )
    with np.load(path, allow_pickle=False) as stored:
        labels = None if label_array is None else stored[label_array]
        return Raw(stored[array], labels, notes=_chosen(array, label_array, shapes))


def _is_sparse(path: Path) -> bool:
    with zipfile.ZipFile(path) as archive:
        return is_sparse({name.removesuffix(".npy") for name in archive.namelist()})


def _read_sparse(path: Path, array: str | None) -> Raw:
    if array is not None:
        raise DataError(
            expected=f"no choice of an array in {path}, which is one sparse matrix of scipy",
            got=repr(array),
            do="Drop --array and --label-array; pass labels as a file (--labels).",
        )
    return Raw(read_sparse(path), notes=(Note("A sparse matrix was made dense."),))


def _read_tensors(path: Path, array: str | None, label_array: str | None) -> Raw:
    found = read_tensors(path)
    shapes = {name: value.shape for name, value in found.items()}
    array = _candidate(shapes, path) if array is None else array
    for name in (array, label_array):
        if name is not None and name not in found:
            raise DataError(expected=f"a tensor in {path}: {_listing(shapes)}", got=repr(name), do="Name one of these.")
    labels = None if label_array is None else found[label_array]
    return Raw(found[array], labels, notes=_chosen(array, label_array, shapes))


def _chosen(array: str, label_array: str | None, shapes: dict[str, tuple[int, ...]]) -> tuple[str, ...]:
    """Return the sentence on the arrays of a file that were left out."""
    left = {name: shape for name, shape in shapes.items() if name not in (array, label_array)}
    said = f"{counted(len(left), 'array')} left out"
    told = f"Examples are the array {array!r}; {said}: {some(_listing(left).split(', '), 8)}."
    return (Note(told, f"{said[0].upper()}{said[1:]}."),) if left else ()


def _shape_in(archive: zipfile.ZipFile, name: str) -> tuple[int, ...]:
    with archive.open(name) as file:
        old = np.lib.format.read_magic(file) == (1, 0)
        header = np.lib.format.read_array_header_1_0 if old else np.lib.format.read_array_header_2_0
        return header(file)[0]


def _candidate(shapes: dict[str, tuple[int, ...]], path: Path) -> str:
    found = list(shapes) if len(shapes) == 1 else [name for name, shape in shapes.items() if len(shape) > 1]
    if len(found) != 1:
        raise DataError(
            expected="the name of the array that holds the examples",
            got=f"none, and {path} holds {_listing(shapes)}",
            do="Pass its name as array (--array), and that of the labels as label_array (--label-array).",
        )
    return found[0]


def _listing(shapes: dict[str, tuple[int, ...]]) -> str:
    return ", ".join(f"{name} {shape}" for name, shape in shapes.items()) or "no arrays"
