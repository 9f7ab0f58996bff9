"""What the chosen units of one network do to single memorized examples: nats, and images before and after."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor, nn

from genmem.neurons.contrast import FloatArray, Rows, Sets, contrast, grid, strongest
from genmem.neurons.drops import joint_drop
from genmem.neurons.edits import as_examples
from genmem.neurons.interventions import ablate
from genmem.neurons.localize import Measured
from genmem.neurons.units import Unit, units_of
from genmem.run.storage import Arrays
from genmem.training.ensemble import isolated_streams

SHOWN = 6
DRAWS = 256  # of p(x | z), whose mean is shown


@dataclass(frozen=True, eq=False)
class Effect:
    """The effect of the largest chosen set of units of one network.

    Attributes:
        units: that were ablated together.
        trained, held_out: (m,) positions of memorized examples, trained on and held out.
        score: (2, m) their memorization scores, nats.
        drop: (2, m) how far log p falls.
        before, after: (2, m, values) their means under p(x | z), z the mean of the encoder's posterior; empty for
            networks without one.
    """

    units: list[Unit]
    trained: Rows
    held_out: Rows
    score: FloatArray
    drop: FloatArray
    before: NDArray[np.float32]
    after: NDArray[np.float32]

    def arrays(self) -> Arrays:
        """Return what results/neurons.npz holds."""
        names = ("trained", "held_out", "score", "drop", "before", "after")
        return {name: np.asarray(getattr(self, name)) for name in names}

    def described(self) -> dict[str, Any]:
        """Return the units, and the mean effects, for JSON."""
        inside, outside = self.drop.mean(1).tolist()
        return {"units": [[unit.layer, int(unit.index)] for unit in self.units], "trained": inside, "held_out": outside}


def shown_effect(
    network: nn.Module, X: NDArray[Any], held_out: NDArray[np.bool_], measured: Measured, score: ArrayLike, **how: Any
) -> Effect:
    """Ablate the units chosen on all pairs of one network, together, and return what that does to a few of them.

    The units are chosen on the same examples, so this shows what the method saw; it tests nothing.

    Args:
        network: the network.
        X: (n, *event) all examples.
        held_out: (n,) which of them it was not trained on.
        measured: its evidence.
        score: (n,) memorization scores.
        how: settings of `drops`.
    """
    pairs, evidence = measured.evidence.pairs["out"], measured.evidence
    units = units_of(network)
    scores = contrast(evidence.drops, Sets(pairs[:, 0], pairs[:, 1], evidence.damage[0]))
    chosen = [units[i] for i in np.flatnonzero(strongest(scores, max(grid(len(units)))))]
    all_scores = np.asarray(score, float)
    count = min(SHOWN, len(pairs))
    sides = [_highest(measured.positions[rows], all_scores)[:count] for rows in pairs.T]
    rows, reference = np.concatenate(sides), X[~held_out]
    drop = joint_drop(network, X[rows], [chosen], reference=reference, **how)[:, 0]
    before, after = _pictures(network, X[rows], chosen, reference)
    by_side = (2, len(sides[0]))
    return Effect(
        chosen,
        sides[0],
        sides[1],
        score=all_scores[rows].reshape(by_side),
        drop=drop.reshape(by_side),
        before=before.reshape(*by_side, -1),
        after=after.reshape(*by_side, -1),
    )


def _highest(positions: Rows, scores: FloatArray) -> Rows:
    return positions[np.argsort(-scores[positions], kind="stable")]


@torch.no_grad()
def _pictures(
    network: Any, X: NDArray[Any], units: list[Unit], reference: NDArray[Any]
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    if not (callable(getattr(network, "drawn", None)) and callable(getattr(network, "posterior", None))):
        return (np.empty((len(X), 0), np.float32),) * 2
    z = network.posterior(as_examples(X).to(next(network.parameters()).device))[0]
    before = _mean_of(network, z)
    with ablate(network, units, "mean", reference=reference):
        return before, _mean_of(network, z)


def _mean_of(network: Any, z: Tensor) -> NDArray[np.float32]:
    with isolated_streams(z.device, 0):
        drawn = network.drawn(z.repeat(DRAWS, 1)).view(DRAWS, len(z), -1).mean(0)
    return np.asarray(drawn.cpu().numpy(), np.float32)
