"""genmem's products of per-example gradients against kronfluence without a curvature, and what it cannot do."""

import pytest
import torch
from cases import INSTALL, READ_BY_ALL, TOLERANCE, batch_first, check, data, fresh, ours, unknown_layers, vae
from gradient_networks import Squares
from torch import nn

for needed in ("kronfluence", "einconv", "einops", "accelerate"):
    pytest.importorskip(needed, reason=f"{needed} is not installed: {INSTALL}")

from peers import BatchFirst, Kronfluence  # noqa: E402

pytestmark = pytest.mark.filterwarnings("ignore:.torch.cuda.amp.GradScaler:FutureWarning")


@pytest.fixture
def both(tmp_path):
    def call(module, x, z, **settings):
        found = Kronfluence(module, tmp_path)
        return found.influence(x, z, **settings), found.self_influence(x, **settings)

    return call


@pytest.mark.parametrize("dtype", TOLERANCE, ids=str)
@pytest.mark.parametrize("name", READ_BY_ALL)
def test_networks_that_both_read(name, dtype, both):
    make, event = READ_BY_ALL[name]
    module, x, z = fresh(make, dtype), data(9, event, dtype), data(4, event, dtype, 1)
    check(*both(module, (x,), (z,), batch_size=5), ours(module, (x, None), (z, None)))


@pytest.mark.parametrize("dtype", TOLERANCE, ids=str)
def test_a_vae_under_fixed_noise(dtype, both):
    module, x, z = vae(dtype)
    found = both(BatchFirst(module), batch_first(x), batch_first(z), batch_size=5)
    check(*found, ours(module, x, z))


def test_transposed_convolutions_and_norms_are_dropped(both):
    module, x, z = fresh(unknown_layers, torch.float64), *(data(n, (2, 4, 4), torch.float64, n) for n in (9, 4))
    names = ["net.0.weight", "net.0.bias", "net.7.weight", "net.7.bias"]
    part, whole = ours(module, (x, None), (z, None), names), ours(module, (x, None), (z, None))
    check(*both(module, (x,), (z,)), part)
    assert (part[1] / whole[1]).median() < 0.99


def test_bare_parameters_are_dropped(both):
    module, x, z = vae(torch.float64, likelihood="gaussian")
    names = [name for name, _ in module.named_parameters() if name != "log_variance"]
    check(*both(BatchFirst(module), batch_first(x), batch_first(z)), ours(module, x, z, names))
    whole = ours(module, x, z)[1]
    assert (ours(module, x, z, ["log_variance"])[1] / whole).max() > 1e-4


def test_the_decoder_of_a_convolutional_vae_is_dropped(both):
    module, x, z = vae(torch.float64, conv=True)
    read = [
        f"{name}.{kind}"
        for name, layer in module.named_modules()
        if isinstance(layer, nn.Linear | nn.Conv2d)
        for kind, _ in layer.named_parameters()
    ]
    assert read and all(name.startswith("encoder") for name in read)
    check(*both(BatchFirst(module), batch_first(x), batch_first(z)), ours(module, x, z, read))
    share = ours(module, x, z, read)[1] / ours(module, x, z)[1]
    assert share.max() < 0.9


def test_nothing_that_it_reads_is_refused(tmp_path):
    module = fresh(lambda: Squares(nn.ConvTranspose2d(2, 3, 3)), torch.float64)
    with pytest.raises(Exception, match="No supported modules found"):
        Kronfluence(module, tmp_path)


def test_convolutions_with_groups_are_read_wrongly(both):
    module = fresh(lambda: Squares(nn.Conv2d(4, 4, 3, groups=2)), torch.float64)
    x = data(6, (4, 5, 5), torch.float64)
    pairs, squares = both(module, (x,), (x,))
    truth = ours(module, (x, None), (x, None))
    assert pairs.shape == truth[0].shape
    assert (squares / truth[1] - 1).abs().min() > 0.01
