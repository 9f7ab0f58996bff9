"""Gradients of parameters without a layer rule: one for each example, written out; and networks that are refused."""

import inspect
import warnings
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call, grad, jvp, vmap

from genmem.errors import ModelError
from genmem.gradients.factored import NOTHING, Piece

AT_ONCE = 2**24  # values of gradients

Loss = Callable[..., Tensor]
Streams = Callable[[], AbstractContextManager[None]]


class PerExampleLoss(nn.Module):
    """The loss of each example as a network of its own, so that parameters can be replaced whatever the loss.

    Args:
        module: the network.
        loss: `loss(module, x)`, or `loss(module, x, noise)` if it takes noise; None: the network returns it.

    Attributes:
        repeats: whether draws of its own noise are taken in one call on copies of the batch, not in a call each.
    """

    repeats = False

    def __init__(self, module: nn.Module, loss: Loss | None = None) -> None:
        super().__init__()
        self.module, self._loss = module, (loss,)  # in a tuple: a loss that is a module must not become a submodule

    def forward(self, x: Tensor, noise: Tensor | None = None, draws: int = 1) -> Tensor:
        """Return the loss of each example: (batch,)."""
        if noise is None and draws > 1 and self.repeats:
            many = x.repeat(draws, *[1] * (x.ndim - 1))
            return self._once(many, None, 1).view(draws, len(x)).mean(0)
        if noise is None and draws > 1 and not self.takes_draws():
            return torch.stack([self._once(x, None, 1) for _ in range(draws)]).mean(0)
        return self._once(x, noise, draws)

    def _once(self, x: Tensor, noise: Tensor | None, draws: int) -> Tensor:
        (loss,) = self._loss
        x = x.clone()  # a network may overwrite its input
        if loss is not None:
            return loss(self.module, x) if noise is None else loss(self.module, x, noise)
        given: dict[str, Any] = {} if noise is None else {"noise": noise}
        if (draws > 1 or noise is not None) and self.takes_draws():
            given["draws"] = draws if noise is None else len(noise)
        result: Tensor = self.module(x, **given)
        return result

    def takes_draws(self) -> bool:
        """Return whether the network accepts a number of draws; if not, it is called once for each."""
        (loss,) = self._loss
        return loss is None and takes(self.module, "draws")

    def loops(self) -> bool:
        """Return whether the network takes its draws in a call each."""
        return not self.takes_draws() or bool(getattr(self.module, "loops_over_draws", False))

    def under(self, parameters: Mapping[str, Tensor], x: Tensor, noise: Tensor | None, draws: int = 1) -> Tensor:
        """Return the losses with some parameters, by their names in `module`, replaced; also by a copy for each row."""
        known = dict(self.module.named_parameters())
        if self.repeats and noise is None and draws > 1:
            copies = {name: value for name, value in parameters.items() if value.ndim > known[name].ndim}
            repeated = {name: value.repeat(draws, *[1] * (value.ndim - 1)) for name, value in copies.items()}
            parameters = {**parameters, **repeated}
        named = {f"module.{name}": value for name, value in parameters.items()}
        result: Tensor = functional_call(self, named, (x, noise, draws))
        return result

    def state(self) -> dict[str, Tensor]:
        """Return the parameters by name, detached; shared ones count once."""
        return {name: p.detach() for name, p in self.module.named_parameters()}


def takes(module: nn.Module, name: str) -> bool:
    """Return whether the forward pass of a network accepts an argument of this name."""
    known = inspect.signature(module.forward).parameters
    return name in known or any(one.kind is one.VAR_KEYWORD for one in known.values())


