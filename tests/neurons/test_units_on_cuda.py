"""Units on CUDA: the same drops as on the CPU where log p is exact, and elsewhere those of passes on CUDA."""

import copy

import numpy as np
import pytest
import torch
from neuron_networks import NETWORKS, density_of

import genmem
from genmem.neurons import SCORERS, ablate, drops, inject, joint_drop, units_of

CUDA = pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no CUDA device")
DEVICES = ["cpu", pytest.param("cuda", marks=[pytest.mark.gpu, CUDA])]
RNG = np.random.default_rng(0)
X = RNG.standard_normal((12, 4)).astype(np.float32)
REFERENCE = RNG.standard_normal((50, 4)).astype(np.float32)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("network", NETWORKS)
def test_drops_are_those_of_the_cpu(network, device):
    module = density_of(network)
    here = drops(module, X, reference=REFERENCE)
    there = drops(copy.deepcopy(module).to(device), X, reference=REFERENCE)
    assert there.units == here.units and there.method == here.method
    np.testing.assert_allclose(there.values, here.values, rtol=1e-3, atol=1e-4)


@pytest.fixture(scope="module", params=["gaussian", "bernoulli"])
def vae(request):
    model = genmem.VAE(hidden=(12, 7), latent_dim=3, epochs=3, likelihood=request.param, device="cpu")
    return model.fit((REFERENCE > 0).astype(np.float32)).module_


@pytest.mark.parametrize("device", DEVICES)
def test_rank_one_is_what_passes_give(vae, device):
    module, settings = copy.deepcopy(vae).to(device), {"posterior": "fixed", "reference": REFERENCE > 0}
    found = drops(module, X > 0, **settings)
    again = joint_drop(module, X > 0, [[unit] for unit in found.units], **settings)
    assert set(found.method.values()) == {"rank one"}
    np.testing.assert_allclose(found.values, again, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("device", DEVICES)
def test_a_network_is_as_it_was_after_ablation(vae, device):
    module = copy.deepcopy(vae).to(device)
    before = {name: value.clone() for name, value in module.state_dict().items()}
    x = torch.ones(3, 4, device=device)
    with torch.no_grad():
        plain = module.decoder(x[:, :3])
        with ablate(module, units_of(module)[:4], "mean", reference=REFERENCE > 0):
            assert not torch.equal(module.decoder(x[:, :3]), plain)
        assert torch.equal(module.decoder(x[:, :3]), plain)
    assert all(torch.equal(value, before[name]) for name, value in module.state_dict().items())


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("name", SCORERS)
def test_every_score_is_finite(vae, name, device):
    module = copy.deepcopy(vae).to(device)
    more = {"mask_steps": 3} if name == "hard_concrete" else {}
    found = SCORERS[name](module, X > 0, units_of(module), posterior="fixed", reference=REFERENCE > 0, **more)
    assert found.shape[-1] == len(units_of(module)) and np.isfinite(found).all() and found.std() > 0


@pytest.mark.slow
@pytest.mark.parametrize("device", DEVICES)
def test_units_learn_an_example(device):
    model = genmem.VAE(hidden=(12, 8), latent_dim=2, likelihood="gaussian", epochs=5, device=device).fit(REFERENCE)
    far, units = np.full(4, 5.0, np.float32), units_of(model)
    found = inject(model, far, units, np.ones(len(units)), gain=5.0, reference=REFERENCE, posterior="fixed")
    assert found.gain > 5 and np.isfinite(found.recall) and found.held.max() > 0
