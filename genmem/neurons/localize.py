"""Is memorization local in trained networks? Collects the evidence of each network, and judges all of it."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from genmem.errors import DataError
from genmem.neurons.contrast import FloatArray, Rows, grid, per_damage, strongest
from genmem.neurons.drops import Drops, drops, joint_drop
from genmem.neurons.examples import SHARE, Chosen, choose, means_without
from genmem.neurons.injection import Injected, inject
from genmem.neurons.judge import SPLITS, Evidence, by_repeat
from genmem.neurons.repeats import over_repeats
from genmem.neurons.unit_weights import weight_norms
from genmem.neurons.units import Unit, module_of
from genmem.neurons.verdict import NEGATIVE, PERMUTATIONS, Verdict, decide
from genmem.protocols import Listener, Progress, ignore
from genmem.run.storage import Arrays
from genmem.seeding import seed_for, stream

LEAST_REPEATS = 8
CHANCE = 0.05  # share of the units in which those of an injected example are looked for


@dataclass(frozen=True, eq=False)
class Measured:
    """The evidence of one network, with what was ablated for real.

    Attributes:
        evidence: its drops and pairs.
        positions: (m,) the examples of the rows of the drops.
        joint: (2, sizes) mean drop of the chosen units together: of memorized examples that did not choose them, and
            of such examples where they were held out.
        summed: (2, sizes) the same for the sum of their single drops.
        recall: share of the units of an injected example among the top 5%; NaN if it did not gain enough.
        gain: nats that the injection gained; NaN if none was tried.
        overlap: by comparison, the share of cases with a control within 1 nat.
    """

    evidence: Evidence
    positions: Rows
    joint: FloatArray
    summed: FloatArray
    recall: float
    gain: float
    overlap: Mapping[str, float]


@dataclass(frozen=True, eq=False)
class Design:
    """Networks trained on halves: what each held out, and log p of all examples under each.

    Attributes:
        X: (n, *event) the examples.
        log_probs: (networks, n) nats; a row that is not finite is a network that failed.
        held_out: (networks, n) bool.
        repeat: (networks,) complementary networks share a repeat.
    """

    X: NDArray[Any]
    log_probs: FloatArray
    held_out: NDArray[np.bool_]
    repeat: Rows

    def __post_init__(self) -> None:
        n, count = len(self.X), len(self.repeat)
        shapes = {np.shape(self.log_probs), np.shape(self.held_out)}
        if shapes != {(count, n)}:
            raise DataError(
                expected=f"log_probs and held_out of shape ({count}, {n}): one row for each network",
                got=f"shapes {np.shape(self.log_probs)} and {np.shape(self.held_out)}",
                do="Pass one row of each for every network, in the order of the networks.",
            )
        refuse_few(len(np.unique(self.repeat)))

    def chosen(self, network: int, share: float, seed: int) -> Chosen:
        """Return the examples to compare in one network; see `genmem.neurons.examples.choose`."""
        means = means_without(self.log_probs, self.held_out, self.repeat, int(self.repeat[network]))
        return choose(means, self.held_out[network], share=share, seed=seed, network=network)

    def memorization(self, share: float, seed: int) -> FloatArray:
        """Return in each repeat the mean score, by that repeat alone, of examples chosen by the others: (repeats,)."""
        return self._scores(lambda network: self.chosen(network, share, seed).memorized)

    def unmemorized(self, share: float, seed: int) -> FloatArray:
        """Return the same of the examples with the scores closest to 0, which are a control: (repeats,)."""
        return self._scores(lambda network: self.chosen(network, share, seed).pairs[NEGATIVE].ravel())

    def _scores(self, examples_for: Callable[[int], Rows]) -> FloatArray:
        found = []
        for repeat in np.unique(self.repeat):
            rows = np.flatnonzero((self.repeat == repeat) & np.isfinite(self.log_probs).all(1))
            some = examples_for(int(np.flatnonzero(self.repeat == repeat)[0]))
            values, out = self.log_probs[np.ix_(rows, some)], self.held_out[np.ix_(rows, some)]
            there = out.any(0) & (~out).any(0)
            if there.any():
                inside, outside = (np.where(w, values, 0).sum(0) / np.maximum(w.sum(0), 1) for w in (~out, out))
                found.append(float((inside - outside)[there].mean()))
        return np.asarray(found)


def refuse_few(repeats: int, seconds: float | None = None) -> None:
    """Check that there are repeats enough for the test.

    Raises:
        DataError: there are fewer than 8; the message tells how many networks are needed, and what they cost.
    """
    if repeats >= LEAST_REPEATS:
        return
    cost = "" if not seconds else f" These take about {seconds / 60:.0f} minutes here."
    raise DataError(
        expected=f"{LEAST_REPEATS} repeats or more, of 2 complementary halves each: {2 * LEAST_REPEATS} networks",
        got=f"{repeats}",
        do=f"Train more networks: with fewer repeats no sign-flip test over sizes has power.{cost}",
    )


def measure(
    network: Any,
    design: Design,
    number: int,
    *,
    share: float = SHARE,
    seed: int = 0,
    injection: bool = True,
    units: Sequence[Unit] | None = None,
    **how: Any,
) -> Measured:
    """Return the evidence of one network: a pure function of the network, the design and its number.

    Args:
        network: a fitted density, or its network.
        design: of all networks.
        number: the row of this network.
        share: of the examples that count as memorized.
        seed: of all choices.
        injection: whether the positive control is done.
        units: that are ablated; all of `units_of` by default.
        how: further settings of `drops`.
    """
    chosen, held_out = design.chosen(number, share, seed), design.held_out[number]
    positions, X = chosen.used, np.asarray(design.X)
    how = {"seed": seed_for(seed, "neurons draws", number), "reference": X[~held_out], **how}
    found = drops(network, X[positions], units, **how)
    evidence = _evidence(network, found, chosen, positions, int(design.repeat[number]))
    rng = stream(seed, "neurons confirm", number)
    joint, summed = confirm(network, X[positions], found, evidence, rng, **how)
    injected = None
    if injection:
        how["seed"] = seed_for(seed, "injection", number)
        injected = _injected(network, design, number, found, evidence, positions, how)
    return Measured(evidence, positions, joint, summed, *_told(injected), chosen.overlap)


def _injected(
    network: Any,
    design: Design,
    number: int,
    found: Drops,
    evidence: Evidence,
    positions: Rows,
    how: Mapping[str, Any],
) -> Injected:
    """Inject the held-out example with the lowest log p among those for the damage; if it cannot gain enough, of all.

    The lower log p of an example is, the more it has to gain. The lowest of all are the examples that are memorized
    where they are trained on, which are left aside if possible.
    """
    scored, held_out = evidence.damage[1], np.flatnonzero(design.held_out[number])
    damage = found.values[evidence.damage[0]].mean(0)
    first = positions[scored[np.argmin(found.log_prob[scored])]]
    last = held_out[np.argmin(design.log_probs[number, held_out])]
    done = inject(network, design.X[first], found.units, damage, **how)
    if np.isnan(done.recall) and last != first:
        done = max(done, inject(network, design.X[last], found.units, damage, **how), key=lambda one: one.gain)
    return done


def _told(injected: Injected | None) -> tuple[float, float]:
    return (np.nan, np.nan) if injected is None else (injected.recall, injected.gain)


def _evidence(network: Any, found: Drops, chosen: Chosen, positions: Rows, repeat: int) -> Evidence:
    def rows(of: Rows) -> Rows:
        return np.searchsorted(positions, of)

    numbers = {layer: number for number, layer in enumerate(found.layers)}
    return Evidence(
        drops=found.values,
        layers=np.array([numbers[layer] for layer, _ in found.units]),
        magnitude=weight_norms(module_of(network), found.units),
        pairs={name: rows(pairs) for name, pairs in chosen.pairs.items()},
        damage=(rows(chosen.damage[0]), rows(chosen.damage[1])),
        repeat=repeat,
    )


def confirm(
    network: Any,
    X: NDArray[Any],
    found: Drops,
    evidence: Evidence,
    rng: np.random.Generator,
    *,
    comparison: str = "out",
    sizes: Sequence[int] | None = None,
    **how: Any,
) -> tuple[FloatArray, FloatArray]:
    """Ablate the chosen units together, for real: mean joint drops and mean sums of single drops, (2, sizes), nats.

    Units are chosen on a random half of the pairs; drops are those of the cases, and of the controls, of the other.
    """
    pairs = evidence.pairs[comparison]
    order = rng.permutation(len(pairs))
    first, second = pairs[order[: len(pairs) // 2]], pairs[order[len(pairs) // 2 :]]
    sizes = grid(len(found.units)) if sizes is None else tuple(sizes)
    raw = found.values[first[:, 0]].mean(0) - found.values[first[:, 1]].mean(0)
    scores = per_damage(raw, found.values[evidence.damage[0]].mean(0))
    masks = [strongest(scores, size) for size in sizes]
    sets = [[found.units[i] for i in np.flatnonzero(mask)] for mask in masks]
    rows = second.T.ravel()  # the cases, then the controls
    joint = joint_drop(network, X[rows], sets, **how)
    # the same rows alone, so that the draws are those of the joint drops
    alone = drops(network, X[rows], sorted({unit for some in sets for unit in some}), **how)
    at = {unit: column for column, unit in enumerate(alone.units)}
    summed = np.stack([alone.values[:, [at[unit] for unit in some]].sum(1) for some in sets], axis=1)
    return _by_side(joint), _by_side(summed)


def _by_side(values: FloatArray) -> FloatArray:
    """Return the means of the first and of the second half of the rows."""
    return np.asarray(values.reshape(2, -1, values.shape[1]).mean(1))


def localize(
    networks: Sequence[Any],
    X: NDArray[Any],
    log_probs: ArrayLike,
    held_out: ArrayLike,
    repeat: ArrayLike,
    *,
    share: float = SHARE,
    splits: int = SPLITS,
    permutations: int = PERMUTATIONS,
    injection: bool = True,
    seed: int = 0,
    progress: Listener = ignore,
    **how: Any,
) -> Verdict:
    """Test whether memorization is local in networks trained on halves of the data.

    A run does all of it with `genmem.stages.neurons(run)`, which trains such networks and resumes.

    Args:
        networks: fitted densities or networks, one for each row of `held_out`.
        X: (n, *event) the examples.
        log_probs: (networks, n) log p of every example under every network, nats.
        held_out: (networks, n) which examples a network was not trained on.
        repeat: (networks,) the repeat of each network: `Splits.subsets(n, .5, 16)` has 8 of 2.
        share: of the examples, those with the highest scores, that count as memorized.
        splits: random halves of the pairs of examples, see `genmem.neurons.judge`.
        permutations: exchanges within pairs.
        injection: whether the positive control is done in every network.
        seed: of all choices.
        progress: is told of networks done.
        how: settings of `drops`, such as baseline="resample".

    Raises:
        DataError: there are fewer than 8 repeats, or too few examples.
        ModelError: a network has no units.
    """
    design = Design(
        np.asarray(X), np.asarray(log_probs, float), np.asarray(held_out, bool), np.asarray(repeat, np.intp)
    )
    measured = []
    for number, network in enumerate(networks):
        progress(Progress("neurons", number, len(networks) + 1, f"network {number + 1} of {len(networks)}"))
        measured.append(measure(network, design, number, share=share, seed=seed, injection=injection, **how))
    return conclude(measured, design, share=share, splits=splits, permutations=permutations, seed=seed)


def conclude(
    measured: Sequence[Measured],
    design: Design,
    *,
    share: float = SHARE,
    splits: int = SPLITS,
    permutations: int = PERMUTATIONS,
    seed: int = 0,
    progress: Listener = ignore,
) -> Verdict:
    """Return the verdict on the evidence of all networks; see `localize`."""
    tried = [one for one in measured if not np.isnan(one.gain)]
    return decide(
        [one.evidence for one in measured],
        design.memorization(share, seed),
        unmemorized=design.unmemorized(share, seed),
        recall=[one.recall for one in tried] if tried else None,
        chance=CHANCE,
        additivity=additivity(measured),
        splits=splits,
        permutations=permutations,
        seed=seed,
        progress=progress,
    )


def additivity(measured: Sequence[Measured]) -> FloatArray:
    """Return the joint drop over the sum of single drops, of the largest set and the memorized examples: (repeats,)."""
    repeats = [one.evidence.repeat for one in measured]
    joint, summed = (
        by_repeat([getattr(one, name)[0, -1] for one in measured], repeats) for name in ("joint", "summed")
    )
    return np.asarray(joint / summed)


def confirmed(measured: Sequence[Measured]) -> tuple[FloatArray, FloatArray]:
    """Return how much more the joint ablation of chosen units costs where examples were trained on than held out.

    Mean (sizes,) and 95% intervals (sizes, 2) over repeats, nats.
    """
    effects = by_repeat([one.joint[0] - one.joint[1] for one in measured], [one.evidence.repeat for one in measured])
    tested = over_repeats(effects)
    return tested.mean, tested.interval


# --- storage


def to_arrays(measured: Measured) -> Arrays:
    """Return the evidence of a network as named arrays."""
    evidence = measured.evidence
    pairs = {f"pairs/{name}": rows for name, rows in evidence.pairs.items()}
    return {
        "drops": evidence.drops,
        "layers": evidence.layers,
        "magnitude": evidence.magnitude,
        "damage": np.stack(evidence.damage),
        "repeat": np.asarray(evidence.repeat),
        **pairs,
        "positions": measured.positions,
        "joint": measured.joint,
        "summed": measured.summed,
        "injected": np.array([measured.recall, measured.gain]),
        **{f"overlap/{name}": np.asarray(share) for name, share in measured.overlap.items()},
    }


def from_arrays(arrays: Mapping[str, NDArray[Any]]) -> Measured:
    """Return what `to_arrays` stored."""
    pairs, overlap = (
        {name.removeprefix(kind): value for name, value in arrays.items() if name.startswith(kind)}
        for kind in ("pairs/", "overlap/")
    )
    evidence = Evidence(
        arrays["drops"],
        arrays["layers"],
        arrays["magnitude"],
        pairs,
        (arrays["damage"][0], arrays["damage"][1]),
        int(arrays["repeat"]),
    )
    recall, gain = arrays["injected"].tolist()
    shares = {name: float(share) for name, share in overlap.items()}
    return Measured(evidence, arrays["positions"], arrays["joint"], arrays["summed"], recall, gain, shares)
