"""log p of a user's network is that of one example, in full precision, on the network that is scored."""

import numpy as np
import pytest
import torch
from torch import nn

import genmem
from genmem import ModelError, from_module
from genmem.models.coupling import UnfitToScore, check_scoring

RNG = np.random.default_rng(0)
X = RNG.normal(size=(60, 6)).astype(np.float32)


class Net(nn.Module):
    """A small VAE with what users add: a gate, buffers, a generator."""

    def __init__(self, d=6):
        super().__init__()
        self.enc, self.dec = nn.Linear(d, 4), nn.Linear(2, d)
        self.norm, self.gate = nn.BatchNorm1d(2), nn.Parameter(torch.zeros(()))
        self.register_buffer("mean", torch.zeros(2), persistent=False)
        self.register_buffer("calls", torch.zeros((), dtype=torch.long))
        self.own = torch.Generator()

    def parts(self, x, noise=None):
        m, lv = self.enc(x).chunk(2, -1)
        z = m + (lv / 2).exp() * (torch.randn_like(m) if noise is None else noise)
        return m, 0.5 * ((x - self.dec(z)) ** 2 + 1.8379).sum(1), 0.5 * (m**2 + lv.exp() - 1 - lv).sum(1)


def elbo(net, x):
    _, r, k = net.parts(x)
    return r + k


def averaged(net, x):
    _, r, k = net.parts(x)
    return r + k.mean()


def slightly_averaged(net, x):
    _, r, k = net.parts(x)
    return r + 0.999 * k + 0.001 * k.mean()


def in_large_batches(net, x):
    _, r, k = net.parts(x)
    return r + (k if len(x) <= 64 else k.mean())


def gated(net, x):  # nothing to see before training
    _, r, k = net.parts(x)
    return r + k + net.gate * (r - r.mean())


def contrastive(net, x):
    m, r, k = net.parts(x)
    return r + k + torch.logsumexp(m @ m.T, 1)


def running(net, x):
    _, r, k = net.parts(x)
    return r + torch.cumsum(k, 0)


def batch_statistics(net, x):
    m, r, k = net.parts(x)
    return r + k + nn.functional.batch_norm(m, None, None, training=True).square().sum(1)


def running_statistics(net, x):
    m, r, k = net.parts(x)
    return r + k + net.norm(m).square().sum(1)


def times_the_batch(net, x):
    return 0.5 * ((x - net.dec(net.enc(x)[:, :2])) ** 2).sum(1) * len(x)


def moving_mean(net, x):
    m, r, k = net.parts(x)
    net.mean.mul_(0.999999).add_(1e-6 * m.detach().mean(0))
    return r + k + (m - net.mean).square().sum(1)


def counted(net, x):
    net.calls += 1
    return elbo(net, x)


def warmed_up(net, x):
    _, r, k = net.parts(x)
    net.calls += 1
    return r + k * (net.calls / 1e6).clamp(max=1.0)


def own_generator(net, x):
    _, r, k = net.parts(x, torch.randn(len(x), 2, generator=net.own))
    return r + k


def numpy_noise(net, x):
    _, r, k = net.parts(x, torch.from_numpy(np.random.default_rng().normal(size=(len(x), 2)).astype(np.float32)))
    return r + k


def autocast(net, x):
    with torch.autocast("cpu", torch.bfloat16):
        return elbo(net, x).float()


def autocast_in_training(net, x):
    with torch.autocast("cpu", torch.bfloat16, enabled=net.training):
        return elbo(net, x).float()


def summed_in_half(net, x):
    _, r, k = net.parts(x)
    return (r.half() + k.half()).float()


def half_result(net, x):
    return elbo(net, x).half()


COUPLED, SIZE = "does not depend on the others", "does not depend on the size"
STATE, HALF = "the same after it was scored", "log p in float32 or float64"


def fitted(loss, network=Net, **settings):
    settings = {"epochs": 1, "batch_size": 16, "bound": True, **settings}
    return from_module(lambda shape: network(), loss=loss, **settings).fit(X)


