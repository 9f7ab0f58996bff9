"""record and ablate: what they replace, and that they leave the network as it was."""

import copy

import pytest
import torch
import torch.nn.functional as F
from neuron_networks import NETWORKS, Plain, Shared, density_of, squared
from torch import nn

from genmem.errors import DataError, ModelError
from genmem.neurons import ablate, record, units_of

X = torch.randn(20, 4, generator=torch.Generator().manual_seed(0))
MODES = ("mean", "zero", "resample", "noise", "reinit", "rewind")


def hooks_of(module):
    kinds = ("_forward_hooks", "_forward_pre_hooks", "_forward_hooks_with_kwargs", "_forward_pre_hooks_with_kwargs")
    return [{kind: dict(getattr(part, kind)) for kind in kinds} for part in module.modules()]


def state_of(module):
    return {name: value.clone() for name, value in module.state_dict().items()}


def unchanged(module, before):
    state, hooks, modes = before
    now = module.state_dict()
    assert now.keys() == state.keys() and all(torch.equal(now[name], state[name]) for name in state)
    assert hooks_of(module) == hooks and [part.training for part in module.modules()] == modes


def snapshot(module):
    return state_of(module), hooks_of(module), [part.training for part in module.modules()]


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("network", NETWORKS)
def test_the_network_is_as_before(network, mode):
    module = density_of(network)
    module.train()
    module.network.get_submodule("").eval()  # modes are mixed
    for parameter in module.parameters():
        parameter.requires_grad_(False)
    before, output = snapshot(module), squared(module.network, X)
    unit = units_of(module)[0]
    weights = {name: value + 1 for name, value in module.state_dict().items()}
    with ablate(module, [unit], mode, reference=X, weights=weights, sigma=1.0):
        assert not torch.equal(squared(module.network, X), output)
    unchanged(module, before)
    assert torch.equal(squared(module.network, X), output)
    with pytest.raises(ZeroDivisionError), ablate(module, [unit], mode, reference=X, weights=weights):
        raise ZeroDivisionError
    unchanged(module, before)


@pytest.mark.parametrize("mode", MODES)
def test_nested_blocks_are_one(mode):
    module = density_of(Plain)
    units, given = units_of(module), {"reference": X, "weights": module.state_dict()}
    first, second = units[1], units[7]
    with ablate(module, [first, second], "zero"):
        together = squared(module.network, X)
    with ablate(module, [first], "zero"), ablate(module, [second, second], "zero"):
        assert torch.equal(squared(module.network, X), together)
    with ablate(module, [first], mode, **given), ablate(module, [first], "zero"):
        inner = squared(module.network, X)
    with ablate(module, [first], "zero"):
        assert torch.equal(squared(module.network, X), inner) or mode in ("noise", "reinit", "rewind")


def test_what_the_next_layer_reads():
    module = density_of(Plain)
    network, unit = module.network, ("network.a", 2)
    with record(module, ["network.a"]) as values:
        network(X)
    hidden = F.relu(network.a(X))
    assert torch.equal(values["network.a"][0], hidden[:, :, None])
    with ablate(module, [unit], "mean", reference=X), record(module, ["network.a"]) as values:
        network(X)
    assert torch.equal(values["network.a"][0][:, 3:], hidden[:, 3:, None])  # recorded before it is replaced, or after
    for mode, column in (("mean", hidden[:, 2].mean().expand(20)), ("zero", torch.zeros(20))):
        edited = hidden.clone()
        edited[:, 2] = column
        with ablate(module, [unit], mode, reference=X):
            found = network(X)
        torch.testing.assert_close(found, network.c(torch.tanh(network.b(edited))))


def test_resample_takes_values_of_the_reference():
    module = density_of(Plain)
    network, hidden = module.network, F.relu(module.network.a(X))
    read = []
    with ablate(module, [("network.a", 2)], "resample", reference=X):
        handle = network.b.register_forward_pre_hook(lambda _, args: read.append(args[0]))
        network(X)
        handle.remove()
    assert torch.equal(read[0][:, :2], hidden[:, :2])
    assert set(read[0][:, 2].tolist()) <= set(hidden[:, 2].tolist()) and not torch.equal(read[0], hidden)


