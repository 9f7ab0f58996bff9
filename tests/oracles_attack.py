"""Membership inference, example by example: what the fast version is compared with."""

import numpy as np

from genmem.stats import moderate_variances


def attack_by_loop(log_probs, held_out, repeat):
    """Return the likelihood ratio, difference and log p of every refit and example: a dict of (n_splits, n)."""
    n_splits, n = log_probs.shape
    found = {name: np.full((n_splits, n), np.nan) for name in ("likelihood_ratio", "difference", "log_prob")}
    for target in sorted(set(repeat)):
        others = sorted(set(repeat) - {target})
        mean_in, mean_out, score, squares, degrees, per_in, per_out = (np.zeros(n) for _ in range(7))
        for i in range(n):
            ins = [log_probs[s, i] for s in range(n_splits) if repeat[s] in others and not held_out[s, i]]
            outs = [log_probs[s, i] for s in range(n_splits) if repeat[s] in others and held_out[s, i]]
            mean_in[i], mean_out[i] = np.mean(ins), np.mean(outs)
            within = []
            for r in others:
                rows = [s for s in range(n_splits) if repeat[s] == r]
                inside = np.mean([log_probs[s, i] for s in rows if not held_out[s, i]])
                within.append(inside - np.mean([log_probs[s, i] for s in rows if held_out[s, i]]))
            score[i] = np.mean(within)
            degrees[i] = len(ins) + len(outs) - 2
            total = sum((x - mean_in[i]) ** 2 for x in ins) + sum((x - mean_out[i]) ** 2 for x in outs)
            squares[i], per_in[i], per_out[i] = total / degrees[i], 1 / len(ins), 1 / len(outs)
        variance = moderate_variances(squares, degrees).variances
        error = variance * (per_in + per_out)
        between = max(np.var(score) - np.mean(error), 0)
        shrunk = np.mean(score) + between / (between + error) * (score - np.mean(score))
        for s in range(n_splits):
            if repeat[s] != target:
                continue
            for i in range(n):
                x = log_probs[s, i]
                found["likelihood_ratio"][s, i] = _log_normal(x, mean_in[i], variance[i]) - _log_normal(
                    x, mean_in[i] - shrunk[i], variance[i]
                )
                found["difference"][s, i], found["log_prob"][s, i] = x - mean_out[i], x
    return found


def _log_normal(x, mean, variance):
    return -((x - mean) ** 2) / (2 * variance)


def auc_by_pairs(members, others):
    """Return the share of pairs in which the member is higher; half of the ties."""
    wins = [1.0 if m > o else 0.5 if m == o else 0.0 for m in members for o in others]
    return float(np.mean(wins))
