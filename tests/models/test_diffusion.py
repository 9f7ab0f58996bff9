"""Diffusion models: the contract, lanes, samples, users' own networks, settings, and an audit from end to end."""

import copy
import re
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from contract import check_density
from torch import nn

import genmem
from genmem.errors import DataError, ModelError
from genmem.models import make_model
from genmem.models.diffusion import DiffusionModel
from genmem.models.diffusion_networks import PaddedUNet
from genmem.protocols import draw
from genmem.training import Lane, can_batch, train

needs_diffusers = pytest.mark.skipif(
    not __import__("importlib.util").util.find_spec("diffusers"), reason="needs diffusers"
)
TINY = {"block_out_channels": (8, 8), "timesteps": 8, "epochs": 2, "batch_size": 16}


def vectors(n=60, d=3, seed=0):
    return np.random.default_rng(seed).normal(size=(n, d)).astype(np.float32) * np.arange(1, d + 1, dtype=np.float32)


def images(n=14, shape=(4, 4), seed=0):
    return np.random.default_rng(seed).beta(2, 3, (n, *shape)).astype(np.float32)


def convolution(shape):
    """A user's own network: module-level, so that a plan can name it."""
    return Convolution(shape)


def diffusers_unet(shape):
    """A user's own UNet2DModel: images come channels first, and it answers with an object."""
    from diffusers import UNet2DModel

    return UNet2DModel(
        in_channels=shape[0],
        out_channels=shape[0],
        block_out_channels=(8,),
        down_block_types=("DownBlock2D",),
        up_block_types=("UpBlock2D",),
        layers_per_block=1,
        norm_num_groups=4,
        add_attention=False,
    )


class Convolution(nn.Module):
    def __init__(self, shape):
        super().__init__()
        assert len(shape) == 3 and shape[0] in (1, 3)
        self.layer = nn.Conv2d(shape[0], shape[0], 3, padding=1)
        self.time = nn.Linear(1, shape[0])

    def forward(self, x, t):
        assert x.shape[1] == self.layer.in_channels and t.dtype == torch.long
        return self.layer(x) + self.time(t[:, None] / 10.0)[:, :, None, None]


@pytest.mark.parametrize("objective", ["simple", "bound"])
def test_contract_for_vectors(objective):
    check_density(
        DiffusionModel(width=16, depth=1, epochs=3, timesteps=20, objective=objective), vectors(), tolerance=1e-3
    )


@pytest.mark.slow
@needs_diffusers
@pytest.mark.parametrize("shape", [(4, 4), (5, 6, 3)])
def test_contract_for_images(shape):
    check_density(DiffusionModel(**TINY), images(shape=shape), tolerance=1e-3)


@needs_diffusers
@pytest.mark.parametrize(
    "network",
    [
        pytest.param(convolution, marks=pytest.mark.slow),
        pytest.param("test_diffusion:convolution", marks=pytest.mark.slow),
        pytest.param("test_diffusion:diffusers_unet", marks=pytest.mark.slow),
    ],
)
def test_contract_for_own_networks(network):
    model = DiffusionModel(network=network, prediction_type="epsilon", timesteps=12, epochs=2)
    fitted = check_density(model, images(shape=(4, 6, 3)), tolerance=1e-3)
    assert "UNet" in type(fitted.module_.network).__name__ or isinstance(fitted.module_.network, Convolution)


def test_settings_that_are_settled():
    X = np.insert(vectors(), 1, 7.0, axis=1)
    settled = DiffusionModel().resolve(X)
    np.testing.assert_allclose(settled.shift, X.mean(0, dtype=np.float64))
    np.testing.assert_allclose(settled.scale[2], X[:, 2].std(dtype=np.float64))
    assert settled.constants == [[1, 7.0]]
    assert (settled.timesteps, settled.beta_schedule) == (100, "squaredcos_cap_v2")
    assert DiffusionModel(prediction_type="epsilon").resolve(X).beta_schedule == "linear"
    assert settled.resolve(X[:5]).get_params() == settled.get_params()  # a refit has what all the data settled


@pytest.mark.slow
@needs_diffusers
def test_settings_that_are_settled_for_images():
    settled = DiffusionModel(block_out_channels=(8,)).resolve(images() * 3 + 1)
    X = images() * 3 + 1
    scaled = (X - settled.shift) / settled.scale
    assert (scaled.min(), scaled.max()) == pytest.approx((-1, 1))
    assert settled.timesteps == 1000


def test_log_p_is_in_units_of_the_data():
    X, model = vectors(), DiffusionModel(width=16, depth=1, epochs=2, timesteps=20)
    here, there = model.fit(X).score_samples(X), model.fit(8 * X).score_samples(8 * X)
    np.testing.assert_allclose(there, here - 3 * np.log(8), atol=1e-3)


