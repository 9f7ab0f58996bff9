"""How the gradients of a network can be computed, determined and checked against autograd on two or three examples.

Hooks see the layers that are called, not other uses of their weights, and shapes do not say which dimension indexes the
examples. Therefore nothing is assumed: each loss is differentiated separately, with the parameters as they are and with
all of them perturbed at random (a last layer of zeros would hide those before it). The layout of a layer is the one in
which the loss of one example has no gradient at another's calls. A parameter's gradient is read off its layers if that
is right for every example in both networks; otherwise each example gets its own copy of the parameter, if that is
right; otherwise `vmap` is used, and finally one backward pass for each example.
"""

import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import torch
from torch import Tensor, nn

from genmem.errors import ModelError
from genmem.gradients.factored import NOTHING, Piece, Rows
from genmem.gradients.fallback import copies_of, dense, lengths
from genmem.gradients.hooks import Call, Layout, Place, backward, noted, possible_layouts
from genmem.gradients.layers import joined, pieces_of, readable
from genmem.protocols import Brief

MOVED_BY = 0.05
MOST_ONES = 3  # dimensions of 1 between the examples and the shape of a parameter: draws, positions
Run = Callable[[Mapping[str, Tensor] | None], Tensor]


@dataclass(frozen=True)
class Coverage(Brief):
    """How the gradient of each parameter is computed; each attribute maps names to numbers of values.

    `hooks`: read off the layers; `copies`: each example has its own copy; `vmap`: by `torch.func.vmap`; `loop`: by a
    backward pass for each example; `unused`: the loss does not depend on them, their gradient is 0; `frozen`:
    `requires_grad` is false, they are left out.
    """

    hooks: Mapping[str, int] = field(default_factory=dict)
    copies: Mapping[str, int] = field(default_factory=dict)
    vmap: Mapping[str, int] = field(default_factory=dict)
    loop: Mapping[str, int] = field(default_factory=dict)
    unused: Mapping[str, int] = field(default_factory=dict)
    frozen: Mapping[str, int] = field(default_factory=dict)

    def headline(self) -> str:
        """Return the size and the main figures."""
        return str(self)

    @property
    def covered(self) -> int:
        """The number of parameters with a gradient, zero gradients included."""
        return sum(sum(part.values()) for part in (self.hooks, self.copies, self.vmap, self.loop, self.unused))

    def __str__(self) -> str:
        ways = {"by hooks": self.hooks, "by copies": self.copies, "by vmap": self.vmap, "by a loop": self.loop}
        ways["unused"] = self.unused
        found = ", ".join(f"{sum(part.values()):,} {way}" for way, part in ways.items() if part)
        left, total = sum(self.frozen.values()), self.covered + sum(self.frozen.values())
        if not left:
            return f"100% of {total:,} parameters ({found})"
        share = f"{100 * self.covered / total:.3g}% of {total:,} parameters ({found})"
        return f"{share}; {left:,} are frozen (requires_grad=False) and left out: {', '.join(self.frozen)}"


class Reading(NamedTuple):
    """The parameters that are read off layers, (layer, own name) -> name, and the layouts of calls."""

    names: Mapping[tuple[str, str], str]
    layouts: Mapping[Place, Layout]


class Probe(NamedTuple):
    """One set of parameters on the test examples: autograd's gradients of each loss separately."""

    calls: Sequence[Call]
    backs: Sequence[Sequence[Tensor | None]]  # of each example, of each call
    truth: Mapping[str, Tensor]  # (examples, size)
    used: set[str]  # parameters that some loss depends on
    parameters: Mapping[str, Tensor]  # those that were perturbed

    @property
    def lengths(self) -> Tensor:
        """The length of the whole gradient of each example: (examples,)."""
        return lengths(self.truth)


def read(
    module: nn.Module, reading: Reading, calls: Sequence[Call], backs: Sequence[Tensor | None], n: int
) -> dict[str, Piece]:
    """Return the pieces of the parameters that are read off layers.

    Raises:
        ModelError: a layer is called in another way than in the tests of the network.
    """
    layers = dict(module.named_modules())
    arranged: dict[str, list[tuple[Tensor, Tensor]]] = {}
    for call, back in zip(calls, backs, strict=True):
        if back is not None and any(layer == call.layer for layer, _ in reading.names):
            layout = _layout(reading, call, n)
            seen, left = (layout.arrange(_wide(value), len(call.lead), n) for value in (call.input, back))
            arranged.setdefault(call.layer, []).append(_merged(seen, left))
    found: dict[str, list[Piece]] = {}
    for layer, pairs in arranged.items():
        own = {local: name for (owner, local), name in reading.names.items() if owner == layer}
        for local, piece in pieces_of(layers[layer], pairs, list(own)).items():
            found.setdefault(own[local], []).append(piece)
    return {name: joined(pieces) for name, pieces in found.items()}


