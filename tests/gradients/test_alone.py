"""Losses of an example that depend on more than this example, found although three examples do not show it."""

import pytest
import torch
from gradient_checks import data
from torch import nn
from torch.utils.checkpoint import checkpoint

from genmem.errors import ModelError
from genmem.gradients.engine import PerExampleGradients

X = data(40, (5,), torch.float32)


def squares(module, x):
    return module(x).square().sum(1)


def centred(module, x):
    found = squares(module, x)
    return found if len(x) < 4 else found - found.mean()


def scaled(module, x):
    found = squares(module, x)
    return found / found.mean().detach() if len(x) > 8 else found


def normalised(module, x):
    return squares(module, x - x.mean(0) if len(x) >= 16 else x)


def noisy(module, x):
    return centred(module, x + torch.randn_like(x))


@pytest.mark.slow
def test_draws_in_one_call_show_it_at_once():
    with pytest.raises(ModelError, match="does not depend on the others in its batch"):
        PerExampleGradients(nn.Linear(5, 4), X, loss=noisy)


@pytest.mark.parametrize("loss", [centred, scaled, normalised])
def test_mixing_in_larger_batches_alone_is_refused(loss):
    module = nn.Linear(5, 4)
    for call in ("features", "along", "gradient"):
        gradients = PerExampleGradients(module, X, loss=loss)
        arguments = (X, gradients.gradient(X[:3])) if call == "along" else (X,)
        with pytest.raises(ModelError, match="does in a batch of 40, though not in one of 3"):
            getattr(gradients, call)(*arguments)


class Changing(nn.Linear):
    """Changes something in every forward pass."""

    def __init__(self, what):
        super().__init__(5, 4)
        self.what, self.calls = what, 0
        self.register_buffer("count", torch.zeros((), dtype=torch.long))
        self.register_buffer("mean", torch.ones(5))

    def forward(self, x):
        if self.what in ("mean", "unused mean"):
            self.mean.lerp_(x.detach().mean(0), 0.1)
        if self.what in ("count", "unused count", "late"):
            self.count += 1
        if self.what == "reassigned":
            self.mean = self.mean * 0.9
        if self.what == "weight":
            self.weight.data.mul_(0.9)
        self.calls += 1
        factor = 1 + self.count * (self.what == "count") + 1.0 * (self.what == "late") * (self.count > 50)
        factor = factor + self.calls * (self.what == "attribute")
        centre = self.mean if self.what in ("mean", "reassigned") else 0
        return super().forward(x - centre) * factor


@pytest.mark.parametrize("what", ["mean", "count", "late", "reassigned", "weight", "attribute"])
def test_a_forward_pass_that_changes_what_it_uses_is_refused(what):
    named = {"late": "'count'", "reassigned": "'mean'", "attribute": "in two calls"}.get(what, f"'{what}'")
    with pytest.raises(ModelError, match=f"whenever the same examples.*{named}"):
        PerExampleGradients(Changing(what), X, loss=squares)


@pytest.mark.parametrize("what", ["unused mean", "unused count"])
def test_what_a_forward_pass_changes_and_does_not_use_is_fine(what):
    assert len(PerExampleGradients(Changing(what), X, loss=squares).features(X)) == 40


def test_the_cause_that_the_user_has_is_named():
    module, other = nn.Sequential(nn.Linear(5, 5), nn.Linear(5, 4)), nn.Linear(5, 4)

    def reentrant(module, x):
        return checkpoint(module, x, use_reentrant=True).square().sum(1)

    def below(module, x):
        return checkpoint(module[1], module[0](x), use_reentrant=True).square().sum(1)

    def kept(module, x):
        return checkpoint(module, x, use_reentrant=False).square().sum(1)

    def in_training_alone(module, x):
        return squares(module, x) if module.training else squares(module, x).detach()

    @torch.inference_mode()
    def inferring(module, x):
        return squares(module, x)

    for loss, message in (
        (reentrant, "use_reentrant=False"),
        (below, "use_reentrant=False"),
        (lambda module, x: squares(other, x), "the network that the function is given"),
        (in_training_alone, "without a gradient in evaluation mode"),
        (inferring, "inference_mode"),
        (lambda module, x: squares(module, x).detach(), "Remove detach"),
    ):
        with pytest.raises(ModelError, match=message):
            PerExampleGradients(module.eval(), X, loss=loss)
    assert not module.training
    assert len(PerExampleGradients(module, X, loss=kept).features(X)) == 40
