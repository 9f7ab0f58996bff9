"""Values put in place of units: where they come from, and how rows of a batch get edits of their own.

A tensor at a place where units are edited is reshaped to (rows, channels, positions). A row is an example, or one of
its draws. The channels of a unit set are replaced at every position.
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from genmem.data.arrays import as_array
from genmem.errors import DataError, ModelError
from genmem.models.base import as_tensor
from genmem.neurons.runs import passed, seed_of
from genmem.neurons.wiring import Change, Place, Wiring, changed, unedited, while_active
from genmem.seeding import stream

BASELINES = ("mean", "zero", "resample")
LEAST = 10  # examples of a reference
AT_ONCE = 256  # examples of a reference
DRAWS = 4  # of each, for means
MOST_DONORS = 256  # reference examples whose values are kept for "resample"
Key = tuple[str, Place]


@dataclass(frozen=True)
class Baseline:
    """What replaces the values of units.

    Attributes:
        mode: "mean", "zero" or "resample".
        values: by layer and place. "mean": (channels, positions). "resample": those of some reference examples,
            (donors, rows of each, channels, positions). "zero": nothing.
        donors: for "resample", (n,) the reference example whose values each example gets.
    """

    mode: str
    values: Mapping[Key, Tensor]
    donors: NDArray[np.intp] | None = None

    def of_rows(self, key: Key, examples: NDArray[np.intp]) -> Tensor:
        """Return the values for these examples, to be broadcast to (draws, n, rows of each, channels, positions)."""
        if self.mode == "zero":
            return torch.zeros(())
        if self.donors is None:
            return self.values[key]
        return self.values[key][self.donors[examples]]

    def of_batch(self, key: Key, rows: int) -> Tensor:
        """Return the values for a batch of unknown examples, to be broadcast to (rows, channels, positions)."""
        if self.mode == "zero":
            return torch.zeros(())
        if self.donors is None:
            return self.values[key]
        kept = self.values[key].flatten(0, 1)
        return kept[torch.arange(rows) % len(kept)]


def find_baseline(
    module: nn.Module,
    wirings: Mapping[str, Wiring],
    mode: str,
    reference: Tensor | None,
    *,
    n: int = 0,
    same: bool = False,
    seed: int = 0,
) -> Baseline:
    """Return what replaces the units of some layers.

    Args:
        module: a network in evaluation mode.
        wirings: of the layers.
        mode: "mean": the mean over reference examples, for each position of a convolution by itself, so that only what
            depends on the example is lost; "zero"; "resample": the value of one other reference example, drawn.
        reference: examples, (m, *event); needed unless the mode is "zero".
        n: examples that will be edited.
        same: whether the reference are the examples that will be edited: none then gets its own value.
        seed: of noise, and of the choice of examples.

    Raises:
        ModelError: there is no such mode.
        DataError: there are too few reference examples.
    """
    if mode not in BASELINES:
        raise ModelError(expected=f"a baseline out of {', '.join(BASELINES)}", got=repr(mode), do="Change it.")
    if mode == "zero":
        return Baseline(mode, {})
    if reference is None or len(reference) < LEAST:
        raise DataError(
            expected=f"{LEAST} or more reference examples, over which {mode} values are taken",
            got="none" if reference is None else str(len(reference)),
            do="Pass reference=X_train, or use zero.",
        )
    with unedited():
        return _taken(module, wirings, mode, reference, n, same, seed)


def _taken(
    module: nn.Module, wirings: Mapping[str, Wiring], mode: str, reference: Tensor, n: int, same: bool, seed: int
) -> Baseline:
    if mode == "mean":
        return Baseline(mode, _means(module, wirings, reference, seed))
    random = stream(seed, "neurons: donors")
    if not same:
        reference = reference[torch.from_numpy(random.permutation(len(reference))[:MOST_DONORS])]
    values = _of_donors(module, wirings, reference, seed)
    if same:
        return Baseline(mode, values, (np.arange(n) + 1 + random.integers(n - 1)) % n)
    return Baseline(mode, values, random.integers(len(reference), size=n))


def _means(module: nn.Module, wirings: Mapping[str, Wiring], reference: Tensor, seed: int) -> dict[Key, Tensor]:
    totals: dict[Key, Tensor] = {}
    counts: dict[Key, int] = {}
    for seen in _reference_passes(module, wirings, reference, DRAWS, seed):
        for key, value in seen:
            totals[key] = totals.get(key, 0.0) + value.double().sum(0)
            counts[key] = counts.get(key, 0) + len(value)
    return {key: (total / counts[key]).to(torch.float64) for key, total in totals.items()}


def _of_donors(module: nn.Module, wirings: Mapping[str, Wiring], reference: Tensor, seed: int) -> dict[Key, Tensor]:
    parts: dict[Key, list[Tensor]] = {}
    for start, seen in enumerate(_reference_passes(module, wirings, reference, 1, seed)):
        n = min(AT_ONCE, len(reference) - start * AT_ONCE)
        first = dict(reversed(seen))  # of a layer that is called several times
        for (layer, place), value in first.items():
            parts.setdefault((layer, place), []).append(_by_example(wirings[layer].order, value, n))
    return {key: torch.cat(values) for key, values in parts.items()}


def _by_example(order: str | None, value: Tensor, n: int) -> Tensor:
    """Return values as (n, rows of each, channels, positions); of several draws the first is kept."""
    if order == "fastest":
        return value[:n].unsqueeze(1)
    return value.reshape(n, -1, *value.shape[1:]) if order == "slowest" else value.unsqueeze(1)


def _reference_passes(
    module: nn.Module, wirings: Mapping[str, Wiring], reference: Tensor, draws: int, seed: int
) -> Iterator[list[tuple[Key, Tensor]]]:
    """Yield the values of all units over some reference examples: each (rows, channels, positions)."""
    for start in range(0, len(reference), AT_ONCE):
        x = reference[start : start + AT_ONCE]
        with torch.no_grad(), noted(module, wirings) as seen:
            passed(module, x, np.arange(start, start + len(x)), draws, seed_of(seed, "reference"))
        yield seen


@contextmanager
def noted(module: nn.Module, wirings: Mapping[str, Wiring]) -> Iterator[list[tuple[Key, Tensor]]]:
    """Record the values of units in every call inside the block, where they are edited: (rows, channels, positions)."""
    seen: list[tuple[Key, Tensor]] = []

    def noting(wiring: Wiring, place: Place) -> Change:
        def note(value: Tensor) -> Tensor:
            seen.append(((wiring.layer, place), in_rows(wiring, value).detach().clone()))
            return value

        return note

    with ExitStack() as hooks:
        for wiring in wirings.values():
            for place in wiring.places:
                hooks.enter_context(changed(module, {place: noting(wiring, place)}))
        yield seen


def in_rows(wiring: Wiring, value: Tensor) -> Tensor:
    """Return a tensor at one of a layer's places as (rows, channels, positions)."""
    return value.reshape(-1, wiring.channels, wiring.positions)


