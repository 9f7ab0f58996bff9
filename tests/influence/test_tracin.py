"""TracIn against its definition, what it promises (completeness, no bias), and what it costs and survives."""

import copy
import json
import math
import tracemalloc
from functools import partial

import numpy as np
import oracles_custom as own
import oracles_tracin as oracle
import pytest
import torch
from gradient_checks import Largest
from torch import nn

import genmem
from genmem import DataError, ModelError, RunMismatchError, influence_scores, self_influence
from genmem.errors import RunError
from genmem.gradients import probe
from genmem.gradients.engine import PerExampleGradients
from genmem.gradients.products import squared_norms
from genmem.influence import Ledger, Trained, checkpoint_weights, checkpoints, selection, top_influences, tracin
from genmem.models import VAE, ConvVAE, DiffusionModel, Flow, from_module, from_pyro
from genmem.training.trajectory import Checkpoint, Trajectory, load_trajectory, remember, save_trajectory

QUICK = {"epochs": 2, "batch_size": 4, "checkpoint_every": 1, "device": "cpu"}
RNG = np.random.default_rng(0)
VECTORS = RNG.normal(size=(6, 5)).astype(np.float32)
IMAGES = (255 * RNG.random((4, 8, 8))).astype(np.uint8)
X9 = RNG.normal(size=(9, 4)).astype(np.float32)


class Bare(nn.Module):
    """A layer, a bare parameter, and one that is never used."""

    def __init__(self, shape):
        super().__init__()
        self.layer, self.scale = nn.Linear(math.prod(shape), 3), nn.Parameter(torch.ones(3))
        self.unused = nn.Parameter(torch.ones(2))


def bare_loss(network, x):
    return (torch.tanh(network.layer(x)) * network.scale - 0.5).square().sum(1)


def noisy_loss(network, x):
    return (torch.tanh(network.layer(x + torch.randn_like(x))) * network.scale - 0.5).square().sum(1)


MODELS = {
    "mlp": (lambda: VAE(hidden=(7,), latent_dim=2, **QUICK), VECTORS, 18),
    "conv": (
        lambda: ConvVAE(width=8, latent_dim=2, likelihood="discretized_logistic", **(QUICK | {"epochs": 1})),
        IMAGES,
        2,
    ),
    "flow": (lambda: Flow(transforms=1, hidden=(8,), **QUICK), VECTORS, 3),
    "diffusion": (lambda: DiffusionModel(width=6, depth=1, **QUICK), VECTORS, 18),
}
DRAW_FOR_THEMSELVES = {
    "module": (lambda: from_module(own.UserVAE, loss=own.negative_elbo, bound=True, **QUICK), 3),
    "bare": (lambda: from_module(Bare, loss=noisy_loss, bound=True, **QUICK), 2),
    "pyro": (lambda: from_pyro(pair("vae"), **QUICK), 3),
}


def pair(name):
    import pyro_pairs

    return getattr(pyro_pairs, name)


_fitted = {}


def fitted(name):
    if name not in _fitted:
        make, X = (MODELS | {name: (one, X9) for name, (one, _) in DRAW_FOR_THEMSELVES.items()})[name][:2]
        _fitted[name] = make().fit(X)
    return _fitted[name]


def agree(model, X, Z, found, gradients, *, weights="complete", scale="dot", tolerance=1e-5):
    """Scores against the definition, relative to the norms of both."""
    dot, nx, nz = oracle.tracin(
        model.module_,
        model.trajectory_,
        checkpoint_weights(model.trajectory_, weights),
        torch.from_numpy(X),
        torch.from_numpy(Z),
        gradients,
        adam=weights == "adam",
    )
    norms = np.sqrt(nx)[:, None] * np.sqrt(nz)
    divisor = {"dot": 1.0, "cosine": norms, "query": np.sqrt(nx)[:, None]}[scale]
    assert (abs(found * divisor - dot) / norms).max() < tolerance


# --- the definition


