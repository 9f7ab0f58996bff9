"""The spaces rows are compared in: as defined, equal for equal rows, and which of them sees which copies."""

import re
import sys
import types
from pathlib import Path

import numpy as np
import oracles_neighbors_spaces as oracle
import pytest
from sklearn.decomposition import PCA

from genmem.data import load
from genmem.errors import DataError, ModelError
from genmem.neighbors import spaces
from genmem.neighbors.image_spaces import pooled, spectrum
from genmem.neighbors.sets import Sets
from genmem.neighbors.spaces import in_space


def three(seed=0, sizes=(30, 20, 10), shape=(6,)):
    rng = np.random.default_rng(seed)
    return [rng.normal(size=(n, *shape)) for n in sizes]


def distances(points):
    flat = points.reshape(len(points), -1).astype(float)
    return np.sqrt(((flat[:, None] - flat[None]) ** 2).sum(-1))


def share_in_train(sets):
    """Return the share of samples that have their nearest row, of training and held-out ones, in train."""
    searches = Sets(*sets)
    return np.mean(searches.distance("samples", "train") < searches.distance("samples", "test"))


def refused(message, *arguments, error=DataError, **options):
    with pytest.raises(error, match=message) as found:
        in_space(*arguments, **options)
    assert found.value.do.endswith(".")


# --- images


@pytest.mark.parametrize(("shape", "size"), [((6, 6), 2), ((7, 5), 2), ((7, 5, 3), 3), ((4, 4), 9)])
def test_pooled_is_the_mean_over_blocks(shape, size):
    images = np.random.default_rng(0).integers(0, 256, size=(5, *shape), dtype=np.uint8)
    expected = np.stack([oracle.pooled(image, size) for image in images])
    np.testing.assert_allclose(pooled(images, size), expected, rtol=1e-6)
    assert pooled(images, size).dtype == np.float32 and pooled(images.astype(float), size).dtype == np.float64


@pytest.mark.parametrize("shape", [(4, 4), (5, 4), (4, 5), (5, 5), (2, 3), (1, 4)])
def test_spectrum_is_the_sorted_amplitudes(shape):
    images = np.random.default_rng(1).normal(size=(4, *shape))
    found = distances(spectrum(images))
    expected = [[oracle.spectrum_distance(a, b) for b in images] for a in images]
    np.testing.assert_allclose(found, expected, atol=1e-6)


@pytest.mark.parametrize("shape", [(8, 8), (7, 9), (6, 5, 3)])
def test_spectrum_keeps_norms_and_never_widens_a_distance(shape):
    rng = np.random.default_rng(2)
    images = rng.normal(size=(40, *shape))
    images[20:] = images[:20] + 0.01 * rng.normal(size=(20, *shape))
    points = spectrum(images)
    np.testing.assert_allclose(np.square(points).sum((1, 2)), np.square(images).sum((1, 2)), rtol=1e-6)
    assert (distances(points) <= distances(images) + 1e-6).all()


@pytest.mark.parametrize("shape", [(8, 8), (7, 9), (8, 6, 3)])
def test_spectrum_ignores_shifts_mirrors_and_half_turns(shape):
    images = np.random.default_rng(3).normal(size=(200, *shape)) * np.exp2(np.arange(-100, 100)).reshape(
        -1, *[1] * len(shape)
    )
    images[7] = 0
    same = (np.roll(images, (2, 3), (1, 2)), images[:, :, ::-1], images[:, ::-1], images[:, ::-1, ::-1], -images)
    for changed in same:
        np.testing.assert_array_equal(spectrum(changed), spectrum(images))
    turned = np.swapaxes(images, 1, 2) if shape[0] == shape[1] else 1.001 * images
    assert (np.abs(spectrum(turned) - spectrum(images)).max(axis=(1, 2)) > 0)[8:].all()


def test_mirror_images_within_a_set_are_one_row():
    digits = load("digits").X[:300].reshape(-1, 8, 8)
    train = np.concatenate([digits[:200], digits[:200, :, ::-1]])
    (train, *_), _ = in_space("spectrum", train, digits[200:], digits[200:])
    np.testing.assert_array_equal(train[200:], train[:200])


