"""What is said before a verdict and beside it: another source, tests that were off, the power against noisy copies."""

import numpy as np
import pytest
from oracles_neighbors_verdict import larger_by_loop

from genmem.findings.copies import numbers
from genmem.neighbors.cautions import cautions_of
from genmem.neighbors.copycheck import copycheck, read, searched
from genmem.neighbors.scan import scan_share_test
from genmem.neighbors.sets import Sets
from genmem.neighbors.two_sample import same_source_test, same_spread_test
from genmem.report.copies import Copies, headline

D = 16


def normal(rng, n, scale=1.0, shift=0.0):
    return scale * rng.normal(size=(n, D)) + shift


def check(T, H, S, **how):
    return copycheck(T, H, S, **{"power_trials": 0, "context_rows": 200, **how})


def test_same_spread_equals_a_loop_and_sees_a_wider_set():
    rng = np.random.default_rng(0)
    T, H, S = normal(rng, 60), normal(rng, 60), normal(rng, 10)
    found = same_spread_test(T, H, S)
    assert found.value == pytest.approx(larger_by_loop(T, H, 5)) and found.null == pytest.approx(0.5, abs=0.02)
    assert found.p_value > 0.01 >= max(same_spread_test(T, c * H, S).p_value for c in (0.7, 1.4))
    assert same_spread_test(T, 1.4 * H, S).value > 0.7 > 0.3 > same_spread_test(T, 0.7 * H, S).value
    nothing = same_spread_test(T, T, S)
    assert np.isnan(nothing.p_value) and "nan" not in nothing.sentence


@pytest.mark.slow
def test_the_checks_of_the_data_are_uniform_on_fresh_data():
    p = []
    for seed in range(60):
        rng = np.random.default_rng([1, seed])
        sets = Sets(normal(rng, 90), normal(rng, 60), normal(rng, 5))
        p.append([same_source_test(sets, seed=seed).p_value, same_spread_test(sets, seed=seed).p_value])
    assert ((np.array(p) <= 0.05).mean(0) <= 0.12).all() and ((np.array(p) <= 0.5).mean(0) > 0.3).all()


@pytest.mark.slow
@pytest.mark.parametrize(("scale", "shift"), [(1.15, 0.0), (1.4, 0.0), (1.0, 0.5), (1.0, 2.0)])
def test_no_drifting_held_out_set_is_red_without_the_caution(scale, shift):
    red = 0
    for seed in range(6):
        rng = np.random.default_rng([2, seed])
        sets = searched(Sets(normal(rng, 400), normal(rng, 250, scale, shift), normal(rng, 300)))
        evidence = read(sets, n_cells=1, seed=seed).evidence
        red += (found := evidence.scan_p <= 0.004 or evidence.gathered > 0)
        tests = same_source_test(sets, seed=seed), same_spread_test(sets, seed=seed)
        assert not found or cautions_of(sets, tests, seed)
    assert red > 0  # or nothing was tried


@pytest.mark.slow
def test_another_source_comes_before_a_red_verdict_and_is_a_condition():
    rng = np.random.default_rng(3)
    T, H, S = normal(rng, 300), normal(rng, 200, 1.3), normal(rng, 200)
    found = check(T, H, S)
    assert found.verdict == "copies found" and numbers(found)["other_source"] == numbers(found)["copies_found"] == 1
    said = headline(found.verdict, found.sentence)
    assert said.startswith("Training and held-out examples differ beyond chance")
    assert said.index("no comparison") < said.index("the verdict is: Copies found. At least")
    before, name, after = Copies({"verdict": found.verdict, "sentence": found.sentence}, [], "", None).said
    assert before.endswith("the verdict is: ") and name == "Copies found" and after.startswith(". At least")
    assert numbers(check(T, normal(rng, 200), S))["other_source"] == 0


@pytest.mark.slow
def test_green_verdicts_quote_noisy_copies_before_exact_ones_and_name_tests_that_were_off():
    rng = np.random.default_rng(4)
    T, H, S = normal(rng, 300), normal(rng, 150), normal(rng, 200)
    for samples, start in (
        (S, "No evidence of copying. Copies with noise"),
        (0.6 * S, "Samples are closer to training"),
    ):
        found = check(T, H, samples, power_trials=20)
        exact, noisy = (f"less than {100 * power.smallest:.3g}%" for power in (found.power, found.power_noisy))
        assert found.sentence.startswith(start) and "0.5 times the median distance" in found.sentence
        assert found.sentence.index(noisy) < found.sentence.index("so would exact copies that make up " + exact)
        assert "by neighbourhoods was off: it needs 199 held-out examples; there are 150." in found.sentence
    assert "was off" not in check(T, normal(rng, 200), S).sentence


def test_tests_that_were_off_say_what_they_need():
    few = check(*np.random.default_rng(5).normal(size=(3, 4, 2)))
    assert "The scan was off: it needs examples that allow 250 permutations" in few.sentence
    T, H, S = np.random.default_rng(6).integers(0, 2, (3, 300, 3))
    coarse = check(T, H, S)
    assert "too many held-out examples are identical" in coarse.sentence
    assert "The test by identical examples was off" in coarse.sentence
    assert scan_share_test(T, H, S).p_value > 0.004
