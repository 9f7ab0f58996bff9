"""The checkpoints of a training run in order, and the contribution of the gradients at each to sums over checkpoints.

Checkpoints are the outer loop: a network is loaded once, the gradients of the queries are kept while blocks of training
examples are processed, and only the contribution of a checkpoint to the sums is stored.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from genmem.data.arrays import fingerprint
from genmem.errors import ModelError
from genmem.gradients.draws import QUERY, TRAIN, Drawn, Streams
from genmem.gradients.engine import TRIED, PerExampleGradients
from genmem.gradients.fallback import takes
from genmem.gradients.products import Direction
from genmem.gradients.training_mode import Statistics, statistics_of
from genmem.influence.ledger import Part, Store
from genmem.influence.normalization import refuse_or_warn, still_norms, told_of
from genmem.influence.states import fitted
from genmem.influence.trained import Trained, in_full_precision
from genmem.influence.weights import checkpoint_weights, positions_of, preconditioner
from genmem.models.base import is_count, is_seed, require
from genmem.models.evaluation import BLOCK
from genmem.protocols import Listener, Progress
from genmem.training.ensemble import noise_shape
from genmem.training.module_state import copied

FloatArray = NDArray[np.float64]
GRADIENT_BYTES = {"cpu": 2**27, "cuda": 2**31}  # of one batch of training examples
BATCH = {"cpu": 256, "cuda": 2048}  # rows at most
IN_LEDGER = 512  # rows of a part, at least
ROUNDING = 1e-6  # relative change of a gradient that rounding may cause: more means that the network draws noise
SUMS = 2**25  # values held without a ledger


@dataclass(frozen=True)
class Settings:
    """What determines the numbers, besides the data and the network: see `influence_scores`."""

    weights: str = "complete"
    draws: int = 16
    seed: int = 0
    checkpoints: Sequence[int] | None = None

    def check(self) -> None:
        """Raise a ModelError if one is out of range."""
        require("draws", self.draws, is_count, "an integer >= 1")
        require("seed", self.seed, is_seed, "an integer >= 0")


class Visit(NamedTuple):
    """One checkpoint: its weight, the diagonal of a preconditioner (or none), the gradients of both sides."""

    weight: float
    scale: Direction | None
    train: Drawn
    query: Drawn


class Visits:
    """The checkpoints with a positive weight, as gradients.

    Args:
        trained: the network and its checkpoints.
        x: examples to test the network on.
        settings: what determines the numbers.

    Attributes:
        weights: of these checkpoints.
        draws: of each example: 1 if the gradients are not random.
        random: whether they are random.
        batch: training examples whose gradients are computed at once.

    Raises:
        ModelError: the trajectory or the network cannot be used; see `checkpoint_weights` and `PerExampleGradients`.
    """

    def __init__(self, trained: Trained, x: Tensor, settings: Settings) -> None:
        settings.check()
        self.settings, self._trajectory = settings, trained.trajectory
        self._module = in_full_precision(copied(trained.module).eval())
        self._loss = trained.loss
        self.device = next(iter(self._module.parameters()), x).device
        weights = checkpoint_weights(self._trajectory, settings.weights, settings.checkpoints)
        used = positions_of(self._trajectory, settings.checkpoints)
        self._positions = [i for i, weight in zip(used, weights, strict=True) if weight]
        if not self._positions:
            raise ModelError(
                expected="a checkpoint with steps after it",
                got=f"{len(used)} at step {self._trajectory[used[0]].step}, where training ended",
                do="Use an earlier one too: fit the model with a smaller checkpoint_every=, or save more states. Or "
                'use weights="equal" or "lr", for gradients at the final weights alone.',
            )
        self.weights = weights[weights > 0]
        self._coverage: dict[str, None] = {}
        self.statistics = Statistics()
        self._now: tuple[int, Visit] | None = None
        self._gradients: PerExampleGradients | None = None
        takes_noise = self._loss is None and takes(self._module, "noise")
        self._shape = noise_shape(self._module) if takes_noise else None
        tried = x[torch.linspace(0, len(x) - 1, TRIED).round().long()].to(self.device)
        self._tried, self.random, self.draws = tried, True, settings.draws
        self._find_out()
        self.statistics = self._statistics()

    def __len__(self) -> int:
        return len(self._positions)

    @property
    def coverage(self) -> str:
        """How many parameters are included and how their gradients are computed, at the checkpoints visited so far."""
        return "; ".join([*self._coverage, *told_of(self.statistics)])

    @property
    def steps(self) -> list[int]:
        """The optimizer steps of the checkpoints."""
        return [self._trajectory[i].step for i in self._positions]

    def at(self, i: int) -> Visit:
        """Return the gradients at the i-th checkpoint; they are valid until the next call."""
        if self._now is None or self._now[0] != i:
            self._now = None
            self._now = i, self._visit(i)
        return self._now[1]

    def batch_for(self, *, by_draw: bool) -> int:
        """Return how many examples' gradients fit into the memory reserved for them: a power of two."""
        if self.whole:
            return BLOCK
        return min(_of(BATCH, self.device), _power(_of(GRADIENT_BYTES, self.device) // self.bytes_of_one(by_draw)))

    def bytes_of_one(self, by_draw: bool) -> int:
        """Return the memory that the gradients of one example take."""
        drawn, x = self.at(len(self) - 1).train, self._tried
        if self.whole and not by_draw:  # a whole block of rows takes long, and three say as much
            found = drawn.gradients.features(x, draws=self.draws)
        else:
            found = (drawn.by_draw if by_draw else drawn.features)(x, 0)
        return max(1, found.bytes // len(x))

    @property
    def whole(self) -> bool:
        """Whether the network draws its own noise, for a block of rows at a time."""
        return self.random and self._shape is None

    def identity(self) -> dict[str, object]:
        """Return what distinguishes these visits from others."""
        last = self._trajectory[self._positions[-1]]
        state = [
            name + digest(value.cpu().contiguous().view(-1).view(torch.uint8).numpy())
            for name, value in sorted(last.state_dict().items())
        ]
        return {
            "weights": self.settings.weights,
            "draws": self.draws,
            "seed": self.settings.seed,
            "loss": "trained" if self._loss is None else f"trained, {getattr(self._loss, '__qualname__', 'loss')}",
            "steps": self.steps,
            "weight of each": self.weights.tolist(),
            "last checkpoint": fingerprint(*state),
        }

    def _find_out(self) -> None:
        """Test whether the gradients are random; a loss may not show it before training."""
        drawn = self.at(len(self) - 1).train
        every = torch.ones(len(self._tried), dtype=torch.bool, device=self.device)
        one, other = (drawn.total(self._tried, block * BLOCK, every) for block in (0, 1))
        size = sum(float(value.square().sum()) for value in one.values())
        change = sum(float((one[name] - other[name]).square().sum()) for name in one)
        self.random = not change <= ROUNDING**2 * size  # NaN counts as random
        self.draws = self.settings.draws if self.random else 1
        self._now = None if not self.random else self._now

    def _statistics(self) -> Statistics:
        """Find out whether gradients are others in training mode, say so, and refuse them if scores mean nothing."""
        last = self.at(len(self) - 1).train
        noise = last.streams.noise(0, len(self._tried), self.device)
        still = still_norms(self._trajectory, self._module)
        found = statistics_of(self._module, self._loss, self._tried, noise, still)
        refuse_or_warn(found, self.settings.weights)
        return found

    def _visit(self, i: int) -> Visit:
        position = self._positions[i]
        checkpoint = self._trajectory[position]
        try:
            state = fitted(checkpoint.state_dict(), self._module.state_dict(), f"the checkpoint at {checkpoint.step}")
            self._module.load_state_dict(state, strict=True)
        except RuntimeError as error:
            raise ModelError(
                expected="the network of this trajectory",
                got=f"another, which cannot load the state at step {checkpoint.step} ({error})",
                do="Create the network with the settings it was trained with.",
            ) from error
        sides = [self._streams(side, checkpoint.step) for side in (TRAIN, QUERY)]
        if self._gradients is None:
            noise = sides[0].noise(0, len(self._tried), self.device)
            self._gradients = PerExampleGradients(self._module, self._tried, noise=noise, loss=self._loss)
        else:
            self._gradients.renew()
        gradients = self._gradients
        self._coverage[str(gradients.coverage)] = None
        scale = None
        if self.settings.weights == "adam":
            scale = preconditioner(self._trajectory, position, self.settings.checkpoints, gradients.trained)
        train, query = (Drawn(gradients, streams, self.whole) for streams in sides)
        return Visit(float(self.weights[i]), scale, train, query)

    def _streams(self, side: str, step: int) -> Streams:
        return Streams(self.settings.seed, side, step, self.draws, self._shape)


class Job(Protocol):
    """A quantity that is summed over checkpoints."""

    @property
    def name(self) -> str:
        """The name of its parts."""

    @property
    def columns(self) -> int:
        """The number of sums of an example."""

    @property
    def batch(self) -> int:
        """The number of rows at once."""

    def begin(self, i: int, visit: Visit) -> None:
        """Prepare for the i-th checkpoint."""

    def values(self, visit: Visit, x: Tensor, start: int) -> Tensor:
        """Return the contribution of a checkpoint for the rows from `start`: (rows, columns)."""


class Count:
    """Reports how much of the work is done."""

    def __init__(self, listener: Listener, total: int, visits: Visits) -> None:
        self._tell, self._total, self._visits, self._done = listener, total, visits, 0

    def __call__(self, units: int) -> None:
        """Count so many blocks at a checkpoint."""
        self._done += units
        self._tell(Progress("influence", self._done, self._total, self._visits.coverage))


def block_of(job: Job) -> int:
    """Return the rows of a part: whole batches."""
    return job.batch * -(-IN_LEDGER // job.batch)


def accumulate(visits: Visits, job: Job, x: Tensor, store: Store, count: Count) -> Iterator[tuple[int, FloatArray]]:
    """Yield (first row, sums) of each block of rows in order, (rows, columns) float64, from all checkpoints.

    Without a ledger, as many blocks as fit into memory go through all checkpoints together, then the next ones.
    """
    size = block_of(job)
    starts = list(range(0, len(x), size))
    together = len(starts) if store.lasts else max(1, SUMS // (size * job.columns))
    for first in range(0, len(starts), together):
        some = starts[first : first + together]
        for i in range(len(visits)):
            _visit_blocks(visits, i, job, [(start, x[start : start + size]) for start in some], store, count)
        for start in some:
            part = store.read(f"{job.name}-{start:08d}")
            assert part is not None and part.done.all()
            yield start, part.sums
            store.drop(f"{job.name}-{start:08d}")


def _visit_blocks(
    visits: Visits, i: int, job: Job, blocks: Sequence[tuple[int, Tensor]], store: Store, count: Count
) -> None:
    begun = False
    for start, rows in blocks:
        name = f"{job.name}-{start:08d}"
        part = store.read(name) or empty((len(rows), job.columns), len(visits))
        if not part.done[i]:
            visit = visits.at(i)
            if not begun:
                job.begin(i, visit)
            begun = True
            store.write(name, added(part, _block_values(visits, job, visit, rows, start), i))
        count(1)


def _block_values(visits: Visits, job: Job, visit: Visit, rows: Tensor, start: int) -> FloatArray:
    found = []
    for batch in torch.split(rows, job.batch):
        found.append(visit.weight * job.values(visit, batch.to(visits.device), start).to("cpu", torch.float64))
        start += len(batch)
    return np.asarray(torch.cat(found).numpy())


def empty(shape: tuple[int, ...], checkpoints: int) -> Part:
    """Return an empty part."""
    return Part(np.zeros(shape), np.zeros(checkpoints, np.bool_))


def added(part: Part, values: FloatArray, i: int) -> Part:
    """Return a part with the i-th checkpoint added.

    Raises:
        ModelError: values are not finite.
    """
    if not np.isfinite(values).all():
        raise ModelError(
            expected="finite gradients at every checkpoint",
            got=f"{int((~np.isfinite(values)).sum())} products that are not, at checkpoint {i}",
            do="Leave out examples with an infinite loss, or fit again with a lower learning rate.",
        )
    done = part.done.copy()
    done[i] = True
    return Part(part.sums + values, done)


def digest(values: NDArray[np.generic]) -> str:
    """Return the checksum by which ledgers identify an array: of its dtype and shape and the checksum of its bytes."""
    whole = np.ascontiguousarray(values)
    of_bytes = fingerprint(whole.reshape(-1).view(np.uint8).data)
    return fingerprint(f"{whole.dtype.str}{whole.shape}", bytes.fromhex(of_bytes))


def _of(table: dict[str, int], device: torch.device) -> int:
    return table.get(device.type, table["cpu"])


def _power(n: int) -> int:
    return 1 << max(0, n.bit_length() - 1)
