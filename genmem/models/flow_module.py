"""The network of a normalizing flow, built on zuko."""

import math
from collections.abc import Collection, Sequence

import torch
from torch import Tensor, nn
from torch.distributions import Distribution

from genmem.errors import ModelError

_validating = bool(Distribution._validate_args)
import zuko.flows  # noqa: E402

Distribution.set_default_validate_args(_validating)  # zuko turns validation off for the whole process: undone

FAR = 1e15  # what lies farther out counts as this far: its square still fits into float32
KINDS = ("spline", "affine")
Numbers = float | Sequence[float]


class FlowModule(nn.Module):
    """The network of `Flow`: it caches nothing, so its answers are those of the parameters it is called with."""

    estimate = "exact"

    def __init__(
        self,
        event_shape: tuple[int, ...],
        *,
        kind: str,
        transforms: int,
        hidden: Sequence[int],
        bins: int,
        passes: int | None,
        noise: float,
        logit: float | None,
        shift: Numbers,
        scale: Numbers,
        constants: Sequence[Sequence[float]],
    ) -> None:
        super().__init__()
        self.event_shape, self.noise, self.logit = tuple(event_shape), noise, logit
        self.constants = {int(column): float(value) for column, value in constants}
        size = math.prod(event_shape)
        kept = [column for column in range(size) if column not in self.constants]
        _check_columns(self.constants, size)
        self.noise_shape = (len(kept),) if noise else ()
        self.varying = torch.tensor(kept) if len(kept) < size else None  # no buffer: all lanes share it
        self.shift: Tensor
        self.scale: Tensor
        self.register_buffer("shift", _for_columns("shift", shift, len(kept)))
        self.register_buffer("scale", _for_columns("scale", scale, len(kept)))
        self.transform = _transforms(kind, len(kept), transforms, tuple(hidden), bins, passes)

    def forward(self, x: Tensor, draws: int = 1, noise: Tensor | None = None) -> Tensor:
        """Return -log p of each example, blurred in training: (batch,), nats, averaged over draws."""
        u, log_jacobian = self._standardised(x)
        blurred = u.unsqueeze(0)
        if self.noise:
            eps = torch.randn(draws, *u.shape, dtype=u.dtype, device=u.device) if noise is None else noise
            blurred = blurred + self.noise * eps
        return -self._log_density(blurred).mean(0) - log_jacobian

    def log_weights(self, x: Tensor, draws: int = 1, noise: Tensor | None = None) -> Tensor:
        """Return log p of each example: (1, batch), nats; nothing is drawn."""
        u, log_jacobian = self._standardised(x)
        return (self._log_density(u) + log_jacobian).unsqueeze(0)

    def sample(self, n: int) -> Tensor:
        """Return n draws of x: (n, *event)."""
        weight = next(self.parameters())
        z = torch.randn(n, len(self.shift), dtype=weight.dtype, device=weight.device)
        y = self.transform().inv(z) * self.scale + self.shift
        x = y if self.logit is None else (torch.sigmoid(y) - self.logit) / (1 - 2 * self.logit)
        return self._with_constants(x).view(n, *self.event_shape)

    def _standardised(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Return what the flow acts on, (batch, kept), and log |det| of how it came from x, (batch,)."""
        y = x.flatten(1)
        y = y if self.varying is None else y.index_select(-1, self.varying.to(y.device))
        log_jacobian = -self.scale.log().sum().expand(len(y))
        if self.logit is not None:
            y = self.logit + (1 - 2 * self.logit) * y
            inside = (y > 0) & (y < 1)
            y = torch.where(inside, y, 0.5)
            slopes = (math.log(1 - 2 * self.logit) - y.log() - torch.log1p(-y)).sum(-1)
            log_jacobian = log_jacobian + torch.where(inside.all(-1), slopes, -math.inf)  # density 0 outside
            y = torch.logit(y)
        return ((y - self.shift) / self.scale).clamp(-FAR, FAR), log_jacobian

    def _log_density(self, u: Tensor) -> Tensor:
        """Return log p of standardised values (..., kept): (...,)."""
        z, log_jacobian = self.transform().call_and_ladj(u)
        log_p: Tensor = log_jacobian - 0.5 * (z.square() + math.log(2 * math.pi)).sum(-1)
        return log_p

    def _with_constants(self, x: Tensor) -> Tensor:
        if self.varying is None:
            return x
        full = x.new_empty(len(x), math.prod(self.event_shape))
        full[:, self.varying] = x
        for column, value in self.constants.items():
            full[:, column] = value
        return full


def _transforms(
    kind: str, columns: int, transforms: int, hidden: tuple[int, ...], bins: int, passes: int | None
) -> nn.Module:
    """Return the layers: called without arguments, they make a transformation of the parameters they have then."""
    # A hidden unit serves the columns up to one group; each group needs a unit in every layer to be seen at all.
    groups = max(2, min(columns, *hidden)) if passes is None else passes
    shared = {"features": columns, "transforms": transforms, "hidden_features": hidden, "passes": groups}
    flow = zuko.flows.NSF(bins=bins, **shared) if kind == "spline" else zuko.flows.MAF(**shared)
    layers: nn.Module = flow.transform
    return layers


def _check_columns(constants: Collection[int], size: int) -> None:
    outside = [column for column in constants if not 0 <= column < size]
    if outside or len(constants) == size:
        raise ModelError(
            expected=f"constants to be some of the {size} columns, and not all",
            got=f"column {outside[0]}" if outside else "all of them",
            do="Leave constants out to have them found from the data.",
        )


def _for_columns(name: str, value: Numbers, columns: int) -> Tensor:
    """Return a number, or one for each column, as one for each column.

    Raises:
        ModelError: there are more or fewer of them than columns.
    """
    numbers = torch.as_tensor(value, dtype=torch.float32)
    if numbers.ndim and len(numbers) != columns:
        raise ModelError(
            expected=f"{name} to be a number, or one for each of the {columns} columns that are kept",
            got=f"{len(numbers)} numbers",
            do=f"Leave {name} out to have it found from the data.",
        )
    return numbers.expand(columns).clone()
