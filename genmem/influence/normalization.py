"""Influence through batch normalization: running statistics are constants, which `weights="adam"` does not allow.

Measured on a small network against gradients in training mode, through the statistics of full batches: with "complete"
and "lr" sums over training examples are 3 to 8 times as large, and ranks of queries correlate at .7 to .8. With "adam",
sums are 5e5 times as large: biases before the norm have a gradient of 0 in training, and Adam's second moment divides
by it. Without these biases they are still 20 times as large, with ranks correlated at .5.
"""

import warnings

from torch import nn

from genmem.errors import ModelError
from genmem.gradients.training_mode import Statistics
from genmem.influence.states import COUNTER, fitted
from genmem.training.trajectory import Trajectory


def still_norms(trajectory: Trajectory, module: nn.Module) -> list[str]:
    """Return the normalization layers that counted no batch between the first and the last checkpoint."""
    own = module.state_dict()
    counters = [name for name in own if name.endswith(f".{COUNTER}")]
    if not counters or len(trajectory) < 2:
        return []
    first, last = (fitted(c.state_dict(), own, f"the checkpoint at {c.step}") for c in (trajectory[0], trajectory[-1]))
    same = [name for name in counters if name in first and name in last and bool((first[name] == last[name]).all())]
    return [name.removesuffix(f".{COUNTER}") for name in same]


def told_of(found: Statistics) -> list[str]:
    """Return what the coverage says, if anything."""
    if found.layers:
        return [f"what training forward passes change is a constant of each checkpoint: {', '.join(found.layers)}"]
    return ["statistics that examples of a batch share in training are left out"] if found.other_gradients else []


def note_of(found: Statistics) -> list[str]:
    """Return a sentence on what the scores mean, if gradients are others in training mode."""
    if not found.other_gradients:
        return []
    return [
        f"{_named(found)} in training, and constants here: scores do not add up to the decrease of the loss, by a "
        "factor of several; ranks mean more than magnitudes."
    ]


def refuse_or_warn(found: Statistics, weights: str) -> None:
    """Warn of gradients that are others in training mode.

    Raises:
        ModelError: weights are those of Adam, whose second moments belong to gradients in training mode.
    """
    if not found.other_gradients:
        return
    if weights == "adam":
        raise ModelError(
            expected="gradients in evaluation mode that are those of training, for weights='adam'",
            got=f"others: {_named(found)} in training, so Adam's second moments do not fit the gradients",
            do='Use weights="complete" or "lr", or train with GroupNorm or LayerNorm.',
        )
    warnings.warn(note_of(found)[0], stacklevel=2)


def _named(found: Statistics) -> str:
    layers = f" ({', '.join(found.layers)})" if found.layers else ""
    return f"Normalization{layers} takes its statistics from the batch"
