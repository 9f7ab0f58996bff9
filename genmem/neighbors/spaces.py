"""Feature spaces in which points are compared: raw values, averaged pixels, principal components, features of the user.

A copy is detected if it is close to its original and far from other examples, so each space detects other copies: raw
values those with the same pixels, `spectrum` also shifted and mirrored ones, a network's features those that the
network maps to nearby points.
"""

from collections.abc import Callable, Sequence
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import ArrayLike, NDArray

from genmem.data.arrays import Triple, blocks
from genmem.errors import DataError
from genmem.neighbors.image_spaces import image_space
from genmem.neighbors.sets import NAMES as SETS
from genmem.neighbors.sets import Sets, sets_of
from genmem.seeding import seed32

Array: TypeAlias = NDArray[Any]
Features: TypeAlias = Callable[[Array], ArrayLike]
Space: TypeAlias = str | Features | Sequence[ArrayLike]

NAMES = ("raw", "pooled", "spectrum", "pca", "latent")
_CHUNK = 2**22  # values passed to a function at a time


def in_space(
    space: Space,
    train: ArrayLike | Sets,
    test: ArrayLike | None = None,
    samples: ArrayLike | None = None,
    *,
    seed: int = 0,
    image_shape: tuple[int, ...] | None = None,
    latent: Features | None = None,
) -> tuple[Triple, str]:
    """Return training examples, held-out examples and samples as points of `space`, and a description of the space.

    Examples that are equal, in one set or in two, become points that are equal to the last bit in every space: an exact
    copy remains one.

    Args:
        space: one of

            - "raw": the values as given;
            - "pooled" or "pooled:K": images averaged over blocks of 2 x 2 or K x K pixels; blocks at the right and the
              lower edge average over the pixels that remain;
            - "spectrum": Fourier amplitudes of images, the same for an image, its shifts and its mirror images (see
              `image_spaces.spectrum`);
            - "pca" or "pca:K": the first 32 (or all, if there are fewer) or K principal components of `train`;
            - "latent": what `latent` returns;
            - a function from examples (m, *event) to points (m, d), each point a function of its example alone, or the
              name of such a function, "package.module:function";
            - three arrays (n, d), the points of the three sets themselves.
        train: (n_train, *event), or a `Sets` of all three.
        test: (n_test, *event) held out.
        samples: (n_samples, *event).
        seed: of the approximate decomposition that "pca" uses beyond 4,096 columns; nothing else is random.
        image_shape: (h, w) or (h, w, channels) of flattened images. Without it, where a space needs images, rows of k x
            k values are interpreted as gray images, and the description says so.
        latent: the function behind "latent", such as `model.latent_mean` of a fitted VAE.

    Raises:
        DataError: the sets are not finite numbers of one width, are not images though the space needs images, or do not
            match the points passed as the space; a function fails, or the point of an example depends on other
            examples.
        ModelError: a function cannot be imported by its name.

    >>> images = np.arange(48.0).reshape(3, 4, 4)
    >>> (train, test, samples), words = in_space("pooled", images[:1], images[1:2], images[2:])
    >>> train, words
    (array([[ 2.5,  4.5, 10.5, 12.5]]), 'images averaged over 2 x 2 pixels')
    """
    points, words = placed(space, sets_of(train, test, samples), seed=seed, image_shape=image_shape, latent=latent)
    return (points.train, points.test, points.samples), words


def check_space(space: str, some: NDArray[Any], n_train: int, *, image_shape: tuple[int, ...] | None = None) -> None:
    """Try a space on a few examples, before there is a model to sample; "latent" is not tried.

    Raises:
        DataError: see `in_space`; or `n_train` examples do not have as many components.
        ModelError: a function cannot be imported by its name.
    """
    name, _, setting = space.partition(":")
    size = _size(space, name, setting) if name in NAMES or not setting else None
    if name == "pca":
        width = int(np.prod(some.shape[1:]))
        _checked(size, max(1, min(width, n_train - 1)), (n_train, width))
    elif name != "latent":
        in_space(space, some, some, some, image_shape=image_shape)


