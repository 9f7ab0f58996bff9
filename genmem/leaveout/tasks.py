"""What a worker is sent and what it returns: small tasks, the splits to refit, arrays to fill."""

import threading
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from genmem.data.arrays import fingerprint
from genmem.run.splits import Splits
from genmem.run.storage import Arrays
from genmem.training.ensemble import Recipe, batches

NOISE = ("effective_draws", "variance_in", "variance_out")
_held: dict[str, NDArray[Any]] = {}
_reading = threading.Lock()


@dataclass(frozen=True)
class Source:
    """Where the examples are and how to identify them: sent in their place with every task."""

    file: str
    sha256: str
    event_shape: tuple[int, ...]

    def hold(self, X: NDArray[Any]) -> NDArray[Any]:
        """Keep the examples for later tasks in this process, and forget those of other runs."""
        if self.sha256 not in _held:
            _held.clear()
            _held[self.sha256] = X
        return _held[self.sha256]

    def read(self) -> NDArray[Any] | None:
        """Return the examples this process holds, or those of the memory-mapped file; None if it is not here."""
        with _reading:
            found = _held.get(self.sha256)
            if found is None and (found := self._open()) is not None:
                self.hold(found)
        return found

    def _open(self) -> NDArray[Any] | None:
        try:
            X = np.asarray(np.load(Path(self.file), mmap_mode="r", allow_pickle=False))
        except (OSError, ValueError, EOFError):
            return None
        return X if fingerprint(X) == self.sha256 else None


@dataclass(frozen=True)
class Task:
    """What all refits of a run share."""

    model: Any
    source: Source
    seed: int
    score_epochs: tuple[int, ...]
    importance_samples: int
    method: str
    device: str
    keep_weights: bool
    n_keep: int  # the fewest examples any refit trains on: the batches of all refits are those for it
    n_matched: int | None  # the examples of the model whose number of steps all refits take; None: `n_keep`

    def recipe(self, n_keep: int | None = None) -> Recipe:
        """Return the training recipe that all refits share (networks only), or that of one with fewer examples."""
        least = self.n_keep if n_keep is None else min(self.n_keep, n_keep)
        return refit_recipe(self.model, self.source.event_shape, least, self.n_matched, self.seed)


def refit_recipe(model: Any, event_shape: Sequence[int], n_keep: int, n_matched: int | None, seed: int) -> Recipe:
    """Return the recipe of refits to `n_keep` examples each, with as many steps as the model of `n_matched` takes."""
    recipe: Recipe = model.recipe(tuple(event_shape), n_keep, seed=seed)
    return recipe if n_matched is None else recipe.with_steps_of(batches(n_matched, model.batch_size)[1])


@dataclass(frozen=True)
class Group:
    """Splits that are refitted together: (k,) each, and the examples they leave out, (k, n)."""

    split: NDArray[np.intp]
    repeat: NDArray[np.intp]
    shard: NDArray[np.intp]
    held_out: NDArray[np.bool_]

    @classmethod
    def of(cls, splits: Splits, shards: Sequence[int]) -> Self:
        """Return the splits of some shards, in order."""
        rows = np.flatnonzero(np.isin(splits.shard, shards))
        return cls(rows, splits.repeat[rows], splits.shard[rows], splits.held_out[rows])

    def __len__(self) -> int:
        return len(self.split)


class Found:
    """Results of refits, one row each: NaN until known, and NaN throughout for a failed refit."""

    def __init__(self, n_splits: int, n_epochs: int, n: int) -> None:
        self.arrays: Arrays = {"log_probs": np.full((n_splits, n_epochs, n), np.nan, np.float32)}
        self.reasons = [""] * n_splits

    def add(self, name: str, *shape: int, dtype: Any = np.float64) -> None:
        """Add another array: (n_splits, *shape)."""
        self.arrays[name] = np.full((len(self.reasons), *shape), np.nan, dtype)

    def fail(self, row: int, why: str) -> None:
        """Mark a refit as failed."""
        self.reasons[row] = why

    def settle(self, epochs: Sequence[int]) -> Arrays:
        """Return the arrays, with `failed` (n_splits,): why, or "" for a refit that succeeded."""
        for row, log_probs in enumerate(self.arrays["log_probs"]):
            self.reasons[row] = self.reasons[row] or _undefined(log_probs, epochs)
        failed = np.array([bool(why) for why in self.reasons])
        for array in self.arrays.values():
            array[failed] = np.nan
        return {**self.arrays, "failed": np.array(self.reasons)}


def _undefined(log_probs: NDArray[np.float32], epochs: Sequence[int]) -> str:
    bad = np.argwhere(~np.isfinite(log_probs))
    if not len(bad):
        return ""
    at, example = bad[0]
    when = f" at epoch {epochs[at]}" if epochs[at] >= 0 else ""
    return f"log p is {log_probs[at, example]} for example {example}{when} ({len(bad)} in all)"
