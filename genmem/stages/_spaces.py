"""Spaces in which regions are looked for: principal components, posterior means, the data, or features of the user."""

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.decomposition import PCA

from genmem.data.arrays import matrix
from genmem.errors import DataError, ModelError
from genmem.leaveout import planned_model
from genmem.run.directory import Run
from genmem.seeding import seed32
from genmem.stages._refit import trained_network

SEARCHED = 16  # principal components of the search: on digits, thinned styles are found less often with 8 or 32
CELLS = 32  # principal components of cells


@dataclass(frozen=True)
class Rows:
    """Training examples (n), held-out ones (h) and samples (s), flat, in the form that the model takes."""

    train: NDArray[Any]
    held_out: NDArray[Any]
    samples: NDArray[Any]

    def map(self, function: Any) -> "Rows":
        """Apply a function to each of the three; it is not applied to sets without rows."""
        width = function(self.train[:1]).shape[1]
        parts = [function(part) if len(part) else np.empty((0, width)) for part in vars(self).values()]
        return Rows(*parts)


def coordinates(run: Run, rows: Rows, space: str, features: Any, seed: int) -> tuple[Rows, str]:
    """Return the coordinates of the search and the name of their space."""
    if features is not None:
        return _given(features, rows), "features that were given"
    if space == "latent":
        return latent_means(run, rows), "latent space"
    scaled = rows if run.plan["data"]["image_shape"] else _standardized(rows)
    return (scaled, "data") if space == "data" else (principal(scaled, SEARCHED, seed), "principal components")


def _given(features: Any, rows: Rows) -> Rows:
    pair = features if isinstance(features, tuple) else (features, None)
    train = matrix(pair[0], "features of the training examples", float64=True)
    none = np.empty((0, train.shape[1]))
    held_out = none if pair[1] is None else matrix(pair[1], "features of the held-out examples", float64=True)
    if len(train) != len(rows.train) or len(held_out) != len(rows.held_out):
        raise DataError(
            expected=f"features of {len(rows.train):,} training and {len(rows.held_out):,} held-out examples",
            got=f"{len(train):,} and {len(held_out):,} rows",
            do="Pass one row of features per example, of held-out examples as the second of a pair.",
        )
    if len(rows.samples):
        raise DataError(
            expected="no samples with features of your own", got=f"samples={len(rows.samples)}", do="Omit samples."
        )
    return Rows(train, held_out, none)


def _standardized(rows: Rows) -> Rows:
    centre, spread = rows.train.mean(axis=0), rows.train.std(axis=0)
    return rows.map(lambda part: (part - centre) / np.where(spread > 0, spread, 1))


def principal(rows: Rows, count: int, seed: int) -> Rows:
    """Return leading principal components of training and held-out examples together."""
    components = min(count, len(rows.train), rows.train.shape[1])
    if rows.train.shape[1] <= components:
        return rows
    pooled = np.concatenate([rows.train, rows.held_out])
    fitted = PCA(components, svd_solver="randomized", random_state=seed32(seed, "components")).fit(pooled)
    return rows.map(fitted.transform)


def latent_means(run: Run, rows: Rows) -> Rows:
    """Return posterior means; those of held-out examples and samples need the trained network."""
    means = run.result("latents")["mean"] if run.has_result("latents") else np.empty((0, 0))
    if not means.size:
        raise ModelError(
            expected="a trained model with posterior means",
            got="none in this run",
            do='Choose the space "pca" or "data", or pass features.',
        )
    if not len(rows.held_out) + len(rows.samples):
        return Rows(means, means[:0], means[:0])
    fitted, _ = trained_network(run, planned_model(run, None))
    shape = run.data().X.shape[1:]
    encoded = rows.map(lambda part: fitted.latent_mean(np.array(part).reshape(len(part), *shape)))
    return replace(encoded, train=means)


def of_training(rows: Rows, seed: int) -> Rows:
    """Return leading principal components of the training examples: for cells, which do not depend on others."""
    components = min(CELLS, *rows.train.shape)
    if rows.train.shape[1] <= components:
        return rows
    fitted = PCA(components, svd_solver="randomized", random_state=seed32(seed, "components"))
    train = fitted.fit_transform(rows.train)
    return replace(rows.map(fitted.transform), train=train)
