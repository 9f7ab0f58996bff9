"""Shift and scale of variational auto-encoders: sensible data as they are, others in units of their own."""

import json

import numpy as np
import pytest
import torch
from contract import check_density
from oracles_vae import log_prob_by_grid

from genmem.errors import DataError, ModelError
from genmem.models import VAE, ConvVAE, load_model, save_model
from genmem.models.posterior import refit_posterior
from genmem.models.vae_module import find_standards
from genmem.training import can_batch
from genmem_cli.main import run as command


def table(n=200, d=3, seed=0):
    return np.random.default_rng(seed).normal(size=(n, d)).astype(np.float32)


def images(n=30, seed=0):
    return np.random.default_rng(seed).integers(0, 5, (n, 4, 4)).astype(np.float32) / 4


def small(**changes):
    return VAE(**{"hidden": [16], "latent_dim": 2, "epochs": 60, "learning_rate": 0.01, **changes})


def gaussian_log_p(X):
    X = X.astype(np.float64)
    return -0.5 * (np.log(2 * np.pi * X.var(0)) + (X - X.mean(0)) ** 2 / X.var(0)).sum(1)


@pytest.mark.slow
@pytest.mark.parametrize(("scale", "offset"), [(1, 10), (100, 0), (1, 1000), (1e-6, 0), (50, 2000)])
def test_log_p_is_about_that_of_a_gaussian_whatever_the_units(scale, offset):
    X = (table(600).astype(np.float64) * scale + offset).astype(np.float32)
    log_p, expected = small().fit(X).score_samples(X), gaussian_log_p(X)
    assert log_p.mean() > expected.mean() - 0.15
    assert log_p.mean() < expected.mean() + 0.3


@pytest.mark.slow
def test_columns_of_very_different_spans_get_a_scale_each():
    X = table(600) * np.array([1, 1e-6, 3], np.float32)
    model = small().fit(X)
    assert model.score_samples(X).mean() > gaussian_log_p(X).mean() - 0.15
    assert model.settled_.scale[1] == pytest.approx(X[:, 1].std(), rel=1e-3)


SENSIBLE = [
    table(),
    images(),
    np.clip(table() * 10, -10, 10),
    table() * np.array([1, 0.01, 1], np.float32),
    np.eye(300, 5, dtype=np.float32) / np.array([1, 255, 1, 1, 1], np.float32),  # a pixel that is black but once
]


@pytest.mark.parametrize("X", SENSIBLE, ids=range(len(SENSIBLE)))
def test_sensible_data_are_taken_as_they_are(X):
    settled = small().resolve(X)
    assert (settled.shift, settled.scale) == ([], [])
    assert settled.make_module(X.shape[1:]).standards is None
    assert "shift" not in " ".join(settled.make_module(X.shape[1:]).state_dict())


@pytest.mark.parametrize(
    "X",
    [
        table() + 10,
        table() * 5,
        table() * 0.01,
        table() * np.array([1, 5e-4, 1], np.float32),
        np.insert(table(), 1, 2000, axis=1),  # the encoder would see it
        (images() * 255).astype(np.uint8),
    ],
    ids=range(6),
)
def test_other_data_are_standardised(X):
    settled = small().resolve(X)
    columns = X[0].size - len(settled.constants)
    assert np.shape(settled.shift) == np.shape(settled.scale) == (columns,)
    seen = settled.make_module(X.shape[1:]).described(torch.as_tensor(X).float())
    torch.testing.assert_close(seen.mean(0), torch.zeros(columns), atol=2e-3, rtol=0)
    torch.testing.assert_close(seen.std(0, correction=0), torch.ones(columns), atol=2e-3, rtol=0)
    json.dumps([settled.shift, settled.scale], allow_nan=False)
    # A refit sees part of the data and has the settings of all.
    assert settled.resolve(X[:9]).get_params() == settled.get_params()


def test_part_of_sensible_data_stays_as_it_is():
    X = table()
    X[9:] *= 5
    X = np.clip(X, -10, 10)
    settled = small().resolve(X)
    assert settled.resolve(X[:9] * 1e-3).scale == [] and small().resolve(X[:9] * 1e-3).scale != []


