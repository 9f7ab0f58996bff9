"""Bare parameters, of which each example may have a copy, and parameters without effect."""

import pytest
import torch
from gradient_checks import TOLERANCE, check, data
from gradient_networks import Squares
from torch import nn

from genmem.errors import ModelError
from genmem.gradients.engine import PerExampleGradients
from genmem.gradients.factored import Rows
from genmem.gradients.products import Features, along, gram, inner, squared_norms


class Bent(nn.Module):
    """Bare parameters of several shapes, used position by position or across examples."""

    def __init__(self, across=""):
        super().__init__()
        self.across = across
        self.layer = nn.Linear(3, 3)
        self.scalar, self.row = nn.Parameter(torch.tensor(0.3)), nn.Parameter(torch.randn(3))
        self.table, self.taken = nn.Parameter(torch.randn(5, 3)), nn.Parameter(torch.randn(4))

    def forward(self, x, draws=1):  # x: (batch, 5 positions, 3), of which 3 examples are tried
        h = torch.tanh(self.layer(x) * self.row + self.table) * self.scalar.exp()
        if self.across == "large" and len(x) > 4:
            h = h * self.row[0]
        return (h * self.taken[:3]).square().sum((1, 2)) + self.taken[3] ** 2


@pytest.mark.parametrize("dtype", TOLERANCE, ids=str)
def test_parameters_used_element_by_element_go_by_copies(dtype):
    torch.manual_seed(16)
    ways = check(Bent().to(dtype), data(7, (5, 3), dtype), data(4, (5, 3), dtype, 1)).coverage
    assert set(ways.copies) == {"scalar", "row", "table"}
    assert set(ways.vmap) == {"taken"}  # taken[:3] of copies would be those of three examples
    assert "100% of 35 parameters (12 by hooks, 19 by copies, 4 by vmap)" == str(ways)


def test_copies_are_checked_against_a_plain_backward_pass():
    torch.manual_seed(17)
    x = data(6, (5, 3), torch.float32)
    with pytest.raises(ModelError, match="add up"):
        PerExampleGradients(Bent("large"), x).features(x)


@pytest.mark.parametrize("dtype", TOLERANCE, ids=str)
def test_a_bias_that_a_norm_takes_away_is_no_matter(dtype):
    torch.manual_seed(18)
    module = Squares(nn.Conv1d(3, 3, 3), nn.LayerNorm(6), nn.Linear(6, 2)).to(dtype)  # the norm is over positions
    gradients = check(module, data(40, (3, 8), dtype), data(5, (3, 8), dtype, 1))
    assert set(gradients.coverage.hooks) == set(gradients.trained)  # its gradient is nothing but rounding


def test_long_gradients_add_up_without_loss():
    torch.manual_seed(19)
    values = torch.rand(3, 2**20 + 7)
    truth = values.double() @ values.double().T
    long, scale = Features({"p": Rows(values)}, 3), {"p": torch.rand(2**20 + 7)}
    scaled = (values.double() * scale["p"].double()) @ values.double().T
    for found, wanted in [
        (inner(long, long), truth),
        (inner(long, Features({"p": Rows(values[:1])}, 1)), truth[:, :1]),
        (squared_norms(long), truth.diagonal()),
        (along(long, {"p": values[0]}), truth[0]),
        (gram(Features(long.pieces, 3, 3))[0], truth),
        (inner(long, long, scale=scale), scaled),
        (squared_norms(long, scale=scale), scaled.diagonal()),
    ]:
        torch.testing.assert_close(found, wanted.to(found.dtype), rtol=2e-6, atol=0)
