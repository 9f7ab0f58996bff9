"""A copy check on disk and in memory with made-up numbers: what its files and pages are tested on."""

import json
from functools import lru_cache

import numpy as np
from sklearn.datasets import load_digits

from genmem.findings.copies import ASKED
from genmem.report.copies import CopyResults
from genmem.report.pictures import Scale
from genmem.run.storage import write_arrays

TEST = {
    "name": "train_share",
    "title": "Samples closer to a training example",
    "value": 0.61,
    "null": 0.75,
    "interval": [0.58, 0.9],
    "p_value": 2e-9,
    "direction": "higher",
    "n": 300,
    "alarm": True,
    "sentence": "61% of samples are closer to a training example than to a held-out one; of fresh data, 75% would be.",
    "cannot_see": "A few copies among many samples.",
    "citation": "Someone et al. (2020), https://example.org/abs/1",
}


def about(say="", redacted=False, verdict="copies found"):
    """What copycheck.json holds; `say` goes into every text."""
    test = {**TEST, "sentence": TEST["sentence"] + say, "title": TEST["title"] + say, "citation": f"Who{say}"}
    context = {**test, "name": "dcr", "p_value": None, "interval": None, "null": None, "alarm": False, "value": None}
    flags = {
        "title": f"Too near{say}",
        "flagged": 9,
        "n": 300,
        "level": 0.1,
        "resolution": 1 / 101,
        "sentence": f"9 of 300 samples stand out.{say}",
        "cannot_see": f"Shifted copies.{say}",
        "citation": "Who",
    }
    sets = {name: {"source": f"{name}{say}.npy", "n": 300, "sha256": "0" * 64} for name in ("train", "test", "samples")}
    return {
        "schema_version": "1.0",
        "genmem_version": "0.1.0",
        "created": "2026-01-01T00:00:00Z",
        "asked": {"command": f"genmem copycheck --train a{say}", "python": f"genmem.stages.check_copies(a{say})",
                  "train": "t", "test": "h", "samples": f"samples{say}.npy", "space": "raw", "level": 0.1, "seed": 0,
                  "redacted": redacted, "fail_if": None},
        "data": {"n_train": 300, "n_test": 100, "n_samples": 300, "event_shape": [8, 8], "sets": sets},
        "verdict": verdict,
        "sentence": f"At least 2% of samples are copies.{say}",
        "copied_share": {**test, "name": "copied_share", "title": f"Copied share{say}", "value": 0.03, "null": 0.0},
        "power": {"smallest": 0.01, "at": 0.8, "shares": [0.01], "found": [0.83],
                  "sentence": f"Copies of 1% of samples would be found.{say}"},
        "space": {"name": f"raw{say}", "sentence": f"Raw values.{say}"},
        "numbers": {"copied_share": 0.03},
        "power_noisy": {"smallest": None, "at": 0.8, "shares": [], "found": [], "sentence": f"None with noise.{say}"},
        "samples": flags,
        "rows": flags,
        "calibrated": flags,
        "tests": [test, context],
        "missed": [f"Shifted copies lie far away.{say}"],
        "versions": {"python": "3.11"},
        "seconds": 3.2,
        "files": {"report": "report.html", "about": "copycheck.json", "pairs": "pairs.parquet"},
    }  # fmt: skip


def pairs(m=30, flagged=9, rows=300):
    rng = np.random.default_rng(0)
    train = rng.permutation(rows)[:m]
    train[1] = train[0]  # two samples of one row
    return {
        "sample": rng.permutation(rows)[:m],
        "train": train,
        "test": rng.integers(0, 100, m),
        "distance_train": np.sort(rng.gamma(2, 2, m)),
        "distance_test": 6 + rng.gamma(2, 2, m),
        "p_value": np.linspace(0.01, 0.9, m),
        "q_value": np.linspace(0.02, 1, m),
        "flagged": np.arange(m) < flagged,
        "calibrated_flagged": np.zeros(m, bool),
        "stands_out": np.arange(m) < flagged,
    }


@lru_cache
def images():
    """(700, 8, 8) digits."""
    return load_digits().images[:700]


def digits_check(**how):
    """Copies of digits; `how` goes to `about`."""
    X = images()
    T, H, S = X[:300], X[300:400], X[400:].copy()
    found = pairs()
    S[found["sample"][:9]] = T[found["train"][:9]]
    shown = np.delete(np.arange(25), 1)
    near = (np.random.default_rng(1).gamma(9, 1, 300), np.random.default_rng(2).gamma(9, 1, 100))
    at = {"sample": S, "train": T, "test": H}
    return CopyResults(
        about=about(**how),
        pairs=found,
        shown=shown,
        examples={kind: rows[found[kind][shown]] for kind, rows in at.items()},
        near=near,
        image_shape=(8, 8),
        scale=Scale(0.0, 16.0),
    )


def add_copies(path, say=""):
    """Add a copy check with made-up numbers to the run directory of `fake_run.make_run`."""
    audit = json.loads((path / "audit.json").read_text())
    n, X = audit["data"]["n"], np.load(path / "data" / "X.npy")
    found = about(say)
    data = {"n_train": n - 9, "n_test": 9, "n_samples": 300, "event_shape": list(X.shape[1:])}
    found |= {"note": f"A refit.{say}", "data": {**data, "test": f"fold{say}", "test_in_run": True}}
    audit["copies"] = {**{name: found[name] for name in ASKED}, "level": 0.1, "seed": 0}
    (path / "audit.json").write_text(json.dumps(audit))
    columns = {**pairs(rows=n), "test": np.arange(30) % 9}
    arrays = {f"pair_{name}": column for name, column in columns.items()}
    arrays |= {f"shown_{kind}": X[np.arange(8)] for kind in ("sample", "train", "test")} | {"shown": np.arange(8)}
    write_arrays(
        path / "results" / "copycheck.npz",
        {**arrays, "samples_statistic": np.arange(300.0), "near_test": np.arange(9.0)},
    )
    return path