def test_images_are_recognised_in_every_form():
    gray = three(shape=(8, 9))
    flat = [rows.reshape(len(rows), -1) for rows in gray]
    expected, words = in_space("pooled:3", *gray)
    for form, options in (
        ([rows[:, None] for rows in gray], {}),
        ([rows[..., None] for rows in gray], {}),
        (flat, {"image_shape": (8, 9)}),
    ):
        found, said = in_space("pooled:3", *form, **options)
        assert said == words == "images averaged over 3 x 3 pixels"
        for one, other in zip(found, expected, strict=True):
            np.testing.assert_array_equal(one, other)
    colour = three(shape=(8, 9, 3))
    for space in ("pooled", "spectrum"):
        last, _ = in_space(space, *colour)
        first, _ = in_space(space, *(np.moveaxis(rows, -1, 1) for rows in colour))
        np.testing.assert_array_equal(first[0], last[0])


def test_a_guess_is_said():
    digits = load("digits").X
    found, words = in_space("pooled", digits[:9], digits[9:14], digits[14:20])
    assert words == "images averaged over 2 x 2 pixels, rows read as 8 x 8 images" and found[0].shape == (9, 16)
    np.testing.assert_array_equal(found[2], pooled(digits[14:20].reshape(-1, 8, 8), 2).reshape(6, 16))
    refused("examples of shape .6,.*image_shape", "spectrum", *three())
    refused("image_shape .* of 6 values; got .4, 4.", "pooled", *three(), image_shape=(4, 4))


# --- principal components


@pytest.mark.parametrize("dtype", [np.float64, np.float32, np.int64, np.uint8])
def test_pca_is_that_of_scikit_learn_fitted_on_train(dtype):
    train, test, samples = (np.abs(20 * rows).astype(dtype) for rows in three(sizes=(60, 40, 20), shape=(3, 4)))
    found, words = in_space("pca:5", train, test, samples)
    reference = PCA(5, svd_solver="full").fit(train.reshape(60, -1).astype(float))
    for points, rows in zip(found, (train, test, samples), strict=True):
        expected = reference.transform(rows.reshape(len(rows), -1).astype(float))
        np.testing.assert_allclose(np.abs(points), np.abs(expected), atol=1e-9)
    share = reference.explained_variance_ratio_.sum()
    assert words == f"5 principal components of the training set ({share:.1%} of its variance)"


def test_pca_does_not_read_the_order_of_rows():
    train, test, samples = three(sizes=(80, 40, 20))
    order = np.random.default_rng(0).permutation(80)
    one, _ = in_space("pca:3", train, test, samples)
    other, _ = in_space("pca:3", train[order], test, samples)
    np.testing.assert_allclose(distances(other[2]), distances(one[2]), atol=1e-12)


def test_wide_pca_is_close_to_the_exact_one(monkeypatch):
    rng = np.random.default_rng(0)
    train, test, samples = (rng.normal(size=(n, 8)) @ rng.normal(size=(8, 50)) for n in (70, 30, 20))
    exact, words = in_space("pca:8", train, test, samples)
    monkeypatch.setattr(spaces, "_WIDE", 10)
    rough, same = in_space("pca:8", train, test, samples, seed=3)
    assert words == same == "8 principal components of the training set (all of its variance)"
    np.testing.assert_allclose(distances(rough[2]), distances(exact[2]), rtol=1e-4)


def test_wide_pca_does_not_read_the_order_of_rows(monkeypatch):
    monkeypatch.setattr(spaces, "_WIDE", 10)
    train, test, samples = three(sizes=(200, 20, 20), shape=(60,))
    order = np.random.default_rng(0).permutation(200)
    one, _ = in_space("pca:4", train, test, samples, seed=3)
    again, _ = in_space("pca:4", train[order], test, samples, seed=3)
    np.testing.assert_allclose(distances(again[2]), distances(one[2]), rtol=1e-3, atol=1e-4)
    other, _ = in_space("pca:4", train, test, samples, seed=4)
    assert np.abs(distances(other[2]) - distances(one[2])).max() > 1e-2  # else the order could not show


def test_pca_of_little_data():
    one = np.arange(6.0)[None]
    for train in (one, np.repeat(one, 5, 0), np.zeros((3, 6))):
        found, _ = in_space("pca", train, one, one + 1)
        assert all(np.isfinite(points).all() for points in found) and found[0].ndim == 2
    assert in_space("pca", *three(sizes=(4, 3, 3)))[0][0].shape == (4, 3)
    refused("1 to 3 principal components of 4 .*got 5", "pca:5", *three(sizes=(4, 3, 3)))
    huge, _ = in_space("pca:2", *(1e200 * rows for rows in three()))
    assert np.isfinite(huge[0]).all()


# --- equal rows stay equal


def uneven(rows):
    """Return values that are rounded differently in batches of other sizes, as matrix products are."""
    return rows.reshape(len(rows), -1) * (1 + 1e-12 * len(rows)) + 1e-12 * np.arange(len(rows))[:, None]


