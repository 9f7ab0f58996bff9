"""The stages of an audit: each reads a run, computes one thing and stores it; a stored result is not made again."""

import time
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Executor
from contextlib import contextmanager, suppress
from dataclasses import asdict
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pyarrow.parquet as pq
from numpy.typing import NDArray
from sklearn.base import clone
from sklearn.decomposition import PCA

from genmem import leaveout
from genmem.data import Data, identical_groups, load, prepare
from genmem.errors import DataError, ModelError, RunError
from genmem.leaveout import MemorizationScores, ensure_probe, memorization_score, planned_model, scored_epochs
from genmem.models import DeepDensity, make_model
from genmem.models.naming import check_density
from genmem.models.vae import VAE, latent_mean
from genmem.progress import Listener, Progress, ignore
from genmem.regions import group_scores, latent_cells
from genmem.report import write_report
from genmem.run import Run
from genmem.search import nearest
from genmem.seeding import seed32
from genmem.splits import Splits
from genmem.storage import Arrays, write_atomically
from genmem.summary import summarise
from genmem.training.trajectory import load_trajectory, save_trajectory

LEVELS = (0.5, 0.95, 0.999)
TRAJECTORY_SHARES = (0.05, 0.1, 0.25, 0.5, 1.0)
SMALL = 128  # up to so many values an example, the small network
CHECKPOINTS = 10
NEIGHBORS = 5
GALLERY = 12
COMPONENTS = 32


def plan(
    data: Any,
    model: Any = "vae",
    out: str | Path | None = None,
    *,
    settings: Mapping[str, Any] | None = None,
    labels: Any = None,
    array: str | None = None,
    label_array: str | None = None,
    label_column: str | None = None,
    subset: int | None = None,
    folds: int = 5,
    repeats: int = 8,
    epochs: int | None = None,
    seed: int = 0,
    score_epochs: Sequence[int] | Literal["auto"] = "auto",
    importance_samples: int | Literal["auto"] = "auto",
    request: Mapping[str, Any] | None = None,
) -> Run:
    """Load and prepare the data, settle the model, choose the splits and how to refit, and write the plan.

    Arguments and errors are those of `audit`; an existing run with the same plan is opened.
    """
    start = time.perf_counter()
    numbers = {"folds": folds, "repeats": repeats, "seed": seed, "importance_samples": importance_samples}
    _check_numbers({**numbers, "subset": subset, "epochs": epochs})
    score_epochs = [score_epochs] if isinstance(score_epochs, int) else score_epochs
    loaded = load(
        data,
        array=array,
        label_array=label_array,
        label_column=label_column,
        labels=labels,
        subset=subset,
        seed=int(seed),
    )
    seed = int(seed)
    chosen = _settle_model(model, settings or {}, loaded, epochs)
    prepared = prepare(loaded, getattr(chosen, "likelihood", None), seed)
    run = Run.create(
        out if out is not None else _default_out(data, model),
        model=chosen,
        data=prepared,
        splits=Splits.k_fold(len(prepared.X), folds, repeats, seed),
        seed=seed,
        score_epochs=_score_epochs(chosen, score_epochs),
        importance_samples=importance_samples,
    )
    with _stage(run, "plan", start):
        if request is not None:
            run.write_json("request.json", dict(request))
        ensure_probe(run)
    return run


def _check_numbers(numbers: Mapping[str, Any]) -> None:
    for name, value in numbers.items():
        if value is None or (name == "importance_samples" and value == "auto"):
            continue
        least = {"seed": 0, "folds": 2, "subset": 2}.get(name, 1)
        if isinstance(value, bool) or not isinstance(value, int | np.integer) or value < least:
            raise DataError(
                expected=f"{name} to be a whole number of at least {least}", got=repr(value), do=f"Change {name}."
            )