@pytest.mark.slow
@pytest.mark.parametrize("weights", ["complete", "adam"])
@pytest.mark.parametrize("name", MODELS)
def test_scores_equal_the_definition(name, weights):
    model, (_, X, draws) = fitted(name), MODELS[name]
    each = name != "diffusion"  # whose draws share their timesteps out
    gradients = partial(oracle.mean_gradients, draws=draws, seed=5, each=each)
    how = {"draws": draws, "seed": 5, "weights": weights}
    Z = X[:3]
    agree(model, X, Z, influence_scores(model, X, Z, **how), gradients, weights=weights)
    if name == "mlp":
        few = influence_scores(model, X, X[:2], **how)  # forward mode
        agree(model, X, X[:2], few, gradients, weights=weights)


@pytest.mark.slow
@pytest.mark.parametrize("scale", selection.SCALES)
@pytest.mark.parametrize("weights", ["lr", "adam"])
def test_scaled_scores_equal_the_definition(scale, weights):
    model, draws = fitted("mlp"), 3
    Z = VECTORS[1:4] + np.float32(0.5)
    moments = weights == "adam"
    found = influence_scores(model, VECTORS, Z, draws=draws, seed=5, scale=scale, weights=weights)
    gradients = partial(oracle.mean_gradients, draws=draws, seed=5)
    agree(model, VECTORS, Z, found, gradients, weights=weights, scale=scale)
    groups = np.array([1, 0, 1])
    found = influence_scores(model, VECTORS, Z, draws=draws, seed=5, scale=scale, weights=weights, groups=groups)

    def summed(network, x, side, step):
        rows = gradients(network, x, side=side, step=step)
        return rows if side == "train" else torch.stack([rows[1], rows[0] + rows[2]])

    agree(model, VECTORS, Z, found, summed, weights=weights, scale=scale)
    assert moments or scale != "cosine" or abs(found).max() <= 1 + 1e-9


@pytest.mark.parametrize("weights", ["complete", "adam"])
@pytest.mark.parametrize("name", MODELS)
def test_self_influence_equals_the_definition(name, weights):
    model, X = fitted(name), MODELS[name][1][:3]
    estimate, error = self_influence(model, X, draws=4, seed=3, weights=weights, return_std=True)
    kept = checkpoint_weights(model.trajectory_, weights)
    by_draw = partial(oracle.gradients_by_draw, draws=4, seed=3)
    truth = oracle.self_influence(
        model.module_, model.trajectory_, kept, torch.from_numpy(X), by_draw, adam=weights == "adam"
    )
    size = truth[1] + abs(truth[0])
    assert (abs(np.array([estimate, error]) - truth) / size).max() < 1e-5
    with_std = self_influence(model, X, draws=4, seed=3, weights=weights)
    assert np.array_equal(with_std, estimate)


@pytest.mark.slow
@pytest.mark.parametrize("name", DRAW_FOR_THEMSELVES)
def test_networks_that_draw_for_themselves_equal_the_definition(name):
    model, (_, draws) = fitted(name), DRAW_FOR_THEMSELVES[name]
    X = np.concatenate([X9] * 15)[:131]  # into a second block
    X, Z = X[125:] if name != "bare" else X, X9[:3]
    gradients = partial(oracle.own_noise_gradients, draws=draws, seed=5)
    agree(model, X, Z, influence_scores(model, X, Z, draws=draws, seed=5), gradients)
    agree(model, X, Z[:1], influence_scores(model, X, Z[:1], draws=draws, seed=5), gradients)  # forward mode
    kept = checkpoint_weights(model.trajectory_)

    def by_draw(network, x, i, step):
        rows = [
            oracle.own_noise_gradients(network, x, draws=4, seed=5, side="train", step=step, draw=j) for j in range(4)
        ]
        return torch.stack(rows)[:, i]

    few = torch.from_numpy(X9[:2])
    truth = oracle.self_influence(model.module_, model.trajectory_, kept, few, by_draw)
    found = self_influence(model, X9[:2], draws=4, seed=5, return_std=True)
    assert (abs(np.array(found) - truth) / (truth[1] + abs(truth[0]))).max() < 1e-5


