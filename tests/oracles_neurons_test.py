"""Slow, obvious versions of the causal test of `genmem.neurons`: loops over splits, units, layers and patterns."""

import itertools

import numpy as np
from scipy import stats


def contrast(drops, cases, controls, damage):
    found = []
    for unit in range(drops.shape[1]):
        difference = np.mean([drops[i, unit] for i in cases]) - np.mean([drops[i, unit] for i in controls])
        harm = np.mean([drops[i, unit] for i in damage])
        found.append(difference / ((harm if harm > 0 else 0) + 0.1))
    return np.array(found)


def effects(drops, layers, magnitude, cases, controls, damage, first_halves, size, matches=None):
    """Return the mean over splits of the contrast of the best units on the other half, alone and minus baselines.

    `first_halves` holds for every split the numbers of the pairs that discover; `matches[split]` the damage-matched
    sets of units of that split.
    """
    found = {name: [] for name in ("none", "random", "magnitude", "damage")}
    for split, first in enumerate(first_halves):
        other = [pair for pair in range(len(cases)) if pair not in first]
        scores = contrast(drops, [cases[p] for p in first], [controls[p] for p in first], damage)
        chosen = sorted(range(len(scores)), key=lambda unit: (-scores[unit], unit))[:size]

        def judged(units, other=other):
            return sum(np.mean([drops[cases[p], u] - drops[controls[p], u] for p in other]) for u in units)

        alike = [[u for u in range(len(layers)) if layers[u] == layer] for layer in sorted(set(layers))]
        counts = [sum(u in layer for u in chosen) for layer in alike]
        sets = itertools.product(
            *(itertools.combinations(units, count) for units, count in zip(alike, counts, strict=True))
        )
        largest = [
            unit
            for units, count in zip(alike, counts, strict=True)
            for unit in sorted(units, key=lambda u: (-magnitude[u], u))[:count]
        ]
        found["none"].append(judged(chosen))
        found["random"].append(judged(chosen) - np.mean([judged(sum(one, ())) for one in sets]))
        found["magnitude"].append(judged(chosen) - judged(largest))
        if matches is not None:
            found["damage"].append(judged(chosen) - np.mean([judged(one) for one in matches[split]]))
    return {name: np.mean(values) for name, values in found.items() if values}


def flipped_p(effects):
    """Return the max-T p-value of every size by all patterns of signs of the repeats, and the t intervals."""

    def t(values):
        return [stats.ttest_1samp(column, 0).statistic for column in np.transpose(values)]

    observed, largest = t(effects), []
    for signs in itertools.product((1, -1), repeat=len(effects)):
        largest.append(max(t([sign * row for sign, row in zip(signs, effects, strict=True)])))
    p = [np.mean([one >= value - 1e-9 for one in largest]) for value in observed]
    intervals = [stats.ttest_1samp(column, 0).confidence_interval(0.95) for column in np.transpose(effects)]
    return np.array(p), np.array(intervals)


def means_without(log_probs, held_out, repeat, left_out):
    inside, outside = [], []
    for example in range(log_probs.shape[1]):
        others = [row for row in range(len(repeat)) if repeat[row] != left_out]
        inside.append(np.mean([log_probs[row, example] for row in others if not held_out[row, example]]))
        outside.append(np.mean([log_probs[row, example] for row in others if held_out[row, example]]))
    return np.array(inside), np.array(outside)
