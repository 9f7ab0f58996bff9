"""The section on copies: pairs of a sample and its closest training example, and a figure of distances."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from markupsafe import Markup
from numpy.typing import NDArray

from genmem.plots import Floats
from genmem.report import words
from genmem.report.pictures import SIDES, Scale, centre_and_spread, pixels, png, scale_of
from genmem.report.results import Results
from genmem.run.storage import Arrays

COLUMNS = 6  # of a table that a pair shows
BUDGET = 4_000_000  # bytes of pictures
BINS = 48
WIDTH, HEIGHT, FOOT = 720, 170, 22  # of the figure
QUESTION = "Does the model repeat its training set?"
COLOURS = {"copies found": "fail", "inspect these pairs": "look"}
WHO = {"sample": "sample", "train": "training", "test": "held out"}


@dataclass(frozen=True, eq=False)
class CopyResults:
    """The results of a copy check.

    Attributes:
        about: copycheck.json.
        pairs: arrays (m,) by name: sample, train, test (row numbers), distance_train, distance_test, p_value,
            stands_out. The most suspicious pairs come first.
        shown: positions of the pairs that are shown.
        examples: "sample", "train" and "test" of these pairs, (len(shown), *event) each; empty if redacted.
        near: distances of samples, and of held-out examples, to their closest training examples; None for no figure.
        image_shape: (h, w), (h, w, c) or (c, h, w) if examples can be shown as images.
        columns: names of the columns of a table.
        scale: the values drawn as black and as white.
        spread: (d,) standard deviations of the columns of the training set.
        names: names of rows, by set, if they have names besides their numbers.
    """

    about: Mapping[str, Any]
    pairs: Arrays
    shown: NDArray[np.intp]
    examples: Mapping[str, NDArray[Any]] = field(default_factory=dict)
    near: tuple[Floats, Floats] | None = None
    image_shape: Sequence[int] | None = None
    columns: Sequence[str] = ()
    scale: Scale = Scale(0.0, 1.0)
    spread: Floats | None = None
    names: Mapping[str, Sequence[str]] = field(default_factory=dict)


@dataclass(frozen=True)
class Column:
    """One column of the three rows of a pair, as text."""

    name: str
    sample: str
    train: str
    test: str


@dataclass(frozen=True)
class Plate:
    """One pair: names of its rows, and pictures (name, data: address, caption) or columns of a table."""

    sample: str
    train: str
    flagged: bool
    p_value: float
    others: int
    distances: str
    pictures: list[tuple[str, str, str]]
    columns: list[Column]


@dataclass(frozen=True)
class Copies:
    """The parts of a page."""

    about: Mapping[str, Any]
    plates: list[Plate]
    gallery_lead: str
    figure: Markup | None

    @property
    def sentence(self) -> str:
        """The verdict and its explanation, in one text."""
        return headline(self.about["verdict"], self.about["sentence"])

    @property
    def said(self) -> tuple[str, str, str]:
        """The same in three parts: what comes before the verdict, the verdict, and its explanation."""
        return self.sentence.partition(str(self.about["verdict"]).capitalize())

    @property
    def colour(self) -> str:
        """The class of the verdict's colour."""
        return COLOURS.get(self.about["verdict"], "pass")


def copies_of_run(results: Results) -> Copies | None:
    """Return the copy check for the page of a run, or None if the run has none."""
    found = results.copies
    if not found or "copies" not in results.audit:
        return None
    about = {**results.audit["copies"], "asked": {"redacted": False}}
    pairs = {name.removeprefix("pair_"): array for name, array in found.items() if name.startswith("pair_")}
    pairs["train"] = results.index[pairs["train"]]
    if about["data"]["test_in_run"]:
        pairs["test"] = results.index[pairs["test"]]
    shape = results.audit["data"].get("image_shape")
    return copies(
        CopyResults(
            about=about,
            pairs=pairs,
            shown=found["shown"],
            examples={kind: found[f"shown_{kind}"] for kind in WHO},
            near=(found["samples_statistic"], found["near_test"]),
            image_shape=shape,
            columns=results.audit["data"].get("columns") or (),
            scale=scale_of(results.X) if shape else Scale(0.0, 1.0),
            spread=None if shape else spread_of(results.X),
        ),
        BUDGET // 4,
    )


def spread_of(X: NDArray[Any]) -> Floats:
    """Return the standard deviation of each column, (d,); NaN for columns of text."""
    rows = X.reshape(len(X), -1)
    if rows.dtype.kind in "biuf":
        return centre_and_spread(rows)[1]
    numbers = [[float(value) for value in column if _is_number(value)] for column in rows.T.tolist()]
    return np.array([np.std(column) if column else np.nan for column in numbers])


def copies(results: CopyResults, budget: int = BUDGET) -> Copies:
    """Return the parts of a page about a copy check. A pure function of the results."""
    uris = _album(results, budget)
    plates = [_plate(results, at, int(pair), uris) for at, pair in enumerate(results.shown)]
    figure = None if results.near is None else spread_figure(*results.near)
    return Copies(results.about, plates, _lead(results, bool(uris)), figure)


def headline(verdict: str, sentence: str) -> str:
    """Return a verdict and its sentence as one text, without repeating the verdict.

    >>> headline("no evidence", "No evidence of copying."), headline("copies found", "At least 2%.")
    ('No evidence of copying.', 'Copies found. At least 2%.')
    """
    said = verdict.capitalize()
    return sentence if said in sentence else f"{said}. {sentence}"


