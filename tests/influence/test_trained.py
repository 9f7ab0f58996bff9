"""Networks, losses and state dicts of a training loop that genmem has not seen."""

import copy
import subprocess
import sys

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import nn

import genmem
from genmem import ModelError, Trained, influence_scores, self_influence
from genmem.influence import top_influences

X = np.random.default_rng(0).normal(size=(20, 4)).astype(np.float32)
RATES = [0.05, 0.04, 0.03]
STEPS = [0, 10, 20]


class Coder(nn.Module):
    def __init__(self):
        super().__init__()
        self.encode, self.norm, self.decode = nn.Linear(4, 3), nn.BatchNorm1d(3), nn.Linear(3, 4)
        self.norm.momentum = 0.0
        self.train()

    def train(self, mode=True):  # the norm is frozen
        super().train(mode)
        self.norm.eval()
        return self

    def forward(self, x):
        return self.decode(torch.tanh(self.norm(self.encode(x))))


def squares(network, x):
    return 0.5 * (x - network(x)).square().sum(1)


@pytest.fixture(scope="module")
def loop():
    """The network and the states of a training loop."""
    torch.manual_seed(0)
    network, states, x = Coder(), [], torch.from_numpy(X)
    for rate in RATES:
        states.append(copy.deepcopy(dict(network.state_dict())))
        optimizer = torch.optim.SGD(network.parameters(), rate)
        for _ in range(10):
            optimizer.zero_grad()
            squares(network, x).mean().backward()
            optimizer.step()
    return network, states


def definition(states, weights):
    network, total = Coder().eval(), np.zeros((20, 20))
    for state, weight in zip(states, weights, strict=True):
        network.load_state_dict(state)
        rows = []
        for row in torch.from_numpy(X):
            parts = torch.autograd.grad(squares(network, row[None]).sum(), [*network.parameters()])
            rows.append(torch.cat([part.flatten() for part in parts]).double())
        rows = torch.stack(rows)
        total += weight * (rows @ rows.T).numpy()
    return total


def close(found, truth, tolerance=1e-6):
    assert abs(found - truth).max() < tolerance * abs(truth).max()


def test_scores_equal_the_definition_with_as_little_as_the_weights_need(loop):
    network, states = loop
    close(
        influence_scores(Trained(network, states, loss=squares), X, X, weights="equal"), definition(states, [1, 1, 1])
    )
    rated = Trained(network, states, loss=squares, learning_rate=RATES)
    close(influence_scores(rated, X, X, weights="lr"), definition(states, RATES))
    told = Trained(network, states, loss=squares, learning_rate=0.05, steps=STEPS, n_train=20)
    close(influence_scores(told, X, X), definition(states, [0.025, 0.025, 0]))
    last = Trained(network, states[-1], loss=squares)
    close(self_influence(last, X, weights="equal"), np.diag(definition(states, [0, 0, 1])))
    assert "no scale of their own" in top_influences(last, X, X[:1], weights="equal").note


def test_what_is_missing_is_named_for_each_kind_of_weights(loop):
    network, states = loop
    bare, rated = Trained(network, states, loss=squares), Trained(network, states, loss=squares, learning_rate=0.1)
    for trained, weights, message in (
        (bare, "complete", "none for learning_rate, steps, n_train. Pass learning_rate=, steps=, n_train= to Trained"),
        (rated, "complete", "none for steps, n_train"),
        (rated, "adam", "none for steps, n_train"),
        (bare, "lr", "learning_rate= of Trained for weights='lr'; got none"),
    ):
        with pytest.raises(ModelError, match=message):
            influence_scores(trained, X, X, weights=weights)
    told = Trained(network, states[-1:], loss=squares, learning_rate=0.1, steps=[7], n_train=20)
    with pytest.raises(ModelError, match='at step 7, where training ended.*weights="equal" or "lr"'):
        influence_scores(told, X, X)


@pytest.mark.slow
def test_states_are_recognised_however_a_trainer_wrapped_them(loop, tmp_path):
    network, states = loop
    truth = influence_scores(Trained(network, states, loss=squares), X, X, weights="equal")

    def found(wrapped, module=network, loss=squares):
        return influence_scores(Trained(module, wrapped, loss=loss), X, X, weights="equal")

    def renamed(name, **more):
        return [{**{name(key): value for key, value in state.items()}, **more} for state in states]

    paths = [tmp_path / f"{i}.safetensors" for i in range(3)]
    for path, state in zip(paths, states, strict=True):
        save_file(state, path)
    networks = [copy.deepcopy(network) for _ in states]
    for one, state in zip(networks, states, strict=True):
        one.load_state_dict(state)
    lightning = {"state_dict": states[0], "epoch": 3, "optimizer_states": [], "hyper_parameters": {"width": 3}}
    for wrapped in (
        renamed(lambda key: f"module.{key}"),
        renamed(lambda key: f"_orig_mod.{key}"),
        renamed(lambda key: f"module._orig_mod.{key}"),
        renamed(lambda key: f"net.{key}", **{"critic.weight": torch.ones(2)}),
        renamed(lambda key: f"module.{key}", n_averaged=torch.tensor(3)),  # of AveragedModel
        [lightning, {"epoch": 1, "model": states[1], "optimizer": {"state": {}, "param_groups": []}}, states[2]],
        [{key: value.double() for key, value in state.items()} for state in states],
        [{key: value for key, value in state.items() if "num_batches" not in key} for state in states],
        paths,
        [str(path) for path in paths],
        networks,
        (state for state in states),
    ):
        assert np.array_equal(found(wrapped), truth)
    assert np.array_equal(found(states, nn.DataParallel(network)), truth)
    assert np.array_equal(found(states, torch.compile(network, backend="eager")), truth)
    halves = [{k: v.half() if v.is_floating_point() else v for k, v in state.items()} for state in states]
    close(found(halves), truth, 1e-2)
    close(found(states, copy.deepcopy(network).half()), truth, 1e-6)
    module = genmem.from_module(lambda shape: Coder(), loss=squares, bound=False).make_module((4,))
    for given in (states, renamed(lambda key: f"network.{key}"), renamed(lambda key: f"module.{key}")):
        close(found(given, module, None), truth)


