"""The units of a network: which there are, in which part of it, and what is left out."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from genmem.errors import ModelError
from genmem.models.evaluation import estimate_of
from genmem.models.posterior import has_posterior
from genmem.neurons.layers import CHANNELS_SECOND, CONVOLUTIONS, layers_with_units, require_layer, without_units
from genmem.neurons.runs import Tried, scored
from genmem.neurons.wiring import Wiring, find_wiring, unedited
from genmem.protocols import Brief

PARTS = ("decoder", "encoder")


class Unit(NamedTuple):
    """One unit: the name of its layer in the network (as in `module.named_modules()`) and its number there."""

    layer: str
    index: int  # type: ignore[assignment]


@dataclass(frozen=True)
class Coverage(Brief):
    """Which units there are, where each layer's are edited, and what is left out and why.

    Attributes:
        part: of the network.
        units: by layer, how many.
        places: by layer, where its units are edited.
        left_out: by layer or module of this part, why it has no units here.
        notes: what else a reader of the results must know.
    """

    part: str
    units: Mapping[str, int]
    places: Mapping[str, str]
    left_out: Mapping[str, str] = field(default_factory=dict)
    notes: tuple[str, ...] = ()

    def headline(self) -> str:
        """Return the size and the main figures."""
        return f"{sum(self.units.values()):,} units of the {self.part} in {len(self.units):,} layers"

    def __str__(self) -> str:
        lines = [f"{sum(self.units.values())} units of the {self.part} in {len(self.units)} layers"]
        lines += [f"  {name}: {count}, edited in {self.places[name]}" for name, count in self.units.items()]
        lines += [f"  left out: {name} {reason}" for name, reason in self.left_out.items()]
        return "\n".join([*lines, *(f"  {note}" for note in self.notes)])


def units_of(model_or_module: Any, layers: Sequence[str] | None = None, part: str = "decoder") -> list[Unit]:
    """Return the hidden units of the density p(x), layer by layer.

    A unit is an output of a Linear, a channel of a convolution or of a norm with weights, that another layer of the
    same part reads. These are hidden units of the decoder of a VAE, of the conditioners of a flow, of the denoiser of a
    diffusion model, and of all of a user's network. A layer that only a norm reads is left out: its channels are those
    of the norm. `coverage_of` lists what is left out.

    Args:
        model_or_module: a fitted density, or its network.
        layers: names of layers; all by default. Named layers may also be outputs, or layers read by a norm.
        part: "decoder", the part that makes p(x), or "encoder", which only helps to estimate it.

    Raises:
        ModelError: there is no network, no such layer, or no such part.
    """
    found, _ = wired(model_or_module, layers=layers, part=part)
    return [Unit(name, index) for name, wiring in found.items() for index in range(wiring.channels)]


def coverage_of(model_or_module: Any, layers: Sequence[str] | None = None, part: str = "decoder") -> Coverage:
    """Return which units `units_of` finds, and what it leaves out; errors as there."""
    return wired(model_or_module, layers=layers, part=part)[1]


def wired(
    model_or_module: Any,
    *,
    layers: Collection[str] | None = None,
    part: str = "decoder",
    examples: Tensor | None = None,
) -> tuple[dict[str, Wiring], Coverage]:
    """Return how the units of each layer are edited, and the coverage.

    Args:
        model_or_module: a fitted density, or its network.
        layers: names of layers; None is all whose units are hidden.
        part: see `units_of`.
        examples: (n, *event) to run the network on; random numbers in [0, 1] by default.

    Raises:
        ModelError: see `units_of`.
    """
    module = module_of(model_or_module)
    trial = Tried(module, examples)
    with scored(module), unedited():
        scopes = _scopes(module, part, trial.x)
        for name in layers or ():
            require_layer({n: module.get_submodule(n) for n in scopes}, name, f"the {part}")
        asked = [name for name in scopes if layers is None or name in layers]
        found, left_out = find_wiring(module, trial, asked, scopes)
    if layers is None:
        left_out |= {name: reason for name, w in found.items() if (reason := _why_not(module, w))}
        left_out |= _uncovered(module, set(scopes.values()))
        found = {name: w for name, w in found.items() if name not in left_out}
    for name in layers or ():
        if name in left_out:
            raise ModelError(
                expected="a layer whose units can be edited", got=f"{name}, which {left_out[name]}", do="Name another."
            )
    if not found:
        raise ModelError(
            expected=f"a network with hidden units in its {part}: outputs of Linear, convolution or norm layers",
            got="none" + "".join(f"; {name} {reason}" for name, reason in list(left_out.items())[:3]),
            do="Memorization cannot be located in units of this model.",
        )
    places = {name: _where(wiring) for name, wiring in found.items()}
    counts = {name: wiring.channels for name, wiring in found.items()}
    return found, Coverage(part, counts, places, left_out, _notes(module, part, scopes))


def checked_units(units: Sequence[Any], wirings: Mapping[str, Wiring]) -> list[Unit]:
    """Return units, given as (layer, index), as `Unit`s; they may be listed more than once.

    Raises:
        ModelError: a layer has no such unit.
    """
    checked = [Unit(str(layer), int(index)) for layer, index in units]
    for layer, index in checked:
        if not 0 <= index < wirings[layer].channels:
            raise ModelError(
                expected=f"a unit of {layer} from 0 to {wirings[layer].channels - 1}",
                got=str(index),
                do="Number the units of a layer from 0; units_of lists them.",
            )
    return checked


def layers_named(units: Sequence[Any]) -> list[str]:
    """Return the layers of units in the order of their first appearance.

    Raises:
        ModelError: something among them is not a pair of a layer's name and a number.
    """
    for unit in units:
        if not (isinstance(unit, tuple) and len(unit) == 2 and isinstance(unit[0], str) and _is_whole(unit[1])):
            raise ModelError(
                expected="units as (layer, index)", got=repr(unit), do='Name them like ("decoder.0", 3), as units_of.'
            )
    return list(dict.fromkeys(layer for layer, _ in units))


def _is_whole(value: Any) -> bool:
    return not isinstance(value, bool) and hasattr(value, "__index__")


def module_of(model_or_module: Any) -> nn.Module:
    """Return the network of a fitted density, or the network itself.

    Raises:
        ModelError: the model has no network, or is not fitted.
    """
    if isinstance(model_or_module, nn.Module):
        return model_or_module
    module = getattr(model_or_module, "module_", None)
    if isinstance(module, nn.Module):
        return module
    name = type(model_or_module).__name__
    if hasattr(model_or_module, "make_module"):
        raise ModelError(expected=f"a fitted {name}", got="an unfitted one", do="Call `fit(X)` first.")
    raise ModelError(
        expected="a density made of a network, or a torch.nn.Module",
        got=name,
        do="The question where memorization is located does not arise for a density without units (KDE, GMM, k-NN).",
    )


# --- the parts of a network


def _scopes(module: nn.Module, part: str, x: Tensor) -> dict[str, str]:
    """Return the layers with units of one part, each with the name of the network within which it is hidden or not."""
    if part not in PARTS:
        raise ModelError(expected=f"part to be one of {', '.join(PARTS)}", got=repr(part), do="Change part.")
    names = list(layers_with_units(module))
    found = _of_pair(module, names, part, x) if _is_pair(module) else _by_name(module, names, part)
    if part == "encoder" and not found:
        raise ModelError(
            expected="a network with an encoder", got=type(module).__name__, do='Use part="decoder": all of p(x).'
        )
    return found


def _by_name(module: nn.Module, names: Sequence[str], part: str) -> dict[str, str]:
    conditioners = [name for name, _ in module.named_modules() if name.rpartition(".")[2] == "hyper"]
    if conditioners and _is_flow(module):
        parts = conditioners if part == "decoder" else []
    else:
        parts = [name for name in (part, f"network.{part}") if _has_both(module, name)]
        parts = parts or ([""] if part == "decoder" else [])
    return {name: one for name in names for one in parts if not one or name.startswith(f"{one}.")}


def _has_both(module: nn.Module, name: str) -> bool:
    """Return whether a network has this part and the other one side by side."""
    place = name.rpartition(".")[0]
    children = dict(module.named_modules())
    return all(f"{place}.{part}".lstrip(".") in children for part in PARTS)


def _is_flow(module: nn.Module) -> bool:
    return _is_a(module, "genmem.models.flow", "FlowModule")


def _is_pair(module: nn.Module) -> bool:
    return _is_a(module, "genmem.models.pyro_module", "PairModule")


def _is_a(module: nn.Module, home: str, name: str) -> bool:
    """Return whether a network is of this class, without loading the library that its module needs."""
    return any((kind.__module__, kind.__name__) == (home, name) for kind in type(module).__mro__)


def _of_pair(module: Any, names: Sequence[str], part: str, x: Tensor) -> dict[str, str]:
    """Return the layers of a Pyro pair: those that the guide calls are the encoder."""
    called: set[str] = set()
    handles = [
        module.get_submodule(name).register_forward_hook(lambda *_, name=name: called.add(name)) for name in names
    ]
    try:
        with torch.no_grad(), module.running() as (_, guide):
            guide(x)
    finally:
        for handle in handles:
            handle.remove()
    return {name: "" for name in names if (name in called) == (part == "encoder")}


def _why_not(module: nn.Module, wiring: Wiring) -> str | None:
    """Return why a layer's units are not listed unless they are asked for."""
    if not wiring.hidden:
        return "is an output: no other layer of its part reads it"
    norms = [place.module for place in wiring.places if place.side == "input" and _is_norm(module, place.module)]
    if norms and len(norms) == len(wiring.places):
        return f"is read by the norm {norms[0]} alone, whose units stand for its channels"
    return None


