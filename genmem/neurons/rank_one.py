"""Exhaustive ablation by rank-one updates of the layer that reads the units.

If a unit u is read by one Linear alone, replacing its value h_u by b_u changes that layer's output by
(b_u - h_u) w_u, with w_u the weights of u. What comes before is computed once for all units, and what comes after on
all their changed outputs side by side. If nothing comes after and p(x | z) is a Gaussian of one variance s^2, the
change of log p(x | z) is, with the residual r,

    [(b_u - h_u) <r, w_u> - (b_u - h_u)^2 |w_u|^2 / 2] / s^2

and one matrix product serves all units. Whether either holds is tested against passes with the units replaced.
"""

from collections.abc import Sequence
from typing import cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from genmem.models.likelihoods import MIN_LOG_VARIANCE
from genmem.models.vae_module import VAEModule
from genmem.neurons.edits import Baseline
from genmem.neurons.layers import effective_weight
from genmem.neurons.runs import LogP, log_p_of
from genmem.neurons.wiring import Place, Wiring, changed

ROWS = 1024  # examples at once
AT_ONCE = 2**22  # numbers in all layers at once: with more, they leave the cache


class RankOne:
    """log p with each of some units of one layer replaced.

    Args:
        logp: with a fixed q, or of a network that needs none.
        wiring: of a layer with a `reader`.
        baseline: what replaces the units.
        width: numbers that one row has in all layers.
        memory: bytes for intermediate results.
    """

    def __init__(self, logp: LogP, wiring: Wiring, baseline: Baseline, width: int, memory: int) -> None:
        assert wiring.reader is not None
        self.logp, self.module, self.baseline, self.wiring = logp, logp.module, baseline, wiring
        self.reader = wiring.reader
        self.columns = effective_weight(cast(nn.Linear, self.module.get_submodule(self.reader))).T.contiguous()
        self.rows_at_once = max(1, min(AT_ONCE, memory // 16) // width)
        self.kept_at_once = max(1, memory // 32)

    @torch.no_grad()
    def log_p(self, rows: NDArray[np.intp], units: Sequence[int], draws: int | None = None) -> NDArray[np.float64]:
        """Return log p of some examples with each unit replaced: (n, units), nats; by the first few draws if asked."""
        found = np.empty((len(rows), len(units)))
        for i in range(0, len(rows), ROWS):
            some = rows[i : i + ROWS]
            noise = None if self.logp.exact else torch.cat(list(self.logp.noise(some)))[:draws]
            count = 1 if noise is None else len(noise)
            at_once = max(1, min(self.rows_at_once, self.kept_at_once // (len(some) * count)))
            for j in range(0, len(units), at_once):
                found[i : i + ROWS, j : j + at_once] = self._log_p(some, noise, list(units[j : j + at_once])).T
        return found

    def _log_p(self, rows: NDArray[np.intp], noise: Tensor | None, units: list[int]) -> NDArray[np.float64]:
        """Return log p for a few units: (units, n). All draws are rows side by side."""
        count = 1 if noise is None else len(noise)
        every = np.tile(rows, count)
        flat = None if noise is None else noise.reshape(1, len(every), *noise.shape[2:])
        size = self._size(len(units))
        weights = [
            self._log_weights(every[i : i + size], None if flat is None else flat[:, i : i + size], units)
            for i in range(0, len(every), size)
        ]
        by_draw = torch.cat(weights, 1).reshape(len(units), count, len(rows)).transpose(0, 1)
        found: NDArray[np.float64] = log_p_of(by_draw, self.logp.bound).cpu().numpy()
        return found

    def _size(self, units: int) -> int:
        """Return how many rows may pass at once."""
        return max(1, self.rows_at_once // units)

    def _run(self, rows: NDArray[np.intp], noise: Tensor | None) -> Tensor:
        given = {} if noise is None else {"noise": noise, **self.logp.q(rows)}
        found: Tensor = self.module.log_weights(self.logp.x[rows], 1, **given)  # type: ignore[operator]
        return found

    def _log_weights(self, rows: NDArray[np.intp], noise: Tensor | None, units: list[int]) -> Tensor:
        """Return the log weights of rows, one draw each: (units, rows)."""
        shifts: list[Tensor] = []

        def note(read: Tensor) -> Tensor:
            shifts.append(self._shift(read, rows, units))
            return read

        def spread(output: Tensor) -> Tensor:
            flat = output.reshape(1, len(rows), output.shape[-1])
            return torch.addcmul(flat, shifts[-1].unsqueeze(-1), self.columns[units].unsqueeze(1))

        changes = {Place(self.reader, "input"): note, Place(self.reader, "output"): spread}
        with changed(self.module, changes):
            return self._run(rows, noise).reshape(len(units), len(rows))

    def _shift(self, read: Tensor, rows: NDArray[np.intp], units: list[int]) -> Tensor:
        """Return b_u - h_u: (units, n)."""
        now = read.reshape(len(rows), self.wiring.channels)[:, units]
        new = self.baseline.of_rows((self.wiring.layer, self.wiring.places[0]), rows).to(now)
        if self.baseline.mode == "mean":
            new = new[units, 0]
        elif self.baseline.mode == "resample":
            new = new[:, 0, units, 0]
        return (new - now).T


class Quadratic(RankOne):
    """The same where the reader returns the mean of a Gaussian with one variance."""

    @staticmethod
    def suits(module: nn.Module) -> bool:
        """Return whether p(x | z) is such a Gaussian."""
        return isinstance(module, VAEModule) and module.likelihood.learns_variance

    def _size(self, units: int) -> int:
        return min(ROWS, self.rows_at_once)

    def _log_weights(self, rows: NDArray[np.intp], noise: Tensor | None, units: list[int]) -> Tensor:
        module, seen = cast(VAEModule, self.module), {}

        def note(side: str) -> object:
            def keep(value: Tensor) -> Tensor:
                seen[side] = value
                return value

            return keep

        changes = {Place(self.reader, side): note(side) for side in ("input", "output")}
        with changed(module, changes):  # type: ignore[arg-type]
            base = self._run(rows, noise)[0]
        target = module.likelihood.centred(module.described(self.logp.x[rows]))
        residual = target - seen["output"].reshape(target.shape)
        shift, columns = self._shift(seen["input"], rows, units), self.columns[units]
        gain = shift * (columns @ residual.T) - 0.5 * shift.square() * columns.square().sum(1, keepdim=True)
        return base + gain * (-module.log_variance.clamp(min=MIN_LOG_VARIANCE)).exp()