def test_states_that_cannot_be_meant_are_refused(loop, tmp_path):
    network, states = loop
    other, pickled = nn.Linear(4, 4), tmp_path / "model.pt"
    torch.save(states[0], pickled)
    quantized = {**states[0], "encode.weight": (states[0]["encode.weight"] * 127).to(torch.int8)}
    for wrong, message in (
        ([network.state_dict(), network.state_dict()], r"in the same memory.*copy\.deepcopy"),
        ([states[0], states[0]], "in the same memory"),
        ([], "list of state dicts.*an empty list"),
        (3, "list of state dicts.*got int"),
        ([3], "got int as checkpoint 0"),
        ([pickled], "may run code when read.*weights_only=True"),
        ([tmp_path / "missing.safetensors"], "no file"),
        ([{"model": states[0], "ema": states[1]}], "several, 'model', 'ema'"),
        ([{"epoch": 3}], "checkpoint 0 with the keys 'epoch'"),
        ([{}], "nothing in it"),
        ([quantized], "'encode.weight' of float32.*got int8 in checkpoint 0"),
        ([genmem.Checkpoint(0, 0, 0.1, lambda: states[0])], "Trajectory"),
    ):
        with pytest.raises(ModelError, match=message):
            Trained(network, wrong, loss=squares)
    with pytest.raises(ModelError, match="the network of this trajectory"):
        self_influence(Trained(other, states, loss=squares), X, weights="equal")
    for change, message in (
        ({"learning_rate": [0.1]}, "learning_rate: a number, or 3"),
        ({"learning_rate": "fast"}, "learning_rate"),
        ({"steps": [0, 1]}, "steps: 3 increasing integers"),
        ({"steps": [0, 2, 1]}, "steps"),
        ({"steps": [0.0, 1.0, 2.0]}, "steps"),
        ({"n_train": 0}, "n_train"),
        ({"loss": nn.MSELoss()}, "got MSELoss"),
        ({"loss": nn.MSELoss}, "got MSELoss"),
        ({"loss": 3}, "got int"),
    ):
        with pytest.raises(ModelError, match=message):
            Trained(network, states, **{"loss": squares, **change})
    trajectory = Trained(network, states).trajectory
    assert Trained(network, trajectory).trajectory is trajectory
    with pytest.raises(ModelError, match="also n_train"):
        Trained(network, trajectory, n_train=3)
    with pytest.raises(ModelError, match="got list"):
        Trained(states, network)


def test_a_network_without_its_checkpoints_is_told_what_to_pass(loop):
    network, _ = loop
    for call in (influence_scores, top_influences):
        with pytest.raises(ModelError, match=r"Coder alone\. Pass genmem\.Trained\(network, states, loss=loss\)"):
            call(network, X, X)
    with pytest.raises(ModelError, match=r"genmem\.Trained"):
        self_influence(network, X)


class Plain(nn.Module):
    """Returns its losses, and takes neither draws nor noise."""

    def __init__(self, noise=0.0):
        super().__init__()
        self.layer, self.noise = nn.Linear(4, 4), noise

    def forward(self, x):
        return (self.layer(x + self.noise * torch.randn_like(x)) - x).square().sum(1)


@pytest.mark.parametrize("noise", [0.0, 1.0])
def test_a_forward_pass_without_draws_equals_one_with_them(noise):
    class Drawing(Plain):
        loops_over_draws = True

        def forward(self, x, draws=1):
            return torch.stack([super(Drawing, self).forward(x) for _ in range(draws)]).mean(0)

    def functional(network, x):
        return Plain.forward(network, x)

    state = {"layer.weight": torch.eye(4) / 2, "layer.bias": torch.zeros(4)}
    truth = influence_scores(Trained(Drawing(noise), state), X, X[:3], weights="equal", draws=4)
    for trained in (Trained(Plain(noise), state), Trained(Plain(noise), state, loss=functional)):
        assert np.array_equal(influence_scores(trained, X, X[:3], weights="equal", draws=4), truth)
        assert np.array_equal(influence_scores(trained, X, X[:1], weights="equal", draws=4)[:, 0].shape, (20,))
    own = self_influence(Trained(Drawing(noise), state), X, weights="equal", draws=3)
    assert np.array_equal(self_influence(Trained(Plain(noise), state), X, weights="equal", draws=3), own)


@pytest.mark.slow
def test_packages_are_attributes_after_import():
    code = "import genmem; print(genmem.influence.top_influences.__name__, genmem.Trained.__name__, genmem.Trajectory)"
    said = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout
    assert said.split()[:2] == ["top_influences", "Trained"] and "Trajectory" in said
