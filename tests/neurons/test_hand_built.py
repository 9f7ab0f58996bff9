"""A decoder with one unit that knows one example: drops have a closed form, and most scores do not find the unit."""

import numpy as np
import pytest
import torch
from neuron_networks import PRECISION, factor_model

from genmem.neurons import SCORERS, Unit, drops

LAYER, MEMORY = "decoder.2", 6
UNITS = [Unit(LAYER, i) for i in range(7)]
SHARES = (0.5, 0.9, 1.0)
SETTINGS = {"baseline": "zero", "n_samples": 32}


@pytest.mark.parametrize("posterior", ["encoder", "fixed", "refit"])
@pytest.mark.parametrize("share", SHARES)
def test_the_drop_has_a_closed_form(share, posterior):
    module, X, r = factor_model(share)
    found = drops(module, X, UNITS, posterior=posterior, **SETTINGS).values[:, MEMORY]
    expected = PRECISION * float(r @ r) * (share - share**2 / 2)
    assert found[0] == pytest.approx(expected, rel=5e-5)
    np.testing.assert_allclose(found[1:], 0, atol=1e-4)


@pytest.mark.parametrize("share", SHARES)
def test_log_p_is_that_of_a_factor_model(share):
    module, X, r = factor_model(share)
    W, b = module.decoder[4].weight[:, :3].double(), module.decoder[4].bias.double()
    covariance = W @ W.T + torch.eye(len(b), dtype=torch.float64) / PRECISION
    normal = torch.distributions.MultivariateNormal(b, covariance)
    x = torch.tensor(X).double()
    x[0] -= share * r
    np.testing.assert_allclose(drops(module, X, []).log_prob, normal.log_prob(x).detach(), rtol=1e-5, atol=1e-3)


@pytest.mark.parametrize("share", SHARES)
def test_the_first_order_has_a_closed_form(share):
    module, X, r = factor_model(share)
    found = SCORERS["first_order"](module, X, UNITS, posterior="encoder", **SETTINGS)[:, MEMORY]
    size = PRECISION * float(r @ r)
    assert found[0] == pytest.approx(size * share * (1 - share), abs=5e-5 * size)
    np.testing.assert_allclose(found[1:], 0, atol=1e-4)


def place_of_memory(scores):
    """Return the place of the memory unit among those of its layer, 1 for the highest score."""
    return 1 + int((scores > scores[MEMORY]).sum())


@pytest.mark.slow
def test_only_the_same_example_left_out_finds_the_unit():
    """The example lies far out, so the units that carry it there matter more than the one that knows it."""
    places, slopes_at_1 = {"minus out": [], "minus others": [], "activation": []}, []
    for seed in range(8):
        for share in SHARES:
            module, X, _ = factor_model(share, seed=seed)
            without, _, _ = factor_model(0.0, seed=seed)
            values, out = (drops(m, X, UNITS, posterior="encoder", **SETTINGS).values for m in (module, without))
            places["minus out"].append(place_of_memory(values[0] - out[0]))
            places["minus others"].append(place_of_memory(values[0] - values[1:].mean(0)))
            norm = SCORERS["activation_norm"](module, X, UNITS, posterior="encoder", **SETTINGS)
            places["activation"].append(place_of_memory(norm[0] - norm[1:].mean(0)))
        slopes = SCORERS["first_order"](module, X, UNITS, posterior="encoder", **SETTINGS)[0]
        out = SCORERS["first_order"](without, X, UNITS, posterior="encoder", **SETTINGS)[0]
        slopes_at_1.append(abs(slopes[MEMORY] - out[MEMORY]))
    assert set(places["minus out"]) == {1}
    assert 1 not in places["minus others"] and 1 not in places["activation"]
    assert max(slopes_at_1) < 1e-2  # of 22.5 nats
