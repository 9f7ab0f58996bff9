"""Held-out examples from outside a run, in the form that its model takes."""

from dataclasses import replace
from os import PathLike
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from genmem.data.alike import load_alike
from genmem.data.examples import Data, prepare
from genmem.data.labels import read_labels, tidy_labels
from genmem.errors import DataError
from genmem.leaveout import planned_model
from genmem.run.directory import Run
from genmem.seeding import seed32
from genmem.stages._plan import shape_for

Outside = str | PathLike[str] | NDArray[Any]


def outside_examples(run: Run, model: Any, source: Outside, labels: Any | None = None) -> Data:
    """Return held-out examples, read and prepared like the run's data.

    Raises:
        DataError: they do not match the examples of the run.
    """
    about, chosen = run.plan["data"], planned_model(run, model)
    pixels = about["dtype"] == "uint8" or about["preparation"].startswith(("binarised", "dequantised"))
    given = load_alike(source, about["columns"], pixels, "double" if about["dtype"] == "float64" else "single")
    if labels is not None:
        given = replace(given, labels=_labels(labels, given))
    shape = tuple(about["event_shape"])
    shaped = shape_for(chosen, given)
    if shaped.X.shape[1:] != shape:
        raise DataError(
            expected=f"held-out examples of shape {shape}, like those of the run",
            got=f"{shaped.X.shape[1:]} in {given.source}",
            do="Pass examples of the same source and shape.",
        )
    # A separate random stream: with that of the run, row i would share its noise with row i of the run.
    return prepare(shaped, getattr(chosen, "likelihood", None), seed32(run.seed, "held-out examples"))


def _labels(labels: Any, data: Data) -> NDArray[Any]:
    read = read_labels(Path(labels)) if isinstance(labels, str | PathLike) else np.asarray(labels)
    return tidy_labels(read, len(data.X), data.source)
