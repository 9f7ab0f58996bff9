"""How refits are done is a rule on the plan; short trials tell what they take."""

from itertools import count

import numpy as np
import pytest
import torch
from refits import PlainDensity, planned

from genmem.leaveout import ensure_probe, probe
from genmem.models.vae import VAE
from genmem.run import Splits
from genmem.training import Pace
from genmem.training.probe import step_flops


def recipe_of(model, width=6, n=40):
    return model.recipe((width,), n, seed=0)


@pytest.mark.slow
@pytest.mark.parametrize("seconds", [1e-9, 3600.0])
@pytest.mark.parametrize(("hidden", "method"), [([8], "lanes"), ([4096, 4096], "loop")])
def test_the_clock_has_no_say_in_the_method(tmp_path, monkeypatch, blobs, seconds, hidden, method):
    monkeypatch.setattr(probe, "measure_pace", lambda *_, **__: Pace(seconds, seconds))
    monkeypatch.setattr(probe, "_seconds_each", lambda *_: seconds)
    found = ensure_probe(planned(tmp_path / "r", blobs[0], VAE(hidden=hidden, latent_dim=2, epochs=6)))
    assert found["method"] == method
    lanes = -(-12 // found["workers"]) if method == "lanes" else 1
    assert found["lanes"] == lanes and (seconds > 1 or found["workers"] == 1)


@pytest.mark.slow
def test_two_plans_of_one_command_agree(tmp_path, monkeypatch, blobs):
    one = ensure_probe(planned(tmp_path / "one", blobs[0]))
    ticks = count()
    monkeypatch.setattr(probe.time, "perf_counter", lambda: next(ticks) ** 2 / 1e3)  # ever slower
    other = ensure_probe(planned(tmp_path / "other", blobs[0]))
    assert (one["method"], one["device"]) == (other["method"], other["device"])


def test_a_planned_method_stays(tmp_path, blobs):
    run = planned(tmp_path / "r", blobs[0], method="loop", lanes=1)
    assert ensure_probe(run) == {"method": "loop", "lanes": 1, "device": "cpu"}


@pytest.mark.parametrize(
    ("model", "splits", "flops", "fitting", "lanes"),
    [
        (VAE(hidden=[8], latent_dim=2), Splits.k_fold(40, 5, 8), 1e7, 1000, 40),
        (VAE(hidden=[8], latent_dim=2), Splits.k_fold(40, 5, 20), 1e7, 1000, 40),
        (VAE(hidden=[8], latent_dim=2), Splits.k_fold(40, 5, 8), 4e8, 1000, 20),
        (VAE(hidden=[8], latent_dim=2), Splits.k_fold(40, 5, 8), 1.1e9, 1000, 0),
        (VAE(hidden=[8], latent_dim=2), Splits.k_fold(40, 3, 1), 1e7, 1000, 0),
        (VAE(hidden=[8], latent_dim=2), Splits.k_fold(40, 5, 8), 1e7, 7, 7),
        (PlainDensity(), Splits.k_fold(40, 5, 8), 1e7, 1000, 5),
        (PlainDensity(), Splits.k_fold(40, 3, 8), 1e7, 1000, 0),
    ],
)
def test_how_many_lanes(monkeypatch, model, splits, flops, fitting, lanes):
    monkeypatch.setattr(probe, "step_flops", lambda *_: flops)
    monkeypatch.setattr(probe, "fitting_lanes", lambda *_: fitting)
    monkeypatch.setattr(probe, "can_batch", lambda *_: True)
    assert probe.lanes_for(recipe_of(model), torch.randn(40, 6), splits) == lanes


def test_what_cannot_be_batched_is_a_loop(monkeypatch):
    monkeypatch.setattr(probe, "can_batch", lambda *_: False)
    recipe = recipe_of(VAE(hidden=[8], latent_dim=2))
    assert probe.lanes_for(recipe, torch.randn(40, 6), Splits.k_fold(40, 5, 8)) == 0


def test_operations_are_those_of_the_matrices():
    model = VAE(hidden=[32], latent_dim=4, batch_size=10).resolve(np.random.default_rng(0).normal(size=(40, 6)))
    recipe = recipe_of(model)
    weights = sum(p.numel() for p in recipe.make_module().parameters() if p.ndim == 2)
    first = 6 * 32  # nothing flows back to the examples
    assert step_flops(recipe, torch.randn(40, 6)) == 10 * 2 * (3 * weights - first)


@pytest.mark.parametrize(
    ("each", "most", "calls", "seconds"),
    [(0.02, 16, 2, 0.7), (1e-3, 256, 6, 0.8), (1e-6, 512, 6, 0.1), (1.0, 16, 1, 16)],
)
def test_few_examples_are_timed_where_they_are_slow(monkeypatch, each, most, calls, seconds):
    seen = []

    def measured(call, some):
        seen.append(len(some))
        return each * len(some)

    monkeypatch.setattr(probe, "_seconds", measured)
    assert probe._seconds_each(lambda some: None, torch.zeros(1000, 3), 16) == pytest.approx(each)
    assert max(seen) <= most and len(seen) <= calls and sum(seen) * each <= seconds
    assert probe._seconds_each(lambda some: None, torch.zeros(5, 3), 16) == pytest.approx(each)
    assert seen[-1] == 5
