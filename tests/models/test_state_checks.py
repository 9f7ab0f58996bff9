"""What a state dict does not hold is found before training, and refused with its name; what it holds is not."""

import copy
import itertools
import random

import numpy as np
import pytest
import torch
from torch import nn
from user_networks import Remembering as Net
from user_networks import normal

import genmem
from genmem.errors import ModelError
from genmem.models import DiffusionModel, from_module
from genmem.models.base import DeepDensity

X = normal(shape=(4,))


class PlainTensor(Net):
    def __init__(self):
        super().__init__()
        self.mean = torch.zeros(())

    def factor(self, h):
        if self.training:
            self.mean = 0.9 * self.mean + 0.1 * h.detach().mean()
        return 2 + self.mean


class NotPersistent(PlainTensor):
    def __init__(self):
        super().__init__()
        del self.mean
        self.register_buffer("mean", torch.zeros(()), persistent=False)


class Projection(Net):
    """It never changes, but every network draws its own."""

    def __init__(self):
        super().__init__()
        self.projection = torch.rand(())

    def factor(self, h):
        return 1 + self.projection


class LateWarmUp(Net):
    steps = 0

    def factor(self, h):
        if self.training:
            self.steps += 1
        return 0.1 + min(1.0, max(0, self.steps - 100) / 50)


class InADictionary(Net):
    def __init__(self):
        super().__init__()
        self.about = {"seen": [0.0]}

    def factor(self, h):
        if self.training:
            self.about["seen"][0] += len(h)
        return 1.5 - 1 / (1 + self.about["seen"][0])


class ByLength(Net):
    def __init__(self):
        super().__init__()
        self.seen = []

    def factor(self, h):
        if self.training:
            self.seen.append(1)
        return 1.0 if len(self.seen) < 500 else 2.0


class ByKeys(Net):
    def __init__(self):
        super().__init__()
        self.seen = {}

    def factor(self, h):
        if self.training:
            self.seen[len(self.seen)] = 1
        return 1.0 if len(self.seen) < 500 else 2.0


class BySet(ByKeys):
    def __init__(self):
        super().__init__()
        self.seen = set()

    def factor(self, h):
        if self.training:
            self.seen.add(len(self.seen))
        return 1.0 if len(self.seen) < 500 else 2.0


class Initialised(Net):
    """Data-dependent initialization with a flag that is no buffer."""

    def __init__(self):
        super().__init__()
        self.scale, self.ready = nn.Parameter(torch.ones(())), False

    def factor(self, h):
        if not self.ready:
            self.scale.data.fill_(1 / h.detach().std())
            self.ready = True
        return self.scale.square()


class OutsideTheModules(Net):
    """Average weights in a network that is not registered."""

    def __init__(self):
        super().__init__()
        self.average = [copy.deepcopy(self.first)]

    def factor(self, h):
        if self.training:
            with torch.no_grad():
                self.average[0].weight.mul_(0.9).add_(0.1 * self.first.weight)
        return 1 + self.average[0].weight.square().mean()


class BornInForward(Net):
    def __init__(self):
        super().__init__()
        self.register_buffer("mean", None)

    def factor(self, h):
        if self.training:
            self.mean = h.detach().mean()
        return 1.0


class ExtraDictionary(LateWarmUp):
    def get_extra_state(self):
        return {"steps": self.steps}

    def set_extra_state(self, state):
        self.steps = state["steps"]


class ExtraTensor(LateWarmUp):
    def get_extra_state(self):
        return torch.tensor(self.steps)

    def set_extra_state(self, state):
        self.steps = int(state)


class OfTheClass(Net):
    count = [0]

    def factor(self, h):
        self.count[0] += self.training
        return 1 + min(1.0, self.count[0] / 1000)


class OwnGenerator(Net):
    def __init__(self):
        super().__init__()
        self.noise = torch.Generator().manual_seed(3)

    def factor(self, h):
        return 1 + 0.1 * torch.randn(len(h), generator=self.noise)


class NumpyGenerator(Net):
    def __init__(self):
        super().__init__()
        self.noise = np.random.default_rng(3)

    def factor(self, h):
        return 1 + float(self.noise.random())