@pytest.mark.slow
def test_the_standard_error_comes_with_the_bound():
    X = vectors()
    fitted = DiffusionModel(width=16, depth=1, epochs=2, timesteps=20).fit(X)
    bound, error = fitted.score_samples(X, importance_samples=32, return_std=True)
    np.testing.assert_array_equal(bound, fitted.score_samples(X, importance_samples=32))
    finer = fitted.score_samples(X, importance_samples=4096)
    assert np.sqrt(np.mean((bound - finer) ** 2)) == pytest.approx(np.sqrt(np.mean(error**2)), rel=0.4)


@pytest.mark.slow
def test_the_page_on_diffusion_runs():
    pytest.importorskip("diffusers", reason="the page makes a UNet2DModel")
    page = (Path(__file__).parents[2] / "docs" / "diffusion.md").read_text()
    blocks = re.findall(r"```python\n(.*?)```", page, re.DOTALL)
    assert blocks
    for block in blocks:
        exec(compile(block, "docs/diffusion.md", "exec"), {"__name__": "page"})


def test_constant_columns_are_left_out():
    X = vectors()
    model = DiffusionModel(width=16, depth=1, epochs=3, timesteps=20)
    fitted = model.fit(np.insert(X, 1, 7.0, axis=1))
    assert (draw(fitted, 5, seed=0)[:, 1] == 7).all()
    assert fitted.module_.dimensions == 3
    with pytest.raises(DataError, match="at least one column that varies"):
        model.fit(np.ones((5, 3), np.float32))


# --- lanes


