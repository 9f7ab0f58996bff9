"""Influence of networks whose training took statistics from batches: told, and refused for Adam's weights."""

import copy
import warnings

import numpy as np
import pytest
import torch
from torch import nn

from genmem import ModelError, Trained, from_module, influence_scores
from genmem.influence import self_influence, top_influences

X = (np.random.default_rng(0).normal(size=(16, 4)) * 3 + 5).astype(np.float32)


class Own(nn.Module):
    """Batch normalization, or normalization of each example, written by hand."""

    def __init__(self, over=0):
        super().__init__()
        self.register_buffer("mean", torch.zeros(6))
        self.over = over

    def forward(self, x):
        if not self.training:
            return x - self.mean
        with torch.no_grad():
            self.mean.lerp_(x.mean(0), 0.1)
        return x - x.mean(self.over, keepdim=True)


class Spectral(nn.Module):
    def __init__(self):
        super().__init__()
        self.layer = nn.utils.parametrizations.spectral_norm(nn.Linear(6, 6))

    def forward(self, x):
        return self.layer(x)


class Frozen(nn.BatchNorm1d):
    def train(self, mode=True):
        return super().train(False)


class Images(nn.Module):
    def __init__(self, norm):
        super().__init__()
        self.norm = norm

    def forward(self, x):
        return self.norm(x.view(len(x), 2, 3, *(1,) * self.dimensions())).flatten(1)

    def dimensions(self):
        name = type(self.norm).__name__
        return int(name[-2]) - 1 if name[-1] == "d" else 0


def network(norm):
    return nn.Sequential(nn.Linear(4, 6), norm, nn.ReLU(), nn.Dropout(0.1), nn.Linear(6, 4))


def squares(network, x):
    return (x - network(x)).square().sum(1)


def fitted(norm):
    model = from_module(
        lambda shape: network(copy.deepcopy(norm)), loss=squares, bound=True, epochs=2, batch_size=8, checkpoint_every=1
    )
    return model.fit(X)


SHARED = {
    "batch": nn.BatchNorm1d(6),
    "no momentum": nn.BatchNorm1d(6, momentum=0.0),
    "average": nn.BatchNorm1d(6, momentum=None),
    "without weights": nn.BatchNorm1d(6, affine=False),
    "in two dimensions": Images(nn.BatchNorm2d(2)),
    "in three dimensions": Images(nn.BatchNorm3d(2)),
    "instance": Images(nn.InstanceNorm1d(2, track_running_stats=True)),
    "own": Own(),
    "nested": nn.Sequential(nn.Sequential(nn.BatchNorm1d(6))),
}
SEPARATE = {
    "layer": nn.LayerNorm(6),
    "group": nn.GroupNorm(2, 6),
    "instance": Images(nn.InstanceNorm1d(2)),
    "frozen": Frozen(6),
    "spectral": Spectral(),
    "none": nn.Identity(),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", SHARED)
def test_statistics_of_the_batch_are_told_and_refused_for_adam(name):
    model = fitted(SHARED[name])
    with pytest.warns(UserWarning, match=r"Normalization \(network\.1.* do not add up"):
        found = top_influences(model, X, X[:2])
    assert "constant of each checkpoint: network.1" in found.coverage
    assert "do not add up to the decrease of the loss" in found.note
    with pytest.raises(ModelError, match=r"Normalization \(network\.1.*weights=\"complete\""):
        influence_scores(model, X, X[:2], weights="adam")


@pytest.mark.slow
@pytest.mark.parametrize("name", SEPARATE)
def test_other_norms_are_neither_warned_of_nor_refused(name):
    model = fitted(SEPARATE[name])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for weights in ("complete", "adam"):
            assert np.isfinite(influence_scores(model, X, X[:2], weights=weights)).all()
        assert "do not add up" not in top_influences(model, X, X[:2]).note


def test_a_norm_that_counted_no_batch_was_frozen():
    module = network(nn.BatchNorm1d(6))
    states = [copy.deepcopy(module.state_dict()) for _ in range(2)]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        influence_scores(Trained(module, states, loss=squares), X, X[:2], weights="equal")
    states[1]["1.num_batches_tracked"] += 1
    with pytest.warns(UserWarning, match=r"Normalization \(1\)"):
        influence_scores(Trained(module, states, loss=squares), X, X[:2], weights="equal")


@pytest.mark.slow
@pytest.mark.parametrize("wrap", [nn.utils.weight_norm, nn.utils.spectral_norm])
@pytest.mark.filterwarnings("ignore:.*weight_norm. is deprecated:FutureWarning")
def test_weights_that_the_older_norms_of_torch_compute(wrap):
    """They keep a tensor that was computed from parameters, which `copy.deepcopy` does not copy."""

    def make(shape):
        return nn.Sequential(wrap(nn.Linear(*shape, 4)), nn.Tanh(), nn.Linear(4, *shape))

    x = np.random.default_rng(0).normal(size=(16, 3)).astype(np.float32)
    model = from_module(make, loss=squares, bound=False, epochs=2, checkpoint_every=1, device="cpu").fit(x)
    found = self_influence(model, x, draws=2)
    assert np.isfinite(found).all() and (found > 0).all()