class TrainingNoise(OwnGenerator):
    def factor(self, h):
        return super().factor(h) if self.training else 1.0


class GlobalNumpy(Net):
    def factor(self, h):
        return 1 + np.random.random()


class GlobalRandom(Net):
    def factor(self, h):
        return 1 + random.random()


class NumpyWeights(Net):
    def __init__(self):
        super().__init__()
        self.first.weight.data = torch.from_numpy(np.random.normal(size=(8, 4)).astype(np.float32))


class Uncopied(Net):
    def __init__(self):
        super().__init__()
        self.lines = (line for line in "abc")


def density(make, loss=lambda network, x: network(x), **changes):
    return from_module(
        lambda shape: make(),
        loss=loss,
        **{"bound": True, "epochs": 3, "batch_size": 16, "device": "cpu", **changes},
    )


@pytest.mark.parametrize(
    ("make", "told"),
    [
        (PlainTensor, "depends on network.mean, .*register_buffer"),
        (NotPersistent, "depends on network.mean, .*register_buffer"),
        (Projection, "depends on network.projection, .*register_buffer"),
        (LateWarmUp, "depends on network.steps, .*register_buffer"),
        (InADictionary, r"depends on network.about\['seen'\]\[0\]"),
        (ByLength, r"depends on len\(network.seen\)"),
        (ByKeys, r"depends on len\(network.seen\)"),
        (BySet, r"depends on len\(network.seen\)"),
        (Initialised, "depends on network.ready"),
        (OutsideTheModules, r"depends on network.average\[0\].(weight|bias)"),
        (BornInForward, "load into a fresh one.*network.mean.*in __init__"),
        (ExtraDictionary, "of dict.*get_extra_state"),
        (OfTheClass, r"OfTheClass.count\[0\], outside the network"),
        (OwnGenerator, "generator of its own, network.noise.*without a generator"),
        (NumpyGenerator, "generator of its own, network.noise"),
        (TrainingNoise, "generator of its own, network.noise"),
        (GlobalNumpy, "draws from numpy.random.*torch's global stream"),
        (GlobalRandom, "draws from the module random"),
        (NumpyWeights, "draws from numpy.random.*initial weights"),
        (Uncopied, "copy.deepcopy"),
    ],
)
def test_what_a_restored_network_would_lack_is_refused(make, told):
    with pytest.raises(ModelError, match=told):
        density(make).fit(X)


def test_a_loss_that_counts_its_calls_is_refused():
    calls = itertools.count()
    number = 0

    def counting(network, x):
        nonlocal number
        number += network.training
        return network(x) * (1 + max(0, number - 1000))

    with pytest.raises(ModelError, match="number, outside the network"):
        density(Net, counting).fit(X)
    density(Net, lambda network, x: (next(calls), network(x))[1]).fit(X)  # it counts, and computes nothing with it


SEEN = torch.zeros(3)


def test_variables_outside_remain_what_they_were():
    def watching(network, x):
        SEEN.add_(1)
        return network(x)

    before = SEEN
    density(Net, watching).fit(X)
    assert SEEN is before
    assert bool((SEEN > 0).all())


def test_numbers_of_numpy_and_random_are_put_back():
    before = np.random.get_state()[1].copy(), random.getstate()
    with pytest.raises(ModelError):
        density(GlobalNumpy).fit(X)
    assert np.array_equal(np.random.get_state()[1], before[0])
    assert random.getstate() == before[1]


class TrainingOnly(LateWarmUp):
    """A warm-up of the training loss; log p does not read it."""

    def log_prob(self, x):
        return -(self.last(torch.tanh(self.first(x))) - x).square().sum(1)


class Tied(Net):
    def __init__(self):
        super().__init__()
        self.second = nn.Linear(8, 8)
        self.third = nn.Linear(8, 8)
        self.third.weight = self.second.weight

    def factor(self, h):
        return 1 + self.third(self.second(h)).square().mean(1)


class Lazy(Net):
    def __init__(self):
        super().__init__()
        self.first, self.last = nn.Sequential(nn.LazyLinear(8), nn.LazyBatchNorm1d()), nn.LazyLinear(4)


