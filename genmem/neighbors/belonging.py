"""Which rows belong together: groups that the user gives, joined with identical rows, and rows that look like groups.

Frames of one film, visits of one patient or versions of one picture came to their set together. Under permutation of
the train/held-out labels they must stay together: the group has one label, as identical rows have.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.sparse import coo_matrix
from scipy.sparse.csgraph import connected_components

from genmem.errors import DataError
from genmem.search.exact import nearest
from genmem.seeding import stream

FloatArray = NDArray[np.float64]
IndexArray = NDArray[np.intp]
Groups = Sequence[ArrayLike]

_SETS = ("train", "test", "samples")
CLUSTERED = 0.3  # of the rows, the share with its closest row close by in the file, beyond chance, at least
_BESIDE = 10  # rows before and after that count as close by
_TRIED = 500  # rows whose closest row is looked for
_FEWEST = 60  # rows in which a pattern can be told
_ORDERS = 999  # random orders of the rows
_LEVEL = 0.002
_LEAST = 2  # groups in a set


class Belonging(NamedTuple):
    """The group of each row that the user gave: training and held-out examples share numbers, samples have their own.

    `samples` is None if samples are independent.
    """

    train: IndexArray
    test: IndexArray
    samples: IndexArray | None

    @property
    def held_out(self) -> int:
        """The number of groups of held-out examples."""
        return len(np.unique(self.test))

    @property
    def shared(self) -> tuple[int, int]:
        """How many groups are in the training and in the held-out set, and how many held-out examples these hold."""
        both = np.isin(self.test, self.train)
        return len(np.unique(self.test[both])), int(both.sum())


def belonging(groups: Groups | None, sizes: Sequence[int]) -> Belonging | None:
    """Return the groups of rows that the user gave as numbers.

    Args:
        groups: of training and of held-out examples, and of samples if these belong together: numbers or names.
        sizes: of the three sets.

    Raises:
        DataError: they are not one group for each row.

    >>> belonging((["a", "a", "b"], ["c", "b"]), (3, 2, 9)).shared
    (1, 1)
    """
    if groups is None:
        return None
    given = [np.asarray(of) for of in groups] if isinstance(groups, tuple | list) else []
    if len(given) not in (2, 3):
        raise DataError(
            expected="groups of training and of held-out examples, and perhaps of samples: a tuple of two or three",
            got=f"{len(given) or type(groups).__name__}",
            do="Pass groups=(train_groups, test_groups) or (train_groups, test_groups, sample_groups).",
        )
    for name, of, size in zip(_SETS, given, sizes, strict=False):
        _check(name, of, size)
    if given[0].dtype.kind != given[1].dtype.kind:
        given[:2] = [of.astype(str) for of in given[:2]]
    numbers = np.unique(np.concatenate(given[:2]), return_inverse=True)[1].astype(np.intp)
    samples = np.unique(given[2], return_inverse=True)[1].astype(np.intp) if len(given) == 3 else None
    for name, of in (("train", numbers[: sizes[0]]), ("test", numbers[sizes[0] :])):
        if len(np.unique(of)) < _LEAST:
            raise DataError(
                expected=f"{_LEAST} or more groups of rows in {name}",
                got="1: all rows belong together",
                do="Check the groups: rows of one group count as one observation, which allows no comparison.",
            )
    return Belonging(numbers[: sizes[0]], numbers[sizes[0] :], samples)


def _check(name: str, of: NDArray[np.generic], size: int) -> None:
    missing = of.dtype.kind == "f" and not np.isfinite(of).all()
    if of.shape != (size,) or missing or of.dtype.kind not in "biufUSMO":
        raise DataError(
            expected=f"one group for each of the {size:,} rows of {name}",
            got="missing values" if missing else f"shape {of.shape}, dtype {of.dtype}",
            do="Give a row that belongs to no other a group of its own.",
        )
    if of.dtype.kind == "O" and any(value is None or value != value for value in of.tolist()):
        raise DataError(
            expected=f"a group for each row of {name}",
            got="missing values",
            do="Give a row that belongs to no other a group of its own.",
        )


def joined(identical: IndexArray, own: IndexArray) -> IndexArray:
    """Return the groups (n,) of rows that are linked by either grouping, numbered by first appearance.

    Args:
        identical: (n,) the group of identical rows.
        own: (some,) the user's group of the first rows; the others belong to none.

    >>> joined(np.array([0, 1, 2, 1, 4]), np.array([0, 0, 1, 2])).tolist()
    [0, 0, 1, 0, 2]
    """
    size = int(identical.max()) + 1
    links = coo_matrix((np.ones(len(own)), (identical[: len(own)], size + own)), shape=(2 * size + len(own),) * 2)
    part = connected_components(links, directed=False)[1][identical]
    _, first, group = np.unique(part, return_index=True, return_inverse=True)
    return np.asarray(np.argsort(np.argsort(first))[group], np.intp)


def one_of_each(own: IndexArray, place: IndexArray, seed: int) -> IndexArray:
    """Return one row of each group, ascending, drawn with the seed; `place` is the rank of each row by its values."""
    drawn = stream(seed, "rows of groups given").permutation(len(own))[place]
    order = np.argsort(drawn, kind="stable")
    return np.sort(order[np.unique(own[order], return_index=True)[1]])


def smallest_of_each(values: FloatArray, own: IndexArray) -> FloatArray:
    """Return the smallest value of each group, (groups,)."""
    smallest = np.full(int(own.max()) + 1, np.inf)
    np.minimum.at(smallest, own, values)
    return np.asarray(smallest[np.isfinite(smallest)])


def units(group: IndexArray, own: IndexArray | None, most: int) -> NDArray[np.int64]:
    """Return how many rows, or groups that the user gave, each of `most` groups of identical or linked rows holds."""
    if own is not None:
        group = np.unique(np.stack([group, own]), axis=1)[0]
    return np.bincount(group, minlength=most).astype(np.int64)


def beside_in_file(rows: NDArray[np.generic], seed: int = 0) -> float:
    """Return the share of rows whose closest other row is close by in the file, beyond chance; 0 if chance explains it.

    Close by is at most 10 rows away. In random order the share would be c, about 20 / n; the value is
    (share - c) / (1 - c). Chance is judged by 999 random orders. In files sorted by film or patient it is near 1.
    """
    size = len(rows)
    if size < _FEWEST:
        return 0.0
    tried = np.sort(stream(seed, "rows beside each other").choice(size, min(_TRIED, size), replace=False))
    found = nearest(rows[tried], rows, 1, exclude=tried)[1][:, 0]
    beside = min(_BESIDE, size // 20)
    share = float((np.abs(tried - found) <= beside).mean())
    chance = 1 - (1 - beside / size) ** 2
    value = (share - chance) / (1 - chance)
    if value < CLUSTERED:
        return 0.0
    orders = stream(seed, "orders of the rows")
    random = [_share_beside(orders.permutation(size), tried, found, beside) for _ in range(_ORDERS)]
    return value if np.mean([*(np.array(random) >= share), True]) <= _LEVEL else 0.0


def _share_beside(order: IndexArray, tried: IndexArray, found: NDArray[np.int64], beside: int) -> float:
    return float((np.abs(order[tried] - order[found]) <= beside).mean())
