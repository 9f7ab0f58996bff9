"""Which examples does each refit leave out, which repeat does it belong to, and how is the work divided?"""

import heapq
import math
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from genmem.data.arrays import fingerprint
from genmem.errors import DataError
from genmem.protocols import Brief
from genmem.seeding import stream

LONGEST_REPEAT = 20
SPLITS_PER_SHARD = 25


@dataclass(frozen=True, eq=False)
class Splits(Brief):
    """A design of leave-out refits.

    Repeats are independent of each other; standard errors are from them, never from the splits of one repeat.

    Attributes:
        held_out: (n_splits, n) bool, true where the split leaves the example out of training.
        repeat: (n_splits,) the repeat each split belongs to.
        shard: (n_splits,) the unit of work that each split belongs to: 0, 1, ... in the order of the splits.
        kind: "k_fold", "subsets", "leave_out", or a name of your own.

    Raises:
        DataError: the shapes disagree, the shards are out of order, or a split leaves nothing to train on.
    """

    held_out: NDArray[np.bool_]
    repeat: NDArray[np.intp]
    shard: NDArray[np.intp]
    kind: str = "custom"

    def headline(self) -> str:
        """Return the size and the main figures."""
        return f"{self.n:,} examples, {self.n_splits:,} splits in {self.n_repeats:,} repeats, {self.kind}"

    def __post_init__(self) -> None:
        for name, dtype in (("held_out", np.bool_), ("repeat", np.intp), ("shard", np.intp)):
            object.__setattr__(self, name, np.asarray(getattr(self, name), dtype=dtype))
        _require_shapes(self.held_out, self.repeat, self.shard)
        _require_order(self.shard)
        _require_training_examples(self.held_out)

    @property
    def n(self) -> int:
        """The number of examples."""
        return int(self.held_out.shape[1])

    @property
    def n_splits(self) -> int:
        """The number of refits."""
        return int(self.held_out.shape[0])

    @property
    def n_repeats(self) -> int:
        """The number of independent repeats."""
        return len(np.unique(self.repeat))

    def first_repeats(self, repeats: int) -> Self:
        """Return the splits of the first `repeats` repeats, with their shards renumbered.

        >>> Splits.k_fold(7, folds=3, repeats=4).first_repeats(2).n_splits
        6
        """
        rows = np.isin(self.repeat, np.unique(self.repeat)[:repeats])
        if rows.all():
            return self
        shard = np.unique(self.shard[rows], return_inverse=True)[1]
        return type(self)(self.held_out[rows], self.repeat[rows], shard, self.kind)

    def describe(self) -> dict[str, Any]:
        """Return the design as plain values for a plan: counts for the reader, a checksum for comparison."""
        about: dict[str, Any] = {"kind": self.kind, "n": self.n, "n_splits": self.n_splits}
        if self.kind == "k_fold":
            about["folds"] = self.n_splits // self.n_repeats
        if self.kind == "subsets":
            about["fraction"] = round(1 - float(self.held_out.mean()), 4)
        return {**about, "repeats": self.n_repeats, "sha256": self._digest()}

    def _digest(self) -> str:
        numbers = [array.astype("<i8").tobytes() for array in (self.repeat, self.shard)]
        return fingerprint(np.packbits(self.held_out).tobytes(), *numbers)

    @classmethod
    def k_fold(cls, n: int, folds: int = 10, repeats: int = 10, seed: int = 0, groups: ArrayLike | None = None) -> Self:
        """Shuffle, cut into `folds`, leave each fold out once; repeat. Fold sizes differ by at most one.

        Args:
            n: number of examples.
            folds: K, from 2 to n.
            repeats: L, at least 1; each has its own shuffle. Each split is one shard.
            seed: of the shuffles.
            groups: (n,) group of each example; the examples of a group, such as copies of one another, are left out
                together. Fold sizes then differ by at most the size of the largest group.

        Raises:
            DataError: folds < 2, more folds than examples or groups, repeats < 1, or `groups` has another shape.

        References:
            On Memorization in Probabilistic Deep Generative Models, Algorithm 1 (van den Burg & Williams, 2021),
            https://arxiv.org/abs/2106.03216

        >>> Splits.k_fold(7, folds=3, repeats=1).held_out.sum(axis=1)
        array([3, 2, 2])
        """
        _require_repeats(repeats)
        if not 2 <= folds <= n:
            raise DataError(
                expected=f"from 2 to {n} folds for {n} examples",
                got=f"folds={folds}",
                do="Choose another number of folds, or add examples.",
            )
        chunk = _all_chunks(n, folds, repeats, seed, groups)
        held_out = (chunk[:, None] == np.arange(folds)[:, None]).reshape(-1, n)
        repeat = np.repeat(np.arange(repeats), folds)
        return cls(held_out, repeat, np.arange(len(repeat)), "k_fold")

    @classmethod
    def subsets(cls, n: int, fraction: float, n_splits: int, seed: int = 0, groups: ArrayLike | None = None) -> Self:
        """Train on random subsets of a given fraction, with every example left out equally often.

        In each repeat of R splits the examples are shuffled into R chunks, and c consecutive ones, cyclically,
        are left out; (R, c) is the smallest pair with c = (1 - fraction) R within .01, R at most 20. So every
        example is held out in exactly c and trained on in exactly R - c splits of each repeat. The scores are those of
        models trained on `fraction` of the data: memorization at a smaller n.

        Args:
            n: number of examples, at least R.
            fraction: share of the examples to train on, between 0 and 1; .5 to .9 is usual.
            n_splits: number of refits, a multiple of R.
            seed: of the shuffles.
            groups: (n,) group of each example; the examples of a group are left out together (see `k_fold`).

        Raises:
            DataError: no R fits the fraction, n_splits is not a multiple of R, n < R, or there are fewer than R groups.

        References:
            What Neural Networks Memorize and Why (Feldman & Zhang, 2020), https://arxiv.org/abs/2008.03703

        >>> Splits.subsets(10, fraction=0.7, n_splits=20).held_out.sum(axis=0)
        array([6, 6, 6, 6, 6, 6, 6, 6, 6, 6])
        """
        length, out = _balance(fraction)
        _require_multiple(n_splits, length, fraction)
        if n < length:
            raise DataError(
                expected=f"at least {length} examples for fraction={fraction}",
                got=f"{n}",
                do="Add examples, or choose a fraction with a smaller denominator such as 0.5.",
            )
        repeats = n_splits // length
        chunk = _all_chunks(n, length, repeats, seed, groups)
        held_out = ((chunk[:, None] - np.arange(length)[:, None]) % length < out).reshape(-1, n)
        repeat = np.repeat(np.arange(repeats), length)
        return cls(held_out, repeat, np.arange(len(repeat)), "subsets")

    @classmethod
    def leave_out(cls, n: int, groups: ArrayLike, seed: int = 0) -> Self:
        """Leave each group out once: one split per group, in shuffled order, all in one repeat.

        Args:
            n: number of examples.
            groups: (n,) group of each example, numbers or strings; `numpy.arange(n)` leaves one out at a time.
            seed: of the order. Splits are divided into shards of at most 25.

        Raises:
            DataError: `groups` has another shape, or holds fewer than two groups.

        >>> Splits.leave_out(3, ["a", "b", "a"]).held_out.sum(axis=0)
        array([1, 1, 1])
        """
        member = _groups(n, groups, least=2)
        count = int(member.max()) + 1
        order = stream(seed, "splits", 0).permutation(count)
        held_out = order[:, None] == member
        shard = np.arange(count) * math.ceil(count / SPLITS_PER_SHARD) // count
        return cls(held_out, np.zeros(count, np.intp), shard, "leave_out")


