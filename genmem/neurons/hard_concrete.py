"""A learned mask of units: which few units, replaced together, take most log p from an example?"""

import math
from collections.abc import Sequence
from contextlib import ExitStack
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from genmem.errors import ModelError
from genmem.neurons.ablation import MEMORY, Ablation
from genmem.neurons.edits import in_rows
from genmem.neurons.runs import log_p_of
from genmem.neurons.units import checked_units, layers_named
from genmem.neurons.wiring import Change, Place, Wiring, changed
from genmem.seeding import seed_for

TEMPERATURE, LOW, HIGH = 2 / 3, -0.1, 1.1  # as Louizos et al. chose them
RATE = 0.1
START = 2.0  # log odds of a gate: most are open
DRAWS = 4


def hard_concrete(
    model_or_module: Any,
    X: Any,
    units: Sequence[tuple[str, int]],
    *,
    mask_steps: int = 100,
    penalty: float = 1.0,
    baseline: str = "mean",
    posterior: str = "fixed",
    n_samples: int = DRAWS,
    steps: int = 15,
    seed: int = 0,
    reference: Any = None,
    part: str = "decoder",
) -> NDArray[np.float64]:
    """Return how surely a learned mask replaces each unit, for each example by itself: (n, units), minus log odds.

    A gate g in [0, 1] turns a unit's value a into g a + (1 - g) b. Gates are hard concrete random variables, and their
    log odds minimize, by Adam,

        E[log p(x) with gates] + penalty E[number of closed gates]

    Args:
        model_or_module: see `drops`; errors as there.
        X: see `drops`.
        units: (layer, index) pairs; other units stay as they are.
        mask_steps: steps of Adam.
        penalty: nats that a closed gate costs.
        baseline: "mean" or "zero".
        posterior: "fixed" or "encoder".
        n_samples: see `drops`.
        steps: see `drops`.
        seed: see `drops`.
        reference: see `drops`.
        part: see `drops`.

    Raises:
        ModelError: the network draws noise of its own, or does not keep the rows of examples apart.

    References:
        Learning Sparse Neural Networks through L0 Regularization (Louizos, Welling & Kingma, 2018),
        https://arxiv.org/abs/1712.01312; Do Localization Methods Actually Localize Memorized Data in LLMs? (Chang,
        Thomason & Jia, 2024), https://arxiv.org/abs/2311.09060
    """
    names = layers_named(units)
    given = {"baseline": baseline, "posterior": posterior, "n_samples": n_samples, "steps": steps, "seed": seed}
    settings: dict[str, Any] = {**given, "reference": reference, "part": part, "memory": MEMORY}
    with Ablation(model_or_module, X, names, **settings) as ablation:
        asked = checked_units(units, ablation.wirings)
        if not ablation.logp.batches or not all(wiring.order for wiring in ablation.wirings.values()):
            raise ModelError(
                expected="a network that takes its noise from outside and keeps the rows of examples apart",
                got=type(ablation.module).__name__,
                do="Use another scorer.",
            )
        if posterior == "refit" or baseline == "resample":
            raise ModelError(
                expected='posterior "fixed" or "encoder", and baseline "mean" or "zero"',
                got=f"{posterior} and {baseline}",
                do="Change them.",
            )
        size, n = max(1, ablation.rows_at_once() // 2), len(ablation.rows)
        masks = [
            _Masks(ablation, ablation.rows[i : i + size], penalty, seed).learn(mask_steps) for i in range(0, n, size)
        ]
        found = {name: np.concatenate([part[name] for part in masks]) for name in names}
        columns = [found[layer][:, index] for layer, index in asked]
        return np.stack(columns, 1) if columns else np.zeros((n, 0))


class _Masks:
    """The masks of some examples, all learned side by side: by layer, log odds (n, channels)."""

    def __init__(self, ablation: Ablation, rows: NDArray[np.intp], penalty: float, seed: int) -> None:
        self.ablation, self.rows, self.penalty = ablation, rows, penalty
        self.odds = {
            name: torch.full((len(rows), wiring.channels), START, requires_grad=True)
            for name, wiring in ablation.wirings.items()
        }
        self.random = torch.Generator().manual_seed(seed_for(seed, "neurons: gates", int(rows[0])))

    def learn(self, steps: int) -> dict[str, NDArray[np.float64]]:
        """Return minus the log odds that a gate is open."""
        odds = list(self.odds.values())
        optimiser = torch.optim.Adam(odds, lr=RATE)
        for _ in range(steps):
            loss = self._log_p().sum() + self.penalty * sum(self._closed(each).sum() for each in odds)
            for each, slope in zip(odds, torch.autograd.grad(loss, odds, allow_unused=True), strict=True):
                each.grad = slope
            optimiser.step()
        return {name: -each.detach().double().numpy() for name, each in self.odds.items()}

    @staticmethod
    def _closed(odds: Tensor) -> Tensor:
        """Return the probability that a gate is exactly 0."""
        return torch.sigmoid(TEMPERATURE * math.log(-LOW / HIGH) - odds)

    def _gates(self, odds: Tensor) -> Tensor:
        drawn = torch.rand(odds.shape, generator=self.random).clamp(1e-6, 1 - 1e-6)
        soft = torch.sigmoid((drawn.logit() + odds) / TEMPERATURE)
        return (soft * (HIGH - LOW) + LOW).clamp(0, 1)

    def _log_p(self) -> Tensor:
        gates = {name: self._gates(odds) for name, odds in self.odds.items()}
        logp = self.ablation.logp
        with torch.enable_grad(), ExitStack() as hooks:
            for wiring in self.ablation.wirings.values():
                for place in wiring.places:
                    change = self._gated(wiring, place, gates[wiring.layer])
                    hooks.enter_context(changed(self.ablation.module, {place: change}))
            return log_p_of(logp.log_weights(self.rows), logp.bound)

    def _gated(self, wiring: Wiring, place: Place, gate: Tensor) -> Change:
        n = len(self.rows)
        apart = (1, n, -1) if wiring.order == "slowest" else (-1, n, 1)
        new, each = self.ablation.baseline.of_rows((wiring.layer, place), self.rows), gate[:, None, :, None]

        def mix(value: Tensor) -> Tensor:
            rows = in_rows(wiring, value)
            by_example, mine = rows.reshape(*apart, *rows.shape[1:]), each.to(value)
            return (mine * by_example + (1 - mine) * new.to(value)).reshape(value.shape)

        return mix