def lanes_agree(model, X):
    recipe = model.resolve(X).recipe(X.shape[1:], 30, seed=1)
    assert can_batch(recipe, torch.from_numpy(X))  # a warning would be an error here
    lanes = [Lane(np.arange(30) + i, split=i, repeat=i // 2) for i in range(3)]
    batched, looped = (train(recipe, torch.from_numpy(X), lanes, batched=b) for b in (True, False))
    for one, other in zip(batched, looped, strict=True):
        for name, value in one.state_dict().items():
            torch.testing.assert_close(value, other.state_dict()[name], atol=2e-4, rtol=1e-3, msg=name)


@pytest.mark.parametrize("objective", ["simple", "bound"])
def test_lanes_of_vectors_agree_with_the_loop(objective):
    lanes_agree(DiffusionModel(width=16, depth=2, epochs=3, timesteps=20, objective=objective), vectors(40))


@pytest.mark.slow
@needs_diffusers
@pytest.mark.parametrize("attention", [False, True])
def test_lanes_of_images_agree_with_the_loop(attention):
    lanes_agree(DiffusionModel(**TINY | {"epochs": 1, "attention": attention}), images(40))


# --- the network for images


@needs_diffusers
@pytest.mark.parametrize("size", [(8, 8), (5, 7), (1, 9)])
def test_images_of_any_size(size):
    network = PaddedUNet((3, *size), block_out_channels=(8, 8, 16), layers_per_block=1, attention=False)
    x = torch.randn(2, 3, *size)
    assert network(x, torch.tensor([0, 5])).shape == x.shape
    left, right, top, bottom = network.padding
    assert (size[0] + top + bottom) % 4 == 0 and (size[1] + left + right) % 4 == 0
    assert abs(left - right) <= 1 and abs(top - bottom) <= 1


@needs_diffusers
@pytest.mark.parametrize("channels", [(8, 8), (32, 64), (6, 12), (4,)])
def test_the_network_for_images_knows_the_timestep(channels):
    network = PaddedUNet((1, 4, 4), block_out_channels=channels, layers_per_block=1, attention=False)
    early, late = (network(torch.ones(1, 1, 4, 4), torch.tensor([t])) for t in (0, 500))
    assert (early - late).abs().max() > 1e-3


@pytest.mark.slow
@needs_diffusers
def test_pixels_stay_in_place():
    # One bright channel and one bright corner: axes mixed up anywhere would move them.
    X = 0.05 * images(64, (4, 6, 3))
    X[:, 0, 1, 2] += 1.0
    fitted = DiffusionModel(**TINY | {"epochs": 25, "learning_rate": 3e-3}).fit(X)
    mean = draw(fitted, 32, seed=0).mean(0)
    assert np.unravel_index(mean.argmax(), mean.shape) == (0, 1, 2)
    moved = np.ascontiguousarray(X[:, ::-1, ::-1, ::-1])
    assert fitted.score_samples(X).mean() > fitted.score_samples(moved).mean() + 10


def test_without_diffusers(monkeypatch):
    monkeypatch.setitem(sys.modules, "diffusers", None)
    with pytest.raises(ModelError, match=r"pip install 'genmem\[diffusion\]'"):
        DiffusionModel(**TINY).fit(images())
    DiffusionModel(width=8, depth=1, epochs=1).fit(vectors())  # vectors do without


# --- what a user can get wrong


@pytest.mark.parametrize(
    ("network", "got"),
    [
        (lambda shape: "no network", "str"),
        (lambda shape: nn.Linear(3, 3), "TypeError"),
        (lambda shape: nn.Bilinear(3, 1, 3), "RuntimeError"),
        (lambda shape: Cut(), "of shape"),
        (lambda shape: Nothing(), "AttributeError"),
        ("no.such.module:unet", "ModuleNotFoundError"),
        ("unet", "'unet'"),
        (nn.Linear, "TypeError"),
        (Convolution, "AssertionError"),
    ],
)
def test_networks_that_cannot_be_used(network, got):
    with pytest.raises(ModelError, match=got):
        DiffusionModel(network=network, epochs=1).fit(vectors())


def _hash(network):
    return [value.clone() for value in network.state_dict().values()]


@pytest.mark.parametrize("give", [lambda net: net, lambda net: lambda shape: net, lambda net: net.forward])
def test_a_network_that_exists_already_is_refused_and_left_alone(give, tmp_path):
    net = Convolution((1, 6, 6))
    before = _hash(net)
    X = np.random.default_rng(0).random((12, 6, 6)).astype(np.float32)
    for run in (lambda m: m.fit(X), lambda m: genmem.audit(X, m, out=tmp_path / "run", folds=2, repeats=2)):
        with pytest.raises(ModelError, match="exists already|the same weights in two networks"):
            run(DiffusionModel(network=give(net), timesteps=5, epochs=1))
    assert all(torch.equal(one, other) for one, other in zip(_hash(net), before, strict=True))


def test_copies_of_a_trained_network_are_told():
    net = Convolution((1, 6, 6))
    X = np.random.default_rng(0).random((12, 6, 6)).astype(np.float32)
    with pytest.warns(UserWarning, match="network returns the same weights whatever the seed"):
        DiffusionModel(network=lambda shape: copy.deepcopy(net), timesteps=5, epochs=1).fit(X)


def test_half_precision_and_conditional_networks_are_refused_for_what_they_are():
    X = np.random.default_rng(0).random((12, 6, 6)).astype(np.float32)
    with pytest.raises(ModelError, match="a network in float32 or float64"):
        DiffusionModel(network=lambda shape: Convolution(shape).half(), timesteps=5, epochs=1).fit(X)
    with pytest.raises(ModelError, match="no labels or prompts"):
        DiffusionModel(network=Conditional, timesteps=5, epochs=1).fit(X)


class Conditional(Convolution):
    def forward(self, x, t, class_labels):
        return super().forward(x, t)


class Cut(nn.Module):
    def forward(self, x, t):
        return x[:, :1]


class Nothing(nn.Module):
    def forward(self, x, t):
        return None


@pytest.mark.parametrize(
    "setting",
    [
        {"timesteps": 1},
        {"timesteps": 10.5},
        {"width": 0},
        {"depth": 0},
        {"block_out_channels": 8},
        {"block_out_channels": []},
        {"layers_per_block": 0},
        {"attention": "yes"},
        {"prediction_type": "noise"},
        {"variance": "learned"},
        {"objective": "hybrid"},
        {"beta_schedule": 3},
        {"beta_schedule": "straight"},
        {"scale": 0.0},
        {"scale": [1.0, 2.0]},
        {"shift": "mean"},
        {"shift": float("nan")},
        {"constants": [3]},
        {"constants": [[3, 1.0]]},
        {"network": 5},
        {"epochs": 0},
    ],
)
def test_settings_out_of_range(setting):
    (name,) = setting
    with pytest.raises(ModelError, match=name):
        DiffusionModel(**{"epochs": 1, "timesteps": 10, **setting}).fit(vectors())


def test_data_it_cannot_take():
    with pytest.raises(DataError, match="Reshape"):
        DiffusionModel().fit(np.zeros(5))
    with pytest.raises(DataError, match="Reshape"):
        DiffusionModel().fit(np.zeros((2, 3, 3, 3, 3)))
    for channels_first in ((2, 3, 8, 8), (2, 1, 8, 8), (2, 8, 8, 2)):
        with pytest.raises(DataError, match=r"moveaxis\(X, 1, -1\)"):
            DiffusionModel().fit(np.zeros(channels_first, np.float32))
    with pytest.raises(DataError, match="finite"):
        DiffusionModel().fit(np.array([[1.0, np.nan], [2.0, 3.0]]))


# --- from end to end


@pytest.mark.slow
@needs_diffusers
def test_a_tiny_unet_is_audited(tmp_path):
    X = genmem.load("digits", subset=32).X.reshape(-1, 8, 8)
    model = DiffusionModel(**TINY)
    audit = genmem.audit(
        X, model, tmp_path / "run", folds=2, repeats=2, importance_samples=16, score_epochs=[1, 2], workers=1
    )
    assert audit.scores.score.shape == (32,) and np.isfinite(audit.scores.score).all()
    assert audit.report.exists()
    planned = genmem.Run.open(tmp_path / "run").plan["model"]["params"]
    assert planned["beta_schedule"] == "squaredcos_cap_v2" and planned["scale"] == 0.5


def test_a_model_by_name():
    assert isinstance(make_model("diffusion", {"timesteps": 20}), DiffusionModel)
