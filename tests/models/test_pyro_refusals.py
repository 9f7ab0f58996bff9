"""Pyro pairs that are refused, each with a message that says what to do."""

import numpy as np
import pyro
import pyro.distributions as dist
import pyro_pairs as pairs
import pytest
import torch
from pyro.infer.autoguide import AutoNormal
from pyro.nn import PyroModule
from torch import nn

from genmem.errors import DataError, GenmemError, ModelError
from genmem.models.pyro_density import from_pyro


def data():
    return np.random.default_rng(0).normal(size=(60, 3)).astype(np.float32)


def pair_of(body, guide=lambda x: None):
    def make_pair(event_shape):
        def model(x):
            scale = pyro.param("scale", torch.tensor(1.0), constraint=dist.constraints.positive)
            body(x, scale)

        return model, guide

    return make_pair


def observe(x, scale, value=None, name="x", mean=0.0):
    pyro.sample(name, dist.Normal(mean + torch.zeros(3), scale).to_event(1), obs=x if value is None else value)


def in_plate(inner, **keywords):
    def body(x, scale):
        with pyro.plate("data", **({"size": len(x)} | keywords)):
            inner(x, scale)

    return body


def loop(x, scale):
    for i in pyro.plate("data", len(x)):
        pyro.sample(f"x{i}", dist.Normal(torch.zeros(3), scale).to_event(1), obs=x[i])


def discrete(x, scale):
    with pyro.plate("data", len(x)):
        k = pyro.sample("k", dist.Categorical(torch.ones(2)))
        observe(x, scale, mean=k[:, None].float())


def discrete_guide(x):
    with pyro.plate("data", len(x)):
        pyro.sample("k", dist.Categorical(torch.ones(2)))


def latent(x, scale):
    z = pyro.sample("z", dist.Normal(0.0, 1.0))
    with pyro.plate("data", len(x)):
        observe(x, scale, mean=z[..., None])


def batch_guide(x):
    pyro.sample("z", dist.Normal(x.mean(), 1.0))


def local_guide(x):
    with pyro.plate("data", len(x)):
        pyro.sample("z", dist.Normal(0.0, 1.0))


def with_factor(x, scale):
    observe(x, scale)
    pyro.factor("more", x[:, 0])


def halves(x, scale):
    normal = dist.Normal(0.0, scale)
    pyro.sample("a", normal.expand([1]).to_event(1), obs=x[:, :1])
    pyro.sample("b", normal.expand([2]).to_event(1), obs=x[:, 1:])


def branch(x, scale):
    observe(x, scale)
    if x.max() > 0.5:
        pyro.param("late", torch.tensor(1.0))


@pytest.mark.parametrize(
    ("make_pair", "message"),
    [
        (pair_of(observe), 'plate named "data"'),
        (pair_of(in_plate(lambda x, s: None)), 'plate named "data"'),
        (pair_of(loop), "with pyro.plate"),
        (pair_of(in_plate(observe, size=50)), 'the plate "data" has len'),
        (pair_of(in_plate(lambda x, s: observe(x, s, x[:1]), size=1)), "hold the batch: 2 examples; got one of 1"),
        (pair_of(discrete), "MixtureSameFamily"),
        (pair_of(discrete, discrete_guide), "MixtureSameFamily"),
        (pair_of(latent), "'z' in the model only"),
        (pair_of(in_plate(observe), local_guide), "'z' in the guide only"),
        (pair_of(latent, batch_guide), "whatever the batch is"),
        (pair_of(latent, local_guide), "in neither"),
        (pair_of(in_plate(with_factor)), "one observed site"),
        (pair_of(in_plate(halves)), "Observe x itself, once"),
        (pair_of(in_plate(lambda x, s: observe(x, s, 2 * x))), "with other values. Observe x itself"),
        (pair_of(in_plate(branch)), "late|first call"),
        (lambda shape: None, "a model and a guide"),
        (lambda shape: (1, 2), "a model and a guide"),
        (lambda shape: 1 / 0, "make_pair to make .* ZeroDivisionError"),
        (lambda shape: (lambda x: 1 / 0, lambda x: None), "ZeroDivisionError"),
        (lambda shape: (lambda x, y: None, lambda x: None), "TypeError"),
    ],
)
def test_pairs_that_are_refused(make_pair, message):
    with pytest.raises(ModelError, match=message):
        from_pyro(make_pair, epochs=1).fit(data())


def test_a_pair_that_learns_nothing():
    def model(x):
        with pyro.plate("data", len(x)):
            observe(x, 1.0)

    with pytest.raises(ModelError, match="learns something"):
        from_pyro(lambda shape: (model, lambda x: None), epochs=1).fit(data())


def test_non_reparameterised_latents_are_refused():
    def guide(x):
        loc = pyro.param("loc", torch.tensor(0.0))
        pyro.sample("z", dist.Normal(loc, 1.0).has_rsample_(False))

    with pytest.raises(ModelError, match="rsample"):
        from_pyro(pair_of(latent, guide), epochs=1).fit(data())


