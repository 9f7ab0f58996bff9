"""Exhaustive ablation by rank-one updates of the layer that reads the units.

If a unit u is read by one Linear alone, replacing its value h_u by b_u changes that layer's output by
(b_u - h_u) w_u, with w_u the weights of u. What comes before is computed once for all units, and what comes after on
all their changed outputs side by side. If what comes after is the rest of a VAE's decoder, a plain row of layers, these
are called by themselves, and write into the same memory for every unit. If nothing comes after and p(x | z) is a
Gaussian of one variance s^2, the change of log p(x | z) is, with the residual r,

    [(b_u - h_u) <r, w_u> - (b_u - h_u)^2 |w_u|^2 / 2] / s^2

and one matrix product serves all units. Whether any of this holds is tested against passes with the units replaced.
"""

import math
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
from genmem.neurons.wiring import Change, Place, Wiring, changed

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
        found: NDArray[np.float64] = _log_p_of(by_draw, self.logp.bound).cpu().numpy()
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
        return (new - now).T.contiguous()


def _log_p_of(log_weights: Tensor, bound: bool) -> Tensor:
    """Return `log_p_of` in float64, with exponentials of differences alone, which float32 holds: they take long."""
    if bound:
        return log_p_of(log_weights, bound)
    most = log_weights.amax(0)
    most = torch.where(most.isfinite(), most, 0)
    return most.double() + (log_weights - most).exp_().sum(0).double().log_() - math.log(len(log_weights))


class OfDecoder(RankOne):
    """The same where the reader is in the decoder of a VAE, which is a row of layers.

    Draws come as rows side by side, and units one after the other.
    """

    module: VAEModule

    @staticmethod
    def suits(module: nn.Module, reader: str) -> bool:
        """Return whether the reader is one of such layers."""
        inside = isinstance(module, VAEModule) and isinstance(module.decoder, nn.Sequential)
        return inside and reader.rpartition(".")[0] == "decoder"

    def _size(self, units: int) -> int:
        return self.rows_at_once

    def _log_weights(self, rows: NDArray[np.intp], noise: Tensor | None, units: list[int]) -> Tensor:
        base, read, output = self._noted(rows, noise)
        log_p = self._likelihood(rows)
        unchanged = base - log_p(output.clone())  # log p(z) - log q(z | x), and what log_p leaves out
        shift, columns = self._shift(read, rows, units), self.columns[units]
        found, hidden = torch.empty_like(shift), torch.empty_like(output)
        for i in range(len(units)):
            torch.addcmul(output, shift[i].unsqueeze(1), columns[i], out=hidden)
            found[i] = log_p(hidden)
        return found.add_(unchanged)

    def _likelihood(self, rows: NDArray[np.intp]) -> Change:
        """Return log p(x | z) of these rows as a function of what the reader returns, which may be overwritten."""
        module, after = self.module, _Row(self._after(), len(rows))
        flat, shared = module.described(self.logp.x[rows]), module.shared_log_variance()
        return lambda value: module.likelihood.log_prob(flat, after(value).unsqueeze(0), shared)[0]

    def _noted(self, rows: NDArray[np.intp], noise: Tensor | None) -> tuple[Tensor, Tensor, Tensor]:
        """Return the log weights without an edit, and what the reader reads and returns, (rows, values) each."""
        seen: dict[str, Tensor] = {}
        changes = {Place(self.reader, side): _into(seen, side) for side in ("input", "output")}
        with changed(self.module, changes):
            base = self._run(rows, noise)[0]
        return base, seen["input"].flatten(0, -2), seen["output"].flatten(0, -2)

    def _after(self) -> list[nn.Module]:
        """Return the layers behind the reader."""
        layers = dict(cast(nn.Sequential, self.module.decoder).named_children())
        names = list(layers)
        return [layers[name] for name in names[names.index(self.reader.rpartition(".")[2]) + 1 :]]


def _into(seen: dict[str, Tensor], side: str) -> Change:
    def note(value: Tensor) -> Tensor:
        seen[side] = value
        return value

    return note


class _Row:
    """Layers one after another, whose results for so many rows are written into the same memory every time."""

    def __init__(self, layers: Sequence[nn.Module], rows: int) -> None:
        self.layers, self.rows = layers, rows
        self.results: dict[int, Tensor] = {}

    def __call__(self, value: Tensor) -> Tensor:
        """Return the last result; the input (rows, values) may be overwritten."""
        for number, layer in enumerate(self.layers):
            if type(layer) is nn.ReLU:
                value = value.relu_()
            elif type(layer) is nn.Linear and layer.bias is not None:
                if number not in self.results:
                    self.results[number] = value.new_empty(self.rows, layer.out_features)
                value = torch.addmm(layer.bias, value, layer.weight.T, out=self.results[number])
            else:
                value = layer(value)
        return value


class Squares(OfDecoder):
    """The same where p(x | z) is a Gaussian with one variance: an edit changes the squared error, and nothing else."""

    @staticmethod
    def suits(module: nn.Module, reader: str) -> bool:
        """Return whether p(x | z) is such a Gaussian, whose mean a further layer returns."""
        if not (OfDecoder.suits(module, reader) and cast(VAEModule, module).likelihood.learns_variance):
            return False
        last = _last(module)
        return reader != last and type(module.get_submodule(last)) is nn.Linear

    def _likelihood(self, rows: NDArray[np.intp]) -> Change:
        *layers, last = self._after()
        after, last = _Row(layers, len(rows)), cast(nn.Linear, last)
        target = self.target(rows)
        offset = -target if last.bias is None else last.bias - target
        errors, scale = torch.empty_like(offset), -0.5 * self.precision()

        def log_p(value: Tensor) -> Tensor:
            torch.addmm(offset, after(value), last.weight.T, out=errors)
            return errors.square_().sum(1).mul_(scale)

        return log_p

    def target(self, rows: NDArray[np.intp]) -> Tensor:
        """Return the values of which the decoder returns the mean: (rows, values)."""
        return self.module.likelihood.centred(self.module.described(self.logp.x[rows]))

    def precision(self) -> Tensor:
        """Return one over the variance."""
        return (-self.module.log_variance.clamp(min=MIN_LOG_VARIANCE)).exp()


def _last(module: nn.Module) -> str:
    """Return the name of the last layer of a decoder."""
    return f"decoder.{list(cast(nn.Sequential, module.decoder).named_children())[-1][0]}"


class Quadratic(Squares):
    """The same where the reader returns this mean."""

    @staticmethod
    def suits(module: nn.Module, reader: str) -> bool:
        """Return whether p(x | z) is such a Gaussian, and the reader the last layer."""
        inside = OfDecoder.suits(module, reader) and cast(VAEModule, module).likelihood.learns_variance
        return inside and reader == _last(module)

    def _size(self, units: int) -> int:
        return min(ROWS, self.rows_at_once)

    def _log_weights(self, rows: NDArray[np.intp], noise: Tensor | None, units: list[int]) -> Tensor:
        base, read, output = self._noted(rows, noise)
        residual = self.target(rows) - output
        shift, columns = self._shift(read, rows, units), self.columns[units]
        gain = torch.addcmul(columns @ residual.T, shift, columns.square().sum(1, keepdim=True), value=-0.5)
        return torch.addcmul(base, gain.mul_(self.precision()), shift)
