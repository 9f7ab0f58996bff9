"""Is memorization local in units of the networks of a run? Trains networks on halves of the data, and ablates units."""

import time
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from genmem import leaveout
from genmem.data.arrays import fingerprint
from genmem.errors import DataError, ModelError, RunError
from genmem.findings.neurons import described, neurons_of
from genmem.findings.stages import succeeded
from genmem.leaveout import planned_model
from genmem.leaveout.refitting import make_task
from genmem.models import DeepDensity
from genmem.models.base import is_count, is_seed
from genmem.neurons.effects import shown_effect
from genmem.neurons.examples import refuse_few_examples
from genmem.neurons.localize import (
    LEAST_REPEATS,
    Design,
    Measured,
    conclude,
    from_arrays,
    measure,
    refuse_few,
    to_arrays,
)
from genmem.neurons.search import paired_search
from genmem.neurons.units import coverage_of
from genmem.protocols import Listener, Progress, ignore
from genmem.run.directory import Run, stage
from genmem.run.splits import Splits
from genmem.run.storage import read_arrays, write_arrays
from genmem.stages._describe import report_again
from genmem.training.ensemble import fresh_module

HALVES = "neurons"  # the run of the networks on halves, within the run
HALF = 0.5
METHOD = 2  # raised when the same arguments would give another result: it is then computed anew
MOST_REPEATS = 32
POSTERIORS = ("refit", "fixed", "encoder")
BASELINES = ("mean", "zero", "resample")

Count = int | Literal["auto"]


def neurons(
    run: Run,
    model: Any = None,
    *,
    repeats: int = LEAST_REPEATS,
    share: float = 0.05,
    baseline: str = "mean",
    posterior: str = "refit",
    splits: int = 40,
    permutations: int = 99,
    seed: int | None = None,
    workers: Count = "auto",
    recompute: bool = False,
    progress: Listener = ignore,
) -> dict[str, Any]:
    """Test whether memorization is local in few units; writes results/neurons.json and .npz, and updates the report.

    Networks are trained on complementary halves of the data in RUN/neurons, which is a run of its own and resumes; if
    the run itself is on halves and kept its weights, these are used. Every unit of every network is ablated, and the
    effect of chosen units on memorized examples is compared with that on the same examples where they were left out
    (see `genmem.neurons.localize`). A stored result is recomputed only if arguments differ, or if it was computed
    otherwise by an older version.

    Args:
        run: a planned run of a network.
        model: the planned model, if it cannot be made from the plan alone.
        repeats: number of complementary halves; 8 at least, so 16 networks.
        share: of the examples, those with the highest scores, that count as memorized.
        baseline: what replaces a unit: "mean", "zero" or "resample" (see `genmem.ablate`).
        posterior: of networks with a posterior: "refit", "fixed" or "encoder" (see `genmem.drops`).
        splits: random halves of the pairs of examples on which units are chosen and judged.
        permutations: exchanges of cases and controls.
        seed: of all choices, but not of the networks; by default that of the run.
        workers: processes that train networks, see `genmem.refit`.
        recompute: compute damaged files and failed refits again.
        progress: called with each report of progress.

    Returns:
        The contents of results/neurons.json.

    Raises:
        DataError: an argument is out of range, there are too few repeats, or too few examples.
        ModelError: the model has no units, or a refit fails.
    """
    asked: dict[str, Any] = {"repeats": repeats, "share": share, "baseline": baseline, "posterior": posterior}
    asked |= {"splits": splits, "permutations": permutations, "seed": run.seed if seed is None else seed}
    asked["method"] = METHOD
    _check(asked)
    chosen = _with_units(run, planned_model(run, model))
    refuse_few(repeats, _cost(run, LEAST_REPEATS))
    refuse_few_examples(int(run.plan["data"]["n"]), share)
    with stage(run, "neurons"):
        found = None if recompute else neurons_of(run)
        about = found.about if found is not None else {}
        if about.get("asked") != asked:
            halves = _halves(run, chosen, repeats)
            if recompute:
                halves.drop_damaged()
                halves.drop_failed()
            leaveout.refit(halves, chosen, workers=workers, repeats=repeats, progress=progress)
            about = _compute(run, halves, chosen, asked, progress)
        progress(Progress("neurons", 1, 1))
        succeeded(run, "neurons")
    report_again(run, progress=progress)
    return about


def _check(asked: dict[str, Any]) -> None:
    for name in ("repeats", "splits", "permutations"):
        if not is_count(asked[name]):
            raise DataError(
                expected=f"{name} to be a whole number of at least 1", got=repr(asked[name]), do=f"Change {name}."
            )
    if asked["repeats"] > MOST_REPEATS:
        raise DataError(
            expected=f"at most {MOST_REPEATS} repeats", got=f"{asked['repeats']}", do="Ask for fewer networks."
        )
    if not is_seed(asked["seed"]):
        raise DataError(expected="seed to be a whole number of at least 0", got=repr(asked["seed"]), do="Change seed.")
    share = asked["share"]
    if isinstance(share, bool) or not isinstance(share, int | float) or not 0 < share <= 0.25:
        raise DataError(expected="share to be a number above 0, at most .25", got=repr(share), do="Change share.")
    for name, known in (("baseline", BASELINES), ("posterior", POSTERIORS)):
        if asked[name] not in known:
            raise DataError(
                expected=f"{name} to be one of {', '.join(known)}", got=repr(asked[name]), do=f"Change {name}."
            )


