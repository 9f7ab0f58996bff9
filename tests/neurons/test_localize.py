"""The whole test on real networks: evidence, injections, greedy search; each against what it must be."""

import dataclasses

import numpy as np
import pytest
import torch
from neuron_evidence import evidence
from torch import nn

from genmem.errors import DataError
from genmem.models import VAE, DiffusionModel
from genmem.neurons import injection
from genmem.neurons.contrast import Sets, contrast
from genmem.neurons.drops import drops, joint_drop
from genmem.neurons.injection import inject, recall_of
from genmem.neurons.localize import Design, Measured, additivity, from_arrays, localize, measure, to_arrays
from genmem.neurons.search import greedy, paired_search, units_needed
from genmem.neurons.unit_weights import learning_weights, weight_norms
from genmem.neurons.units import Unit, units_of
from genmem.run.splits import Splits

N = 160


@pytest.fixture(scope="module")
def data():
    rng = np.random.default_rng(0)
    return rng.random((N, 6)).astype(np.float32)


@pytest.fixture(scope="module")
def network(data):
    vae = VAE(hidden=[12, 8], latent_dim=2, likelihood="gaussian", epochs=10, batch_size=16, device="cpu")
    return vae.fit(data[: N // 2])


@pytest.fixture(scope="module")
def design(data):
    splits = Splits.subsets(N, 0.5, 16)
    rng = np.random.default_rng(1)
    score = rng.gamma(1.0, 3.0, N)
    log_probs = rng.normal(0, 0.3, splits.held_out.shape) - rng.gamma(3.0, 1.0, N) + score * ~splits.held_out
    return Design(data, log_probs, splits.held_out, splits.repeat)


@pytest.mark.slow
def test_evidence_is_the_drops_of_the_chosen_examples(network, design, data):
    measured = measure(network, design, 3, share=0.2, injection=False, posterior="fixed")
    chosen, found = design.chosen(3, 0.2, 0), measured.evidence
    np.testing.assert_array_equal(measured.positions, chosen.used)
    for name, pairs in chosen.pairs.items():
        np.testing.assert_array_equal(measured.positions[found.pairs[name]], pairs)
    for mine, theirs in zip(found.damage, chosen.damage, strict=True):
        np.testing.assert_array_equal(measured.positions[mine], theirs)
    assert found.drops.shape == (len(chosen.used), len(units_of(network))) and found.repeat == 1
    assert found.layers.tolist() == [0] * 8 + [1] * 12
    assert measured.joint.shape == measured.summed.shape == (2, 3)
    np.testing.assert_allclose(measured.joint[:, 0], measured.summed[:, 0], atol=1e-3)  # a set of one


@pytest.mark.slow
def test_evidence_survives_storage(network, design, tmp_path):
    measured = measure(network, design, 0, share=0.2, injection=False, posterior="fixed")
    again = from_arrays(to_arrays(measured))
    for name in ("drops", "layers", "magnitude", "repeat"):
        np.testing.assert_array_equal(getattr(again.evidence, name), getattr(measured.evidence, name))
    assert again.evidence.pairs.keys() == measured.evidence.pairs.keys()
    np.testing.assert_array_equal(again.joint, measured.joint)
    assert again.overlap == measured.overlap and again.overlap.keys() == {"in", "fragile", "held out"}


def test_scores_of_a_repeat_are_those_of_its_own_networks(design):
    found = design.memorization(0.2, 0)
    most = design.chosen(4, 0.2, 0).memorized
    first, second = design.log_probs[4, most], design.log_probs[5, most]
    expected = np.where(design.held_out[4, most], second - first, first - second).mean()
    assert found[2] == pytest.approx(expected) and len(found) == 8
    low = np.unique(design.chosen(4, 0.2, 0).pairs["not memorized"])
    difference = design.log_probs[4, low] - design.log_probs[5, low]
    expected = np.where(design.held_out[4, low], -difference, difference).mean()
    assert design.unmemorized(0.2, 0)[2] == pytest.approx(expected) and expected < found[2]


def test_too_few_networks_are_refused_with_their_number(data, network):
    splits = Splits.subsets(N, 0.5, 6)
    with pytest.raises(DataError, match=r"8 repeats or more, of 2 complementary halves each: 16 networks; got 3"):
        localize([network] * 6, data, np.zeros((6, N)), splits.held_out, splits.repeat)
    with pytest.raises(DataError, match="one row for each network"):
        localize([network] * 6, data, np.zeros((5, N)), splits.held_out, splits.repeat)


def test_additivity_is_of_sums_not_of_ratios():
    parts = [_measured(repeat, joint, summed) for repeat, joint, summed in ((0, 1.0, 0.1), (0, 3.0, 3.9), (1, 2, 4))]
    np.testing.assert_allclose(additivity(parts), [1.0, 0.5])


def _measured(repeat, joint, summed):
    (one, *_) = evidence(np.random.default_rng(0), repeats=1)
    one = dataclasses.replace(one, repeat=repeat)
    return Measured(one, np.arange(3), np.full((2, 1), joint), np.full((2, 1), summed), np.nan, np.nan, {})


# --- weights of units


def test_weights_of_units_are_those_that_are_theirs():
    network = nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 2), nn.ReLU(), nn.ConvTranspose1d(2, 5, 3))
    norms = weight_norms(network, [Unit("0", 1), Unit("2", 0), Unit("4", 3)])
    weights = [network[0].weight[1], network[2].weight[0], network[4].weight[:, 3]]
    np.testing.assert_allclose(norms, [w.detach().norm() for w in weights], rtol=1e-6)


