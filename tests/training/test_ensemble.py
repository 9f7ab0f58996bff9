"""The training loop: a lane's numbers depend on its own seeds alone."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from oracles import train_by_loop
from torch import nn

from genmem.models.vae import VAE
from genmem.training import Lane, Recipe, can_batch, fitting_lanes, measure_pace, probe, train
from genmem.training.ensemble import batches, fresh_module, isolated_streams, noise_shape
from genmem.training.trajectory import load_trajectory, remember, save_trajectory

DEVICES = ["cpu", pytest.param("cuda", marks=pytest.mark.gpu)]


class OwnNoise(nn.Module):
    """A network that draws its noise from torch's global stream."""

    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Sequential(nn.Linear(6, 8), nn.Tanh(), nn.Dropout(0.2), nn.Linear(8, 6))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        noisy = x + 0.1 * torch.randn_like(x)
        return (self.net(noisy) - x).square().sum(-1)


class Branching(nn.Module):
    """A network that cannot run under vmap: it decides by value."""

    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Linear(6, 6)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.net(x)
        if y.sum().item() > 0:
            y = -y
        return (y - x).square().sum(-1)


class Normalised(nn.Module):
    """A network with running statistics. A bias before normalisation would have no gradient but rounding, which
    Adam blows up."""

    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Sequential(nn.Linear(6, 8, bias=False), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, 6))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return (self.net(x) - x).square().sum(-1)


def a_recipe(make=None, device="cpu", **changes):
    recipe = VAE(hidden=[16], latent_dim=4, epochs=4).recipe((6,), 40, seed=5)
    recipe = replace(recipe, device=torch.device(device), batch_size=16, steps_per_epoch=2, **changes)
    return recipe if make is None else replace(recipe, make_module=make)