class Logging(Net):
    def factor(self, h):
        self.seen = h.mean()
        return 1.0


def normed(norm):
    def make():
        network = Net()
        norm(network.first)
        return network

    return make


class Caching(Net):
    mask = None

    def factor(self, h):
        if self.mask is None:
            self.mask = torch.linspace(0, 1, h.shape[1])
        return 1 + (h * self.mask).square().sum(1)


class Features(Net):
    """A hook keeps what a layer returns, and the loss reads it."""

    def __init__(self):
        super().__init__()
        self.seen = {}
        self.first.register_forward_hook(lambda module, inputs, output: self.seen.update(first=output))

    def factor(self, h):
        return 1 + self.seen["first"].square().mean(1)


KEPT = {
    "features": Features,
    "caching": Caching,
    "extra tensor": ExtraTensor,
    "tied": Tied,
    "lazy": Lazy,
    "logging": Logging,
    "weight_norm": normed(nn.utils.weight_norm),
    "spectral_norm": normed(nn.utils.spectral_norm),
    "weight_norm now": normed(nn.utils.parametrizations.weight_norm),
    "spectral_norm now": normed(nn.utils.parametrizations.spectral_norm),
    "batch norm": lambda: nn.Sequential(nn.BatchNorm1d(4), Net()),
}


@pytest.mark.filterwarnings("ignore:.*weight_norm:FutureWarning")
@pytest.mark.parametrize("name", KEPT)
def test_what_a_state_dict_holds_is_restored(name):
    model = density(KEPT[name]).fit(X)
    restored = density(KEPT[name]).restore(model.module_.state_dict(), (4,), len(X))
    np.testing.assert_array_equal(restored.score_samples(X), model.score_samples(X))


def test_a_counter_of_the_training_loss_alone_is_no_obstacle():
    model = density(TrainingOnly, log_prob=TrainingOnly.log_prob).fit(X)
    restored = density(TrainingOnly, log_prob=TrainingOnly.log_prob).restore(model.module_.state_dict(), (4,), len(X))
    np.testing.assert_array_equal(restored.score_samples(X), model.score_samples(X))


def make_lazy(shape):
    return nn.Sequential(nn.LazyLinear(8), nn.Tanh(), nn.LazyLinear(shape[0]))


def square(network, x):
    return (network(x) - x).square().sum(1)


def lazy_density():
    return from_module(make_lazy, loss=square, bound=True, epochs=2)


def test_lazy_networks_are_saved_and_their_weights_derive_from_the_seed(tmp_path):
    one, other = lazy_density().fit(X), lazy_density().fit(X)
    np.testing.assert_array_equal(one.score_samples(X), other.score_samples(X))
    loaded = genmem.load_model(genmem.save_model(one, tmp_path / "lazy.safetensors"), trust=True)
    np.testing.assert_array_equal(loaded.score_samples(X), one.score_samples(X))


class HalfLazy(Net):
    def __init__(self):
        super().__init__()
        self.unused = nn.LazyLinear(3)


def test_lazy_modules_that_no_call_reaches_are_refused():
    with pytest.raises(ModelError, match=r"network.unused.weight without a size.*nn.Linear instead"):
        density(HalfLazy).fit(X)


class Own(DeepDensity):
    """A density that a user wrote as a class."""

    def make_module(self, event_shape):
        return OwnModule()


class OwnModule(PlainTensor):
    estimate = "exact"

    def forward(self, x, draws=1):
        return super().forward(x)

    def log_weights(self, x, draws):
        return -self.forward(x)[None]


class Denoiser(nn.Module):
    def __init__(self, size):
        super().__init__()
        self.net, self.mean = nn.LazyLinear(size), torch.zeros(())

    def forward(self, x, t):
        if self.training:
            self.mean = self.mean + x.detach().square().mean()
        return self.net(x) + self.mean


def test_other_densities_are_checked_as_well():
    with pytest.raises(ModelError, match="depends on mean, "):
        Own(epochs=2, device="cpu").fit(X)
    with pytest.raises(ModelError, match="depends on network.mean, "):
        DiffusionModel(network=lambda shape: Denoiser(shape[0]), epochs=2, device="cpu").fit(X)
