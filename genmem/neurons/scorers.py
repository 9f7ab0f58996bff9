"""Cheap scores of units, to compare exhaustive ablation with: a high score says that a unit matters for an example.

Each scorer takes a model, X, units and keywords, and returns (n, units), or (units,) if it does not look at examples.
`SCORERS` lists them by name.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from genmem.errors import ModelError
from genmem.gradients import PerExampleGradients
from genmem.neurons.ablation import MEMORY, Ablation
from genmem.neurons.edits import Key, in_rows, noted
from genmem.neurons.hard_concrete import hard_concrete
from genmem.neurons.layers import incoming, outgoing, per_unit
from genmem.neurons.runs import log_p_of
from genmem.neurons.units import checked_units, layers_named
from genmem.neurons.wiring import Change, Wiring, changed
from genmem.seeding import stream

Units = Sequence[tuple[str, int]]
Scores = NDArray[np.float64]
Scorer = Callable[..., Scores]


def first_order(model_or_module: Any, X: Any, units: Units, **settings: Any) -> Scores:
    """Return the drop of log p that its slope predicts, (a_u - b_u) dlog p / da_u: (n, units), nats.

    a_u is the unit's value and b_u what ablation puts in its place; draws and positions are summed. With a q that is
    fitted to each example, the slope at fixed q is that of log p. On a trained Gaussian decoder it is close to 0,
    however much a unit matters: training ends where slopes vanish.

    Args:
        model_or_module: see `drops`; errors as there.
        X: see `drops`.
        units: (layer, index) pairs.
        settings: baseline, reference, posterior ("fixed" or "encoder"), n_samples, steps, seed, part: see `drops`.
    """
    with _ablation(model_or_module, X, units, settings) as ablation:
        blocks = ablation.logp.blocks(max(1, ablation.rows_at_once() // 2))
        parts = [_first_order(ablation, rows) for rows in blocks]
        return _columns(parts, ablation, units)


def activation_norm(model_or_module: Any, X: Any, units: Units, **settings: Any) -> Scores:
    """Return |a_u - b_u| times the norm of the outgoing weights: (n, units).

    The norm is over positions, and the root of the mean square over draws. Units without a known reader count as if
    they were read with weight 1: they are added to what others return.

    Args:
        model_or_module: see `drops`; errors as there.
        X: see `drops`.
        units: (layer, index) pairs.
        settings: see `first_order`.

    Raises:
        ModelError: the network does not keep the rows of examples apart.
    """
    with _ablation(model_or_module, X, units, settings) as ablation:
        _require_order(ablation)
        parts = [_deviations(ablation, rows) for rows in ablation.logp.blocks(ablation.rows_at_once())]
        for name, wiring in ablation.wirings.items():
            norm = _outgoing_norm(ablation.module, wiring)
            parts = [{**part, name: part[name] * norm} for part in parts]
        return _columns(parts, ablation, units)


def gradient_norm(model_or_module: Any, X: Any, units: Units, **settings: Any) -> Scores:
    """Return the norm of the gradient of the training loss by a unit's incoming weights and bias: (n, units).

    The loss of each example is that of training, in evaluation mode, averaged over `n_samples` draws.

    Args:
        model_or_module: see `drops`; errors as there.
        X: see `drops`.
        units: (layer, index) pairs.
        settings: n_samples, seed, reference, part: see `drops`.

    Raises:
        ModelError: a layer's weight is no trained parameter; see also `PerExampleGradients`.

    References:
        Uncovering Memorization Effect in the Presence of Spurious Correlations (You et al., 2025),
        https://arxiv.org/abs/2501.00961
    """
    with _ablation(model_or_module, X, units, settings) as ablation:
        logp, own = ablation.logp, _weights_of(ablation)
        gradients = PerExampleGradients(ablation.module, logp.x, noise=_noise(ablation, ablation.rows))
        numbers = sum(p.numel() for p in ablation.module.parameters())
        blocks = logp.blocks(max(1, MEMORY // (4 * numbers)))
        parts = [_gradients(ablation, gradients, own, rows) for rows in blocks]
        return _columns(parts, ablation, units)


def weight_norm(model_or_module: Any, X: Any, units: Units, **settings: Any) -> Scores:
    """Return the norm of the incoming weights of each unit: (units,). X only shows where units are.

    Args:
        model_or_module: see `drops`; errors as there.
        X: see `drops`.
        units: (layer, index) pairs.
        settings: as for the other scorers, without effect.
    """
    with _ablation(model_or_module, X, units, settings) as ablation:
        layers = {name: ablation.module.get_submodule(name) for name in ablation.wirings}
        norms = {name: incoming(layer).double().norm(dim=1).cpu().numpy() for name, layer in layers.items()}
        return np.array([norms[layer][index] for layer, index in checked_units(units, ablation.wirings)])


def at_random(model_or_module: Any, X: Any, units: Units, *, seed: int = 0, **settings: Any) -> Scores:
    """Return independent uniform numbers: (units,).

    Args:
        model_or_module: not used.
        X: not used.
        units: (layer, index) pairs.
        seed: of the numbers.
        settings: as for the other scorers, without effect.
    """
    return stream(seed, "neurons: random scores").random(len(units))


SCORERS: Mapping[str, Scorer] = {
    "first_order": first_order,
    "gradient_norm": gradient_norm,
    "weight_norm": weight_norm,
    "activation_norm": activation_norm,
    "hard_concrete": hard_concrete,
    "random": at_random,
}


# --- what they share


@contextmanager
def _ablation(model_or_module: Any, X: Any, units: Units, settings: Mapping[str, Any]) -> Iterator[Ablation]:
    given = {
        "baseline": "mean",
        "posterior": "fixed",
        "n_samples": 16,
        "steps": 15,
        "seed": 0,
        "reference": None,
        "part": "decoder",
        "memory": MEMORY,
        **settings,
    }
    if given["posterior"] == "refit":
        raise ModelError(
            expected='posterior to be "fixed" or "encoder"',
            got="refit",
            do="A score that edits nothing has no edited network to refit q to.",
        )
    with Ablation(model_or_module, X, layers_named(units), **given) as ablation:
        checked_units(units, ablation.wirings)
        yield ablation


def _columns(parts: Sequence[Mapping[str, Scores]], ablation: Ablation, units: Units) -> Scores:
    """Return the scores of the units asked for, from those of all units of their layers for some examples each."""
    if not units:
        return np.zeros((len(ablation.rows), 0))
    whole = {name: np.concatenate([part[name] for part in parts]) for name in ablation.wirings}
    return np.stack([whole[layer][:, index] for layer, index in units], 1)


def _require_order(ablation: Ablation) -> None:
    mixed = [name for name, wiring in ablation.wirings.items() if wiring.order is None]
    if mixed:
        raise ModelError(
            expected="layers that keep the rows of each example apart",
            got=f"{mixed[0]}, whose rows cannot be told apart",
            do="Use drops or first_order, which need no such order.",
        )


# --- first order


def _first_order(ablation: Ablation, rows: NDArray[np.intp]) -> dict[str, Scores]:
    """Return the scores of all units for some examples, by layer: (n, channels)."""
    slopes = _Slopes(ablation, rows)
    if all(wiring.order for wiring in ablation.wirings.values()):
        return slopes.of_all()
    return slopes.one_by_one()


class _Slopes:
    """The slopes of log p of some examples by the values of units, wherever these are edited."""

    def __init__(self, ablation: Ablation, rows: NDArray[np.intp]) -> None:
        self.ablation, self.rows, self.called = ablation, rows, ablation.logp.called(rows)
        self.leaves: list[tuple[Key, Tensor, Tensor]] = []  # at each call: the values, and zeros added to them
        with ExitStack() as hooks:
            for wiring in ablation.wirings.values():
                for place in wiring.places:
                    adding = self._adding(wiring, (wiring.layer, place))
                    hooks.enter_context(changed(ablation.module, {place: adding}))
            with torch.enable_grad():
                self.log_p = log_p_of(ablation.logp.log_weights(rows), ablation.logp.bound)

    def of_all(self) -> dict[str, Scores]:
        """Return the scores by one backward pass: no row belongs to two examples."""
        found = self._nothing()
        for wiring, effect in self._effects(self.log_p.sum()):
            each = by_example(wiring, effect, len(self.called)).sum((0, 2, 4))
            found[wiring.layer] += each[: len(self.rows)].cpu().numpy()
        return found

    def one_by_one(self) -> dict[str, Scores]:
        """Return the scores by a backward pass for each example."""
        found = self._nothing()
        for i in range(len(self.rows)):
            for wiring, effect in self._effects(self.log_p[i]):
                found[wiring.layer][i] += effect.sum((0, 2)).cpu().numpy()
        return found

    def _adding(self, wiring: Wiring, key: Key) -> Change:
        def add(value: Tensor) -> Tensor:
            zeros = torch.zeros_like(value).requires_grad_()
            self.leaves.append((key, in_rows(wiring, value).detach(), zeros))
            return value + zeros

        return add

    def _nothing(self) -> dict[str, Scores]:
        return {name: np.zeros((len(self.rows), w.channels)) for name, w in self.ablation.wirings.items()}

    def _effects(self, target: Tensor) -> Iterator[tuple[Wiring, Tensor]]:
        """Yield slope times deviation at each call: (rows, channels, positions)."""
        zeros = [added for *_, added in self.leaves]
        slopes: Sequence[Tensor | None] = torch.autograd.grad(target, zeros, retain_graph=True, allow_unused=True)
        for (key, values, _), slope in zip(self.leaves, slopes, strict=True):
            if slope is not None:
                wiring = self.ablation.wirings[key[0]]
                deviation = _deviation(self.ablation, wiring, key, values, self.called)
                yield wiring, in_rows(wiring, slope).double() * deviation.double()


def _deviation(ablation: Ablation, wiring: Wiring, key: Key, values: Tensor, called: NDArray[np.intp]) -> Tensor:
    """Return a_u - b_u: (rows, channels, positions)."""
    if wiring.order is None:
        return values - ablation.baseline.of_batch(key, len(values)).to(values)
    apart = by_example(wiring, values, len(called))
    return (apart - ablation.baseline.of_rows(key, called).to(values)).reshape(values.shape)


def by_example(wiring: Wiring, values: Tensor, n: int) -> Tensor:
    """Return values, (rows, channels, positions), as (draws, n, rows of each, channels, positions)."""
    apart = (1, n, -1) if wiring.order == "slowest" else (-1, n, 1)
    return values.reshape(*apart, *values.shape[1:])


# --- norms


def _deviations(ablation: Ablation, rows: NDArray[np.intp]) -> dict[str, Scores]:
    with torch.no_grad(), noted(ablation.module, ablation.wirings) as seen:
        ablation.logp.log_weights(rows)
    squares: dict[str, list[Tensor]] = {}
    called = ablation.logp.called(rows)
    for key, values in seen:
        wiring = ablation.wirings[key[0]]
        square = _deviation(ablation, wiring, key, values, called).double().square()
        if key[1] == wiring.places[0]:
            apart = by_example(wiring, square, len(called))[:, : len(rows)]
            squares.setdefault(key[0], []).append(apart.sum((2, 4)))
    return {name: torch.cat(parts).mean(0).sqrt().cpu().numpy() for name, parts in squares.items()}


def _outgoing_norm(module: nn.Module, wiring: Wiring) -> Scores:
    readers = [place.module for place in wiring.places if place.side == "input"]
    squares = [
        outgoing(module.get_submodule(name)).reshape(wiring.channels, -1).double().square().sum(1) for name in readers
    ]
    norm = torch.stack(squares).sum(0).sqrt() if squares else torch.ones(wiring.channels)
    return norm.double().cpu().numpy()


def _weights_of(ablation: Ablation) -> dict[str, list[str]]:
    """Return the names of the parameters of each layer."""
    trained = {name for name, p in ablation.module.named_parameters(remove_duplicate=False) if p.requires_grad}
    names = {layer: [f"{layer}.weight", f"{layer}.bias"] for layer in ablation.wirings}
    for weight, _ in names.values():
        if weight not in trained:
            raise ModelError(
                expected=f"{weight} to be a trained parameter",
                got="a frozen or a computed one",
                do="Use another scorer, or call requires_grad_(True); weight normalization has no such gradient.",
            )
    return names


def _noise(ablation: Ablation, rows: NDArray[np.intp]) -> Tensor | None:
    return None if ablation.logp.own_noise else torch.cat(list(ablation.logp.noise(rows)))


def _gradients(
    ablation: Ablation, gradients: PerExampleGradients, own: Mapping[str, list[str]], rows: NDArray[np.intp]
) -> dict[str, Scores]:
    logp = ablation.logp
    noise = _noise(ablation, rows)
    own_draws = {} if noise is not None else {"draws": logp.n_samples, "seed": logp.seed}
    found = gradients.features(logp.x[rows], noise, **own_draws)
    norms = {}
    for layer, names in own.items():
        total = torch.zeros(len(rows), ablation.wirings[layer].channels, dtype=torch.float64)
        for name in names:
            if name in found.pieces:
                each = found.pieces[name].dense(0, len(rows)).double().cpu()
                total += per_unit(ablation.module.get_submodule(layer), each, name.endswith("bias")).square().sum(2)
        norms[layer] = total.sqrt().numpy()
    return norms
