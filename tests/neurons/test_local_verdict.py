"""The verdict follows from the judged comparisons by rule, and the examples that are compared from other repeats."""

import dataclasses

import numpy as np
import oracles_neurons_test as oracle
import pytest
from neuron_evidence import evidence

from genmem.errors import DataError
from genmem.neurons.examples import COMPARISONS, choose, means_without
from genmem.neurons.verdict import decide
from genmem.run.splits import Splits

QUICK = {"splits": 10, "permutations": 19}
SCORES = np.full(8, 10.0) + np.arange(8) / 10


@pytest.fixture
def rng():
    return np.random.default_rng(1)


@pytest.mark.slow
def test_planted_memory_is_called_local(rng):
    found = decide(
        evidence(rng, local=1.5), SCORES, recall=[0.9, np.nan, 1.0, 0.8, 0.5], additivity=[1.0, 0.98], **QUICK
    )
    assert found.verdict == "local" and found.permutation_p == pytest.approx(0.05)
    assert "of the memorization score" in found.sentence and found.void == ()
    assert [control.passed for control in found.controls] == [True] * 6


@pytest.mark.slow
def test_unusual_examples_are_not_called_local(rng):
    found = decide(evidence(rng, unusual=1.5), SCORES, **QUICK)
    assert found.verdict == "not local" and found.void == ("in",)
    assert f"An effect of {found.detectable.max():.0%} of the memorization score" in found.sentence
    assert found.sentence.endswith("The positive control, an injected example, was left out.")
    tested = found.judgements["out"].against()
    np.testing.assert_allclose(found.detectable, tested.detectable / SCORES.mean())


@pytest.mark.slow
@pytest.mark.parametrize(
    ("change", "name"),
    [
        ({"recall": [0.05, 0.1, 0.0, 0.02]}, "injected example"),
        ({"recall": [np.nan] * 12 + [1.0] * 3}, "injected example"),  # too few learned it: no positive control
        ({"additivity": [1.5, 1.6, 1.55]}, "additivity"),
        ({"memorization": [-1.0, 1.0] * 4}, "memorization"),
    ],
)
def test_a_control_that_fails_leaves_no_claim(rng, change, name):
    given = {"memorization": SCORES, **change}
    found = decide(evidence(rng, local=1.5), given.pop("memorization"), **given, **QUICK)
    assert found.verdict == "no claim" and found.sentence.startswith(f"No claim: control {name} failed.")


@pytest.mark.slow
def test_networks_that_learn_no_example_leave_no_claim_either_way(rng):
    for strength in (0.0, 1.5):
        found = decide(evidence(rng, local=strength), SCORES, recall=[np.nan] * 16, **QUICK)
        assert found.verdict == "no claim" and "gained enough in 0 of 16 networks, 4 are needed" in found.sentence


@pytest.mark.slow
def test_memory_of_what_is_not_memorized_leaves_no_claim(rng):
    networks = evidence(rng, local=1.5)
    for network in networks:
        network.pairs["not memorized"] = network.pairs["out"]
    for own, told in ((2.0, True), (0.2, False)):
        found = decide(networks, SCORES, unmemorized=[own] * 8, **QUICK)
        assert found.verdict == "no claim" and "control examples that are not memorized failed" in found.sentence
        assert f"Their own score is {own:.2f} nats, against 10.35 of" in found.sentence
        assert ("They are memorized, too: with fewer epochs" in found.sentence) == told


@pytest.mark.slow
def test_sets_that_cannot_be_matched_leave_no_claim(rng):
    networks = [dataclasses.replace(n, layers=np.arange(n.drops.shape[1])) for n in evidence(rng, local=1.5)]
    for network in networks:  # a layer of its own for every unit: no other unit can replace it
        network.drops[network.damage[1]] *= 1 + 20 * (network.drops[network.pairs["out"][:, 0]].mean(0) > 2)
    networks = [dataclasses.replace(n, layers=_pairs_of_unequal(n)) for n in networks]
    found = decide(networks, SCORES, **QUICK)
    assert found.verdict == "no claim" and "damage matching" in found.sentence


