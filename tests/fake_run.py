"""A run directory such as an audit leaves, with random scores: what the report is tested on."""

import json

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from scipy.stats import norm
from sklearn.datasets import load_digits

from genmem.run.storage import write_arrays


def make_run(path, *, X=None, labels="digits", names=None, image_shape=None, columns=None, repeats=8, say=""):
    """Write a run directory such as an audit leaves, with random scores; `say` goes into every text."""
    rng = np.random.default_rng(0)
    digits = load_digits()
    if X is None:
        X, image_shape = digits.data[:600].astype(np.float32), image_shape or [8, 8]
    n = len(X)
    if isinstance(labels, str):
        labels = (digits.target if labels == "digits" else np.full(n, labels))[np.arange(n) % 1797]
    index = np.arange(n) * 3
    scores = fake_scores(rng, n, repeats)
    write_files(path, rng, X, index, labels, names, scores)
    audit = fake_audit(X, index, labels, scores, repeats, say)
    audit["data"] |= {"image_shape": image_shape, "columns": columns, "names": names is not None}
    (path / "audit.json").write_text(json.dumps(audit, allow_nan=False))
    return path


def fake_scores(rng, n, repeats):
    score = rng.gamma(1.4, 5.0, n) + rng.normal(0, 1.5, n)
    log_prob_in = -20 - 0.6 * score - rng.gamma(3, 2, n)
    error = np.full(n, np.nan) if repeats == 1 else rng.gamma(9, 0.12, n)
    p_value = np.full(n, np.nan) if repeats == 1 else np.exp(-(np.clip(score, 0, None) ** 1.2) / 3)
    return {
        "score": score,
        "log_prob_in": log_prob_in,
        "log_prob_out": log_prob_in - score,
        "standard_error": error,
        "p_value": p_value,
        "q_value": np.minimum(p_value * 2, 1),
    }


def write_files(path, rng, X, index, labels, names, scores):
    (path / "data").mkdir(parents=True)
    np.save(path / "data" / "X.npy", X)
    np.save(path / "data" / "index.npy", index)
    columns = {"index": index, "label": None if labels is None else labels.tolist(), **scores}
    columns["label"] = pa.nulls(len(X)) if labels is None else columns["label"]
    if names is not None:
        columns["name"] = list(names)
    pq.write_table(pa.table(columns), path / "scores.parquet")
    for name, arrays in fake_results(rng, X, scores).items():
        write_arrays(path / "results" / f"{name}.npz", arrays)