def placed(
    space: Space,
    sets: Sets,
    *,
    seed: int = 0,
    image_shape: tuple[int, ...] | None = None,
    latent: Features | None = None,
) -> tuple[Sets, str]:
    """Return the result of `in_space` as `Sets`."""
    _check_same_shape(*sets.events)
    event = sets.events[0]
    if not isinstance(space, str):
        return _of_the_user(space, sets)
    name, _, setting = space.partition(":")
    if name not in NAMES and setting:
        from genmem.models.factory import import_callable

        return _mapped(import_callable(space), sets, event, space), f"features by {space}"
    size = _size(space, name, setting)
    if name == "raw":
        return sets, "raw values"
    if name == "pca":
        project, words = principal_components(sets.train, size, seed)
        return _mapped(project, sets, sets.train.shape[1:], space), words
    if name == "latent":
        return _mapped(_latent(latent), sets, event, space), "latent means"
    of_images, words = image_space(name, 2 if size is None else size, (len(sets.train), *event), image_shape)
    return _mapped(of_images, sets, event, space), words


def _check_same_shape(*given: tuple[int, ...]) -> None:
    """Refuse sets of one width whose axes are in different order, such as channels first and channels last."""
    events = {tuple(side for side in event if side > 1) for event in given}
    if len({event for event in events if len(event) > 1}) > 1:
        raise DataError(
            expected="training examples, held-out examples and samples of one shape",
            got=" and ".join(map(str, given)),
            do="Bring them into the same order of axes, for example with numpy.moveaxis(samples, 1, -1).",
        )


def _size(space: str, name: str, setting: str) -> int | None:
    """Return the K of "pooled:K" and "pca:K", or None for the default."""
    takes = name in ("pooled", "pca")
    if name in NAMES and (not setting and ":" not in space):
        return None
    if takes and setting.isascii() and setting.isdigit() and int(setting) >= 1:
        return int(setting)
    raise DataError(
        expected="a space: raw, pooled, pooled:K, spectrum, pca, pca:K, latent, or package.module:function",
        got=repr(space),
        do="Pass one of these; K is a whole number of at least 1.",
    )


def _latent(latent: Features | None) -> Features:
    if latent is None:
        raise DataError(
            expected='the function that returns latent means, for space="latent"',
            got="none",
            do="Pass latent=model.latent_mean of a fitted VAE, or choose another space.",
        )
    return latent


def _of_the_user(space: Features | Sequence[ArrayLike], sets: Sets) -> tuple[Sets, str]:
    if callable(space):
        name = getattr(space, "__name__", type(space).__name__)
        return _mapped(space, sets, sets.events[0], name), f"features by {name}"
    if len(space) != 3 or any(np.ndim(points) < 1 for points in space):
        raise DataError(
            expected="a space: a name, a function, or three arrays of points for train, test and samples",
            got=f"a sequence of {len(space)}",
            do="Pass the points of all three sets.",
        )
    points = Sets(*space)
    for name, rows in zip(SETS, sets, strict=True):
        if len(points[name]) != len(rows):
            raise DataError(
                expected=f"one point for each of the {len(rows):,} rows of {name}",
                got=f"{len(points[name]):,}",
                do="Pass features of the same rows, in the same order.",
            )
    return points, "points as passed"


def _mapped(function: Features, sets: Sets, event: tuple[int, ...], name: str) -> Sets:
    """Apply a function to the distinct rows of all sets, so that equal rows become equal points.

    In a batch of another size the same row may be rounded differently, and a copy would no longer be exact.
    """
    together = np.concatenate([*sets])
    group = np.concatenate(sets.identical)
    first = np.unique(group, return_index=True)[1]
    points = _in_blocks(function, together, first, event, name)
    return Sets.of_matrices((points[sets.identical[0]], points[sets.identical[1]], points[sets.identical[2]]))


