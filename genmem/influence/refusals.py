"""What is refused before or while gradients are computed, and what to do about it."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from genmem.errors import ModelError
from genmem.influence.pieces import NOTHING, Piece


def refuse_unfit(module: nn.Module, trained: Mapping[str, Tensor]) -> None:
    """Refuse a network without parameters to train, or whose examples see each other or chance."""
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


@contextmanager
def working() -> Iterator[None]:
    """Refuse a network that torch cannot run, or differentiate, on the examples that are tried."""
    try:
        yield
    except RuntimeError as error:
        raise ModelError(
            expected="a network that takes these examples, and a loss with a gradient",
            got=f"an error of torch: {str(error).splitlines()[0][:300]}",
            do="Pass examples as it was trained on; on the way to the loss leave out numpy, .item() and operations "
            "without a derivative.",
        ) from error


def refuse_shape(losses: Any, n: int) -> None:
    """Refuse losses that are not one for each example."""
    if not isinstance(losses, Tensor) or losses.shape != (n,):
        raise ModelError(
            expected=f"a loss for each example, shape ({n},)",
            got=f"shape {tuple(losses.shape)}" if isinstance(losses, Tensor) else f"a {type(losses).__name__}",
            do="Return losses without summing or averaging over the batch.",
        )


def refuse_constant(losses: Tensor, trained: Mapping[str, Tensor]) -> None:
    """Refuse losses that depend on no parameter."""
    found: tuple[Tensor | None, ...] = ()
    if losses.requires_grad:
        found = torch.autograd.grad(losses.sum(), list(trained.values()), allow_unused=True, retain_graph=True)
    if all(g is None for g in found):
        raise ModelError(
            expected="a loss that can be differentiated by the network's parameters",
            got="one that depends on none of them",
            do="Remove detach(), .item(), no_grad() and numpy from the way to the loss.",
        )


def refuse_used(gradients: Mapping[str, Tensor | None]) -> None:
    """Refuse gradients of parameters that were thought to have none; None is none."""
    used = [name for name, gradient in gradients.items() if gradient is not None]
    if used:
        raise ModelError(
            expected="a loss that depends on the same parameters in every batch",
            got=f"one that uses {', '.join(used)} here and not in the examples tried first",
            do="Pass hooks=False, and examples to try that use every part of the network.",
        )


def refuse_wrong(pieces: Mapping[str, Piece], sums: Mapping[str, Tensor | None]) -> None:
    """Refuse gradients that do not add up to that of the whole batch; done once, on the first one."""
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
