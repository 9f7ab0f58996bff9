"""What a checkpoint adds: products of training examples with queries, or with themselves."""

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from genmem.influence.ledger import Part, Store
from genmem.influence.pieces import Rows
from genmem.influence.products import Direction, Features, gram, inner, pairs_of_draws, squared_norms
from genmem.influence.visits import Visit, Visits, added, empty

QUERY_BYTES = {"cpu": 2**30, "cuda": 2**34}  # of the gradients of queries that are kept
DIRECTIONS = 2  # at most, for forward mode to be cheaper than a backward pass and products


class SelfProducts:
    """Products of each draw's gradient with all others of the same example: (rows, draws).

    |g|^2 in one column for networks without chance, and for published code, which squares an average.
    """

    def __init__(self, visits: Visits) -> None:
        self.by_draw = visits.random and visits.settings.loss == "trained"
        self.columns = visits.draws if self.by_draw else 1
        self.batch = visits.batch_for(by_draw=self.by_draw)
        self.name = "examples"

    def begin(self, i: int, visit: Visit) -> None:
        """Need nothing."""

    def values(self, visit: Visit, x: Tensor, start: int) -> Tensor:
        """Return what a checkpoint adds for the rows from `start`: (rows, columns)."""
        if self.by_draw:
            return pairs_of_draws(gram(visit.train.by_draw(x, start), scale=visit.scale))
        return squared_norms(visit.train.features(x, start), scale=visit.scale)[:, None]


class Pairs:
    """Products with some queries, or with groups of them; where norms are asked for, |g|^2 in a last column.

    Gradients of single queries are kept as they come, for all training examples. Those of groups are written out, as
    are one or two queries: forward mode then takes the place of gradients of training examples.

    Args:
        visits: the checkpoints.
        Z: all queries, (m, *event).
        groups: (m,) what each is summed into.
        some: the groups that are meant.
        norms: whether to add up squared norms too.
        store: keeps those of the queries.
        number: of this part of the queries.
        single: each group is one query, in order.
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
        """Return what a checkpoint adds for the rows from `start`: (rows, columns)."""
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
