"""TracIn against its definition, what it promises (completeness, no bias), and what it costs and survives."""

import copy
import json
from functools import partial

import numpy as np
import oracles_tracin as oracle
import pytest
import torch
from torch import nn
from tracin_models import (
    DRAW_FOR_THEMSELVES,
    MODELS,
    QUICK,
    RNG,
    VECTORS,
    X9,
    Bare,
    agree,
    bare_loss,
    fitted,
    pair,
)

import genmem
from genmem import DataError, ModelError, influence_scores, self_influence
from genmem.gradients.engine import PerExampleGradients
from genmem.gradients.products import squared_norms
from genmem.influence import Trained, checkpoint_weights, selection, top_influences
from genmem.models import VAE, ConvVAE, Flow, from_module, from_pyro
from genmem.training.trajectory import Checkpoint, Trajectory, load_trajectory, remember, save_trajectory

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


@pytest.mark.slow
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


# --- errors, and networks of another kind


def test_a_network_and_a_trajectory_from_disk_will_do(tmp_path):
    model = fitted("mlp")
    save_trajectory(model.trajectory_, tmp_path)
    fresh = model.settled_.make_module((5,))
    found = influence_scores(Trained(fresh, load_trajectory(tmp_path)), VECTORS, VECTORS[:3], weights="adam")
    assert np.array_equal(found, influence_scores(model, VECTORS, VECTORS[:3], weights="adam"))
    manifest = json.loads((tmp_path / "manifest.json").read_text())
    del manifest["sha256"]  # as earlier versions wrote it
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
    with pytest.warns(UserWarning, match="do not add up"):
        before = influence_scores(model, X, X[:3], draws=2)
    model.module_.train()
    with pytest.warns(UserWarning, match="do not add up"):
        assert np.array_equal(influence_scores(model, X, X[:3], draws=2), before)
    assert model.module_.training
    gradients = partial(oracle.mean_gradients, draws=2, seed=0)
    agree(model, X, X[:3], before, gradients)


@pytest.mark.slow
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
