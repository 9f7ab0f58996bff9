"""One forward and one backward pass that record the input of each layer and the gradient of its output."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.graph import GradientEdge, get_gradient_edge

from genmem.gradients.layers import Kind, kind_of

Place = tuple[str, int]  # a layer, and the number of leading dimensions it was called with


@dataclass(frozen=True)
class Call:
    """One call of a layer: `lead` are the leading dimensions, among them the examples."""

    layer: str
    input: Tensor
    edge: GradientEdge
    lead: tuple[int, ...]

    @property
    def place(self) -> Place:
        """The layer and number of leading dimensions; calls with equal ones have the same layout."""
        return self.layer, len(self.lead)


@dataclass(frozen=True)
class Layout:
    """Which leading dimension indexes the examples; with `per`, the first one, flattened with others.

    `per` is "call" if the examples vary fastest (draw by draw), "example" if they vary slowest.
    """

    axis: int = 0
    per: str | None = None

    def fits(self, lead: tuple[int, ...], n: int) -> bool:
        """Return whether n examples may have this layout."""
        return self.axis < len(lead) and (lead[self.axis] == n if self.per is None else lead[0] % n == 0)

    def arrange(self, values: Tensor, lead: int, n: int) -> Tensor:
        """Return values as (n, calls, *shape of one call)."""
        if self.per == "call":
            values = values.reshape(-1, n, *values.shape[1:]).transpose(0, 1)
        elif self.per == "example":
            values = values.reshape(n, -1, *values.shape[1:])
        else:
            values = values.movedim(self.axis, 0).unsqueeze(1)
        lead += 1
        return values.flatten(1, lead - 1) if lead > 2 else values


def possible_layouts(lead: tuple[int, ...]) -> list[Layout]:
    """Return all layouts of calls with so many leading dimensions, the simplest first."""
    plain = [Layout(axis) for axis in range(len(lead))]
    return [*plain, Layout(per="call"), Layout(per="example")] if lead else []


@contextmanager
def noted(layers: Mapping[str, nn.Module]) -> Iterator[list[Call]]:
    """Record the calls of these layers whose outputs require a gradient."""
    calls: list[Call] = []
    handles = [
        layer.register_forward_hook(_noting(name, kind, calls), with_kwargs=True, prepend=True)
        for name, layer in layers.items()
        if (kind := kind_of(layer)) is not None
    ]
    try:
        with torch.enable_grad():
            yield calls
    finally:
        for handle in handles:
            handle.remove()


def _noting(name: str, kind: Kind, calls: list[Call]) -> Callable[..., None]:
    def note(layer: nn.Module, args: tuple[Any, ...], keywords: dict[str, Any], output: Any) -> None:
        values = args[0] if args else next(iter(keywords.values()), None)
        if not isinstance(values, Tensor) or not isinstance(output, Tensor) or not output.requires_grad:
            return
        trailing = kind.trailing(layer)
        leading = 1 if trailing is None else output.ndim - trailing
        if leading < 1:
            return  # this call has no examples: gradients of its parameters will not add up, and another method is used
        # The edge is that of the current output: an activation may overwrite the tensor afterwards.
        calls.append(Call(name, values.detach(), get_gradient_edge(output), tuple(output.shape[:leading])))

    return note


def backward(
    loss: Tensor, calls: Sequence[Call], others: Sequence[Tensor] = (), *, keep: bool = False
) -> tuple[list[Tensor | None], list[Tensor | None]]:
    """Return the gradients of a scalar with respect to the outputs of calls, and to other tensors; None is zero.

    Gradients of weights are not computed unless they are among the others.
    """
    inputs = [*(call.edge for call in calls), *others]
    # Edges and tensors may be mixed, despite the type of `inputs`.
    found = torch.autograd.grad(loss, inputs, allow_unused=True, retain_graph=keep) if inputs else ()  # type: ignore[arg-type]
    return list(found[: len(calls)]), list(found[len(calls) :])
