"""The section on units: is memorization local, what do the controls say, and what do chosen units do to examples?"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from genmem.findings.records import Finding
from genmem.report.pictures import SIDES, pixels, png, scale_of
from genmem.report.results import Results
from genmem.report.verdicts import Verdict

QUESTION = "Is memorization local in few units of the network?"


@dataclass(frozen=True)
class Exemplar:
    """A memorized example, and what the ablation of the chosen units does to it in one network.

    Attributes:
        position: position of the example.
        trained: whether the network was trained on it.
        score: its memorization score, nats.
        drop: how far log p falls, nats.
        before, after: images as data: addresses; None if there are none.
    """

    position: int
    trained: bool
    score: float
    drop: float
    before: str | None
    after: str | None


@dataclass(frozen=True)
class Located:
    """The section: what audit.json holds, and the exemplars of one network."""

    about: dict[str, Any]
    exemplars: list[Exemplar]

    @property
    def positions(self) -> list[int]:
        """Positions of all examples that are shown."""
        return [one.position for one in self.exemplars]

    def of(self, trained: bool) -> list[Exemplar]:
        """Return the exemplars that the network was, or was not, trained on."""
        return [one for one in self.exemplars if one.trained == trained]


def located(results: Results) -> Located | None:
    """Return the section, or None if the question was not asked."""
    if "neurons" not in results.audit or not (found := results.neurons):
        return None
    shape = results.audit["data"].get("image_shape")
    exemplars = []
    for side, name in enumerate(("trained", "held_out")):
        for at, position in enumerate(found[name].tolist()):
            pictures = [_picture(found[when][side, at], shape, results) for when in ("before", "after")]
            score, drop = (float(found[what][side, at]) for what in ("score", "drop"))
            exemplars.append(Exemplar(int(position), name == "trained", score, drop, *pictures))
    return Located(results.audit["neurons"], exemplars)


def _picture(values: Any, shape: Sequence[int] | None, results: Results) -> str | None:
    if not shape or not np.size(values):
        return None
    return png(pixels(np.asarray(values), shape, scale_of(results.X)), max(*SIDES, *shape))


def verdict(results: Results, section: Located | None) -> list[Verdict]:
    """Answer the question in a sentence, if it was asked."""
    if section is None:
        return []
    evidence: Finding | None = next((f for f in results.findings if f.id == "neurons_local"), None)
    return [Verdict("neurons", section.about["sentence"], evidence, [])]
