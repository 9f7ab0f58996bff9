"""Ablation of the units of one network, for one X: at fixed draws, with a bound on memory."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from genmem.data.arrays import require_shape
from genmem.neurons.edits import Edits, as_examples, edited, find_baseline, masks_of
from genmem.neurons.rank_one import OfDecoder, Quadratic, RankOne, Squares
from genmem.neurons.runs import TRIED, LogP, Tried, rows_at_once, scored, width_of
from genmem.neurons.units import Coverage, module_of, wired
from genmem.neurons.wiring import Wiring

MEMORY = 2**27
REFITTED_AT_ONCE = 256  # examples: `refit_posterior` takes so many in one batch
RANK_ONE, PASSES = "rank one", "forward passes"
TOLERANCE = 1e-5  # of log p, which is float32
TRIED_UNITS = 4
Sets = Sequence[Sequence[tuple[str, int]]]


class Ablation:
    """All that the drops of one network and one X share: log p at fixed draws, and what replaces units.

    A context: inside, the network is in evaluation mode.

    Args:
        model_or_module: see `drops`; errors as there.
        X: see `drops`.
        names: the layers; None is all whose units are hidden.
        reference: see `drops`.
        part: see `drops`.
        memory: see `drops`.
        baseline: see `drops`.
        posterior: see `drops`.
        n_samples: see `drops`.
        steps: see `drops`.
        seed: see `drops`.

    Attributes:
        module: the network.
        logp: log p of rows of X.
        wirings: how the units of each layer are edited.
        coverage: see `Coverage`.
        baseline: what replaces units.
        base: (n,) log p without edits.
        rows: the rows of X.
    """

    def __init__(
        self,
        model_or_module: Any,
        X: Any,
        names: Sequence[str] | None,
        *,
        reference: Any,
        part: str,
        memory: int,
        baseline: str,
        posterior: str,
        n_samples: int,
        steps: int,
        seed: int,
    ) -> None:
        self.module, x = module_of(model_or_module), as_examples(X)
        require_shape(x.shape[1:], tuple(getattr(self.module, "event_shape", x.shape[1:])))
        known = x if reference is None else as_examples(reference)
        require_shape(known.shape[1:], x.shape[1:])
        self._mode = scored(self.module)
        self._mode.__enter__()
        try:
            self.logp = LogP(
                self.module, x, posterior=posterior, n_samples=n_samples, steps=steps, seed=seed, part=part
            )
            self.wirings, self.coverage = _wired(self.module, names, part, known)
            self.baseline = find_baseline(
                self.module, self.wirings, baseline, known, n=len(x), same=reference is None, seed=seed
            )
            self.memory, self.width = memory, width_of(self.module, Tried(self.module, known))
            self.rows = np.arange(len(x))
            self.base = self._of_pairs(self.rows, None, [[]])
        except BaseException:
            self._mode.__exit__(None, None, None)
            raise

    def __enter__(self) -> "Ablation":
        return self

    def __exit__(self, *_: object) -> None:
        self._mode.__exit__(None, None, None)

    def of_layer(self, layer: str, units: Sequence[int]) -> tuple[NDArray[np.float64], str]:
        """Return the drops of units of one layer, (n, units), and the method."""
        fast = self._rank_one(self.wirings[layer], units)
        if fast is None:
            return self.of_sets([[(layer, unit)] for unit in units]), PASSES
        return self.base[:, None] - fast.log_p(self.rows, units), RANK_ONE

    def of_sets(self, sets: Sets) -> NDArray[np.float64]:
        """Return the drops of sets of units by passes with the units replaced: (n, sets)."""
        n, layers = len(self.logp), {layer for units in sets for layer, _ in units}
        together = self.logp.batches and all(self.wirings[layer].order for layer in layers)
        if not together:
            found = [self.base - self._of_pairs(self.rows, None, [units]) for units in sets]
            return np.stack(found, 1) if sets else np.zeros((n, 0))
        pairs = n * len(sets)
        log_p = np.empty(pairs)
        for start in range(0, pairs, self.rows_at_once()):
            some = np.arange(start, min(pairs, start + self.rows_at_once()))
            which, first = some // n, start // n
            log_p[some] = self._of_pairs(some % n, which - first, sets[first : which[-1] + 1])
        return self.base[:, None] - log_p.reshape(len(sets), n).T

    def _of_pairs(self, rows: NDArray[np.intp], which: NDArray[np.intp] | None, sets: Sets) -> NDArray[np.float64]:
        """Return log p of examples, each with its set of units replaced."""
        edits = Edits(masks_of(sets, self.wirings), which, rows)
        with edited(self.module, self.wirings, self.baseline, edits):
            if which is not None or not self.logp.batches:
                return self.logp(rows)
            size = self.rows_at_once()
            known = all(self.wirings[layer].order for layer in edits.masks)
            if self.baseline.mode == "resample" and edits.masks and known:
                one = np.zeros(len(rows), np.intp)
                return self._of_pairs(rows, one, sets)
            return np.concatenate([self.logp(rows[i : i + size]) for i in range(0, len(rows), size)])

    def rows_at_once(self) -> int:
        """Return how many examples may be in one batch."""
        draws = 2 if self.logp.refits and self.logp.fixed is None else 1 if self.logp.exact else self.logp.n_samples
        rows = rows_at_once(self.width * draws, self.memory)
        return min(rows, REFITTED_AT_ONCE) if draws == 2 else rows

    def _rank_one(self, wiring: Wiring, units: Sequence[int]) -> RankOne | None:
        """Return a way by rank-one updates that gives the same as passes; None if there is none."""
        steady = self.logp.exact or self.logp.fixed is not None
        if not steady or not self.logp.batches or wiring.reader is None or not units:
            return None
        ways = [way for way in (Quadratic, Squares, OfDecoder) if way.suits(self.module, wiring.reader)]
        for way in (*ways, RankOne):
            fast = way(self.logp, wiring, self.baseline, self.width, self.memory)
            if self._agrees(fast, wiring.layer, units):
                return fast
        return None

    def _agrees(self, fast: RankOne, layer: str, units: Sequence[int]) -> bool:
        """Compare a few examples with passes, for the units that change their log p most."""
        rows = self.rows[:TRIED]
        try:
            found = fast.log_p(rows, units, draws=1)
        except Exception:  # a network may fail in any way on shapes it was not made for
            return False
        plain = self._by_one_draw(rows)
        most = np.argsort(-np.abs(found - plain[:, None]).max(0))[:TRIED_UNITS]
        some = [units[i] for i in most]
        masks = masks_of([[(layer, unit)] for unit in some], self.wirings)
        every, which = np.tile(rows, len(some)), np.repeat(np.arange(len(some)), len(rows))
        with edited(self.module, self.wirings, self.baseline, Edits(masks, which, every)):
            truth = self._by_one_draw(every).reshape(len(some), -1).T
        allowed = TOLERANCE * np.maximum(10, np.abs(plain))[:, None]
        return bool(np.all(np.abs(found[:, most] - truth) <= allowed))

    @torch.no_grad()
    def _by_one_draw(self, rows: NDArray[np.intp]) -> NDArray[np.float64]:
        return self.logp.log_weights(rows, draws=1)[0].double().cpu().numpy()


def _wired(
    module: nn.Module, names: Sequence[str] | None, part: str, known: Tensor
) -> tuple[dict[str, Wiring], Coverage]:
    if names is not None and not names:
        return {}, Coverage(part, {}, {})
    return wired(module, layers=names, part=part, examples=known)
