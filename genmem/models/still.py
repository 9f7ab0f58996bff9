"""log p with all random numbers held still: does it depend on the size of the batch, or on the place of an example?"""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from genmem.training.ensemble import isolated_streams, noise_shape


@dataclass(frozen=True)
class Place:
    """What log p of an example depends on, in words."""

    of: str
    other: str
    do: str


SIZE = Place("the size of its batch", "size", "Neither divide by the number of examples nor multiply by it.")
POSITION = Place("its position in the batch", "order", "Use neither the index of a row nor the rows before it.")
STILL = 0.5  # a possible value of normal, uniform and positive variables
SIZES = (1, 7)
ROUNDING = 1e-4  # of the largest log p: sums of batches of other sizes are in another order


def depends_on(module: nn.Module, rows: Tensor) -> Place | None:
    """Return what log p of an example depends on beside the example: `SIZE`, `POSITION` or None.

    Every random number that the network draws is replaced by one constant, so that an example has one log p. None also
    if that does not make log p one number (random numbers that torch does not draw), or is outside a support.

    Args:
        module: in evaluation mode.
        rows: examples, float32 (n, *event), n > 7.
    """
    try:
        whole = _log_p(module, rows, 0)
        if not _close(_log_p(module, rows, 1), whole, whole):
            return None
        if any(not _close(_log_p(module, rows[:count], 0), whole[:count], whole) for count in SIZES):
            return SIZE
        return None if _close(_log_p(module, rows.flip(0), 0).flip(0), whole, whole) else POSITION
    except Exception:  # a distribution that validates its draws
        return None


def _log_p(module: nn.Module, rows: Tensor, seed: int) -> Tensor:
    shape = noise_shape(module)
    with isolated_streams(rows.device, seed), _Still():  # type: ignore[no-untyped-call]
        if shape is None:
            found: Tensor = module.log_weights(rows, 1)[0]  # type: ignore[operator]
        else:
            noise = torch.full((1, len(rows), *shape), STILL, device=rows.device)
            found = module.log_weights(rows, 1, noise=noise)[0]  # type: ignore[operator]
    return found.to(torch.float64)


def _close(one: Tensor, other: Tensor, whole: Tensor) -> bool:
    """Compare up to the rounding of float32 sums."""
    finite = whole[whole.isfinite()]
    scale = 1.0 + (float(finite.abs().max()) if len(finite) else 0.0)
    return torch.allclose(one, other, rtol=0.0, atol=ROUNDING * scale, equal_nan=True)


class _Still(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Replaces every random number by a constant."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        if torch.Tag.nondeterministic_seeded in func.tags and isinstance(result, Tensor):
            whole = not result.is_floating_point() or "bernoulli" in str(func)
            result.fill_(1 if whole else STILL)
        return result
