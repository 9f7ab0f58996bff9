"""Which training examples shaped the most memorized examples, samples of the model, and each example itself?"""

import shutil
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from genmem import stats
from genmem.data.arrays import fingerprint
from genmem.errors import DataError
from genmem.findings.influence import influence_of
from genmem.findings.records import Correlation, to_json
from genmem.findings.stages import succeeded
from genmem.leaveout import planned_model
from genmem.models.base import is_count, is_seed
from genmem.protocols import Listener, Progress, ignore
from genmem.run.directory import Run, stage
from genmem.run.storage import Arrays
from genmem.stages._attribution import Attributed, Skipped, Way, way_of
from genmem.stages._describe import nearest_others, report_again
from genmem.stages._late import sampler_of

CHECKED = 128  # examples of the self check, which should be their own strongest proponents
DEPTH = 5  # proponents of each that the findings use
SUMS = "influence"  # the folder of unfinished sums
SCORE = "memorization score"
NEIGHBOR = 5  # rank of the neighbour whose distance is correlated with self-influence

Queries = int | Sequence[int]


def influence(
    run: Run,
    model: Any = None,
    *,
    queries: Queries = 12,
    samples: int = 8,
    k: int = 5,
    draws: int = 16,
    weights: str = "complete",
    scale: str = "dot",
    examples: int | Literal["auto"] = "auto",
    seed: int | None = None,
    recompute: bool = False,
    progress: Listener = ignore,
) -> dict[str, Any]:
    """Find which training examples shaped the model; writes results/influence.npz and .json, and updates the report.

    The influence of networks is estimated by TracIn along the trajectory of the model trained on all examples; that of
    kernel and k-NN densities is exact; that of Gaussian mixtures comes from refits, if there are few examples. An
    interrupted computation resumes. A stored result is recomputed only if arguments or scores have changed, or with
    `recompute`.

    Args:
        run: a scored run.
        model: the planned model, if it cannot be made from the plan alone.
        queries: number of most memorized examples to use as queries, or the positions of chosen examples.
        samples: number of fresh samples of the model to use as queries.
        k: number of proponents and opponents to keep for each query.
        draws: number of latent draws for each example and checkpoint.
        weights: weights of checkpoints: "complete", "lr" or "adam" (see `genmem.influence.checkpoint_weights`).
        scale: "dot"; "cosine", which divides by the lengths of both gradients; or "query", which divides by that of the
            training example's. For networks only. Another scale or k reuses the sums.
        examples: number of training examples to consider, drawn at random; "auto" is all of them, or as many as the
            budget of gradients allows.
        seed: seed of draws, samples and the choice of examples; by default that of the run.
        recompute: discard stored results and unfinished sums, and compute everything again.
        progress: called with each report of progress.

    Returns:
        The contents of results/influence.json.

    Raises:
        DataError: an argument is out of range.
        ModelError: influence is not defined for this kind of model, or with these weights.
        IncompleteRunError: the run has no scores, or no trajectory.
    """
    _check(run, queries, samples=samples, k=k, draws=draws, examples=examples, seed=seed)
    seed = run.seed if seed is None else int(seed)
    with stage(run, "influence"):
        score = run.result("scores")["score"]
        explained = _explained(queries, score)
        asked = {"queries": [int(p) for p in explained], "samples": samples, "k": k, "draws": draws}
        asked |= {"weights": weights, "scale": scale, "examples": examples, "seed": seed, **sampler_of(run, model)}
        if recompute:
            shutil.rmtree(run.path / SUMS, ignore_errors=True)
        found = None if recompute else influence_of(run)
        if found is None or found.about.get("asked") != asked:
            about = _compute(run, model, asked, score, progress)
            about["chosen"] = not isinstance(queries, int | np.integer)
            run.write_json("results/influence.json", about)
        else:
            about = found.about
        succeeded(run, "influence")
    report_again(run, progress=progress)
    return about


def _check(run: Run, queries: Queries, **numbers: Any) -> None:
    n = run.plan["data"]["n"]
    if not is_seed(queries):
        positions = np.asarray([] if isinstance(queries, int | float | str | None) else queries)
        whole = positions.ndim == 1 and positions.size and positions.dtype.kind in "iu"
        if not whole or positions.min() < 0 or positions.max() >= n:
            raise DataError(
                expected=f"a number of most memorized examples, or positions from 0 to {n - 1}",
                got=repr(queries)[:80],
                do="Change queries.",
            )
    for name, value in numbers.items():
        least = {"samples": 0, "seed": 0, "examples": 2, "draws": 2}.get(name, 1)
        if (name == "seed" and value is None) or (name == "examples" and value == "auto"):
            continue
        if not (is_seed(value) if least == 0 else is_count(value) and value >= least):
            raise DataError(
                expected=f"{name} to be a whole number of at least {least}", got=repr(value), do=f"Change {name}."
            )


def _explained(queries: Queries, score: NDArray[np.float64]) -> NDArray[np.intp]:
    if isinstance(queries, int | np.integer):
        order = np.argsort(-np.where(np.isfinite(score), score, -np.inf), kind="stable")
        return order[: min(int(queries), int(np.isfinite(score).sum()))]
    return np.asarray(queries, np.intp)


