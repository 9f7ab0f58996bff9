"""Runs of a network for neurons: on a few examples, over reference data, and log p of chosen rows at fixed draws."""

import math
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from genmem.errors import ModelError
from genmem.models.evaluation import BLOCK, block_log_weights, estimate_of, log_prob, noise_of_rows, summarise
from genmem.models.posterior import has_posterior, refit_posterior
from genmem.seeding import seed_for
from genmem.training.ensemble import isolated_streams, noise_shape

TRIED = 16  # examples
POSTERIORS = ("refit", "encoder", "fixed")
EVALUATION = "evaluation noise"


@contextmanager
def scored(module: nn.Module) -> Iterator[None]:
    """Put a network into evaluation mode inside the block; afterwards each module is in the mode it was in."""
    modes = [(part, part.training) for part in module.modules()]
    module.eval()
    try:
        yield
    finally:
        for part, mode in modes:
            part.training = mode


def has_log_p(module: nn.Module) -> bool:
    """Return whether a network has a log p, as the contract of `DeepDensity` says."""
    return callable(getattr(module, "log_weights", None))


def passed(module: nn.Module, x: Tensor, rows: NDArray[np.intp], draws: int, seed: int) -> Tensor:
    """Run a network on examples, with noise that depends on the seed and the rows.

    Returns:
        Log weights, (draws, n) or (1, n); the output for a network without log p.
    """
    like = next(iter(module.parameters()), x)
    x = x.to(like.device, like.dtype)
    with isolated_streams(x.device, seed):
        return _called(module, x, draws, _noise_for(module, x, rows, draws, seed))


def _noise_for(module: nn.Module, x: Tensor, rows: NDArray[np.intp], draws: int, seed: int) -> Tensor | None:
    shape = noise_shape(module)
    if shape is None:
        return None
    return next(noise_of_rows(shape, rows, draws, seed=seed, purpose="neuron noise", keys=(), like=x))


def _called(module: nn.Module, x: Tensor, draws: int, noise: Tensor | None) -> Tensor:
    if not has_log_p(module):
        output = module(x)
        return output if isinstance(output, Tensor) else torch.empty(0)
    found: Tensor = module.log_weights(x, draws, **({} if noise is None else {"noise": noise}))  # type: ignore[operator]
    return found


class Tried:
    """A few examples to test a network on; see `wiring.Trial`.

    Args:
        module: the network.
        examples: (n, *event); random numbers in [0, 1] of its `event_shape` by default.

    Raises:
        ModelError: there are no examples, and the network does not say what shape they have.
    """

    def __init__(self, module: nn.Module, examples: Tensor | None) -> None:
        if examples is None:
            examples = _made_up(module)
        self.module, self.n = module, TRIED
        self.x = examples[torch.linspace(0, len(examples) - 1, TRIED).round().long()].to(torch.float32)
        like = next(iter(module.parameters()), self.x)
        self.x = self.x.to(like)
        self._noise = _noise_for(module, self.x, np.arange(self.n), 1, 0)

    def __call__(self) -> Tensor:
        """Return log p of each example by one draw, or the network's output."""
        if self._noise is not None:
            return _called(self.module, self.x, 1, self._noise)
        with isolated_streams(self.x.device, 0):
            return _called(self.module, self.x, 1, None)

    def twice(self, other: bool) -> Tensor:
        """Run the network with two draws; `other` changes the first example and its noise."""
        x, rows = self.x.clone(), np.arange(self.n)
        if other:
            x[0], rows[0] = self._another(), self.n
        return passed(self.module, x, rows, 2, 0)

    def _another(self) -> Tensor:
        differ = (self.x != self.x[0]).flatten(1).any(1).nonzero()
        return self.x[int(differ[0])] if len(differ) else self.x[0]


def _made_up(module: nn.Module) -> Tensor:
    shape = getattr(module, "event_shape", None)
    if shape is None:
        raise ModelError(
            expected="examples, or a network with an `event_shape`, to find out where its units are read",
            got=f"{type(module).__name__} without either",
            do="Pass reference=X, a few examples.",
        )
    return torch.rand(TRIED, *shape, generator=torch.Generator().manual_seed(0))


