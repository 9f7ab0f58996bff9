"""TracIn on the checkpoints of a training run: which examples lowered the loss of a query, to first order.

At checkpoint c, a step on training example x changes the loss of a query z by -w_c <g_c(x), g_c(z)>, with g_c the
gradient of the training loss, averaged over latent draws. The sum of w_c <g_c(x), g_c(z)> over checkpoints is the
influence of x on z, in nats: positive for proponents, negative for opponents.

References:
    Estimating Training Data Influence by Tracing Gradient Descent (Pruthi, Liu, Kale & Sundararajan, 2020),
    https://arxiv.org/abs/2002.08484
    Understanding Instance-based Interpretability of Variational Auto-Encoders (Kong & Chaudhuri, 2021),
    https://arxiv.org/abs/2105.14203
"""

from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, nullcontext
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor

from genmem.data.arrays import as_array, groups_of, require_shape
from genmem.errors import ModelError
from genmem.gradients.factored import Rows
from genmem.gradients.products import (
    Direction,
    Features,
    gram,
    inner,
    pairs_of_draws,
    squared_norms,
    unbiased_from_pairs,
)
from genmem.influence.checkpoints import (
    Count,
    Settings,
    Visit,
    Visits,
    accumulate,
    added,
    block_of,
    digest,
    empty,
)
from genmem.influence.ledger import Ledger, Memory, Part, Store
from genmem.influence.normalization import note_of
from genmem.influence.selection import TopInfluences, check_k, check_scale, nothing, scaled, with_block
from genmem.influence.trained import Trained, refuse_bare
from genmem.influence.weights import note_on
from genmem.models.base import DeepDensity, as_tensor, require
from genmem.protocols import Listener

FloatArray = NDArray[np.float64]
CPU = torch.device("cpu")


def network_top(
    model: DeepDensity | Trained,
    X_train: ArrayLike,
    X_query: ArrayLike,
    *,
    k: int,
    scale: str,
    groups: ArrayLike | None,
    ledger: Ledger | None,
    progress: Listener,
    settings: Settings,
) -> TopInfluences:
    """Return the strongest proponents and opponents, (n_query, k) each: see `top_influences`."""
    work = _opened(model, X_train, X_query, groups, scale, ledger, settings)
    check_k(k, len(work.x))
    parts: list[tuple[NDArray[np.int64], FloatArray, NDArray[np.int64], FloatArray]] = []
    for block in _blocks(work, scale, ledger, progress):
        if block.first == 0:
            high = low = nothing(block.scores.shape[1])
        high, low = (with_block(best, s, block.first, k) for best, s in ((high, block.scores), (low, -block.scores)))
        if block.last:
            parts.append((high.rows, high.score, low.rows, -low.score))
    found = [np.concatenate(columns) for columns in zip(*parts, strict=True)]
    note = " ".join([note_on(settings.weights, work.trained.trajectory), *note_of(work.visits.statistics)])
    return TopInfluences(found[0], found[1], found[2], found[3], work.visits.coverage, settings.weights, scale, note)


def network_scores(
    model: DeepDensity | Trained,
    X_train: ArrayLike,
    X_query: ArrayLike,
    *,
    scale: str,
    groups: ArrayLike | None,
    ledger: Ledger | None,
    progress: Listener,
    settings: Settings,
) -> FloatArray:
    """Return all scores, (n_train, n_query): see `influence_scores`."""
    work = _opened(model, X_train, X_query, groups, scale, ledger, settings)
    scores = np.empty((len(work.x), work.queries))
    for block in _blocks(work, scale, ledger, progress):
        scores[block.first : block.first + len(block.scores), block.columns] = block.scores
    return scores