def _lead(results: CopyResults, pictures: bool) -> str:
    verdict, out = results.about["verdict"], int(results.pairs["stands_out"].sum())
    if verdict == "copies found":
        text = "Samples that stand out come first, one for each training example."
    elif verdict == "inspect these pairs":
        text = (
            "Samples that stand out come first, one for each training example. No calibrated test can say whether they "
            "are copies: compare each with its training example."
        )
    elif verdict == "sharp but not copying":
        text = "These samples are closest to training examples, because the model is sharp, not because it copies."
    elif out:
        text = "There is no evidence of copying: a few samples are always closer to training examples than others."
    else:
        text = (
            "No sample stands out. These are closest to a training example, relative to the local density of the data."
        )
    text += " Beside each sample are its closest training example and its closest held-out example, with distances."
    if results.about["asked"]["redacted"]:
        return f"{text} As requested, only row numbers are shown."
    if pictures:
        return text
    return f"{text} Columns are those in which sample and held-out example differ most, in standard deviations."


def _plate(results: CopyResults, at: int, pair: int, uris: Sequence[dict[str, str]]) -> Plate:
    pairs = results.pairs
    who = {kind: _called(results, kind, int(pairs[kind][pair])) for kind in WHO}
    near, far = (words.number(float(pairs[f"distance_{kind}"][pair])) for kind in ("train", "test"))
    below = {"sample": "", "train": near, "test": far}
    return Plate(
        sample=who["sample"],
        train=who["train"],
        flagged=bool(pairs["stands_out"][pair]) and results.about["verdict"] in COLOURS,
        p_value=float(pairs["p_value"][pair]),
        others=int((pairs["train"] == pairs["train"][pair]).sum()) - 1,
        distances=f"The distance to it is {near}; to the closest held-out example, {who['test']}, it is {far}.",
        pictures=[(f"{WHO[kind]} {who[kind]}", uri, below[kind]) for kind, uri in uris[at].items()] if uris else [],
        columns=[] if uris or not results.examples else _columns(results, at),
    )


def _called(results: CopyResults, kind: str, row: int) -> str:
    names = results.names.get(kind)
    return str(row) if names is None else f"{row} ({names[row]})"


def _album(results: CopyResults, budget: int) -> list[dict[str, str]]:
    """Return the shown pairs as images, as large as the budget of bytes allows; none if they are not images."""
    if not results.examples or results.image_shape is None:
        return []
    shape, scale = results.image_shape, results.scale
    images = [
        {kind: pixels(results.examples[kind][at], shape, scale) for kind in WHO} for at in range(len(results.shown))
    ]
    album: list[dict[str, str]] = []
    for side in SIDES:
        album = [{kind: png(image, side) for kind, image in one.items()} for one in images]
        if sum(len(uri) for one in album for uri in one.values()) <= budget:
            break
    return album


def _columns(results: CopyResults, at: int) -> list[Column]:
    """Return the columns in which the sample differs most from its closest held-out example."""
    rows = {kind: results.examples[kind][at].reshape(-1) for kind in WHO}
    order = np.argsort(-_apart(rows["sample"], rows["test"], results.spread), kind="stable")[:COLUMNS]
    named = [results.columns[c] if c < len(results.columns) else f"column {c}" for c in order]
    return [
        Column(name, *(_text(rows[kind][c]) for kind in ("sample", "train", "test")))
        for name, c in zip(named, order, strict=True)
    ]


def _apart(one: NDArray[Any], other: NDArray[Any], spread: Floats | None) -> Floats:
    """Return the difference of two rows in each column, in standard deviations; different texts count as 1."""
    own, gaps = np.ones(len(one)) if spread is None else spread, np.zeros(len(one))
    for c, (a, b) in enumerate(zip(one.tolist(), other.tolist(), strict=True)):
        if _is_number(a) and _is_number(b):
            gaps[c] = abs(float(a) - float(b)) / own[c] if own[c] > 0 else (np.inf if a != b else 0.0)
        else:
            gaps[c] = float(_text(a) != _text(b))
    return gaps


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and np.isfinite(value)


def _text(value: Any) -> str:
    if value is None:
        return "missing"
    return words.number(float(value), "missing") if isinstance(value, int | float | np.number) else str(value)


def spread_figure(samples: Floats, held_out: Floats) -> Markup:
    """Draw the distances of samples and of held-out examples to the training set as two histograms."""
    top = float(np.quantile(np.concatenate([samples, held_out]), 0.995)) or 1.0
    edges = np.linspace(0, top, BINS + 1)
    shares = [np.histogram(np.minimum(x, top), edges)[0] / len(x) for x in (held_out, samples)]
    highest = max(float(share.max()) for share in shares)
    below, line = (_steps(share / highest) for share in shares)
    floor = HEIGHT - FOOT
    ticks = "".join(
        f'<text x="{WIDTH * at:.0f}" y="{HEIGHT - 5}" text-anchor="{anchor}">{words.number(top * at)}</text>'
        for at, anchor in ((0.0, "start"), (0.5, "middle"), (1.0, "end"))
    )
    return Markup(  # numbers only
        f'<svg class="spread" viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="Histograms of distances to the '
        f'closest training example"><path class="held" d="M0,{floor} {below} L{WIDTH},{floor} Z"/>'
        f'<path class="train" d="M0,{floor} {line}"/>'
        f'<line class="axis" x1="0" x2="{WIDTH}" y1="{floor}" y2="{floor}"/>{ticks}</svg>'
    )


def _steps(heights: Floats) -> str:
    floor, wide = HEIGHT - FOOT, WIDTH / len(heights)
    y = floor - (floor - 8) * heights
    return " ".join(f"L{i * wide:.1f},{v:.1f} L{(i + 1) * wide:.1f},{v:.1f}" for i, v in enumerate(y))
