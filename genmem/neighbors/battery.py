"""Every test of copying that `copycheck` runs, in order: tests added here also appear in reports and conditions."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from numpy.typing import ArrayLike

from genmem.neighbors.data_copying import CopyingTest
from genmem.neighbors.membership import membership_inference
from genmem.neighbors.metrics import context
from genmem.neighbors.ratios import authenticity, ratio_test
from genmem.neighbors.results import Result
from genmem.neighbors.sets import Sets
from genmem.neighbors.shares import tail_share_test, train_share_test
from genmem.neighbors.two_sample import same_source_test, same_spread_test


@dataclass(frozen=True, eq=False, kw_only=True)
class Asked:
    """What a test may use.

    Attributes:
        sets: the three sets, in the feature space.
        each: the same, with one held-out example of each group that belongs together.
        scan: a result that the verdict rests on, computed already; likewise `c_t` and `excess`.
        rows: the largest number of rows of each set for measures that search sets within themselves.
        seed: of permutations and random subsets.
        log_prob: log p of training and of held-out examples, nats, if the model provides it.
    """

    sets: Sets
    each: Sets
    scan: Result
    c_t: CopyingTest
    excess: Result
    rows: int
    seed: int
    log_prob: Sequence[ArrayLike] | None


class CopyTest(NamedTuple):
    """One or more tests that are computed together.

    Attributes:
        names: of its results, in order; conditions check names before anything is computed.
        run: computes the results; these hold value, title and what the test cannot see.
        of_model: whether it needs log p of the model, which samples alone do not provide.
    """

    names: tuple[str, ...]
    run: Callable[[Asked], tuple[Result, ...]]
    of_model: bool = False


TESTS: tuple[CopyTest, ...] = (
    CopyTest(("scan_share",), lambda asked: (asked.scan,)),
    CopyTest(("train_share",), lambda asked: (train_share_test(asked.sets, seed=asked.seed),)),
    CopyTest(("tail_share",), lambda asked: (tail_share_test(asked.sets, seed=asked.seed),)),
    CopyTest(("c_t",), lambda asked: (asked.c_t,)),
    CopyTest(("tail_excess",), lambda asked: (asked.excess,)),
    CopyTest(("distance_ratio",), lambda asked: (ratio_test(asked.sets, seed=asked.seed),)),
    CopyTest(("authenticity",), lambda asked: (authenticity(asked.each),)),
    CopyTest(("membership",), lambda asked: (membership_inference(*asked.log_prob or ()),), of_model=True),
    CopyTest(("same_source",), lambda asked: (same_source_test(asked.sets, rows=asked.rows, seed=asked.seed),)),
    CopyTest(("same_spread",), lambda asked: (same_spread_test(asked.sets, rows=asked.rows, seed=asked.seed),)),
    CopyTest(
        (
            *("dcr_median", "dcr_tail", "nndr_median", "nndr_tail", "gan_leaks", "one_nn_train", "one_nn_test"),
            *("precision", "recall", "density", "coverage"),
        ),
        lambda asked: context(asked.each, rows=asked.rows, seed=asked.seed),
    ),
)


def run_all(asked: Asked) -> tuple[Result, ...]:
    """Return the results of all tests; those that need the model only if there is log p."""
    tests = (test for test in TESTS if not test.of_model or asked.log_prob is not None)
    return tuple(result for test in tests for result in test.run(asked))


def names() -> tuple[str, ...]:
    """Return the names of the tests that need only samples."""
    return tuple(name for test in TESTS if not test.of_model for name in test.names)
