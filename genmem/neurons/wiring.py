"""Where the units of a layer are read: found by running the network on a few examples, never assumed.

The value of a unit is what the next layers read of it, after its activation function, whether that is a module or a
call inside `forward`. Each layer is tested by a few passes in which its output is replaced:

- another layer *reads* it if its input then changes;
- that input is a function of the unit alone if it follows the unit's value from row to row while the outputs of all
  other layers change, and if units of other channels leave it unchanged (no skip connection, no pooling, no norm);
- it is all that is read if log p stays the same when only these inputs are kept.

Units that pass are edited in the inputs of their readers. The others are edited where an activation module returns
them, or else in the output of their own layer, before any activation.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from genmem.neurons.layers import channels_of, layers_with_units, positions_in

Run = Callable[[], Tensor]
Change = Callable[[Tensor], Tensor]
CLOSE = 1e-5  # relative: elementwise functions round by the place of a value in memory


@dataclass(frozen=True, order=True)
class Place:
    """The input or the output of a module, by its name."""

    module: str
    side: str

    def __str__(self) -> str:
        return f"the {self.side} of {self.module}"


@dataclass(frozen=True)
class Wiring:
    """How the units of one layer can be edited.

    Attributes:
        layer: its name.
        channels: its units.
        positions: at how many positions each has a value.
        places: where the units are edited; each tensor there can be reshaped to (rows, channels, positions).
        order: of the rows there: "fastest" if examples vary fastest, as draw by draw; "slowest" if all rows of an
            example are adjacent; None if unknown or neither.
        hidden: whether another layer of the same part reads the units.
        reader: the Linear that alone reads them, one value per row: an edit is then a rank-one update of its output.
    """

    layer: str
    channels: int
    positions: int
    places: tuple[Place, ...]
    order: str | None
    hidden: bool
    reader: str | None = None

    @property
    def as_read(self) -> bool:
        """Whether the units are edited after their activation function."""
        return self.places != (Place(self.layer, "output"),)


@contextmanager
def changed(module: nn.Module, changes: Mapping[Place, Change]) -> Iterator[None]:
    """Replace tensors at some places of a network in every call inside the block."""
    with ExitStack() as hooks:
        for place, change in changes.items():
            part = module.get_submodule(place.module)
            if place.side == "output":
                handle = part.register_forward_hook(_on_output(change))
            else:
                handle = part.register_forward_pre_hook(_on_input(change), with_kwargs=True)
            hooks.callback(handle.remove)
        yield


_edits_rest = ContextVar("_edits_rest", default=False)


@contextmanager
def unedited() -> Iterator[None]:
    """Let all edits of units rest inside the block, also those that blocks around it made."""
    token = _edits_rest.set(True)
    try:
        yield
    finally:
        _edits_rest.reset(token)


def edits_rest() -> bool:
    """Return whether the code is inside `unedited`."""
    return _edits_rest.get()


def while_active(change: Change) -> Change:
    """Return a change that does nothing inside `unedited`."""
    return lambda value: value if edits_rest() else change(value)


def _on_output(change: Change) -> Callable[[nn.Module, Any, Any], Any]:
    return lambda _, args, output: change(output) if isinstance(output, Tensor) else None


def _on_input(change: Change) -> Callable[[nn.Module, Any, Any], Any]:
    def edit(_: nn.Module, args: tuple[Any, ...], keywords: dict[str, Any]) -> Any:
        if args and isinstance(args[0], Tensor):
            return (change(args[0]), *args[1:]), keywords
        named = next((name for name, value in keywords.items() if isinstance(value, Tensor)), None)
        return None if args or named is None else (args, {**keywords, named: change(keywords[named])})

    return edit


class Passes:
    """Runs a network on a few examples, records the tensors at all places, and replaces some; a context."""

    def __init__(self, module: nn.Module) -> None:
        self.layers = layers_with_units(module)
        functions = [name for name, part in module.named_modules() if name and _is_function(part)]
        places = [
            *(Place(name, side) for name in self.layers for side in ("output", "input")),
            *(Place(name, "output") for name in functions),
        ]
        self.order: list[Place] = []
        self._seen: dict[Place, list[Tensor]] = {}
        self._changes: Mapping[Place, Change] = {}
        self._hooks = changed(module, {place: self._visiting(place) for place in places})

    def __enter__(self) -> "Passes":
        self._hooks.__enter__()
        return self

    def __exit__(self, *error: Any) -> None:
        self._hooks.__exit__(*error)

    @torch.no_grad()
    def __call__(
        self, run: Run, changes: Mapping[Place, Change] | None = None
    ) -> tuple[dict[Place, list[Tensor]], Tensor]:
        """Return the tensors at each place, before they are replaced, and what the network returns."""
        self._seen, self._changes, self.order = {}, changes or {}, []
        result = run()
        return self._seen, result

    def _visiting(self, place: Place) -> Change:
        def visit(value: Tensor) -> Tensor:
            self._seen.setdefault(place, []).append(value.detach().clone())  # activations may overwrite it
            self.order.append(place)
            change = self._changes.get(place)
            return value if change is None else change(value)

        return visit


def _is_function(part: nn.Module) -> bool:
    """Return whether a module is a plain function of its input, as activations are."""
    return not any(True for _ in part.children()) and not any(True for _ in part.parameters())


class Trial(Protocol):
    """Runs a network on a few examples that differ, with the same noise every time."""

    n: int

    def __call__(self) -> Tensor:
        """Return log p of each, by one draw."""

    def twice(self, other: bool) -> Tensor:
        """Run it with two draws if it takes noise; `other` changes the first example and its noise."""


def find_wiring(
    module: nn.Module, trial: Trial, names: Sequence[str], scopes: Mapping[str, str]
) -> tuple[dict[str, Wiring], dict[str, str]]:
    """Return how the units of each layer can be edited, and why those of other layers cannot.

    Args:
        module: a network in evaluation mode.
        trial: runs it.
        names: the layers.
        scopes: the part of the network that each layer belongs to, of all layers that may read their units.
    """
    found, left_out = {}, {}
    with Passes(module) as passes:
        base, result = passes(trial)
        called = list(passes.order)
        for name in names:
            outputs = base.get(Place(name, "output"), [])
            positions = positions_in(passes.layers[name], outputs[0]) if outputs else None
            if not outputs:
                left_out[name] = "is never called as a layer while log p is computed"
            elif positions is None:
                left_out[name] = "is called without a dimension for examples"
            else:
                found[name] = _Test(passes, trial, name, positions, base, result, called, scopes).wiring()
        return _ordered(passes, trial, found), left_out


def _ordered(passes: Passes, trial: Trial, found: Mapping[str, Wiring]) -> dict[str, Wiring]:
    """Determine the order of rows: change one example, and see which rows differ."""
    one, other = (passes(partial(trial.twice, other))[0] for other in (False, True))
    return {name: replace(wiring, order=_order(wiring, one, other, trial.n)) for name, wiring in found.items()}


def _order(
    wiring: Wiring, one: Mapping[Place, list[Tensor]], other: Mapping[Place, list[Tensor]], n: int
) -> str | None:
    """Return the order of rows that holds at every call and place of a layer."""
    orders = {"fastest", "slowest"}
    for place in {Place(wiring.layer, "output"), *wiring.places}:
        for before, after in zip(one.get(place, []), other.get(place, []), strict=False):
            rows = before.reshape(-1, wiring.channels * wiring.positions)
            moved = (rows != after.reshape(rows.shape)).any(1).cpu()
            number = torch.arange(len(rows))
            if len(rows) % n or not moved.any():
                return None
            mine = {"fastest": number % n == 0, "slowest": number < len(rows) // n}
            orders &= {order for order, first in mine.items() if not moved[~first].any()}
    return "fastest" if "fastest" in orders else next(iter(orders), None)


class _Test:
    """The tests of one layer, by passes in which its output is replaced."""

    def __init__(
        self,
        passes: Passes,
        trial: Trial,
        name: str,
        positions: int,
        base: Mapping[Place, list[Tensor]],
        result: Tensor,
        called: list[Place],
        scopes: Mapping[str, str],
    ) -> None:
        self.passes, self.trial, self.name, self.positions = passes, trial, name, positions
        self.base, self.result = base, result
        self.called, self.scopes = called, scopes
        self.channels = channels_of(passes.layers[name]) or 0
        self.own = Place(name, "output")
        self.output = base[self.own][0]
        generator = torch.Generator().manual_seed(0)
        scale = 1 + 3 * self.output.float().std().nan_to_num()
        self.noise = (scale * torch.randn(self.output.shape, generator=generator).to(scale)).to(self.output)

    def wiring(self) -> Wiring:
        """Return how the units can be edited."""
        moved, _ = self.passes(self.trial, {self.own: lambda value: value + self._noise_like(value)})
        readers = [place for place, values in moved.items() if self._differs(place, values)]
        mine = self.scopes.get(self.name)
        hidden = any(p.side == "input" and self.scopes.get(p.module) == mine for p in readers)
        once = len(self.base[self.own]) == 1
        places = self._places(readers) if hidden and once else (self.own,)
        return Wiring(self.name, self.channels, self.positions, places, None, hidden, self._reader(places))

    def _noise_like(self, value: Tensor) -> Tensor:
        return self.noise if value.shape == self.noise.shape else 3 * torch.randn_like(value)

    def _differs(self, place: Place, values: list[Tensor]) -> bool:
        before = self.base.get(place, [])
        same = len(before) == len(values) and all(map(_alike, before, values))
        return place != self.own and place != Place(self.name, "input") and not same

    def _places(self, readers: list[Place]) -> tuple[Place, ...]:
        """Return all inputs, or else the last activation, that pass the tests; the layer's own output without any."""
        once = [p for p in readers if len(self.base.get(p, [])) == 1 and self.base[p][0].numel() == self.output.numel()]
        alone = self._of_one_channel(self._follow(once))
        inputs = tuple(p for p in alone if p.side == "input")
        if inputs and self._is_all(inputs):
            return inputs
        layers = self.passes.layers
        functions = [p for p in reversed(self.called) if p in alone and p.side == "output" and p.module not in layers]
        return next(((p,) for p in functions if self._is_all((p,))), (self.own,))

    def _follow(self, places: list[Place]) -> list[Place]:
        """Return the places whose rows follow the rows of the layer's output, whatever other layers return."""
        each = self.output.reshape(-1, self.channels * self.positions)
        if not places or bool((each == each[0]).all()):  # whatever a place adds could be the same in all rows, too
            return []
        rows = self.output + self.noise
        one, _ = self.passes(self.trial, {**self._others(1), self.own: _giving(rows)})
        rolled, _ = self.passes(self.trial, {**self._others(2), self.own: _giving(self._rolled(rows))})
        return [p for p in places if p in rolled and _alike(self._rolled(one[p][0]), rolled[p][0])]

    def _rolled(self, value: Tensor) -> Tensor:
        return value.reshape(-1, self.channels, self.positions).roll(1, 0).reshape(value.shape)

    def _others(self, seed: int) -> dict[Place, Change]:
        """Return changes of the outputs of all other layers."""
        generator = torch.Generator().manual_seed(seed)

        def move(value: Tensor) -> Tensor:
            return value + torch.randn(value.shape, generator=generator).to(value)

        return {Place(name, "output"): move for name in self.passes.layers if name != self.name}

    def _of_one_channel(self, places: list[Place]) -> list[Place]:
        """Return the places where a channel depends on the same channel of the layer alone.

        Row by row, the channels whose number has a certain bit set, or not set, are changed: together these rows tell
        every channel from every other one.
        """
        if not places:
            return []
        bits = max(1, (self.channels - 1).bit_length())
        number = torch.arange(self.channels)
        sets = torch.stack([(number >> bit & 1) == one for bit in range(bits) for one in (0, 1)])  # (2 bits, channels)
        shape = (-1, self.channels, self.positions)
        whole, noise = self.output.reshape(shape), self.noise.reshape(shape)
        good, first = list(places), 0
        while first < len(sets) and good:  # as many rows at once as there are examples
            which = sets[(first + torch.arange(len(whole))) % len(sets)][:, :, None].to(whole.device)
            start = whole[:1].expand_as(whole)
            edited = torch.where(which, start + noise, start).reshape(self.output.shape)
            plain, _ = self.passes(self.trial, {self.own: _giving(start.reshape(self.output.shape))})
            found, _ = self.passes(self.trial, {self.own: _giving(edited)})
            good = [p for p in good if _kept(plain[p][0].reshape(shape), found[p][0].reshape(shape), which)]
            first += len(whole)
        return good

    def _is_all(self, places: tuple[Place, ...]) -> bool:
        """Return whether the network returns the same if the units change everywhere but here."""
        keep = {p: _giving(self.base[p][0]) for p in places}
        _, result = self.passes(self.trial, {self.own: lambda value: value + self.noise, **keep})
        return _alike(self.result, result)

    def _reader(self, places: tuple[Place, ...]) -> str | None:
        only = places[0]
        layer = self.passes.layers.get(only.module)
        if len(places) > 1 or only.side != "input" or not isinstance(layer, nn.Linear) or self.positions != 1:
            return None
        return only.module if self.base[only][0].shape[-1] == self.channels == layer.in_features else None


def _giving(value: Tensor) -> Change:
    return lambda _: value


def _alike(one: Tensor, other: Tensor) -> bool:
    """Return whether two tensors are equal up to rounding."""
    if one.shape != other.shape:
        return False
    if torch.equal(one, other):  # most are: the rest need not be computed
        return True
    finite = one.double()[one.isfinite()]
    least = CLOSE * float(finite.abs().max()) if finite.numel() else 0.0
    return bool(torch.allclose(one.double(), other.double(), rtol=CLOSE, atol=least, equal_nan=True))


def _kept(plain: Tensor, edited: Tensor, which: Tensor) -> bool:
    """Return whether the values of channels that were not changed are those of before."""
    return _alike(plain.masked_fill(which, 0), edited.masked_fill(which, 0))
