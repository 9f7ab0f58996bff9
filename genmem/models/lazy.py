"""Lazy modules get their sizes, and initial weights from the seed, when a network is made."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from genmem.errors import ModelError
from genmem.training.ensemble import noise_shape

ROWS = 2
VALUES = (0.0, 0.5, 1.0)  # of the examples that lazy modules are called with: a loss may not accept all


def initialised(module: nn.Module, event_shape: tuple[int, ...]) -> nn.Module:
    """Return a network that obeys the contract of `DeepDensity`, after a call for the sizes of its lazy modules.

    The call is in evaluation mode, so that running statistics remain those of a fresh network. A network without
    uninitialised parameters is not called.

    Raises:
        ModelError: it does not work on examples of one value, or does not reach all lazy modules.
    """
    if not _lazy(module):
        return module
    was_training, error = module.training, None
    for value in VALUES:
        error = _called(module.eval(), torch.full((ROWS, *event_shape), value))
        if error is None:
            break
    module.train(was_training)
    if left := _lazy(module):
        got = f"{left[0]} without a size" if error is None else f"{type(error).__name__}: {error}"
        raise ModelError(
            expected="a network whose lazy modules get their sizes from one call of the loss and of log p",
            got=got,
            do="Give their sizes (nn.Linear instead of nn.LazyLinear), or call the network once in the function that "
            "makes it.",
        )
    return module


@torch.no_grad()
def _called(module: nn.Module, x: Tensor) -> Exception | None:
    """Call the loss and log p on examples; return what they raise."""
    shape = noise_shape(module)
    noise: dict[str, Any] = {} if shape is None else {"noise": torch.zeros(1, ROWS, *shape)}
    calls: list[Callable[..., Any]] = [module, getattr(module, "log_weights", module)]
    for call in calls:
        try:
            call(x, **noise) if call is module else call(x, 1, **noise)
        except Exception as error:  # whatever the user's network raises
            return error
        if not _lazy(module):
            break
    return None


def _lazy(module: nn.Module) -> list[str]:
    """Return the names of parameters and buffers without a size."""
    named = [*module.named_parameters(), *module.named_buffers()]
    return [name for name, value in named if is_lazy(value)]
