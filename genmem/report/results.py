"""Read the results of a run: audit.json, scores.parquet and arrays."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
from numpy.typing import NDArray

from genmem.errors import IncompleteRunError, RunError
from genmem.findings.records import Check, Finding, from_json
from genmem.plots import Floats, Group
from genmem.run.storage import Arrays, read_arrays

SCHEMA = "1"  # the major version of audit.json this report reads
SCORES = ("score", "log_prob_in", "log_prob_out", "standard_error", "p_value", "q_value")


@dataclass(frozen=True)
class Results:
    """The results of a run. Arrays over examples are in the order of the run's data.

    audit: audit.json; its checks, findings and groups are also given as dataclasses.
    X: (n, *event_shape), memory-mapped. index: (n,) row of the source. labels, names: (n,) or None.
    scores: columns of scores.parquet, (n,) float64 each, NaN if undefined. placebo: (m, n) or None.
    trajectory, neighbors, listed, influence, copies, neurons, regions: arrays by name, or None if the run has none.
    """

    audit: dict[str, Any]
    checks: list[Check]
    findings: list[Finding]
    groups: list[Group]
    X: NDArray[np.generic]
    index: NDArray[np.int64]
    labels: list[str] | None
    names: list[str] | None
    scores: dict[str, Floats]
    placebo: Floats | None
    trajectory: Arrays | None
    neighbors: Arrays | None
    listed: Arrays | None = None
    influence: Arrays | None = None
    copies: Arrays | None = None
    neurons: Arrays | None = None
    regions: Arrays | None = None

    @property
    def one_repeat(self) -> bool:
        """Whether the design has a single repeat, so that scores have no standard errors."""
        return bool(self.audit["asked"]["design"].get("repeats") == 1)


def read_results(run_dir: Path) -> Results:
    """Read the results of a run.

    Raises:
        IncompleteRunError: audit.json, scores.parquet or data/X.npy is missing.
        RunError: a file is damaged, audit.json has another schema, or the files disagree about the examples.
    """
    audit = _audit(run_dir)
    X = np.load(_needed(run_dir / "data" / "X.npy"), mmap_mode="r", allow_pickle=False)
    table = pq.read_table(_needed(run_dir / "scores.parquet")).to_pydict()
    index = np.asarray(table["index"], dtype=np.int64)
    _check_order(run_dir, len(X), index)
    placebo = (_arrays(run_dir, "scores") or {}).get("placebo", np.empty(0))
    return Results(
        audit=audit,
        checks=[from_json(Check, check) for check in audit["checks"]],
        findings=[from_json(Finding, finding) for finding in audit["findings"]],
        groups=[from_json(Group, group) for group in audit["groups"]],
        X=X,
        index=index,
        labels=_texts(table.get("label")),
        names=_texts(table.get("name")),
        scores={name: np.asarray(table[name], dtype=np.float64) for name in SCORES},
        placebo=placebo if placebo.size else None,
        trajectory=_arrays(run_dir, "trajectory"),
        neighbors=_arrays(run_dir, "neighbors"),
        listed=_arrays(run_dir, "list"),
        # Results that audit.json does not mention belong to earlier scores.
        influence=_arrays(run_dir, "influence") if "influence" in audit else None,
        copies=_arrays(run_dir, "copycheck") if "copies" in audit else None,
        neurons=_arrays(run_dir, "neurons") if "neurons" in audit else None,
        regions=_arrays(run_dir, "regions") if "regions" in audit else None,
    )


def _audit(run_dir: Path) -> dict[str, Any]:
    path = _needed(run_dir / "audit.json")
    try:
        audit: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise RunError(expected=f"a valid {path}", got=f"a damaged file ({error})", do="Repeat the audit.") from error
    version = str(audit.get("schema_version"))
    if version.split(".")[0] != SCHEMA:
        raise RunError(
            expected=f"audit.json of schema {SCHEMA}.x",
            got=f"schema_version {version}",
            do="Run `genmem report` again with this version of genmem.",
        )
    return audit


def _needed(path: Path) -> Path:
    if not path.is_file():
        raise IncompleteRunError(
            expected=f"{path.name} in the run directory",
            got=f"no file {path}",
            do="Complete `genmem audit` first; finished shards are not computed again.",
        )
    return path


def _arrays(run_dir: Path, name: str) -> Arrays | None:
    path = run_dir / "results" / f"{name}.npz"
    return read_arrays(path) if path.is_file() else None


def _check_order(run_dir: Path, n: int, index: NDArray[np.int64]) -> None:
    # A report that shows scores beside the wrong examples would be worse than none.
    path = run_dir / "data" / "index.npy"
    stored = np.load(path, allow_pickle=False) if path.is_file() else index
    if len(index) != n or not np.array_equal(stored, index):
        raise RunError(
            expected="scores.parquet to list the examples of data/X.npy and data/index.npy in their order",
            got=f"{len(index)} rows of scores for {n} examples, or another order",
            do="Delete scores.parquet and repeat the audit.",
        )


def _texts(column: list[object] | None) -> list[str] | None:
    if column is None or all(value is None for value in column):
        return None
    return ["" if value is None else str(value) for value in column]
