"""genmem's products of per-example gradients against captum's TracInCP, and what TracInCP cannot do."""

import pytest
import torch
from cases import INSTALL, READ_BY_ALL, TOLERANCE, batch_first, check, data, fresh, ours, unknown_layers, vae
from gradient_networks import Bare, Squares
from torch import nn

pytest.importorskip("captum", reason=f"captum is not installed: {INSTALL}")

from peers import BatchFirst, captum_influence, captum_self_influence, captum_tracin  # noqa: E402

MODES = [False, True]


def both(module, x, z, **settings):
    tracin = captum_tracin(module, x, **settings)
    return captum_influence(tracin, z), captum_self_influence(tracin)


@pytest.mark.parametrize("hooks", MODES, ids=["loop", "hooks"])
@pytest.mark.parametrize("dtype", TOLERANCE, ids=str)
@pytest.mark.parametrize("name", READ_BY_ALL)
def test_networks_that_both_read(name, dtype, hooks):
    make, event = READ_BY_ALL[name]
    module, x, z = fresh(make, dtype), data(9, event, dtype), data(4, event, dtype, 1)
    check(*both(module, (x,), (z,), hooks=hooks, batch_size=5), ours(module, (x, None), (z, None)))


@pytest.mark.parametrize("hooks", MODES, ids=["loop", "hooks"])
@pytest.mark.parametrize("dtype", TOLERANCE, ids=str)
def test_a_vae_under_fixed_noise(dtype, hooks):
    module, x, z = vae(dtype)
    found = both(BatchFirst(module), batch_first(x), batch_first(z), hooks=hooks, batch_size=5)
    check(*found, ours(module, x, z))


@pytest.mark.parametrize("dtype", TOLERANCE, ids=str)
def test_the_loop_reads_any_layer(dtype):
    for settings in ({"conv": True}, {"likelihood": "gaussian"}):
        module, x, z = vae(dtype, **settings)
        tracin = captum_tracin(BatchFirst(module), batch_first(x))
        check(captum_influence(tracin, batch_first(z)), None, ours(module, x, z))
    module, x, z = fresh(unknown_layers, dtype), data(9, (2, 4, 4), dtype), data(4, (2, 4, 4), dtype, 1)
    check(*both(module, (x,), (z,)), ours(module, (x, None), (z, None)))


def test_the_loop_fails_on_the_strides_of_a_convolution():
    module, x, z = vae(torch.float64, conv=True)
    tracin = captum_tracin(BatchFirst(module), batch_first(x), dense=False)
    torch.testing.assert_close(captum_self_influence(tracin), ours(module, x, z)[1])
    with pytest.raises(RuntimeError, match="view size is not compatible"):
        captum_influence(tracin, batch_first(z))


def test_the_loop_has_no_self_influence_with_a_scalar_parameter():
    module, x, _ = vae(torch.float64, likelihood="gaussian")
    assert module.log_variance.ndim == 0
    with pytest.raises(RuntimeError, match="stack expects each tensor to be equal size"):
        captum_self_influence(captum_tracin(BatchFirst(module), batch_first(x)))


def test_the_loop_refuses_unused_parameters():
    module, x = fresh(Bare, torch.float64), data(6, (5,), torch.float64)
    with pytest.raises(RuntimeError, match="not have been used in the graph"):
        both(module, (x,), (x,))
    pairs, squares, _ = ours(module, (x, None), (x, None))
    torch.testing.assert_close(pairs.diagonal(), squares)


# --- what hooks leave out, without a word


def check_left_out(module, x, z, theirs, names, share):
    """The other library's numbers are those of some parameters only, which have `share` of all |g|^2 at most."""
    whole = ours(module, x, z)
    part = ours(module, x, z, names)
    check(*theirs, part)
    assert (part[1] / whole[1]).max() < share
    return whole[1], part[1]


def test_hooks_drop_transposed_convolutions_and_norms():
    module, x, z = fresh(unknown_layers, torch.float64), *(data(n, (2, 4, 4), torch.float64, n) for n in (9, 4))
    names = ["net.0.weight", "net.0.bias", "net.7.weight", "net.7.bias"]
    whole, part = check_left_out(
        module, (x, None), (z, None), both(module, (x,), (z,), hooks=True, batch_size=5), names, 0.999
    )
    assert (part / whole).median() < 0.99  # a share of |g|^2 is missing


def test_hooks_drop_bare_parameters():
    module, x, z = vae(torch.float64, likelihood="gaussian")
    names = [name for name, _ in module.named_parameters() if name != "log_variance"]
    theirs = both(BatchFirst(module), batch_first(x), batch_first(z), hooks=True, batch_size=5)
    check_left_out(module, x, z, theirs, names, 1.0)


def test_hooks_take_draws_for_examples():
    """With the draws first, as genmem's networks decode, each draw counts as an example of its own."""
    module, x, _ = vae(torch.float64)

    class DrawsFirst(nn.Module):
        def __init__(self):
            super().__init__()
            self.module = module

        def forward(self, x, noise):
            return self.module(x, draws=noise.shape[1], noise=noise.transpose(0, 1))

    tracin = captum_tracin(DrawsFirst(), batch_first(x), hooks=True, batch_size=9)
    with pytest.raises(RuntimeError, match="stack expects each tensor to be equal size"):
        captum_self_influence(tracin)
    as_many = captum_tracin(DrawsFirst(), batch_first((x[0][:4], x[1][:, :4])), hooks=True, batch_size=4)
    wrong = captum_self_influence(as_many)  # 4 examples and 4 draws: not even the shape tells
    assert (wrong / ours(module, x, x)[1][:4] - 1).abs().min() > 0.01


def test_hooks_do_not_read_a_convolution_with_groups():
    module, x = fresh(lambda: Squares(nn.Conv2d(4, 4, 3, groups=2)), torch.float64), data(5, (4, 5, 5), torch.float64)
    with pytest.raises(RuntimeError, match="shape"):
        both(module, (x,), (x,), hooks=True, batch_size=5)
    check(*both(module, (x,), (x,)), ours(module, (x, None), (x, None)))
