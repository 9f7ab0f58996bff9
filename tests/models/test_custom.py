"""from_module: any network of a user's, what it may answer, and what is said when it does not."""

import sys
import warnings

import numpy as np
import oracles_custom as own
import pytest
import torch
from contract import check_density, check_normalised
from scipy import stats
from sklearn.base import clone
from torch import nn
from user_networks import QUICK, normal, user_gaussian, user_vae

import genmem
from genmem import stages
from genmem.errors import ModelError
from genmem.models import from_module, load_model, log_prob, save_model
from genmem.models.custom import ModuleDensity
from genmem.models.evaluation import estimate_of
from genmem.run import Run
from genmem.training.ensemble import Lane, train
from genmem.training.probe import can_batch
from genmem_cli.main import run as cli

# --- the contract


@pytest.mark.parametrize("shape", [(3,), (2, 2)])
def test_contract_of_an_exact_model(shape):
    assert estimate_of(check_density(user_gaussian(), normal(shape=shape)).module_) == "exact"


@pytest.mark.slow
@pytest.mark.parametrize("shape", [(3,), (2, 2)])
def test_contract_of_importance_weights(shape):
    assert estimate_of(check_density(user_vae(), normal(shape=shape)).module_) == "importance"


@pytest.mark.slow
def test_contract_of_a_bound():
    model = user_vae(log_weights=None, bound=True)
    assert estimate_of(check_density(model, normal()).module_) == "bound"


@pytest.mark.slow
def test_density_integrates_to_one():
    check_normalised(user_gaussian(), normal(shape=(1,)))
    check_normalised(user_vae(log_weights=None, bound=True, epochs=20), normal(shape=(1,)), bound=True)


def test_a_class_and_a_lambda_can_make_the_network():
    by_class, by_lambda = user_gaussian().fit(normal()), user_gaussian()
    by_lambda.set_params(network=lambda shape: own.Gaussian(shape))
    np.testing.assert_array_equal(by_lambda.fit(normal()).score_samples(normal()), by_class.score_samples(normal()))


# --- what log p is


def test_exact_log_p_is_that_of_the_function():
    X = normal(n=400) * np.float32([1, 2, 3])
    model = user_gaussian(epochs=40).fit(X)
    network = model.module_.network
    expected = stats.norm(network.mean.detach(), network.log_sd.detach().exp()).logpdf(X).sum(1)
    np.testing.assert_allclose(model.score_samples(X), expected, rtol=1e-5)
    assert network.log_sd[2].item() == pytest.approx(np.log(3), abs=0.15)


