"""What gradients of each example are refused for, found out on three examples before anything is computed."""

import pytest
import torch
import torch.nn.functional as F
from gradient_checks import data
from torch import nn

from genmem.errors import ModelError
from genmem.gradients.engine import PerExampleGradients
from genmem.gradients.products import inner, squared_norms


def test_a_loss_that_sees_other_examples_is_refused_whichever_it_is():
    x, linear = data(7, (5,), torch.float32), nn.Linear(5, 4)

    def later(module, x):  # the first example sees none of the others
        return module(x).square().sum(1).cumsum(0)

    def noisy(module, x):
        return later(module, x) + torch.randn(len(x))

    def normalised(module, x):  # fails on a batch of one
        return F.batch_norm(module(x), None, None, training=True).square().mul(torch.arange(4)).sum(1)

    def contrasted(module, x):
        return -torch.log_softmax(module(x) @ module(x).T, 1).diagonal()

    for loss in (later, noisy, normalised, contrasted):
        with pytest.raises(ModelError, match="does not depend on the others"):
            PerExampleGradients(linear, x, loss=loss)
    recurrent = nn.GRU(5, 4)  # takes a batch of vectors for one sequence
    with pytest.raises(ModelError, match="does not depend on the others"):
        PerExampleGradients(recurrent, x, loss=lambda module, x: module(x)[0].square().sum(1))


def test_rows_of_very_different_gradients_are_not_taken_for_mixed():
    x = data(6, (5,), torch.float32) * torch.tensor([1e-9, 1, 0, 1e4, 1e-3, 1e6])[:, None]
    module = nn.Sequential(nn.Linear(5, 40), nn.Tanh(), nn.Linear(40, 4))
    found = squared_norms(PerExampleGradients(module, x, loss=squares).features(x))
    for row, norm in zip(x, found, strict=True):
        alone = torch.autograd.grad(squares(module, row[None]).sum(), [*module.parameters()])
        torch.testing.assert_close(norm, sum(g.double().square().sum() for g in alone), rtol=1e-4, atol=0)


def squares(module, x):
    return module(x).square().sum(1)


def test_what_torch_cannot_do_is_said():
    x, linear = data(6, (5,), torch.float32), nn.Linear(5, 4)
    for loss, message in (
        (lambda module, x: torch.from_numpy(module(x).numpy()).sum(1), "error of torch: Can't call numpy"),
        (lambda module, x: torch.igamma(module(x).exp(), torch.ones(4)).sum(1), "derivative for 'igamma"),
        (lambda module, x: module(x[:, :3]).sum(1), "of the form it was trained on"),
        (lambda module, x: squares(module, x).sum().item(), "got a float"),
        (lambda module, x: (squares(module, x),), "got a tuple"),
        (lambda module, x: squares(module, x)[:, None].expand(-1, 2), r"got shape \(3, 2\)"),
    ):
        with pytest.raises(ModelError, match=message):
            PerExampleGradients(linear, x, loss=loss)
    for dtype, message in ((torch.bfloat16, r"Call \.float\(\)"), (torch.complex64, "as two real ones")):
        with pytest.raises(ModelError, match=f"'weight' of {str(dtype)[6:]}.*{message}"):
            PerExampleGradients(nn.Linear(5, 4, dtype=dtype), x, loss=lambda module, x: squares(module, x).abs())


def test_a_network_may_overwrite_what_it_is_given():
    x, linear = data(6, (5,), torch.float32), nn.Linear(5, 4)
    before = x.clone()

    def overwriting(module, x):
        return squares(module, x.sub_(0.5))

    there = PerExampleGradients(linear, x, loss=overwriting)
    found = there.features(x)
    assert torch.equal(x, before)
    plain = PerExampleGradients(linear, x, loss=lambda module, x: squares(module, x - 0.5)).features(x)
    assert torch.equal(inner(found, found), inner(plain, plain))
    assert torch.equal(there.along(x, there.gradient(x[:1])), there.along(x, there.gradient(x[:1])))
