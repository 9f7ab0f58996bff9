"""Data frames and mappings of columns in memory, as the Arrow table that would be written to a file."""

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from genmem.data.folders import some
from genmem.errors import DataError

_LAZY = ("collect", "compute", "toPandas")  # methods of frames whose values are not there yet


def arrow_table(frame: Any) -> Any | None:
    """Return a data frame or a mapping of columns from memory as an Arrow table; None if it is neither.

    Frames are read through Arrow's stream interface (pandas 2.2, polars 1.3, pyarrow, narwhals, DuckDB and others), the
    method `to_arrow` (older polars), the interchange protocol `__dataframe__` (pandas 1.5, vaex and others), or column
    by column. Only the first tells the index of pandas, which is then left out; the others do not contain it.

    Raises:
        DataError: the frame is lazy, or the columns of a mapping have equal names, different lengths or values of
            several kinds.
    """
    import pyarrow as pa

    if isinstance(frame, pa.Table):
        return frame
    if isinstance(frame, Mapping) and not hasattr(frame, "columns"):
        return _of_columns({str(name): np.asarray(values) for name, values in frame.items()}, len(frame))
    for way in (_streamed, _by_arrow, _interchanged):
        if (table := way(frame)) is not None:
            return table
    if not is_frame(frame):
        return None
    _refuse_lazy(frame)
    return _of_columns({str(name): np.asarray(frame[name].to_numpy()) for name in frame.columns}, len(frame.columns))


def is_frame(source: Any) -> bool:
    """Return whether something in memory is a data frame: it has columns, and is no array."""
    by_protocol = any(hasattr(source, name) for name in ("__dataframe__", "to_arrow"))
    return by_protocol or (hasattr(source, "columns") and not hasattr(source, "dtype"))


def _streamed(frame: Any) -> Any | None:
    """Return a frame from Arrow's stream interface; None for a single column, which has this interface, too."""
    import pyarrow as pa

    if not hasattr(frame, "__arrow_c_stream__") and not isinstance(frame, pa.RecordBatch):
        return None
    try:
        return pa.table(frame)
    except (pa.ArrowInvalid, TypeError):
        return None


def _by_arrow(frame: Any) -> Any | None:
    import pyarrow as pa

    found = frame.to_arrow() if hasattr(frame, "to_arrow") else None
    return found if isinstance(found, pa.Table) else None


def _interchanged(frame: Any) -> Any | None:
    """Return a frame from the interchange protocol; None if it does not know the type of a column."""
    import pyarrow as pa
    from pyarrow import interchange

    if not hasattr(frame, "__dataframe__"):
        return None
    try:
        return interchange.from_dataframe(frame)
    except (NotImplementedError, TypeError, ValueError, RuntimeError, pa.ArrowException):
        return None


def _refuse_lazy(frame: Any) -> None:
    lazy = [name for name in _LAZY if hasattr(frame, name)]
    if lazy or not hasattr(frame, "__getitem__"):
        raise DataError(
            expected="a data frame with its values",
            got=f"a {type(frame).__name__}, whose values are not in memory",
            do=f"Pass the result of .{lazy[0]}()." if lazy else "Write it to a .parquet file, and pass that.",
        )


def _of_columns(arrays: Mapping[str, NDArray[Any]], count: int) -> Any:
    import pyarrow as pa

    if len(arrays) < count or len({array.shape[:1] for array in arrays.values()} | {()}) != 2:
        raise DataError(
            expected="a mapping from different names to columns of one length",
            got=f"columns of shapes {some([str(array.shape) for array in arrays.values()], 8)}",
            do="Pass one value per example in every column, or an array of shape (n, *event).",
        )
    return pa.table({name: _column(name, array) for name, array in arrays.items()})


def _column(name: str, array: NDArray[Any]) -> Any:
    import pyarrow as pa

    if array.ndim == 1 and array.dtype.kind not in "OS":
        return pa.array(array)
    try:
        return pa.array(array.tolist(), from_pandas=array.dtype.kind == "O")
    except (pa.ArrowInvalid, pa.ArrowTypeError) as error:
        raise DataError(
            expected=f"values of one kind in column {name!r}",
            got=" and ".join(sorted({type(value).__name__ for value in array.tolist()})[:4]),
            do="Convert them to numbers or text, or leave the column out.",
        ) from error
