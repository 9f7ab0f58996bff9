"""audit.json: what was asked, how far the numbers can be trusted, and what was found."""

import datetime
import os
import platform
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from genmem.data.as_read import as_read
from genmem.findings.checks import checks
from genmem.findings.copies import copies_of, find_copies
from genmem.findings.influence import find_influence, influence_of
from genmem.findings.limitations import has_steps, library_versions, limitations, posterior_asked
from genmem.findings.memorization import find
from genmem.findings.neurons import find_neurons, neurons_of
from genmem.findings.records import Finding, from_json, to_json
from genmem.findings.regions import find_regions_in, regions_of
from genmem.leaveout.posterior import estimate_of, sampled
from genmem.regions import Group
from genmem.run.directory import Run
from genmem.version import __version__

SCHEMA_VERSION = "1.0"
ESTIMATES = {"mean_log": "E log p(x)", "log_mean": "log E p(x)"}
BOUNDS = {
    "mean_log": "E of a lower bound on log p(x)",
    "log_mean": "log E of the exponential of a lower bound on log p(x)",
}
LEFT_OUT = {
    "k_fold": "its fold (trained on {share:.0%} of the examples)",
    "subsets": "a random subset that contains it (all are trained on {share:.0%} of the examples)",
    "leave_out": "its group",
}


def summarise(run: Run) -> dict[str, Any]:
    """Return the contents of audit.json for a run whose stages are complete."""
    times = run.read_json("times.json") or {}
    stored, shaped, copied = run.read_json("results/groups.json") or [], influence_of(run), copies_of(run)
    groups = [from_json(Group, group) for group in stored]
    return {
        "schema_version": SCHEMA_VERSION,
        "genmem_version": __version__,
        "created": datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
        "asked": _asked(run),
        "data": _data(run),
        "environment": _environment(run),
        "wall_time": {**times, "total": round(sum(times.values()), 3)},
        "checks": to_json(checks(run)),
        "findings": to_json(_findings(run, groups)),
        "groups": stored,
        **({} if (found := regions_of(run)) is None else {"regions": found}),
        **({} if shaped is None else {"influence": shaped.asked()}),
        **({} if copied is None else {"copies": copied.asked()}),
        **({} if (units := neurons_of(run)) is None else {"neurons": units.asked()}),
        "limitations": limitations(run),
        "files": {"scores": "scores.parquet", "report": "report.html"},
    }


def _findings(run: Run, groups: Sequence[Group]) -> list[Finding]:
    of_regions = find_regions_in(run) + find(run, groups)
    return of_regions + find_influence(run) + find_copies(run) + find_neurons(run)


def _asked(run: Run) -> dict[str, Any]:
    request = run.read_json("request.json") or {}
    estimator = str(run.result("scores")["estimator"])
    name = run.plan["data"]["source"]
    return {
        "command": request.get("command", f"genmem report {run.path}"),
        "python": request.get("python", f"genmem.audit(data, model, out={str(run.path)!r})  # data: {name}"),
        "model": {key: run.plan["model"][key] for key in ("name", "params")},
        "design": {**run.plan["splits"], "n_splits": run.used_splits().n_splits, "repeats": run.repeats},
        "seed": run.seed,
        "match": (run.plan.get("match") or "epochs") if has_steps(run) else None,
        "score_epochs": [e for e in run.score_epochs if e >= 0],
        "log_prob": estimate_of(run),
        "importance_samples": run.importance_samples if sampled(run) else None,
        "posterior": posterior_asked(run),
        "estimator": "adjusted" if run.has_result("adjusted") else estimator,
        "estimand": _estimand(run, estimator),
    }


def _estimand(run: Run, estimator: str) -> str:
    splits = run.used_splits()
    left_out = LEFT_OUT.get(splits.kind, "a subset that contains it").format(share=1 - float(splits.held_out.mean()))
    average = (BOUNDS if estimate_of(run) == "bound" else ESTIMATES)[estimator]
    return f"{average} of models trained with x, minus the same of models trained without {left_out}."


def _data(run: Run) -> dict[str, Any]:
    about, data = run.plan["data"], run.data()
    duplicates = int((run.result("nearest")["duplicate_of"] >= 0).sum())
    return {
        "source": about["source"],
        "sha256": about["sha256"],
        "n": about["n"],
        "event_shape": about["event_shape"],
        "dtype": about["dtype"],
        "preparation": about["preparation"],
        "constant_columns": about["constant_columns"],
        "labels": None if data.labels is None else len(np.unique(data.labels)),
        "groups": None if data.groups is None else len(np.unique(data.groups)),
        "duplicates": duplicates,
        "image_shape": about["image_shape"],
        "columns": about["columns"],
        "names": data.names is not None,
        "as_read": as_read(data),
    }


def _environment(run: Run) -> dict[str, Any]:
    probe = run.probe or {}
    return {
        "platform": platform.platform(),
        "cpu": _processor(),
        "cores": os.cpu_count() or 1,
        "device": probe.get("device", "cpu"),
        "refit_method": probe.get("method", "fit"),
        "versions": library_versions(run)[0],
    }


def _processor() -> str:
    information = Path("/proc/cpuinfo")
    if information.exists():
        for line in information.read_text(errors="replace").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()
