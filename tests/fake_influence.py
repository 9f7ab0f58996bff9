"""Results of influence such as a run holds, with random scores; beside `fake_run`."""

import json

import numpy as np

from genmem.run.storage import write_arrays


def add_influence(path, *, samples=4, memorized=6, k=5, seed=0, say=""):
    """Add influence to a run directory of `fake_run.make_run`; `say` goes into every text."""
    rng = np.random.default_rng(seed)
    X = np.load(path / "data" / "X.npy")
    n, depth, checked = len(X), min(len(X), k + 1), min(len(X), 128)
    own = rng.gamma(2.0, 3.0, n)
    arrays = {"examples": np.arange(n), "self_influence": own, "self_error": 0.1 * own}
    arrays |= {"checked": np.arange(checked), "checked_itself": own[:checked]}
    arrays["memorized"] = rng.permutation(n)[:memorized]
    arrays["samples"] = X[rng.integers(n, size=samples)] + 0.1
    for name in ("checked", "memorized", "samples"):
        rows = len(arrays[name])
        arrays |= some_lists(rng, name, rows, n, depth)
        if name != "samples":
            arrays[f"{name}_proponents"][:, 0] = arrays[name]
    write_arrays(path / "results" / "influence.npz", arrays)
    audit = json.loads((path / "audit.json").read_text())
    audit["influence"] = {
        "method": "trajectory", "skipped": None, "weights": "complete", "scale": "dot", "unit": f"nats{say}",
        "draws": 16, "checkpoints": 11, "coverage": f"100% of 58,000 parameters (58,000 by hooks){say}",
        "note": f"TracIn along 11 checkpoints.{say}", "n": n, "subset": f"Of 9 a random 3.{say}" if say else None,
        "k": k, "seed": 0, "chosen": False, "reliability": 0.98,
        "correlations": [{"of": f"memorization score{say}", "rho": 0.4, "standard_error": 0.03,
                          "interval": [0.34, 0.46], "n": n, "score_rho": None, "score_interval": None}],
    }  # fmt: skip
    (path / "audit.json").write_text(json.dumps(audit, allow_nan=False))
    return arrays


def some_lists(rng, name, rows, n, depth):
    """Return random proponents and opponents with scores in order."""
    found = {}
    for side, sign in (("proponent", 1), ("opponent", -1)):
        found[f"{name}_{side}s"] = np.array([rng.permutation(n)[:depth] for _ in range(rows)]).reshape(rows, depth)
        found[f"{name}_{side}_scores"] = sign * -np.sort(-rng.gamma(2, 1, (rows, depth)), axis=1)
    return found
