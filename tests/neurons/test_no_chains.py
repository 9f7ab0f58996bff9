"""Networks that are no chains: what genmem cannot see is edited in the layer's own output, and drops equal the loop."""

import warnings

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from neuron_networks import Plain, density_of, squared
from torch import nn

import genmem
from genmem.errors import ModelError
from genmem.neurons import ablate, coverage_of, drops, joint_drop, units_of

RNG = np.random.default_rng(2)
X = RNG.standard_normal((7, 4)).astype(np.float32)
REFERENCE = RNG.standard_normal((30, 4)).astype(np.float32)


class Two(nn.Module):
    """Two layers with something between them."""

    width = 6

    def __init__(self, shape):
        super().__init__()
        self.a, self.b = nn.Linear(4, self.width), nn.Linear(self.width, 4)

    def forward(self, x):
        return self.b(self.between(self.a(x), x))


class Softmax(Two):
    def between(self, h, x):
        return F.softmax(h, -1)


class Permuted(Two):
    def between(self, h, x):
        return F.relu(h)[:, [3, 0, 1, 2, 5, 4]]


class WithInput(Two):
    width = 4

    def between(self, h, x):
        return torch.tanh(h + x)


class Gated(Two):
    def __init__(self, shape):
        super().__init__(shape)
        self.gate = nn.Linear(4, 6)

    def between(self, h, x):
        return h * torch.sigmoid(self.gate(x))


class Normed(Two):
    def __init__(self, shape):
        super().__init__(shape)
        self.norm, self.drop = nn.BatchNorm1d(6), nn.Dropout(0.5)

    def between(self, h, x):
        return self.drop(F.relu(self.norm(h)))


class ByKeyword(Two):
    def forward(self, x):
        return self.b(input=F.relu(self.a(input=x)))


class OldNorm(Two):
    def __init__(self, shape):
        super().__init__(shape)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            nn.utils.weight_norm(self.a)

    def between(self, h, x):
        return F.relu(h)


class Listed(nn.Module):
    def __init__(self, shape):
        super().__init__()
        self.blocks, self.last = nn.ModuleList(nn.Linear(4, 4) for _ in range(3)), nn.ModuleDict({"x": nn.Linear(4, 4)})

    def forward(self, x):
        for block in self.blocks:
            x = x + F.gelu(block(x))
        return self.last["x"](x)


class Attention(nn.Module):
    """Columns are tokens; they come first if asked."""

    first = False

    def __init__(self, shape):
        super().__init__()
        self.embed, self.out = nn.Linear(1, 8), nn.Linear(8, 1)
        self.block = nn.TransformerEncoderLayer(8, 2, 12, batch_first=not self.first)

    def forward(self, x):
        x = x.T if self.first else x
        y = self.out(self.block(self.embed(x[..., None]))).squeeze(-1)
        return y.T if self.first else y


class TokensFirst(Attention):
    first = True


class Hypernetwork(nn.Module):
    """Layers that see no example."""

    def __init__(self, shape):
        super().__init__()
        self.code = nn.Parameter(torch.randn(3))
        self.a, self.b, self.c = nn.Linear(3, 5), nn.Linear(5, 4), nn.Linear(4, 4)

    def forward(self, x):
        return self.c(x * self.b(torch.relu(self.a(self.code[None]))))


OWN, NEXT = "the output of network.a, before any activation", "the input of network.b"
CASES = {
    Softmax: OWN,
    Permuted: OWN,
    WithInput: OWN,
    Gated: OWN,
    ByKeyword: NEXT,
    OldNorm: NEXT,
    Normed: None,
    Listed: None,
    Attention: None,
    TokensFirst: None,
    Hypernetwork: OWN,
}


@pytest.mark.parametrize("network", CASES)
def test_where_units_are_read(network):
    places = coverage_of(density_of(network)).places
    assert CASES[network] is None or places["network.a"].startswith(CASES[network])