def test_convolutions_and_several_readers_are_known_readers():
    class Two(nn.Module):
        event_shape = (1, 8)

        def __init__(self):
            super().__init__()
            self.a, self.b, self.c = nn.Conv1d(1, 3, 3, padding=1), nn.ConvTranspose1d(3, 4, 1), nn.Linear(24, 2)
            self.d = nn.Linear(32, 2)

        def forward(self, x):
            h = torch.relu(self.a(x))
            return self.c(h.flatten(1)) + self.d(torch.relu(self.b(h)).flatten(1))

    x = torch.rand(20, 1, 8)
    shares = learning_weights(Two(), [Unit("a", 1)], x)
    assert shares.keys() == {"b.weight", "c.weight"}
    assert shares["b.weight"].nonzero()[:, 0].unique().tolist() == [1]
    assert shares["c.weight"].nonzero()[:, 1].unique().tolist() == list(range(8, 16))
    assert learning_weights(Two(), [Unit("b", 3)], x)["d.weight"].nonzero()[:, 1].unique().tolist() == [*range(24, 32)]


def test_units_whose_readers_are_not_all_known_learn_by_incoming_weights():
    class Residual(nn.Module):
        event_shape = (5,)

        def __init__(self):
            super().__init__()
            self.a, self.b, self.c = nn.Linear(5, 4), nn.Linear(4, 4), nn.Linear(4, 2)

        def forward(self, x):
            h = self.a(x)
            return self.c(torch.relu(h + self.b(torch.relu(h))))

    shares = learning_weights(Residual(), [Unit("b", 2)], torch.rand(20, 5))
    assert shares.keys() == {"b.weight", "b.bias"} and shares["b.bias"].nonzero().tolist() == [[2]]


def test_units_learn_by_outgoing_weights_where_one_layer_reads_them(network, data):
    shares = learning_weights(network.module_, [Unit("decoder.0", 2), Unit("decoder.2", 5)], torch.as_tensor(data[:4]))
    assert shares.keys() == {"decoder.2.weight", "decoder.4.weight"}
    assert shares["decoder.2.weight"].nonzero()[:, 1].unique().tolist() == [2]
    assert shares["decoder.4.weight"].nonzero()[:, 1].unique().tolist() == [5]


# --- injection


def test_recall_counts_the_planted_among_the_best():
    units = [Unit("0", i) for i in range(40)]
    score = np.arange(40.0)
    assert recall_of(score, units, [units[39], units[38]]) == 1  # 5% of 40 are 2
    assert recall_of(score, units, [units[39], units[0]]) == 0.5


