"""audit.json: what was asked, how far the numbers can be trusted, and what was found."""

import datetime
import json
import os
import platform
from pathlib import Path
from typing import Any

import numpy as np

from genmem.data.as_read import as_read
from genmem.findings.checks import checks
from genmem.findings.copies import copies_of, find_copies
from genmem.findings.influence import find_influence, influence_of
from genmem.findings.memorization import find
from genmem.findings.neurons import find_neurons, neurons_of
from genmem.findings.records import from_json, to_json
from genmem.leaveout.posterior import correction_of, estimate_of, has_encoder, sampled
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
        "findings": to_json(find(run, groups) + find_influence(run) + find_copies(run) + find_neurons(run)),
        "groups": stored,
        **({} if shaped is None else {"influence": shaped.asked()}),
        **({} if copied is None else {"copies": copied.asked()}),
        **({} if (units := neurons_of(run)) is None else {"neurons": units.asked()}),
        "limitations": _limitations(run),
        "files": {"scores": "scores.parquet", "report": "report.html"},
    }


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
        "match": (run.plan.get("match") or "epochs") if _has_steps(run) else None,
        "score_epochs": [e for e in run.score_epochs if e >= 0],
        "log_prob": estimate_of(run),
        "importance_samples": run.importance_samples if sampled(run) else None,
        "posterior": _posterior_asked(run),
        "estimator": "adjusted" if run.has_result("adjusted") else estimator,
        "estimand": _estimand(run, estimator),
    }


def _has_steps(run: Run) -> bool:
    return "refit_steps" in (run.probe or {})


def _estimand(run: Run, estimator: str) -> str:
    splits = run.used_splits()
    left_out = LEFT_OUT.get(splits.kind, "a subset that contains it").format(share=1 - float(splits.held_out.mean()))
    average = (BOUNDS if estimate_of(run) == "bound" else ESTIMATES)[estimator]
    return f"{average} of models trained with x, minus the same of models trained without {left_out}."


def _posterior_asked(run: Run) -> str | None:
    """Return how log p was computed, or None for a model without an encoder."""
    if not has_encoder(run):
        return None
    if (found := correction_of(run)) is None:
        return "amortised"
    return "refit" if found["everywhere"] else "amortised, refitted for some"


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
        "versions": _versions(run)[0],
    }


def _versions(run: Run) -> list[dict[str, str]]:
    """Return the library versions of the refits: one set, or several if libraries changed during the run."""
    return [json.loads(text) for text in dict.fromkeys(run.shard_arrays("versions").tolist())]


def _processor() -> str:
    information = Path("/proc/cpuinfo")
    if information.exists():
        for line in information.read_text(errors="replace").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def _whole(splits: dict[str, Any]) -> str:
    kind = splits["kind"]
    if kind == "subsets":
        return f"a random {1 - splits['fraction']:.0%} of the examples"
    return "a group" if kind == "leave_out" else f"one of {splits.get('folds', 'several')} folds"


def _limitations(run: Run) -> list[str]:
    splits = {**run.plan["splits"], "repeats": run.repeats}
    found = [
        f"Each refit leaves out {_whole(splits)} at once, not a single example. Scores are therefore those of models "
        "trained on less data.",
        "A score belongs to this kind of model, trained this way. Another architecture may memorize other examples.",
    ]
    if _has_steps(run) and run.n_matched is None:
        found.append(
            "Refits share the number of epochs with the model trained on all examples, and so take fewer steps. That "
            "lowers scores: a new audit matches steps by default."
        )
    if run.data().groups is not None:
        found.append(
            "Examples of one group were left out together. Errors of means, regions, rank correlations and attack "
            "rates are by group; shares above a threshold take examples as independent."
        )
    if run.data().groups is not None and copies_of(run) is not None:
        found.append(
            "Tests of copies take examples as independent. If examples of one group are alike, they may find copies "
            "where there are none."
        )
    if copies_of(run) is None:
        found.append(
            "Samples of the model were not compared with the training set. A model need not reproduce an example that "
            "it memorized."
        )
    if estimate_of(run) == "bound":
        found.append(
            "log p stands for a lower bound on log p. A score is a difference of bounds: part of it may arise because "
            "the bound is looser for held-out examples."
        )
    if estimate_of(run) == "importance" and _posterior_asked(run) != "refit":
        through = "the encoder" if has_encoder(run) else "an encoder or guide, if the model has one"
        found.append(
            f"log p is estimated with amortized posteriors, from {through}, which fits held-out examples less well. A "
            "score includes this amortization gap; more importance samples do not remove it."
        )
    if (shaped := influence_of(run)) is not None and shaped.about["method"] == "trajectory":
        found.append(
            "Influence is a first-order estimate along one training run. For networks, such estimates have been found "
            "to agree hardly at all with a single retraining without the example. The findings report how well this "
            "estimate agrees with the memorization score."
        )
    if splits.get("folds") == 2 and splits.get("repeats", 0) < 3:
        found.append("With two folds there is no placebo. p-values need three repeats, or two repeats of three folds.")
    if len(sets := _versions(run)) > 1:
        changed = {name: [s.get(name) for s in sets] for name in sets[0] if len({s.get(name) for s in sets}) > 1}
        found.append(
            f"Refits were computed with several versions of libraries ({changed}); the report shows the first."
        )
    if str(run.result("scores")["estimator"]) == "log_mean":
        found.append(
            "p-values of log_mean assume that log p of held-out examples is as noisy as that of training examples. If "
            "it is noisier, as it often is, they are too small; mean_log with three repeats does not assume it."
        )
    if splits.get("repeats") == 1:
        found.append(
            "One repeat gives no standard errors and tests no single example: one held-out value cannot tell "
            "memorization from noise. Membership inference has no reference models. Use folds with three repeats or "
            "more."
        )
    return found
