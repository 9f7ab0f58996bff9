"""The page of a comparison: its answer, a figure and a gallery for each pair, and the lists of examples."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from markupsafe import Markup
from numpy.typing import NDArray
from plotly.offline import get_plotlyjs

from genmem import plots
from genmem.compare import Comparison, Pair
from genmem.data.arrays import fingerprint
from genmem.data.examples import Data
from genmem.report.build import environment
from genmem.report.pictures import Difference, Figure, album, differ, figure_of

SHOWN = 12  # examples of each list
FIGURES = 6  # pairs that are drawn: all of up to four audits, of more those with the first
PICTURES = 2_000_000  # bytes


@dataclass(frozen=True)
class Shown:
    """One example of a list: its position, what it is called, its score in each audit, its columns, if it is a row."""

    position: int
    called: str
    scores: list[float]
    columns: list[Difference]
    change: float | None = None
    error: float | None = None


@dataclass(frozen=True)
class Listed:
    """A list of examples: its heading, what it means, how many there are, and the first of them."""

    id: str
    title: str
    meaning: str
    count: int
    examples: list[Shown]


def render_comparison(found: Comparison, about: Mapping[str, Any]) -> str:
    """Return the page as HTML. A pure function of the comparison and of compare.json."""
    data = next((one.data for one in found.audits if one.data is not None), None)
    lists = _lists(found, data)
    pictures, reduced = _pictures(data, [example.position for each in lists for example in each.examples])
    template = environment().get_template("compare.html")
    return template.render(
        about=about,
        found=found,
        sentences=found.sentences(),
        pairs=found.pairs,
        lists=lists,
        figures=_figures(found, data),
        uris=pictures,
        reduced=reduced,
        plotly=Markup(get_plotlyjs()),  # trusted: the library itself
        nonce=fingerprint(repr(sorted(about.items())).encode("utf-8", "replace"))[:32],
    )


# --- figures


def _figures(found: Comparison, data: Data | None) -> list[tuple[Pair, Figure]]:
    pairs = found.pairs if len(found.pairs) <= FIGURES else tuple(found.against_first().values())[:FIGURES]
    return [(pair, figure_of(_figure(found, pair, data))) for pair in pairs]


def _figure(found: Comparison, pair: Pair, data: Data | None) -> Any:
    i, j = found.names.index(pair.one), found.names.index(pair.other)
    lists = (found.memorized.everywhere, found.memorized.only[i], found.memorized.only[j], pair.changed)
    part = np.zeros(found.n, np.intp)
    for number, positions in reversed(list(enumerate(lists, 1))):  # the first that contains an example gives its colour
        part[positions] = number
    titles = ("others", "memorized by all", f"only {pair.one}", f"only {pair.other}", "changed")
    labels = None if data is None or data.labels is None else data.labels.tolist()
    index = np.arange(found.n) if data is None else data.index
    return plots.score_against_score(
        found.scores[i], found.scores[j], (pair.one, pair.other), part, titles, index, labels
    )


# --- lists of examples


def _lists(found: Comparison, data: Data | None) -> list[Listed]:
    show = _Show(found, data)
    lists = [
        show.listed(
            "all", "Memorized by all models", "Every model is shown to memorize these.", found.memorized.everywhere
        )
    ]
    for i, (name, only) in enumerate(zip(found.names, found.memorized.only, strict=True)):
        meaning = "It is shown to memorize these, more than each other model does, and no other is shown to."
        lists.append(show.listed(f"only-{i}", f"Memorized by {name} only", meaning, only))
    for i, pair in enumerate(found.against_first().values()):
        meaning = "The largest differences beyond the noise of both audits come first, each with its standard error."
        title = f"Changed from {pair.one} to {pair.other}"
        lists.append(show.listed(f"changed-{i}", title, meaning, pair.changed, pair))
    return lists


class _Show:
    """Makes the lists of a comparison."""

    def __init__(self, found: Comparison, data: Data | None) -> None:
        self.scores, self.data, self.differences = found.scores, data, None
        if data is not None and data.image_shape is None:
            self.differences = differ(data.X, data.columns or ())

    def listed(
        self, id: str, title: str, meaning: str, positions: NDArray[np.intp], pair: Pair | None = None
    ) -> Listed:
        """Return a list with its first examples; a pair adds how much each changed."""
        return Listed(id, title, meaning, len(positions), [self._shown(int(p), pair) for p in positions[:SHOWN]])

    def _shown(self, position: int, pair: Pair | None) -> Shown:
        columns = [] if self.differences is None else self.differences(position)
        change = None if pair is None else float(pair.difference[position])
        error = None if pair is None else float(pair.standard_error[position])
        return Shown(position, self._called(position), self.scores[:, position].tolist(), columns, change, error)

    def _called(self, position: int) -> str:
        if self.data is None:
            return f"example {position}"
        parts = [f"row {self.data.index[position]}"]
        parts += [] if self.data.labels is None else [f"label {self.data.labels[position]}"]
        parts += [] if self.data.names is None else [str(self.data.names[position])]
        return ", ".join(parts)


def _pictures(data: Data | None, positions: Sequence[int]) -> tuple[dict[int, str], int | None]:
    if data is None or data.image_shape is None or not positions:
        return {}, None
    return album(data.X, data.image_shape, positions, PICTURES)
