"""Is the loss of an example a function of this example and the parameters alone, in batches of every size?

Three examples show most networks that mix examples. These tests find the rest: losses that mix only in larger batches,
forward passes that change what they use, and gradients that torch drops without an error.
"""

import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from genmem.errors import ModelError
from genmem.gradients.fallback import differ, refuse_shape
from genmem.training.tensors import cloned, equal, put_back

DROPPED = "None of the inputs have requires_grad=True"  # torch warns so of reentrant checkpoints


def refuse_changing(module: nn.Module, run: Callable[[], Tensor], n: int) -> None:
    """Refuse a forward pass that changes a parameter, or anything its losses depend on, in evaluation mode.

    A buffer that it changes and does not use, such as a counter, is fine.

    Args:
        module: the network.
        run: returns the losses of the same examples with the same noise.
        n: the number of these examples.

    Raises:
        ModelError: the losses of the same examples depend on how often the network was called.
    """
    parameters, buffers = (cloned(dict(values)) for values in (module.named_parameters(), module.named_buffers()))
    with torch.no_grad(), gradients_kept():
        first, second = run(), run()
    refuse_shape(first, n)
    if changed := _changed(parameters, module.named_parameters()):
        _refuse(f"a forward pass that changes the parameter {changed[0]!r}")
    changed = _changed(buffers, module.named_buffers())
    tolerance = 8 * torch.finfo(first.dtype).eps if changed and first.is_floating_point() else 1e-4
    if not torch.allclose(first, second, rtol=tolerance, atol=0, equal_nan=True):
        _refuse(f"one that changes the buffer {changed[0]!r} and uses it" if changed else "other losses in two calls")
    if changed and not torch.allclose(second, _with_others(module, changed, run), rtol=1e-4, atol=0, equal_nan=True):
        _refuse(f"one that changes the buffer {changed[0]!r} and uses it")


def _changed(before: Mapping[str, Tensor], now: Iterator[tuple[str, Tensor]]) -> list[str]:
    return [name for name, value in now if name in before and not equal(before[name], value)]


@torch.no_grad()
def _with_others(module: nn.Module, names: list[str], run: Callable[[], Tensor]) -> Tensor:
    """Return the losses with other values of some buffers, which are put back."""
    buffers = {name: value for name, value in module.named_buffers() if name in names}
    kept = cloned(buffers)
    for value in buffers.values():
        value.copy_(moved(value))
    try:
        return run()
    finally:
        put_back(module, kept)


def moved(value: Tensor) -> Tensor:
    """Return other values of the same kind: far from the given ones, and positive if these are, as variances are."""
    if value.dtype == torch.bool:
        return ~value
    return (
        2 * value + 1
        if value.is_floating_point() or value.is_complex()
        else value + (101 if value.element_size() == 1 else 10_007)
    )


def _refuse(got: str) -> None:
    raise ModelError(
        expected="the same losses whenever the same examples are passed in evaluation mode, with the same torch seed",
        got=got,
        do="Change buffers and attributes only if self.training; draw random numbers with torch, not with numpy.",
    )


def refuse_mixing_at(run: Callable[[Tensor], Tensor], x: Tensor, trained: Mapping[str, Tensor]) -> None:
    """Refuse a loss whose gradient depends on the other examples of a batch of this size.

    Every second example is replaced: this must not change the gradients of two others.

    Raises:
        ModelError: it does.
    """
    n = len(x)
    kept = torch.tensor([n // 2, n - 1])
    replaced = torch.tensor([i for i in range(0, n, 2) if i not in kept.tolist()], device=x.device)
    others = x.clone()
    others[replaced] = x[n // 2]
    with torch.enable_grad():
        losses, changed = run(x), run(others)
    if losses.shape != (n,) or not bool(torch.isfinite(losses[kept]).all()):
        return  # refused elsewhere, with its own reason
    if any(differ(losses[i : i + 1], changed[i : i + 1], trained) for i in kept.tolist()):
        raise ModelError(
            expected="a loss of each example that does not depend on the others in its batch, whatever its size",
            got=f"one that does in a batch of {n}, though not in one of 3",
            do="Compute the loss of each example by itself: no branch on len(x), no mean over the batch.",
        )


@contextmanager
def working() -> Iterator[None]:
    """Refuse a network that torch cannot run, or differentiate, on the test examples."""
    try:
        yield
    except RuntimeError as error:
        if "checkpoint" in str(error).lower() and "grad" in str(error):
            refuse_reentrant("torch cannot differentiate it by chosen tensors")
        raise ModelError(
            expected="a network that takes these examples, and a loss with a gradient",
            got=f"an error of torch: {str(error).splitlines()[0][:300]}",
            do="Pass examples of the form it was trained on; between parameters and loss, avoid numpy, .item() and "
            "operations without a derivative.",
        ) from error


@contextmanager
def gradients_kept() -> Iterator[None]:
    """Refuse a forward pass in which a reentrant checkpoint drops the gradients of its parameters.

    Raises:
        ModelError: it does.
    """
    with warnings.catch_warnings(record=True) as found:
        warnings.simplefilter("always")
        yield
    for one in found:
        if DROPPED in str(one.message):
            refuse_reentrant("a segment without gradients for its parameters, since none of its inputs has one")
        warnings.warn_explicit(one.message, one.category, one.filename, one.lineno)


def refuse_reentrant(got: str) -> None:
    """Refuse reentrant checkpointing, under which torch computes no gradient of chosen tensors."""
    raise ModelError(
        expected="a network whose gradients torch.autograd.grad can compute",
        got=f"torch.utils.checkpoint with use_reentrant=True: {got}",
        do="Pass use_reentrant=False to torch.utils.checkpoint.checkpoint: the gradients are the same.",
    )


def cause_of_none(losses: Tensor, module: nn.Module, run: Callable[[], Tensor]) -> tuple[str, str]:
    """Return why losses depend on no trained parameter, and what to do about it."""
    if losses.requires_grad:
        others = "one that depends on parameters of another network, or on none of those with requires_grad=True"
        return others, "Compute the loss from the network that the function is given, not from one outside it."
    if losses.is_inference():
        return "one computed in torch.inference_mode()", "Remove inference_mode() around the forward pass."
    was = {name: layer.training for name, layer in module.named_modules()}
    kept = cloned(dict(module.named_buffers()))
    try:
        module.train()
        with torch.enable_grad():
            in_training = run().requires_grad
    except Exception:  # a network may fail in any way in training mode: nothing is learned then
        in_training = False
    finally:
        for name, layer in module.named_modules():
            layer.training = was.get(name, False)
        put_back(module, kept)
    if in_training:
        return "one without a gradient in evaluation mode", "Drop gradients nowhere if self.training is False."
    return "one that depends on none of them", (
        "Remove detach(), .item(), no_grad() and numpy between the parameters and the loss."
    )