def some_lanes(count, n=50, same_repeat=False):
    rng = np.random.default_rng(1)
    return [Lane(np.sort(rng.permutation(n)[:40]), s, 0 if same_repeat else s // 3) for s in range(count)]


def some_data(n=50, device="cpu"):
    return torch.randn(n, 6, generator=torch.Generator().manual_seed(0)).to(device)


def weights(modules):
    return [torch.cat([v.detach().float().flatten().cpu() for v in m.state_dict().values()]) for m in modules]


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("make", [None, OwnNoise, Normalised])
def test_a_lane_is_the_same_in_any_company(make, device):
    recipe, X, lanes = a_recipe(make, device), some_data(device=device), some_lanes(7, same_repeat=make is not None)
    together = weights(train(recipe, X, lanes, batched=True))
    exact = device == "cpu" and make is not Normalised
    for chosen in ([0], [3], [2, 5], [6, 0, 4], [1, 2, 3, 4, 5]):
        alone = weights(train(recipe, X, [lanes[i] for i in chosen], batched=True))
        for i, state in zip(chosen, alone, strict=True):
            torch.testing.assert_close(state, together[i], rtol=0 if exact else 1e-4, atol=0 if exact else 1e-5)


def test_odd_widths_cost_a_last_digit_at_most():
    # Matrix products round odd-sized matrices by where they lie in memory.
    recipe, X, lanes = a_recipe(lambda: VAE(hidden=[11], latent_dim=3).make_module((6,))), some_data(), some_lanes(7)
    together, alone = weights(train(recipe, X, lanes, batched=True)), weights(train(recipe, X, lanes[4:], batched=True))
    for one, other in zip(together[4:], alone, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("make", [None, OwnNoise, Normalised])
def test_lanes_agree_with_one_after_another(make, device):
    recipe, X, lanes = a_recipe(make, device), some_data(device=device), some_lanes(3, same_repeat=True)
    batched, looped = (weights(train(recipe, X, lanes, batched=way)) for way in (True, False))
    for one, other in zip(batched, looped, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("steps", [1, 2, 3, 5])
def test_training_is_plain_minibatch_adam(steps):
    recipe, X, lanes = a_recipe().with_steps_of(steps), some_data(), some_lanes(2)
    assert (recipe.steps_per_epoch, recipe.steps_per_pass) == (steps, 2)
    expected = [train_by_loop(recipe, X, lane) for lane in lanes]
    for one, other in zip(weights(train(recipe, X, lanes, batched=False)), expected, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-6)


@pytest.mark.slow
def test_lanes_learn():
    recipe, X = a_recipe(epochs=60), some_data()
    before = fresh_module(recipe, 0)
    after = train(recipe, X, some_lanes(2), batched=True)[0]
    noise = torch.zeros(1, 50, 4)
    assert after(X, noise=noise).mean() < before(X, noise=noise).mean() - 1


def test_what_happens_between_epochs_leaves_no_trace():
    recipe, X, lanes = a_recipe(OwnNoise), some_data(), some_lanes(2, same_repeat=True)
    quiet = weights(train(recipe, X, lanes, batched=True))
    seen = []

    def disturb(epoch, lane, module):
        torch.rand(100)
        seen.append((epoch, lane))

    disturbed = weights(train(recipe, X, lanes, batched=True, on_epoch=disturb, at_epochs=(0, 2, 4)))
    assert seen == [(e, i) for e in (0, 2, 4) for i in (0, 1)]
    assert all(torch.equal(a, b) for a, b in zip(quiet, disturbed, strict=True))


def test_global_stream_is_left_alone():
    torch.manual_seed(3)
    expected = torch.rand(4)
    torch.manual_seed(3)
    train(a_recipe(OwnNoise), some_data(), some_lanes(2, same_repeat=True), batched=True)
    assert torch.equal(torch.rand(4), expected)


def test_repeats_and_splits_differ():
    recipe = a_recipe()
    assert not torch.equal(weights([fresh_module(recipe, 0)])[0], weights([fresh_module(recipe, 1)])[0])
    with isolated_streams(torch.device("cpu"), 1):
        assert noise_shape(fresh_module(recipe, 0)) == (4,)


def test_can_batch_is_proven():
    X = some_data()
    assert can_batch(a_recipe(), X)
    assert can_batch(a_recipe(OwnNoise), X)
    with pytest.warns(UserWarning, match="one after another"):
        assert not can_batch(a_recipe(Branching), X)


@pytest.mark.slow
@pytest.mark.parametrize("lanes", [0, 3])
def test_pace_is_that_of_one_network(lanes):
    pace = measure_pace(a_recipe(), some_data(), max(1, lanes), batched=lanes > 0)
    assert 0 < pace.quick <= pace.average


def test_lanes_fit_into_half_of_the_free_memory(monkeypatch):
    recipe, X = a_recipe(), some_data()
    module = recipe.make_module()
    state = 4 * 4 * sum(p.numel() for p in module.parameters())
    monkeypatch.setattr(probe, "free_bytes", lambda device: 200 * state)
    assert 1 < fitting_lanes(recipe, X) < 100  # half of it, and activations take their part
    monkeypatch.setattr(probe, "free_bytes", lambda device: 0)
    assert fitting_lanes(recipe, X) == 1


def test_activations_are_counted_and_parameters_are_not():
    recipe, X = a_recipe(), some_data()
    module = recipe.make_module()
    once = probe._kept_for_backward(recipe, module, X)
    double = probe._kept_for_backward(replace(recipe, batch_size=2 * recipe.batch_size), module, X)
    assert 1.8 < double / once <= 2.0


def test_a_container_may_leave_less_than_the_machine(tmp_path):
    assert probe._container_bytes(tmp_path) == 1 << 62
    (tmp_path / "memory.max").write_text("max\n")
    (tmp_path / "memory.current").write_text("100\n")
    assert probe._container_bytes(tmp_path) == 1 << 62
    (tmp_path / "memory.max").write_text("1000\n")
    assert probe._container_bytes(tmp_path) == 900
    assert 0 < probe.free_bytes(torch.device("cpu")) < 1 << 50


def test_batches_are_full():
    assert batches(10, 64) == (10, 1)
    assert batches(128, 64) == (64, 2)
    assert batches(191, 64) == (64, 2)


def test_trajectory_survives_the_disk(tmp_path):
    fitted = VAE(hidden=[8], latent_dim=2, epochs=5, checkpoint_every=2).fit(some_data().numpy())
    assert [c.epoch for c in fitted.trajectory_] == [0, 2, 4, 5]
    save_trajectory(fitted.trajectory_, tmp_path)
    loaded = load_trajectory(tmp_path)
    assert (loaded.n_train, loaded.batch_size) == (50, 50)
    for kept, read in zip(fitted.trajectory_, loaded, strict=True):
        assert (kept.step, kept.learning_rate) == (read.step, read.learning_rate)
        fresh = fitted.make_module((6,))
        fresh.load_state_dict(read.state_dict(), strict=True)
        for name, value in kept.state_dict().items():
            assert torch.equal(value, fresh.state_dict()[name])
        assert kept.second_moments().keys() == (dict(fitted.module_.named_parameters()).keys() if kept.step else set())
        for name, value in kept.second_moments().items():
            assert torch.equal(value, read.second_moments()[name])
    last = fitted.trajectory_[-1].state_dict()
    assert all(torch.equal(last[k], v) for k, v in fitted.module_.state_dict().items())


def test_remembering_copies():
    module = nn.Linear(2, 2)
    kept = remember(module, epoch=0, step=0, learning_rate=0.1)
    with torch.no_grad():
        module.weight.zero_()
    assert kept.state_dict()["weight"].abs().sum() > 0


@pytest.mark.parametrize("batched", [True, False])
def test_second_moments_are_those_of_adam(batched):
    """The mean of squared gradients of a network whose gradient is known: the bias of a squared distance."""
    X = torch.ones(8, 3)
    recipe = Recipe(Shift, epochs=3, batch_size=8, steps_per_epoch=1, learning_rate=0.1, seed=0, device=X.device)
    seen = {}
    lanes = [Lane(np.arange(8), split, 0) for split in range(2)]
    train(
        recipe, X, lanes, batched=batched, at_epochs=(0, 3), on_moments=lambda epoch, i, v: seen.update({(epoch, i): v})
    )
    assert seen[0, 0] == seen[0, 1] == {}
    shift, average, first = torch.zeros(3), torch.zeros(3), torch.zeros(3)
    for step in range(1, 4):
        slope = 2 * (shift - 1)
        first, average = 0.9 * first + 0.1 * slope, 0.999 * average + 0.001 * slope**2
        corrected = average / (1 - 0.999**step)
        shift = shift - 0.1 * first / (1 - 0.9**step) / (corrected.sqrt() + 1e-8)
    for i in range(2):
        torch.testing.assert_close(seen[3, i]["by"], corrected)


class Shift(nn.Module):
    """Its loss is the squared distance of x to a point."""

    noise_shape = ()

    def __init__(self):
        super().__init__()
        self.by = nn.Parameter(torch.zeros(3))

    def forward(self, x, noise=None):
        return (x - self.by).square().sum(-1)


class Differing(nn.Module):
    """A network that computes something else in lanes than alone, by a small share."""

    share = 1e-3

    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Linear(6, 6)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.net(x)
        in_lanes = torch._C._functorch.is_gradtrackingtensor(y)
        return (y * (1 + self.share * in_lanes) - x).square().sum(-1)


class Single(nn.Module):
    """A network that computes in float32 whatever its parameters are."""

    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Linear(6, 6)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return (self.net(x) @ torch.ones(6, 6)).square().sum(-1)


@pytest.mark.parametrize("share", [1e-3, 1e-6])
def test_what_float32_cannot_tell_float64_does(monkeypatch, share):
    X = some_data()
    monkeypatch.setattr(Differing, "share", share)
    if share < 1e-4:  # as rounding may do, float32 says no
        assert can_batch(a_recipe(Differing), X)
        monkeypatch.setattr(probe, "BATCH_TOLERANCE", 0.0)
    with pytest.warns(UserWarning, match="gradients differ"):
        assert not can_batch(a_recipe(Differing), X)


def test_rounding_is_no_difference(monkeypatch):
    X = some_data()
    monkeypatch.setattr(probe, "BATCH_TOLERANCE", -1.0)
    for make in (None, OwnNoise, Normalised):
        assert can_batch(a_recipe(make), X)  # a warning would be an error
    with pytest.warns(UserWarning, match="gradients differ"):
        assert not can_batch(a_recipe(Single), X)


@pytest.mark.parametrize(("seconds", "calls"), [(0.01, (40, 50)), (0.1, (8, 12)), (0.3, (4, 6)), (5.0, (2, 2))])
def test_slow_steps_are_timed_a_few_times_only(monkeypatch, seconds, calls):
    made = []

    def measured(call, device):
        made.append(call)
        return seconds

    monkeypatch.setattr(probe, "_seconds", measured)
    assert set(probe._times(lambda: None, torch.device("cpu"))) == {seconds}
    assert calls[0] <= len(made) <= calls[1]
