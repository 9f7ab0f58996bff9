"""The slow, obvious version of everything fast: what the tests compare against."""

import itertools

import numpy as np
from scipy import stats as scipy_stats
from scipy.special import logsumexp

# --- scores ---


def score_by_loop(log_probs, held_out, repeat, estimator):
    """Return a dict of score, log_prob_in, log_prob_out, standard_error (n,) and per_repeat (L, n), one by one."""
    n_splits, n = log_probs.shape
    repeats = sorted(set(repeat))
    rows = {name: [] for name in ("score", "log_prob_in", "log_prob_out", "standard_error")}
    per_repeat = np.full((len(repeats), n), np.nan)
    for i in range(n):
        ins, outs = {r: [] for r in repeats}, {r: [] for r in repeats}
        for s in range(n_splits):
            (outs if held_out[s, i] else ins)[repeat[s]].append(float(log_probs[s, i]))
        for k, r in enumerate(repeats):
            per_repeat[k, i] = _average(ins[r], estimator) - _average(outs[r], estimator)
        if estimator == "mean_log":
            log_in = np.mean([np.mean(ins[r]) for r in repeats])
            log_out = np.mean([np.mean(outs[r]) for r in repeats])
            error = np.std(per_repeat[:, i], ddof=1) / np.sqrt(len(repeats)) if len(repeats) > 1 else np.nan
        else:
            log_in, log_out = _average(sum(ins.values(), []), "log_mean"), _average(sum(outs.values(), []), "log_mean")
            left = _leave_one_repeat_out(ins, outs, repeats)
            error = np.nan
            per_repeat[:, i] = log_in - log_out
            if len(repeats) > 1:
                squares = sum((x - np.mean(left)) ** 2 for x in left)
                error = np.sqrt((len(repeats) - 1) / len(repeats) * squares)
                per_repeat[:, i] = [log_in - log_out - (len(repeats) - 1) * (x - np.mean(left)) for x in left]
        for name, value in zip(rows, (log_in - log_out, log_in, log_out, error), strict=True):
            rows[name].append(value)
    return {**{name: np.array(values) for name, values in rows.items()}, "per_repeat": per_repeat}


def _average(values, estimator):
    return np.mean(values) if estimator == "mean_log" else logsumexp(values) - np.log(len(values))


def _leave_one_repeat_out(ins, outs, repeats):
    left = []
    for r in repeats:
        some = [q for q in repeats if q != r]
        if some:
            left.append(_average(sum((ins[q] for q in some), []), "log_mean"))
            left[-1] -= _average(sum((outs[q] for q in some), []), "log_mean")
    return left


def student_p_by_loop(per_repeat, prior_variance, prior_df):
    """Return one-sided p values of mean > 0 with variances shrunk to a given prior, one example at a time."""
    repeats, n = per_repeat.shape
    p = []
    for i in range(n):
        variance, df = np.var(per_repeat[:, i], ddof=1), repeats - 1
        if np.isinf(prior_df):
            variance, df = prior_variance, n * (repeats - 1)
        else:
            variance = (prior_df * prior_variance + df * variance) / (prior_df + df)
            df = min(df + prior_df, n * (repeats - 1))
        p.append(scipy_stats.t.sf(np.mean(per_repeat[:, i]) / np.sqrt(variance / repeats), df))
    return np.array(p)


def permutation_p_by_loop(log_probs, held_out, repeat, example):
    """Return the exact p of one example's "log_mean" score over every within-repeat choice of held-out splits."""
    choices = []
    for r in sorted(set(repeat)):
        splits = [s for s in range(len(repeat)) if repeat[s] == r]
        count = sum(bool(held_out[s, example]) for s in splits)
        choices.append([set(c) for c in itertools.combinations(splits, count)])
    ell = log_probs[:, example]

    def score(out):
        ins = [ell[s] for s in range(len(ell)) if s not in out]
        return _average(ins, "log_mean") - _average([ell[s] for s in out], "log_mean")

    true = score({s for s in range(len(ell)) if held_out[s, example]})
    scores = [score(set().union(*choice)) for choice in itertools.product(*choices)]
    return np.mean([s >= true - 1e-9 for s in scores])