@pytest.mark.slow
def test_networks_without_chance_are_exact():
    flow = Flow(transforms=1, hidden=(8,), noise=0.0, **QUICK).fit(VECTORS)
    network = from_module(Bare, loss=bare_loss, bound=True, **QUICK).fit(X9)
    for model, X in ((flow, VECTORS), (network, X9)):
        scores = influence_scores(model, X, X)
        own_scores, error = self_influence(model, X, return_std=True)
        np.testing.assert_allclose(own_scores, np.diag(scores), rtol=1e-5)
        assert not error.any()
        assert np.array_equal(own_scores, self_influence(model, X, draws=1, seed=9))
        np.testing.assert_allclose(np.diag(influence_scores(model, X, X, scale="cosine")), 1, rtol=1e-5)

    def gradients(network, x, side, step):
        return oracle.gradients_by_loop(network, network(x)).double()

    agree(network, X9, X9, scores, gradients)
    found = top_influences(network, X9, X9, k=1)
    assert found.coverage == "100% of 20 parameters (15 by hooks, 3 by copies, 2 unused)"


def test_shared_latents_are_drawn_anew_for_each_draw():
    model = from_pyro(pair("bare_guide"), **QUICK).fit(X9[:, :2])
    _, error = self_influence(model, X9[:, :2], draws=3, return_std=True)
    assert (error > 0).all()  # 0 if the draws of an example shared them


# --- completeness


def descent(module, x, steps, rate, optimiser=torch.optim.SGD):
    """Full-batch training with every step kept, and the losses of x before and after."""
    steppings, kept = optimiser(module.parameters(), lr=rate), []

    def keep(step):
        moments = {
            name: steppings.state[p]["exp_avg_sq"] / (1 - 0.999**step)
            for name, p in module.named_parameters()
            if "exp_avg_sq" in steppings.state.get(p, {})
        }
        kept.append(remember(module, epoch=step, step=step, learning_rate=rate, moments=moments))

    before = module(x).detach()
    keep(0)
    for step in range(1, steps + 1):
        steppings.zero_grad()
        module(x).mean().backward()
        steppings.step()
        keep(step)
    return Trajectory(tuple(kept), len(x), len(x)), (before - module(x).detach()).numpy()


class Exact(Bare):
    def forward(self, x, draws=1):
        return bare_loss(self, x)


def exact_network():
    torch.manual_seed(0)
    return Exact((4,)).double()


@pytest.mark.slow
def test_scores_of_all_examples_add_up_to_the_fall_of_the_loss():
    x, errors = torch.from_numpy(X9).double(), []
    for rate in (2e-2, 1e-2):
        module = exact_network()
        trajectory, fall = descent(module, x, 12, rate)
        total = influence_scores(Trained(module, trajectory), X9, X9).sum(0)
        errors.append(abs(total - fall).max() / abs(fall).max())
        subset = influence_scores(Trained(module, trajectory), X9[:4], X9).sum(0)  # N is that of the trajectory
        rest = influence_scores(Trained(module, trajectory), X9[4:], X9).sum(0)
        np.testing.assert_allclose(subset + rest, total, rtol=1e-6)
    assert errors[0] < 0.05
    assert 0.35 < errors[1] / errors[0] < 0.65  # first order in the learning rate
    grouped = influence_scores(Trained(module, trajectory), X9, X9, groups=np.zeros(9, int))
    np.testing.assert_allclose(grouped.sum(), fall.sum(), rtol=0.05)


@pytest.mark.slow
def test_adam_weights_come_close_to_complete():
    x, module = torch.from_numpy(X9).double(), exact_network()
    trajectory, fall = descent(module, x, 40, 5e-4, torch.optim.Adam)
    trained = Trained(module, trajectory)
    ratio = influence_scores(trained, X9, X9, weights="adam").sum() / fall.sum()
    plain = influence_scores(trained, X9, X9, weights="complete").sum() / fall.sum()
    assert abs(ratio - 1) < 0.1 and abs(ratio - 1) < 0.1 * abs(plain - 1)


def test_sparse_checkpoints_stand_for_the_steps_between():
    x, module = torch.from_numpy(X9).double(), exact_network()
    trajectory, fall = descent(module, x, 12, 2e-3)
    thin = influence_scores(Trained(module, trajectory), X9, X9, checkpoints=[0, 3, 6, 9]).sum(0)
    np.testing.assert_allclose(thin, fall, rtol=0.05, atol=0.01 * abs(fall).max())


# --- weights


def made(steps, rates=None, n=10, batch=5):
    rates = [0.1] * len(steps) if rates is None else rates
    return Trajectory(
        tuple(Checkpoint(i, s, r, dict) for i, (s, r) in enumerate(zip(steps, rates, strict=True))), n, batch
    )


