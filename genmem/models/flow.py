"""Normalizing flows on zuko: autoregressive networks that turn data into Gaussian noise, with an exact log p(x)."""

import math
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.distributions import Distribution

from genmem.data.arrays import blocks, constants_of
from genmem.data.examples import Data
from genmem.errors import DataError, ModelError
from genmem.models.base import DeepDensity, are_counts, are_numbers, are_pairs, is_count, require

_validating = bool(Distribution._validate_args)
import zuko.flows  # noqa: E402

Distribution.set_default_validate_args(_validating)  # undoes zuko's import, which turns validation off process-wide

FAR = 1e15  # values farther out are clipped to this: its square still fits into float32
KINDS = ("spline", "affine")
Numbers = float | Sequence[float]


class FlowModule(nn.Module):
    """The network of `Flow`: it caches nothing, so its results depend only on its current parameters."""

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
        """Return -log p of each example, with noise added in training: (batch,), nats, averaged over draws."""
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
        """Return the input of the flow, (batch, kept), and log |det| of its derivative by x, (batch,)."""
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
    """Return the layers: called without arguments, each makes a transformation of its current parameters."""
    # A hidden unit serves the columns up to one group; to affect others, each group needs a unit in every layer.
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
            do="Leave constants out: they are then determined from the data.",
        )


def _for_columns(name: str, value: Numbers, columns: int) -> Tensor:
    """Return a number, or one for each column, as one for each column.

    Raises:
        ModelError: the number of values differs from that of columns.
    """
    numbers = torch.as_tensor(value, dtype=torch.float32)
    if numbers.ndim and len(numbers) != columns:
        raise ModelError(
            expected=f"{name} to be a number, or one for each of the {columns} columns that are kept",
            got=f"{len(numbers)} numbers",
            do=f"Leave {name} out: it is then determined from the data.",
        )
    return numbers.expand(columns).clone()


# --- the density


REACH = 4.0  # the largest distance of the data from their mean, standardized: a spline acts on [-5, 5]
PER_COLUMN = 1024  # up to so many columns, each has its own shift and scale
SMALLEST = 1e-30  # of a scale: float32 represents it, and its reciprocal


@dataclass(kw_only=True, eq=False, repr=False)
class Flow(DeepDensity):
    """A normalizing flow: x = f(z), z ~ N(0, I), with log p(x) = log N(f^-1(x)) + log |det df^-1/dx| exactly.

    Data are flattened, constant columns are left out, and the rest is shifted and scaled, all determined by `resolve`
    from all the data; log p is in the units of the data as given. Each of `transforms` is autoregressive: a column is
    transformed given those before it, in an order that alternates between ascending and descending.

    A spline acts on [-5, 5] of the standardized values and is the identity outside, where the density has Gaussian
    tails whatever is learned. The scale determined by `resolve` is therefore at least a quarter of the largest distance
    from the mean, so that all data are within [-4, 4]; new data need not be.

    The density is unbounded on columns with few values (pixels of 16 grey levels). `noise`, added to the training data,
    limits how narrow the density becomes. It is not part of log p, which is that of the noisy data. uint8 images are
    dequantized by `genmem.audit`.

    Args:
        kind: "spline" (monotonic rational-quadratic splines) or "affine" (shift and scale: faster, but with Gaussian
            tails, so that a value that is rare given the columns before it gets a very low log p).
        transforms: autoregressive layers, one after another.
        hidden: widths of the hidden layers of each network that computes a transform's parameters.
        bins: pieces of each spline.
        passes: groups of columns: those of one group do not depend on each other within one transform, and a sample
            takes this number of passes of each network. None is one per column, or as many as the narrowest hidden
            layer is wide, because with fewer units than groups some columns would be ignored; 2 is a coupling flow.
        noise: standard deviation of Gaussian noise on the standardized values in training, fresh at every step.
        logit: None, or a in [0, 0.5): the flow acts on logit(a + (1 - 2a) x), for data in [0, 1]. The Jacobian is in
            log p. With a > 0 the density reaches a / (1 - 2a) beyond [0, 1], so that 0 and 1 are inside; a = 0 needs
            data strictly inside. Outside, log p is minus infinity.
        shift, scale: the flow acts on (x - shift) / scale (after the logit); a number, or one for each column
            that is kept. None determines them: mean and standard deviation, for each column if there are up to 1024,
            otherwise for all columns together.
        constants: (column, value) pairs of flattened columns that are left out. None determines those with one value
            in all the data, () keeps all columns.
        epochs, batch_size, learning_rate, checkpoint_every, device, random_state: see `DeepDensity`.

    References:
        Neural Spline Flows (Durkan, Bekasov, Murray & Papamakarios, 2019), https://arxiv.org/abs/1906.04032;
        Masked Autoregressive Flow for Density Estimation (Papamakarios, Pavlakou & Murray, 2017),
        https://arxiv.org/abs/1705.07057; for `noise`, Noise Regularization for Conditional Density Estimation
        (Rothfuss et al., 2019), https://arxiv.org/abs/1907.08982

    >>> Flow(kind="affine", transforms=5).get_params()["transforms"]
    5
    """

    kind: str = "spline"
    transforms: int = 2
    hidden: Sequence[int] = (128, 128)
    bins: int = 8
    passes: int | None = None
    noise: float = 0.05
    logit: float | None = None
    shift: Numbers | None = None
    scale: Numbers | None = None
    constants: Sequence[Sequence[float]] | None = None

    @classmethod
    def suited(cls, data: Data, given: Mapping[str, Any], seed: int) -> dict[str, Any]:
        """Return the logit for pixels (uint8): their values are in [0, 1], many of them at its ends."""
        return {"logit": 1e-3} if data.X.dtype == np.uint8 else {}

    def make_module(self, event_shape: tuple[int, ...]) -> FlowModule:
        """Return a fresh network for examples of this shape."""
        return FlowModule(
            event_shape,
            kind=self.kind,
            transforms=self.transforms,
            hidden=self.hidden,
            bins=self.bins,
            passes=self.passes,
            noise=self.noise,
            logit=self.logit,
            shift=0.0 if self.shift is None else self.shift,
            scale=1.0 if self.scale is None else self.scale,
            constants=self.constants or (),
        )

    def resolve(self, X: NDArray[Any]) -> Self:
        """Return an unfitted copy with `constants`, `shift` and `scale` determined from X.

        Raises:
            DataError: X does not suit `logit`, or every column is constant.
            ModelError: a setting is out of range.
        """
        self.check_settings()
        if self.logit is not None:
            _check_range(X, self.logit)
        resolved = self._copy()
        if self.constants is None:
            resolved.set_params(constants=constants_of(X))
        if self.shift is None or self.scale is None:
            left_out = [int(column) for column, _ in resolved.constants or ()]
            shift, scale = _standards(X, left_out, self.logit)
            resolved.set_params(
                shift=shift if self.shift is None else self.shift, scale=scale if self.scale is None else self.scale
            )
        return resolved

    def check_settings(self) -> None:
        """Raise a ModelError if a setting is out of range."""
        super().check_settings()
        require("kind", self.kind, KINDS.__contains__, f"one of {', '.join(KINDS)}")
        require("transforms", self.transforms, is_count, "an integer >= 1")
        require("hidden", self.hidden, are_counts, "a list of layer widths, such as [128, 128]")
        require("bins", self.bins, lambda v: is_count(v) and v >= 2, "an integer >= 2")
        passes = "None or an integer from 2 to the narrowest hidden layer"
        require("passes", self.passes, lambda v: v is None or (is_count(v) and 2 <= v <= min(self.hidden)), passes)
        require("noise", self.noise, lambda v: isinstance(v, int | float) and 0 <= v < math.inf, "a number >= 0")
        share = "None or a number from 0 up to 0.5"
        require("logit", self.logit, lambda v: v is None or (isinstance(v, int | float) and 0 <= v < 0.5), share)
        require("shift", self.shift, lambda v: are_numbers(v) and np.size(v) > 0, "None, a number or a list of numbers")
        positive = "None, a number > 0 or a list of them"
        require("scale", self.scale, lambda v: are_numbers(v, above=0.0) and np.size(v) > 0, positive)
        require("constants", self.constants, are_pairs, "None or a list of [column, value]")