def _compute(
    run: Run, model: Any, asked: dict[str, Any], score: NDArray[np.float64], progress: Listener
) -> dict[str, Any]:
    progress(Progress("influence", 0, 1))
    run.drop_results("influence")
    X = np.asarray(run.data().X)
    about = {"asked": asked, "scores": fingerprint(score), "seed": asked["seed"], "k": asked["k"], "n": 0}
    nothing = dict.fromkeys(
        ("method", "weights", "scale", "draws", "checkpoints", "coverage", "note", "subset", "reliability")
    )
    try:
        way = way_of(run, planned_model(run, model), X, asked)
    except Skipped as reason:
        return {**about, **nothing, "unit": "nats", "skipped": str(reason), "correlations": []}
    arrays, note = _attribute(run, way, X, asked, progress)
    run.write_result("influence", **arrays)
    progress(Progress("influence", 1, 1))
    own, error = arrays["self_influence"], arrays["self_error"]
    sure = stats.reliability(own, error) if error.any() else np.nan
    about |= {**nothing, "skipped": None, **way.about, **note, "n": len(way.used)}
    about |= {"reliability": sure, "correlations": _correlations(run, way.used, own)}
    return dict(to_json(about))


def _attribute(
    run: Run, way: Way, X: NDArray[Any], asked: dict[str, Any], progress: Listener
) -> tuple[Arrays, dict[str, Any]]:
    """Return the arrays of results/influence.npz, and a description of the method."""
    drawn, memorized = way.sample(asked["samples"]), np.asarray(asked["queries"], np.intp)
    checked = way.used[:CHECKED]
    kinds = {"checked": X[checked], "memorized": X[memorized], "samples": drawn}
    Z = np.concatenate([part.astype(np.result_type(X, drawn), copy=False) for part in kinds.values()])
    folder = _ledgers(run, way, Z, asked)
    found = way.attribute(Z, max(asked["k"], DEPTH) + 1, folder, progress)
    _forget_others(folder)
    arrays = {"examples": way.used, "self_influence": found.own, "self_error": found.error}
    arrays |= {"checked": checked, "memorized": memorized, "samples": drawn}
    ends = np.cumsum([0, *(len(part) for part in kinds.values())])
    for name, start, end in zip(kinds, ends, ends[1:], strict=False):
        arrays |= _rows(found, name, slice(start, end), way.used)
    arrays["checked_itself"] = _itself(way, arrays)
    for scale, proponents in found.by_scale.items():
        arrays[f"checked_proponents_{scale}"] = way.used[proponents[: len(checked)]]
    return arrays, found.about


def _rows(found: Attributed, name: str, rows: slice, used: NDArray[np.intp]) -> Arrays:
    """Return proponents and opponents of some queries, as positions in the run."""
    ahead, against = found.proponents[rows], found.opponents[rows]
    return {
        f"{name}_proponents": np.where(ahead < 0, -1, used[ahead]),
        f"{name}_proponent_scores": found.proponent_scores[rows],
        f"{name}_opponents": np.where(against < 0, -1, used[against]),
        f"{name}_opponent_scores": found.opponent_scores[rows],
    }


def _itself(way: Way, arrays: Arrays) -> NDArray[np.float64]:
    """Return the influence of each checked example on itself as a query; NaN if it is not among the strongest."""
    if way.about["method"] != "trajectory":  # without noise it equals self-influence
        return np.asarray(arrays["self_influence"][: len(arrays["checked"])])
    mine = arrays["checked_proponents"] == arrays["checked"][:, None]
    scores = np.where(mine, arrays["checked_proponent_scores"], 0).sum(1)
    return np.where(mine.any(1), scores, np.nan)


def _ledgers(run: Run, way: Way, Z: NDArray[Any], asked: dict[str, Any]) -> Path:
    """Return the folder of unfinished sums, one for each set of arguments, so that sums never mix."""
    manifest = run.path / "trajectory" / "manifest.json"
    told = [str(asked[name]) for name in ("weights", "draws", "seed")] + [fingerprint(Z), fingerprint(way.used)]
    told.append(manifest.read_text() if manifest.exists() else "")
    return run.path / SUMS / fingerprint("\n".join(told))[:16]


def _forget_others(folder: Path) -> None:
    for other in folder.parent.iterdir() if folder.parent.is_dir() else ():
        if other != folder:
            shutil.rmtree(other, ignore_errors=True)


def _correlations(run: Run, used: NDArray[np.intp], own: NDArray[np.float64]) -> list[Correlation]:
    """Return the rank correlations of self-influence with the score, and with cheaper quantities."""
    scores, near = run.result("scores"), nearest_others(run)["distances"]
    rank = min(NEIGHBOR, near.shape[1])
    against = {
        SCORE: scores["score"],
        "loss (-log_prob_in)": -scores["log_prob_in"],
        f"distance to the nearest neighbour of rank {rank}": near[:, rank - 1],
    }
    if run.has_result("latents") and (means := run.result("latents")["mean"]).size:
        against["norm of the latent mean"] = np.linalg.norm(means, axis=1)
    score = scores["score"][used]
    found = []
    for name, values in against.items():
        with_own, n = _correlation(own, values[used])
        told = Correlation(name, with_own.rho, with_own.standard_error, with_own.interval, n)
        if name != SCORE:  # the same quantity against the score, as a baseline
            with_score, _ = _correlation(values[used], score)
            told = replace(told, score_rho=with_score.rho, score_interval=with_score.interval)
        found.append(told)
    return found


def _correlation(a: NDArray[np.float64], b: NDArray[np.float64]) -> tuple[stats.Correlation, int]:
    """Return the rank correlation over the examples for which both are finite, and their number."""
    there = np.isfinite(a) & np.isfinite(b)
    return stats.spearman(a[there], b[there]), int(there.sum())