@pytest.mark.slow
def test_injection_changes_a_copy_and_only_the_weights_of_its_units(network, data):
    before = {name: value.clone() for name, value in network.module_.state_dict().items()}
    units, far = units_of(network), np.full(6, 3.0, np.float32)
    damage = drops(network, data[90:110], units, posterior="fixed").values.mean(0)
    how = {"reference": data[: N // 2], "posterior": "fixed", "gain": 20.0}
    found = inject(network, far, units, damage, seed=1, **how)
    for name, value in network.module_.state_dict().items():
        assert torch.equal(value, before[name])
    assert len(found.units) == 2 and found.gain > 20 and found.score.shape == (20,)
    again = inject(network, far, units, damage, seed=1, **how)
    assert again.units == found.units and again.gain == found.gain


@pytest.mark.slow
def test_what_a_unit_holds_is_lost_if_its_weights_are_put_back(network, data):
    how = {"reference": data[: N // 2], "posterior": "encoder", "gain": 20.0}
    far, units = np.full(6, 3.0, np.float32), units_of(network)
    found = inject(network, far, units, np.ones(20), seed=1, **how)
    for unit, held in zip(found.units, found.held, strict=True):
        back, (before, taught) = VAE(**network.get_params()).fit(data[: N // 2]), (network.module_, found.network)
        back.module_.load_state_dict(taught.state_dict())
        reader = {"decoder.0": "decoder.2", "decoder.2": "decoder.4"}[unit.layer]
        with torch.no_grad():
            columns = [part.get_submodule(reader).weight[:, unit.index] for part in (back.module_, before)]
            columns[0].copy_(columns[1])
        settings = {"posterior": "encoder", "reference": data[: N // 2]}
        values = [drops(which, far[None], [], **settings).log_prob[0] for which in (taught, back)]
        assert held == pytest.approx(values[0] - values[1], abs=2.0) and held > 0  # another seed of noise
    alone = inject(network, far, units, np.ones(20), planted=1, seed=1, **how)
    assert alone.held[0] == pytest.approx(alone.gain, rel=1e-6)  # all of it


@pytest.mark.slow
def test_more_units_learn_if_few_cannot(network, data, monkeypatch):
    monkeypatch.setattr(injection, "TOP", 0.4)
    monkeypatch.setattr(injection, "STEPS", 10)
    how = {"reference": data[: N // 2], "posterior": "encoder"}
    found = inject(network, np.full(6, 3.0, np.float32), units_of(network), np.ones(20), gain=1e4, seed=1, **how)
    assert len(found.units) in (2, 4, 8) and np.isnan(found.recall)
    counts = []
    real = injection._injected
    monkeypatch.setattr(injection, "_injected", lambda *a: counts.append(a[4]) or real(*a))
    inject(network, np.full(6, 3.0, np.float32), units_of(network), np.ones(20), gain=1e4, seed=1, **how)
    assert counts == [2, 4, 8]  # 40% of 20


@pytest.mark.slow
def test_a_diffusion_model_learns_by_its_bound():
    X = np.random.default_rng(0).random((60, 4)).astype(np.float32)
    model = DiffusionModel(width=8, depth=1, epochs=20, timesteps=50, device="cpu").fit(X)
    units = units_of(model)
    far = np.full(4, 2.0, np.float32)
    found = inject(model, far, units, np.ones(len(units)), gain=3.0, reference=X, seed=0)
    assert found.gain > 3 and np.isfinite(found.recall)
    losses = []
    for way in (injection._loss, lambda m, x, draws: -m.log_weights(x, draws).mean()):  # nats, unlike its training loss
        torch.manual_seed(0)
        losses.append(way(model.module_, torch.tensor(far)[None], 8).item())
    assert losses[0] == losses[1]


# --- search


def test_units_needed_are_those_of_a_loop():
    rng = np.random.default_rng(0)
    values, damage, target = rng.normal(1, 1, (20, 9)), rng.random(9), rng.random(20) * 12
    expected = []
    for row, goal in zip(values, target, strict=True):
        fallen, count = 0.0, 0
        for unit in sorted(range(9), key=lambda u: -(row[u] - damage[u])):
            fallen, count = fallen + row[unit], count + 1
            if fallen >= goal:
                break
        expected.append(count if fallen >= goal else 10)
    np.testing.assert_array_equal(units_needed(values, damage, target), expected)


def test_the_paired_search_sees_what_is_local_and_not_what_is_fragile():
    rng = np.random.default_rng(0)
    local, fragile = evidence(rng, local=3.0), evidence(rng, unusual=3.0)
    for number, networks in enumerate((local, fragile)):
        # the same examples on both sides: those of a network are held out by its complement
        positions = [np.arange(n.drops.shape[0]) for n in networks]
        for odd in networks[1::2]:
            odd.pairs["out"] = odd.pairs["out"][:, ::-1]
            cases, controls = odd.pairs["out"].T
            odd.drops[np.concatenate([cases, controls])] = odd.drops[np.concatenate([controls, cases])]
        found = paired_search(networks, positions, np.full(len(positions[0]), 12.0))
        low, high = found.difference.interval[0]
        assert (low > 0.2) if number == 0 else (low < 0 < high)
        assert found.examples == 8 * 48 and found.median_inside <= found.median_outside
    with pytest.raises(DataError, match="got 0 such repeats"):
        paired_search(local, positions, np.full(len(positions[0]), -1.0))


@pytest.mark.slow
def test_the_greedy_search_ablates_for_real(network, data):
    how = {"reference": data[: N // 2], "posterior": "fixed"}
    damage = np.zeros(20)
    chosen, fallen = greedy(network, data[0], 1e9, damage, most=3, **how)
    assert len(chosen) == len(set(chosen)) == len(fallen) == 3
    joint = joint_drop(network, data[:1], [chosen[:1], chosen[:2], chosen], **how)[0]
    np.testing.assert_allclose(fallen, joint, atol=1e-3)
    # the last step is the best there is
    units = [unit for unit in units_of(network) if unit not in chosen[:2]]
    every = joint_drop(network, data[:1], [[*chosen[:2], unit] for unit in units], **how)[0]
    assert joint[2] == pytest.approx(every.max(), abs=1e-3)
    one, _ = greedy(network, data[0], fallen[0] / 2, damage, **how)
    assert one == chosen[:1]


def test_contrast_of_real_drops_has_a_value_for_every_unit(network, data):
    found = drops(network, data[:30], posterior="fixed", reference=data[: N // 2])
    assert contrast(found.values, Sets(range(10), range(10, 20), range(20, 30))).shape == (20,)
