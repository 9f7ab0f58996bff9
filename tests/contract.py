"""What every density must do; `check_density(model, X)` raises AssertionError with the first thing it does not."""

import tempfile
from pathlib import Path

import numpy as np
import torch
from sklearn.base import clone
from torch.func import functional_call

from genmem.models.base import DeepDensity
from genmem.models.evaluation import estimate_of
from genmem.models.saving import load_model, save_model
from genmem.protocols import Density, draw


def check_density(model, X, *, tolerance=1e-5, samples_vary=True):
    """Check a density on X, (n, *event): shapes, seeds, fresh clones, batching, saving, no stale answers."""
    assert isinstance(model, Density)
    fitted = clone(model).fit(X)
    log_p = np.asarray(fitted.score_samples(X))
    assert log_p.shape == (len(X),) and log_p.dtype.kind == "f" and np.isfinite(log_p).all()

    np.testing.assert_allclose(fitted.score_samples(X), log_p, err_msg="scoring twice")
    np.testing.assert_allclose(fitted.score_samples(X[:7]), log_p[:7], atol=tolerance, err_msg="batch size")
    np.testing.assert_allclose(clone(model).fit(X).score_samples(X), log_p, atol=tolerance, err_msg="fitting twice")

    before = clone(fitted).get_params()
    assert before == model.get_params(), "clone keeps the parameters verbatim"
    assert not [name for name in vars(clone(fitted)) if name.endswith("_")], "a clone has learned nothing"

    samples = draw(fitted, 9, seed=3)
    assert samples.shape == (9, *X.shape[1:]) and np.isfinite(samples).all()
    np.testing.assert_array_equal(samples, draw(fitted, 9, seed=3), err_msg="same seed")
    assert not samples_vary or not np.array_equal(samples, draw(fitted, 9, seed=4)), "another seed"

    refitted = clone(model).fit(X[: len(X) // 2])
    refitted.score_samples(X)
    np.testing.assert_allclose(fitted.score_samples(X), log_p, err_msg="another fit changed this one")
    _check_saved(fitted, X, log_p, tolerance)
    if isinstance(fitted, DeepDensity):
        _check_network(fitted, refitted, X, tolerance)
    return fitted


def _check_saved(fitted, X, log_p, tolerance):
    with tempfile.TemporaryDirectory() as folder:
        again = load_model(save_model(fitted, Path(folder) / "model.safetensors"), trust=True)
    assert type(again) is type(fitted)
    np.testing.assert_allclose(again.score_samples(X), log_p, atol=tolerance, err_msg="saved and loaded")
    np.testing.assert_array_equal(draw(again, 3, seed=5), draw(fitted, 3, seed=5), err_msg="samples after loading")


def _check_network(fitted, other, X, tolerance):
    """The network's loss and log weights have their shapes, and follow parameters that change under the same tensor."""
    module, x = fitted.module_, torch.as_tensor(np.asarray(X[:6], dtype=np.float32))
    shape = getattr(module, "noise_shape", None)
    noise = {} if shape is None else {"noise": torch.zeros(4, 6, *shape)}
    estimate = estimate_of(module)
    assert estimate in ("importance", "exact", "bound")

    def weights(network, state=None):
        torch.manual_seed(0)
        with torch.no_grad():
            if state is None:
                return network.log_weights(x, 4, **noise)
            return functional_call(_Calling(network), {f"network.{k}": v for k, v in state.items()}, (x, noise))

    with torch.no_grad():
        torch.manual_seed(0)
        loss = module(x, **{k: v[:1] for k, v in noise.items()})
    assert loss.shape == (6,) and loss.dtype == torch.float32 and torch.isfinite(loss).all()
    first = weights(module)
    assert first.shape == ((1 if estimate == "exact" else 4), 6)
    # The same tensor under other parameters, then again under the first: nothing may be remembered.
    torch.testing.assert_close(
        weights(module, other.module_.state_dict()), weights(other.module_), atol=tolerance, rtol=1e-4
    )
    torch.testing.assert_close(weights(module), first, atol=tolerance, rtol=1e-4)
    assert not torch.allclose(weights(other.module_), first), "the other network is another one"


class _Calling(torch.nn.Module):
    """Calls log_weights where functional_call calls forward."""

    def __init__(self, network):
        super().__init__()
        self.network = network

    def forward(self, x, noise):
        return self.network.log_weights(x, 4, **noise)


def check_normalised(model, X, *, low=-12.0, high=12.0, points=2001, tolerance=0.02, bound=False):
    """Check that p of a fitted 1-D or 2-D density integrates to 1 on a grid; for a bound, to at most 1."""
    fitted = clone(model).fit(X)
    axis = np.linspace(low, high, points if X.shape[1] == 1 else int(points**0.5) * 4)
    grid = np.stack(np.meshgrid(*[axis] * X.shape[1]), -1).reshape(-1, X.shape[1]).astype(X.dtype)
    total = np.exp(fitted.score_samples(grid)).sum() * (axis[1] - axis[0]) ** X.shape[1]
    assert total <= 1 + tolerance and (bound or total >= 1 - tolerance), f"p integrates to {total}"
    return fitted