def _all_chunks(n: int, count: int, repeats: int, seed: int, groups: ArrayLike | None) -> NDArray[np.intp]:
    """Return the chunk of each example in every repeat: (repeats, n)."""
    if groups is None:
        return np.stack([_chunks(n, count, seed, r) for r in range(repeats)])
    member = _groups(n, groups, least=count)
    return np.stack([_grouped(member, count, seed, r) for r in range(repeats)])


def _chunks(n: int, count: int, seed: int, repeat: int) -> NDArray[np.intp]:
    """Return the chunk (n,) of each example: sizes n // count, one more for the first n % count."""
    sizes = np.full(count, n // count) + (np.arange(count) < n % count)
    chunk = np.empty(n, dtype=np.intp)
    chunk[stream(seed, "splits", repeat).permutation(n)] = np.repeat(np.arange(count), sizes)
    return chunk


def _groups(n: int, groups: ArrayLike, least: int) -> NDArray[np.intp]:
    """Return the group of each example as a number from 0."""
    values = np.asarray(groups)
    if values.shape != (n,):
        raise DataError(
            expected=f"one group per example, shape ({n},)",
            got=f"shape {values.shape}",
            do="Pass an array with the group of every example.",
        )
    found, member = np.unique(values, return_inverse=True)
    if len(found) < least:
        raise DataError(
            expected=f"{least} groups or more, so that each split leaves one out and something to train on",
            got=f"{len(found)}",
            do="Pass finer groups, or ask for fewer folds.",
        )
    return np.asarray(member, dtype=np.intp)


def joined(*memberships: ArrayLike | None) -> NDArray[np.intp] | None:
    """Return groups (n,), such that examples that share a group of any kind share one; None without any kind.

    >>> joined(["a", "a", "b", "c"], None, [0, 1, 1, 2])
    array([0, 0, 0, 1])
    """
    found = [np.unique(np.asarray(values), return_inverse=True)[1] for values in memberships if values is not None]
    if len(found) < 2:
        return np.asarray(found[0], np.intp) if found else None
    n, first = len(found[0]), np.cumsum([0, *(member.max() + 1 for member in found)])
    columns = n + np.concatenate([member + start for member, start in zip(found, first[:-1], strict=True)])
    edges = coo_array((np.ones(len(columns)), (np.tile(np.arange(n), len(found)), columns)), (n + first[-1],) * 2)
    return np.asarray(connected_components(edges, directed=False)[1][:n], np.intp)


def _grouped(member: NDArray[np.intp], count: int, seed: int, repeat: int) -> NDArray[np.intp]:
    """Return the chunk (n,) of each example, with whole groups: the largest first, each into the emptiest chunk."""
    sizes = np.bincount(member)
    order = stream(seed, "splits", repeat).permutation(len(sizes))
    filled = [(0, chunk) for chunk in range(count)]
    chunk_of = np.empty(len(sizes), dtype=np.intp)
    for group in order[np.argsort(-sizes[order], kind="stable")]:
        size, chunk_of[group] = heapq.heappop(filled)
        heapq.heappush(filled, (size + int(sizes[group]), int(chunk_of[group])))
    return chunk_of[member]


def subset_length(fraction: float) -> int:
    """Return how many splits make one repeat of `Splits.subsets` with this fraction.

    Raises:
        DataError: no repeat of at most 20 splits has it.

    >>> subset_length(0.7)
    10
    """
    return _balance(fraction)[0]


def _balance(fraction: float) -> tuple[int, int]:
    """Return (R, c): splits in a repeat, and how many of them leave a given example out."""
    for length in range(2, LONGEST_REPEAT + 1):
        out = round((1 - fraction) * length) if 0 < fraction < 1 else 0
        if 1 <= out < length and abs((1 - fraction) * length - out) <= 0.01:
            return length, out
    usable = {1 - c / r for r in range(2, LONGEST_REPEAT + 1) for c in range(1, r)}
    nearest = min(usable, key=lambda f: abs(f - fraction))
    raise DataError(
        expected=f"a fraction between 0 and 1 with a denominator of at most {LONGEST_REPEAT}",
        got=f"fraction={fraction}",
        do=f"Use {nearest:.4g}, the closest that fits.",
    )


def _require_multiple(n_splits: int, length: int, fraction: float) -> None:
    if n_splits >= length and n_splits % length == 0:
        return
    below = max(length, n_splits // length * length)
    counts = sorted({below, below + length})
    raise DataError(
        expected=f"a multiple of {length} splits for fraction={fraction} (every example is left out equally often)",
        got=f"n_splits={n_splits}",
        do=f"Use {counts[0]} or {counts[1]}.",
    )


def _require_repeats(repeats: int) -> None:
    if repeats < 1:
        raise DataError(
            expected="one repeat or more",
            got=f"repeats={repeats}",
            do="Use 1 for a first look, 3 or more for standard errors that rest on independent refits.",
        )


def _require_shapes(held_out: NDArray[np.bool_], repeat: NDArray[np.intp], shard: NDArray[np.intp]) -> None:
    if held_out.ndim == 2 and repeat.shape == shard.shape == held_out.shape[:1]:
        return
    raise DataError(
        expected="held_out of shape (n_splits, n), repeat and shard of shape (n_splits,)",
        got=f"shapes {held_out.shape}, {repeat.shape} and {shard.shape}",
        do="Pass one row of held_out, one repeat and one shard per split.",
    )


def _require_order(shard: NDArray[np.intp]) -> None:
    if len(shard) and (shard[0] != 0 or not np.isin(np.diff(shard), (0, 1)).all()):
        raise DataError(
            expected="shards numbered 0, 1, ... in the order of the splits",
            got=f"shard={np.array2string(shard, threshold=10)}",
            do="Sort the splits by shard and number the shards without gaps.",
        )


def _require_training_examples(held_out: NDArray[np.bool_]) -> None:
    empty = np.flatnonzero(held_out.all(axis=1))
    if len(empty) or not len(held_out):
        raise DataError(
            expected="one split or more, each with examples to train on",
            got=f"split {empty[0]} leaving out all {held_out.shape[1]}" if len(empty) else "no split",
            do="Leave fewer examples out, or add examples.",
        )
