"""The causal test on matrices of drops: the same numbers as loops, and calibrated where nothing is to be found."""

import numpy as np
import oracles_neurons_test as oracle
import pytest
from neuron_evidence import LAYERS, evidence
from scipy import stats

from genmem.errors import DataError
from genmem.neurons.contrast import Sets, contrast, grid, strongest
from genmem.neurons.judge import BASELINES, Evidence, halves, judge, permutation_p
from genmem.neurons.matching import matched_sets
from genmem.neurons.repeats import over_repeats
from genmem.seeding import stream


@pytest.fixture
def rng():
    return np.random.default_rng(0)


def test_contrast_is_that_of_a_loop(rng):
    drops = rng.normal(size=(30, 12))
    sets = Sets(np.arange(8), np.arange(8, 20), np.arange(20, 30))
    np.testing.assert_allclose(contrast(drops, sets), oracle.contrast(drops, *sets))
    raw = contrast(drops, sets, score="raw")
    np.testing.assert_allclose(raw, drops[:8].mean(0) - drops[8:20].mean(0))


@pytest.mark.parametrize("size", [1, 2, 3])
def test_effects_are_those_of_loops(rng, size):
    layers = np.array([0, 0, 0, 1, 1, 1, 1])
    drops, magnitude = rng.gamma(1.0, size=(24, 7)), rng.random(7)
    pairs, damage = np.c_[np.arange(8), np.arange(8, 16)], (np.arange(16, 20), np.arange(20, 24))
    network = Evidence(drops, layers, magnitude, {"out": pairs}, damage, repeat=0)
    found = judge([network], "out", splits=5, sizes=[size], seed=3)
    random = stream(3, "neurons out", 0)
    first = np.argsort(random.random((5, 8)), axis=1) < 4
    firsts = [np.flatnonzero(row).tolist() for row in first]
    expected = oracle.effects(drops, layers, magnitude, pairs[:, 0], pairs[:, 1], damage[0], firsts, size)
    for name, value in expected.items():
        np.testing.assert_allclose(found.effects[name], [[value]], err_msg=name)


def test_the_effect_against_matched_sets_is_that_of_loops(rng):
    # one layer of five units in two classes of equal damage: every match of one unit is among the other units
    drops = rng.gamma(1.0, size=(24, 5))
    drops[16:] = 1.0
    pairs, damage = np.c_[np.arange(8), np.arange(8, 16)], (np.arange(16, 20), np.arange(20, 24))
    network = Evidence(drops, np.zeros(5, int), np.ones(5), {"out": pairs}, damage, repeat=0)
    found = judge([network], "out", splits=400, sizes=[1], seed=3)
    first = np.argsort(stream(3, "neurons out", 0).random((400, 8)), axis=1) < 4
    firsts, matches = [np.flatnonzero(row).tolist() for row in first], []
    for one in firsts:
        scores = oracle.contrast(drops, pairs[one, 0], pairs[one, 1], damage[0])
        matches.append([[unit] for unit in range(5) if unit != np.argmax(scores)])
    expected = oracle.effects(drops, [0] * 5, np.ones(5), pairs[:, 0], pairs[:, 1], damage[0], firsts, 1, matches)
    np.testing.assert_allclose(found.effects["damage"][0, 0], expected["damage"], atol=0.05)
    assert found.matched.tolist() == [1.0]


def test_matched_sets_have_the_damage_the_size_and_the_layers(rng):
    damage = rng.gamma(0.5, 1.0, 192)
    layers = np.repeat([0, 1], [64, 128])
    chosen = strongest(rng.normal(size=(60, 192)), 10)
    found, within = matched_sets(chosen, damage, layers, rng)
    assert within.mean() > 0.95
    np.testing.assert_allclose((found @ damage)[within], (chosen @ damage)[within], rtol=0.1, atol=0.01)
    for layer in (0, 1):
        np.testing.assert_array_equal(found[:, layers == layer].sum(1), chosen[:, layers == layer].sum(1))
    assert not (found & chosen).any()
    assert len(np.unique(found, axis=0)) == len(found)


def test_a_set_that_nothing_matches_is_told():
    damage = np.r_[np.ones(9), 50.0]
    found, within = matched_sets(np.eye(10, dtype=bool)[[0, 9]], damage, np.zeros(10, int), np.random.default_rng(0))
    assert within.tolist() == [True, False] and not found[1, 9]


