"""Does the model of a run repeat its training set? Compares its samples with training and held-out examples."""

import time
from collections.abc import Callable
from dataclasses import dataclass
from os import PathLike, fspath
from typing import Any

import numpy as np
from numpy.typing import NDArray

from genmem.data.arrays import fingerprint
from genmem.data.as_read import as_read
from genmem.errors import DataError, GenmemError, IncompleteRunError, ModelError
from genmem.findings.copies import copies_of, describe, one_for_each_row, stands_out
from genmem.findings.stages import succeeded
from genmem.leaveout import planned_model
from genmem.leaveout.refitting import refit_one
from genmem.leaveout.worker import reason
from genmem.models import DeepDensity
from genmem.models.base import is_count, is_seed
from genmem.neighbors.copycheck import CopyCheck, copycheck
from genmem.neighbors.spaces import check_space
from genmem.protocols import Listener, Progress, draw, ignore
from genmem.run.directory import Run, stage
from genmem.run.splits import Splits
from genmem.seeding import seed32
from genmem.stages._describe import report_again
from genmem.stages._early import check_samples
from genmem.stages._late import sampler_of
from genmem.stages._outside import Outside, outside_examples
from genmem.stages._refit import trained_network

SAMPLES = (1000, 10_000)  # bounds of the default number of samples, which is that of held-out examples
FOLDS = 5  # one of them is held out if the plan leaves out whole groups
FEW = 8  # examples on which a feature space is tried
SCORED = 1000  # examples of each set for which log p is computed


@dataclass(frozen=True)
class Sets:
    """A fitted model with its training and held-out examples.

    `train`: positions of the training examples in the run. `test`: positions of the held-out examples, or None if they
    are not of the run. `T`, `H`: the values of both, in the form that the model takes.
    """

    fitted: Any
    train: NDArray[np.intp]
    test: NDArray[np.intp] | None
    T: NDArray[Any]
    H: NDArray[Any]
    note: str
    log_prob: tuple[NDArray[np.float64], NDArray[np.float64]] | None


def copies(
    run: Run,
    model: Any = None,
    *,
    test: Outside | None = None,
    samples: int | None = None,
    space: str = "raw",
    level: float = 0.1,
    seed: int | None = None,
    progress: Listener = ignore,
) -> dict[str, Any]:
    """Check samples of the model for copies; writes results/copycheck.json and .npz, and updates the report.

    Without `test`, the model is refitted once without the first fold of the plan, which serves as held-out set. With
    `test`, samples are those of the model trained on all examples. A stored result is recomputed only if arguments
    differ.

    Args:
        run: a planned run.
        model: the planned model, if it cannot be made from the plan alone.
        test: held-out examples, an array or a file as for `genmem.load`: of the same source as the run's data but not
            among them. They are prepared like the run's data.
        samples: number of samples; by default as many as there are held-out examples, but 1,000 to 10,000.
        space: feature space: "raw", "pooled", "pca" or "latent", the posterior means of the network (see
            `genmem.copycheck`).
        level: false-discovery rate of the listed samples and training examples.
        seed: seed of samples and tests; by default that of the run.
        progress: called with each report of progress.

    Returns:
        The contents of results/copycheck.json.

    Raises:
        DataError: an argument is out of range, or the held-out examples do not match those of the run.
        ModelError: the model cannot be fitted or sampled, or has no latent space.
        IncompleteRunError: with `test`, the run has no trajectory yet.
    """
    _check(samples, seed, level)
    seed = run.seed if seed is None else int(seed)
    with stage(run, "copies"):
        given = None if test is None else outside_examples(run, model, test)
        outside = None if given is None else given.X
        asked: dict[str, Any] = {"test": None if outside is None else fingerprint(outside), "samples": samples}
        asked |= {"space": space, "level": level, "seed": seed, **sampler_of(run, model)}
        found = copies_of(run)
        about = found.about if found is not None else {}
        if about.get("asked_of_run") != asked:
            progress(Progress("copies", 0, 1))
            _try_space(run, planned_model(run, model), asked, outside)
            check_samples(run, planned_model(run, model))
            run.drop_results("copycheck")
            sets = _refitted(run, model, progress) if outside is None else _trained(run, model, outside)
            about = _compute(run, sets, asked, _source(test), [] if given is None else as_read(given))
        progress(Progress("copies", 1, 1))
        succeeded(run, "copies")
    report_again(run, progress=progress)
    return about