def _is_norm(module: nn.Module, name: str) -> bool:
    layer = module.get_submodule(name)
    last = isinstance(layer, nn.LayerNorm | nn.RMSNorm)
    return last or (isinstance(layer, CHANNELS_SECOND) and not isinstance(layer, CONVOLUTIONS))


def _uncovered(module: nn.Module, scopes: Collection[str]) -> dict[str, str]:
    """Return modules with parameters of their own, within the scopes, that genmem cannot edit units of."""
    within = [scope + "." if scope else "" for scope in scopes]
    return {
        name or "the network itself": f"is a {type(part).__name__}, whose parameters make no units"
        for name, part in without_units(module).items()
        if any(f"{name}.".startswith(scope) for scope in within)
    }


def _where(wiring: Wiring) -> str:
    places = " and ".join(map(str, wiring.places))
    return places if wiring.as_read else f"{places}, before any activation: not all readers of the units are known"


def _notes(module: nn.Module, part: str, scopes: Mapping[str, str]) -> tuple[str, ...]:
    notes = []
    if part == "encoder":
        notes.append("Units of an encoder are no part of p(x): their drops are of its estimate.")
    importance = hasattr(module, "log_weights") and estimate_of(module) == "importance"
    if importance and not has_posterior(module):
        notes.append("log p is estimated with a q of this network that cannot be refitted: drops are overstated.")
        if "" in scopes.values() and not _is_pair(module):
            notes.append("Units of an encoder, if it has one, are among these: name the layers of p(x).")
    return tuple(notes)