@pytest.mark.slow
def test_importance_sampling_is_above_the_bound_and_near_log_p():
    X = normal(shape=(2,))
    weights = user_vae(epochs=1).fit(X)
    bound = user_vae(epochs=1, log_weights=None, bound=True).fit(X)
    torch.testing.assert_close(weights.module_.state_dict(), bound.module_.state_dict())
    log_p = weights.score_samples(X, importance_samples=4000)
    elbo = bound.score_samples(X, importance_samples=4000)
    z = torch.randn(20_000, 1, 2, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():  # from the prior: slow, and right
        decoded = torch.distributions.Normal(weights.module_.network.decoder(z), 1.0)
        prior = decoded.log_prob(torch.from_numpy(X)).sum(-1).logsumexp(0) - np.log(20_000)
    np.testing.assert_allclose(log_p, prior, atol=0.05)
    assert (elbo < log_p).mean() > 0.9 and elbo.mean() < log_p.mean() - 0.01


def test_minus_loss_is_a_bound_unless_it_is_said_to_be_exact():
    with pytest.warns(UserWarning, match="log p is taken to be -loss"):
        guessed = from_module(own.Gaussian, loss=own.gaussian_nll, **QUICK)
    said = from_module(own.Gaussian, loss=own.gaussian_nll, bound=False, **QUICK)
    X = normal()
    estimates = [estimate_of(model.fit(X).module_) for model in (guessed, said)]
    assert estimates == ["bound", "exact"]
    np.testing.assert_allclose(guessed.score_samples(X), said.score_samples(X))


def test_functions_that_draw_nothing_are_asked_twice_only():
    asked = []

    def loss(network, x):
        asked.append(len(x))
        return own.gaussian_nll(network, x)

    module = from_module(own.Gaussian, loss=loss, bound=True, **QUICK).make_module((3,))
    rows = module.log_weights(torch.zeros(5, 3), 16)
    assert rows.shape == (16, 5) and len(asked) == 2
    assert log_prob(module, torch.zeros(5, 3), draws=64, seed=0).variance.max() == 0


def test_draws_of_a_bound_are_independent():
    module = user_vae(log_weights=None, bound=True).make_module((3,))
    rows = module.log_weights(torch.from_numpy(normal()), 8)
    assert len({tuple(row.tolist()) for row in rows}) == 8


# --- seeds


def test_everything_drawn_is_seeded_and_the_global_stream_left_alone():
    torch.manual_seed(7)
    before = torch.get_rng_state()
    X = normal()
    scores = [user_vae(random_state=seed).fit(X).score_samples(X) for seed in (0, 0, 1)]
    assert torch.equal(before, torch.get_rng_state())
    np.testing.assert_array_equal(scores[0], scores[1])
    assert not np.allclose(scores[0], scores[2])


# --- lanes and loops


def lanes_and_loop(model, X, n_keep=64):
    recipe = model.resolve(X).recipe(X.shape[1:], n_keep, seed=3)
    lanes = [Lane(np.delete(np.arange(80), slice(16 * i, 16 * i + 16)), split=i, repeat=0) for i in range(3)]
    x = torch.from_numpy(X)
    return recipe, x, [train(recipe, x, lanes, batched=batched) for batched in (True, False)]


@pytest.mark.parametrize("make", [user_vae, user_gaussian])
def test_lanes_agree_with_the_loop(make):
    X = normal(n=80)
    recipe, x, (together, alone) = lanes_and_loop(make(batch_size=16), X)
    assert can_batch(recipe, x)
    for one, other in zip(together, alone, strict=True):
        torch.testing.assert_close(one.state_dict(), other.state_dict(), atol=1e-4, rtol=1e-3)
    assert not torch.equal(next(together[0].parameters()), next(together[1].parameters()))


class Branching(own.Gaussian):
    """Its loss looks at values: vmap cannot follow."""


def branching_nll(network, x):
    nll = own.gaussian_nll(network, x)
    return nll * 2 if nll.mean() > 1e6 else nll


@pytest.mark.slow
def test_control_flow_falls_back_to_the_loop_with_one_warning(tmp_path):
    X = normal(n=80)
    model = user_gaussian(loss=branching_nll)
    recipe = model.resolve(X).recipe((3,), 64, seed=0)
    with pytest.warns(UserWarning, match="cannot run in lanes") as caught:
        assert not can_batch(recipe, torch.from_numpy(X))
    assert len(caught) == 1
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Refits run one after another")
        found = genmem.audit(X, model, out=tmp_path / "branching", folds=2, repeats=2)
    plain = genmem.audit(X, user_gaussian(), out=tmp_path / "plain", folds=2, repeats=2)
    np.testing.assert_allclose(found.scores.score, plain.scores.score, atol=1e-4)


def test_frozen_parameters_stay_as_they_are():
    def make(shape):
        network = own.Gaussian(shape)
        network.mean.requires_grad_(False)
        return network

    X = normal(n=80)
    model = user_gaussian().set_params(network=make)
    recipe = model.resolve(X).recipe((3,), 64, seed=0)
    with pytest.warns(UserWarning, match="cannot run in lanes"):
        assert not can_batch(recipe, torch.from_numpy(X))
    fitted = model.fit(X).module_.network
    assert fitted.mean.abs().max() < 0.1 and fitted.log_sd.abs().max() > 0.01


def batch_norm_network(shape):
    return nn.Sequential(nn.Linear(*shape, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, *shape))


def distance(network, x):
    return (network(x.detach() * 0 + x.flip(-1)) - x).square().sum(-1)


def test_batch_norm_trains():
    X = normal(n=80)
    model = from_module(batch_norm_network, loss=distance, bound=True, **QUICK).fit(X)
    state = model.module_.state_dict()
    assert state["network.1.num_batches_tracked"] == 10 and state["network.1.running_mean"].abs().sum() > 0
    np.testing.assert_allclose(model.score_samples(X[:7]), model.score_samples(X)[:7], atol=1e-4)


# --- plans, files, audits


def test_scikit_learn_conventions():
    model = user_vae()
    assert clone(model).get_params() == model.get_params()
    assert isinstance(model, ModuleDensity) and model.get_params()["sampler"] is own.vae_sample


@pytest.mark.slow
def test_audit_without_a_sampler_from_importable_functions(tmp_path):
    found = genmem.audit("digits", user_vae(sample=None), out=tmp_path / "run", subset=60, folds=2, repeats=2)
    assert np.isfinite(found.scores.score).all() and found.report.exists()
    params = Run.open(tmp_path / "run").plan["model"]["params"]
    assert params["network"] == {"callable": "oracles_custom:UserVAE"}
    assert params["log_weights"] == {"callable": "oracles_custom:importance_weights"}
    for shard in (tmp_path / "run" / "shards").glob("*.npz"):
        shard.unlink()
    again = stages.refit(Run.open(tmp_path / "run"))  # rebuilt from the plan
    assert again is None
    np.testing.assert_array_equal(stages.score(Run.open(tmp_path / "run")).score, found.scores.score)


@pytest.mark.slow
def test_audit_of_lambdas_resumes_only_where_they_are_passed_again(tmp_path):
    def model():
        return from_module(
            lambda shape: own.Gaussian(shape), loss=lambda net, x: own.gaussian_nll(net, x), bound=False, **QUICK
        )

    X, out = normal(), tmp_path / "run"
    found = genmem.audit(X, model(), out=out, folds=2, repeats=2)
    for shard in (out / "shards").glob("*.npz"):
        shard.unlink()
    with pytest.raises(ModelError, match="pass the same model again from Python"):
        stages.refit(Run.open(out))
    again = genmem.audit(X, model(), out=out, folds=2, repeats=2)
    np.testing.assert_array_equal(again.scores.score, found.scores.score)
    assert again.scores.score.std() > 0


def test_saved_models_name_their_functions(tmp_path):
    model = user_vae().fit(normal())
    again = load_model(save_model(model, tmp_path / "vae.safetensors"), trust=True)
    np.testing.assert_array_equal(again.score_samples(normal()), model.score_samples(normal()))
    assert all(name.startswith("network.") for name in again.module_.state_dict())
    lambdas = user_gaussian(loss=lambda network, x: own.gaussian_nll(network, x)).fit(normal())
    with pytest.raises(ModelError, match="pass the same model again|importable"):
        load_model(save_model(lambdas, tmp_path / "lambdas.safetensors"), trust=True)


class FakeLightningModule(nn.Module):
    """Shaped like a LightningModule: a network, a step that logs and averages, a trainer it does not have here."""

    def __init__(self, shape):
        super().__init__()
        self.net = own.UserVAE(shape)
        self.trainer = None

    def training_step(self, batch, batch_idx):
        loss = own.negative_elbo(self.net, batch).mean()
        self.log("loss", loss)
        return loss

    def log(self, name, value):
        raise RuntimeError("self.trainer is not attached")


@pytest.mark.slow
def test_the_network_of_a_lightning_module():
    X = normal()
    inner = from_module(lambda shape: FakeLightningModule(shape).net, loss=own.negative_elbo, bound=True, **QUICK)
    plain = from_module(own.UserVAE, loss=own.negative_elbo, bound=True, **QUICK)
    np.testing.assert_array_equal(inner.fit(X).score_samples(X), plain.fit(X).score_samples(X))
    step = from_module(FakeLightningModule, loss=lambda lit, x: lit.training_step(x, 0), bound=True, **QUICK)
    with pytest.raises(ModelError, match="trainer is not attached"):
        step.fit(X)


@pytest.mark.slow
def test_the_command_line_makes_the_model(tmp_path, monkeypatch, capsys):
    (tmp_path / "densities.py").write_text(
        "import oracles_custom as own\nfrom genmem import from_module\n\n"
        "def make_model(epochs=2):\n"
        "    return from_module(own.Gaussian, loss=own.gaussian_nll, bound=False, epochs=epochs, device='cpu')\n"
    )
    command = ["audit", "digits", "--model", "densities:make_model", "--set", "epochs=3", "--subset", "40"]
    command += ["--folds", "2", "--repeats", "2", "--out", "run"]
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "densities", raising=False)
    assert cli(command) == 0, capsys.readouterr().err
    assert Run.open(tmp_path / "run").plan["model"] == {"name": "densities:make_model", "params": {"epochs": 3}}
