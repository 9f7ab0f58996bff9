"""Is memorization local? The verdict follows from the judged comparisons by rule, never by taste.

"local": in the comparison with networks that did not train on the examples, the chosen units matter more than units of
the same damage, by sign flips over repeats and by exchange within pairs. "not local": they do not, and the smallest
effect that would have been seen is told as a share of the memorization score. "no claim": a control failed, or there
is no positive one because the networks cannot learn an example by a few units.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike
from scipy import stats as scipy_stats

from genmem.neurons.contrast import FloatArray
from genmem.neurons.judge import SPLITS, Evidence, Judgement, judge, permutation_p
from genmem.neurons.repeats import LEVEL
from genmem.protocols import Brief, Listener, Progress, figure, ignore
from genmem.stats import mean_interval

PERMUTATIONS = 99
DECIDES = "out"
NEGATIVE = "not memorized"  # the negative control of the comparison that decides
INJECTED = "injected example"
UNMEMORIZED = 0.05  # of the memorized examples' score: above it, examples serve badly as not memorized
LEAST_INJECTED = 4  # networks that learned their example by a few units, for a positive control
VOIDS = {"in": "held out", "fragile": "held out"}  # comparison -> the control that voids it
SURE = 0.01  # level at which too many permutations count as a failure
MATCHED = 0.8  # least share of damage-matched sets, at the size that is called local
ADDITIVE = (0.8, 1.25)  # joint drop over the sum of single drops
LOCAL, NOT_LOCAL, NO_CLAIM = "local", "not local", "no claim"


@dataclass(frozen=True)
class Control(Brief):
    """A control of the method: whether it passed, and the number that decided."""

    name: str
    passed: bool
    value: float
    sentence: str

    def headline(self) -> str:
        """Return the size and the main figures."""
        return f"{self.name} {'passed' if self.passed else 'FAILED'}, {figure(self.value)}"


@dataclass(frozen=True, eq=False)
class Verdict(Brief):
    """Whether memorization is local.

    Attributes:
        verdict: "local", "not local" or "no claim".
        sentence: the verdict in words, with what would have been seen or the control that failed.
        judgements: by comparison, see `genmem.neurons.examples.COMPARISONS`; those with enough pairs.
        controls: of the method, in order.
        void: comparisons whose negative control found units too: they show that memorized examples are unusual, not
            where they are memorized.
        memorization: (repeats,) mean memorization score of the examples that were judged, in each repeat.
        permutation_p: p-value of the deciding comparison under exchange within pairs.
        detectable: (sizes,) smallest detectable effect as a share of the mean memorization score.
    """

    verdict: str
    sentence: str
    judgements: Mapping[str, Judgement]
    controls: Sequence[Control]
    void: tuple[str, ...]
    memorization: FloatArray
    permutation_p: float
    detectable: FloatArray

    def headline(self) -> str:
        """Return the size and the main figures."""
        return f"{self.verdict}, {len(self.memorization):,} repeats, p {figure(self.permutation_p)}"


def decide(
    networks: Sequence[Evidence],
    memorization: ArrayLike,
    *,
    unmemorized: ArrayLike | None = None,
    recall: ArrayLike | None = None,
    chance: float = 0.05,
    additivity: ArrayLike | None = None,
    splits: int = SPLITS,
    sizes: Sequence[int] | None = None,
    permutations: int = PERMUTATIONS,
    seed: int = 0,
    progress: Listener = ignore,
) -> Verdict:
    """Judge every comparison, run the controls, and return the verdict.

    Args:
        networks: the evidence of every network; complementary networks share a repeat.
        memorization: (repeats,) mean score of the memorized examples in each repeat, nats.
        unmemorized: the same of examples that count as not memorized; it is told where their control fails.
        recall: of units with an injected example, one number for each injection, NaN if the example did not gain
            enough; None leaves that control out.
        chance: the recall of random units.
        additivity: joint drop over the sum of single drops, one for each network; None leaves that control out.
        splits: random halves, see `judge`.
        sizes: numbers of units; by default `genmem.neurons.contrast.grid`.
        permutations: exchanges within pairs.
        seed: of all choices.
        progress: is told of comparisons done.

    Raises:
        DataError: see `judge`.
    """
    judgements, names = {}, [name for name in networks[0].pairs if _enough(networks, name)]
    for number, name in enumerate(names):
        progress(Progress("neurons", number, len(names) + 1, f"judging: {name}"))
        judgements[name] = judge(networks, name, splits=splits, sizes=sizes, seed=seed)
    progress(Progress("neurons", len(names), len(names) + 1, "permuting labels"))
    p, found = permutation_p(
        networks, DECIDES, permutations=permutations, splits=min(splits, 10), sizes=sizes, seed=seed
    )
    scores = np.asarray(memorization, float)
    controls = [
        _memorized(scores),
        _permuted(found, permutations),
        *([_negative(judgements[NEGATIVE], unmemorized, scores)] if NEGATIVE in judgements else []),
        *([] if recall is None else [_recalled(np.asarray(recall, float), chance)]),
        *([] if additivity is None else [_additive(np.asarray(additivity, float))]),
    ]
    return _ruled(judgements, controls, scores, p)


def _enough(networks: Sequence[Evidence], name: str) -> bool:
    """Whether two repeats or more have pairs enough; the deciding comparison is judged in any case."""
    return name == DECIDES or len({n.repeat for n in networks if len(n.pairs[name]) >= 4}) >= 2


def _ruled(judgements: Mapping[str, Judgement], controls: Sequence[Control], scores: FloatArray, p: float) -> Verdict:
    decisive = judgements[DECIDES]
    tested, total = decisive.against("damage"), float(scores.mean())
    detectable = tested.detectable / total if total > 0 else np.full(len(tested.detectable), np.nan)
    local = tested.p_any <= LEVEL and p <= LEVEL
    if local:
        controls = [*controls, _matched(decisive)]
    failed = [control for control in controls if not control.passed]
    best, size = tested.best, decisive.sizes[tested.best]
    low, high = tested.interval[best]
    effect = f"{tested.mean[best]:.2f} nats (95% interval {low:.2f} to {high:.2f})"
    units = f"{size} unit{'s' if size > 1 else ''}"
    if failed:
        verdict, sentence = NO_CLAIM, f"No claim: control {failed[0].name} failed. {failed[0].sentence}"
    elif local:
        verdict = LOCAL
        sentence = (
            f"Memorization is local: ablating {units} lowers log p of memorized examples by {effect} more than "
            f"ablating units of the same damage, beyond what it does where the examples were left out: "
            f"{tested.mean[best] / total:.0%} of the memorization score."
        )
    else:
        verdict = NOT_LOCAL
        sentence = (
            f"Memorization is not local in up to {max(decisive.sizes)} units: the largest effect beyond units of the "
            f"same damage is {effect}, of {units}. An effect of {np.max(detectable):.0%} of the memorization score "
            "would have been seen with a power of 80%."
        )
    if not failed and INJECTED not in {control.name for control in controls}:
        sentence += " The positive control, an injected example, was left out."
    void = tuple(
        name
        for name, control in VOIDS.items()
        if name in judgements and control in judgements and judgements[control].against().p_any <= LEVEL
    )
    return Verdict(verdict, sentence, judgements, tuple(controls), void, scores, p, np.asarray(detectable))


def _memorized(scores: FloatArray) -> Control:
    mean, _, (low, high) = mean_interval(scores)
    said = f"The mean score of the chosen examples in other repeats is {mean:.2f} nats ({low:.2f} to {high:.2f})."
    return Control("memorization", bool(low > 0), mean, said)


def _permuted(found: float, permutations: int) -> Control:
    count = round(found * permutations)
    p = float(scipy_stats.binom.sf(count - 1, permutations, LEVEL))
    said = f"With cases and controls exchanged at random, {found:.0%} of {permutations} tests found units; 5% should."
    return Control("permuted labels", p > SURE, found, said)


def _negative(judged: Judgement, unmemorized: ArrayLike | None, scores: FloatArray) -> Control:
    p = judged.against().p_any
    said = f"For examples that are not memorized, trained on against held out, the same test has p = {p:.3f}."
    if p <= LEVEL and unmemorized is not None:
        own, most = float(np.asarray(unmemorized, float).mean()), float(scores.mean())
        said += f" Their own score is {own:.2f} nats, against {most:.2f} of the memorized ones."
        if own > UNMEMORIZED * most:
            said += " They are memorized, too: with fewer epochs or more data, some examples would not be."
    return Control("examples that are not memorized", p > LEVEL, p, said)


def _recalled(recall: FloatArray, chance: float) -> Control:
    learned = recall[np.isfinite(recall)]
    if len(learned) < LEAST_INJECTED:
        said = f"The injected example gained enough in {len(learned)} of {len(recall)} networks, {LEAST_INJECTED} are "
        why = "needed: without a positive control nothing shows that units with memory would be found."
        return Control(INJECTED, False, float(learned.mean()) if len(learned) else float("nan"), said + why)
    mean, _, (low, high) = mean_interval(learned)
    said = f"Of the units with an injected example, {mean:.0%} ({low:.0%} to {high:.0%}) are found; {chance:.0%} are "
    return Control(INJECTED, bool(low > chance), mean, f"{said}by chance.")


def _additive(ratio: FloatArray) -> Control:
    mean, _, (low, high) = mean_interval(ratio)
    said = f"Ablated together, the chosen units lower log p by {mean:.2f} ({low:.2f} to {high:.2f}) of the sum of "
    apart = low > ADDITIVE[1] or high < ADDITIVE[0]  # the interval lies outside; a wide one does not
    return Control("additivity", not apart, mean, f"{said}what they do one by one.")


def _matched(judged: Judgement) -> Control:
    share = float(judged.matched[judged.against().best])
    said = f"Of the random sets of units, {share:.0%} have a damage within 10% of that of the chosen ones."
    return Control("damage matching", share >= MATCHED, share, said)
