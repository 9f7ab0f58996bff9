"""Common measures of samples beside the tests of copying: what each says, and what it cannot see."""

from numpy.typing import ArrayLike

from genmem.neighbors.distances import closest_record, neighbor_ratio
from genmem.neighbors.leaks import gan_leaks
from genmem.neighbors.manifolds import precision_recall
from genmem.neighbors.results import Result
from genmem.neighbors.searches import Searches, searches_of
from genmem.neighbors.two_sample import one_nn_two_sample


def context(
    train: ArrayLike,
    test: ArrayLike,
    samples: ArrayLike,
    *,
    rows: int = 2000,
    seed: int = 0,
    searches: Searches | None = None,
) -> tuple[Result, ...]:
    """Return the measures that reports of generative models often give, each with its value on fresh data.

    Distance to closest record and nearest-neighbour distance ratio (median and 5% quantile), membership by distance
    to the nearest sample, on all rows; leave-one-out 1-NN accuracy, precision, recall, density and coverage on `rows`
    of each set at most. None of them decides whether samples are copies; `cannot_see` of each says why.

    Of `searches` it asks for two training neighbours of samples and held-out examples, and for the nearest sample of
    training and held-out examples.

    Args:
        train: (n_train, *event).
        test: (n_test, *event) held-out examples.
        samples: (n_samples, *event).
        rows: how many rows of each set those take that search sets within themselves.
        seed: of the draw of these rows.
        searches: of these sets, where there are some already.

    Returns:
        `dcr_median`, `dcr_tail`, `nndr_median`, `nndr_tail`, `gan_leaks`, `one_nn_train`, `one_nn_test`, `precision`,
        `recall`, `density`, `coverage`.

    Raises:
        DataError: the sets do not fit together, or `rows` is below 1.
    """
    shared = searches_of(train, test, samples, searches)
    # The ratio asks for two neighbours, the distance then takes the first of these.
    ratio = neighbor_ratio(train, test, samples, searches=shared)
    return (
        *closest_record(train, test, samples, searches=shared),
        *ratio,
        gan_leaks(train, test, samples, searches=shared),
        *one_nn_two_sample(train, test, samples, rows=rows, seed=seed, searches=shared),
        *precision_recall(train, test, samples, rows=rows, seed=seed, searches=shared),
    )