def placebo_p_by_loop(log_probs, held_out, repeat, shifts, prior_variance, prior_df, ratio):
    """Return p by placebo, one example and one shift at a time (one split out per repeat).

    shifts: (m, L), how far the placebo held-out split lies from the true one in each repeat. ratio: of the variances of
    log p of truly held-out and training examples.
    """
    n = log_probs.shape[1]
    groups = [[s for s in range(len(repeat)) if repeat[s] == r] for r in sorted(set(repeat))]

    def studentised(i, shift):
        score, squares, df, scale = 0.0, 0.0, 0, 0.0
        for splits, by in zip(groups, shift, strict=True):
            true = next(k for k, s in enumerate(splits) if held_out[s, i])
            called_out = (true + by) % len(splits)
            ins = [log_probs[s, i] for k, s in enumerate(splits) if k not in (true, called_out)]
            score += np.mean(ins) - log_probs[splits[called_out], i]
            squares += sum((x - np.mean(ins)) ** 2 for x in ins)
            df += len(ins) - 1
            scale += (1 if by else ratio) + 1 / len(ins)
        if np.isinf(prior_df):
            variance = prior_variance
        else:
            variance = (prior_df * prior_variance + squares) / (prior_df + df)
        return score / np.sqrt(scale * variance)

    null = [studentised(i, shift) for i in range(n) for shift in shifts]
    true = [studentised(i, [0] * len(groups)) for i in range(n)]
    return np.array([(1 + sum(x >= t for x in null)) / (1 + len(null)) for t in true])


def roll_by_loop(held_out, repeat, shift):
    """Return the held-out matrix with the rows of repeat r moved on by shift[r]."""
    moved = np.zeros_like(held_out)
    for k, r in enumerate(sorted(set(repeat))):
        splits = [s for s in range(len(repeat)) if repeat[s] == r]
        for position, s in enumerate(splits):
            moved[splits[(position + shift[k]) % len(splits)]] = held_out[s]
    return moved


def kde_log_density(X, points, bandwidth):
    """Return log p (m,) of `points` under a Gaussian kernel density estimate of `X`, term by term."""
    d = X.shape[1]
    log_kernel = [[-sum((p - x) ** 2) / (2 * bandwidth**2) for x in X] for p in points]
    return logsumexp(log_kernel, axis=1) - np.log(len(X)) - d / 2 * np.log(2 * np.pi * bandwidth**2)


# --- neighbours ---


def brute_force_nearest(queries, base, k=1, exclude=None):
    """Return distances and indices (m, k) from every distance in float64, sorted by (distance, index)."""
    distances, indices = [], []
    for i, query in enumerate(np.asarray(queries, np.float64)):
        gaps = np.asarray(base, np.float64) - query
        every = np.sqrt(np.square(gaps).reshape(len(base), -1).sum(axis=1))
        allowed = [j for j in range(len(base)) if exclude is None or j != exclude[i]]
        best = sorted(allowed, key=lambda j: (every[j], j))[:k]
        distances.append(every[best])
        indices.append(best)
    return np.array(distances), np.array(indices)


# --- training and log p ---


def train_by_loop(recipe, X, lane):
    """Return the flat state of a network after plain minibatch Adam, written out."""
    import torch

    from genmem.seeding import seed_for, stream
    from genmem.training.ensemble import fresh_module, noise_shape

    module, order = fresh_module(recipe, lane.split), stream(recipe.seed, "order", lane.split)
    noise = torch.Generator().manual_seed(seed_for(recipe.seed, "training noise", lane.repeat))
    moments = {name: [torch.zeros_like(p), torch.zeros_like(p)] for name, p in module.named_parameters()}
    steps_per_pass = recipe.steps_per_pass or recipe.steps_per_epoch
    for step in range(recipe.epochs * recipe.steps_per_epoch):
        if step % steps_per_pass == 0:
            permutation = order.permutation(len(lane.keep))
        start = step % steps_per_pass * recipe.batch_size
        rows = lane.keep[permutation[start : start + recipe.batch_size]]
        eps = torch.randn((1, len(rows), *noise_shape(module)), generator=noise)
        loss = sum(module(X[row : row + 1], noise=eps[:, i : i + 1])[0] for i, row in enumerate(rows)) / len(rows)
        gradients = torch.autograd.grad(loss, list(module.parameters()))
        with torch.no_grad():
            for (name, p), g in zip(module.named_parameters(), gradients, strict=True):
                first, second = moments[name]
                first.mul_(0.9).add_(0.1 * g)
                second.mul_(0.999).add_(0.001 * g**2)
                p -= (
                    recipe.learning_rate
                    * (first / (1 - 0.9 ** (step + 1)))
                    / ((second / (1 - 0.999 ** (step + 1))).sqrt() + 1e-8)
                )
    return torch.cat([v.detach().flatten() for v in module.state_dict().values()])