def test_weights_are_the_formulas():
    path = made([0, 4, 6], [0.1, 0.2, 0.3])
    np.testing.assert_allclose(checkpoint_weights(path), [0.1 * 4 / 10, 0.2 * 2 / 10, 0])
    np.testing.assert_allclose(checkpoint_weights(path, "adam"), checkpoint_weights(path))
    np.testing.assert_allclose(checkpoint_weights(path, "lr"), [0.1, 0.2, 0.3])
    np.testing.assert_allclose(checkpoint_weights(path, "complete", [0]), [0.1 * 6 / 10])
    np.testing.assert_allclose(checkpoint_weights(path, "complete", [0, 2]), [0.1 * 6 / 10, 0])


def test_weights_refuse_what_they_cannot_know():
    for rate in (None, math.nan, 0, -1.0):
        with pytest.raises(ModelError, match=r"learning rate of each checkpoint.*at step 4"):
            checkpoint_weights(made([0, 4], [0.1, rate]))
    with pytest.raises(ModelError, match="in the order of training"):
        checkpoint_weights(made([4, 0]))
    with pytest.raises(ModelError, match="weights to be one of complete, lr, adam"):
        checkpoint_weights(made([0, 4]), "ones")
    for wrong in ([], [1, 0], [0, 0], [2], [-1]):
        with pytest.raises(ModelError, match="positions of checkpoints from 0 to 1"):
            checkpoint_weights(made([0, 4]), "complete", wrong)
    with pytest.raises(ModelError, match="Fit the model with checkpoint_every="):
        checkpoint_weights(made([]))


# --- no bias


