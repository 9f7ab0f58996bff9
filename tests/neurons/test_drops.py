"""drops equals the obvious loop: random networks, every baseline, every kind of density."""

import numpy as np
import pytest
import torch
from neuron_networks import NETWORKS, Plain, Tokens, density_of, squared
from oracles_neurons import decoder_with, drops_by_loop, vae_log_p

import genmem
from genmem.errors import DataError, GenmemError, ModelError
from genmem.models.posterior import refit_posterior
from genmem.neurons import Unit, ablate, drops, joint_drop, rank_one, units_of
from genmem.neurons.ablation import MEMORY, Ablation
from genmem.neurons.rank_one import OfDecoder, Quadratic, Squares
from genmem.neurons.runs import log_p_of

RNG = np.random.default_rng(0)
X = RNG.standard_normal((30, 4)).astype(np.float32)
REFERENCE = RNG.standard_normal((50, 4)).astype(np.float32)


def log_p(output, x):
    return -0.5 * (x - output).square().sum(1)


@pytest.mark.parametrize("baseline", ["mean", "zero"])
@pytest.mark.parametrize("network", NETWORKS)
def test_drops_equal_the_loop(network, baseline):
    module = density_of(network)
    found = drops(module, X, baseline=baseline, reference=REFERENCE)
    assert {unit.layer for unit in found.units} == {f"network.{name}" for name in network.known}
    for layer, shape in network.known.items():
        there = [i for i, unit in enumerate(found.units) if unit.layer == f"network.{layer}"]
        truth = drops_by_loop(module.network, log_p, torch.tensor(X), layer, shape, baseline, torch.tensor(REFERENCE))
        assert np.abs(truth).max() > 1e-3
        np.testing.assert_allclose(found.values[:, there], truth, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("network", NETWORKS)
def test_ablate_does_what_drops_say(network):
    module = density_of(network, seed=1)
    found = drops(module, X, reference=REFERENCE)
    number = len(found.units) // 2
    with torch.no_grad(), ablate(module, [found.units[number]], "mean", reference=REFERENCE):
        edited = squared(module.network, torch.tensor(X))
    np.testing.assert_allclose(found.values[:, number], found.log_prob - edited.numpy(), rtol=1e-4, atol=1e-5)


def vae(hidden=(12, 7), **settings):
    model = genmem.VAE(hidden=hidden, latent_dim=3, epochs=3, likelihood="gaussian", shift=[], scale=[], **settings)
    return model.fit(np.random.default_rng(3).standard_normal((40, 6)).astype(np.float32))


V = RNG.standard_normal((9, 6)).astype(np.float32)
KNOWN = RNG.standard_normal((40, 6)).astype(np.float32)


@pytest.mark.parametrize("posterior", ["encoder", "fixed"])
def test_a_vae_with_one_q_equals_the_loop_in_its_own_words(posterior):
    module = vae().module_
    found = drops(module, V, baseline="zero", posterior=posterior, n_samples=20, seed=3)
    assert found.method == {"decoder.0": "rank one", "decoder.2": "rank one"}
    q = refit_posterior(module, torch.tensor(V), steps=15 if posterior == "fixed" else 0, draws=1, seed=3)
    layers = list(module.decoder)
    for i in (0, 8):
        given = (torch.tensor(V[i]), i)
        posterior_of = (q.mean[i], q.log_variance[i])
        before = vae_log_p(module, *given, module.decoder, posterior_of, 20, 3)
        for column in (0, 6, 7, 18):
            layer, unit = found.units[column]
            edited = decoder_with(layers, int(layer[-1]) + 1, unit, 0.0)
            drop = before - vae_log_p(module, *given, edited, posterior_of, 20, 3)
            assert found.values[i, column] == pytest.approx(drop, rel=1e-4, abs=2e-5)


@pytest.mark.parametrize("baseline", ["mean", "zero", "resample"])
def test_rank_one_equals_passes(baseline):
    module = vae(hidden=(40, 30)).module_
    settings = {"baseline": baseline, "posterior": "fixed", "reference": KNOWN}
    found = drops(module, V, **settings)
    again = joint_drop(module, V, [[unit] for unit in found.units], **settings)
    assert set(found.method.values()) == {"rank one"} and found.values.std() > 0.01
    np.testing.assert_allclose(found.values, again, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("likelihood", ["bernoulli", "logit_normal"])
def test_rank_one_with_other_likelihoods(likelihood):
    data = (np.random.default_rng(4).random((40, 6)) < 0.5).astype(np.float32)
    module = genmem.VAE(hidden=(12, 7), latent_dim=3, epochs=2, likelihood=likelihood).fit(data).module_
    found = drops(module, data[:9], posterior="encoder", reference=data)
    again = joint_drop(module, data[:9], [[u] for u in found.units], posterior="encoder", reference=data)
    assert set(found.method.values()) == {"rank one"}
    np.testing.assert_allclose(found.values, again, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    ("likelihood", "ways"),
    [("gaussian", [Squares, Quadratic]), ("logit_normal", [Squares, Quadratic]), ("bernoulli", [OfDecoder, OfDecoder])],
)
def test_the_way_is_the_fastest_that_suits(likelihood, ways):
    data = (np.random.default_rng(4).random((40, 6)) < 0.5).astype(np.float32)
    module = genmem.VAE(hidden=(12, 7), latent_dim=3, epochs=2, likelihood=likelihood).fit(data).module_
    layers = ["decoder.0", "decoder.2"]
    how = {"baseline": "zero", "posterior": "encoder", "n_samples": 8, "steps": 1, "seed": 0, "reference": data}
    with Ablation(module, data[:9], layers, part="decoder", memory=MEMORY, **how) as ablation:
        found = [type(ablation._rank_one(ablation.wirings[layer], range(4))) for layer in layers]
    assert found == ways


def test_a_decoder_with_other_layers_behind_the_reader():
    module = vae(hidden=(12, 7)).module_
    first, _, second, _, last = module.decoder
    plain = torch.nn.Linear(12, 12, bias=False)
    module.decoder = torch.nn.Sequential(first, torch.nn.Tanh(), second, torch.nn.GELU(), plain, torch.nn.ReLU(), last)
    settings = {"posterior": "fixed", "reference": KNOWN}
    found = drops(module, V, **settings)
    again = joint_drop(module, V, [[unit] for unit in found.units], **settings)
    assert set(found.method.values()) == {"rank one"} and len(found.method) == 3
    np.testing.assert_allclose(found.values, again, rtol=1e-4, atol=1e-4)


def test_log_p_of_many_units_is_that_of_one():
    weights = torch.tensor(RNG.normal(-300, 30, (16, 3, 5)), dtype=torch.float32)
    weights[:, 0, 0] = -torch.inf
    weights[:8, 1, 1] = -torch.inf
    for bound in (False, True):
        found, truth = (of(weights, bound) for of in (rank_one._log_p_of, log_p_of))
        assert found.dtype == torch.float64
        np.testing.assert_allclose(found, truth, rtol=1e-9)


def test_in_double_precision_nothing_is_lost():
    model = vae(hidden=(40, 30))
    single = [drops(model, V, posterior=q, reference=KNOWN).values for q in ("encoder", "refit")]
    model.module_.double()
    for found, q in zip(single, ("encoder", "refit"), strict=True):
        double = drops(model, V, posterior=q, reference=KNOWN)
        again = joint_drop(model, V, [[unit] for unit in double.units], posterior=q, reference=KNOWN)
        np.testing.assert_allclose(double.values, again, rtol=1e-8, atol=1e-9)
        np.testing.assert_allclose(found, double.values, rtol=1e-3, atol=1e-4)


def test_a_refitted_q_is_refitted_to_the_edited_decoder():
    module = vae().module_
    found = drops(module, V, reference=KNOWN, seed=5)
    assert set(found.method.values()) == {"forward passes"}
    x = torch.tensor(V)
    before = refit_posterior(module, x, steps=15, draws=16, seed=5).log_prob
    for column in (0, 11, 18):
        with ablate(module, [found.units[column]], "mean", reference=KNOWN, seed=5):
            after = refit_posterior(module, x, steps=15, draws=16, seed=5).log_prob
        np.testing.assert_allclose(found.values[:, column], before - after, rtol=1e-4, atol=1e-4)


def test_a_flow_is_exact():
    model = genmem.Flow(hidden=(8, 8), epochs=2, transforms=2).fit(KNOWN)
    found = drops(model, V, reference=KNOWN)
    assert len(found.units) == 32
    before = model.score_samples(V)
    np.testing.assert_allclose(found.log_prob, before, atol=1e-5)
    for column in (3, 15, 30):
        with ablate(model, [found.units[column]], "mean", reference=KNOWN):
            after = model.score_samples(V)
        np.testing.assert_allclose(found.values[:, column], before - after, rtol=1e-4, atol=2e-5)


def test_a_diffusion_model_by_its_bound_at_fixed_noise():
    model = genmem.DiffusionModel(width=8, depth=1, epochs=2, timesteps=20).fit(KNOWN)
    found = drops(model, V, reference=KNOWN, n_samples=20)
    np.testing.assert_allclose(found.log_prob, model.score_samples(V, 20), atol=1e-4)
    for column in (0, 20, 31):
        with ablate(model, [found.units[column]], "mean", reference=KNOWN):
            after = model.score_samples(V, 20)
        np.testing.assert_allclose(found.values[:, column], found.log_prob - after, rtol=1e-4, atol=1e-4)


class Noisy(Plain):
    """A network that draws its own noise."""


def noisy(network, x):
    return squared(network, x + 0.1 * torch.randn_like(x))


def test_a_network_with_noise_of_its_own_gets_the_same_noise():
    module = density_of(Noisy, log_prob=noisy, bound=True)
    found = drops(module, X[:5], baseline="zero", reference=REFERENCE, n_samples=4)
    again = joint_drop(module, X[:5], [[found.units[2]], []], baseline="zero", reference=REFERENCE, n_samples=4)
    np.testing.assert_array_equal(again[:, 0], found.values[:, 2])
    np.testing.assert_array_equal(again[:, 1], 0)
    assert 0 < np.abs(found.values).max() < 10


@pytest.mark.slow
def test_results_do_not_depend_on_memory_or_on_other_rows():
    module = vae().module_
    few = drops(module, V, reference=KNOWN, memory=1)
    many = drops(module, V, reference=KNOWN)
    np.testing.assert_allclose(few.values, many.values, atol=1e-4)
    first = drops(module, V[:1], reference=KNOWN)
    np.testing.assert_allclose(first.values, many.values[:1], atol=1e-4)


def test_resampled_values_are_of_other_examples_and_the_same_for_all_units():
    module = density_of(Tokens)
    one, other = (drops(module, X, baseline="resample", reference=REFERENCE, seed=seed).values for seed in (0, 1))
    again = drops(module, X, baseline="resample", reference=REFERENCE, seed=0).values
    np.testing.assert_array_equal(one, again)
    assert np.abs(one - other).max() > 1e-3


def test_units_in_any_order_twice_or_none():
    module, last = density_of(Plain), Unit("network.b", 4)
    found = drops(module, X, [last, ("network.a", 0), last], reference=REFERENCE)
    everything = drops(module, X, reference=REFERENCE)
    order = [everything.units.index(unit) for unit in found.units]
    np.testing.assert_allclose(found.values, everything.values[:, order], atol=1e-5)
    assert found.layers == ("network.b", "network.a") and found.units[0] == last
    assert drops(module, X, []).values.shape == (30, 0)
    assert joint_drop(module, X, []).shape == (30, 0)


def test_sets_are_replaced_together():
    module = density_of(Plain)
    units = units_of(module)
    both = joint_drop(module, X, [[units[1], units[8]], units], baseline="zero")
    with torch.no_grad(), ablate(module, [units[1]], "zero"), ablate(module, [units[8]], "zero"):
        after = squared(module.network, torch.tensor(X)).numpy()
    before = drops(module, X, []).log_prob
    np.testing.assert_allclose(both[:, 0], before - after, atol=1e-5)
    assert not np.allclose(both[:, 0], drops(module, X, [units[1], units[8]], baseline="zero").values.sum(1))


def test_what_is_refused():
    module = density_of(Plain)
    for wrong, error, word in (
        ({"baseline": "median"}, ModelError, "mean, zero, resample"),
        ({"posterior": "old"}, ModelError, "posterior"),
        ({"n_samples": 0}, ModelError, "n_samples"),
        ({"units": [("network.aa", 0)]}, ModelError, "'network.a'"),
        ({"units": [("network.a", 6)]}, ModelError, "from 0 to 5"),
        ({"units": [("network.a", -1)]}, ModelError, "from 0 to 5"),
        ({"units": ["network.a"]}, ModelError, r"\(layer, index\)"),
        ({"reference": REFERENCE[:3]}, DataError, "10 or more"),
        ({"reference": REFERENCE[:, :2]}, DataError, "shape"),
    ):
        with pytest.raises(error, match=word):
            drops(module, X, **wrong)
    with pytest.raises(DataError, match="10 or more"):
        drops(module, X[:1])
    with pytest.raises(ModelError, match="does not arise"):
        drops(genmem.KNNDensity().fit(KNOWN), V)
    with pytest.raises(ModelError, match="unfitted"):
        drops(genmem.VAE(), V)
    with pytest.raises(GenmemError, match="from_module"):
        drops(torch.nn.Sequential(torch.nn.Linear(4, 3), torch.nn.Linear(3, 1)), X)