def test_other_incoming_weights_are_of_this_unit_alone():
    module = density_of(Plain)
    network, unit = module.network, ("network.a", 2)
    early = copy.deepcopy(network)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.add_(torch.randn_like(parameter))
    weights = {f"network.{name}": value for name, value in early.state_dict().items()}
    outputs = {}
    for mode in ("noise", "reinit", "rewind"):
        with ablate(module, [unit], mode, weights=weights, sigma=0.1, seed=2):
            outputs[mode] = network.a(X)
        assert torch.equal(outputs[mode][:, [0, 1, 3, 4, 5]], network.a(X)[:, [0, 1, 3, 4, 5]])
    assert torch.equal(outputs["rewind"][:, 2], early.a(X)[:, 2])
    assert 0.01 < (outputs["noise"] - network.a(X))[:, 2].abs().max() < 1.5
    bound = (1 + X.abs().sum(1)) / 4**0.5  # of weights that a Linear draws
    assert (outputs["reinit"][:, 2].abs() <= bound).all()
    with ablate(module, [unit], "noise", sigma=0.0):
        assert torch.equal(network.a(X), module.network.a(X))


class Tied(nn.Module):
    def __init__(self, shape):
        super().__init__()
        self.a, self.b = nn.Linear(shape[0], shape[0]), nn.Linear(shape[0], shape[0])
        self.b.weight = self.a.weight

    def forward(self, x):
        return self.b(F.relu(self.a(x)))


def test_tied_weights_stay_as_they_are_elsewhere():
    module = density_of(Tied)
    with ablate(module, [("network.a", 1)], "reinit"):
        h = F.relu(module.network.a(X))
        torch.testing.assert_close(module.network(X), F.linear(h, module.network.a.weight, module.network.b.bias))
    assert module.network.a.weight is module.network.b.weight


class Parametrized(Plain):
    def __init__(self, shape):
        super().__init__(shape)
        nn.utils.parametrizations.weight_norm(self.a)
        nn.utils.parametrizations.weight_norm(self.b)
        self.drop = nn.Dropout(0.5)

    def forward(self, x, edit=None):
        return self.c(torch.tanh(self.b(self.drop(F.relu(self.a(x))))))


@pytest.mark.parametrize("mode", MODES)
def test_parametrized_layers_and_dropout(mode):
    module = density_of(Parametrized)
    before = snapshot(module)
    weights = {"network.a.weight": torch.zeros(6, 4), "network.a.bias": torch.ones(6)}
    with ablate(module, [("network.a", 1)], mode, reference=X, weights=weights), torch.no_grad():
        found = module.network.a(X)
        assert torch.isfinite(module.network(X)).all()
    if mode == "rewind":
        assert torch.equal(found[:, 1], torch.ones(20))
    unchanged(module, before)


def test_a_layer_called_twice_is_edited_twice():
    module = density_of(Shared)
    read = []
    with ablate(module, [("network.again", 0)], "zero"):
        handle = module.network.again.register_forward_hook(lambda _, args, out: read.append(out.clone()))
        module.network(X)
        handle.remove()
    assert len(read) == 2 and all(bool((values[:, 0] == 0).all()) for values in read)


def test_half_precision():
    module = density_of(Plain).to(torch.bfloat16)
    before = snapshot(module)
    with ablate(module, [("network.a", 1)], "mean", reference=X):
        assert module.network(X.to(torch.bfloat16)).dtype == torch.bfloat16
    unchanged(module, before)


def test_gradients_flow_through_what_is_not_replaced():
    module = density_of(Plain)
    with ablate(module, [("network.a", 1)], "zero"):
        squared(module.network, X).sum().backward()
    slopes = module.network.a.weight.grad
    assert slopes[1].abs().max() == 0 and slopes[0].abs().max() > 0


def test_no_units_change_nothing():
    module = density_of(Plain)
    with ablate(module, []):
        assert hooks_of(module) == hooks_of(density_of(Plain))


def test_what_is_refused():
    module = density_of(Plain)
    for units, given, error, word in (
        ([("network.a", 0)], {"mode": "median"}, ModelError, "rewind"),
        ([("network.a", 0)], {}, DataError, "reference=X_train"),
        ([("network.a", 0)], {"mode": "noise", "sigma": -1.0}, ModelError, "sigma"),
        ([("network.a", 0)], {"mode": "rewind"}, ModelError, "checkpoint"),
        ([("network.a", 0)], {"mode": "rewind", "weights": {"network.a.weight": X}}, ModelError, "shape"),
        ([("a", 0)], {"mode": "zero"}, ModelError, "network.a"),
        ([("network.a", 9)], {"mode": "zero"}, ModelError, "from 0 to 5"),
        ([("network.a", 0)], {"mode": "zero", "part": "tail"}, ModelError, "decoder, encoder"),
        ([("network.a", 0)], {"mode": "zero", "part": "encoder"}, ModelError, "encoder"),
    ):
        before = snapshot(module)
        with pytest.raises(error, match=word), ablate(module, units, **given):
            pass
        unchanged(module, before)
    plain = nn.Sequential(nn.Linear(4, 3), nn.ReLU(), nn.Linear(3, 1))
    with pytest.raises(ModelError, match="reference=X"), ablate(plain, [("0", 0)], "zero"):
        pass