@pytest.mark.parametrize("baseline", ["mean", "zero"])
@pytest.mark.parametrize("network", CASES)
def test_drops_are_those_of_ablate(network, baseline):
    module = density_of(network)
    found = drops(module, X, baseline=baseline, reference=REFERENCE)
    assert (np.abs(found.values).max() > 1e-3) or (network, baseline) == (Hypernetwork, "mean")
    for column, unit in list(enumerate(found.units))[::3]:
        with torch.no_grad(), ablate(module, [unit], baseline, reference=REFERENCE):
            after = squared(module.network, torch.tensor(X)).numpy()
        np.testing.assert_allclose(found.values[:, column], found.log_prob - after, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("network", CASES)
def test_one_example_has_the_drops_it_has_among_others(network):
    module = density_of(network)
    for baseline in ("mean", "resample"):
        whole = drops(module, X, baseline=baseline, reference=REFERENCE).values
        if baseline == "mean" or network is not Hypernetwork:
            one = drops(module, X[:1], baseline=baseline, reference=REFERENCE).values
            np.testing.assert_allclose(one, whole[:1], rtol=1e-4, atol=1e-5)


def test_attention_says_what_it_leaves_out():
    left_out = coverage_of(density_of(Attention)).left_out
    assert "MultiheadAttention" in left_out["network.block.self_attn"]
    assert "never called" in left_out["network.block.self_attn.out_proj"]


@pytest.mark.slow
def test_a_convolutional_vae():
    images = np.random.default_rng(5).random((30, 8, 8)).astype(np.float32)
    model = genmem.ConvVAE(width=4, latent_dim=2, epochs=2).fit(images)
    for posterior in ("encoder", "refit"):
        settings = {"posterior": posterior, "reference": images, "steps": 5}
        found = drops(model, images[:5], **settings)
        assert set(found.method.values()) == {"forward passes"} and np.abs(found.values).max() > 0.01
        unit = found.units[9]
        with ablate(model, [unit], "mean", reference=images):
            after = drops(model, images[:5], [], **settings).log_prob
        np.testing.assert_allclose(found.values[:, 9], found.log_prob - after, rtol=1e-4, atol=1e-3)


@pytest.mark.slow
def test_a_pyro_pair():
    from pyro_pairs import vae

    data = np.random.default_rng(5).standard_normal((40, 6)).astype(np.float32)
    model = genmem.from_pyro(vae, epochs=1).fit(data)
    unit = units_of(model)[1]
    found = drops(model, data[:5], [unit], reference=data)
    before = model.score_samples(data[:5], 16)
    with ablate(model, [unit], "mean", reference=data):
        after = model.score_samples(data[:5], 16)
    np.testing.assert_allclose(found.values[:, 0], before - after, rtol=1e-4, atol=1e-5)
    with pytest.raises(ModelError, match="hidden units"):
        units_of(genmem.MixtureOfFactorAnalysers(components=2, factors=1, epochs=1).fit(data))


@pytest.mark.slow
def test_units_of_an_encoder_change_the_estimate():
    data = np.random.default_rng(5).standard_normal((40, 6)).astype(np.float32)
    module = genmem.VAE(hidden=[6, 5], latent_dim=2, epochs=2, likelihood="gaussian").fit(data).module_
    settings = {"reference": data, "part": "encoder"}
    found = drops(module, data[:5], posterior="encoder", **settings)
    assert {unit.layer for unit in found.units} == {"encoder.0", "encoder.2"} and np.abs(found.values).max() > 0.01
    refitted = drops(module, data[:5], steps=100, **settings)
    assert np.abs(refitted.values).mean() < np.abs(found.values).mean()
    with pytest.raises(ModelError, match="hides all"):
        drops(module, data[:5], posterior="fixed", **settings)


@pytest.mark.slow
@pytest.mark.parametrize("posterior", ["refit", "encoder"])
def test_passes_stay_within_the_memory(posterior):
    data = np.random.default_rng(5).standard_normal((300, 30)).astype(np.float32)
    module = genmem.VAE(hidden=[60, 50], latent_dim=2, epochs=1, likelihood="gaussian").fit(data).module_
    largest = []

    def note(layer, args, output):
        largest.append(4 * output.numel())

    handles = [layer.register_forward_hook(note) for layer in module.decoder]
    for memory in (2**16, 2**20):
        largest.clear()
        units = units_of(module)[::40] if posterior == "refit" else None
        drops(module, data[:40], units, posterior=posterior, steps=1, memory=memory, baseline="zero")
        bounded = [size for size in largest if size <= memory]
        assert len(bounded) == len(largest)
    for handle in handles:
        handle.remove()


def test_a_set_may_cross_layers_and_be_empty():
    module = density_of(Plain)
    units = units_of(module)
    found = joint_drop(module, X, [[], units, units + units], baseline="zero")
    np.testing.assert_array_equal(found[:, 0], 0)
    np.testing.assert_allclose(found[:, 1], found[:, 2], atol=1e-6)