def _pairs_of_unequal(network):
    """Return layers of two units, the most and the least damaging together."""
    order = np.argsort(network.drops[network.damage[1]].mean(0))
    layers = np.empty(len(order), int)
    layers[order] = np.minimum(np.arange(len(order)), len(order) - 1 - np.arange(len(order)))
    return layers


# --- examples


def halves(n=400, repeats=4):
    splits = Splits.subsets(n, 0.5, 2 * repeats)
    rng = np.random.default_rng(0)
    score = rng.gamma(1.0, 4.0, n)
    log_probs = -rng.gamma(4.0, 5.0, n) + score * ~splits.held_out + rng.normal(0, 0.5, splits.held_out.shape)
    return splits, log_probs, score


def test_scores_come_from_the_other_repeats():
    splits, log_probs, _ = halves(60)
    means = means_without(log_probs, splits.held_out, splits.repeat, left_out=2)
    np.testing.assert_allclose(
        (means.inside, means.outside), oracle.means_without(log_probs, splits.held_out, splits.repeat, 2)
    )
    changed = np.where((splits.repeat == 2)[:, None], 1e6, log_probs)
    np.testing.assert_array_equal(means_without(changed, splits.held_out, splits.repeat, 2).score, means.score)


def test_a_network_that_failed_is_left_out():
    splits, log_probs, _ = halves(60)
    log_probs[4] = np.nan
    assert np.isfinite(means_without(log_probs, splits.held_out, splits.repeat, 0).score).all()
    with pytest.raises(DataError, match=r"held out in the other repeats; got 60 examples without|got 30 examples"):
        means_without(log_probs[:2], splits.held_out[:2], [0, 1], left_out=0)


def test_examples_are_compared_as_named():
    splits, log_probs, score = halves()
    means = means_without(log_probs, splits.held_out, splits.repeat, left_out=0)
    found, out = choose(means, splits.held_out[0]), splits.held_out[0]
    assert found.pairs.keys() == COMPARISONS.keys() and set(found.memorized) == set(np.argsort(-means.score)[:20])
    np.testing.assert_array_equal(found.trained, ~out[found.memorized])
    sides = {"out": (False, True), "in": (False, False), "fragile": (False, False)}
    sides |= {"held out": (True, True), "not memorized": (False, True)}
    for name, (case, control) in sides.items():
        cases, controls = found.pairs[name].T
        assert (out[cases] == case).all() and (out[controls] == control).all()
        if name != "out":
            assert means.score[controls].max() < np.median(means.score)
    for name, by in (("in", means.inside), ("fragile", means.outside), ("held out", means.inside)):
        cases, controls = found.pairs[name].T
        assert np.abs(by[cases] - by[controls]).max(initial=0) <= 1
        assert found.overlap[name] == len(cases) / (out[found.memorized] == (name == "held out")).sum()
    for name in ("out", "not memorized"):  # every example once
        assert len(np.unique(found.pairs[name])) == found.pairs[name].size
    first, second = found.damage
    assert out[first].all() and out[second].all() and not set(first) & set(second)
    assert not (set(first) | set(second)) & set(np.concatenate([p.ravel() for p in found.pairs.values()]))
    assert set(found.used) >= set(first) | set(found.memorized)


def test_the_complement_judges_the_same_examples_the_other_way_round():
    splits, log_probs, _ = halves()
    means = means_without(log_probs, splits.held_out, splits.repeat, left_out=0)
    first, second = (choose(means, splits.held_out[row]).pairs["out"] for row in (0, 1))
    assert set(map(tuple, first)) == {(b, a) for a, b in second}


def test_too_few_examples_are_refused():
    splits, log_probs, _ = halves(60)
    means = means_without(log_probs, splits.held_out, splits.repeat, left_out=0)
    with pytest.raises(DataError, match=r"memorized examples.* got 5.0% of 60, that is 3. Use more data: 64"):
        choose(means, splits.held_out[0])
    splits, log_probs, _ = halves(200)
    means = means_without(log_probs, splits.held_out, splits.repeat, left_out=0)
    with pytest.raises(DataError, match=r"Use a larger share, such as 0.08"):
        choose(means, splits.held_out[0])
    with pytest.raises(DataError, match="16 held-out examples besides those compared"):
        choose(means, np.arange(200) < 12, share=0.1)
