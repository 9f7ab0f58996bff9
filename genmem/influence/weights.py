"""The weight of a checkpoint: the number of steps until the next one, and the length of each step."""

import math
import operator
from collections.abc import Mapping, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from genmem.errors import ModelError
from genmem.models.base import require
from genmem.training.trajectory import Trajectory

FloatArray = NDArray[np.float64]
KINDS = ("complete", "lr", "adam", "equal")
NEEDED = {"lr": ("learning_rate",), "equal": ()}  # by the other kinds, all three
EPSILON = 1e-8  # of torch's Adam


def checkpoint_weights(
    trajectory: Trajectory, kind: str = "complete", checkpoints: Sequence[int] | None = None
) -> FloatArray:
    """Return the weight of each checkpoint in a sum over them: (checkpoints,).

    With N training examples, a learning rate eta_c, and D_c optimizer steps from checkpoint c to the next one used (for
    the last one: to the end of training, usually 0):

    - "complete": eta_c D_c / N. If each step is plain gradient descent on the mean loss of a batch, the influences of
      all examples on z add up to the decrease of z's loss, to first order in the steps.
    - "adam": the same weight; in addition, gradients are multiplied by 1 / (sqrt(v) + 1e-8), see `preconditioner`.
    - "lr": eta_c, for checkpoints at even distances, up to a factor.
    - "equal": 1, if the learning rates are not known.

    Momentum mu without Adam makes each step 1 / (1 - mu) times as long. A checkpoint represents the steps after it, but
    gradients shrink until the next one. If checkpoints are far apart, sums are therefore too large by a factor, most of
    which is due to the untrained network. Ranks are affected less.

    Args:
        trajectory: checkpoints in the order of training.
        kind: one of the above.
        checkpoints: positions of those used, in order; None: all.

    Raises:
        ModelError: a checkpoint has no learning rate, steps do not increase, a checkpoint or the kind does not exist,
            or `Trained` was not told what this kind needs.

    References:
        Estimating Training Data Influence by Tracing Gradient Descent (Pruthi, Liu, Kale & Sundararajan, 2020),
        https://arxiv.org/abs/2002.08484
    """
    require("weights", kind, KINDS.__contains__, f"one of {', '.join(KINDS)}")
    _refuse_unknown(trajectory, kind)
    used = positions_of(trajectory, checkpoints)
    if kind == "equal":
        return np.ones(len(used))
    rates = np.array([_learning_rate(trajectory, position) for position in used])
    if kind == "lr":
        return rates
    steps = np.array([trajectory[following].step - trajectory[i].step for i, following in _intervals(trajectory, used)])
    if (steps < 0).any() or trajectory.n_train < 1:
        raise ModelError(
            expected="a trajectory in the order of training, with the number of examples trained on",
            got=f"steps {[c.step for c in trajectory]}, {trajectory.n_train}",
            do="Correct the trajectory, or fit the model again.",
        )
    return np.asarray(rates * steps / trajectory.n_train)


def _refuse_unknown(trajectory: Trajectory, kind: str) -> None:
    needed = NEEDED.get(kind, ("learning_rate", "steps", "n_train"))
    missing = [name for name in needed if name in trajectory.unknown]
    if missing:
        others = 'weights="lr" needs learning_rate alone, weights="equal" nothing.'
        raise ModelError(
            expected=f"{', '.join(f'{name}=' for name in needed)} of Trained for weights={kind!r}",
            got=f"none for {', '.join(missing)}",
            do=f"Pass {', '.join(f'{name}=' for name in missing)} to Trained, or choose other weights: {others}",
        )


def positions_of(trajectory: Trajectory, checkpoints: Sequence[int] | None) -> list[int]:
    """Return the positions of the checkpoints to use.

    Raises:
        ModelError: there are none, some do not exist, or they are not in order.
    """
    n = len(trajectory)
    try:
        used = list(range(n)) if checkpoints is None else [operator.index(i) for i in checkpoints]
    except TypeError:
        used = []
    if not used or used != sorted(set(used)) or used[0] < 0 or used[-1] >= n:
        raise ModelError(
            expected=f"positions of checkpoints from 0 to {n - 1}, each once and in order" if n else "a checkpoint",
            got=f"{used if checkpoints is None else checkpoints!r}",
            do="Change checkpoints." if n else "Fit the model with checkpoint_every=.",
        )
    return used


def preconditioner(
    trajectory: Trajectory, position: int, checkpoints: Sequence[int] | None, parameters: Mapping[str, Tensor]
) -> dict[str, Tensor]:
    """Return the diagonal 1 / (sqrt(v) + 1e-8) by which Adam multiplied the steps after a checkpoint, by parameter.

    v is the running mean of squared gradients, corrected for its start, at the *next* checkpoint used: the first
    checkpoint has none yet, and later ones describe only the past. Adam's momentum averages gradients over about 10
    steps, which hardly matters here. The diagonal is 0 for parameters that Adam never updated.

    Raises:
        ModelError: the trajectory has no second moments there.
    """
    following = dict(_intervals(trajectory, positions_of(trajectory, checkpoints)))[position]
    moments = trajectory[following].second_moments()
    if not moments:
        raise ModelError(
            expected='checkpoints with the second moments of Adam for weights="adam"',
            got=f"none at step {trajectory[following].step}",
            do='Fit the model again, pass a Trajectory of Checkpoints with read_moments=, or use weights="complete".',
        )
    return {
        name: 1 / (moments[name].to(p).sqrt() + EPSILON)
        if name in moments
        else torch.zeros_like(p, requires_grad=False)
        for name, p in parameters.items()
    }


def note_on(kind: str, trajectory: Trajectory) -> str:
    """Return a sentence that says what weights of this kind assume about the optimizer."""
    adam = any(checkpoint.second_moments() for checkpoint in list(trajectory)[1:2])
    if kind == "adam":
        return "Steps are scaled as Adam scaled them, by its second moments at the next checkpoint."
    if kind == "lr":
        return "Checkpoints are weighted by their learning rates alone: scores have no scale of their own."
    if kind == "equal":
        return "All checkpoints count the same: scores have no scale of their own."
    note = "Steps are treated as plain gradient descent"
    return note + ("; training used Adam, whose steps differ: ranks mean more than magnitudes." if adam else ".")


def _intervals(trajectory: Trajectory, used: Sequence[int]) -> list[tuple[int, int]]:
    """Return pairs of a checkpoint and the next one used, or the last of all."""
    return list(zip(used, [*used[1:], len(trajectory) - 1], strict=True))


def _learning_rate(trajectory: Trajectory, position: int) -> float:
    rate = trajectory[position].learning_rate
    if not isinstance(rate, float | int) or not math.isfinite(rate) or rate <= 0:
        raise ModelError(
            expected="the learning rate of each checkpoint, a number > 0",
            got=f"{rate!r} at step {trajectory[position].step}",
            do="Add it to the trajectory; without it the weight of a checkpoint is unknown.",
        )
    return float(rate)