def _merged(seen: Tensor, back: Tensor) -> tuple[Tensor, Tensor]:
    """Return one call in place of several with the same input (an encoder called for each draw): rules are linear."""
    if seen.shape[1] == 1 or not torch.equal(seen, seen[:, :1].expand_as(seen)):
        return seen, back
    return seen[:, :1], back.sum(1, keepdim=True)


def _wide(values: Tensor) -> Tensor:
    return values.float() if values.dtype in (torch.float16, torch.bfloat16) else values


def _layout(reading: Reading, call: Call, n: int) -> Layout:
    layout = reading.layouts.get(call.place)
    if layout is None or not layout.fits(call.lead, n):
        raise ModelError(
            expected="a network that calls its layers in the same way for every batch",
            got=f"layer {call.layer!r} called with {call.lead} for {n} examples, unlike for the test examples",
            do="Pass hooks=False to compute all gradients by vmap.",
        )
    return layout


def layers_of(module: nn.Module) -> dict[str, nn.Module]:
    """Return the layers that a rule may give gradients for: those with a trained parameter of their own."""
    return {
        name: layer for name, layer in module.named_modules() if any(p.requires_grad for p in readable(layer).values())
    }


def probe(module: nn.Module, run: Run, trained: Mapping[str, Tensor], moved: bool) -> Probe | None:
    """Differentiate each loss separately; None if perturbed parameters give losses that are not finite."""
    parameters = dict(trained)
    if moved:
        parameters = {name: p.requires_grad_() for name, p in _moved(trained).items()}
    with noted(layers_of(module)) as calls:
        losses = run(parameters if moved else None)
    if moved and not bool(torch.isfinite(losses).all()):
        return None
    found = [backward(loss, calls, list(parameters.values()), keep=True) for loss in losses]
    gradients = [
        torch.stack([dense(grads[i], p).flatten() for _, grads in found]) for i, p in enumerate(parameters.values())
    ]
    if moved and not all(bool(torch.isfinite(g).all()) for g in gradients):
        return None
    used = {name for i, name in enumerate(parameters) if any(grads[i] is not None for _, grads in found)}
    truth = dict(zip(parameters, gradients, strict=True))
    return Probe(calls, [backs for backs, _ in found], truth, used, parameters if moved else {})


def _moved(trained: Mapping[str, Tensor]) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(0)
    noise = {name: torch.randn(p.shape, generator=generator, dtype=torch.float64) for name, p in trained.items()}
    return {name: p.detach() + MOVED_BY * noise[name].to(p) for name, p in trained.items()}


def reading_of(module: nn.Module, probes: Sequence[Probe], trained: Mapping[str, Tensor]) -> Reading:
    """Return what can be read off layers: the parameters with correct gradients in every probe."""
    layouts = _layouts(probes)
    names = {id(p): name for name, p in trained.items()}
    places = {layer for layer, _ in layouts}
    possible = {
        (name, local): names[id(p)]
        for name, layer in layers_of(module).items()
        for local, p in readable(layer).items()
        if id(p) in names and name in places
    }
    kept = [call.layer for one in probes for call in one.calls if call.place not in layouts]
    reading = Reading({key: name for key, name in possible.items() if key[0] not in kept}, layouts)
    wrong = {name for one in probes for name in _wrong(module, reading, one)}
    return Reading({key: name for key, name in reading.names.items() if name not in wrong}, layouts)


def _wrong(module: nn.Module, reading: Reading, one: Probe) -> set[str]:
    n = len(one.backs)
    backs = [_sum(parts) for parts in zip(*one.backs, strict=True)]
    found = read(module, reading, one.calls, backs, n)
    wrong = set()
    for name in set(reading.names.values()):
        piece = found.get(name, Rows(torch.zeros_like(one.truth[name])))
        if not agree(piece.dense(0, n), one.truth[name], one.lengths):
            wrong.add(name)
    return wrong


def _sum(parts: Sequence[Tensor | None]) -> Tensor | None:
    known = [part for part in parts if part is not None]
    return torch.stack(known).sum(0) if known else None