def vae_log_prob_by_grid(module, x, span=6.0, points=601):
    """Return log p(x) of a VAE with one latent dimension, in float64, by summing p(x | z) p(z) over a grid of z."""
    import torch

    module = module.double()
    z = torch.linspace(-span, span, points, dtype=torch.float64)
    out = module.decoder(z[:, None])
    values = []
    for row in np.asarray(x, np.float64):
        log_likelihood = torch.stack([_log_likelihood_by_hand(module, row, o) for o in out])
        log_prior = -0.5 * z**2 - 0.5 * np.log(2 * np.pi)
        values.append(torch.logsumexp(log_likelihood + log_prior, 0).item() + np.log(2 * span / (points - 1)))
    return np.array(values)


def _log_likelihood_by_hand(module, row, output):
    import torch

    total = torch.zeros((), dtype=torch.float64)
    kept = [i for i in range(row.size) if i not in module.constants]
    for i, o in zip(kept, output, strict=True):
        value = row.reshape(-1)[i]
        if module.likelihood.name == "bernoulli":
            p = torch.sigmoid(o)
            total = total + (p if value == 1 else 1 - p).log()
            continue
        jacobian = 0.0
        if module.likelihood.name == "logit_normal":
            squeezed = 0.05 + 0.9 * value
            jacobian = np.log(0.9 / (squeezed * (1 - squeezed)))
            value = np.log(squeezed / (1 - squeezed))
        variance = module.log_variance.clamp(min=-7).exp()
        total = total - 0.5 * ((value - o) ** 2 / variance + torch.log(2 * np.pi * variance)) + jacobian
    return total


def kde_leave_one_out(X, bandwidth):
    """Return log p(x_i) under a KDE of all rows and of all rows but i: n + 1 plain fits."""
    from sklearn.neighbors import KernelDensity

    inside = KernelDensity(bandwidth=bandwidth).fit(X).score_samples(X)
    outside = [
        KernelDensity(bandwidth=bandwidth).fit(np.delete(X, i, axis=0)).score_samples(X[i : i + 1])[0]
        for i in range(len(X))
    ]
    return inside, np.array(outside)


# --- curves over training ---


def curve_by_loop(log_probs, held_out, repeat, levels, rotations, placebos):
    """Return statistics (C,), their rotations (g, C) and placebos (m, C) at one epoch of K folds, by example.

    rotations: (g, L), how far the folds of each repeat are turned. placebos: (m, L), how far the placebo fold lies from
    the true one, which is dropped; they are moved by (score - true contrast with the in-splits of a placebo), averaged
    over the placebos. Splits that are NaN have failed.
    """
    groups = [[s for s in range(len(repeat)) if repeat[s] == r] for r in sorted(set(repeat))]

    def summed_up(called_out, dropped):
        scores = []
        for i in range(log_probs.shape[1]):
            differences = []
            for k, splits in enumerate(groups):
                true = next(at for at, s in enumerate(splits) if held_out[s, i])
                at_out, at_dropped = (
                    (true + called_out[k]) % len(splits),
                    [(true + by) % len(splits) for by in dropped[k]],
                )
                out = log_probs[splits[at_out], i]
                ins = [log_probs[s, i] for at, s in enumerate(splits) if at != at_out and at not in at_dropped]
                ins = [x for x in ins if not np.isnan(x)]
                if ins and not np.isnan(out):
                    differences.append(np.mean(ins) - out)
            if differences:
                scores.append(np.mean(differences))
        return np.array([*(np.quantile(scores, level) for level in levels), np.mean(scores)])

    zero = [0] * len(groups)
    value = summed_up(zero, [[]] * len(groups))
    rotated = np.array([summed_up(turn, [[]] * len(groups)) for turn in rotations])
    matched = np.mean([summed_up(zero, [[by] for by in shift]) for shift in placebos], axis=0)
    null = np.array([summed_up(shift, [[0]] * len(groups)) for shift in placebos])
    return value, rotated, null + value - matched