# --- edits


@dataclass(frozen=True)
class Edits:
    """Sets of units that are replaced together, and which set each example of the batch gets.

    Attributes:
        masks: by layer, (sets, channels): the units of each set.
        which: (n,) the set of each example; None: all rows get the first set.
        examples: (n,) the examples, as `Baseline.of_rows` numbers them.
    """

    masks: Mapping[str, Tensor]
    which: NDArray[np.intp] | None = None
    examples: NDArray[np.intp] | None = None


def masks_of(sets: Sequence[Sequence[tuple[str, int]]], wirings: Mapping[str, Wiring]) -> dict[str, Tensor]:
    """Return the units of each set as masks by layer, (sets, channels), of the layers that have any."""
    masks: dict[str, Tensor] = {}
    for number, units in enumerate(sets):
        for layer, index in units:
            if layer not in masks:
                masks[layer] = torch.zeros(len(sets), wirings[layer].channels, dtype=torch.bool)
            masks[layer][number, index] = True
    return masks


@contextmanager
def edited(module: nn.Module, wirings: Mapping[str, Wiring], baseline: Baseline, edits: Edits) -> Iterator[None]:
    """Replace units in every call inside the block; the network itself is not touched, only hooked."""
    with ExitStack() as hooks:
        for layer, masks in edits.masks.items():
            for place in wirings[layer].places:
                change = _change(wirings[layer], place, masks, baseline, edits)
                hooks.enter_context(changed(module, {place: change}))
        yield


def _change(wiring: Wiring, place: Place, masks: Tensor, baseline: Baseline, edits: Edits) -> Change:
    key = (wiring.layer, place)
    if edits.which is None or edits.examples is None:
        return while_active(lambda value: _in_all_rows(wiring, key, masks[0], baseline, value))
    mask = masks[torch.from_numpy(edits.which)]
    new = baseline.of_rows(key, edits.examples)
    return while_active(lambda value: _in_each_row(wiring, mask, new, value))


def _in_all_rows(wiring: Wiring, key: Key, mask: Tensor, baseline: Baseline, value: Tensor) -> Tensor:
    rows = in_rows(wiring, value)
    new = baseline.of_batch(key, len(rows)).to(value)
    return torch.where(mask[:, None].to(value.device), new, rows).reshape(value.shape)


def _in_each_row(wiring: Wiring, mask: Tensor, new: Tensor, value: Tensor) -> Tensor:
    rows, n = in_rows(wiring, value), len(mask)
    apart = (1, n, -1) if wiring.order == "slowest" else (-1, n, 1)
    by_example = rows.reshape(*apart, *rows.shape[1:])
    chosen = mask[:, None, :, None].to(value.device)
    return torch.where(chosen, new.to(value), by_example).reshape(value.shape)


def as_examples(X: Any) -> Tensor:
    """Return examples as a float32 tensor.

    Raises:
        DataError: X is not an array of examples.
    """
    if isinstance(X, Tensor):
        X = X.detach().cpu().numpy()
    return as_tensor(as_array(X), torch.device("cpu")).to(torch.float32)
