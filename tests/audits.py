"""Audits of a world whose scores and noise are known: shared by tests of comparisons."""

import numpy as np

from genmem import stages
from genmem.leaveout import memorization_score
from genmem.run import Splits


def log_probs(truth, held_out, repeat, rng, noise=1.0, common=0.3):
    """Return log p (n_splits, n) of refits: `truth` (n,) less where an example is held out, with noise.

    Each example has noise of its own in every refit, `noise`, and all share one number when they are held out in a
    repeat, `common`.
    """
    found = rng.normal(size=held_out.shape) * noise - 10
    shared = common * rng.normal(size=int(np.max(repeat)) + 1)[repeat]
    return found - held_out * (truth + shared[:, None])


def simulated(truth, rng, repeats=6, folds=4, noise=1.0, common=0.3, seed=None):
    """Return the scores of one audit of this world; its folds are drawn at random without a seed."""
    splits = Splits.k_fold(len(truth), folds, repeats, int(rng.integers(2**31)) if seed is None else seed)
    found = log_probs(np.asarray(truth), splits.held_out, splits.repeat, rng, noise, common)
    return memorization_score(found, splits.held_out, repeat=splits.repeat)


def blobs(n=60, seed=0):
    rng = np.random.default_rng(seed)
    return (rng.normal(size=(n, 3)) + 4 * (np.arange(n) % 3)[:, None]).astype(np.float32)


def audited_run(path, X, model="kde-torch", seed=0, repeats=3, **how):
    """Return a small run with scores, of data as `genmem.load` takes them."""
    run = stages.plan(X, model, path, folds=3, repeats=repeats, seed=seed, **how)
    stages.refit(run, workers=1)
    stages.score(run)
    return run
