"""A run directory: the plan, the shards, the results. A run resumes by looking at which files exist."""

import json
import os
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, suppress
from pathlib import Path
from typing import Any, Literal, Self

import numpy as np
from numpy.typing import ArrayLike

from genmem.data.examples import Data
from genmem.errors import IncompleteRunError, RunError, RunMismatchError
from genmem.protocols import Brief
from genmem.run import written
from genmem.run.plan import (
    AS_PLANNED,
    check_match,
    check_plan,
    data_files,
    describe_data,
    differ,
    free_params,
    planned_description,
    read_data,
    refuse_other_plan,
    versions,
    with_free_params,
    write_inputs,
    write_labels,
)
from genmem.run.shards import Shards
from genmem.run.splits import Splits
from genmem.run.storage import Arrays, Held, lock, unwritable, write_arrays, write_atomically

PLAN_VERSION = 1
AUTO_IMPORTANCE_SAMPLES = 64
STAGES = {
    "scores": "score",
    "list": "score",
    "trajectory": "score",
    "neighbors": "neighbors",
    "nearest": "neighbors",
    "posterior": "posterior",
    "adjusted": "score",
    "latents": "fit",
    "cells": "regions",
    "regions": "regions",
    "influence": "influence",
    "copycheck": "neighbors",
    "neurons": "neurons",
    "groups": "regions",
    "failed": "audit",
    "membership": "score",
    "prevalence": "score",
    "exact": "score",
}


