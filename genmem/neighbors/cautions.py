"""What a reader must know before a verdict, and which tests could not take part in it."""

from collections.abc import Sequence

import numpy as np

from genmem.neighbors.belonging import beside_in_file
from genmem.neighbors.results import Result
from genmem.neighbors.sets import Sets
from genmem.neighbors.verdict import ALPHA, GATHERED, SCAN

RANKS = int(np.ceil(1 / GATHERED)) - 1  # held-out examples that the criterion by neighbourhoods needs


def differs(source: Result, spread: Result) -> bool:
    """Return whether training and held-out examples differ beyond chance, so that no comparison with both is valid."""
    return bool(source.p_value <= ALPHA or spread.p_value <= ALPHA)


def cautions_of(sets: Sets, tests: Sequence[Result], seed: int) -> tuple[str, ...]:
    """Return what makes the verdict doubtful, a sentence or two each: another source, groups in both sets, clusters."""
    named = {test.name: test for test in tests}
    return (*_other_source(named["same_source"], named["same_spread"]), *_in_both(sets), *_clustered(sets, seed))


def _other_source(source: Result, spread: Result) -> list[str]:
    if not differs(source, spread):
        return []
    why = source if source.p_value <= ALPHA else spread
    return [
        "Training and held-out examples differ beyond chance; unless they are from one source, no comparison with "
        f"held-out examples is valid. {why.sentence}"
    ]


def _in_both(sets: Sets) -> list[str]:
    groups, rows = (0, 0) if sets.own is None else sets.own.shared
    if not groups:
        return []
    which = "1 group is" if groups == 1 else f"{groups:,} groups are"
    return [
        f"{which} in the training and in the held-out set: {rows:,} of {len(sets.test):,} held-out examples are no "
        "held-out examples, and a copy of an example of such a group does not count as one."
    ]


def _clustered(sets: Sets, seed: int) -> list[str]:
    """Say that rows look as if they belong together, if no groups were given."""
    if sets.own is not None:
        return []
    first = [
        np.unique(groups, return_index=True)[1] for groups in sets.identical[:2]
    ]  # identical rows are linked anyway
    rows = {"training": sets.train[np.sort(first[0])], "held-out": sets.test[np.sort(first[1])]}
    found = {name: beside_in_file(distinct, seed) for name, distinct in rows.items()}
    worst = max(found, key=lambda name: found[name])
    if found[worst] == 0:
        return []
    return [
        f"The {worst} examples look as if some belong together: {found[worst]:.0%} of them, beyond chance, have their "
        "closest example within 10 rows of the file. The tests take rows as independent; if there are films, patients "
        "or versions of one example, pass groups (--group-column NAME, --groups folders)."
    ]


def off_of(sets: Sets, scan: Result, *, rows: float) -> tuple[str, ...]:
    """Return a sentence for each criterion of "copies found" that could not take part, with what it needs.

    Args:
        sets: the three sets.
        scan: of `scan_share_test`.
        rows: how many training examples, each copied once, are detected as identical (`fewest_rows`).
    """
    off = []
    if 1 / (1 + len(scan.details["null_draws"])) > SCAN:
        off.append(f"The scan was off: it needs examples that allow {round(1 / SCAN)} permutations of their labels.")
    count = len(sets.held_out_ratios)
    what = "held-out examples" if count == len(sets.test) else "groups of held-out examples"
    if sets.own is not None and sets.own.samples is not None:
        off.append("The test by neighbourhoods was off: it needs independent samples.")
    elif count < RANKS:
        off.append(f"The test by neighbourhoods was off: it needs {RANKS} {what}; there are {count:,}.")
    elif np.sort(sets.held_out_ratios)[int(GATHERED * (count + 1)) - 1] == 0:
        off.append("The test by neighbourhoods was off: too many held-out examples are identical to training examples.")
    if not np.isfinite(rows):
        off.append(
            "The test by identical examples was off: it needs more training examples that are identical to no "
            "held-out example."
        )
    return tuple(off)
