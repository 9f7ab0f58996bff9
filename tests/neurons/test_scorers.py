"""The comparators of exhaustive ablation, each against its definition."""

import numpy as np
import pytest
import torch
from neuron_networks import NETWORKS, Convolutional, Plain, Residual, TwoReaders, density_of, factor_model, loss
from oracles_neurons import mean_values

import genmem
from genmem.errors import ModelError
from genmem.neurons import SCORERS, units_of

RNG = np.random.default_rng(1)
X = RNG.standard_normal((12, 4)).astype(np.float32)
REFERENCE = RNG.standard_normal((20, 4)).astype(np.float32)


def log_p(output, x):
    return -0.5 * (x - output).square().sum(1)


@pytest.mark.parametrize("network", NETWORKS)
def test_the_first_order_is_a_slope(network):
    """Each unit is moved a little of the way to its mean, in double precision."""
    module = density_of(network)
    units = units_of(module)
    found = SCORERS["first_order"](module, X, units, reference=REFERENCE)
    double, x, step = module.network.double(), torch.tensor(X).double(), 1e-5
    for layer, shape in network.known.items():
        new = mean_values(double, layer, shape, torch.tensor(REFERENCE).double()).double()
        for unit in range(shape[0]):

            def moved(sign, layer=layer, shape=shape, unit=unit, new=new):
                def edit(name, value):
                    if name != layer:
                        return value
                    rows = value.reshape(-1, *shape).clone()
                    rows[:, unit] += sign * step * (new[unit] - rows[:, unit])
                    return rows.reshape(value.shape)

                return log_p(double(x, edit), x)

            with torch.no_grad():
                slope = (moved(-1) - moved(1)) / (2 * step)
            column = units.index((f"network.{layer}", unit))
            np.testing.assert_allclose(found[:, column], slope, rtol=2e-3, atol=2e-4)


@pytest.mark.parametrize("network", [Plain, Convolutional, Residual])
def test_the_gradient_norm_is_that_of_incoming_weights(network):
    module = density_of(network)
    units = units_of(module)
    found = SCORERS["gradient_norm"](module, X, units, reference=REFERENCE)
    for i in (0, 7):
        module.zero_grad()
        loss(module.network, torch.tensor(X[i : i + 1])).sum().backward()
        for column, (name, index) in enumerate(units):
            layer = module.get_submodule(name)
            weight = layer.weight.grad
            own = weight[:, index] if isinstance(layer, torch.nn.ConvTranspose2d) else weight[index]
            norm = (own.square().sum() + layer.bias.grad[index].square()).sqrt()
            assert found[i, column] == pytest.approx(float(norm), rel=1e-3, abs=1e-5)


def test_norms_of_weights_and_activations():
    module = density_of(TwoReaders)
    network, units = module.network, units_of(module)
    norms = SCORERS["weight_norm"](module, X, units)
    np.testing.assert_allclose(norms[:6], network.a.weight.norm(dim=1).detach(), rtol=1e-6)
    found = SCORERS["activation_norm"](module, X, units, baseline="zero", reference=REFERENCE)
    h = torch.relu(network.a(torch.tensor(X)))
    out = (network.b.weight.square().sum(0) + network.skip.weight.square().sum(0)).sqrt()
    np.testing.assert_allclose(found[:, :6], (h * out).detach(), rtol=1e-5, atol=1e-7)


def test_grouped_weights_belong_to_their_channels():
    from genmem.neurons.layers import incoming, outgoing

    x = torch.randn(2, 6, 5, 5)
    for layer in (torch.nn.Conv2d(6, 4, 3, groups=2), torch.nn.ConvTranspose2d(6, 4, 3, groups=2)):
        whole = layer(x)
        for channel in range(4):
            with torch.no_grad():
                kept = layer.weight.clone()
                layer.weight.zero_()
                own = incoming(layer)[channel].numel()
                part = layer.weight[channel] if isinstance(layer, torch.nn.Conv2d) else layer.weight[:, channel % 2]
                part.fill_(1.0)
                assert (incoming(layer).norm(dim=1) > 0).tolist()[channel] and own == 27
                layer.weight.copy_(kept)
        for channel in range(6):
            silent = x.clone()
            silent[:, channel] = 0
            with torch.no_grad():
                before = layer.weight.clone()
                weights = outgoing(layer)[channel]
                assert weights.norm() > 0 and not torch.equal(layer(silent), whole)
                assert len(weights) == 2 * 9 and torch.equal(before, layer.weight)