POINTS = {
    "delta": lambda m: dist.Delta(m, event_dim=1),
    "to_event": lambda m: dist.Delta(m).to_event(1),
    "masked": lambda m: dist.Delta(m, event_dim=1).mask(True),
    "transformed": lambda m: dist.TransformedDistribution(
        dist.Delta(m), [dist.transforms.AffineTransform(0.0, 2.0)]
    ).to_event(1),
}


class FactorAnalysis(nn.Module):
    """One latent of each example, drawn by `draw` in the guide, and one of all examples, at a point."""

    def __init__(self, draw):
        super().__init__()
        self.dec, self.enc, self.draw = nn.Linear(1, 3), nn.Linear(3, 2), draw

    def model(self, x):
        level = pyro.sample("level", dist.Normal(torch.zeros(()), 1.0))
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(x.new_zeros(len(x), 1), 1.0).to_event(1))
            pyro.sample("x", dist.Normal(self.dec(z) + level, 1.0).to_event(1), obs=x)

    def guide(self, x):
        pyro.sample("level", dist.Delta(pyro.param("at", torch.zeros(()))))
        with pyro.plate("data", len(x)):
            m, s = self.enc(x).chunk(2, -1)
            pyro.sample("z", self.draw(m) if self.draw else dist.Normal(m, s.exp()).to_event(1))


def factor_analysis(draw):
    def make_pair(event_shape):
        net = FactorAnalysis(draw)
        return net.model, net.guide

    return make_pair


@pytest.mark.parametrize("kind", POINTS)
def test_a_point_for_each_example_is_no_posterior(kind):
    with pytest.raises(ModelError, match="'z', a Delta.*neither"):
        from_pyro(factor_analysis(POINTS[kind]), epochs=1).fit(data())


def test_a_point_that_all_examples_share_is_a_plug_in():
    model = from_pyro(factor_analysis(None), epochs=1).fit(data())
    assert np.isfinite(model.score_samples(data(), importance_samples=4)).all()


@pytest.mark.parametrize("registered", [True, False])
def test_networks_out_of_sight_are_refused(registered):
    def make_pair(event_shape):
        net = nn.Linear(3, 3)

        def model(x):
            if registered:
                pyro.module("net", net)
            bias = pyro.param("bias", torch.zeros(3))
            with pyro.plate("data", len(x)):
                pyro.sample("x", dist.Normal(net(torch.ones(3)) + bias, 1.0).to_event(1), obs=x)

        return model, lambda x: None

    with pytest.raises(ModelError, match="bound methods"):
        from_pyro(make_pair, epochs=1).fit(data())


def test_parameters_for_each_example_are_refused():
    """They would fit the examples they were made for only: by hand, and by AutoNormal."""

    def by_hand(event_shape):
        model, _ = pairs.vae(event_shape)

        def guide(x):
            mean = pyro.param("mean", lambda: torch.zeros(len(x), 1))
            with pyro.plate("data", len(x)):
                pyro.sample("z", dist.Normal(mean, 1.0).to_event(1))

        return model, guide

    def by_auto_normal(event_shape):
        net = pairs.Net(3)
        return net.model, AutoNormal(net.model)

    for make_pair in (by_hand, by_auto_normal):
        with pytest.raises(ModelError, match="examples"):
            from_pyro(make_pair, epochs=1).fit(data())


def test_bare_parameters_of_pyro_modules_are_refused():
    class Mixed(PyroModule):
        def forward(self, x):
            mean = pyro.param("mean", torch.zeros(3))
            with pyro.plate("data", len(x)):
                pyro.sample("x", dist.Normal(mean, 1.0).to_event(1), obs=x)

    def make_pair(event_shape):
        return Mixed(), lambda x: None

    with pytest.raises(ModelError, match="PyroParam"):
        from_pyro(make_pair, epochs=1).fit(data())


def test_networks_made_once_are_refused():
    net = pairs.Net(3)
    with pytest.raises(ModelError, match="a fresh network at every call of make_pair"):
        from_pyro(lambda shape: (net.model, net.guide), epochs=1).fit(data())


def test_data_outside_the_support():
    def make_pair(event_shape):
        def model(x):
            logits = pyro.param("logits", torch.zeros(3))
            with pyro.plate("data", len(x)):
                pyro.sample("x", dist.Bernoulli(logits=logits).to_event(1), obs=x)

        return model, lambda x: None

    binary = (data() > 0).astype(np.uint8)
    assert np.isfinite(from_pyro(make_pair, epochs=1).fit(binary).score_samples(binary)).all()
    with pytest.raises(DataError, match="support"):
        from_pyro(make_pair, epochs=1).fit(data())


@pytest.mark.parametrize(
    ("X", "settings"),
    [(np.arange(5.0), {}), (np.array([["a"]]), {}), (data(), {"epochs": 0}), (data(), {"learning_rate": -1})],
)
def test_bad_data_and_settings(X, settings):
    with pytest.raises(GenmemError):
        from_pyro(pairs.mixture, **settings).fit(X)
    with pytest.raises(ModelError, match="make_pair"):
        from_pyro(3).fit(data())
