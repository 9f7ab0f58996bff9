"""Are samples and data told apart by their nearest neighbours?"""

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import stats

from genmem.neighbors.results import Result
from genmem.neighbors.searches import Name, Searches, searches_of
from genmem.neighbors.subsets import rows_of_each, some_rows
from genmem.search import nearest
from genmem.seeding import stream
from genmem.stats import rank_p

_RELABELLINGS = 999
_CITATION = (
    "An Empirical Study on Evaluation Metrics of Generative Adversarial Networks (Xu et al., 2018), "
    "https://arxiv.org/abs/1806.07755"
)


def one_nn_two_sample(
    train: ArrayLike,
    test: ArrayLike,
    samples: ArrayLike,
    *,
    rows: int = 2000,
    seed: int = 0,
    searches: Searches | None = None,
) -> tuple[Result, Result]:
    """Return the leave-one-out accuracy of 1-NN between samples and training examples, and held-out examples.

    As many rows of each are pooled, each takes the label of its nearest other row, ties at random. Near 1, the two
    differ; below its null, (n - 1) / (2n - 1), each row has its copy on the other side. The p-value counts random
    relabellings of the same neighbours; the interval is normal, with the standard deviation of these.

    Args:
        train: (n_train, *event).
        test: (n_test, *event) held-out examples.
        samples: (n_samples, *event).
        rows: how many rows of each set to use at most; they are drawn by the seed.
        seed: of the draw of rows, of ties and of relabellings.
        searches: of these sets, where there are some already; only their rows are used.

    Returns:
        `one_nn_train` with a p-value for a low accuracy, and `one_nn_test`, which is no test of copying: its p-value
        of samples differing from data, one-sided, is `details["p_different"]` (in both).

    Raises:
        DataError: the sets do not fit together, or `rows` is below 1.

    References:
        Revisiting Classifier Two-Sample Tests (Lopez-Paz & Oquab, 2017), https://arxiv.org/abs/1610.06545
        An Empirical Study on Evaluation Metrics of Generative Adversarial Networks (Xu et al., 2018),
        https://arxiv.org/abs/1806.07755
    """
    shared = searches_of(train, test, samples, searches)
    count = rows_of_each(shared, rows)
    return _against(shared, "train", count, seed), _against(shared, "test", count, seed)


def _against(shared: Searches, name: Name, count: int, seed: int) -> Result:
    same = _same_label(_neighbours(shared, name, count, seed), count, seed)
    accuracy, null = float(same[0]), (count - 1) / (2 * count - 1)
    half = float(stats.norm.ppf(0.975) * same[1:].std())
    whom = "training examples" if name == "train" else "held-out examples"
    p_low, p_high = (float(rank_p(sign * same[0], sign * same[1:])) for sign in (-1, 1))
    return Result(
        name=f"one_nn_{name}",
        title=f"Leave-one-out 1-NN accuracy, samples against {whom}",
        value=accuracy,
        null=null,
        interval=(max(0.0, accuracy - half), min(1.0, accuracy + half)),
        p_value=p_low if name == "train" else np.nan,
        direction="lower" if name == "train" else "either",
        n=2 * count,
        sentence=f"{count:,} samples and {count:,} {whom} are told apart by their nearest neighbour in {accuracy:.1%} "
        f"of cases; {null:.1%} would be right by chance.",
        cannot_see=_blind(name, count, len(shared[name])),
        citation=_CITATION,
        details={"p_lower": p_low, "p_different": p_high, "sd": float(same[1:].std())},
    )


def _blind(name: Name, count: int, there: int) -> str:
    if name == "test":
        return "Copying: it looks at held-out examples only and says whether samples differ from data."
    part = f"Copies whose originals are not among the {count:,} of {there:,} training examples used. " * (count < there)
    return part + "A minority of copies among samples that otherwise differ from the data: the two cancel."


def _neighbours(shared: Searches, name: Name, count: int, seed: int) -> NDArray[np.intp]:
    """Return the nearest other row of each of the pooled rows (2 * count,): the set's rows first, then the samples."""
    real, made = some_rows(shared, name, count, seed), some_rows(shared, "samples", count, seed)
    # Ties go to the lower index: in a random order, to neither side.
    order = stream(seed, "order of the pool").permutation(2 * count)
    pool = np.concatenate([real, made])[order]
    _, found = nearest(pool, pool, 1, exclude=np.arange(2 * count))
    neighbour = np.empty(2 * count, np.intp)
    neighbour[order] = order[found[:, 0]]
    return neighbour


def _same_label(neighbour: NDArray[np.intp], count: int, seed: int) -> NDArray[np.float64]:
    """Return the share of rows with their neighbour's label: as it is, then under random relabellings."""
    labels = np.repeat([False, True], count)
    random = stream(seed, "relabellings").permuted(np.tile(labels, (_RELABELLINGS, 1)), axis=1)
    every = np.concatenate([labels[None], random])
    same: NDArray[np.float64] = (every == every[:, neighbour]).mean(axis=1)
    return same
