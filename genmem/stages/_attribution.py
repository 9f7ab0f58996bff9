"""How influence is computed for the model of a run: along the trajectory of a network, or by leaving examples out.

Both methods draw samples of the model and attribute queries to training examples; `used` are the sorted positions of
the examples considered, and `about` describes the method.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from genmem.influence import Ledger, influence_scores, self_influence, top_influences
from genmem.influence.closed_form import family_of, note_on, refuse_scale
from genmem.influence.selection import strongest
from genmem.models import DeepDensity
from genmem.models.custom import can_sample
from genmem.models.leave_one_out import seeded
from genmem.protocols import Listener, Progress, draw
from genmem.run.directory import Run
from genmem.seeding import seed32, stream
from genmem.stages._refit import trained_network
from genmem.training.trajectory import Trajectory

BUDGET = {"cpu": 3e11, "cuda": 3e13}  # examples x parameters x checkpoints x draws; takes minutes for most networks
LEAST = 256  # examples that are considered even beyond the budget
MOST_REFITS = 500
UNITS = {
    "complete": "nats",
    "adam": "nats",
    "lr": "nats, for one step on the example alone at each checkpoint",
}
SCALES = {
    "dot": "{}",
    "cosine": "cosines of gradients, from -1 to 1",
    "query": "{}, divided by the length of the training example's gradient",
}

FloatArray = NDArray[np.float64]
Positions = NDArray[np.intp]


class Skipped(Exception):
    """Influence is not computed; the text gives the reason."""


@dataclass(frozen=True)
class Attributed:
    """Influence of n examples considered on m queries; positions are indices into the examples considered.

    `own`, `error`: (n,) self-influence and its standard error. `proponents`, `opponents` and their scores: (m, k),
    strongest first, -1 if there are fewer. `about`: description of the method. `by_scale`: the proponents if scores
    are divided by norms of gradients.
    """

    own: FloatArray
    error: FloatArray
    proponents: NDArray[np.integer]
    proponent_scores: FloatArray
    opponents: NDArray[np.integer]
    opponent_scores: FloatArray
    about: dict[str, Any] = field(default_factory=dict)
    by_scale: Mapping[str, NDArray[np.int64]] = field(default_factory=dict)


class AlongTrajectory:
    """TracIn along the checkpoints of the network trained on all examples."""

    def __init__(self, run: Run, model: DeepDensity, X: NDArray[Any], asked: dict[str, Any]) -> None:
        self.model, trajectory = trained_network(run, model)
        self.asked, self.seed = asked, asked["seed"]
        self.used, subset = _considered(self.model, trajectory, len(X), asked)
        self.X = X[self.used]
        kind = asked["weights"]
        self.about: dict[str, Any] = {
            "method": "trajectory",
            "weights": kind,
            "scale": asked["scale"],
            "unit": SCALES.get(asked["scale"], "{}").format(UNITS.get(kind, "nats")),
            "draws": asked["draws"],
            "checkpoints": len(trajectory),
            "subset": subset,
        }

    def attribute(self, Z: NDArray[Any], k: int, folder: Path, progress: Listener) -> Attributed:
        """Return unbiased self-influence with its error over draws, and the strongest; unfinished sums are resumed."""
        ledger, k, scale = Ledger(folder / "queries"), min(k, len(self.X)), self.asked["scale"]
        how: dict[str, Any] = {name: self.asked[name] for name in ("weights", "draws", "seed")}
        found = top_influences(
            self.model, self.X, Z, k=k, scale=scale, ledger=ledger, progress=_share(progress, 0, 0.5), **how
        )
        others = {  # from the same sums, without further gradients
            other: top_influences(self.model, self.X, Z, k=k, scale=other, ledger=ledger, **how)
            for other in SCALES
            if other != scale
        }
        ledger, progress = Ledger(folder / "self"), _share(progress, 0.5, 1)
        own, error = self_influence(self.model, self.X, return_std=True, ledger=ledger, progress=progress, **how)
        lists = (found.proponents, found.proponent_scores, found.opponents, found.opponent_scores)
        about = {"coverage": found.coverage, "note": self._note(found.note)}
        by_scale = {str(name): one.proponents for name, one in {scale: found, **others}.items()}
        return Attributed(own, error, *lists, about, by_scale)

    def _note(self, optimiser: str) -> str:
        asked, count = self.asked, self.about["checkpoints"]
        how = f"TracIn along {count} checkpoints, weights {asked['weights']}, {asked['draws']} draws for each example."
        none = "" if can_sample(self.model) else "The model was given without `sample`, so no samples were explained."
        return " ".join(part for part in (how, optimiser, none) if part)

    def sample(self, count: int) -> NDArray[Any]:
        """Return samples of the trained network; none if it was given without a function that samples."""
        if not count or not can_sample(self.model):
            return np.empty((0, *self.X.shape[1:]), np.float32)
        return np.asarray(self.model.sample(count, random_state=seed32(self.seed, "influence samples")))


def _considered(
    model: DeepDensity, trajectory: Trajectory, n: int, asked: dict[str, Any]
) -> tuple[Positions, str | None]:
    """Return the positions of the training examples to consider, and a sentence if these are not all."""
    parameters = sum(p.numel() for p in model.module_.parameters() if p.requires_grad)
    each = parameters * len(trajectory) * asked["draws"]
    budget = BUDGET[next(model.module_.parameters()).device.type]
    count = max(LEAST, int(budget / each)) if asked["examples"] == "auto" else int(asked["examples"])
    if count >= n:
        return np.arange(n), None
    why = "" if asked["examples"] != "auto" else f" (the budget is {budget:.0e} derivatives)"
    chosen = np.sort(stream(asked["seed"], "influence examples").choice(n, count, replace=False))
    return chosen, f"A random {count:,} of {n:,} training examples were considered{why}."


class LeavingOut:
    """Exact leave-one-out for densities: in closed form, or by one refit per example for all queries."""

    def __init__(self, run: Run, model: Any, X: NDArray[Any], asked: dict[str, Any]) -> None:
        family = family_of(model)
        if family.by_refits and len(X) > MOST_REFITS:
            raise Skipped(
                f"Influence was not computed: a Gaussian mixture must be refitted without each of its {len(X):,} "
                f"examples, which is done for at most {MOST_REFITS}."
            )
        refuse_scale(asked["scale"])
        self.model, self.X, self.seed, self.used = model, X, asked["seed"], np.arange(len(X))
        self.by_refits, method = family.by_refits, "refits" if family.by_refits else "formula"
        self.about = {"method": method, "unit": "nats", "note": note_on(family, len(X))}

    def attribute(self, Z: NDArray[Any], k: int, folder: Path, progress: Listener) -> Attributed:
        """Return exact influence."""
        if self.by_refits:  # the examples are also queries
            scores = influence_scores(self.model, self.X, np.concatenate([self.X, Z]), seed=self.seed)
            own, rest = scores.diagonal().copy(), scores[:, len(self.X) :]
            return Attributed(own, np.zeros(len(own)), *strongest(rest, k))
        own = np.asarray(self_influence(self.model, self.X))
        found = top_influences(self.model, self.X, Z, k=min(k, len(self.X)), progress=_share(progress, 0, 1))
        lists = (found.proponents, found.proponent_scores, found.opponents, found.opponent_scores)
        return Attributed(own, np.zeros(len(own)), *lists)

    def sample(self, count: int) -> NDArray[Any]:
        """Return samples of the density fitted to all examples; none if it cannot be sampled."""
        if not count:
            return np.empty((0, *self.X.shape[1:]))
        try:
            # In float32, covariances of a mixture may fail the checks of numpy's sampler.
            fitted = seeded(self.model, self.seed).fit(np.asarray(self.X, np.float64))
            return draw(fitted, count, seed32(self.seed, "influence samples"))
        except NotImplementedError:  # kernels that scikit-learn cannot sample
            return np.empty((0, *self.X.shape[1:]))


Way = AlongTrajectory | LeavingOut


def way_of(run: Run, model: Any, X: NDArray[Any], asked: dict[str, Any]) -> Way:
    """Return the method by which influence is computed for a model.

    Raises:
        Skipped: it would need too many refits.
        ModelError: influence is not defined for this kind of model.
        IncompleteRunError: the run of a network has no trajectory.
    """
    return (AlongTrajectory if isinstance(model, DeepDensity) else LeavingOut)(run, model, X, asked)


def _share(progress: Listener, start: float, stop: float) -> Listener:
    """Return a listener that reports progress of one part of the stage."""
    return lambda said: progress(
        Progress("influence", start + (stop - start) * said.done / max(said.total, 1), 1, said.detail)
    )