def _standards(X: NDArray[Any], left_out: Sequence[int], logit: float | None) -> tuple[Numbers, Numbers]:
    """Return the shift and the scale of each column that is kept, or of all together if there are many."""
    kept = np.setdiff1d(np.arange(X[0].size), left_out)

    def each() -> Iterator[NDArray[np.float64]]:
        for _, block in blocks(X):
            values = block[:, kept].astype(np.float64)
            values = values if logit is None else _logit(logit + (1 - 2 * logit) * values)
            yield values if len(kept) <= PER_COLUMN else values.reshape(-1, 1)

    count = sum(len(block) for block in each())
    mean = sum(block.sum(0) for block in each()) / count
    if not np.isfinite(mean).all():
        raise DataError(expected="finite numbers", got="some that are NaN or infinite", do="Drop or fill them.")
    deviation = np.sqrt(sum(np.square(block - mean).sum(0) for block in each()) / count)
    farthest = np.max([np.abs(block - mean).max(0) for block in each()], axis=0)
    scale = np.maximum(np.maximum(deviation, farthest / REACH), SMALLEST)
    # A thousandth of the scale is accurate enough, and keeps the plan readable.
    digits = 3 - np.floor(np.log10(scale)).astype(int)
    shifts = [round(float(m), int(d)) for m, d in zip(mean, digits, strict=True)]
    scales = [float(f"{value:.4g}") for value in scale]
    return (shifts, scales) if len(kept) <= PER_COLUMN else (shifts[0], scales[0])


def _logit(y: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.log(y) - np.log1p(-y)


def _check_range(X: NDArray[Any], logit: float) -> None:
    low, high = float(X.min()), float(X.max())
    if low < 0 or high > 1:
        raise DataError(
            expected="data in [0, 1] for a flow on their logit",
            got=f"values in [{low:g}, {high:g}]",
            do="Rescale the data, or leave `logit` out.",
        )
    if logit == 0 and (low == 0 or high == 1):
        raise DataError(
            expected="data strictly between 0 and 1 for logit=0",
            got=f"values in [{low:g}, {high:g}]",
            do="Use a small number, such as logit=1e-6, so that 0 and 1 are inside.",
        )
