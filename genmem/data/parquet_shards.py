"""Tables in several .parquet files, as Hugging Face data sets store them: a folder is read as one table."""

import os
from pathlib import Path
from typing import Any

from genmem.data.folders import counted, in_order, some, without_numbers
from genmem.errors import DataError


def shards_in(folder: Path) -> list[Path]:
    """Return the .parquet files of a folder in the order of their numbers; none if it holds none.

    Raises:
        DataError: their names differ in more than numbers: such as train and test files.
    """
    names = in_order(name for name in os.listdir(folder) if name.endswith(".parquet") and not name.startswith("."))
    first = {without_numbers(name): name for name in reversed(names)}
    if len(first) > 1:
        raise DataError(
            expected=f".parquet files of one table in {folder}, whose names differ only in numbers",
            got=f"{counted(len(first), 'kind')} of names: {some(sorted(first.values()), 8)}",
            do="Pass one of these files, or move those of one kind into a folder of their own.",
        )
    return [folder / name for name in names]


def read_shards(folder: Path) -> Any:
    """Return the .parquet files of a folder as one Arrow table.

    Raises:
        DataError: their columns differ. Damaged files raise errors of pyarrow.
    """
    import pyarrow as pa
    from pyarrow import parquet

    paths = shards_in(folder)
    tables = []
    for path in paths:
        with parquet.ParquetFile(path) as file:
            tables.append(file.read())
        if not tables[-1].schema.equals(tables[0].schema):
            raise DataError(
                expected=f"the same columns in every .parquet file of {folder}",
                got=f"{_columns(tables[0])} in {paths[0].name}, {_columns(tables[-1])} in {path.name}",
                do="Move the files of another table into a folder of their own.",
            )
    return pa.concat_tables(tables)


def _columns(table: Any) -> str:
    return some([f"{field.name} ({field.type})" for field in table.schema], 8)