def step_down_by_loop(value, null):
    """Return p (E,) corrected over epochs by the definition of Westfall and Young: value (E,), null (E, m)."""
    every = np.column_stack([value, null])
    z = [(row - np.mean(row)) / np.std(row) for row in every]
    left, p, worst = list(range(len(value))), np.ones(len(value)), 0.0
    while left:
        top = max(left, key=lambda e: z[e][0])
        furthest = [max(z[e][d] for e in left) for d in range(every.shape[1])]
        worst = max(worst, np.mean([f >= z[top][0] for f in furthest]))
        p[top] = worst
        left.remove(top)
    return p


# --- scores where splits failed ---


def score_what_is_left_by_loop(log_probs, held_out, repeat, estimator):
    """Return what `score_by_loop` does, one example at a time, from the splits that did not fail.

    A repeat counts for an example where it was both in and out of some split that is left.
    """
    repeats = sorted(set(repeat))
    names = ("score", "log_prob_in", "log_prob_out", "standard_error")
    found = {name: np.full(log_probs.shape[1], np.nan) for name in names}
    per_repeat = np.full((len(repeats), log_probs.shape[1]), np.nan)
    for i in range(log_probs.shape[1]):
        rows = splits_that_count(log_probs, held_out, repeat, i)
        if not rows:
            continue
        of = [repeat[s] for s in rows]
        one = score_by_loop(log_probs[rows][:, [i]], held_out[rows][:, [i]], of, estimator)
        for name in names:
            found[name][i] = one[name][0]
        for k, r in enumerate(sorted(set(of))):
            per_repeat[repeats.index(r), i] = one["per_repeat"][k, 0]
    return {**found, "per_repeat": per_repeat}


def splits_that_count(log_probs, held_out, repeat, i):
    """Return the splits behind the score of example i."""
    rows = []
    for r in sorted(set(repeat)):
        left = [s for s in range(len(repeat)) if repeat[s] == r and not np.isnan(log_probs[s]).all()]
        if len({bool(held_out[s, i]) for s in left}) == 2:
            rows += left
    return rows


def student_by_loop(per_repeat, prior_variance, prior_df):
    """Return mean, error and df (n,) of what each example has, variances shrunk to a given prior; NaN at one repeat."""
    found = []
    total = sum(max(0, int(np.isfinite(x).sum()) - 1) for x in per_repeat.T)
    for x in per_repeat.T:
        x = x[np.isfinite(x)]
        if len(x) < 2:
            found.append((np.mean(x) if len(x) else np.nan, np.nan, np.nan))
            continue
        variance, df = np.var(x, ddof=1), len(x) - 1
        if np.isinf(prior_df):
            variance = prior_variance
        else:
            variance = (prior_df * prior_variance + df * variance) / (prior_df + df)
        found.append((np.mean(x), np.sqrt(variance / len(x)), min(df + prior_df, total)))
    return np.array(found).T


# --- posteriors ---


def gaussian_vae_log_prob_by_grid(module, x, span=7.0, points=141):
    """Return log p(x) of a VAE with a Gaussian likelihood and one or two latent dimensions, summed over a grid of z."""
    import torch

    axis = np.linspace(-span, span, points)
    latent = module.noise_shape[0]
    z = np.stack(np.meshgrid(*[axis] * latent, indexing="ij"), -1).reshape(-1, latent)
    with torch.no_grad():
        output = module.decoder(torch.from_numpy(z)).numpy()
        sd = np.exp(0.5 * module.log_variance.item())
    log_prior = scipy_stats.norm.logpdf(z).sum(1) + latent * np.log(axis[1] - axis[0])
    return np.array([logsumexp(scipy_stats.norm.logpdf(row, output, sd).sum(1) + log_prior) for row in np.asarray(x)])


def linear_posterior(module, x):
    """Return mean (n, k), precision (k, k) of z given x under a linear decoder and a Gaussian likelihood."""
    (layer,) = module.decoder
    weight, bias = layer.weight.detach().numpy(), layer.bias.detach().numpy()
    noise = np.exp(module.log_variance.item())
    precision = np.eye(weight.shape[1]) + weight.T @ weight / noise
    return np.linalg.solve(precision, weight.T @ (np.asarray(x) - bias).T / noise).T, precision
