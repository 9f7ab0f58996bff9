"""log p of a user's network depends neither on the size of a batch nor on the place of an example in it."""

import numpy as np
import pytest
import torch
from torch import nn

from genmem.models import from_module
from genmem.models.coupling import UnfitToScore
from genmem.models.still import POSITION, SIZE, depends_on

X = np.random.default_rng(0).normal(size=(60, 6)).astype(np.float32)


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.enc, self.dec = nn.Sequential(nn.Linear(6, 4), nn.Dropout(0.1)), nn.Linear(2, 6)

    def elbo(self, x):
        m, lv = self.enc(x).chunk(2, -1)
        z = m + (lv / 2).exp() * torch.randn_like(m)
        kl = 0.5 * (m**2 + lv.exp() - 1 - lv).sum(1)
        return 0.5 * ((x - self.dec(z)) ** 2 + 1.8379).sum(1) + kl


def plain(net, x):
    return net.elbo(x)


def divided(net, x):
    return net.elbo(x) * 64 / len(x)


def of_its_root(net, x):
    return net.elbo(x) + len(x) ** 0.5


def first_differs(net, x):
    return net.elbo(x) * (1 + 0.1 * (torch.arange(len(x)) == 0))


def by_index(net, x):
    return net.elbo(x) + 0.01 * torch.arange(len(x))


def two_before(net, x):
    return net.elbo(x) + 0.1 * torch.roll(x, 2, 0).sum(1)


def first_row(net, x):
    return net.elbo(x) + 0.1 * x[0].sum()


@pytest.mark.parametrize(
    ("loss", "said"),
    [
        (divided, "the size of its batch"),
        (of_its_root, "the size of its batch"),
        (first_differs, "its position in the batch"),
        (by_index, "its position in the batch"),
        (two_before, "the others of its batch"),
        (first_row, "the others of its batch|its position in the batch"),
    ],
)
def test_a_log_p_of_its_place_is_refused_although_noise_is_drawn(loss, said):
    with pytest.raises(UnfitToScore, match=said):
        from_module(lambda shape: Net(), loss=loss, bound=True, epochs=1).fit(X)


@pytest.mark.parametrize(
    ("loss", "found"), [(plain, None), (divided, SIZE), (by_index, POSITION), (lambda net, x: 1 / 0, None)]
)
def test_numbers_held_still_show_what_log_p_depends_on(loss, found):
    module = from_module(lambda shape: Net(), loss=loss, bound=True).make_module((6,)).eval()
    with torch.no_grad():
        assert depends_on(module, torch.from_numpy(X)) == found


def test_noise_that_torch_does_not_draw_says_nothing():
    def foreign(net, x):
        return net.elbo(x) * len(x) * np.random.default_rng().normal()

    module = from_module(lambda shape: Net(), loss=foreign, bound=True).make_module((6,)).eval()
    with torch.no_grad():
        assert depends_on(module, torch.from_numpy(X)) is None