@pytest.mark.parametrize(
    ("loss", "said"),
    [
        (averaged, COUPLED),
        (slightly_averaged, COUPLED),
        (in_large_batches, COUPLED),
        (gated, COUPLED),
        (contrastive, COUPLED),
        (running, COUPLED),
        (batch_statistics, COUPLED),
        (times_the_batch, SIZE),
        (moving_mean, STATE),
        (warmed_up, STATE),
        (own_generator, "a generator of its own"),
        (numpy_noise, "global stream"),
        (autocast, HALF),
        (summed_in_half, HALF),
        (half_result, HALF),
    ],
)
def test_a_log_p_that_is_not_of_one_example_is_refused(loss, said):
    with pytest.raises(ModelError, match=said):
        fitted(loss)


@pytest.mark.parametrize("loss", [elbo, running_statistics, counted, autocast_in_training])
def test_what_does_not_change_log_p_is_accepted(loss):
    scores = fitted(loss).score_samples(X)
    assert np.isfinite(scores).all()


def test_a_random_estimate_is_accepted_as_log_p():
    model = fitted(averaged, bound=None, log_prob=lambda net, x: -elbo(net, x))
    assert np.isfinite(model.score_samples(X)).all()


def test_rows_score_alike_in_any_company():
    model = fitted(elbo)
    np.testing.assert_allclose(model.score_samples(X)[:7], model.score_samples(X[:7]), rtol=1e-6)


def test_a_loss_may_mix_examples_where_log_p_is_given():
    model = fitted(averaged, bound=True, log_prob=lambda net, x: -elbo(net, x))
    assert np.isfinite(model.score_samples(X)).all()


class Late(Net):
    """Mixes examples once its gate has opened in training, too slowly for a trial of a few steps."""

    def parts(self, x, noise=None):
        m, r, k = super().parts(x, noise)
        opened = (self.steps > 40).to(r.dtype)
        if self.training:
            self.steps += 1
        return m, r + opened * (r - r.mean()), k

    def __init__(self):
        super().__init__()
        self.register_buffer("steps", torch.zeros((), dtype=torch.long))


@pytest.mark.slow
def test_the_trained_network_is_checked(tmp_path):
    with pytest.raises(UnfitToScore, match=COUPLED):
        fitted(elbo, Late, epochs=30)
    model = from_module(lambda shape: Late(), loss=elbo, bound=True, epochs=30, batch_size=16)
    with pytest.raises(UnfitToScore, match=COUPLED):
        genmem.audit(X, model, out=tmp_path / "run", folds=3, repeats=2, score_epochs=(30,))
    assert not list((tmp_path / "run").glob("shards/*"))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_networks_are_refused(dtype):
    with pytest.raises(ModelError, match=r"a network in float32 or float64; got .*16.*net\.float\(\)"):
        fitted(elbo, lambda: Net().to(dtype))


def test_double_precision_networks_are_scored():
    model = fitted(lambda net, x: elbo(net, x.double()), lambda: Net().double())
    assert model.score_samples(X).dtype == np.float64


def test_the_check_restores_the_network():
    torch.manual_seed(0)
    module = from_module(lambda shape: Net(), loss=counted, bound=True).make_module((6,)).train()
    before = {name: value.clone() for name, value in module.state_dict().items()}
    check_scoring(module, torch.from_numpy(X), seed=0)
    assert module.training
    assert all(torch.equal(value, before[name]) for name, value in module.state_dict().items())


class Subclass(genmem.DeepDensity):
    """A user's density by subclassing, whose network averages its KL over the batch."""

    def make_module(self, event_shape):
        class Module(Net):
            noise_shape = (2,)

            def forward(self, x, draws=1, noise=None):
                return -self.log_weights(x, draws, noise)[0]

            def log_weights(self, x, draws=1, noise=None):
                return torch.stack([-averaged_with(self, x, noise[i]) for i in range(draws)])

            def sample(self, n):
                return torch.zeros(n, 6)

        return Module()


def averaged_with(net, x, noise):
    _, r, k = net.parts(x, noise)
    return r + k.mean()


def test_subclasses_are_checked_too(tmp_path):
    with pytest.raises(UnfitToScore, match=COUPLED):
        Subclass(epochs=1).fit(X)
    with pytest.raises(UnfitToScore, match=COUPLED):
        genmem.audit(X, Subclass(epochs=1), out=tmp_path / "run", folds=3, repeats=2)