@pytest.mark.slow
def test_self_influence_is_without_bias_and_a_squared_average_is_not():
    model = fitted("mlp")
    copies, weights = np.repeat(VECTORS[:1], 3000, 0), checkpoint_weights(model.trajectory_)
    truth = spread = 0.0
    for checkpoint, weight in zip(model.trajectory_, weights, strict=True):
        network = oracle.network_at(model.module_, checkpoint).double()
        x = torch.from_numpy(copies[:1]).double()
        noise = torch.randn(100_000, 1, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
        mean = oracle.gradients_by_loop(network, network(x, len(noise), noise))[0]
        engine = PerExampleGradients(network, x, noise=noise[:1])
        many = noise[:4000].transpose(0, 1)
        squares = squared_norms(engine.features(x.expand(4000, -1), many)).mean()
        truth += weight * float(mean.square().sum())
        spread += weight * float(squares - mean.square().sum())  # tr(S)
    estimate, error = self_influence(model, copies, draws=2, return_std=True)
    of_mean = estimate.std() / len(estimate) ** 0.5
    assert abs(estimate.mean() - truth) < 4 * of_mean
    assert np.isnan(error).all()
    noisy = self_influence(fitted("diffusion"), np.repeat(VECTORS[:1], 200, 0), draws=2)
    assert (noisy < 0).any()  # never clipped

    query = VECTORS[1:2]
    naive = (
        influence_scores(model, copies, query, draws=2) / influence_scores(model, copies, query, draws=2, scale="query")
    ) ** 2
    of_naive = naive.std() / len(naive) ** 0.5
    assert abs(naive.mean() - truth - spread / 2) < 4 * of_naive + 0.02 * spread
    assert spread / 2 > 10 * of_naive

    estimate, error = self_influence(model, copies[:400], draws=8, return_std=True)
    assert 0.8 < np.sqrt((error**2).mean()) / estimate.std() < 1.25


def test_examples_and_queries_never_share_draws():
    model = fitted("mlp")
    scores = influence_scores(model, VECTORS, VECTORS, draws=1, scale="cosine")
    assert (np.diag(scores) < 0.999).all()
    assert not np.allclose(scores, scores.T, rtol=1e-3)


# --- the same numbers


@pytest.mark.slow
def test_numbers_do_not_depend_on_blocks(monkeypatch):
    model = fitted("mlp")
    X = np.random.default_rng(1).normal(size=(40, 5)).astype(np.float32)
    calls = {
        "scores": lambda: influence_scores(model, X, X[:7], draws=3, seed=1),
        "cosine": lambda: influence_scores(model, X, X[:7], draws=3, seed=1, scale="cosine"),
        "groups": lambda: influence_scores(model, X, X[:7], draws=3, seed=1, groups=[0, 1, 2, 3, 0, 1, 2]),
        "own": lambda: self_influence(model, X, draws=3, seed=1),
        "top": lambda: top_influences(model, X, X[:7], k=4, draws=3, seed=1).proponents,
    }
    before = {name: call() for name, call in calls.items()}
    for name, call in calls.items():
        assert np.array_equal(before[name], call())
    np.testing.assert_allclose(
        influence_scores(model, X[:9], X[:3], draws=3, seed=1), before["scores"][:9, :3], rtol=1e-4
    )
    other = influence_scores(model, X, X[:7], draws=3, seed=2)
    assert not np.allclose(other, before["scores"])
    monkeypatch.setattr(checkpoints, "BATCH", {"cpu": 4})
    monkeypatch.setattr(checkpoints, "IN_LEDGER", 8)
    monkeypatch.setattr(checkpoints, "SUMS", 120)
    monkeypatch.setattr(tracin, "QUERY_BYTES", {"cpu": 5000})
    for name, call in calls.items():
        after = call()
        np.testing.assert_allclose(after, before[name], rtol=1e-4, atol=1e-6 * abs(before[name]).max())


def test_a_small_room_for_gradients_makes_small_batches(monkeypatch):
    model = fitted("mlp")
    monkeypatch.setattr(checkpoints, "GRADIENT_BYTES", {"cpu": 20_000})
    trained = Trained(model.module_, model.trajectory_)
    found = checkpoints.Visits(trained, torch.from_numpy(VECTORS), checkpoints.Settings(draws=16))
    batch = found.batch_for(by_draw=False)
    assert 1 <= batch < 64 and batch & (batch - 1) == 0
    assert found.batch_for(by_draw=True) < batch


def test_how_gradients_are_had_is_proven_once(monkeypatch):
    proofs, renewals = [], []
    prove, renew = probe.probe, checkpoints.PerExampleGradients.renew
    monkeypatch.setattr(probe, "probe", lambda *a, **k: proofs.append(k["moved"]) or prove(*a, **k))
    monkeypatch.setattr(checkpoints.PerExampleGradients, "renew", lambda self: renewals.append(1) or renew(self))
    monkeypatch.setattr(checkpoints, "BATCH", {"cpu": 2})
    monkeypatch.setattr(checkpoints, "IN_LEDGER", 2)
    top_influences(fitted("mlp"), VECTORS, VECTORS, k=1, draws=2)
    assert proofs == [False, True]
    assert 1 <= len(renewals) <= 2  # two checkpoints count; the last is tried first


# --- the strongest


@pytest.mark.parametrize("k", [1, 3, 8])
def test_the_strongest_are_those_of_the_whole_matrix(k):
    rng = np.random.default_rng(k)
    scores = rng.integers(-3, 3, size=(23, 5)).astype(float)  # with ties
    best = selection.nothing(5)
    for start in range(0, 23, 4):
        best = selection.with_block(best, scores[start : start + 4], start, k)
    order = [sorted(range(23), key=lambda i, column=column: (-column[i], i))[:k] for column in scores.T]
    assert best.rows.tolist() == order
    np.testing.assert_array_equal(best.score, np.take_along_axis(scores.T, np.array(order), 1))


@pytest.mark.parametrize("scale", selection.SCALES)
def test_top_influences_are_those_of_the_scores(scale, monkeypatch):
    monkeypatch.setattr(checkpoints, "BATCH", {"cpu": 2})
    monkeypatch.setattr(checkpoints, "IN_LEDGER", 2)
    model, told = fitted("mlp"), []
    found = top_influences(model, VECTORS, VECTORS, k=6, draws=2, scale=scale, progress=told.append)
    scores = influence_scores(model, VECTORS, VECTORS, draws=2, scale=scale)
    for strongest, values, wanted in (
        (found.proponents, found.proponent_scores, -scores),
        (found.opponents, found.opponent_scores, scores),
    ):
        assert np.array_equal(strongest, np.argsort(wanted, axis=0, kind="stable").T)
        np.testing.assert_allclose(values, np.take_along_axis(scores.T, strongest, 1))
    assert (found.weights, found.scale) == ("complete", scale)
    assert found.coverage.startswith("100% of") and "trained with" not in found.note and "Adam" in found.note
    assert [report.done for report in told] == list(range(1, 7)) and told[-1].total == 6
    assert told[-1].detail == found.coverage


@pytest.mark.slow
def test_no_matrix_of_all_pairs_is_held(monkeypatch):
    n, m = 8000, 150
    X = np.random.default_rng(0).normal(size=(n, 2)).astype(np.float32)
    model = from_module(own.Gaussian, loss=own.gaussian_nll, bound=False, **(QUICK | {"batch_size": 4000})).fit(X)
    monkeypatch.setattr(checkpoints, "SUMS", 2**17)

    def peak(call):
        tracemalloc.start()
        with Largest() as mode:
            call()
        most = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return mode.most, most

    values, numbers = peak(lambda: top_influences(model, X, X[:m], k=5, checkpoints=[0]))
    assert values < n * m / 4 and numbers < 8 * n * m / 2
    values, numbers = peak(lambda: influence_scores(model, X, X[:m], checkpoints=[0]))
    assert numbers >= 8 * n * m  # the test can see what it looks for


# --- the ledger


class Killed(BaseException):
    pass


def kill_after(blocks):
    def listener(report):
        if report.done >= blocks:
            raise Killed

    return listener


@pytest.fixture
def small_blocks(monkeypatch):
    monkeypatch.setattr(checkpoints, "BATCH", {"cpu": 2})
    monkeypatch.setattr(checkpoints, "IN_LEDGER", 2)


CALLS = {
    "scores": lambda **how: influence_scores(fitted("mlp"), VECTORS, VECTORS[:3], draws=2, **how),
    "cosine": lambda **how: influence_scores(fitted("mlp"), VECTORS, VECTORS[:3], draws=2, scale="cosine", **how),
    "own": lambda **how: self_influence(fitted("mlp"), VECTORS, draws=3, return_std=True, **how),
    "pyro": lambda **how: influence_scores(fitted("pyro"), X9, X9[:3], draws=2, weights="adam", **how),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", CALLS)
def test_a_killed_computation_resumes_to_the_same_bits(name, tmp_path, small_blocks):
    call, total = CALLS[name], []
    whole = call(ledger=Ledger(tmp_path / "whole"), progress=lambda report: total.append(report.total))
    np.testing.assert_allclose(np.array(whole), np.array(call()), rtol=1e-5)
    folder = tmp_path / "killed"
    for blocks in range(1, int(total[0]) + 1):  # each time one block further
        with pytest.raises(Killed):
            call(ledger=Ledger(folder), progress=kill_after(blocks))
    assert np.array_equal(np.array(call(ledger=Ledger(folder))), np.array(whole))


def test_what_is_done_is_not_done_again(tmp_path, small_blocks, monkeypatch):
    how = {"draws": 2, "ledger": Ledger(tmp_path)}
    first = top_influences(fitted("mlp"), VECTORS, VECTORS, k=2, **how)
    monkeypatch.setattr(checkpoints, "_block_values", None)
    again = top_influences(fitted("mlp"), VECTORS, VECTORS, k=3, **how)
    assert np.array_equal(again.proponents[:, :2], first.proponents) and again.coverage == first.coverage
    cosine = top_influences(fitted("mlp"), VECTORS, VECTORS, k=2, scale="cosine", **how)
    monkeypatch.undo()
    afresh = top_influences(fitted("mlp"), VECTORS, VECTORS, k=2, scale="cosine", draws=2)
    assert np.array_equal(cosine.proponents, afresh.proponents)
    np.testing.assert_allclose(cosine.proponent_scores, afresh.proponent_scores, rtol=1e-5)


def test_another_computation_is_refused(tmp_path):
    model, ledger = fitted("mlp"), Ledger(tmp_path)
    influence_scores(model, VECTORS, VECTORS[:3], draws=2, ledger=ledger)
    for change, message in (
        ({"draws": 3}, "draws 3 after 2"),
        ({"seed": 1}, "seed 1 after 0"),
        ({"weights": "adam"}, "weights 'adam' after 'complete'"),
        ({"checkpoints": [0]}, "steps"),
        ({"groups": [0, 0, 1]}, "groups"),
    ):
        with pytest.raises(RunMismatchError, match=message):
            influence_scores(model, VECTORS, VECTORS[:3], **({"draws": 2} | change), ledger=ledger)
    for X, Z, name in ((VECTORS + 1, VECTORS[:3], "X_train"), (VECTORS, VECTORS[1:4], "X_query")):
        with pytest.raises(RunMismatchError, match=name):
            influence_scores(model, X, Z, draws=2, ledger=ledger)
    with pytest.raises(RunMismatchError, match="self-influence"):
        self_influence(model, VECTORS, draws=2, ledger=ledger)
    other = copy.deepcopy(model)
    state = {name: value + 0.1 for name, value in model.trajectory_[1].state_dict().items()}
    moved = Checkpoint(1, model.trajectory_[1].step, model.trajectory_[1].learning_rate, lambda: state)
    other.trajectory_ = Trajectory((model.trajectory_[0], moved, model.trajectory_[2]), 6, 4)
    with pytest.raises(RunMismatchError, match="last checkpoint"):
        influence_scores(other, VECTORS, VECTORS[:3], draws=2, ledger=ledger)


def test_a_damaged_ledger_says_what_to_do(tmp_path):
    call = partial(influence_scores, fitted("mlp"), VECTORS, VECTORS[:3], draws=2, ledger=Ledger(tmp_path))
    call()
    file = next(tmp_path.glob("queries00000-0*.npz"))
    file.write_bytes(file.read_bytes()[:-40])
    with pytest.raises(RunError, match="undamaged file.*delete the file"):
        call()
    file.unlink()
    call()
    (tmp_path / "ledger.json").write_text("{")
    with pytest.raises(RunError, match="damaged file.*Delete it"):
        call()


# --- errors, and networks of another kind


def test_a_network_and_a_trajectory_from_disk_will_do(tmp_path):
    model = fitted("mlp")
    save_trajectory(model.trajectory_, tmp_path)
    fresh = model.settled_.make_module((5,))
    found = influence_scores(Trained(fresh, load_trajectory(tmp_path)), VECTORS, VECTORS[:3], weights="adam")
    assert np.array_equal(found, influence_scores(model, VECTORS, VECTORS[:3], weights="adam"))
    manifest = json.loads((tmp_path / "manifest.json").read_text())
    for lost in (lambda row: row.update(learning_rate=None), lambda row: row.pop("learning_rate")):
        lost(manifest["checkpoints"][0])
        (tmp_path / "manifest.json").write_text(json.dumps(manifest))
        with pytest.raises(ModelError, match="the learning rate of each checkpoint.*got nan at step 0"):
            influence_scores(Trained(fresh, load_trajectory(tmp_path)), VECTORS, VECTORS[:3])


@pytest.mark.slow
def test_batch_normalisation_counts_as_in_evaluation():
    images = (255 * RNG.random((6, 8, 8))).astype(np.uint8)
    model = ConvVAE(width=8, latent_dim=2, norm="batch", **QUICK).fit(images / np.float32(255))
    X = images / np.float32(255)
    before = influence_scores(model, X, X[:3], draws=2)
    model.module_.train()
    assert np.array_equal(influence_scores(model, X, X[:3], draws=2), before)
    assert model.module_.training
    gradients = partial(oracle.mean_gradients, draws=2, seed=0)
    agree(model, X, X[:3], before, gradients)


def test_a_model_is_left_as_it_was():
    model = fitted("mlp")
    state, stream = copy.deepcopy(model.module_.state_dict()), torch.random.get_rng_state()
    influence_scores(model, VECTORS, VECTORS[:3], draws=2)
    self_influence(fitted("pyro"), X9, draws=2)
    assert torch.equal(stream, torch.random.get_rng_state())
    assert all(torch.equal(value, state[name]) for name, value in model.module_.state_dict().items())


@pytest.mark.slow
def test_errors_say_what_to_do():
    model = fitted("mlp")
    with pytest.raises(ModelError, match=r"Call `fit\(X\)` first"):
        influence_scores(VAE(), VECTORS, VECTORS)
    without = VAE(hidden=(7,), latent_dim=2, epochs=20, device="cpu").fit(VECTORS)
    for call in (influence_scores, top_influences):
        with pytest.raises(ModelError, match=r"Fit it with checkpoint_every=2, or pass Trained\(module, trajectory\)"):
            call(without, VECTORS, VECTORS)
    with pytest.raises(ModelError, match=r"checkpoint_every=2"):
        self_influence(without, VECTORS)
    for wrong in (0, 7, True, 2.0):
        with pytest.raises(ModelError, match="k from 1 to 6"):
            top_influences(model, VECTORS, VECTORS, k=wrong)
    for change, message in (
        ({"draws": 0}, "draws to be an integer >= 1"),
        ({"seed": -1}, "seed to be an integer >= 0"),
        ({"scale": "l2"}, "scale to be one of dot, cosine, query"),
        ({"weights": "one"}, "weights to be one of"),
        ({"checkpoints": [2]}, "a checkpoint with steps after it"),
        ({"checkpoints": 1}, "positions of checkpoints from 0 to 2.*got 1"),
        ({"checkpoints": [0.5]}, r"got \[0.5\]"),
        ({"ledger": "folder"}, "ledger to be a genmem.influence.Ledger"),
    ):
        with pytest.raises(ModelError, match=message):
            influence_scores(model, VECTORS, VECTORS, **change)
    for wrong in (VECTORS[:, :4], VECTORS[None]):
        with pytest.raises(DataError, match=r"of shape \(5,\)"):
            influence_scores(model, VECTORS, wrong)
        with pytest.raises(DataError, match=r"of shape \(5,\)"):
            self_influence(model, wrong)
    for wrong in ([0, 1], [0, 0, 0, 0, 0, 2], [0.0] * 6, [-1, 0, 0, 0, 0, 0], []):
        with pytest.raises(DataError, match="a group for each of 6 queries"):
            influence_scores(model, VECTORS, VECTORS, groups=wrong)
    with pytest.raises(DataError, match="NaN"):
        influence_scores(model, VECTORS * np.nan, VECTORS)
    for other in (model, genmem.KNNDensity(k=2)):
        with pytest.raises(DataError, match="X_query as an array, or as rows of one shape"):
            influence_scores(other, VECTORS, [[1.0, 2.0], [3.0]])
    with pytest.raises(ModelError, match="2 or more draws"):
        self_influence(model, VECTORS, draws=1)
    with pytest.raises(ModelError, match="the network of this trajectory"):
        influence_scores(Trained(VAE(hidden=(6,)).make_module((5,)), model.trajectory_), VECTORS, VECTORS)
    bare = Trajectory(tuple(Checkpoint(c.epoch, c.step, 0.1, c.read) for c in model.trajectory_), 6, 4)
    with pytest.raises(ModelError, match='second moments of Adam.*use weights="complete"'):
        influence_scores(Trained(model.module_, bare), VECTORS, VECTORS, weights="adam")
    with pytest.raises(ModelError, match='scale="dot" for a model without gradients'):
        influence_scores(genmem.KNNDensity(k=2), VECTORS, VECTORS, scale="cosine")
    with pytest.raises(ModelError, match="for a model without gradients"):
        top_influences(genmem.KNNDensity(k=2), VECTORS, VECTORS, scale="query")


def test_networks_without_a_gradient_for_each_example_are_refused():
    class Wrong(nn.Linear):
        def __init__(self, loss):
            super().__init__(5, 2)
            self.loss = loss

        def forward(self, x, draws=1):
            return self.loss(self, x)

    def trained(loss):
        network = Wrong(loss)
        path = [remember(network, epoch=i, step=i, learning_rate=0.1) for i in range(2)]
        return Trained(network, Trajectory(tuple(path), 6, 6))

    def linear(network, x):
        return nn.functional.linear(x, network.weight, network.bias).square()

    for loss, message in (
        (lambda network, x: linear(network, x).mean(), "Return losses without summing or averaging over the batch"),
        (lambda network, x: linear(network, x).sum(1) / len(x), "do not divide by the batch size"),
        (lambda network, x: linear(network, x).detach().sum(1), "Remove detach"),
        (lambda network, x: (linear(network, x) / 0.0).sum(1), "finite gradients at every checkpoint"),
    ):
        with pytest.raises(ModelError, match=message):
            influence_scores(trained(loss), VECTORS, VECTORS)


def test_closed_forms_take_groups():
    model = genmem.KernelDensity(bandwidth=1.0)
    each = influence_scores(model, VECTORS, VECTORS)
    grouped = influence_scores(model, VECTORS, VECTORS, groups=[0, 1, 0, 1, 1, 0])
    np.testing.assert_allclose(grouped[:, 0], each[:, [0, 2, 5]].sum(1))