def _settle_model(model: Any, settings: Mapping[str, Any], data: Data, epochs: int | None) -> Any:
    """Return the model asked for; one asked for by name gets a size and a likelihood that suit the data."""
    if isinstance(model, str):
        defaults = _defaults(data) if model == "vae" else {}
        given = {**defaults, **settings} | ({} if epochs is None else {"epochs": epochs})
        return make_model(model, given)
    check_density(model, "model")
    changes = {**settings} | ({} if epochs is None else {"epochs": epochs})
    return _changed(model, changes) if changes else model


def _changed(model: Any, changes: dict[str, Any]) -> Any:
    try:
        return clone(model).set_params(**changes)
    except ValueError as error:
        raise ModelError(
            expected=f"settings of {type(model).__name__} ({', '.join(model.get_params())})",
            got=", ".join(changes),
            do="Correct them, or set them where the model is made.",
        ) from error


def _defaults(data: Data) -> dict[str, Any]:
    small = np.prod(data.X.shape[1:]) <= SMALL
    size = {"hidden": [128, 64], "latent_dim": 8, "epochs": 200} if small else {"hidden": [512, 256], "latent_dim": 16}
    if data.X.dtype != np.uint8:
        return {**size, "likelihood": "gaussian"}
    colour = data.image_shape is not None and len(data.image_shape) == 3
    return {**size, "likelihood": "logit_normal" if colour else "bernoulli"}


def _score_epochs(model: Any, asked: Sequence[int] | Literal["auto"]) -> tuple[int, ...]:
    if not isinstance(model, DeepDensity):
        return (-1,)
    if asked == "auto":
        return tuple(sorted({max(1, round(share * model.epochs)) for share in TRAJECTORY_SHARES}))
    return scored_epochs(model, [int(e) for e in asked])


def _default_out(data: Any, model: Any) -> Path:
    source = Path(data).name.split(".")[0] if isinstance(data, str | Path) else "array"
    name = model.rpartition(":")[2] if isinstance(model, str) else type(model).__name__
    return Path("runs") / f"{source or 'data'}-{name.lower()}"


def refit(
    run: Run,
    model: Any = None,
    *,
    executor: Executor | None = None,
    lanes: int | Literal["auto"] = "auto",
    recompute: bool = False,
    progress: Listener = ignore,
) -> None:
    """Refit the model with examples left out until every shard is there; see `genmem.refit`."""
    with _stage(run, "refit"):
        if recompute:
            run.drop_damaged()
        leaveout.refit(run, model, executor=executor, lanes=lanes, progress=progress)


