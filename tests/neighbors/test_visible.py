"""Samples that stand out by a gap: they are seen with few held-out examples, and what is merely data is not."""

import numpy as np
import pytest
from oracles_neighbors_verdict import close_pairs_by_loop, pairs_by_sum

from genmem.neighbors.copycheck import copycheck, read, searched
from genmem.neighbors.sets import Sets
from genmem.neighbors.visible import (
    _pairs_within,
    before_held_out,
    by_pairs,
    expected_below,
    held_out_needed,
    visible_copies,
)

LOOK = "inspect these pairs"
SIDE = np.mgrid[:24, :24]


def cell(rng):
    """A 24 x 24 picture of blobs with sensor noise."""
    image = np.full((24, 24), 0.2)
    for _ in range(rng.integers(3, 8)):
        at, r = rng.uniform(3, 21, 2), rng.uniform(2, 5)
        image += rng.uniform(0.2, 0.5) * np.exp(-((SIDE - at[:, None, None]) ** 2).sum(0) / (2 * r * r))
    return np.clip(image + rng.normal(0, 0.03, image.shape), 0, 1).ravel()


def cells(seed, copies, sizes=(250, 90, 200)):
    rng = np.random.default_rng([11, seed])
    T, H, S = (np.array([cell(rng) for _ in range(n)]) for n in sizes)
    S[:copies] = np.clip(T[:copies] + rng.normal(0, 0.015, (copies, 576)), 0, 1)
    return T, H, S


def looked(T, H, S):
    return visible_copies(searched(Sets(T, H, S)), 0.005)


def test_visible_copies_are_seen_with_few_held_out():
    T, H, S = cells(0, 12)
    found = copycheck(T, H, S, power_trials=0, context_rows=20)
    assert found.verdict == LOOK and found.copied_share.interval[0] == 0
    assert sorted(found.visible.samples) == list(range(12)) == sorted(found.pairs["sample"][:12])
    assert found.pairs["visible"].sum() == 12 and found.pairs["visible"][:12].all()
    first = found.visible.samples[0]
    assert found.sentence.startswith(f"Inspect these pairs: sample {first} and training example {first}; ")
    assert "With 90 held-out examples no calibrated test" in found.sentence
    far = np.sort(Sets(T, H, S).local_ratio("samples")[0])
    closest = min(far[12], Sets(T, H, S).local_ratio("test")[0].min())
    assert found.visible.factor == pytest.approx(closest / far[11]) and found.visible.examples == 12


@pytest.mark.slow
def test_the_held_out_examples_it_asks_for_suffice():
    T, H, S = cells(1, 12, (250, 350, 200))
    need = looked(T, H[:90], S).held_out
    assert need == held_out_needed(12, 200, 0.005) and 199 <= need < 350
    evidence = read(searched(Sets(T, H[:need], S)), n_cells=1).evidence
    assert evidence.gathered > 0 and read(searched(Sets(T, H[:90], S)), n_cells=1).evidence.gathered == 0


def test_fewer_than_chance_explains_are_named_in_a_green_sentence():
    found = copycheck(*cells(2, 2), power_trials=0, context_rows=20)
    assert found.verdict == "no evidence" and found.visible.by_chance and found.evidence.visible == 0
    assert sorted(found.visible.samples) == [0, 1] == sorted(found.pairs["sample"][:2])
    assert "Look at sample " in found.sentence and "close pairs that the data contain" in found.sentence


def normal(rng, n, d=8):
    return rng.normal(size=(n, d))


def with_duplicates(rng, sizes, share, noise):
    """Sets of one pool in which a share of all rows are near-duplicates of other rows."""
    X = normal(rng, sum(sizes))
    k = int(share * len(X))
    at = rng.permutation(len(X))[: 2 * k]
    X[at[:k]] = X[at[k:]] + noise * normal(rng, k)
    return np.split(X, np.cumsum(sizes)[:-1])


