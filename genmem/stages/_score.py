"""From refits to scores: the amortization gap, memorization over training, and the scores."""

from concurrent.futures import Executor
from typing import Any, Literal

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from genmem.data.arrays import identical_groups
from genmem.data.examples import Data
from genmem.errors import DataError
from genmem.findings.regions import is_current
from genmem.leaveout import (
    AdjustedScores,
    Correction,
    MemorizationScores,
    adjust,
    correct_encoder,
    covariates,
    drop_damaged_posteriors,
    memorization_curve,
    memorization_score,
)
from genmem.leaveout.estimators import mean_where
from genmem.leaveout.posterior import correction_of, scored_log_probs
from genmem.protocols import Listener, Progress, ignore
from genmem.run.directory import Run, stage
from genmem.run.splits import Splits, joined
from genmem.run.storage import Arrays, write_atomically
from genmem.stages._derived import write_attack, write_exact, write_list, write_prevalence
from genmem.stages._describe import nearest_others
from genmem.stages._refit import reached

LEVELS = (0.5, 0.95, 0.999)
FLAGGED = 0.05
SCORES = ("score", "log_prob_in", "log_prob_out", "standard_error", "p_value", "q_value", "per_repeat", "placebo")


def posterior(
    run: Run,
    *,
    posterior: str = "auto",
    executor: Executor | None = None,
    workers: int | Literal["auto"] = "auto",
    dask: str | None = None,
    recompute: bool = False,
    progress: Listener = ignore,
) -> Correction | None:
    """Measure the amortization gap of the scores, and fit posteriors to examples if it matters: results/posterior.npz.

    Args:
        run: a run whose refits are complete.
        posterior: "amortised" (amortized posteriors, from the encoder), "refit" (posteriors fitted to each example), or
            "auto": fitted for a random subset and all flagged examples, and for all examples if the amortization gap is
            above 5% of the mean score.
        executor: where to compute (see `refit`).
        workers: number of processes on this machine (see `refit`).
        dask: address of a dask scheduler whose workers compute.
        recompute: compute damaged files again.
        progress: called with each report of progress.

    Raises:
        ModelError: the model has no posterior to fit.
        RunError: a file is damaged, or the weights of the refits were not stored.
    """
    with stage(run, "posterior"), reached(executor, dask) as where:
        if recompute:
            drop_damaged_posteriors(run)
        splits = run.used_splits()
        amortised = memorization_score(
            run.log_probs(), splits.held_out, repeat=splits.repeat, missing="nan", seed=run.seed
        )
        flagged = np.flatnonzero(amortised.q_value < FLAGGED)
        found = correct_encoder(run, posterior, flagged=flagged, executor=where, workers=workers, progress=progress)
        _write_correction(run, found)
    return found


def _write_correction(run: Run, found: Correction | None) -> None:
    if found is None:
        run.drop_results("posterior")
        return
    run.write_result(
        "posterior",
        repeats=np.asarray(run.repeats),
        failed=np.asarray(sorted(run.failed()), dtype=np.intp),
        mode=np.asarray(found.mode),
        everywhere=np.asarray(found.everywhere),
        examples=found.examples,
        sample=found.sample,
        decoder=mean_where(found.decoder, np.isfinite(found.decoder)),
        encoder=mean_where(found.encoder, np.isfinite(found.encoder)),
        bias=np.asarray([found.bias.value, found.bias.standard_error, *found.bias.interval]),
        bias_over=np.asarray(found.bias.over),
        score=np.asarray(found.score),
        steps=np.asarray(found.steps),
        draws=np.asarray(found.draws),
        effective=np.asarray([found.effective_before, found.effective_after]),
        variance=np.asarray([found.variance_in, found.variance_out]),
        noise_share=np.asarray(found.noise_share),
    )


def score(run: Run, *, estimator: str = "mean_log", progress: Listener = ignore) -> MemorizationScores:
    """Compute scores from the refits: results/scores.npz, trajectory.npz and membership.npz, and scores.parquet.

    "adjusted" computes the default scores and, in addition, scores shrunk towards a prediction from covariates.
    """
    with stage(run, "score"):
        splits, data = run.used_splits(), run.data()
        run.drop_results("neighbors", "adjusted")  # they depend on the scores
        progress(Progress("score", 0, 2))
        _write_curve(run, splits)
        progress(Progress("score", 1, 2))
        log_probs = scored_log_probs(run)
        kind = "mean_log" if estimator == "adjusted" else estimator
        found = memorization_score(log_probs, splits.held_out, estimator=kind, repeat=splits.repeat, seed=run.seed)
        halves = _halves(log_probs, splits, kind)
        shrunk = None
        if estimator == "adjusted":
            try:
                shrunk = _adjusted(run, splits, found, halves)
            except DataError as error:  # only the default scores are stored; a check gives the reason
                run.write_result("adjusted", ok=-1, reason=str(error), slope=np.nan, slope_error=np.nan)
        _write_scores(run, data, found, halves, shrunk)
        if not is_current(run):
            run.drop_results("cells", "regions")
        progress(Progress("score", 2, 2))
    return found