@pytest.mark.parametrize("dtype", [np.bool_, np.uint8, np.int64, np.float16, np.float32, np.float64])
@pytest.mark.parametrize("space", ["raw", "pooled", "spectrum", "pca:3"])
def test_every_dtype(space, dtype):
    sets = [(40 * np.abs(rows)).astype(dtype) for rows in three(shape=(4, 5))]
    found, _ = in_space(space, *sets)
    wide, _ = in_space(space, *(rows.astype(np.float64) for rows in sets))
    for one, other in zip(found, wide, strict=True):
        np.testing.assert_allclose(one.astype(float), other, rtol=1e-5, atol=1e-4)
    floats, _ = in_space(space, sets[0], sets[1], sets[0].astype(np.float64))
    assert (Sets(*floats).distance("samples", "train") == 0).all()


@pytest.mark.parametrize("space", ["pca:7", "spectrum", "pooled", uneven])
def test_equal_rows_become_equal_points(space):
    rng = np.random.default_rng(5)
    train = rng.normal(size=(331, 9, 11)).astype(np.float32)
    train[200:230] = train[:30]
    test = np.concatenate([rng.normal(size=(53, 9, 11)).astype(np.float32), train[7:8]])
    samples = np.concatenate([train[rng.permutation(331)[:101]], train[7:8]])
    sets, _ = in_space(space, train, test, samples)
    assert np.array_equal(sets[0][200:230], sets[0][:30])
    assert np.array_equal(sets[2][-1], sets[0][7]) and np.array_equal(sets[1][-1], sets[0][7])
    assert (Sets(*sets).distance("samples", "train") == 0).all()


def test_raw_values_are_passed_on():
    train, test, samples = (np.floor(20 * rows).astype(np.uint8) for rows in three(shape=(2, 3)))
    sets, words = in_space("raw", train, test, samples)
    assert words == "raw values" and sets[0].dtype == np.uint8 and np.shares_memory(sets[0], train)
    np.testing.assert_array_equal(sets[2], samples.reshape(10, 6))


# --- spaces of the user's own


def test_functions_latents_and_points():
    sets = three(shape=(2, 3))
    seen = []

    def corner(rows):
        seen.append(rows.shape[1:])
        return rows[:, 0, 0]

    found, words = in_space(corner, *sets)
    assert words == "features by corner" and set(seen) == {(2, 3)} and found[1].shape == (20, 1)
    np.testing.assert_array_equal(found[1][:, 0], sets[1][:, 0, 0])
    latents, words = in_space("latent", *sets, latent=corner)
    np.testing.assert_array_equal(latents[2], found[2])
    assert words == "latent means"
    points, words = in_space([rows[:, 0] for rows in sets], *sets)
    np.testing.assert_array_equal(points[0], sets[0][:, 0])
    assert words == "points as passed"


def test_a_function_by_its_name(monkeypatch):
    module = types.ModuleType("features_of_a_user")
    module.means = lambda rows: rows.mean(axis=1)
    monkeypatch.setitem(sys.modules, "features_of_a_user", module)
    found, words = in_space("features_of_a_user:means", *three())
    np.testing.assert_allclose(found[0][:, 0], three()[0].mean(axis=1))
    assert words == "features by features_of_a_user:means"
    refused("importable", "features_of_a_user:nothing", *three(), error=ModelError)
    refused("importable", "no_such_module:means", *three(), error=ModelError)


def test_large_sets_go_through_a_function_in_blocks(monkeypatch):
    monkeypatch.setattr("genmem.neighbors.spaces._CHUNK", 24)
    sizes = []

    def doubled(rows):
        sizes.append(len(rows))
        return 2 * rows

    found, _ = in_space(doubled, *three())
    assert max(sizes) == 4
    for points, rows in zip(found, three(), strict=True):
        np.testing.assert_array_equal(points, 2 * rows)


def test_points_that_depend_on_their_company_are_refused():
    rng = np.random.default_rng(0)
    sets = three()
    refused("depend on their row alone", lambda rows: rows - rows.mean(axis=0), *sets)
    refused("depend on their row alone", lambda rows: rows + 0.1 * rng.normal(size=rows.shape), *sets)
    refused("depend on their row alone", lambda rows: rows @ rows.T, *sets)
    in_space(lambda rows: rows.astype(np.float16), *sets)