SIZES = (200, 40, 150)
FRESH = {
    "normal": lambda r: [normal(r, n) for n in SIZES],
    "one dimension": lambda r: [normal(r, n, 1) for n in SIZES],
    "heavy tails": lambda r: [r.standard_cauchy((n, 6)) for n in SIZES],
    "scales from .001 to 1": lambda r: [10 ** r.uniform(-3, 0, (n, 1)) * normal(r, n) for n in SIZES],
    "discrete": lambda r: [r.integers(0, 3, (n, 8)) for n in SIZES],
    "tiny clusters": lambda r: [10 * r.integers(0, 80, (n, 1)) + 0.01 * normal(r, n) for n in SIZES],
    "near-duplicates, 5%": lambda r: with_duplicates(r, SIZES, 0.05, 0.02),
    "near-duplicates, .5%": lambda r: with_duplicates(r, SIZES, 0.005, 0.02),
    "sharp": lambda r: [c * normal(r, n) for n, c in zip(SIZES, (1, 1, 0.5), strict=True)],
    "all at the mean": lambda r: [c * normal(r, n) for n, c in zip(SIZES, (1, 1, 0.02), strict=True)],
    "held-out examples elsewhere": lambda r: [c + normal(r, n) for n, c in zip(SIZES, (0, 6, 0), strict=True)],
    "ten times in T": lambda r: [np.vstack([T := normal(r, 200), *[T[:20]] * 9]), normal(r, 40), normal(r, 150)],
    "one fresh point": lambda r: [normal(r, 200), normal(r, 40), np.repeat(normal(r, 1), 150, 0)],
}


@pytest.mark.slow
@pytest.mark.parametrize("name", FRESH)
def test_data_without_copies_do_not_stand_out(name):
    sets = [FRESH[name](np.random.default_rng([12, seed])) for seed in range(20)]
    found = [looked(*three) for three in sets]
    assert sum(len(one.samples) > 0 and not one.by_chance for one in found) == 0


@pytest.mark.parametrize("copies", [6, 150])
@pytest.mark.parametrize("noise", [0.0, 0.05])
def test_copies_stand_out_however_many(copies, noise):
    rng = np.random.default_rng(3)
    T, H, S = (normal(rng, n) for n in SIZES)
    S[:copies] = T[:copies] + noise * normal(rng, copies)
    found = looked(T, H, S)
    assert sorted(found.samples) == list(range(copies)) and not found.by_chance


def test_many_samples_at_one_example_stand_out():
    rng = np.random.default_rng(4)
    T, H, S = (normal(rng, n) for n in SIZES)
    S[:40] = T[7]
    found = looked(T, H, S)
    assert len(found.samples) == 40 and found.examples == 1 and np.isinf(found.factor) and not found.by_chance


def test_pairs_within_the_training_set_equal_a_loop():
    rng = np.random.default_rng(5)
    T = rng.normal(size=(60, 2))
    T[:5] = T[5:10]
    sets = Sets(T, T[:2], T[:2])
    for last in (0.0, 0.1, 0.3):
        count, alike = close_pairs_by_loop(T, last)
        assert _pairs_within(sets, last, False, 0) == (count, 60 * 30, alike)
        assert count >= 5 and 0 < alike < 1


@pytest.mark.slow
def test_the_chance_of_close_pairs_is_the_largest_over_their_number():
    for count, share in ((3, 0.4), (4, 0.3), (8, 0.5)):
        assert by_pairs(count, 0, share) == pytest.approx(pairs_by_sum(count, share), rel=0.02)
    rng = np.random.default_rng(6)
    for mean in (2, 5, 12):  # without copies, all pairs fall at random: rarely are at least four of one kind alone
        kinds = rng.random((4000, 60)) < 0.4
        pairs = np.arange(60) < rng.poisson(mean, 4000)[:, None]
        ours, others = (kinds & pairs).sum(1), (~kinds & pairs).sum(1)
        speaks = [by_pairs(int(k), int(c), 0.4) <= 0.01 for k, c in zip(ours, others, strict=True) if k]
        assert sum(speaks) / 4000 <= 0.015


def test_a_tail_is_not_a_gap():
    rng = np.random.default_rng(7)
    smallest = [np.sort(rng.random(300) ** (1 / 5)) for _ in range(300)]  # distances in five dimensions
    expected = [expected_below(one[0], one[1:]) for one in smallest]
    assert np.mean([e < 0.05 for e in expected]) < 0.05 and np.mean([e < 1e-3 for e in expected]) < 0.01
    assert before_held_out(15, 300, 150) == pytest.approx(np.prod([(300 - i) / (450 - i) for i in range(15)]))