@pytest.mark.slow
def test_a_learned_mask_closes_the_unit_that_knows_the_example():
    module, data, _ = factor_model(0.9)
    units = [("decoder.2", i) for i in range(7)]
    settings = {"baseline": "zero", "posterior": "encoder", "seed": 3}
    found = SCORERS["hard_concrete"](module, data[:10], units, **settings)
    assert found[0, 6] > 0 and found[0, 6] > found[1:, 6].max() + 2 and found[1:, 6].max() < 0
    again = SCORERS["hard_concrete"](module, data[:10], units, **settings)
    np.testing.assert_array_equal(found, again)
    few = SCORERS["hard_concrete"](module, data[:10], units, penalty=1e4, **settings)
    assert few.max() < 0  # nothing is worth that much


def test_random_numbers_are_seeded():
    one, again, other = (SCORERS["random"](None, X, range(50), seed=seed) for seed in (0, 0, 1))
    np.testing.assert_array_equal(one, again)
    assert one.shape == (50,) and not np.array_equal(one, other) and 0 <= one.min() <= one.max() < 1


def noisy(network, x):
    return -loss(network, x + 0.1 * torch.randn_like(x))


@pytest.mark.parametrize("scorer", sorted(set(SCORERS) - {"hard_concrete"}))
def test_a_network_with_noise_of_its_own(scorer):
    module = density_of(Plain, log_prob=noisy, bound=True)
    units = units_of(module)
    found = SCORERS[scorer](module, X, units, reference=REFERENCE, n_samples=4)
    assert found.shape[-1] == 11 and np.isfinite(found).all() and found.std() > 0
    if found.ndim == 2 and scorer != "gradient_norm":  # whose noise depends on the batch
        first = SCORERS[scorer](module, X[:3], units, reference=REFERENCE, n_samples=4)
        np.testing.assert_allclose(first, found[:3], rtol=1e-4, atol=1e-6)


@pytest.mark.slow
@pytest.mark.parametrize("scorer", sorted(SCORERS))
def test_every_scorer_takes_every_density(scorer):
    data = np.random.default_rng(5).standard_normal((40, 6)).astype(np.float32)
    images = np.random.default_rng(5).random((24, 8, 8)).astype(np.float32)
    for model, given in (
        (genmem.VAE(hidden=[6, 5], latent_dim=2, epochs=1), data),
        (genmem.Flow(hidden=(6,), epochs=1), data),
        (genmem.DiffusionModel(width=6, depth=1, timesteps=10, epochs=1), data),
        (genmem.ConvVAE(width=4, latent_dim=2, epochs=1), images),
    ):
        units = units_of(model.fit(given))
        found = SCORERS[scorer](model, given[:5], units, reference=given)
        assert found.shape in ((len(units),), (5, len(units))) and np.isfinite(found).all()


def test_what_is_refused():
    module = density_of(Plain)
    units = units_of(module)
    with pytest.raises(ModelError, match="fixed"):
        SCORERS["first_order"](module, X, units, posterior="refit", reference=REFERENCE)
    with pytest.raises(ModelError, match="mean"):
        SCORERS["hard_concrete"](module, X, units, baseline="resample", reference=REFERENCE)
    with pytest.raises(ModelError, match="noise from outside"):
        SCORERS["hard_concrete"](density_of(Plain, log_prob=noisy, bound=True), X, units, reference=REFERENCE)
    for parameter in module.parameters():
        parameter.requires_grad_(False)
    with pytest.raises(ModelError, match="trained parameter"):
        SCORERS["gradient_norm"](module, X, units, reference=REFERENCE)
    assert np.isfinite(SCORERS["first_order"](module, X, units, reference=REFERENCE)).all()
