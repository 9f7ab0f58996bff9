"""Which units there are, where they are edited, and what is left out: nothing silently."""

import numpy as np
import pytest
import torch
from neuron_networks import Plain, density_of, squared
from torch import nn

import genmem
from genmem.errors import ModelError
from genmem.neurons import Unit, coverage_of, units_of

X = np.random.default_rng(0).standard_normal((40, 6)).astype(np.float32)
IMAGES = np.random.default_rng(0).random((24, 8, 8)).astype(np.float32)


def test_a_vae():
    model = genmem.VAE(hidden=[5, 4], latent_dim=2, epochs=1).fit(X)
    assert units_of(model) == [*(Unit("decoder.0", i) for i in range(4)), *(Unit("decoder.2", i) for i in range(5))]
    assert {unit.layer for unit in units_of(model.module_, part="encoder")} == {"encoder.0", "encoder.2"}
    found = coverage_of(model)
    assert found.places["decoder.0"] == "the input of decoder.2"
    assert list(found.left_out) == ["decoder.4"] and "output" in found.left_out["decoder.4"]
    assert "9 units of the decoder in 2 layers" in str(found) and "decoder.4 is an output" in str(found)
    assert "no part of p(x)" in str(coverage_of(model, part="encoder"))
    assert units_of(model, ["decoder.4"])[0] == ("decoder.4", 0)


STAGES = {"group": ["decoder.stages.0", "decoder.stages.3"], "batch": ["decoder.stages.1", "decoder.stages.4"]}


@pytest.mark.parametrize("norm", STAGES)
def test_channels_of_a_convolution_count_once(norm):
    model = genmem.ConvVAE(width=4, latent_dim=2, norm=norm, epochs=1).fit(IMAGES)
    found = coverage_of(model)
    assert list(found.units) == STAGES[norm] and all("input" in place for place in found.places.values())
    by_norms = [name for name, reason in found.left_out.items() if "whose units stand for its channels" in reason]
    assert by_norms == (["decoder.stages.2"] if norm == "group" else ["decoder.stages.0", "decoder.stages.3"])


def test_a_flow_has_hidden_units_of_its_conditioners():
    found = coverage_of(genmem.Flow(hidden=(8, 7), transforms=2, epochs=1).fit(X))
    assert list(found.units.values()) == [8, 7, 8, 7] and all(".hyper." in name for name in found.units)
    assert len(found.left_out) == 2


def test_a_denoiser_says_what_is_edited_before_its_activation():
    found = coverage_of(genmem.DiffusionModel(width=8, depth=2, epochs=1, timesteps=10).fit(X))
    assert found.places["network.time.0"] == "the input of network.time.2"
    for layer in ("network.first", "network.layers.0", "network.layers.1"):
        assert found.places[layer].startswith(f"the output of {layer}, before any activation")
    assert list(found.left_out) == ["network.last"]


class Mixed(nn.Module):
    """Parts that make no units, parts never called, and two norms."""

    def __init__(self, shape):
        super().__init__()
        self.a, self.norm, self.b = nn.Linear(shape[0], 6), nn.LayerNorm(6), nn.Linear(6, shape[0])
        self.gru, self.idle = nn.GRU(4, 4, batch_first=True), nn.Linear(3, 3)
        self.scale = nn.Parameter(torch.ones(()))

    def forward(self, x):
        h = self.b(torch.relu(self.norm(self.a(x))))
        return self.scale * (h + self.gru(h[:, None])[0][:, 0])


def test_nothing_is_left_out_silently():
    found = coverage_of(density_of(Mixed))
    assert found.units == {"network.norm": 6, "network.b": 4} or found.units == {"network.norm": 6}
    for name, word in (
        ("network.a", "read by the norm network.norm"),
        ("network.gru", "GRU"),
        ("network.idle", "never called"),
        ("network", "Mixed"),
    ):
        assert word in found.left_out[name]


class Pair(nn.Module):
    """A user's VAE with an encoder and a decoder of its own."""

    def __init__(self, shape):
        super().__init__()
        self.encoder = nn.Sequential(nn.Linear(shape[0], 5), nn.ReLU(), nn.Linear(5, 2))
        self.decoder = nn.Sequential(nn.Linear(2, 5), nn.ReLU(), nn.Linear(5, shape[0]))

    def forward(self, x):
        return self.decoder(self.encoder(x))


def test_a_users_network_with_an_encoder():
    module = density_of(Pair)
    assert {unit.layer for unit in units_of(module)} == {"network.decoder.0"}
    assert {unit.layer for unit in units_of(module, part="encoder")} == {"network.encoder.0"}


def draws(network, x, count):
    return torch.stack([squared(network, x)] * count)


def test_the_units_of_an_encoder_are_mentioned_where_they_may_be_among_the_others():
    module = genmem.from_module(Plain, loss=lambda n, x: -squared(n, x), log_weights=draws).make_module((4,))
    assert "name the layers of p(x)" in str(coverage_of(module)) and "overstated" in str(coverage_of(module))


def test_a_pyro_pair():
    from pyro_pairs import vae

    model = genmem.from_pyro(vae, epochs=1).fit(X)
    decoder, encoder = ({unit.layer for unit in units_of(model, part=part)} for part in ("decoder", "encoder"))
    assert decoder and encoder and not decoder & encoder


def test_what_has_no_units():
    with pytest.raises(ModelError, match="does not arise"):
        units_of(genmem.KernelDensity().fit(X))
    with pytest.raises(ModelError, match="does not arise"):
        units_of(genmem.GaussianMixture().fit(X))
    with pytest.raises(ModelError, match="unfitted"):
        units_of(genmem.Flow())
    with pytest.raises(ModelError, match="hidden units"):
        units_of(genmem.VAE(hidden=[], latent_dim=2, epochs=1).fit(X))
    with pytest.raises(ModelError, match="'decoder.0'"):
        units_of(genmem.VAE(hidden=[4], latent_dim=2, epochs=1).fit(X), ["decoder.1"])
    with pytest.raises(ModelError, match="encoder"):
        units_of(genmem.Flow(hidden=(4,), epochs=1).fit(X), part="encoder")