def _with_units(run: Run, model: Any) -> DeepDensity:
    """Return the model, if it is a network."""
    if isinstance(model, DeepDensity):
        return model
    raise ModelError(
        expected="a network, for the question in which units memorization is located",
        got=type(model).__name__,
        do="The question does not arise for a density without units, such as a kernel density, a Gaussian mixture or "
        "k-NN: `genmem influence` tells which training examples its density stands on.",
    )


def _cost(run: Run, repeats: int) -> float | None:
    """Return the expected seconds of training the networks, None if nothing is known of it."""
    expected = (run.probe or {}).get("expected_seconds")
    return None if expected is None else float(expected) / max(1, run.splits().n_splits) * 2 * repeats


# --- networks on halves


def _halves(run: Run, model: DeepDensity, repeats: int) -> Run:
    """Return a run of networks on complementary halves that keeps its weights: this run, or one within it.

    That one is planned for the most repeats, so that more can be added; only those asked for are trained.
    """
    if _serves(run, repeats):
        return run
    data = run.data()
    halves = Run.create(
        run.path / HALVES,
        model=model,
        data=data,
        splits=Splits.subsets(len(data.X), HALF, 2 * MOST_REPEATS, run.seed, groups=data.groups),
        seed=run.seed,
        match="epochs" if run.n_matched is None else "steps",
        importance_samples=run.importance_samples,
        keep_weights=True,
    )
    if repeats > max(halves.looks, default=0):
        halves.use_repeats(repeats)
    return halves


def _serves(run: Run, repeats: int) -> bool:
    """Whether a run is itself on halves, with enough repeats done and the weights of all."""
    splits = run.splits()
    halves = splits.kind == "subsets" and splits.n_splits == 2 * splits.n_repeats
    if not halves or splits.n_repeats < repeats or run.pending(repeats):
        return False
    return all(run.weights_path(i).exists() for i in run.shards(repeats))


def network_of(run: Run, module: nn.Module, split: int) -> nn.Module:
    """Load the kept weights of one refit into a network, and return it.

    Raises:
        IncompleteRunError: the run did not keep them.
    """
    splits = run.splits()
    shard = int(splits.shard[split])
    row = split - int(np.argmax(splits.shard == shard))
    weights = run.weights(shard)
    module.load_state_dict({name: torch.from_numpy(np.ascontiguousarray(w[row])) for name, w in weights.items()})
    return module.eval()


# --- evidence


def _compute(run: Run, halves: Run, model: DeepDensity, asked: dict[str, Any], progress: Listener) -> dict[str, Any]:
    start, seed, share = time.perf_counter(), asked["seed"], asked["share"]
    design, module = _design(halves, asked["repeats"]), fresh_module(make_task(halves, model).recipe(), 0)
    rows = np.flatnonzero(np.isfinite(design.log_probs).all(1))
    refuse_few(len(np.unique(design.repeat[rows])))  # others failed
    measured = []
    for done, row in enumerate(rows.tolist()):
        progress(Progress("neurons", done, len(rows) + 1, f"ablating units of network {done + 1} of {len(rows)}"))
        measured.append(_measured(run, halves, module, design, row, asked))
    progress(Progress("neurons", len(rows), len(rows) + 1, "judging"))
    how = {name: asked[name] for name in ("splits", "permutations")}
    verdict = conclude(measured, design, share=share, seed=seed, **how)
    score = _scores(design)
    paired = paired_search([m.evidence for m in measured], [m.positions for m in measured], score)
    first = network_of(halves, module, int(rows[0]))
    effect = shown_effect(first, np.asarray(design.X), design.held_out[rows[0]], measured[0], score)
    run.write_result("neurons", **effect.arrays())
    about = described(verdict, measured, paired, asked, str(coverage_of(first)), len(rows))
    about["effect"] = effect.described()
    about["networks"] = "the run itself" if halves is run else HALVES
    about["seconds"] = round(time.perf_counter() - start, 3)
    run.write_json("results/neurons.json", about)
    return about


def _design(halves: Run, repeats: int) -> Design:
    splits = halves.used_splits(repeats)
    log_probs = halves.log_probs(repeats=repeats).astype(np.float64)
    return Design(np.asarray(halves.data().X), log_probs, splits.held_out, splits.repeat)


def _scores(design: Design) -> NDArray[np.float64]:
    """Return the memorization score of every example over all repeats."""
    there = np.isfinite(design.log_probs).all(1)
    values, out = design.log_probs[there], design.held_out[there]
    inside, outside = (np.where(w, values, 0).sum(0) / np.maximum(w.sum(0), 1) for w in (~out, out))
    return np.asarray(inside - outside)


def _measured(run: Run, halves: Run, module: nn.Module, design: Design, row: int, asked: dict[str, Any]) -> Measured:
    """Return the evidence of one network, stored if it was computed before with the same arguments."""
    names = ("repeats", "share", "baseline", "posterior", "seed", "method")
    stamp = fingerprint(repr([(name, asked[name]) for name in names]).encode(), halves.stamp(int(_shard(halves, row))))
    file = run.path / "neurons-drops" / f"{row:04d}.npz"
    try:
        return from_arrays(read_arrays(file, stamp))
    except (FileNotFoundError, RunError):  # another stamp, or damaged: it is a pure function of the rest
        pass
    network = network_of(halves, module, row)
    how = {"baseline": asked["baseline"], "posterior": asked["posterior"]}
    measured = measure(network, design, row, share=asked["share"], seed=asked["seed"], **how)
    write_arrays(file, to_arrays(measured), stamp)
    return measured


def _shard(halves: Run, row: int) -> int:
    return int(halves.splits().shard[row])
