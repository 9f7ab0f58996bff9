"""What will an audit take? Time, memory and disk, from the probe and the plan alone."""

from dataclasses import dataclass
from typing import Any

import numpy as np

from genmem.run import Run

FLOPS = 4e10  # multiply-adds a second of the nearest-neighbour search, and of small work like it
PER_SCORE = 4e-7  # seconds of arithmetic for each number of the matrix of log p, all placebos included
FIXED = 6.0  # seconds for imports, regions and the report
PROCESS = 450 << 20  # bytes of a process that has loaded everything
START = 4.0  # seconds for worker processes to start
REPORT = 7 << 20  # bytes of report.html
PLACEBOS = 8


@dataclass(frozen=True)
class Estimate:
    """What an audit is expected to take.

    Attributes:
        seconds: by stage; those that nothing is known about are missing.
        memory: bytes at the peak, of all processes together.
        disk: bytes of the run directory.
    """

    seconds: dict[str, float]
    memory: int
    disk: int

    @property
    def total(self) -> float:
        """Seconds of all stages."""
        return sum(self.seconds.values())


def estimate(run: Run) -> Estimate:
    """Tell what an audit will take once its plan is written, for the repeats in use."""
    probe, splits, about = run.probe or {}, run.used_splits(), run.plan["data"]
    n, width = about["n"], int(np.prod(about["event_shape"]))
    share = splits.n_splits / run.splits().n_splits
    numbers, start = splits.n_splits * n, START if probe.get("workers", 1) > 1 else 0.0
    seconds = {"neighbors": n * n * width / FLOPS, "score": numbers * len(run.score_epochs) * PER_SCORE, "other": FIXED}
    if "expected_seconds" in probe:
        seconds["refit"] = probe["expected_seconds"] * share + start
    if "step_seconds" in probe:
        held_out = float(splits.held_out.mean())
        seconds["fit"] = probe["refit_steps"] / (1 - held_out) * probe["alone_seconds"]
        # The encoder's part is rarely below 5% of a score, so posteriors are refitted everywhere.
        seconds["posterior"] = -(-splits.n_splits // probe.get("workers", 1)) * n * probe["posterior_seconds"] + start
    return Estimate(seconds, _memory(probe, splits.n_splits, n, width), _disk(run, probe, splits.n_splits))


def _memory(probe: dict[str, Any], n_splits: int, n: int, width: int) -> int:
    scoring = n * (n_splits * 24 + (PLACEBOS + 8) * 40 + 8 * width)
    workers = probe.get("worker_bytes", PROCESS) * (probe.get("workers", 1))
    if probe.get("workers", 1) > 1:
        return int(PROCESS + scoring + workers)
    return int(max(PROCESS + scoring, workers))


def _disk(run: Run, probe: dict[str, Any], n_splits: int) -> int:
    about = run.plan["data"]
    n, width = about["n"], int(np.prod(about["event_shape"]))
    examples = n * (width * np.dtype(about["dtype"]).itemsize + 8)
    weights = probe.get("weight_bytes", 0)
    shards = n_splits * (len(run.score_epochs) * n * 4 + weights)
    results = n * 8 * (PLACEBOS + 2 * run.repeats + 40)
    return int(examples + shards + 21 * weights + results + run.splits().held_out.nbytes + REPORT)
