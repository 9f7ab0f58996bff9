"""The slow, obvious version of what null distributions and balanced scores rest on, one example at a time."""

import numpy as np
from scipy.optimize import minimize


def variance_ratio_by_loop(log_probs, held_out, repeat):
    """Return how many times the variance of log p out exceeds that in, plus a jackknife error over the first repeat's
    splits; 1 or more. For one split out per repeat, and examples without a score in every repeat left out."""
    repeats = sorted(set(repeat))
    above, below = {}, {}
    for i in range(log_probs.shape[1]):
        ins = [
            [x for x, r, o in zip(log_probs[:, i], repeat, held_out[:, i], strict=True) if r == q and not o]
            for q in repeats
        ]
        outs = [
            [x for x, r, o in zip(log_probs[:, i], repeat, held_out[:, i], strict=True) if r == q and o]
            for q in repeats
        ]
        if not all(map(len, outs)):
            continue
        v_score = np.var([np.mean(a) - b[0] for a, b in zip(ins, outs, strict=True)], ddof=1)
        v_in = sum(np.sum((np.array(a) - np.mean(a)) ** 2) for a in ins) / sum(len(a) - 1 for a in ins)
        split = next(s for s in range(len(repeat)) if held_out[s, i])
        above.setdefault(split, []).append(v_score - v_in * np.mean([1 / len(a) for a in ins]))
        below.setdefault(split, []).append(v_in)
    left = []
    for without in above:
        kept = [split for split in above if split != without]
        left.append(sum(sum(above[s]) for s in kept) / sum(sum(below[s]) for s in kept))
    error = np.sqrt((len(left) - 1) / len(left) * np.sum((np.array(left) - np.mean(left)) ** 2))
    return max(1.0, sum(map(sum, above.values())) / sum(map(sum, below.values())) + error)


def shared_variance_by_loop(per_repeat, members, name, against_rest):
    """Return the variance over repeats of a group's mean (or group minus rest), / L, beyond the examples' own noise."""
    inside = [i for i, m in enumerate(members) if m == name]
    outside = [i for i, m in enumerate(members) if m != name] if against_rest else []
    L = len(per_repeat)
    means = [np.mean(row[inside]) - (np.mean(row[outside]) if outside else 0.0) for row in per_repeat]
    own = np.mean([np.var(per_repeat[:, i], ddof=1) for i in inside]) / len(inside)
    if outside:
        own += np.mean([np.var(per_repeat[:, i], ddof=1) for i in outside]) / len(outside)
    n = min(len(inside), len(outside)) if outside else len(inside)
    if L < 4:
        return np.var(means, ddof=1) / L
    return max(0.0, np.var(means, ddof=1) - own) * n / (n - 1) / L


def balancing_weights_by_optimizer(ins, out, tolerance):
    """Return weights over in-splits of given sizes, by quadratic programming: see `genmem.leaveout.sizes`."""
    x, target = 1 / np.asarray(ins, float), 1 / out
    wanted = np.clip(np.clip(x.mean(), target * (1 - tolerance), target * (1 + tolerance)), x.min(), x.max())
    level = {"type": "eq", "fun": lambda w: (w @ x - wanted) / wanted}
    whole = {"type": "eq", "fun": lambda w: w.sum() - 1}
    start = np.full(len(x), 1 / len(x))
    options = {"maxiter": 500, "ftol": 1e-14}
    return minimize(lambda w: w @ w, start, bounds=[(0, 1)] * len(x), constraints=[level, whole], options=options).x


def companions_in_common_by_loop(held_out, repeat, example):
    """Return how many of the examples left out with one are the same in two repeats, beyond chance, over all pairs."""
    n, found, left_out = held_out.shape[1], [], []
    for s in range(len(repeat)):
        if held_out[s, example]:
            left_out.append({j for j in range(n) if held_out[s, j] and j != example})
    for a in range(len(left_out)):
        for b in range(a):
            size = np.sqrt(len(left_out[a]) * len(left_out[b]))
            share, chance = len(left_out[a] & left_out[b]) / size, size / (n - 1)
            found.append((share - chance) / (1 - chance))
    return np.mean(found)
