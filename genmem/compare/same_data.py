"""Are these audits of the same examples? In the same order they are compared as they are; otherwise by content."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from genmem.compare.sources import Audited
from genmem.data.arrays import fingerprint, identical_groups
from genmem.data.examples import Data
from genmem.errors import DataError


def aligned(found: Sequence[Audited]) -> tuple[list[Audited], list[str]]:
    """Return the audits with their examples in the order of the first one that has any, and notes on it.

    Examples are the same if all values are, at the lower precision of the two. Their shape may differ, as between
    images and flat rows.

    Raises:
        DataError: two audits are of different examples, or of different numbers of them; the message names both.
    """
    reference = next((one for one in found if one.data is not None), None)
    notes, moved = [], []
    for one in found:
        _require_size(found[0], one)
        if one.data is None:
            notes.append(f"{one.name}: scores without data, taken to be of the same examples in the same order.")
        elif reference is not None and (order := _order(reference, one)) is not None:
            notes.append(f"{one.name}: the examples are in another order than in {reference.name}; matched by content.")
            one = one.ordered(order)
        moved.append(one)
    return moved, notes


def _require_size(first: Audited, one: Audited) -> None:
    if one.n == first.n:
        return
    shared = ""
    if first.data is not None and one.data is not None and _width(first.data) == _width(one.data):
        shared = f"; {_in_common(*_grouped(first.data, one.data)):,} examples are in both"
    raise DataError(
        expected="audits of the same examples",
        got=f"{_words(first)}, and {_words(one)}{shared}",
        do="Audit both models on the same examples: scores on a part of the data are of models trained on less.",
    )


def _order(first: Audited, one: Audited) -> NDArray[np.intp] | None:
    """Return where each example of the first is in the other audit; None if all are at the same place."""
    assert first.data is not None and one.data is not None
    if np.array_equal(first.data.X, one.data.X):
        return None
    if _width(first.data) != _width(one.data):
        raise _different(first, one, "")
    ours, theirs = _grouped(first.data, one.data)
    if np.array_equal(ours, theirs):
        return None
    here, there = np.argsort(ours, kind="stable"), np.argsort(theirs, kind="stable")
    if not np.array_equal(ours[here], theirs[there]):
        raise _different(first, one, f"; {_in_common(ours, theirs):,} examples are in both")
    order = np.empty(len(here), np.intp)
    order[here] = there
    return order


def _grouped(one: Data, other: Data) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
    """Return a number for each row of both, equal where the rows are."""
    kind = min((np.result_type(data.X.dtype, np.float32) for data in (one, other)), key=lambda dtype: dtype.itemsize)
    rows = [np.asarray(data.X).reshape(len(data.X), -1).astype(kind) for data in (one, other)]
    groups = identical_groups(np.concatenate(rows))
    return groups[: len(rows[0])], groups[len(rows[0]) :]


def _in_common(ours: NDArray[np.intp], theirs: NDArray[np.intp]) -> int:
    count = 1 + int(max(ours.max(), theirs.max()))
    return int(np.minimum(np.bincount(ours, minlength=count), np.bincount(theirs, minlength=count)).sum())


def _width(data: Data) -> int:
    return int(np.prod(data.X.shape[1:], dtype=np.intp))


def _different(first: Audited, one: Audited, shared: str) -> DataError:
    do = "Audit both models on the same examples."
    if first.prepared != one.prepared:
        do += " If the files are the same, models with different likelihoods had values prepared for each: choose one."
    return DataError(expected="audits of the same examples", got=f"{_words(first)}, and {_words(one)}{shared}", do=do)


def _words(one: Audited) -> str:
    """Describe the data of an audit in an error: number, shape, preparation and checksum."""
    if one.data is None:
        return f"{one.name}: {one.n:,} scores"
    shape = " x ".join(map(str, one.data.X.shape[1:])) or "1"
    kind = f"{one.n:,} examples of {shape} values, {one.data.X.dtype}"
    return f"{one.name}: {kind} ({one.prepared}; sha256 {fingerprint(one.data.X)[:12]})"
