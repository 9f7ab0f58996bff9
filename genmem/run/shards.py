"""The refits of a run on disk: which are done, which failed, and their results."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from genmem.data.arrays import fingerprint
from genmem.errors import DataError, IncompleteRunError, RunError
from genmem.run import written
from genmem.run.plan import AS_PLANNED, COMPARED, read_splits
from genmem.run.splits import Splits
from genmem.run.storage import (
    Arrays,
    Held,
    damaged,
    read_tensors,
    write_arrays,
    write_atomically,
    write_tensors,
)

WEIGHTS = "weights/"
STOPPING = "stopping.json"


class Shards:
    """The part of a `Run` that stores refits; a shard is a file that exists, undamaged, once its refits are done."""

    path: Path
    plan: dict[str, Any]
    held: Held

    def splits(self) -> Splits:
        """Return which examples each refit leaves out; RunError if the file is missing or damaged."""
        kind = self.plan["splits"]["kind"]
        return self.held.get(lambda: read_splits(self.path, kind), self.path / "splits.npz", stamp=kind)

    # --- how many of the planned repeats are used

    @property
    def looks(self) -> tuple[int, ...]:
        """The numbers of repeats at which scores were computed, in order; none unless `use_repeats` was called.

        Raises:
            RunError: stopping.json is damaged.
        """
        file = self.path / STOPPING
        try:
            looks = json.loads(self.held.get(file.read_text, file))["looks"]
            if not (isinstance(looks, list) and all(type(n) is int and n > 0 for n in looks)):
                raise ValueError("not a list of numbers of repeats")
        except FileNotFoundError:
            return ()
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise RunError(
                expected=f"the number of repeats in use in {file}", got=f"a damaged file ({error})", do="Delete it."
            ) from error
        return tuple(looks)

    @property
    def repeats(self) -> int:
        """The repeats in use, which are the first of the planned ones: all of them unless `use_repeats` was called."""
        planned = self.splits().n_repeats
        return min((self.looks or (planned,))[-1], planned)

    def use_repeats(self, repeats: int) -> None:
        """Use the first `repeats` repeats from now on, by default for reading, refitting and scoring.

        Raises:
            DataError: fewer than one, or more than were planned.
        """
        planned = self.splits().n_repeats
        if not 1 <= repeats <= planned:
            raise DataError(
                expected=f"from 1 to {planned} repeats, as planned",
                got=f"{repeats}",
                do="Ask for fewer, or plan more in a new run directory.",
            )
        looks = [n for n in self.looks if n < repeats] + [int(repeats)]
        text = json.dumps({"repeats": int(repeats), "looks": looks}) + "\n"
        write_atomically(self.path / STOPPING, lambda handle: handle.write(text.encode()))

    def used_splits(self, repeats: int | None = None) -> Splits:
        """Return the splits of the repeats in use, or of the first `repeats`, with their shards renumbered."""
        return self.splits().first_repeats(self.repeats if repeats is None else repeats)

    # --- which shards are done

    def shards(self, repeats: int | None = None) -> list[int]:
        """Return the index of every shard of the repeats in use, or of the first `repeats`."""
        splits = self.splits()
        return [int(i) for i in np.unique(splits.shard[self._rows(splits, repeats)])]

    def pending(self, repeats: int | None = None) -> list[int]:
        """Return the shards still to compute, of the repeats in use or of the first `repeats`.

        Raises:
            RunError: a shard exists but is damaged, or belongs to another plan; the message names it.
        """
        return [i for i in self.shards(repeats) if not self._is_done(i)]

    def failed(self, repeats: int | None = None) -> dict[int, str]:
        """Return the splits whose refit failed, of those done, and why: their rows of `log_probs` are NaN.

        Raises:
            RunError: a shard is damaged, or belongs to another plan.
        """
        splits, found = self.splits(), {}
        rows = self._rows(splits, repeats)
        for i in (i for i in self.shards(repeats) if self._is_done(i)):
            of_shard = np.flatnonzero(splits.shard == i)
            reasons = self._shard(i).get("failed", np.full(len(of_shard), ""))
            found.update({int(s): str(why) for s, why in zip(of_shard, reasons, strict=True) if why and rows[s]})
        return found

    def drop_damaged(self) -> list[Path]:
        """Delete shards and results that cannot be read, so that they are computed again, and return their paths.

        This includes shards whose weights are missing or damaged.
        """
        files = []
        for i in np.unique(self.splits().shard).tolist():
            files += self._drop_shard(i) if self._is_damaged(i) else []
        results = [file for file in sorted((self.path / "results").glob("*.npz")) if self._is_damaged_result(file)]
        written.forget(self.path / "results", *(file.name for file in results))
        return files + [file for file in results if _unlinked(file)]

    def drop_failed(self) -> list[Path]:
        """Delete the shards of splits that failed, so that they are computed again, and return their paths."""
        splits = self.splits()
        shards = sorted({int(splits.shard[s]) for s in self.failed(splits.n_repeats)})
        return [file for i in shards for file in self._drop_shard(i)]

    def _drop_shard(self, i: int) -> list[Path]:
        return [file for file in (self.shard_path(i), self.weights_path(i)) if _unlinked(file)]

    def _is_done(self, i: int) -> bool:
        try:
            self._shard(i)
        except FileNotFoundError:
            return False
        return True

    def _is_damaged(self, i: int) -> bool:
        try:
            if self._is_done(i) and "has_weights" in self._shard(i):
                self.weights(i)
        except RunError:
            return True
        return False

    def _is_damaged_result(self, file: Path) -> bool:
        try:
            self.held.arrays(file)
        except RunError:
            return True
        return False

    def stamp(self, i: int) -> str:
        """Return the text that ties a shard to this plan and its index."""
        method = (self.plan.get("probe") or {}).get("method")
        planned = {**self.plan, **self.plan.get(AS_PLANNED, {})}
        compared = [key for key in COMPARED if key != "match" or planned.get(key) == "steps"]  # older plans lack it
        plan = {key: planned[key] for key in compared} | {"method": method, "shard": i}
        return fingerprint(json.dumps(plan, sort_keys=True))

    # --- the contents of shards

    def shard_path(self, i: int) -> Path:
        """Return the file of shard `i`."""
        return self.path / "shards" / f"{i:04d}.npz"

    def weights_path(self, i: int) -> Path:
        """Return the file of the trained weights of shard `i`."""
        return self.path / "weights" / f"{i:04d}.safetensors"

    def write_shard(self, i: int, **arrays: ArrayLike) -> None:
        """Store the arrays of shard `i` with a checksum that ties them to this plan.

        Those named `weights/...` go into a separate file, written first: a shard that exists has its weights.
        """
        named = {name: np.asarray(value) for name, value in arrays.items()}
        weights = {name: named.pop(name) for name in list(named) if name.startswith(WEIGHTS)}
        if weights:
            bare = {name.removeprefix(WEIGHTS): value for name, value in weights.items()}
            write_tensors(self.weights_path(i), bare, self.stamp(i))
            named["has_weights"] = np.ones(len(next(iter(bare.values()))), np.bool_)
        write_arrays(self.shard_path(i), named, self.stamp(i))

    def weights(self, i: int) -> Arrays:
        """Return the trained weights of shard `i`: for each name of the state dict an array (splits, *shape).

        Raises:
            IncompleteRunError: none are stored.
            RunError: the file is damaged, or belongs to another plan.
        """
        try:
            return read_tensors(self.weights_path(i), self.stamp(i))
        except FileNotFoundError as error:
            lost = not self._is_done(i) or "has_weights" in self._shard(i)
            raise IncompleteRunError(
                expected=f"the weights of shard {i} in {self.weights_path(i)}",
                got="no such file" if lost else "refits that did not keep their weights",
                do=f"Run `genmem refit {self.path} --recompute`: the numbers will be the same."
                if lost
                else "Plan a new run with --keep-weights (keep_weights=True): the numbers will be the same.",
            ) from error

    def log_probs(self, epoch: int = -1, repeats: int | None = None) -> NDArray[np.float32]:
        """Return log p of every example under every refit: (n_splits, n_examples), nats; NaN if a refit failed.

        Args:
            epoch: position among the scored epochs; -1 is the last.
            repeats: use only the first so many repeats; by default those in use.

        Raises:
            IncompleteRunError: shards are missing.
        """
        return self._join("log_probs", repeats, epoch)

    def shard_arrays(self, name: str, repeats: int | None = None) -> NDArray[Any]:
        """Return one stored array of all shards, in the order of the splits; see `log_probs`.

        Raises:
            IncompleteRunError: shards are missing.
        """
        return self._join(name, repeats)

    def _join(self, name: str, repeats: int | None, at: int | None = None) -> NDArray[Any]:
        splits, shards = self.splits(), self.shards(repeats)
        rows, parts = self._rows(splits, repeats), []
        for i in shards:
            try:
                array = self._shard(i)[name]
            except FileNotFoundError as error:
                raise self._incomplete(i, shards) from error
            except KeyError as error:
                raise damaged(self.shard_path(i), f"one without {name}") from error
            of_shard = rows[splits.shard == i]
            parts.append(array[of_shard] if at is None else array[of_shard, at])
        return np.concatenate(parts)  # shards contain consecutive splits, so their order is that of the splits

    def _shard(self, i: int) -> Arrays:
        return self.held.arrays(self.shard_path(i), self.stamp(i))

    def _incomplete(self, i: int, shards: Sequence[int]) -> IncompleteRunError:
        return IncompleteRunError(
            expected=f"all {len(shards)} shards of {self.path}",
            got=f"no shard {i}",
            do=f"Run `genmem refit {self.path}`; finished shards are kept.",
        )

    def _rows(self, splits: Splits, repeats: int | None) -> NDArray[np.bool_]:
        """Return (n_splits,): which splits belong to the repeats in use, or to the first `repeats`."""
        count = (self.looks or (splits.n_repeats,))[-1] if repeats is None else repeats
        return np.isin(splits.repeat, np.unique(splits.repeat)[:count])


def _unlinked(file: Path) -> bool:
    there = file.exists()
    file.unlink(missing_ok=True)
    return there