class Run(Shards, Brief):
    """One audit on disk.

    Files: run.json (the plan), splits.npz, data/, shards/0007.npz, weights/0007.safetensors, trajectory/,
    results/*.npz, stopping.json, audit.json, scores.parquet, report.html; neurons/, a run of networks on halves, and
    neurons-drops/ if `genmem neurons` was asked for. A shard is a pure function of the
    plan and its index, so work to do is exactly what has no file yet.

    Contents that were read and verified are reused until the file changes: splits, labels and small arrays for as long
    as the run is used, large ones (above all log p, of up to a GiB) to the end of a stage. `X` stays memory-mapped.
    """

    def headline(self) -> str:
        """Return the size and the main figures."""
        return (
            f"{self.path}, {self.plan['data']['n']:,} examples of {self.plan['data']['source']}, "
            f"{self.plan['model']['name']}, {self.plan['splits']['n_splits']:,} refits"
        )

    def __init__(self, path: Path, plan: dict[str, Any], model: Any = None) -> None:
        self.path, self.plan, self.held = path, plan, Held()
        self.trusted = False  # whether names in the plan that are not genmem's may be imported
        self.model = model  # the object the run was created with, or that was made from its plan; None until then

    @classmethod
    def create(
        cls,
        path: str | os.PathLike[str],
        *,
        model: Any,
        data: Data,
        splits: Splits,
        seed: int = 0,
        match: Literal["steps", "epochs"] | None = None,
        score_epochs: Sequence[int] = (-1,),
        importance_samples: int | Literal["auto"] = "auto",
        keep_weights: bool = False,
    ) -> Self:
        """Write the plan of a new run, or open the run at `path` if it was planned the same.

        Args:
            path: the run directory; created if it does not exist.
            model: a `Density`; its class and `get_params()` go into the plan, resolved for the data.
            data: the prepared examples; a copy is stored with the run.
            splits: which examples each refit leaves out.
            seed: of all random streams.
            match: what refits share with the model trained on all examples: its number of steps, or of epochs, in which
                they take fewer steps. By default that of an existing run, and "steps" for a new one. A model that is
                not trained in steps has neither.
            score_epochs: epochs after which log p of every example is stored; -1 is the last.
            importance_samples: draws for each log p that is estimated; "auto" is 64.
            keep_weights: store the weights of every refit, which networks with a posterior do in any case.

        Raises:
            DataError: `match` is another word.
            RunMismatchError: `path` holds a run with another plan; the message names the key.
            RunError: `path` is not a run directory, cannot be written, or is in use.
            ModelError: a parameter of the model cannot be written to the plan.
        """
        check_match(match)
        model = model.resolve(data.X) if hasattr(model, "resolve") else model
        samples = AUTO_IMPORTANCE_SAMPLES if importance_samples == "auto" else importance_samples
        asked = {
            "plan_version": PLAN_VERSION,
            "model": planned_description(model),
            "data": describe_data(data),
            "splits": splits.describe(),
            "seed": seed,
            "match": (match or "steps") if hasattr(model, "recipe") else None,
            "score_epochs": list(score_epochs),
            "importance_samples": samples,
            "versions": versions(),
            **({"keep_weights": True} if keep_weights else {}),
        }
        run = cls(Path(path), json.loads(json.dumps(asked)), model)
        run._make_directory()
        with run.lock():
            if (run.path / "run.json").exists():
                existing = cls.open(path)
                existing.model = model
                resumed = {**run.plan, "match": run.plan["match"] if match else existing.plan.get("match")}
                adopted = existing._adopting(resumed, free_params(model))
                if existing._has_work() or not differ(adopted, resumed):
                    refuse_other_plan(adopted, resumed)
                    if keep_weights and not existing.keeps_weights:
                        existing._keep_weights_from_now_on(adopted)
                    existing._adopt(adopted, data)
                    return existing
            write_inputs(run.path, data, splits)
            run.write_json("run.json", run.plan)
        return run

    @classmethod
    def open(cls, path: str | os.PathLike[str], *, trust: bool = False) -> Self:
        """Open an existing run. A run from a stranger runs no code, neither now nor in later stages.

        A plan names the class of its model, and functions among its settings. Those that are neither genmem's own nor
        scikit-learn's densities are imported only if you trust the run, pass the same model to a stage, or planned the
        same model from the current folder before; otherwise stages that need the model raise a ModelError.

        Args:
            path: the run directory.
            trust: import and call what the plan names. It can run any code.

        Raises:
            RunError: there is no run at `path`, or its run.json cannot be read.
        """
        file = Path(path) / "run.json"
        try:
            plan = json.loads(file.read_text())
            check_plan(plan)
        except OSError as error:
            raise RunError(
                expected=f"a run directory at {path}",
                got=f"no readable run.json there ({error.strerror})",
                do="Start one with `genmem audit` or `genmem plan`, or correct the path.",
            ) from error
        except ValueError as error:
            raise RunError(
                expected=f"the plan of a run in {file}",
                got=f"a damaged file ({error})",
                do="Restore the file, or start again in a new run directory.",
            ) from error
        run = cls(Path(path), plan)
        run.trusted = trust
        return run

    def lock(self) -> AbstractContextManager[None]:
        """Lock the run for writing; a second process gets a RunError."""
        return lock(self.path)

    # --- the plan

    @property
    def seed(self) -> int:
        """The seed of all random streams."""
        return int(self.plan["seed"])

    @property
    def n_matched(self) -> int | None:
        """The examples of the model whose number of steps refits take; None if refits share its number of epochs."""
        return int(self.plan["data"]["n"]) if self.plan.get("match") == "steps" else None

    @property
    def score_epochs(self) -> tuple[int, ...]:
        """The epochs after which log p of every example is stored; with matched steps, of the model trained on all."""
        return tuple(self.plan["score_epochs"])

    @property
    def importance_samples(self) -> int:
        """Draws for each log p that is estimated."""
        return int(self.plan["importance_samples"])

    @property
    def keeps_weights(self) -> bool:
        """Whether every network keeps its weights; those with a posterior do in any case."""
        return bool(self.plan.get("keep_weights", False))

    @property
    def probe(self) -> dict[str, Any] | None:
        """How refits are computed (method, device, threads, timings); None before the probe."""
        return self.plan.get("probe")

    def set_probe(self, choice: Mapping[str, Any]) -> None:
        """Record the probe's choice in the plan, once: the numbers depend on it."""
        with self.lock():
            self.plan = type(self).open(self.path).plan  # another process may have set it first
            if self.probe is not None:
                return
            self.plan["probe"] = json.loads(json.dumps(dict(choice)))
            self.write_json("run.json", self.plan)

    def data(self) -> Data:
        """Return the prepared examples, `X` memory-mapped; RunError if the files are missing, damaged or changed."""
        about = self.plan["data"]
        return self.held.get(lambda: read_data(self.path, about), *data_files(self.path), stamp=about["sha256"])

    # --- results

    def write_result(self, name: str, **arrays: ArrayLike) -> None:
        """Store the arrays that answer one question of the audit."""
        file = self.path / "results" / f"{name}.npz"
        write_arrays(file, {key: np.asarray(value) for key, value in arrays.items()})
        written.note(file.parent, file.name)

    def result(self, name: str) -> Arrays:
        """Return the arrays of a stored result, read-only: `.copy()` one to change it.

        Raises:
            IncompleteRunError: the stage that computes it has not run.
        """
        try:
            return self.held.arrays(self.path / "results" / f"{name}.npz")
        except FileNotFoundError as error:
            raise IncompleteRunError(
                expected=f"the result {name!r} in {self.path}",
                got="none yet",
                do=f"Run `genmem {STAGES.get(name, name)} {self.path}` first.",
            ) from error

    def drop_results(self, *names: str) -> None:
        """Delete stored results that are no longer valid."""
        written.forget(self.path / "results", *(f"{name}.npz" for name in names))
        for name in names:
            (self.path / "results" / f"{name}.npz").unlink(missing_ok=True)

    def has_result(self, name: str) -> bool:
        """Return whether a result is stored."""
        return (self.path / "results" / f"{name}.npz").exists()

    def write_json(self, name: str, value: Any) -> None:
        """Write a JSON file of the run, completely or not at all."""
        payload, file = (json.dumps(value, indent=2, allow_nan=False) + "\n").encode(), self.path / name
        if file.parent.name == "results":
            written.note(file.parent, file.name, payload)
        write_atomically(file, lambda handle: handle.write(payload))

    def read_json(self, name: str) -> Any:
        """Return the contents of a JSON file of the run, None if there is none, or if it is not what was written."""
        file = self.path / name
        try:
            if file.parent.name == "results":
                return json.loads(self.held.get(lambda: written.sound(file), file, file.with_name(written.FILE)))
            return json.loads(self.held.get(file.read_bytes, file))
        except (OSError, ValueError):
            return None

    def check_results(self) -> None:
        """Check that no result was deleted or changed since it was written.

        Raises:
            RunError: one was.
        """
        for name, what in written.changed(self.path / "results"):
            stage = STAGES.get(Path(name).stem, "audit")
            again = f"`genmem {stage} {self.path}`" if stage != "audit" else "the audit"
            raise RunError(
                expected=f"{self.path / 'results' / name} as it was written",
                got=f"a file that was {what} since",
                do=f"Run {again} again, with the options that it had.",
            )

    # --- the directory

    def _has_work(self) -> bool:
        """Whether anything was computed for the plan; if not, another plan may replace it."""
        return any(next((self.path / part).glob("*.*"), None) for part in ("shards", "trajectory", "results"))

    def _adopting(self, asked: dict[str, Any], free: frozenset[str]) -> dict[str, Any]:
        """Return the plan with what a request may change without changing refits: the free parameters of the model."""
        plan: dict[str, Any] = json.loads(json.dumps(self.plan))
        if plan["model"]["name"] == asked["model"]["name"]:
            plan["model"] = with_free_params(plan["model"], asked["model"], free)
        if plan["data"].get("labels_sha256", "unknown") is None:
            plan["data"]["labels_sha256"] = asked["data"]["labels_sha256"]
        return plan

    def _keep_weights_from_now_on(self, plan: dict[str, Any]) -> None:
        """Set in a plan that refits keep their weights, if none is done without or all do so in any case."""
        done = next((self.path / "shards").glob("*.npz"), None)
        if done is not None and not self.weights_path(int(done.stem)).exists():
            raise RunMismatchError(
                expected=f"a run that keeps the weights of its refits in {self.path}",
                got="one with refits that were done without",
                do="Use a new run directory, or omit keep_weights.",
            )
        plan["keep_weights"] = True

    def _adopt(self, plan: dict[str, Any], data: Data) -> None:
        """Write a plan whose labels or free parameters are new; refits remain valid."""
        if plan == self.plan:
            return
        if plan["data"].get("labels_sha256") != self.plan["data"].get("labels_sha256"):
            write_labels(self.path, data)
        plan.setdefault(AS_PLANNED, {"model": self.plan["model"], "data": self.plan["data"]})
        self.plan = plan
        self.write_json("run.json", plan)

    def _make_directory(self) -> None:
        # An interrupted plan leaves these files; .lock, created first, distinguishes it from a folder of the user's.
        ours = {"data", "splits.npz", "results", ".lock"}
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            names = {file.name for file in self.path.iterdir() if not file.name.endswith(".partial")}
        except OSError as error:
            raise unwritable(self.path, error) from error
        if "run.json" not in names and names and (names - ours or ".lock" not in names):
            raise RunError(
                expected=f"a run directory or a new path at {self.path}",
                got=f"a folder with other files in it ({min(names - ours or names)})",
                do="Choose another --out.",
            )


# --- stages


@contextmanager
def stage(run: Run, name: str, start: float | None = None) -> Iterator[None]:
    """Lock the run and add the seconds of the block to its times: a resumed stage is the sum of its parts."""
    with run.lock(), run.held.during_stage():
        start = time.perf_counter() if start is None else start
        try:
            yield
        finally:
            times = run.read_json("times.json") or {}
            times[name] = round(times.get(name, 0.0) + time.perf_counter() - start, 3)
            with suppress(RunError):  # if the disk is full, the error of the block is the better message
                run.write_json("times.json", times)
