"""Models in files: what comes back is what was saved, and a file runs no code it was not trusted with."""

import json
import subprocess
import sys

import numpy as np
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file
from sklearn.mixture import GaussianMixture
from sklearn.neighbors import KernelDensity
from torch import nn

import genmem
from genmem.errors import ModelError

X = np.random.default_rng(0).normal(size=(60, 3)).astype(np.float32)


def line(shape):
    return torch.nn.Linear(shape[0], 1)


def squares(network, x):
    return network(x).square().sum(-1)


@pytest.fixture
def saved(tmp_path):
    path = tmp_path / "model.safetensors"
    model = genmem.VAE(hidden=[4], latent_dim=2, epochs=1).fit(X)
    return genmem.save_model(model, path), model


def header_of(path):
    with safe_open(path, framework="pt") as file:
        return json.loads(file.metadata()["genmem"]), {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118


def rewritten(path, change):
    about, arrays = header_of(path)
    change(about, arrays)
    save_file(arrays, path, metadata={"genmem": json.dumps(about)})
    return path


@pytest.mark.slow
def test_another_process_finds_the_same(saved):
    path, model = saved
    code = (
        "import sys, genmem, numpy as np; print(repr(genmem.load_model(sys.argv[1]).score_samples(np.ones((1, 3)))[0]))"
    )
    done = subprocess.run([sys.executable, "-c", code, str(path)], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == repr(model.score_samples(np.ones((1, 3)))[0])


@pytest.mark.parametrize(
    "model",
    [
        KernelDensity(bandwidth=0.3),
        GaussianMixture(2, covariance_type="diag", random_state=0),
        genmem.TorchGaussianMixture(n_components=2),
        genmem.KNNDensity(k=3),
    ],
    ids=lambda m: type(m).__name__,
)
def test_densities_without_a_network(model, tmp_path):
    model.fit(X)
    again = genmem.load_model(genmem.save_model(model, tmp_path / "m"))
    np.testing.assert_array_equal(again.score_samples(X), model.score_samples(X))
    assert again.get_params() == model.get_params()


def test_sample_weights_of_a_kernel_density_are_kept(tmp_path):
    model = KernelDensity(bandwidth=0.3).fit(X, sample_weight=np.arange(1.0, 61))
    again = genmem.load_model(genmem.save_model(model, tmp_path / "m"))
    np.testing.assert_allclose(again.score_samples(X), model.score_samples(X), atol=1e-12)


@pytest.mark.parametrize(
    "harm",
    [
        {"name": "os:system", "params": {"command": "touch FILE"}},
        {"name": "genmem.models.diffusion:DiffusionModel", "params": {"network": "os:system"}},
        {"name": "genmem.models.custom:ModuleDensity", "params": {"network": {"callable": "os:system"}}},
        {"name": "genmem.models.vae:VAE", "params": {"hidden": {"callable": "os:system", "more": 1}}},
    ],
)
def test_a_file_runs_no_code_it_was_not_trusted_with(harm, saved, tmp_path):
    path, _ = saved
    text = json.dumps(harm).replace("FILE", str(tmp_path / "pwned"))
    rewritten(path, lambda about, _: about.update(model=json.loads(text)))
    with pytest.raises(ModelError, match="trust=True"):
        genmem.load_model(path)
    assert not (tmp_path / "pwned").exists()


def test_what_names_functions_is_loaded_when_trusted(tmp_path):
    model = genmem.from_module(line, loss=squares, bound=True, epochs=1).fit(X)
    path = genmem.save_model(model, tmp_path / "m")
    with pytest.raises(ModelError, match="test_saving:line"):
        genmem.load_model(path)
    again = genmem.load_model(path, trust=True)
    np.testing.assert_array_equal(again.score_samples(X), model.score_samples(X))


@pytest.mark.parametrize(
    "change",
    [
        lambda about, _: about.pop("model"),
        lambda about, _: about["model"].pop("name"),
        lambda about, _: about.update(model="VAE"),
        lambda about, _: about.update(format="other"),
        lambda about, _: about.pop("plain"),
        lambda about, _: about["plain"].pop("event_shape"),
        lambda about, arrays: next(iter(arrays.values())).view(-1)[:1].add_(1),
        lambda about, arrays: arrays.pop(next(iter(arrays))),
    ],
)
def test_a_damaged_file_is_refused(change, saved):
    path, _ = saved
    with pytest.raises(ModelError, match="Save the model again"):
        genmem.load_model(rewritten(path, change))


def test_a_state_of_another_size_is_refused(saved):
    path, _ = saved
    rewritten(path, lambda about, _: about["model"]["params"].update(latent_dim=3))
    with pytest.raises(ModelError, match="does not fit the model"):
        genmem.load_model(path)


def test_cut_missing_and_foreign_files(saved, tmp_path):
    path, _ = saved
    path.write_bytes(path.read_bytes()[:-100])
    (tmp_path / "text").write_text("hello")
    for file in (path, tmp_path / "text", tmp_path / "none", tmp_path):
        with pytest.raises(ModelError, match="written by save_model"):
            genmem.load_model(file)


def test_only_fitted_models_are_saved(tmp_path):
    for model in (genmem.VAE(), GaussianMixture(2), genmem.KNNDensity()):
        with pytest.raises(ModelError, match="an unfitted one"):
            genmem.save_model(model, tmp_path / "m")
    assert not (tmp_path / "m").exists()


class Marked(nn.Module):
    """A network with a buffer of some dtype."""

    def __init__(self, dtype):
        super().__init__()
        self.layer = nn.Linear(4, 4)
        self.register_buffer("mark", torch.linspace(-1, 1, 4).to(dtype))


def marked(network, x):
    return 0.5 * ((x - network.layer(x) - network.mark.float()) ** 2 + 1.8379).sum(1)


def with_bfloat16(shape):
    return Marked(torch.bfloat16)


def with_float64(shape):
    return Marked(torch.float64)


def with_int8(shape):
    return Marked(torch.int8)


@pytest.mark.parametrize("make", [with_bfloat16, with_float64, with_int8])
def test_buffers_of_every_dtype_come_back(make, tmp_path):
    X = np.random.default_rng(0).normal(size=(20, 4)).astype(np.float32)
    model = genmem.from_module(make, loss=marked, bound=False, epochs=1).fit(X)
    state = model.module_.state_dict()
    loaded = genmem.load_model(genmem.save_model(model, tmp_path / "model"), trust=True)
    for name, value in loaded.module_.state_dict().items():
        assert value.dtype == state[name].dtype and torch.equal(value, state[name])
    assert np.array_equal(loaded.score_samples(X), model.score_samples(X))
