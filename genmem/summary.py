"""audit.json: what was asked, how far it can be trusted, what was found."""

import datetime
import json
import math
import os
import platform
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from genmem import stats
from genmem.findings import find
from genmem.run import Run
from genmem.version import __version__

SCHEMA_VERSION = "1.0"
RELIABLE = 0.7
NOISE_SHARE = 0.1
ESTIMANDS = {
    "mean_log": "E log p(x) of models trained with x, minus the same of models trained without its fold.",
    "log_mean": "log E p(x) of models trained with x, minus the same of models trained without its fold.",
}


def summarise(run: Run) -> dict[str, Any]:
    """Return the contents of audit.json for a run whose stages are done."""
    times = run.read_json("times.json") or {}
    groups = run.read_json("results/groups.json") or []
    return {
        "schema_version": SCHEMA_VERSION,
        "genmem_version": __version__,
        "created": datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
        "asked": _asked(run),
        "data": _data(run),
        "environment": _environment(run),
        "wall_time": {**times, "total": round(sum(times.values()), 3)},
        "checks": _checks(run),
        "findings": find(run, groups),
        "groups": groups,
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
        "model": run.plan["model"],
        "design": run.plan["splits"],
        "seed": run.seed,
        "score_epochs": [e for e in run.score_epochs if e >= 0],
        "importance_samples": run.importance_samples if _sampled(run) else None,
        "estimator": estimator,
        "estimand": ESTIMANDS[estimator],
    }


def _sampled(run: Run) -> bool:
    """Whether log p is a Monte-Carlo estimate: of a network, and not an exact one."""
    if run.probe is None or run.probe["method"] == "fit":
        return False
    return run.importance_samples == 1 or bool(run.shard_arrays("effective_draws").max() > 1)


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
        "duplicates": duplicates,
        "image_shape": about["image_shape"],
        "columns": about["columns"],
        "names": data.names is not None,
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
    """Return the versions the refits were computed with: one set, or several where libraries changed on the way."""
    return [json.loads(text) for text in dict.fromkeys(run.shard_arrays("versions").tolist())]


def _processor() -> str:
    information = Path("/proc/cpuinfo")
    if information.exists():
        for line in information.read_text(errors="replace").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


# --- how far the numbers can be trusted


def _checks(run: Run) -> list[dict[str, Any]]:
    found = [_reliability(run), _duplicates(run), _constants(run)]
    return found + ([_sampling_noise(run)] if _sampled(run) else [])


def _check(name: str, title: str, value: float | None, unit: str, null: float | None, ok: bool, sentence: str) -> Any:
    return {
        "id": name,
        "title": title,
        "value": None if value is None or not math.isfinite(value) else float(value),
        "unit": unit,
        "null": null,
        "ok": bool(ok),
        "sentence": sentence,
    }


def _reliability(run: Run) -> Any:
    scores = run.result("scores")
    value = stats.reliability(scores["score"], scores["standard_error"])
    title = "Reliability of the scores"
    if not math.isfinite(value):
        sentence = "One repeat says nothing about its own noise: use --repeats 3 or more."
        if run.plan["splits"]["repeats"] > 1:
            sentence = "All scores are equal: there is nothing to rank."
        return _check("reliability", title, None, "", 0.0, False, sentence)
    ok = value >= RELIABLE
    advice = "" if ok else " Rankings of single examples are noisy: add repeats."
    sentence = f"A second study of this size would correlate {value:.2f} with this one, example by example.{advice}"
    if value <= 0:
        sentence = f"The scores of single examples are noise: a second study would not repeat them.{advice}"
    return _check("reliability", title, value, "", 0.0, ok, sentence)


def _duplicates(run: Run) -> Any:
    count = int((run.result("nearest")["duplicate_of"] >= 0).sum())
    sentence = "No two examples are identical."
    if count:
        sentence = f"{count:,} examples have an identical twin; left out alone, their twin still trains the model."
    return _check("duplicates", "Identical examples", count, "examples", 0.0, count == 0, sentence)


def _constants(run: Run) -> Any:
    columns = run.plan["data"]["constant_columns"]
    sentence = "Every column varies."
    if columns:
        named = ", ".join(_column_names(run, columns[:10])) + (", ..." if len(columns) > 10 else "")
        sentence = (
            f"{_counted(len(columns), 'column')} constant ({named}). A continuous likelihood would diverge there, so "
            "it leaves them out."
        )
    return _check("constant_columns", "Constant columns", len(columns), "columns", 0.0, True, sentence)


def _counted(n: int, noun: str) -> str:
    return f"{n:,} {noun} is" if n == 1 else f"{n:,} {noun}s are"


def _column_names(run: Run, columns: Sequence[int]) -> list[str]:
    names = run.plan["data"]["columns"]
    return [str(c) if names is None else names[c] for c in columns]


def _sampling_noise(run: Run) -> Any:
    """Importance-sampling variance of a per-repeat score, as a share of the whole per-repeat variance."""
    title, unit = "Noise of importance sampling", "of the variance of a score"
    draws, splits = run.importance_samples, run.splits()
    effective = run.shard_arrays("effective_draws")[:, -1].mean()
    spread = np.mean(run.result("scores")["standard_error"] ** 2) * splits.n_repeats
    if draws < 2 or not spread > 0:
        why = "one draw" if draws < 2 else "one repeat"
        return _check("sampling_noise", title, None, unit, NOISE_SHARE, False, f"It cannot be told from {why}.")
    inside = 1 / max(1.0, splits.n_splits / splits.n_repeats - 1)  # the mean over the other folds
    v_in, v_out = (np.nanmean(run.shard_arrays(f"variance_{which}")[:, -1]) for which in ("in", "out"))
    share = float((v_out + v_in * inside) / spread)
    advice = "" if share <= NOISE_SHARE else " Use more --importance-samples."
    sentence = (
        f"{draws} draws are worth {effective:.1f} independent ones; their noise is about {share:.1%} of the variance "
        f"of a score within one repeat.{advice}"
    )
    return _check("sampling_noise", title, share, unit, NOISE_SHARE, share <= NOISE_SHARE, sentence)


def _limitations(run: Run) -> list[str]:
    splits = run.plan["splits"]
    found = [
        f"Each refit leaves out one of {splits.get('folds', 'several')} folds at once, not a single example: "
        "scores are those of models trained on that much less data.",
        "A score belongs to this kind of model, trained this way; another architecture may memorize other examples.",
        "Samples of the model were not compared with the training set: a memorized example need not be reproduced.",
    ]
    if _sampled(run):
        found.append(
            "log p is estimated through the encoder, which fits examples it was not trained on less well. That part "
            "of a score is not in the density itself; more importance samples do not remove it."
        )
    if splits.get("folds") == 2 and splits.get("repeats", 0) < 3:
        found.append("Two folds leave no placebo: p-values need three folds, or three repeats.")
    if len(sets := _versions(run)) > 1:
        changed = {name: [s.get(name) for s in sets] for name in sets[0] if len({s.get(name) for s in sets}) > 1}
        found.append(
            f"Refits were computed with several versions of libraries ({changed}); the first is the one shown."
        )
    if splits.get("repeats") == 1:
        found.append("One repeat: scores have no standard errors, and p-values test only that there is no effect.")
    return found