def test_latent_means_of_a_vae():
    import torch

    from genmem import VAE

    X = load("digits").X
    model = VAE(hidden=(16,), latent_dim=3, epochs=1).fit(X[:100])
    found, words = in_space("latent", X[:100], X[100:150], X[[3, 3, 5]], latent=model.latent_mean)
    assert words == "latent means"
    np.testing.assert_allclose(found[1], model.latent_mean(X[100:150]), atol=1e-5)
    np.testing.assert_array_equal(found[2], found[0][[3, 3, 5]])
    torch.manual_seed(0)
    network = torch.nn.Linear(64, 2)
    refused("RuntimeError.*requires grad.*", lambda rows: network(torch.as_tensor(rows)), X[:9], X[9:15], X[15:20])


@pytest.mark.parametrize(
    ("space", "message"),
    [
        ("rw", "got 'rw'"),
        ("pca:0", "got 'pca:0'"),
        ("pca:x", "got 'pca:x'"),
        ("pca:", "got 'pca:'"),
        ("pooled:-1", "pooled:-1"),
        ("raw:2", "raw:2"),
        ("latent", "latent=model.latent_mean"),
        (lambda rows: rows[:3], "30|60 numeric points"),
        (lambda rows: rows * np.nan, "finite points .*60 of 60"),
        (lambda rows: rows.astype(str), "dtype <U"),
        (lambda rows: 1 / 0, "ZeroDivisionError"),
        (three()[:2], "a sequence of 2"),
        (three(sizes=(30, 20, 11)), "each of the 10 rows of samples; got 11"),
        ([three()[0][:, :2], *three()[1:]], "width"),
    ],
)
def test_refused_spaces(space, message):
    refused(message, space, *three())


def test_blocks_larger_than_the_images_are_refused():
    images = three(shape=(3, 4))
    refused("at most 4 x 4 pixels.*got pooled:5", "pooled:5", *images)
    assert in_space("pooled:4", *images)[0][0].shape == (30, 1)


def test_a_function_that_ends_the_program_is_refused():
    refused("SystemExit: 3", lambda rows: sys.exit(3), *three())


def test_refused_sets():
    train, test, samples = three(shape=(3, 4))
    refused("one width", "raw", train, test, samples[:, :2])
    refused(
        "NaN or infinity in 1 of 10", "pca", train, test, np.where(np.arange(120).reshape(10, 3, 4) == 5, np.nan, 1)
    )
    refused("of one shape.*moveaxis", "raw", train, test, np.moveaxis(samples, 1, 2))
    in_space("raw", train, test, samples.reshape(10, 12))


def test_the_page_on_spaces_runs(capsys):
    page = (Path(__file__).parents[2] / "docs" / "spaces.md").read_text()
    (code,) = re.findall(r"```python\n(.*?)```", page, flags=re.DOTALL)
    exec(compile(code, "spaces.md", "exec"), {"__name__": "__main__"})
    raw, spectrum = re.findall(r": (\d+)% nearest", capsys.readouterr().out)
    assert int(raw) < 65 and int(spectrum) == 100


# --- which space sees which copies


@pytest.fixture(scope="module")
def digits():
    images = load("digits").X.reshape(-1, 8, 8)[np.random.default_rng(1).permutation(1797)]
    return images[:700], images[700:1400], images[1400:]


def changed(images, change):
    rng = np.random.default_rng(2)
    return {
        "fresh": images,
        "jitter": images + rng.normal(scale=0.03, size=images.shape).astype(np.float32),
        "shift": oracle.shifted(images, 0, 1),
        "flip": images[:, :, ::-1],
    }[change]


# Bounds around what was measured (docs/spaces.md); fresh samples give about .5 in every space.
@pytest.mark.parametrize(
    ("space", "change", "low", "high"),
    [
        ("raw", "jitter", 1, 1),
        ("raw", "shift", 0.5, 0.75),
        ("raw", "flip", 0.4, 0.6),
        ("pooled", "jitter", 0.99, 1),
        ("pooled", "shift", 0.4, 0.62),
        ("pooled", "flip", 0.4, 0.6),
        ("pca", "jitter", 1, 1),
        ("pca", "shift", 0.5, 0.72),
        ("pca", "flip", 0.4, 0.6),
        ("spectrum", "jitter", 0.99, 1),
        ("spectrum", "shift", 0.98, 1),
        ("spectrum", "flip", 1, 1),
    ],
)
def test_what_each_space_sees_on_digits(digits, space, change, low, high):
    train, test, rest = digits
    copies, _ = in_space(space, train, test, changed(train[:400], change))
    assert low <= share_in_train(copies) <= high
    fresh, _ = in_space(space, train, test, rest)
    assert 0.42 <= share_in_train(fresh) <= 0.58