def fit(run: Run, model: Any = None, *, progress: Listener = ignore) -> None:
    """Train the model on all examples; keep its trajectory and, for a VAE, the latent mean of every example."""
    chosen = planned_model(run, model)
    if not isinstance(chosen, DeepDensity) or (run.has_result("latents") and load_trajectory(run.path / "trajectory")):
        return
    with _stage(run, "fit"):
        progress(Progress("fit", 0, 1, "training on all examples"))
        X = np.asarray(run.data().X)
        full = clone(chosen).set_params(
            random_state=seed32(run.seed, "full data"),
            checkpoint_every=max(1, -(-chosen.epochs // CHECKPOINTS)),
            device=ensure_probe(run, chosen)["device"],
        )
        full.fit(X)
        assert full.trajectory_ is not None
        save_trajectory(full.trajectory_, run.path / "trajectory")
        means = latent_mean(full.module_, X) if isinstance(full, VAE) else np.empty((len(X), 0), np.float32)
        run.write_result("latents", mean=means)
        progress(Progress("fit", 1, 1))


def score(run: Run, *, estimator: str = "mean_log", progress: Listener = ignore) -> MemorizationScores:
    """Compute memorization scores from the refits: results/scores.npz, results/trajectory.npz, scores.parquet."""
    with _stage(run, "score"):
        splits, data = run.splits(), run.data()
        found = []
        run.drop_results("neighbors", "cells")  # they follow from the scores that are about to change
        for at in range(len(run.score_epochs)):
            progress(Progress("score", at, len(run.score_epochs)))
            log_probs = run.log_probs(at)
            found.append(
                memorization_score(log_probs, splits.held_out, estimator=estimator, repeat=splits.repeat, seed=run.seed)
            )
        _write_trajectory(run, found)
        last = found[-1]
        _write_scores(run, data, last, _halves(log_probs, splits, estimator))
        progress(Progress("score", len(found), len(found)))
    return last


def _write_trajectory(run: Run, found: Sequence[MemorizationScores]) -> None:
    repeats = np.stack([scores.per_repeat.mean(1) for scores in found])  # (epochs, L)
    error = np.full(len(found), np.nan)
    if repeats.shape[1] > 1:
        error = repeats.std(1, ddof=1) / np.sqrt(repeats.shape[1])
    run.write_result(
        "trajectory",
        epochs=np.asarray(run.score_epochs),
        levels=np.asarray(LEVELS),
        score_quantiles=np.stack([scores.quantiles(LEVELS) for scores in found]),
        null_quantiles=np.stack([_null_quantiles(scores) for scores in found]),
        mean_in=np.asarray([scores.log_prob_in.mean() for scores in found]),
        mean_out=np.asarray([scores.log_prob_out.mean() for scores in found]),
        mean_score=np.asarray([scores.score.mean() for scores in found]),
        mean_score_se=error,
    )


def _null_quantiles(scores: MemorizationScores) -> NDArray[np.float64]:
    if not len(scores.placebo):
        return np.full(len(LEVELS), np.nan)
    return np.asarray(scores.null_quantiles(LEVELS).mean(0))


def _halves(log_probs: NDArray[np.float32], splits: Splits, estimator: str) -> Arrays:
    """Return scores and log_prob_out from one half of the repeats and the other: (2, n), or none at one repeat.

    Compared across the halves they share no noise.
    """
    first = splits.repeat < splits.n_repeats // 2
    if splits.n_repeats < 2:
        return {}
    halves = [
        memorization_score(log_probs[rows], splits.held_out[rows], estimator=estimator, repeat=splits.repeat[rows])
        for rows in (first, ~first)
    ]
    return {
        "half_score": np.stack([half.score for half in halves]),
        "half_log_prob_out": np.stack([half.log_prob_out for half in halves]),
    }


def _write_scores(run: Run, data: Data, scores: MemorizationScores, halves: Arrays) -> None:
    names = ("score", "log_prob_in", "log_prob_out", "standard_error", "p_value", "q_value", "per_repeat", "placebo")
    arrays = {name: getattr(scores, name) for name in names}
    run.write_result("scores", **arrays, **halves, estimator=np.asarray(scores.estimator))
    table = scores.to_table(index=data.index, label=data.labels, name=data.names)
    write_atomically(run.path / "scores.parquet", lambda handle: pq.write_table(table, handle))


def neighbors(run: Run, *, progress: Listener = ignore) -> None:
    """Find the nearest other training examples of every example: results/neighbors.npz."""
    with _stage(run, "neighbors"):
        progress(Progress("neighbors", 0, 1))
        scores, n = run.result("scores")["score"], run.plan["data"]["n"]
        near = _nearest(run)
        order, count = np.argsort(-scores, kind="stable"), min(GALLERY, n // 2)
        most, least = order[:count], order[::-1][:count]
        run.write_result(
            "neighbors",
            distance=near["distances"][:, -1],
            duplicate_of=near["duplicate_of"],
            most=most,
            most_neighbors=near["indices"][most],
            most_distances=near["distances"][most],
            least=least,
            least_neighbors=near["indices"][least],
            least_distances=near["distances"][least],
        )
        progress(Progress("neighbors", 1, 1))


def _nearest(run: Run) -> Arrays:
    """Return distances and indices (n, k) of the nearest other examples, searched once for a run."""
    if not run.has_result("nearest"):
        X = np.asarray(run.data().X)
        k = min(NEIGHBORS, len(X) - 1)
        distances, indices = nearest(X, X, k, exclude=np.arange(len(X)))
        run.write_result("nearest", distances=distances, indices=indices, duplicate_of=_duplicate_of(X))
    return run.result("nearest")


def _duplicate_of(X: NDArray[Any]) -> NDArray[np.intp]:
    """Return the first other row that is identical to each row, -1 where there is none."""
    groups = identical_groups(X)
    order = np.argsort(groups, kind="stable")
    found = np.full(len(X), -1)
    starts = np.flatnonzero(np.r_[True, np.diff(groups[order]) != 0])
    for rows in np.split(order, starts[1:]):
        if len(rows) > 1:
            found[rows] = rows[0]
            found[rows[0]] = rows[1]
    return found


def regions(run: Run, *, progress: Listener = ignore) -> None:
    """Average the scores by label and by k-means cell of the latent mean: results/groups.json."""
    with _stage(run, "regions"):
        progress(Progress("regions", 0, 1))
        data, per_repeat = run.data(), run.result("scores")["per_repeat"]
        coordinates, space = _coordinates(run, data)
        cells = latent_cells(coordinates, seed=seed32(run.seed, "cells"))
        run.write_result("cells", cell=cells, space=np.asarray(space))
        groups = [{"kind": "cell", **_plain(g, len(per_repeat))} for g in group_scores(per_repeat, cells)]
        if data.labels is not None:
            by_label = group_scores(per_repeat, data.labels)
            groups = [{"kind": "label", **_plain(g, len(per_repeat))} for g in by_label] + groups
        run.write_json("results/groups.json", groups)
        progress(Progress("regions", 1, 1))


def _coordinates(run: Run, data: Data) -> tuple[NDArray[Any], str]:
    """Return what cells are cut in, and what that is called: latent means, or the data's leading components."""
    if run.has_result("latents"):
        means = run.result("latents")["mean"]
        if means.size:
            return means, "latent space"
    flat = np.asarray(data.X, np.float32).reshape(len(data.X), -1)
    components = min(COMPONENTS, *flat.shape)
    if flat.shape[1] <= components:
        return flat, "data"
    reduced = PCA(components, svd_solver="randomized", random_state=seed32(run.seed, "components"))
    return reduced.fit_transform(flat), "data"


def _plain(group: Any, repeats: int) -> dict[str, Any]:
    """Return a group as JSON holds it: undefined numbers are null, and so is p at one repeat, blind to the refits."""
    found = asdict(group)
    if repeats < 2:
        found["p_value"] = np.nan
    found["name"] = str(found["name"])
    found["examples"] = [int(i) for i in found["examples"]]
    for key in ("mean", "standard_error", "rest", "p_value"):
        found[key] = float(found[key]) if np.isfinite(found[key]) else None
    low, high = found["interval"]
    found["interval"] = [float(low), float(high)] if np.isfinite(low) and np.isfinite(high) else None
    return found


def report(run: Run, *, progress: Listener = ignore) -> Path:
    """Write audit.json and report.html from what is stored, and return the report's path."""
    with _stage(run, "report"):
        progress(Progress("report", 0, 1))
        run.write_json("audit.json", summarise(run))
        path = write_report(run.path)
        progress(Progress("report", 1, 1))
    return path


@contextmanager
def _stage(run: Run, name: str, start: float | None = None) -> Iterator[None]:
    """Hold the run and add the seconds of the block to its times: a resumed stage is the sum of its parts."""
    with run.lock():
        start = time.perf_counter() if start is None else start
        try:
            yield
        finally:
            times = run.read_json("times.json") or {}
            times[name] = round(times.get(name, 0.0) + time.perf_counter() - start, 3)
            with suppress(RunError):  # a full disk: what went wrong in the block is the better message
                run.write_json("times.json", times)