def _check(samples: Any, seed: Any, level: Any) -> None:
    if isinstance(level, bool) or not isinstance(level, int | float) or not 0 < level < 1:
        raise DataError(expected="level to be a number between 0 and 1", got=repr(level), do="Change level.")
    if samples is not None and not is_count(samples):
        raise DataError(
            expected="samples to be a whole number of at least 1", got=repr(samples), do="Change samples, or omit it."
        )
    if seed is not None and not is_seed(seed):
        raise DataError(expected="seed to be a whole number of at least 0", got=repr(seed), do="Change seed.")


def _try_space(run: Run, model: Any, asked: dict[str, Any], outside: NDArray[Any] | None) -> None:
    """Try the feature space on a few examples, before the model is refitted for its samples."""
    X, shape, space = run.data().X, run.plan["data"]["image_shape"], asked["space"]
    _latent(model, space)
    n_train = len(X) if outside is not None else int((~run.splits().held_out[0]).sum())
    check_space(space, np.asarray(X[:FEW]), n_train, image_shape=shape and tuple(shape))


def _source(test: Outside | None) -> str:
    if test is None:
        return "the first fold of the plan"
    return fspath(test) if isinstance(test, str | PathLike) else "array"


# --- the model, its training set and its held-out set


def _refitted(run: Run, model: Any, progress: Listener) -> Sets:
    """Return the model refitted without the first fold, or without a random fold if the plan leaves out groups.

    A group, such as a label, differs from the rest of the data: distances to it are not a valid null. Examples that
    belong together stay together.
    """
    splits, X, belong = run.splits(), np.asarray(run.data().X), run.data().groups
    grouped = splits.kind == "leave_out"
    held_out = _fold(len(X), belong, run.seed) if grouped else splits.held_out[0]
    fitted = refit_one(run, held_out, model, progress=progress)
    train, test = np.flatnonzero(~held_out), np.flatnonzero(held_out)
    fifth = "a random fifth of the examples" if belong is None else "a random fold of the groups"
    which = fifth if grouped else "the first fold of the plan"
    note = f"The model was refitted once without {which}: {len(train):,} training and {len(test):,} held-out examples."
    return Sets(fitted, train, test, X[train], X[test], note, None if grouped else _stored_log_probs(run, held_out))


def _fold(n: int, belong: NDArray[Any] | None, seed: int) -> NDArray[np.bool_]:
    """Return a random fold, (n,); of whole groups if there are any."""
    folds = FOLDS if belong is None else min(FOLDS, len(np.unique(belong)))
    return np.asarray(Splits.k_fold(n, folds, 1, seed, groups=belong).held_out[0])


def _stored_log_probs(run: Run, held_out: NDArray[np.bool_]) -> Any:
    """Return log p of both sets under the stored refit of the first split, or None if there is none."""
    try:
        log_probs = run.log_probs()[0].astype(np.float64)
    except IncompleteRunError:
        return None
    return (log_probs[~held_out], log_probs[held_out]) if np.isfinite(log_probs).all() else None


def _trained(run: Run, model: Any, outside: NDArray[Any]) -> Sets:
    """Return the model trained on all examples, with held-out examples from outside the run."""
    model, X = planned_model(run, model), np.asarray(run.data().X)
    if isinstance(model, DeepDensity):
        fitted, _ = trained_network(run, model)
    else:
        fitted = refit_one(run, np.zeros(len(X), bool), model)
    note = (
        f"The model was trained on all {len(X):,} examples of the run; {len(outside):,} held-out examples were given."
    )
    log_prob = tuple(_log_probs(fitted, rows, run.seed) for rows in (X, outside))
    return Sets(fitted, np.arange(len(X)), None, X, outside, note, log_prob)  # type: ignore[arg-type]