def test_a_layer_that_is_chosen_whole_is_matched_by_itself():
    chosen = np.array([[True, True, False]])
    found, within = matched_sets(chosen, np.ones(3), np.array([0, 0, 1]), np.random.default_rng(0))
    assert found.tolist() == chosen.tolist() and within.all()


def test_halves_are_disjoint_and_whole(rng):
    first, second = halves(np.eye(9), 20, rng)
    np.testing.assert_array_equal((first > 0) ^ (second > 0), True)
    np.testing.assert_allclose([first.sum(1), second.sum(1)], 1)


def test_sign_flips_and_intervals_are_those_of_loops(rng):
    effects = rng.normal(0.5, 1, (6, 4))
    tested = over_repeats(effects)
    p, intervals = oracle.flipped_p(effects)
    np.testing.assert_allclose(tested.p_value, p)
    np.testing.assert_allclose(tested.interval, intervals)
    with pytest.raises(DataError, match="two repeats or more"):
        over_repeats(effects[:1])


def test_the_detectable_effect_is_detected_in_four_of_five(rng):
    effects = rng.normal(size=(400, 8, 1))
    size = np.mean([over_repeats(one).detectable[0] for one in effects])
    found = np.mean([over_repeats(one + size).p_any <= 0.05 for one in effects])
    assert 0.7 < found < 0.93


@pytest.mark.slow
def test_planted_units_are_found_and_unusual_examples_are_not(rng):
    local = judge(evidence(rng, local=1.5), "out")
    assert local.against().p_any == pytest.approx(2**-8)
    assert local.sizes == grid(len(LAYERS)) == (1, 2, 4)
    # a set of the planted units beats others by about what was planted
    np.testing.assert_allclose(local.against("random").mean[:2], [1.5 * 45 / 48, 3 * 45 / 48], rtol=0.15)
    networks = evidence(rng, unusual=1.5)
    assert judge(networks, "in").against().p_any == pytest.approx(2**-8)
    assert judge(networks, "held out").against().p_any == pytest.approx(2**-8)  # voids the comparison before
    assert judge(networks, "out").against().p_any > 0.05


def test_judging_where_one_discovers_finds_what_is_not_there(rng):
    networks = evidence(rng)
    honest = judge(networks, "out").effects["random"].mean(0)
    same = []
    for network in networks:
        cases, controls = network.pairs["out"].T
        sets = Sets(cases, controls, network.damage[0])
        raw = contrast(network.drops, sets, "raw")
        chosen = strongest(contrast(network.drops, sets), 4)
        same.append(raw[chosen].sum() - 4 * raw.mean())
    assert np.mean(same) > 0.3 > 3 * np.abs(honest).max()


@pytest.mark.slow
def test_permuted_labels_give_a_uniform_p(rng):
    ps = []
    for run in range(200):
        networks = evidence(np.random.default_rng(run), repeats=2, pairs=8, layers=np.zeros(8, int))
        ps.append(permutation_p(networks, "out", permutations=9, splits=2, sizes=[1, 2], seed=run)[0])
    spread = np.asarray(ps) - np.random.default_rng(0).random(200) / 10  # p takes 10 values
    assert stats.kstest(spread, "uniform").pvalue > 0.01
    assert 0.04 < np.mean(np.asarray(ps) <= 0.1) < 0.17


def test_a_judgement_does_not_depend_on_other_networks(rng):
    networks = evidence(rng, repeats=3)
    all_of_them, first = judge(networks, "out", seed=5), judge(networks[:2], "out", seed=5)
    for name in BASELINES:
        np.testing.assert_array_equal(all_of_them.effects[name][:1], first.effects[name])


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda n: n.pairs.pop("out"), "with the comparison 'out'"),
        (lambda n: n.pairs.update(out=n.pairs["out"][:3]), "4 or more pairs"),
        (lambda n: n.drops.__setitem__((0, 0), np.nan), "NaN or infinite"),
    ],
)
def test_what_cannot_be_judged_is_refused(rng, change, said):
    networks = evidence(rng, repeats=1)
    for network in networks:
        change(network)
    with pytest.raises(DataError, match=said):
        judge(networks, "out")


def test_contrast_refuses_what_it_cannot_use():
    with pytest.raises(DataError, match="one of per_damage, raw"):
        contrast(np.ones((3, 2)), Sets([0], [1], [2]), score="best")
    with pytest.raises(DataError, match="rows for the controls; got none"):
        contrast(np.ones((3, 2)), Sets([0], [], [2]))