def network_self_influence(
    model: DeepDensity | Trained, X: ArrayLike, *, ledger: Ledger | None, progress: Listener, settings: Settings
) -> tuple[FloatArray, FloatArray]:
    """Return self-influence and its standard error, (n,) each: see `self_influence`."""
    trained, x = _trained_of(model), as_tensor(as_array(X, "X"), CPU)
    _same_event(model, x, "X")
    visits = Visits(trained, x, settings)
    job = SelfProducts(visits)
    if job.by_draw and visits.draws < 2:
        raise ModelError(
            expected="2 or more draws, for an estimate from pairs of them",
            got="1",
            do="Use 16; the square of a single draw is too large by its variance.",
        )
    blocks = -(-len(x) // block_of(job))
    about = {"what": "self-influence", "X": digest(x.numpy()), "block": block_of(job), "batch": job.batch}
    with _kept(ledger, about, visits) as store:
        count = Count(progress, blocks * len(visits), visits)
        sums = np.concatenate([sums for _, sums in accumulate(visits, job, x, store, count)])
    if job.by_draw:
        estimate, error = unbiased_from_pairs(torch.from_numpy(sums))
        return estimate.numpy(), error.numpy()
    return sums[:, 0], np.zeros(len(sums))


# --- pairs, block by block


class _Work(NamedTuple):
    """What pairs are computed from; `groups` of the queries, `single` if each is its own group."""

    trained: Trained
    visits: Visits
    x: Tensor
    z: Tensor
    groups: NDArray[np.intp]
    single: bool

    @property
    def queries(self) -> int:
        """The number of queries, each group counted as one."""
        return int(self.groups.max()) + 1


class _Block(NamedTuple):
    """Scores of the training examples from `first`, (rows, columns), on some queries; `last` block of these queries."""

    first: int
    columns: slice
    scores: FloatArray
    last: bool


def _opened(
    model: DeepDensity | Trained,
    X_train: ArrayLike,
    X_query: ArrayLike,
    groups: ArrayLike | None,
    scale: str,
    ledger: Ledger | None,
    settings: Settings,
) -> _Work:
    check_scale(scale)
    trained = _trained_of(model)
    x, z = (as_tensor(as_array(X, name), CPU) for X, name in ((X_train, "X_train"), (X_query, "X_query")))
    for some, name in ((x, "X_train"), (z, "X_query")):
        _same_event(model, some, name)
    require_shape(z.shape[1:], x.shape[1:], "queries", "as the training examples have")
    return _Work(trained, Visits(trained, x, settings), x, z, groups_of(groups, len(z)), groups is None)


def _blocks(work: _Work, scale: str, ledger: Ledger | None, progress: Listener) -> Iterator[_Block]:
    """Yield the scores of all training examples in order for some queries, then for the next ones."""
    visits, norms = work.visits, scale != "dot" or ledger is not None
    parts = parts_of(visits, work.queries, work.single)
    about = {
        "what": "influence",
        "X_train": digest(work.x.numpy()),
        "X_query": digest(work.z.numpy()),
        "groups": None if work.single else digest(work.groups),
        "queries at once": len(parts[0]),
    }
    with _kept(ledger, about, visits) as store:
        jobs = [
            Pairs(visits, work.z, work.groups, some, norms=norms, store=store, number=i, single=work.single)
            for i, some in enumerate(parts)
        ]
        size = block_of(jobs[0])
        count = Count(progress, len(jobs) * -(-len(work.x) // size) * len(visits), visits)
        for job, some in zip(jobs, parts, strict=True):
            for first, sums in accumulate(visits, job, work.x, store, count):
                scores = sums[:, : len(some)]
                if norms:
                    scores = scaled(scores, sums[:, -1], job.query_part().sums, scale)
                last = first + size >= len(work.x)
                yield _Block(first, slice(some.start, some.stop), scores, last)


def _kept(ledger: Ledger | None, about: Mapping[str, object], visits: Visits) -> AbstractContextManager[Store]:
    if ledger is None:
        return nullcontext(Memory())
    require("ledger", ledger, lambda given: isinstance(given, Ledger), "a genmem.influence.Ledger, or None")
    return ledger.opened({**about, **visits.identity()})


def _trained_of(model: DeepDensity | Trained) -> Trained:
    if isinstance(model, Trained):
        return model
    refuse_bare(model)
    if not isinstance(model, DeepDensity):
        raise ModelError(
            expected="a DeepDensity, or a network with its trajectory",
            got=f"{type(model).__name__}",
            do="For models with a closed form use influence_scores.",
        )
    model._check_fitted()
    if model.trajectory_ is None:
        raise ModelError(
            expected=f"a {type(model).__name__} with the checkpoints of its training",
            got="one without (models that were loaded or restored have none)",
            do=f"Fit it with checkpoint_every={max(1, model.epochs // 10)}, or pass Trained(module, trajectory).",
        )
    return Trained(model.module_, model.trajectory_)


def _same_event(model: DeepDensity | Trained, x: Tensor, name: str) -> None:
    known = getattr(model.module, "event_shape", None) if isinstance(model, Trained) else model.event_shape_
    if known is not None:
        require_shape(x.shape[1:], known, f"{name} of examples", "as the network was trained on")


# --- the contribution of a checkpoint


QUERY_BYTES = {"cpu": 2**30, "cuda": 2**34}  # of the gradients of queries that are kept
DIRECTIONS = 2  # at most, so that forward mode is cheaper than a backward pass and products


class SelfProducts:
    """Products of each draw's gradient with all others of the same example: (rows, draws).

    |g|^2 in one column for networks that draw nothing.
    """

    def __init__(self, visits: Visits) -> None:
        self.by_draw = visits.random
        self.columns = visits.draws if self.by_draw else 1
        self.batch = visits.batch_for(by_draw=self.by_draw)
        self.name = "examples"

    def begin(self, i: int, visit: Visit) -> None:
        """Do nothing."""

    def values(self, visit: Visit, x: Tensor, start: int) -> Tensor:
        """Return the contribution of a checkpoint for the rows from `start`: (rows, columns)."""
        if self.by_draw:
            return pairs_of_draws(gram(visit.train.by_draw(x, start), scale=visit.scale))
        return squared_norms(visit.train.features(x, start), scale=visit.scale)[:, None]


class Pairs:
    """Products with some queries, or with groups of them; with `norms`, |g|^2 in a last column.

    Gradients of single queries are kept factored, for all training examples. Those of groups, and of one or two
    queries, are written out: forward mode then replaces the gradients of training examples.

    Args:
        visits: the checkpoints.
        Z: all queries, (m, *event).
        groups: (m,) the group that each query is summed into.
        some: the groups to compute.
        norms: whether to sum squared norms too.
        store: stores those of the queries.
        number: of this part of the queries.
        single: whether each group is one query, in order.
    """

    def __init__(
        self,
        visits: Visits,
        Z: Tensor,
        groups: NDArray[np.intp],
        some: range,
        *,
        norms: bool,
        store: Store,
        number: int,
        single: bool,
    ) -> None:
        self._visits, self._Z, self._groups, self._some = visits, Z, groups, some
        self._norms, self._store = norms, store
        self._few = len(some) <= DIRECTIONS and not norms
        self._written = self._few or not single
        self.name, self.columns = f"queries{number:05d}", len(some) + norms
        self.batch = visits.batch_for(by_draw=False)
        self._gradients: list[Features] = []

    def begin(self, i: int, visit: Visit) -> None:
        """Compute the gradients of the queries."""
        self._gradients = self._written_out(visit) if self._written else self._as_they_come(visit)
        part = self.query_part()
        if self._norms and not part.done[i]:
            scale = visit.scale
            squares = torch.cat([squared_norms(some, scale=scale) for some in self._gradients])
            self._store.write(f"{self.name}-norms", added(part, visit.weight * squares.cpu().numpy(), i))
        if self._written and visit.scale is not None:
            self._gradients = [_multiplied(some, visit.scale) for some in self._gradients]

    def values(self, visit: Visit, x: Tensor, start: int) -> Tensor:
        """Return the contribution of a checkpoint for the rows from `start`: (rows, columns)."""
        if self._few:
            return torch.stack([visit.train.along(x, start, v) for v in self._directions(visit)], 1)
        found = visit.train.features(x, start)
        scale = None if self._written else visit.scale
        products = [inner(found, some, scale=scale) for some in self._gradients]
        if self._norms:
            products.append(squared_norms(found, scale=visit.scale)[:, None])
        return torch.cat(products, 1)

    def query_part(self) -> Part:
        """Return the squared norms of the queries, as far as they are known."""
        known = self._store.read(f"{self.name}-norms")
        return empty((len(self._some),), len(self._visits)) if known is None else known

    def _as_they_come(self, visit: Visit) -> list[Features]:
        starts = range(self._some.start, self._some.stop, self.batch)
        return [
            visit.query.features(self._rows(start, min(start + self.batch, self._some.stop)), start) for start in starts
        ]

    def _written_out(self, visit: Visit) -> list[Features]:
        parameters = visit.train.gradients.trained
        total = {
            name: torch.zeros(len(self._some), p.numel(), dtype=torch.float64, device=p.device)
            for name, p in parameters.items()
        }
        for start in range(0, len(self._Z), self.batch):
            of_rows = self._groups[start : start + self.batch]
            for group in sorted({int(g) for g in of_rows} & set(self._some)):
                rows = self._rows(start, start + len(of_rows))
                chosen = torch.from_numpy(of_rows == group).to(rows.device)
                for name, value in visit.query.total(rows, start, chosen).items():
                    total[name][group - self._some.start] += value.flatten()
        pieces = {name: Rows(rows.to(parameters[name].dtype)) for name, rows in total.items()}
        return [Features(pieces, len(self._some))]

    def _directions(self, visit: Visit) -> list[Direction]:
        (written,), like = self._gradients, visit.train.gradients.trained
        rows = {name: piece.dense(0, len(piece)) for name, piece in written.pieces.items()}
        return [{name: rows[name][i].view_as(like[name]) for name in rows} for i in range(len(self._some))]

    def _rows(self, start: int, stop: int) -> Tensor:
        return self._Z[start:stop].to(self._visits.device)


def parts_of(visits: Visits, queries: int, single: bool) -> list[range]:
    """Return the queries whose gradients fit in memory together, in order; cut between batches."""
    room = QUERY_BYTES.get(visits.device.type, QUERY_BYTES["cpu"])
    if single:
        batch = visits.batch_for(by_draw=False)
        size = max(1, room // (visits.bytes_of_one(by_draw=False) * batch)) * batch
    else:
        values = sum(p.numel() for p in visits.at(len(visits) - 1).train.gradients.trained.values())
        size = max(1, room // (12 * values))
    return [range(start, min(queries, start + size)) for start in range(0, queries, size)]


def _multiplied(features: Features, scale: Direction) -> Features:
    pieces = {name: Rows(piece.dense(0, len(piece)) * scale[name].flatten()) for name, piece in features.pieces.items()}
    return Features(pieces, len(features))