def _log_probs(fitted: Any, rows: NDArray[Any], seed: int) -> NDArray[np.float64]:
    chosen = np.random.default_rng(seed).permutation(len(rows))[:SCORED]
    return np.asarray(fitted.score_samples(rows[np.sort(chosen)]), np.float64)


# --- the check


def _compute(run: Run, sets: Sets, asked: dict[str, Any], source: str, told: list[str]) -> dict[str, Any]:
    start, seed = time.perf_counter(), asked["seed"]
    count = asked["samples"] or int(np.clip(len(sets.H), *SAMPLES))
    S = _drawn(sets.fitted, count, seed).reshape(count, *sets.T.shape[1:])
    check = copycheck(
        sets.T,
        sets.H,
        S,
        groups=_groups(run, sets),
        space=asked["space"],
        level=asked["level"],
        log_prob=sets.log_prob,
        latent=_latent(sets.fitted, asked["space"]),
        image_shape=run.plan["data"]["image_shape"] and tuple(run.plan["data"]["image_shape"]),
        seed=seed,
    )
    run.write_result("copycheck", **_arrays(check, sets, S))
    found = describe(check, asked["space"], check.space)
    about = {"asked_of_run": asked, "note": sets.note, "data": _data(sets, S, source, told), **found}
    about["seconds"] = round(time.perf_counter() - start, 3)
    run.write_json("results/copycheck.json", about)
    return about


def _groups(run: Run, sets: Sets) -> tuple[NDArray[Any], NDArray[Any]] | None:
    """Return the groups of the run's examples; None for held-out examples from outside, whose groups are unknown."""
    belong = run.data().groups
    return None if belong is None or sets.test is None else (belong[sets.train], belong[sets.test])


def _drawn(fitted: Any, count: int, seed: int) -> NDArray[Any]:
    try:
        return draw(fitted, count, seed32(seed, "copycheck samples"))
    except GenmemError:
        raise
    except Exception as error:  # kernels that cannot be sampled, and errors in users' models
        raise ModelError(
            expected=f"{type(fitted).__name__} to sample",
            got=reason(error),
            do="Pass samples of your own to `genmem copycheck`, or use another model.",
        ) from error


def _latent(fitted: Any, space: str) -> Callable[..., Any] | None:
    latent: Callable[..., Any] | None = getattr(fitted, "latent_mean", None)
    if space == "latent" and latent is None:
        raise ModelError(
            expected="a model with latent means",
            got=type(fitted).__name__,
            do='Choose another space: "raw", "pooled", "spectrum" or "pca".',
        )
    return latent


def _data(sets: Sets, S: NDArray[Any], source: str, told: list[str]) -> dict[str, Any]:
    return {
        "n_train": len(sets.T),
        "n_test": len(sets.H),
        "n_samples": len(S),
        "event_shape": list(sets.T.shape[1:]),
        "test": source,
        "test_in_run": sets.test is not None,
        **({"test_as_read": told} if told else {}),
    }


def _arrays(check: CopyCheck, sets: Sets, S: NDArray[Any]) -> dict[str, NDArray[Any]]:
    """Return the arrays of results/copycheck.npz; examples of the run are given by position."""
    pairs = {**check.pairs, "stands_out": stands_out(check.pairs)}
    shown = one_for_each_row(pairs)
    at = {"sample": S, "train": sets.T, "test": sets.H}
    arrays = {f"shown_{kind}": rows[pairs[kind][shown]] for kind, rows in at.items()}
    pairs["train"] = sets.train[pairs["train"]]
    pairs["test"] = pairs["test"] if sets.test is None else sets.test[pairs["test"]]
    arrays |= {f"pair_{name}": np.asarray(column) for name, column in pairs.items()}
    for kind, found in (("samples", check.samples), ("rows", check.rows)):
        arrays |= {f"{kind}_{name}": getattr(found, name) for name in ("statistic", "p_value", "q_value", "flagged")}
    return {**arrays, "shown": shown, "train": sets.train, "samples": S, "near_test": check.near_test}