class LogP:
    """log p of rows of X at fixed draws: the same with and without edits of the network that are active.

    Args:
        module: obeys the contract of `DeepDensity`; in evaluation mode.
        X: examples, (n, *event).
        posterior: of networks with one. "refit": q starts at the encoder's and is fitted to each example under the
            network as it is, edits included; "encoder": q is the encoder's; "fixed": q is fitted once, to the network
            as it is now.
        n_samples: importance draws, or draws of a bound.
        steps: natural gradient steps of a refitted q.
        seed: of all noise.

    Attributes:
        batches: whether `__call__` takes any rows; otherwise it needs all of them, because their noise depends on it.
        fixed: mean and log variance of q if no edit changes them.

    Raises:
        ModelError: the network has no log p, or there is no such posterior.
    """

    def __init__(
        self, module: nn.Module, X: Tensor, *, posterior: str, n_samples: int, steps: int, seed: int, part: str
    ) -> None:
        _require(module, posterior, n_samples, steps)
        if part == "encoder" and posterior == "fixed":
            raise ModelError(
                expected='posterior "refit" or "encoder" for units of the encoder',
                got='"fixed"',
                do="Change posterior: a q that does not change hides all that they do.",
            )
        self.module, self.n_samples, self.seed = module, n_samples, seed
        self.exact, self.bound = estimate_of(module) == "exact", estimate_of(module) == "bound"
        self.refits = has_posterior(module)
        self.x = X.to(next(iter(module.parameters()), X))
        self.steps = steps if posterior == "refit" else 0
        self.own_noise = noise_shape(module) is None
        self.batches = self.exact or not self.own_noise
        self.fixed: tuple[Tensor, Tensor] | None = None
        if self.refits and posterior != "refit" and not (posterior == "encoder" and part == "encoder"):
            found = refit_posterior(module, self.x, steps=steps if posterior == "fixed" else 0, draws=1, seed=seed)
            self.fixed = (torch.as_tensor(found.mean).to(self.x), torch.as_tensor(found.log_variance).to(self.x))

    def __len__(self) -> int:
        return len(self.x)

    def __call__(self, rows: NDArray[np.intp]) -> NDArray[np.float64]:
        """Return log p of these rows, which may repeat: (len(rows),), nats."""
        if not self.batches:
            return log_prob(self.module, self.x, draws=self.n_samples, seed=self.seed).log_prob[rows]
        if self.refits and self.fixed is None:
            return refit_posterior(
                self.module, self.x[rows], steps=self.steps, draws=self.n_samples, seed=self.seed, rows=rows
            ).log_prob
        with torch.no_grad():
            return summarise(self.log_weights(rows), self.bound)[0]

    def log_weights(self, rows: NDArray[np.intp], draws: int | None = None) -> Tensor:
        """Return the log weights of rows under a fixed q, or of networks without one: (draws, len(rows)).

        Of a network with noise of its own, they must be one block of `blocks`. `draws` asks for the first few draws.
        """
        x = self.x[rows]
        if not self.batches:
            return block_log_weights(self.module, x, self.n_samples, self.seed, (int(rows[0]) // BLOCK,))
        if self.exact:
            found: Tensor = self.module.log_weights(x, 1)  # type: ignore[operator]
            return found
        parts = [
            self.module.log_weights(x, len(noise), noise=noise, **self.q(rows))  # type: ignore[operator]
            for noise in self.noise(rows, draws)
        ]
        return torch.cat(parts)

    def blocks(self, size: int) -> list[NDArray[np.intp]]:
        """Return all rows in blocks of at most this size, or of the size that the noise of the network asks for."""
        size = size if self.batches else BLOCK
        return [np.arange(i, min(len(self), i + size)) for i in range(0, len(self), size)]

    def called(self, rows: NDArray[np.intp]) -> NDArray[np.intp]:
        """Return the rows that the network is called with for a block: a network with noise of its own gets more."""
        if self.batches:
            return rows
        return np.concatenate([rows, np.full(BLOCK - len(rows), rows[-1])])

    def q(self, rows: NDArray[np.intp]) -> dict[str, Any]:
        """Return the argument `posterior` of the network's log weights, if it takes one."""
        return {} if self.fixed is None else {"posterior": tuple(part[rows] for part in self.fixed)}

    def noise(self, rows: NDArray[np.intp], draws: int | None = None) -> Iterator[Tensor]:
        """Return the draws of these rows, or the first few, some at a time: (draws, len(rows), *noise_shape)."""
        shape = noise_shape(self.module) or ()
        return noise_of_rows(
            shape, rows, draws or self.n_samples, seed=self.seed, purpose=EVALUATION, keys=(), like=self.x
        )


def log_p_of(log_weights: Tensor, bound: bool) -> Tensor:
    """Return log p from log weights (draws, ...), with its gradient: (...)."""
    weights = log_weights.to(torch.float64)
    return weights.mean(0) if bound else torch.logsumexp(weights, 0) - math.log(len(weights))


def _require(module: nn.Module, posterior: str, n_samples: int, steps: int) -> None:
    if not has_log_p(module):
        raise ModelError(
            expected="a network with log p: one of genmem's densities, or made by from_module or from_pyro",
            got=type(module).__name__,
            do="Wrap it by genmem.from_module(...), fit it, and pass the density.",
        )
    if posterior not in POSTERIORS:
        raise ModelError(
            expected=f"posterior to be one of {', '.join(POSTERIORS)}", got=repr(posterior), do="Change posterior."
        )
    for name, value, least in (("n_samples", n_samples, 1), ("steps", steps, 0)):
        if isinstance(value, bool) or not isinstance(value, int | np.integer) or value < least:
            raise ModelError(expected=f"{name} to be an integer >= {least}", got=repr(value), do=f"Change {name}.")


def seed_of(seed: int, purpose: str) -> int:
    """Return the seed of one purpose of this package."""
    return seed_for(seed, f"neurons: {purpose}")


def rows_at_once(width: int, memory: int) -> int:
    """Return how many rows may pass at once within so many bytes, if the widest value of a row has `width` numbers."""
    return max(1, math.floor(memory / (4 * max(1, width) * KEPT)))


KEPT = 4  # intermediate values of the widest layer that exist at the same time


def width_of(module: nn.Module, trial: Tried) -> int:
    """Return how many numbers one row of one draw has in the outputs of all layers and activations together."""
    total = 0

    def count(_: nn.Module, args: Any, output: Any) -> None:
        nonlocal total
        total += output.numel() if isinstance(output, Tensor) else 0

    leaves = [part for part in module.modules() if not any(True for _ in part.children())]
    handles = [leaf.register_forward_hook(count) for leaf in leaves]
    try:
        with torch.no_grad():
            trial()
    finally:
        for handle in handles:
            handle.remove()
    return max(1, total // trial.n)