def fake_results(rng, X, scores):
    n, k, m = len(X), min(5, len(X) - 1), min(12, len(X) // 2)
    order = np.argsort(-scores["score"])
    flat = X.reshape(n, -1).astype(np.float64)

    def near(p):
        distance = np.sqrt(((flat - flat[p]) ** 2).sum(1))
        distance[p] = np.inf
        return np.argsort(distance)[:k], np.sort(distance)[:k]

    most, least = order[:m], order[::-1][:m]
    sides = {"most": [near(p) for p in most], "least": [near(p) for p in least]}
    neighbors = {"most": most, "least": least, "duplicate_of": np.full(n, -1)}
    for side, found in sides.items():
        neighbors[f"{side}_neighbors"] = np.array([i for i, _ in found])
        neighbors[f"{side}_distances"] = np.array([d for _, d in found])
    neighbors["distance"] = 20 + 0.7 * scores["score"] + rng.gamma(4, 2, n)
    neighbors["duplicate_of"][most[-1]] = most[0]
    epochs = np.array([5, 10, 20, 40, 80, 120, 160, 200])
    growth = (1 - np.exp(-epochs / 60))[:, None]
    quantiles = np.quantile(scores["score"], [0.5, 0.95, 0.999])
    trajectory = {
        "epochs": epochs,
        "levels": np.array([0.5, 0.95, 0.999]),
        "score_quantiles": growth * quantiles,
        "null_quantiles": growth * np.array([0.0, 2.2, 5.5]),
        "mean_in": -45 + 20 * growth[:, 0],
        "mean_out": -45 + 13 * growth[:, 0],
        "mean_score": 7 * growth[:, 0],
        "mean_score_se": np.full(len(epochs), 0.1),
    }
    placebo = {"placebo": rng.standard_t(4, (8, n)) * 1.4}
    return {"scores": {**scores, **placebo}, "neighbors": neighbors, "trajectory": trajectory}


def fake_audit(X, index, labels, scores, repeats, say):
    one, n, mean = repeats == 1, len(X), round(float(scores["score"].mean()), 3)
    interval = None if one else [mean - 0.4, mean + 0.4]
    reliability = {
        "id": "reliability",
        "title": f"Scores repeat{say}",
        "value": None if one else 0.86,
        "unit": "",
        "null": 0,
        "ok": not one,
        "sentence": f"Two such audits would agree with a correlation of .86.{say}",
    }
    duplicates = {
        "id": "duplicates",
        "title": "Exact duplicates",
        "value": 0,
        "unit": "examples",
        "null": None,
        "ok": True,
        "sentence": "No two examples are the same.",
    }
    noise = {
        "id": "importance_sampling",
        "title": "Noise of log p",
        "value": 0.03,
        "unit": "of the variance",
        "null": None,
        "ok": True,
        "sentence": "Importance sampling adds 3% to the variance of a score.",
    }
    constant = {
        "id": "constant_columns",
        "title": "Constant columns",
        "value": 3,
        "unit": "columns",
        "null": None,
        "ok": True,
        "sentence": "Columns 0, 32 and 39 never vary and tell no example from another.",
    }
    common = {"standard_error": None if one else 0.2, "p_value": None if one else 1e-9, "n": n, "examples": [0]}
    findings = [
        {"id": "score_distance", "question": "neighbors", "title": "Score against distance", "value": 0.62,
         "interval": [0.58, 0.66], "null": 0, "unit": "Spearman",
         "sentence": "Memorized examples lie far from their neighbours: the rank correlation of score and "
                     "distance is .62.",
         "meaning": "The model memorizes what is unusual, not what is repeated.", "source": None,
         **common, "standard_error": 0.02},
        {"id": "mean_score", "question": "memorized", "title": f"Mean memorization score{say}", "value": mean,
         "interval": interval, "null": 0.01, "unit": "nats",
         "sentence": f"On average an example is {mean:.1f} nats more likely under models trained on it.{say}",
         "meaning": "The models know their training examples better than others of the kind.",
         "source": "van den Burg & Williams 2021", **common},
        {"id": "highest_likely", "question": "memorized", "title": "Memorized yet likely", "value": 0.12,
         "interval": [0.06, 0.2], "null": 0.5, "unit": "share",
         "sentence": "12% of the highest 5% of scores have a log_prob_in above the median.",
         "meaning": "A likelihood threshold would miss these.", "source": "van den Burg & Williams 2021", **common},
        {"id": "spread", "question": "regions", "title": "Spread between labels", "value": 0.04, "interval": None,
         "null": None, "unit": "share of variance", "sentence": "Labels explain 4% of the variance of scores.",
         "meaning": "Need is spread over all labels.", "source": None, **common, "p_value": None,
         "standard_error": None},
    ]  # fmt: skip
    return {
        "schema_version": "1.0",
        "genmem_version": "0.1.0",
        "created": "2026-01-01T00:00:00Z",
        "asked": {
            "command": f"genmem audit digits --out runs/digits --set latent_dim=8{say}",
            "python": f"genmem.audit('digits', genmem.VAE(latent_dim=8), 'runs/digits'){say}",
            "model": {
                "name": f"genmem.models.vae:VAE{say}",
                "params": {"latent_dim": 8, "hidden": [128, 64], "epochs": 200, "note": f"none{say}"},
            },
            "design": {"kind": "k_fold", "n_splits": 5 * repeats, "folds": 5, "repeats": repeats, "sha256": "0"},
            "seed": 0,
            "score_epochs": [5, 10, 20, 40, 80, 120, 160, 200],
            "importance_samples": 64,
            "estimator": "mean_log",
            "estimand": "The score is the mean log density of an example under models that saw it, minus the mean "
            "under models that held it out, over the randomness of training.",
        },
        "data": {
            "source": f"digits{say}",
            "sha256": "9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08",
            "n": n,
            "event_shape": list(X.shape[1:]),
            "dtype": str(X.dtype),
            "preparation": "as given",
            "constant_columns": [0, 32, 39],
            "labels": None if labels is None else len(set(labels.tolist())),
            "duplicates": 0,
        },
        "environment": {"platform": "Linux", "cpu": "a CPU", "cores": 2, "device": "cpu", "refit_method": "lanes",
                        "versions": {"python": "3.11.7", "torch": "2.13.0", "numpy": "2.4.6"}},
        "wall_time": {"plan": 1.0, "refit": 100.0, "score": 4.2, "total": 130.0},
        "checks": [reliability, duplicates, noise, constant],
        "findings": findings,
        "groups": fake_groups(labels, scores["score"], say),
        "limitations": ["Scores hold for this model, these settings and this many examples.",
                        f"The encoder fits held-out examples less well, which raises scores of a VAE.{say}"],
        "files": {"scores": "scores.parquet", "report": "report.html"},
    }  # fmt: skip


def fake_groups(labels, score, say):
    cells = np.arange(len(score)) % 6
    kinds = [("cell", cells)] + ([] if labels is None else [("label", labels)])
    groups = []
    for kind, values in kinds:
        for name in np.unique(values):
            inside = values == name
            mean, rest = score[inside].mean(), score[~inside].mean() if (~inside).any() else None
            error = None if inside.sum() < 2 else float(score[inside].std() / np.sqrt(inside.sum()))
            examples = np.flatnonzero(inside)[np.argsort(-score[inside])][:6]
            groups.append(
                {"kind": kind, "name": f"{name}{say}", "n": int(inside.sum()), "mean": float(mean),
                 "standard_error": error, "rest": None if rest is None else float(rest),
                 "p_value": None if error is None or rest is None else float(norm.sf((mean - rest) / error)),
                 "interval": None if error is None else [mean - 1.96 * error, mean + 1.96 * error],
                 "examples": [int(p) for p in examples]}
            )  # fmt: skip
    return groups