def _write_curve(run: Run, splits: Splits) -> None:
    log_probs = (run.log_probs(at) for at in range(len(run.score_epochs)))
    curve = memorization_curve(
        log_probs, splits.held_out, splits.repeat, epochs=run.score_epochs, levels=LEVELS, seed=run.seed
    )
    run.write_result("trajectory", **curve.to_arrays())


def _halves(log_probs: NDArray[np.float32], splits: Splits, estimator: str) -> Arrays:
    """Return scores and log_prob_out from each half of the repeats, (2, n); nothing with one repeat.

    Across halves they share no noise. NaN if failed refits leave a half without a score.
    """
    if splits.n_repeats < 2:
        return {}
    try:
        halves = [
            memorization_score(
                log_probs[rows],
                splits.held_out[rows],
                estimator=estimator,
                repeat=splits.repeat[rows],
                missing="nan",
            )
            for rows in _half_rows(splits)
        ]
    except DataError:  # every refit of a half failed
        return {}
    return {
        "half_score": np.stack([half.score for half in halves]),
        "half_log_prob_out": np.stack([half.log_prob_out for half in halves]),
    }


def _half_rows(splits: Splits) -> list[NDArray[np.bool_]]:
    first = np.isin(splits.repeat, np.unique(splits.repeat)[: splits.n_repeats // 2])
    return [first, ~first]


# --- scores shrunk towards a prediction from covariates


def _adjusted(run: Run, splits: Splits, found: MemorizationScores, halves: Arrays) -> AdjustedScores:
    data, near = run.data(), nearest_others(run)
    whole = np.ones(splits.n_splits, np.bool_)
    known = [_covariates(run, splits, near["distances"], data, rows) for rows in (whole, *_half_rows(splits))]
    there = bool(halves) and bool(np.isfinite(halves["half_score"]).all())
    return adjust(
        found.score,
        found.standard_error,
        known[0],
        groups=joined(data.groups, identical_groups(np.asarray(data.X))),
        repeats=np.isfinite(found.per_repeat).sum(0),
        placebo=found.placebo if found.placebo.size else None,
        half_scores=halves["half_score"] if there else None,
        half_covariates=known[1:] if there else None,
        forbidden={"log_prob_out": found.log_prob_out},
        seed=run.seed,
    )


def _covariates(run: Run, splits: Splits, distances: NDArray[Any], data: Data, rows: NDArray[np.bool_]) -> Any:
    """Return the covariates; log_prob_in at all scored epochs but the last is from the refits of the given rows."""
    epochs = run.score_epochs[:-1]
    if not rows.any():
        return None
    inside = [_mean_in(run.log_probs(at)[rows], splits.held_out[rows]) for at in range(len(epochs))]
    log_prob_in = np.stack(inside, axis=1) if inside else None
    return covariates(distances, log_prob_in, data.labels, epochs=epochs if inside else None)


def _mean_in(log_probs: NDArray[np.float32], held_out: NDArray[np.bool_]) -> NDArray[np.float64]:
    sound = np.isfinite(log_probs).all(1)
    return np.asarray(log_probs[sound].mean(0, where=~held_out[sound], dtype=np.float64))


# --- stored results


def _write_scores(
    run: Run, data: Data, found: MemorizationScores, halves: Arrays, shrunk: AdjustedScores | None
) -> None:
    arrays = {name: getattr(found, name) for name in SCORES}
    run.write_result("scores", **arrays, **halves, estimator=np.asarray(found.estimator))
    columns = _parts(run, len(data.X)) if found.estimator == "mean_log" else {}  # other estimators have no parts
    if exact := write_exact(run):
        columns["leave_one_out"] = exact["score"]
    if attack := write_attack(run):
        columns["identified"] = attack["identified"]
    true = write_prevalence(run, found)
    if true:
        columns["expected_score"] = true["posterior_mean"]
    write_list(run, found, true)
    if shrunk is not None:
        columns |= {"adjusted_score": shrunk.score, "adjusted_prediction": shrunk.prediction}
        names = ("score", "prediction", "weight", "standard_error", "reliability", "slope", "slope_error", "reason")
        run.write_result("adjusted", **{name: np.asarray(getattr(shrunk, name)) for name in names}, ok=_ok(shrunk))
    table = found.to_table(index=data.index, label=data.labels, name=data.names)
    for name, values in columns.items():
        table = table.append_column(name, pa.array(values, from_pandas=True))
    write_atomically(run.path / "scores.parquet", lambda handle: pq.write_table(table, handle))


def _ok(shrunk: AdjustedScores) -> NDArray[Any]:
    """Return 1 if the guards hold, 0 if they do not, -1 if they could not be tested."""
    return np.asarray(-1 if shrunk.ok is None else int(shrunk.ok))


def _parts(run: Run, n: int) -> dict[str, NDArray[np.float64]]:
    """Return each score without its amortization gap, and the gap; NaN if no posterior was fitted to the example."""
    found, columns = correction_of(run), {}
    if found is None:
        return {}
    for name in ("decoder", "encoder"):
        columns[f"{name}_part"] = np.full(n, np.nan)
        columns[f"{name}_part"][found["examples"]] = found[name]
    return columns
