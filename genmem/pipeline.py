"""The whole audit, from plan to report, stage by stage; influence and copies if requested."""

from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from genmem import stages
from genmem.errors import DataError
from genmem.leaveout import ESTIMATORS, POSTERIORS, MemorizationScores
from genmem.protocols import Brief, Listener, ignore
from genmem.run.directory import Run
from genmem.run.request import python_line

ESTIMATES = (*ESTIMATORS, "adjusted")


@dataclass(frozen=True, eq=False)
class Audit(Brief):
    """The outcome of an audit.

    Attributes:
        path: the run directory, with audit.json, scores.parquet, report.html and everything needed to resume.
        scores: memorization scores of all examples, nats.
        summary: audit.json as a dictionary; docs/audit-json.md documents its keys.
    """

    path: Path
    scores: MemorizationScores
    summary: dict[str, Any]

    def headline(self) -> str:
        """Return the size and the main figures."""
        return f"{self.path}, {self.scores.headline()}"

    @property
    def findings(self) -> list[dict[str, Any]]:
        """The findings of audit.json, each with a value, standard error, null and sentence."""
        return list(self.summary["findings"])

    @property
    def report(self) -> Path:
        """Path of the report, one offline HTML file."""
        return self.path / "report.html"


def audit(
    data: Any,
    model: Any = "vae",
    out: str | Path | None = None,
    *,
    settings: Mapping[str, Any] | None = None,
    labels: Any = None,
    array: str | None = None,
    label_array: str | None = None,
    label_column: str | None = None,
    groups: Any = None,
    group_column: str | None = None,
    sep: str | None = None,
    decimal: str | None = None,
    na: str | Sequence[str] | None = None,
    drop: str | Sequence[str] = (),
    pixels: bool | None = None,
    subset: int | None = None,
    folds: int | None = None,
    repeats: int = 8,
    max_repeats: int | None = None,
    target_reliability: float | None = None,
    together: bool = False,
    fraction: float | None = None,
    leave_out: Any = None,
    epochs: int | None = None,
    match: Literal["steps", "epochs"] | None = None,
    seed: int = 0,
    score_epochs: Sequence[int] | Literal["auto"] = "auto",
    importance_samples: int | Literal["auto"] = "auto",
    keep_weights: bool = False,
    posterior: str = "auto",
    estimator: str = "mean_log",
    executor: Executor | None = None,
    workers: int | Literal["auto"] = "auto",
    dask: str | None = None,
    lanes: int | Literal["auto"] = "auto",
    recompute: bool = False,
    influence: bool = False,
    copies: bool = False,
    progress: Listener = ignore,
    announce: Callable[[Run], object] | None = None,
    request: Mapping[str, Any] | None = None,
) -> Audit:
    """Audit a generative model for memorization. The same call resumes an interrupted audit.

    Args:
        data: "digits", an array of shape (n, *event), or a path: .npy, .npz, .csv, .parquet, IDX file, folder of
            images. uint8 images are binarized once (bernoulli likelihood), kept (discretized_logistic) or dequantized
            once (any other).
        model: a `Density` (such as `genmem.VAE(latent_dim=8)`), the name of a built-in model, or
            "package.module:factory". A built-in model gets a size and likelihood that suit the data.
        out: the run directory; by default `runs/<data>-<model>`.
        settings: keywords of a model given by name; changed parameters of a model given as an object.
        labels: labels of the examples, or a file of labels.
        array: name of the array of examples in an .npz file.
        label_array: name of the array of labels in an .npz file.
        label_column: name of the column of labels in a table.
        groups: which examples belong together (a patient, a film, augmentations of one image), as an array (n,) or a
            file like `labels`. They are left out together, and standard errors of means, regions and attack rates are
            by group.
        group_column: name of the column of groups in a table.
        sep: separator of the fields of a text table; detected by default.
        decimal: decimal mark of a text table; detected by default.
        na: words of a text table that mark a missing value (see `load`).
        drop: columns of a table to leave out.
        pixels: whether bytes are 8-bit pixels or numbers (see `load`).
        subset: audit only this many examples, drawn at random.
        folds: number K of folds: each refit leaves out one K-th of the examples; 5 by default.
        repeats: number L of independent partitions into folds; standard errors come from them.
        max_repeats: with `target_reliability`, the largest number of repeats; by default three times `repeats`.
        target_reliability: add repeats until the scores reach this reliability (see `stages.refit`).
        together: leave out identical examples together, so that no duplicate is trained on.
        fraction: train on random subsets of this share instead of folds (`Splits.subsets`, of `repeats` repeats).
        leave_out: "labels", or a group for each example: leave out one group at a time instead of folds.
        epochs: epochs of training; by default those of the model.
        match: "steps" (the default of a new run): refits take as many steps as the model trained on all examples;
            "epochs": as many epochs, and therefore fewer steps, which lowers scores. An existing run keeps its own.
        seed: seed of all randomness.
        score_epochs: epochs at which every example is scored; "auto" is five epochs up to the last.
        importance_samples: draws for each log p of an auto-encoder; "auto" is 64.
        keep_weights: store the weights of every refit; auto-encoders do so in any case.
        posterior: "auto", "amortised" or "refit": whether the amortization gap is removed (see `stages.posterior`).
        estimator: "mean_log", "log_mean", or "adjusted", which adds shrunken scores to the first.
        executor: where refits run (see `refit`).
        workers: number of processes on this machine (see `refit`).
        dask: address of a dask scheduler whose workers compute.
        lanes: number of networks trained in one batch (see `refit`).
        recompute: compute damaged shards and failed refits again, instead of raising an error or excluding them.
        influence: also compute which training examples shaped the model (see `stages.influence`).
        copies: also check samples of the model for copies of training examples (see `stages.copies`).
        progress: called with each report of progress.
        announce: called with the planned run before its refits, for example to announce the expected time.
        request: the request, for the report: {"command": ..., "python": ...}.

    Raises:
        DataError: the data or labels cannot be used.
        ModelError: the model or a setting cannot be used, or training diverged. What influence and copies need is tried
            before the refits; if one of them fails after all, the other stages finish before it raises.
        RunError: the run directory is in use, damaged, full, or was planned with other settings.
    """
    _check(estimator, posterior)
    asked = {
        "settings": settings,
        "labels": labels,
        "array": array,
        "label_array": label_array,
        "label_column": label_column,
        "groups": groups,
        "group_column": group_column,
        "sep": sep,
        "decimal": decimal,
        "na": na,
        "drop": drop,
        "pixels": pixels,
        "subset": subset,
        "folds": folds,
        "repeats": repeats,
        "max_repeats": max_repeats,
        "together": together,
        "fraction": fraction,
        "leave_out": leave_out,
        "epochs": epochs,
        "match": match,
        "seed": seed,
        "score_epochs": score_epochs,
        "importance_samples": importance_samples,
        "keep_weights": keep_weights,
    }
    later = {"estimator": estimator, "posterior": posterior, "target_reliability": target_reliability}
    later |= {"influence": influence, "copies": copies}
    if request is None:
        line = python_line(audit, {"data": data, "model": model, "out": out, **asked, **later})
        request = {"command": "started from Python", "python": line}
    most = _most(repeats, max_repeats, target_reliability)
    run = stages.plan(data, model, out, request=request, **{**asked, "max_repeats": most})
    if announce is not None:
        announce(run)
    how: dict[str, Any] = {"workers": workers, "recompute": recompute, "progress": progress}
    with run.lock(), stages.reached(executor, dask) as where:
        stages.check_before(run, posterior=posterior, influence=influence, copies=copies)
        stages.refit(run, executor=where, lanes=lanes, target_reliability=target_reliability, **how)
        with stages.kept(run):
            stages.fit(run, progress=progress)
            stages.posterior(run, posterior=posterior, executor=where, **how)
            scores = stages.score(run, estimator=estimator, progress=progress)
            stages.neighbors(run, progress=progress)
            stages.regions(run, progress=progress)
            stages.report(run, progress=progress)
            wanted: dict[str, Callable[..., Any]] = {"influence": stages.influence} if influence else {}
            wanted |= {"copies": stages.copies} if copies else {}
            # After the report, so that an interruption leaves one; if one fails, the other still runs.
            stages.try_each(run, wanted, progress)
    return Audit(path=run.path, scores=scores, summary=run.read_json("audit.json"))


def _check(estimator: str, posterior: str) -> None:
    for name, value, known in (("estimator", estimator, ESTIMATES), ("posterior", posterior, POSTERIORS)):
        if value not in known:
            raise DataError(expected=f"one of {', '.join(known)}", got=repr(value), do=f"Change the {name}.")


def _most(repeats: int, max_repeats: int | None, target: float | None) -> int | None:
    """Return the number of repeats to plan, if repeats may be added."""
    return max_repeats if target is None or max_repeats is not None else 3 * repeats
