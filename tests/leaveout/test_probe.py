"""Timed trials of ways to refit: what is slow is tried a little."""

import pytest
import torch

from genmem.leaveout import probe
from genmem.models.vae import VAE
from genmem.training.probe import Pace


@pytest.fixture
def recipe():
    return VAE(hidden=[8], latent_dim=2, epochs=2).recipe((6,), 40, seed=0)


def stand_in(monkeypatch, step_seconds):
    """Let a step of all lanes take `step_seconds(lanes)`; return the numbers of lanes that are tried."""
    tried = []

    def pace(recipe, X, lanes, *, batched):
        tried.append(lanes if batched else 0)
        return Pace(step_seconds(lanes) / lanes, step_seconds(lanes) / lanes)

    monkeypatch.setattr(probe, "measure_pace", pace)
    return tried


@pytest.mark.parametrize(
    ("step_seconds", "expected"),
    [
        (lambda lanes: 0.09 * lanes, [0, 2, 4]),  # slow, and nothing gained
        (lambda lanes: 0.002 * lanes, [0, 2, 4, 40]),  # quick enough to try
        (lambda lanes: 0.2 if lanes < 40 else 1.0, [0, 2, 4, 40]),  # slow but gaining
    ],
)
def test_lanes_that_are_slow_and_gain_nothing_end_the_trials(monkeypatch, recipe, step_seconds, expected):
    tried, X = stand_in(monkeypatch, step_seconds), torch.randn(50, 6)
    loop = probe.try_here(recipe, X, [0], 4)
    ways = probe.try_here(recipe, X, [2, 4, 40], 4, loop)
    assert tried == [way.lanes for way in (*loop, *ways)] == expected
    assert len({(way.score, way.refit) for way in (*loop, *ways)}) == 1 and loop[0].score > 0 and loop[0].refit > 0


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
