"""Weights of checkpoints: the formulas, and what they cannot know."""

import math

import numpy as np
import pytest

from genmem import ModelError
from genmem.influence import checkpoint_weights
from genmem.training.trajectory import Checkpoint, Trajectory


def made(steps, rates=None, n=10, batch=5):
    rates = [0.1] * len(steps) if rates is None else rates
    return Trajectory(
        tuple(Checkpoint(i, s, r, dict) for i, (s, r) in enumerate(zip(steps, rates, strict=True))), n, batch
    )


def test_weights_are_the_formulas():
    path = made([0, 4, 6], [0.1, 0.2, 0.3])
    np.testing.assert_allclose(checkpoint_weights(path), [0.1 * 4 / 10, 0.2 * 2 / 10, 0])
    np.testing.assert_allclose(checkpoint_weights(path, "adam"), checkpoint_weights(path))
    np.testing.assert_allclose(checkpoint_weights(path, "lr"), [0.1, 0.2, 0.3])
    np.testing.assert_allclose(checkpoint_weights(path, "complete", [0]), [0.1 * 6 / 10])
    np.testing.assert_allclose(checkpoint_weights(path, "complete", [0, 2]), [0.1 * 6 / 10, 0])


def test_weights_refuse_what_they_cannot_know():
    for rate in (None, math.nan, 0, -1.0):
        with pytest.raises(ModelError, match=r"learning rate of each checkpoint.*at step 4"):
            checkpoint_weights(made([0, 4], [0.1, rate]))
    with pytest.raises(ModelError, match="in the order of training"):
        checkpoint_weights(made([4, 0]))
    with pytest.raises(ModelError, match="weights to be one of complete, lr, adam"):
        checkpoint_weights(made([0, 4]), "ones")
    for wrong in ([], [1, 0], [0, 0], [2], [-1]):
        with pytest.raises(ModelError, match="positions of checkpoints from 0 to 1"):
            checkpoint_weights(made([0, 4]), "complete", wrong)
    with pytest.raises(ModelError, match="Fit the model with checkpoint_every="):
        checkpoint_weights(made([]))
