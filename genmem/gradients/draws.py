"""Latent draws for gradients: the same for a row whatever the batch, and independent between rows and purposes.

The noise of row i, draw s derives from (seed, purpose, optimizer step, i // 128, s // 16), as in evaluation. Therefore
x and z never share noise, not even if the queries are the training examples. A network that draws its own noise is
called on whole blocks of 128 rows, the last one filled up with copies of its last row, each block with its own seed.
Its draws are taken in one call on copies of the block, if all its noise belongs to single examples. Otherwise it is
called once for each draw, so that noise that all examples share is drawn again.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from genmem.gradients.engine import PerExampleGradients
from genmem.gradients.factored import Piece, Rows
from genmem.gradients.products import Direction, Features
from genmem.models.evaluation import BLOCK, DRAWS, stream_noise
from genmem.seeding import seed_for

TRAIN, QUERY = "influence: training examples", "influence: queries"


@dataclass(frozen=True)
class Streams:
    """The noise of one side, training examples or queries, at one checkpoint.

    Args:
        seed: of all noise.
        purpose: which side.
        step: the optimizer step of the checkpoint.
        draws: of each row.
        shape: of one draw, as the network declares it; None: the network draws its own noise.
    """

    seed: int
    purpose: str
    step: int
    draws: int
    shape: tuple[int, ...] | None

    def noise(self, start: int, stop: int, device: torch.device) -> Tensor | None:
        """Return the noise of some rows: (draws, rows, *shape)."""
        if self.shape is None:
            return None
        first = start // BLOCK
        blocks = [self._block(block, device) for block in range(first, (stop - 1) // BLOCK + 1)]
        return torch.cat(blocks, 1)[:, start - first * BLOCK : stop - first * BLOCK]

    def seed_of(self, start: int, *draw: int) -> int:
        """Return the seed of a call on the block that starts at a row, for a network that draws its own noise."""
        return seed_for(self.seed, self.purpose, self.step, start // BLOCK, *draw)

    def _block(self, block: int, device: torch.device) -> Tensor:
        assert self.shape is not None
        seeds = [self.seed_of(block * BLOCK, stream) for stream in range(-(-self.draws // DRAWS))]
        return torch.cat([stream_noise(self.shape, seed, device) for seed in seeds])[: self.draws]


@dataclass(frozen=True)
class Drawn:
    """Per-example gradients with the noise of streams.

    Args:
        gradients: of one network.
        streams: of one side.
        whole: the network draws its own random noise: it is called on whole blocks.
    """

    gradients: PerExampleGradients
    streams: Streams
    whole: bool

    def features(self, x: Tensor, start: int) -> Features:
        """Return the gradients of the rows from `start`, averaged over draws."""
        noise, seed = self._noise(x, start), self.streams.seed_of(start)
        found = self.gradients.features(self._filled(x), noise, draws=self.streams.draws, seed=seed)
        return _first(found, len(x))

    def by_draw(self, x: Tensor, start: int) -> Features:
        """Return the gradient of each draw of the rows from `start`."""
        draws = self.streams.draws
        if not self.whole:
            return self.gradients.features_by_draw(x, self._noise(x, start), draws=draws)
        full = self._filled(x)
        if self.gradients.loss.repeats:
            found = self.gradients.features_by_draw(full, None, draws=draws, seed=self.streams.seed_of(start))
            return replace(_first(found, len(x) * draws), draws=draws)
        seeds = [self.streams.seed_of(start, draw) for draw in range(draws)]
        return _beside([_first(self.gradients.features(full, None, seed=seed), len(x)) for seed in seeds])

    def along(self, x: Tensor, start: int, direction: Direction) -> Tensor:
        """Return <g_x, v> of the rows from `start`: (rows,)."""
        noise, seed = self._noise(x, start), self.streams.seed_of(start)
        full = self._filled(x)
        return self.gradients.along(full, direction, noise, draws=self.streams.draws, seed=seed)[: len(x)]

    def total(self, x: Tensor, start: int, chosen: Tensor) -> dict[str, Tensor]:
        """Return the sum of the gradients of the chosen rows among those from `start`, by parameter."""
        noise, seed = self._noise(x, start), self.streams.seed_of(start)
        if self.whole:
            full = self._filled(x)
            weights = torch.zeros(len(full), device=x.device)
            weights[: len(x)] = chosen
            return self.gradients.gradient(full, weights=weights, draws=self.streams.draws, seed=seed)
        noise = None if noise is None else noise[:, chosen]
        return self.gradients.gradient(x[chosen], noise, draws=self.streams.draws, seed=seed)

    def _noise(self, x: Tensor, start: int) -> Tensor | None:
        return self.streams.noise(start, start + len(x), x.device)

    def _filled(self, x: Tensor) -> Tensor:
        if not self.whole or len(x) == BLOCK:
            return x
        return torch.cat([x, x[-1:].expand(BLOCK - len(x), *x.shape[1:])])


def _first(features: Features, n: int) -> Features:
    """Return the gradients of the first n examples."""
    if n == len(features):
        return features
    return Features({name: _cut(piece, n) for name, piece in features.pieces.items()}, n, features.draws)


def _cut(piece: Piece, n: int) -> Piece:
    if isinstance(piece, Rows):
        return Rows(piece.values[:n])
    return replace(piece, left=piece.left[:, :n], right=piece.right[:, :n])


def _beside(draws: list[Features]) -> Features:
    """Return gradients of several draws of the same examples, arranged by example and then by draw."""

    def joined(pieces: list[Piece]) -> Piece:
        if isinstance(pieces[0], Rows):
            return Rows(_stacked(pieces, lambda piece: piece.values, 0))
        left, right = (_stacked(pieces, lambda piece, side=side: getattr(piece, side), 1) for side in ("left", "right"))
        return replace(pieces[0], left=left, right=right)

    names, n = draws[0].pieces, len(draws[0])
    return Features({name: joined([one.pieces[name] for one in draws]) for name in names}, n * len(draws), len(draws))


def _stacked(pieces: list[Piece], values: Callable[..., Tensor], dim: int) -> Tensor:
    return torch.stack([values(piece) for piece in pieces], dim + 1).flatten(dim, dim + 1)
