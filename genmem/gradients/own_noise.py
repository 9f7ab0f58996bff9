"""Does a network draw a random number of its own for each example, or some that all examples of a batch share?"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

SIZES = (3, 5)  # of the batches that are compared


@torch.no_grad()
def by_row(losses: Callable[[Tensor], Tensor], x: Tensor) -> bool:
    """Return whether every random tensor grows with the batch, so that no two examples share one.

    Repeated rows then get noise of their own: one call on m copies of a batch is m calls on the batch.

    Args:
        losses: of a batch; it may draw from torch's global stream, which the caller isolates.
        x: one example or more, (n, *event).
    """
    drawn = []
    for size in SIZES:
        with _Drawn() as seen:
            losses(x[torch.arange(size, device=x.device) % len(x)])
        drawn.append(seen.sizes)
    few, more = drawn
    return len(few) == len(more) and all(a * SIZES[1] == b * SIZES[0] for a, b in zip(few, more, strict=True))


class _Drawn(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Records the number of values of each random tensor."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.sizes: list[int] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        if torch.Tag.nondeterministic_seeded in func.tags:
            parts = result if isinstance(result, tuple | list) else (result,)
            self.sizes += [part.numel() for part in parts if isinstance(part, Tensor)]
        return result
