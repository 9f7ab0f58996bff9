"""Is log p of an example a function of that example alone, in full precision? Checked on a network as it is scored."""

import warnings
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from genmem.errors import ModelError
from genmem.models.evaluation import BLOCK
from genmem.models.fresh import HALVES
from genmem.models.still import depends_on
from genmem.training.ensemble import isolated_streams, noise_shape
from genmem.training.tensors import cloned, equal, put_back, state_of

DRAWS = 2
RELATIVE, ABSOLUTE = 1e-5, 1e-5  # of log p in a batch of the same size: the arithmetic of a row is the same
FAR = 1000  # times the change of a buffer, to see whether log p depends on it

LogWeights = Callable[[Tensor], Tensor]


class UnfitToScore(ModelError):
    """log p of the network is not that of one example, or not in full precision: no refit of it can be scored."""


def some_rows(x: Tensor) -> Tensor:
    """Return at most a block of examples, spread over all, in float32."""
    at = torch.linspace(0, len(x) - 1, min(len(x), BLOCK), device=x.device).round().long()
    return x[at].to(torch.float32)


@torch.no_grad()
def check_scoring(module: nn.Module, x: Tensor, seed: int) -> None:
    """Score a block of examples again, in other company, and alone.

    Args:
        module: obeys the contract of `DeepDensity`; its state is restored.
        x: some examples, float32 (n, *event), on the device of the module.
        seed: of the noise.

    Raises:
        UnfitToScore: log p depends on other examples of the batch, on the size of the batch or on earlier calls, or is
            computed in half precision.
    """
    was_training, state = module.training, cloned(state_of(module))
    rows = x[torch.arange(BLOCK, device=x.device) % len(x)]
    log_weights = _under_one_seed(module.eval(), seed)
    try:
        with _Halves() as halves:  # type: ignore[no-untyped-call]
            first = log_weights(rows)
        _refuse_halves(halves, first)
        _check_again(module, state, log_weights, rows, first)
        _check_company(log_weights, rows, first)
        _check_place(module, rows)
    finally:
        put_back(module, state)
        module.train(was_training)


def _under_one_seed(module: nn.Module, seed: int) -> LogWeights:
    shape = noise_shape(module)

    def log_weights(rows: Tensor) -> Tensor:
        with isolated_streams(rows.device, seed), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            if shape is None:
                found: Tensor = module.log_weights(rows, DRAWS)  # type: ignore[operator]
            else:
                noise = torch.randn((DRAWS, BLOCK, *shape), device=rows.device)[:, : len(rows)]
                found = module.log_weights(rows, DRAWS, noise=noise)  # type: ignore[operator]
        return found

    return log_weights


# --- scored again: no state that scoring changes


def _check_again(
    module: nn.Module, state: Mapping[str, Tensor], score: LogWeights, rows: Tensor, first: Tensor
) -> None:
    changed = [name for name, value in state_of(module).items() if name in state and not equal(value, state[name])]
    if not _close(score(rows), first):
        raise _refuse(
            "the same log p of the same examples under one seed",
            f"another in the second call{_because(changed)}",
            "Change buffers only `if self.training`, and draw random numbers from torch's global stream alone (no "
            "torch.Generator, numpy or random of its own).",
        )
    if changed and not _ignores(module, state, changed, score, rows, first):
        raise _refuse(
            "a network that is the same after it was scored",
            f"other values of the buffer {changed[0]!r}, on which log p depends",
            "Change it only `if self.training`.",
        )


def _because(changed: list[str]) -> str:
    return f": scoring changes the buffer {changed[0]!r}" if changed else ""


def _ignores(
    module: nn.Module,
    state: Mapping[str, Tensor],
    changed: list[str],
    score: LogWeights,
    rows: Tensor,
    first: Tensor,
) -> bool:
    """Return whether log p stays the same if the buffers that scoring changes had changed a thousand times as much."""
    now = state_of(module)
    for name in changed:
        if now[name].dtype != torch.bool:
            now[name].add_((now[name] - state[name]) * FAR)
    return _close(score(rows), first)


# --- in other company, and alone


def _check_company(score: LogWeights, rows: Tensor, first: Tensor) -> None:
    """Replace a random half by the largest example, then the other half by the smallest: each row changes once."""
    size = rows.flatten(1).abs().to(torch.float64).sum(1)
    half = torch.rand(BLOCK, generator=torch.Generator().manual_seed(0)).to(rows.device) < 0.5
    for extreme, kept in ((int(size.argmax()), half), (int(size.argmin()), ~half)):
        other = rows.clone()
        other[~kept] = rows[extreme]
        if not _close(score(other)[:, kept], first[:, kept]):
            raise _refuse(
                "log p of an example that does not depend on the others of its batch",
                "other values when some of the others changed",
                "Compute it for each example separately: no mean over the batch (not `kl.mean()` beside a sum for each "
                "example), no batch statistics when evaluated.",
            )


def _check_place(module: nn.Module, rows: Tensor) -> None:
    found = depends_on(module, rows)
    if found is not None:
        raise _refuse(
            f"log p of an example that does not depend on {found.of}",
            f"another in a batch of another {found.other}",
            found.do,
        )


def _close(one: Tensor, other: Tensor) -> bool:
    return torch.allclose(one, other, rtol=RELATIVE, atol=ABSOLUTE, equal_nan=True)


# --- half precision


class _Halves(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Records whether any operation has a result in half precision."""

    found: torch.dtype | None = None

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        for part in result if isinstance(result, tuple | list) else (result,):
            if isinstance(part, Tensor) and part.dtype in HALVES:
                self.found = part.dtype
        return result


def _refuse_halves(halves: _Halves, found: Tensor) -> None:
    dtype = found.dtype if found.dtype in HALVES else halves.found
    if dtype is not None:
        raise _refuse(
            "log p in float32 or float64",
            f"{str(dtype).removeprefix('torch.')} in its computation, whose rounding adds up to nats",
            "Return the network as net.float(), and switch autocast off where log p is computed (train in it if you "
            "like: `torch.autocast(..., enabled=self.training)`).",
        )


def _refuse(expected: str, got: str, do: str) -> UnfitToScore:
    return UnfitToScore(expected=expected, got=got, do=do)