def agree(found: Tensor, truth: Tensor, lengths: Tensor) -> bool:
    """Return whether gradients, (n, size), equal those of autograd up to rounding.

    The gradient of a parameter without effect (a bias before a norm) is rounding alone, so the tolerance is relative to
    the `lengths` of whole gradients, (n,).
    """
    eps = torch.finfo(truth.dtype).eps
    error = torch.linalg.vector_norm(found - truth.to(found.dtype), dim=1)
    allowed = 4000 * eps * torch.linalg.vector_norm(truth, dim=1) + NOTHING * eps * lengths
    return bool((error <= allowed).all())


def _layouts(probes: Sequence[Probe]) -> dict[Place, Layout]:
    places = {call.place: call.lead for one in probes for call in one.calls}
    found = {place: _layout_of(place, lead, probes) for place, lead in places.items()}
    return {place: layout for place, layout in found.items() if layout is not None}


def _layout_of(place: Place, lead: tuple[int, ...], probes: Sequence[Probe]) -> Layout | None:
    """Return the layout of the calls in one place; None if no layout, or more than one, fits."""
    n = len(probes[0].backs)
    calls = [
        (call.lead, [backs[i] for backs in one.backs])
        for one in probes
        for i, call in enumerate(one.calls)
        if call.place == place
    ]
    good = [one for one in possible_layouts(lead) if all(_separates(one, here, backs, n) for here, backs in calls)]
    parts = {tuple(_examples(layout, here, n) for here, _ in calls) for layout in good}
    return good[0] if len(parts) == 1 else None


def _separates(layout: Layout, lead: tuple[int, ...], backs: Sequence[Tensor | None], n: int) -> bool:
    """Return whether each example's loss depends on its own calls only."""
    if not layout.fits(lead, n):
        return False
    for i, back in enumerate(backs):
        if back is None:
            continue
        sizes = layout.arrange(back, len(lead), n).abs().flatten(1).amax(1)
        own = sizes[i].item()
        sizes[i] = 0
        if sizes.amax().item() > 1e-6 * own:
            return False
    return True


def _examples(layout: Layout, lead: tuple[int, ...], n: int) -> tuple[tuple[int, ...], ...]:
    """Return which calls belong to each example."""
    numbered = torch.arange(int(torch.Size(lead).numel())).view(*lead, 1)
    rows = layout.arrange(numbered, len(lead), n).flatten(1)
    return tuple(tuple(sorted(row)) for row in rows.tolist())


def by_copies(run: Run, names: Sequence[str], trained: Mapping[str, Tensor], probes: Sequence[Probe]) -> dict[str, int]:
    """Return which of these parameters may be copied for each example, and the number of ones in the copies' shape."""
    found: dict[str, int] = {}
    for name in names:
        for ones in range(MOST_ONES):
            if all(_copies_are_right(run, name, ones, trained, one) for one in probes):
                found[name] = ones
                break
    return found


def _copies_are_right(run: Run, name: str, ones: int, trained: Mapping[str, Tensor], one: Probe) -> bool:
    """Return whether each loss depends only on the copy of its example, with the gradient that autograd gives."""
    n = len(one.backs)
    parameters = {**trained, **one.parameters}
    copy = copies_of(parameters, {name: ones}, n)[name].detach().requires_grad_()
    try:
        with torch.enable_grad(), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # they are about a shape that only this function uses
            losses = run({**one.parameters, name: copy})
        if losses.shape != (n,):
            return False
        rows = [torch.autograd.grad(loss, copy, retain_graph=True, allow_unused=True)[0] for loss in losses]
    except Exception:  # a network may fail in any way on a shape it was not made for
        return False
    seen = torch.stack([dense(row, copy).reshape(n, -1) for row in rows])  # (losses, copies, size)
    truth = torch.zeros_like(seen)
    truth[range(n), range(n)] = one.truth[name].to(seen)
    return agree(seen.flatten(1), truth.flatten(1), one.lengths)


def by_vmap(rows_of: Callable[[Sequence[str]], Mapping[str, Tensor]], names: Sequence[str], one: Probe) -> list[str]:
    """Return the parameters for which `rows_of`, which is `vmap_rows`, gives the right gradients."""
    if not names:
        return []
    try:
        rows = rows_of(names)
    except Exception:  # vmap, and networks under it, fail in many ways
        return []
    return [name for name in names if agree(rows[name], one.truth[name], one.lengths)]