def vmap_rows(
    loss: PerExampleLoss,
    names: Sequence[str],
    x: Tensor,
    noise: Tensor | None,
    *,
    draws: int = 1,
    streams: Streams | None = None,
) -> dict[str, Tensor]:
    """Return the gradient of each example by `vmap(grad)`: (batch, size) for each of the named parameters.

    A network that draws its own noise does so inside `streams()`, once for all examples together. The result equals the
    gradients of its losses in a batch only if the noise does not depend on the batch: latents that all examples share.
    """
    fixed = loss.state()
    chosen = {name: fixed.pop(name) for name in names}

    def one(chosen: Mapping[str, Tensor], x: Tensor, noise: Tensor | None) -> Tensor:
        alone = None if noise is None else noise.unsqueeze(1)
        return loss.under({**fixed, **chosen}, x.unsqueeze(0), alone, draws).squeeze(0)

    size = sum(p.numel() for p in chosen.values())
    at_once = max(1, min(len(x), AT_ONCE // max(1, size)))
    in_dims = (None, 0, None if noise is None else 1)
    each = vmap(grad(one), in_dims=in_dims, randomness="error" if streams is None else "same")
    found = []
    for start in range(0, len(x), at_once):
        some = slice(start, start + at_once)
        with nullcontext() if streams is None else streams():
            found.append(each(chosen, x[some], None if noise is None else noise[:, some]))
    return {name: torch.cat([rows[name] for rows in found]).reshape(len(x), -1) for name in names}


def copies_of(parameters: Mapping[str, Tensor], dimensions: Mapping[str, int], n: int) -> dict[str, Tensor]:
    """Return a copy of each parameter for each example: (n, 1, ..., 1, *shape), with as many ones as `dimensions` says.

    A network that uses a parameter only in element-wise operations runs unchanged. The gradient of a copy is that of
    its example, from the backward pass that the layers need anyway.
    """
    return {
        name: parameters[name].expand(n, *(1,) * ones, *parameters[name].shape) for name, ones in dimensions.items()
    }


def loop_rows(losses: Tensor, parameters: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return the gradient of each loss by a backward pass of its own: (batch, size) for each parameter."""
    found = [_gradient(value, parameters) for value in losses]
    return {name: torch.stack([rows[name] for rows in found]) for name in parameters}


def _gradient(value: Tensor, parameters: Mapping[str, Tensor]) -> dict[str, Tensor]:
    grads = torch.autograd.grad(value, list(parameters.values()), retain_graph=True, allow_unused=True)
    return {name: dense(g, p).flatten() for g, (name, p) in zip(grads, parameters.items(), strict=True)}


def dense(gradient: Tensor | None, parameter: Tensor) -> Tensor:
    """Return a gradient as an ordinary tensor: None is zero, and gradients of embeddings may be sparse."""
    if gradient is None:
        return torch.zeros_like(parameter)
    return gradient.to_dense() if gradient.is_sparse else gradient


def lengths(rows: Mapping[str, Tensor]) -> Tensor:
    """Return the length of the whole gradient of each example: (batch,)."""
    return torch.stack([torch.linalg.vector_norm(part, dim=1) for part in rows.values()]).square().sum(0).sqrt()


def forward_mode(
    loss: PerExampleLoss, direction: Mapping[str, Tensor], x: Tensor, noise: Tensor | None, draws: int = 1
) -> Tensor:
    """Return d/de loss(theta + e v) of each example by one forward-mode pass: (batch,)."""
    parameters = loss.state()
    fixed = {name: p for name, p in parameters.items() if name not in direction}
    moving = {name: parameters[name] for name in direction}
    tangents = {name: v.to(parameters[name]).view_as(parameters[name]) for name, v in direction.items()}

    def of(moving: Mapping[str, Tensor]) -> Tensor:
        return loss.under({**fixed, **moving}, x, noise, draws)

    with warnings.catch_warnings():  # torch scripts its own decompositions when it first meets forward mode
        warnings.filterwarnings("ignore", message="`torch.jit.script` is", category=DeprecationWarning)
        return jvp(of, (moving,), (tangents,))[1]  # type: ignore[no-any-return]


def twice_backward(losses: Tensor, parameters: Mapping[str, Tensor], direction: Mapping[str, Tensor]) -> Tensor:
    """Return d/de loss(theta + e v) of each example by two backward passes: (batch,).

    For operations without a forward-mode rule: J^T u is linear in u, and its derivative along v is J v.
    """
    weights = torch.zeros_like(losses, requires_grad=True)
    names = list(direction)
    found = torch.autograd.grad(losses, [parameters[n] for n in names], weights, create_graph=True, allow_unused=True)
    products = [(g * direction[n].to(g).view_as(g)).sum() for n, g in zip(names, found, strict=True) if g is not None]
    return torch.autograd.grad(sum(products, torch.zeros_like(losses[0])), weights)[0]


# --- networks that are refused


def refuse_unfit(module: nn.Module, trained: Mapping[str, Tensor]) -> None:
    """Refuse a network without parameters to train, or whose examples depend on each other or on chance."""
    if not trained:
        raise ModelError(
            expected="a network with parameters to differentiate by",
            got=f"{type(module).__name__} with none that has requires_grad=True",
            do="Call requires_grad_() on the parameters that were trained.",
        )
    for name, p in trained.items():
        if p.dtype not in (torch.float32, torch.float64):
            raise ModelError(
                expected="parameters of float32 or float64",
                got=f"{name!r} of {str(p.dtype).removeprefix('torch.')}",
                do="Write a complex one as two real ones." if p.is_complex() else "Call .float() on the network first.",
            )
    for name, layer in module.named_modules():
        if isinstance(layer, nn.modules.batchnorm._BatchNorm) and (layer.training or layer.running_mean is None):
            do = "Call .eval() on the network first." if layer.training else "Train with track_running_stats=True."
            _refuse_layer(name, layer, "uses the statistics of the batch", do)
        if isinstance(layer, nn.Embedding) and layer.scale_grad_by_freq:
            _refuse_layer(name, layer, "divides gradients by counts in the batch", "Set scale_grad_by_freq=False.")
        if isinstance(layer, nn.modules.dropout._DropoutNd) and layer.training and layer.p > 0:
            _refuse_layer(name, layer, "drops values at random", "Call .eval() on the network first.")


def _refuse_layer(name: str, layer: nn.Module, why: str, do: str) -> None:
    mode = "training" if layer.training else "evaluation"
    raise ModelError(
        expected="a network in evaluation mode, with a gradient for each example",
        got=f"{type(layer).__name__} {name!r} in {mode} mode, which {why}",
        do=do,
    )


def refuse_shape(losses: Any, n: int) -> None:
    """Refuse losses that are not one number for each example."""
    if not isinstance(losses, Tensor) or losses.shape != (n,):
        raise ModelError(
            expected=f"a loss for each example, shape ({n},)",
            got=f"shape {tuple(losses.shape)}" if isinstance(losses, Tensor) else f"a {type(losses).__name__}",
            do="Return losses without summing or averaging over the batch; if the network returns something else, pass "
            "loss=, a function of the network and examples.",
        )


def refuse_constant(losses: Tensor, trained: Mapping[str, Tensor], why: Callable[[], tuple[str, str]]) -> None:
    """Refuse losses that depend on no parameter, with the reason that `why` finds and what to do."""
    found: tuple[Tensor | None, ...] = ()
    if losses.requires_grad:
        found = torch.autograd.grad(losses.sum(), list(trained.values()), allow_unused=True, retain_graph=True)
    if all(g is None for g in found):
        got, do = why()
        raise ModelError(expected="a loss that can be differentiated by the network's parameters", got=got, do=do)


def see_each_other(losses: Tensor, x: Tensor, some: Sequence[int]) -> bool:
    """Return whether one of some losses has a nonzero derivative with respect to another example of its batch."""
    if not x.requires_grad:
        return False
    slopes = [torch.autograd.grad(losses[i], x, allow_unused=True, retain_graph=True)[0] for i in some]
    return any(
        bool(slope.flatten(1).count_nonzero(1)[torch.arange(len(x), device=x.device) != i].any())
        for i, slope in zip(some, slopes, strict=True)
        if slope is not None
    )


def differ(losses: Tensor, others: Tensor, trained: Mapping[str, Tensor]) -> bool:
    """Return whether two sets of losses have different gradients, by more than rounding."""
    norms, errors = (lengths(loop_rows(some, trained)).square() for some in (losses, losses - others))
    return bool((errors > 1e-6 * norms.clamp(min=1e-6 * float(norms.max()))).any())


def refuse_mixed(mixed: bool) -> None:
    """Refuse losses that depend on the other examples of a batch."""
    if mixed:
        raise ModelError(
            expected="a loss of each example that does not depend on the others in its batch",
            got="one that does",
            do="Call .eval() first; do not divide by the batch size or normalize over the batch.",
        )


def refuse_used(gradients: Mapping[str, Tensor | None]) -> None:
    """Refuse nonzero gradients of parameters that had none on the test examples; None stands for zero."""
    used = [name for name, gradient in gradients.items() if gradient is not None]
    if used:
        raise ModelError(
            expected="a loss that depends on the same parameters in every batch",
            got=f"one that uses {', '.join(used)} here and not in the test examples",
            do="Pass hooks=False, and test examples that use every part of the network.",
        )


def refuse_wrong(pieces: Mapping[str, Piece], sums: Mapping[str, Tensor | None]) -> None:
    """Refuse gradients that do not add up to that of the whole batch; done once, on the first batch."""
    squares = {name: pieces[name].squares().sum().clamp(min=0) for name in sums if name in pieces}
    for name, truth in sums.items():
        if name not in pieces or truth is None:
            continue
        rounding = NOTHING * torch.finfo(truth.dtype).eps * sum(squares.values(), squares[name] * 0).sqrt()
        allowed = 1e-3 * squares[name].sqrt() + rounding + 1e-30
        truth = truth.to_dense() if truth.is_sparse else truth
        if bool(torch.linalg.vector_norm(pieces[name].sum() - truth.flatten()) > allowed):
            raise ModelError(
                expected="gradients of examples that add up to that of their batch",
                got=f"others for {name!r}: the network works differently on a large batch than on a small one",
                do="Pass hooks=False to compute all gradients by vmap.",
            )
