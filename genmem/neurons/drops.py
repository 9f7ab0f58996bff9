"""How much log p of each example falls when a unit is replaced: every unit, every example."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from genmem.neurons.ablation import MEMORY, Ablation, Sets
from genmem.neurons.units import Coverage, Unit, checked_units, layers_named
from genmem.protocols import Brief, mean


@dataclass(frozen=True)
class Drops(Brief):
    """log p of each example minus log p with a unit replaced.

    Attributes:
        values: (n, units) float64, nats.
        units: of each column.
        log_prob: (n,) log p without edits, by the same draws; a bound for diffusion models.
        method: by layer, "rank one" or "forward passes".
        baseline, posterior: as asked for.
        coverage: the units there are, where they are edited, and what is left out.
    """

    values: NDArray[np.float64]
    units: tuple[Unit, ...]
    log_prob: NDArray[np.float64]
    method: Mapping[str, str]
    baseline: str
    posterior: str
    coverage: Coverage

    def headline(self) -> str:
        """Return the size and the main figures."""
        return f"{len(self):,} examples, {len(self.units):,} units, mean drop {mean(self.values)} nats"

    @property
    def layers(self) -> tuple[str, ...]:
        """The layers of the units, in the order of their columns."""
        return tuple(dict.fromkeys(layer for layer, _ in self.units))

    def __len__(self) -> int:
        return len(self.values)


def drops(
    model_or_module: Any,
    X: Any,
    units: Sequence[tuple[str, int]] | None = None,
    *,
    baseline: str = "mean",
    posterior: str = "refit",
    n_samples: int = 16,
    steps: int = 15,
    seed: int = 0,
    reference: Any = None,
    part: str = "decoder",
    memory: int = MEMORY,
) -> Drops:
    """Return the drop of log p of each example for each unit, replaced alone (exhaustive ablation).

    Every entry is what a loop over units gives that evaluates log p under `ablate`, at the same draws: the noise of an
    example depends on (seed, row) alone. log p is exact for a flow, the bound at fixed timesteps and noise for a
    diffusion model, and estimated by importance draws for a VAE. Its q is refitted to each example under each edited
    decoder by default, from the encoder's q and with as many steps as without an edit. A q that does not know of the
    edit makes drops too large, and is much faster: rank-one updates then replace passes wherever a Linear alone reads
    the units.

    Args:
        model_or_module: a fitted density, or its network.
        X: examples, (n, *event).
        units: (layer, index) pairs, one column each; all of `units_of` by default.
        baseline: "mean" over the reference, "zero", or "resample" (the value of a reference example); see `ablate`.
        posterior: of networks with a q(z | x): "refit"; "fixed" (refitted once, without edits); "encoder".
        n_samples: importance draws, or draws of a bound.
        steps: natural gradient steps of a refitted q.
        seed: of all noise.
        reference: the training examples, (m, *event), for "mean" and "resample"; X by default.
        part: "decoder" or "encoder"; see `units_of`.
        memory: bytes for intermediate values, about; the result comes on top.

    Raises:
        DataError: X or the reference cannot be used, or there are fewer than 10 reference examples.
        ModelError: see `units_of`; or a setting is out of range, or the network has no log p.

    References:
        Can Neural Network Memorization Be Localized? (Maini et al., 2023), https://arxiv.org/abs/2307.09542
    """
    names = None if units is None else layers_named(units)
    given: dict[str, Any] = {
        "baseline": baseline,
        "posterior": posterior,
        "n_samples": n_samples,
        "steps": steps,
        "seed": seed,
    }
    with Ablation(model_or_module, X, names, reference=reference, part=part, memory=memory, **given) as ablation:
        wirings = ablation.wirings
        asked = [Unit(n, i) for n, w in wirings.items() for i in range(w.channels)] if units is None else units
        columns = checked_units(asked, wirings)
        values = np.zeros((len(ablation.logp), len(columns)))
        method: dict[str, str] = {}
        for layer in dict.fromkeys(layer for layer, _ in columns):
            here = [i for i, unit in enumerate(columns) if unit.layer == layer]
            found, method[layer] = ablation.of_layer(layer, [columns[i].index for i in here])
            values[:, here] = found
        return Drops(values, tuple(columns), ablation.base, method, baseline, posterior, ablation.coverage)


def joint_drop(
    model_or_module: Any,
    X: Any,
    sets: Sets,
    *,
    baseline: str = "mean",
    posterior: str = "refit",
    n_samples: int = 16,
    steps: int = 15,
    seed: int = 0,
    reference: Any = None,
    part: str = "decoder",
    memory: int = MEMORY,
) -> NDArray[np.float64]:
    """Return the drop of log p of each example for each set of units, replaced together: (n, sets), nats.

    Args:
        model_or_module: see `drops`; errors as there.
        X: see `drops`.
        sets: lists of (layer, index) pairs; an empty one has a drop of 0.
        baseline: see `drops`.
        posterior: see `drops`.
        n_samples: see `drops`.
        steps: see `drops`.
        seed: see `drops`.
        reference: see `drops`.
        part: see `drops`.
        memory: see `drops`.
    """
    names = layers_named([unit for units in sets for unit in units])
    given: dict[str, Any] = {
        "baseline": baseline,
        "posterior": posterior,
        "n_samples": n_samples,
        "steps": steps,
        "seed": seed,
    }
    with Ablation(model_or_module, X, names, reference=reference, part=part, memory=memory, **given) as ablation:
        return ablation.of_sets([checked_units(units, ablation.wirings) for units in sets])