def test_a_rare_value_is_not_far_out():
    X = np.zeros((400, 3), np.float32)
    X[:, 0], X[7, 1], X[:, 2] = table(400, 1)[:, 0], 255, 1
    shift, scale = find_standards(X, [2])
    assert np.abs((X[:, :2] - shift) / scale).max() <= 10.01
    assert scale[1] == pytest.approx((255 - 255 / 400) / 10, rel=1e-3)


def test_many_columns_share_a_pair():
    X = table(20, 1030) * 50 + 7
    shift, scale = find_standards(X, [])
    assert shift == pytest.approx(X.mean(), abs=0.1) and scale == pytest.approx(X.std(), rel=1e-3)
    assert len(find_standards(X, range(6))[0]) == 1024


def test_a_column_that_never_varies_but_is_kept():
    X = np.insert(table() + 100, 1, 7.0, axis=1)
    settled = small(constants=()).resolve(X)
    assert settled.shift[1] == 7 and settled.scale[1] == 1
    assert np.isfinite(small(constants=(), epochs=2).fit(X).score_samples(X)).all()


def test_what_is_not_finite_is_refused():
    with pytest.raises(DataError, match="finite"):
        find_standards(np.array([[1.0, np.nan], [2.0, 3.0]]), [])


@pytest.mark.parametrize("likelihood", [{}, {"variance": "pixel"}])
@pytest.mark.parametrize("constant", [False, True])
def test_a_model_of_x_is_the_model_of_standardised_x(likelihood, constant):
    shift, scale = np.array([2.0, -7, 100]), np.array([0.5, 4, 0.125])  # powers of two: standardised X is X exactly
    X = np.round(table(80) * 1024) / 1024
    moved = (X * scale + shift).astype(np.float32)
    if constant:
        X, moved = np.insert(X, 1, 0.0, axis=1), np.insert(moved, 1, 33.0, axis=1)
    plain = small(epochs=5, **likelihood).fit(X)
    model = small(epochs=5, shift=shift.tolist(), scale=scale.tolist(), **likelihood).fit(moved)
    for name, value in plain.module_.state_dict().items():
        torch.testing.assert_close(model.module_.state_dict()[name], value, rtol=1e-5, atol=1e-6)
    expected = plain.score_samples(X) - np.log(scale).sum()
    np.testing.assert_allclose(model.score_samples(moved), expected, atol=1e-4)
    drawn, samples = plain.sample(50, random_state=1), model.sample(50, random_state=1)
    kept = [0, 2, 3] if constant else [0, 1, 2]
    np.testing.assert_allclose(samples[:, kept], drawn[:, kept] * scale + shift, atol=1e-4)
    assert not constant or (samples[:, 1] == 33).all()
    noise = torch.randn(1, len(X), 2, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        losses = [
            m.module_(torch.as_tensor(v, dtype=torch.float32), noise=noise) for m, v in ((plain, X), (model, moved))
        ]
    torch.testing.assert_close(losses[1], losses[0] + float(np.log(scale).sum()), atol=1e-4, rtol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("variance", ["scalar", "pixel"])
def test_log_p_equals_quadrature_over_z(variance):
    X = np.insert(table(80) * [50, 1e-3, 1] + [2000, 0, -30], 1, 5.0, axis=1).astype(np.float32)
    model = small(latent_dim=1, variance=variance).fit(X)
    shift, scale = np.array(model.settled_.shift), np.array(model.settled_.scale)
    standard = X[:8].astype(np.float64)
    standard[:, [0, 2, 3]] = (standard[:, [0, 2, 3]] - shift) / scale
    expected = log_prob_by_grid(model.module_, standard) - np.log(scale).sum()
    np.testing.assert_allclose(model.score_samples(X[:8], 20_000), expected, atol=0.05)
    refitted = refit_posterior(model.module_, torch.from_numpy(X[:8]), draws=512, seed=0)
    np.testing.assert_allclose(refitted.log_prob, expected, atol=0.1)


@pytest.mark.slow
def test_density_in_the_units_of_the_data_integrates_to_one():
    model = small(latent_dim=1).fit(table(200, 1) * 20 + 500)
    grid = np.linspace(300, 700, 2001)[:, None].astype(np.float32)
    p = np.exp(model.score_samples(grid, importance_samples=1000))
    assert np.trapezoid(p, grid[:, 0]) == pytest.approx(1, abs=0.02)


@pytest.mark.parametrize("X", [table(60) * 50 + 2000, images() * 255], ids=["table", "images"])
def test_contract(X):
    check_density(small(epochs=5), X, tolerance=1e-4)


def test_settings_are_saved(tmp_path):
    X = np.insert(table(60) * 50 + 2000, 1, 7.0, axis=1)
    model = small(epochs=3).fit(X)
    again = load_model(save_model(model, tmp_path / "model.safetensors"))
    np.testing.assert_array_equal(again.score_samples(X), model.score_samples(X))
    np.testing.assert_array_equal(again.sample(5), model.sample(5))


def test_lanes_are_proven_to_agree():
    X = (table(60) * 50 + 2000).astype(np.float32)
    recipe = small().resolve(X).recipe((3,), 40, seed=0)
    assert can_batch(recipe, torch.from_numpy(X))  # a warning would be an error


def test_images_have_one_pair():
    X = images() * 255
    X[:, 0] = 0
    model = ConvVAE(width=4, latent_dim=2, epochs=8).fit(X)
    assert isinstance(model.settled_.shift, float) and isinstance(model.settled_.scale, float)
    inner = X[:, 1:]
    assert model.settled_.scale == pytest.approx(inner.std(), rel=1e-3)
    standard = (X - model.settled_.shift) / model.settled_.scale
    standard[:, 0] = 0
    constants = [[i, 0.0] for i in range(4)]
    plain = ConvVAE(width=4, latent_dim=2, epochs=8, constants=constants).fit(standard)
    expected = plain.score_samples(standard) - 12 * np.log(model.settled_.scale)
    np.testing.assert_allclose(model.score_samples(X), expected, atol=5e-3)
    assert model.sample(40)[:, 1:].mean() == pytest.approx(inner.mean(), abs=40)
    assert (model.sample(40)[:, 0] == 0).all()


@pytest.mark.parametrize(
    ("model", "message"),
    [
        (small(scale=0.0), "scale"),
        (small(scale=[1.0, -1.0, 1.0]), "scale"),
        (small(shift=float("nan")), "shift"),
        (small(shift="mean"), "shift"),
        (small(shift=[[1.0, 2.0]]), "shift"),
        (small(scale=[1.0, 2.0]), "one for each of the 3 columns"),
        (small(likelihood="bernoulli", shift=0.5), "shift"),
        (small(likelihood="logit_normal", scale=2.0), "scale"),
    ],
)
def test_settings_out_of_range(model, message):
    X = (table() > 0).astype(np.float32)
    with pytest.raises(ModelError, match=message):
        model.fit(X)


def test_lists_are_for_columns_not_for_pixels():
    with pytest.raises(ModelError, match="shift"):
        ConvVAE(shift=[1.0] * 16).fit(images())


def test_one_of_the_two_can_be_given():
    X = table() + 100
    settled = small(scale=[]).resolve(X)
    assert settled.scale == [] and settled.shift == pytest.approx(X.mean(0), abs=1e-2)
    assert np.isfinite(settled.set_params(epochs=1).fit(X).score_samples(X)).all()


@pytest.mark.slow
def test_an_audit_of_data_far_from_0(tmp_path):
    np.save(tmp_path / "X.npy", table(60) * 50 + 2000)
    arguments = ["audit", str(tmp_path / "X.npy"), "--folds", "2", "--repeats", "2", "--epochs", "2"]
    assert command([*arguments, "--out", str(tmp_path / "run"), "--workers", "1"]) == 0
    plan = json.loads((tmp_path / "run" / "run.json").read_text())
    assert np.mean(plan["model"]["params"]["shift"]) == pytest.approx(2000, abs=20)
