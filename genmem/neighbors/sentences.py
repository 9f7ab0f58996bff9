"""The verdict in words: what it rests on, what would have gone undetected, and which tests were off."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from genmem.neighbors.exact_copies import Identical
from genmem.neighbors.power import Power
from genmem.neighbors.results import Result
from genmem.neighbors.verdict import Verdict, unexplained
from genmem.neighbors.visible import Visible

_NAMED = 3  # pairs in a sentence


@dataclass(frozen=True, eq=False)
class Told:
    """What a sentence about a verdict draws on.

    Attributes:
        verdict: by `decide`.
        share: of the samples that are copies.
        power: for exact copies.
        power_noisy: for copies with noise.
        identical: samples identical to training examples.
        cautions: what makes the verdict doubtful.
        visible: samples that stand out.
        partner: (m,) the training example closest to each sample.
        n_test: the number of held-out examples.
        off: a sentence for each test that could not take part.
    """

    verdict: Verdict
    share: Result
    power: Power
    power_noisy: Power
    identical: Identical
    cautions: tuple[str, ...]
    visible: Visible
    partner: NDArray[np.int64]
    n_test: int
    off: tuple[str, ...] = ()


def verdict_sentence(told: Told) -> str:
    """Return the verdict in words, with the copying that would have gone undetected."""
    said = {
        "copies found": _found,
        "inspect these pairs": _inspect,
        "sharp but not copying": _sharp,
        "no evidence": _nothing,
    }[told.verdict](told)
    said += _identical(told.identical, told.share.n)
    name = told.verdict.capitalize()
    if not told.cautions:
        return said
    text = said if said.startswith(name) else f"{name}. {said}"
    return f"{' '.join(told.cautions)} With this caution, the verdict is: {text}"


def _found(told: Told) -> str:
    low, high = told.share.interval
    return (
        f"At least {100 * low:.3g}% of the samples are copies of training examples (estimate "
        f"{100 * told.share.value:.3g}%, 95% interval up to {100 * high:.3g}%): samples are closer to training "
        "examples than chance and sharpness explain."
    )


def _inspect(told: Told) -> str:
    return (
        f"Inspect these pairs: {_pairs(told)}. {_gap(told.visible, told.share.n)}. {_no_test(told)} "
        f"{unseen(told.power, told.power_noisy)}"
    )


def _pairs(told: Told) -> str:
    found = told.visible.samples
    pairs = [f"sample {i} and training example {told.partner[i]}" for i in found[:_NAMED].tolist()]
    return "; ".join(pairs) + (", and others" if len(found) > _NAMED else "")


def _gap(visible: Visible, m: int) -> str:
    """Say how far the samples stand out."""
    count, examples = len(visible.samples), visible.examples
    who = f"{count:,} of {m:,} samples" if count > 1 else "One sample"
    whom = f"{examples:,} training examples" if examples > 1 else "one training example"
    than = "any held-out example" if count == m else "any other sample or held-out example"
    measure = ", relative to the local density of the data," if visible.local else ""
    if np.isinf(visible.factor):
        return f"{who} {'are' if count > 1 else 'is'} identical to {whom}, and no held-out example is"
    return (
        f"{who} {'are' if count > 1 else 'is'} at least {visible.factor:.2g} times closer to {whom}{measure} than "
        f"{than} is, a gap that no smooth distribution of distances explains"
    )


def _no_test(told: Told) -> str:
    """Say why no test could decide, and what one needs."""
    have, need = told.n_test, told.visible.held_out
    if need > have:
        return (
            f"With {have:,} held-out examples no calibrated test can call them copies; with {need:,}, so many samples "
            "closer than all of these would do."
        )
    return "No calibrated test reaches the level at which copies count as found."


def _sharp(told: Told) -> str:
    return (
        "Samples are closer to training examples than held-out examples are, but equally close to held-out "
        f"examples: they are sharper than the data, not copies. {_unseen(told)}"
    )


def _nothing(told: Told) -> str:
    if unexplained(told.identical):
        return (
            "Copying is not shown, but it is not excluded: samples are identical to training examples and none "
            "to a held-out example, yet so few distinct examples are hit that all of them may be training "
            f"examples by chance. {_unseen(told)}"
        )
    return f"No evidence of copying. {_unseen(told)}"


def _unseen(told: Told) -> str:
    return " ".join([unseen(told.power, told.power_noisy), *told.off, *_few(told)])


def _few(told: Told) -> list[str]:
    """Name the pairs that stand out, but are so few that the data may contain such pairs themselves."""
    if len(told.visible.samples) == 0:
        return []
    said = _gap(told.visible, told.share.n)
    return [f"Look at {_pairs(told)}: {said[0].lower()}{said[1:]}; so few may be close pairs that the data contain."]


def unseen(power: Power, noisy: Power) -> str:
    """Return what share of copies would have gone undetected, in words: copies with noise first, the harder case."""
    if power.trials == 0:
        return power.sentence
    moved = (
        f"copies with noise (moved by {noisy.noise:g} times the median distance of a held-out example to the training "
        "set)"
    )
    if np.isnan(power.smallest):
        return (
            "There are too few examples: even if all samples were exact copies, this would go undetected (power "
            f"{power.at:.0%})."
        )
    less = "that make up less than {:.3g}% of the samples"
    exact = f"so would exact copies {less.format(100 * power.smallest)}."
    if np.isnan(noisy.smallest):
        return f"Even if all samples were {moved}, this would go undetected (power {power.at:.0%}); {exact}"
    return (
        f"{moved.capitalize()} {less.format(100 * noisy.smallest)} would go undetected (power {power.at:.0%}); {exact}"
    )


def _identical(identical: Identical, n: int) -> str:
    if not identical.any_train:
        return ""
    said = f" {identical.any_train:,} of {n:,} samples are identical to a training example"
    return f"{said}, {identical.at_test:,} to a held-out example." if identical.at_test else f"{said}."