def _in_blocks(function: Features, rows: Array, at: NDArray[np.intp], event: tuple[int, ...], name: str) -> Array:
    step = max(2, _CHUNK // rows.shape[1])
    parts = []
    for start in range(0, len(at), step):
        block = rows[at[start : start + step]]
        block = block.reshape(len(block), *event)
        parts.append(_called(function, block, name))
        if start == 0:
            _check_alone(function, block, parts[0], name)
    return np.concatenate(parts)


def _called(function: Features, block: Array, name: str) -> Array:
    try:
        points = np.asarray(function(block))
    except (Exception, SystemExit) as error:  # the user's code, or a tensor that numpy cannot read
        raise DataError(
            expected=f"{name} to turn rows of shape {block.shape} into points",
            got=f"{type(error).__name__}: {' '.join(str(error).split())[:200]}",
            do="Correct the function: it takes an array and returns an array (m, d), not a tensor with gradients.",
        ) from error
    if points.dtype.kind not in "biuf" or points.ndim < 1 or len(points) != len(block) or points.size == 0:
        raise DataError(
            expected=f"{len(block)} numeric points from {name}, shape ({len(block)}, d)",
            got=f"dtype {points.dtype}, shape {points.shape}",
            do="Return one point per row.",
        )
    points = points.reshape(len(points), -1)
    if points.dtype.kind == "f" and not np.isfinite(points).all():
        bad = int((~np.isfinite(points).all(axis=1)).sum())
        raise DataError(
            expected=f"finite points from {name}",
            got=f"NaN or infinity in {bad:,} of {len(points):,}",
            do="Correct the function, or choose another space.",
        )
    return points


def _check_alone(function: Features, block: Array, points: Array, name: str) -> None:
    """Refuse points that depend on the other rows of the batch, as those of a network in training mode do."""
    some = min(16, -(-len(block) // 2))
    again = _called(function, block[:some], name)
    spread = float(np.abs(points - np.median(points, axis=0)).mean())
    same_width = points.shape[1] == again.shape[1]
    close = same_width and np.allclose(again, points[:some], rtol=1e-3, atol=1e-3 * spread + 1e-12)
    if not close:
        raise DataError(
            expected=f"points from {name} that depend on their row alone",
            got="different points for the same rows in a smaller batch",
            do="Put the network in evaluation mode (module.eval()), and do not add noise.",
        )


# --- principal components


COMPONENTS = 32
_WIDE = 4096  # columns from which the covariance is too large to decompose

Projection = Callable[[NDArray[Any]], NDArray[np.float64]]


def principal_components(train: NDArray[Any], count: int | None, seed: int) -> tuple[Projection, str]:
    """Return the projection on the first principal components of `train`, unscaled, and its description.

    Up to 4,096 columns they are computed from the covariance: exact, and independent of the order of the rows. Beyond,
    they come from a randomized decomposition, so that the last ones are approximate.

    Args:
        train: (n, d).
        count: the number of components; None for 32, or all if there are fewer.
        seed: of the randomized decomposition.

    Raises:
        DataError: there are fewer components than `count`.

    References:
        Finding structure with randomness (Halko, Martinsson & Tropp, 2011), https://arxiv.org/abs/0909.4061
    """
    most = max(1, min(train.shape[1], len(train) - 1))
    count = _checked(count, most, train.shape)
    mean = sum(block.sum(axis=0, dtype=np.float64) for _, block in blocks(train)) / len(train)
    unit = (
        max(float(np.abs(block - mean).max()) for _, block in blocks(train)) or 1.0
    )  # so that squares do not overflow
    decompose = _from_covariance if train.shape[1] <= _WIDE else _by_random_projection
    axes, share = decompose(train, mean, unit, count, seed)

    def project(rows: NDArray[Any]) -> NDArray[np.float64]:
        points: NDArray[np.float64] = (rows - mean) @ axes
        return points

    explained = f"{share:.1%} of its variance" if share < 0.9995 else "all of its variance"
    return project, f"{count} principal component{'s' * (count > 1)} of the training set ({explained})"


def _from_covariance(
    train: NDArray[Any], mean: NDArray[np.float64], unit: float, count: int, _: int
) -> tuple[NDArray[np.float64], float]:
    # Summed over blocks: scikit-learn's PCA needs the whole of a large training set in float64.
    from scipy.linalg import eigh

    width = train.shape[1]
    covariance = np.zeros((width, width))
    for _start, block in blocks(train):
        centred = (block - mean) / unit
        covariance += centred.T @ centred
    values, axes = eigh(covariance, subset_by_index=(width - count, width - 1))
    total = float(np.trace(covariance))
    return axes[:, ::-1], float(values.sum()) / total if total > 0 else 1.0


def _by_random_projection(
    train: NDArray[Any], mean: NDArray[np.float64], unit: float, count: int, seed: int
) -> tuple[NDArray[np.float64], float]:
    from sklearn.utils.extmath import randomized_svd

    centred = np.empty(train.shape, np.float32)
    start = 0
    for start, block in blocks(train):
        centred[start : start + len(block)] = (block - mean) / unit
    # Never transposed: the result would then depend on the order of the rows.
    _, values, axes = randomized_svd(centred, count, random_state=seed32(seed, "pca"), transpose=False)
    total = float(np.square(centred, dtype=np.float64).sum())
    return axes.T.astype(np.float64), float(np.square(values, dtype=np.float64).sum()) / total if total > 0 else 1.0


def _checked(count: int | None, most: int, shape: tuple[int, ...]) -> int:
    if count is None:
        return min(COMPONENTS, most)
    if count > most:
        raise DataError(
            expected=f"1 to {most} principal components of {shape[0]:,} training examples of {shape[1]:,} values",
            got=str(count),
            do=f"Use at most pca:{most}.",
        )
    return count
