"""Flow: log p against autograd's Jacobian, samples against log p, lanes against the loop, bounded data, odd columns."""

import json

import numpy as np
import pytest
import torch
from contract import check_density, check_normalised
from oracles_flow import flow_log_prob_by_jacobian
from scipy import stats
from torch.func import functional_call

import genmem
from genmem.data import load
from genmem.errors import DataError, ModelError
from genmem.models.flow import Flow, FlowModule
from genmem.protocols import draw
from genmem.stages._plan import settle_model
from genmem.training.ensemble import Lane, train
from genmem.training.probe import can_batch

KINDS = ("spline", "affine")
SMALL = {"transforms": 2, "hidden": [16, 16], "epochs": 5, "learning_rate": 0.01}


def small_flow(kind="spline", **changes):
    return Flow(**{"kind": kind, **SMALL, **changes})


def normal(n=60, shape=(3,), seed=0):
    return np.random.default_rng(seed).normal(size=(n, *shape)).astype(np.float32)


def two_moons(n=400, seed=0):
    rng = np.random.default_rng(seed)
    side, angle = rng.integers(2, size=n), np.pi * rng.random(n)
    moons = np.stack([np.cos(angle) * (1 - 2 * side) + side, np.sin(angle) * (1 - 2 * side) + 0.5 * side], 1)
    return (moons + 0.1 * rng.normal(size=(n, 2))).astype(np.float32)


def three_hills(n=600, seed=0):
    rng = np.random.default_rng(seed)
    return (np.array([-3.0, 0.0, 2.0])[rng.integers(3, size=n), None] + 0.3 * rng.normal(size=(n, 1))).astype(
        np.float32
    )


# --- the contract


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("shape", [(3,), (2, 2), (1,)])
def test_contract(kind, shape):
    check_density(small_flow(kind), normal(shape=shape))


@pytest.mark.parametrize("kind", KINDS)
def test_contract_on_the_logit(kind):
    X = np.random.default_rng(0).random((60, 2, 2)).astype(np.float32)
    check_density(small_flow(kind, logit=1e-3, noise=0.0), X)


def test_contract_of_raw_pixels():
    X = np.random.default_rng(0).integers(0, 256, (60, 2, 2), dtype=np.uint8)
    check_density(small_flow(), X)


# --- log p


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("logit", [None, 0.01])
@pytest.mark.parametrize("columns", [1, 2, 5])
def test_log_p_is_the_change_of_variables(kind, logit, columns):
    X = np.random.default_rng(1).beta(2, 3, (200, columns)).astype(np.float32)
    module = small_flow(kind, logit=logit, hidden=[8]).fit(X).module_.double()
    x = torch.from_numpy(X[:10]).double()
    torch.testing.assert_close(module.log_weights(x)[0], flow_log_prob_by_jacobian(module, x))


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("X", [three_hills(), two_moons()], ids=["1-D", "2-D"])
def test_density_integrates_to_one(kind, X):
    check_normalised(small_flow(kind, epochs=15), X, low=-6, high=6)


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_density_on_the_logit_integrates_to_one(kind):
    a = 0.02
    reach = a / (1 - 2 * a)
    X = np.random.default_rng(0).beta(0.5, 0.5, (400, 1)).astype(np.float32)
    model = small_flow(kind, logit=a, epochs=15).fit(X)
    grid = np.linspace(-reach, 1 + reach, 8001)[1:-1, None]
    p = np.exp(model.score_samples(grid))
    assert np.trapezoid(p, grid[:, 0]) == pytest.approx(1, abs=0.01)
    assert np.trapezoid(p, grid[:, 0]) != pytest.approx(1, abs=1e-9)
    outside = model.score_samples(np.array([[-reach - 1e-3], [1 + reach + 1e-3], [0.5]]))
    assert outside[0] == outside[1] == -np.inf and np.isfinite(outside[2])


def test_loss_is_log_p_of_the_blurred_values():
    module = small_flow(noise=0.3).fit(normal()).module_
    x, noise = torch.from_numpy(normal(seed=1)), torch.randn(4, 60, 3)
    blurred = [module.log_weights(x + 0.3 * eps * module.scale)[0] for eps in noise]
    torch.testing.assert_close(module(x, 4, noise=noise), -torch.stack(blurred).mean(0))
    torch.testing.assert_close(module(x, noise=torch.zeros(1, 60, 3)), -module.log_weights(x)[0])


@pytest.mark.parametrize("kind", KINDS)
def test_single_precision_is_enough(kind):
    X = load("digits").X
    module = Flow(kind=kind, hidden=[32], epochs=3).fit(X[:300]).module_
    x = torch.from_numpy(X[:100])
    single = module.log_weights(x)[0].detach()
    double = module.double().log_weights(x.double())[0].detach()
    assert single.dtype == torch.float32 and double.dtype == torch.float64
    torch.testing.assert_close(single.double(), double, atol=5e-3, rtol=1e-4)


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_beats_a_gaussian_on_a_mixture(kind):
    X, held_out = two_moons(), two_moons(seed=1)
    gaussian = stats.multivariate_normal(X.mean(0), np.cov(X.T)).logpdf(held_out).mean()
    model = small_flow(kind, hidden=[32, 32], epochs=30).fit(X)
    assert model.score_samples(held_out).mean() > gaussian + (0.5 if kind == "spline" else 0.2)


def test_identity_outside_the_spline():
    model = small_flow().fit(three_hills())
    (shift,), (scale,) = model.settled_.shift, model.settled_.scale
    u = np.array([[5.5], [-9.0], [30.0]])
    np.testing.assert_allclose(
        model.score_samples(shift + scale * u), stats.norm.logpdf(u[:, 0]) - np.log(scale), rtol=1e-4
    )


# --- samples


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_samples_follow_the_density_in_one_dimension(kind):
    model = small_flow(kind, epochs=15).fit(three_hills())
    samples, grid = draw(model, 3000, seed=1)[:, 0], np.linspace(-9, 9, 4001)
    cumulated = np.cumsum(np.exp(model.score_samples(grid[:, None]))) * (grid[1] - grid[0])
    assert stats.kstest(samples, lambda x: np.interp(x, grid, cumulated)).pvalue > 1e-3


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_samples_follow_the_density_in_two_dimensions(kind):
    model = small_flow(kind, epochs=15).fit(two_moons())
    axis = np.linspace(-4, 5, 300)
    grid = np.stack(np.meshgrid(axis, axis), -1).reshape(-1, 2).astype(np.float32)
    log_p = model.module_.log_weights(torch.from_numpy(grid))[0].detach().double().numpy()
    weights = np.exp(log_p) * (axis[1] - axis[0]) ** 2
    order = np.argsort(log_p)
    samples = draw(model, 3000, seed=1)
    levels = model.score_samples(samples)  # how much of the mass lies below each level of log p?
    below = stats.kstest(levels, lambda t: np.interp(t, log_p[order], np.cumsum(weights[order])))
    assert below.pvalue > 1e-3
    for column in range(2):
        mean = weights @ grid[:, column]
        spread = np.sqrt(weights @ (grid[:, column] - mean) ** 2)
        assert abs(samples[:, column].mean() - mean) < 5 * spread / np.sqrt(3000)
        assert samples[:, column].std() == pytest.approx(spread, rel=0.08)


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_samples_of_digits_are_numbers(kind):
    X = load("digits").X
    model = Flow(kind=kind, hidden=[32], epochs=2, transforms=2).fit(X)
    samples = draw(model, 300, seed=0)
    assert samples.shape == (300, 64) and np.isfinite(samples).all()
    assert (samples[:, [0, 32, 39]] == 0).all(), "columns that never vary"
    assert np.isfinite(model.score_samples(samples)).all()


# --- lanes, and no stale answers


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("columns", [1, 4])
@pytest.mark.parametrize("noise", [0.0, 0.1])
def test_lanes_agree_with_the_loop(kind, columns, noise):
    X = normal(n=80, shape=(columns,))
    model = small_flow(kind, noise=noise, epochs=10, batch_size=16).resolve(X)
    recipe = model.recipe((columns,), 64, seed=3)
    x = torch.from_numpy(X)
    assert can_batch(recipe, x)
    lanes = [Lane(np.delete(np.arange(80), slice(16 * i, 16 * i + 16)), split=i, repeat=i % 2) for i in range(3)]
    together, alone = (train(recipe, x, lanes, batched=batched) for batched in (True, False))
    for one, other in zip(together, alone, strict=True):
        torch.testing.assert_close(one.log_weights(x), other.log_weights(x), atol=2e-3, rtol=1e-3)
    assert not torch.allclose(together[0].log_weights(x), together[1].log_weights(x), atol=0.01)


@pytest.mark.parametrize("kind", KINDS)
def test_no_stale_answers(kind):
    model = small_flow(kind).resolve(normal())
    modules = [model.make_module((3,)) for _ in range(2)]
    x = torch.from_numpy(normal(n=10, seed=1))
    expected = [flow_log_prob_by_jacobian(module, x) for module in modules]
    for i in (0, 1, 0):
        found = -functional_call(modules[0], modules[i].state_dict(), (x,), {"noise": torch.zeros(1, 10, 3)})
        torch.testing.assert_close(found, expected[i], atol=1e-4, rtol=1e-4)
    assert not torch.allclose(*expected)


def test_transforms_of_pyro_would_give_stale_answers():
    """Why the flow is not built on them: they remember what they computed by the identity of the tensor."""
    import pyro.distributions.transforms as T

    torch.manual_seed(0)
    transforms = [T.affine_autoregressive(3, [8]) for _ in range(2)]
    x = torch.randn(5, 3)

    class Called(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.transform = transforms[0]

        def forward(self, x):
            return self.transform(x)

    with torch.no_grad():
        first = Called()(x)
        state = {f"transform.{name}": value for name, value in transforms[1].state_dict().items()}
        stale, right = functional_call(Called(), state, (x,)), transforms[1](x)
        fresh = functional_call(Called(), state, (x.clone(),))
    assert torch.equal(stale, first) and not torch.allclose(stale, right)
    torch.testing.assert_close(fresh, right)


# --- settings that the data decide


def test_every_refit_has_the_settings_of_all_data():
    X = normal() * np.float32([1, 100, 0.01]) + np.float32([0, 1e6, 0])
    settled = small_flow().resolve(X)
    again = settled.resolve(X[:20])
    assert again.get_params() == settled.get_params()
    assert json.loads(json.dumps(settled.get_params())) == settled.get_params()
    u = (X - np.float32(settled.shift)) / np.float32(settled.scale)
    np.testing.assert_allclose(u.mean(0), 0, atol=0.02)
    np.testing.assert_allclose(u.std(0), 1, atol=0.02)


def test_rare_values_stay_within_reach_of_the_spline():
    X = normal(n=2000)
    X[:, 1] = 0
    X[7, 1] = 1
    settled = small_flow().resolve(X)
    u = (X - np.float32(settled.shift)) / np.float32(settled.scale)
    assert 3.9 < np.abs(u).max() < 4.1


def test_wide_data_share_one_scale():
    X = 3 * normal(n=20, shape=(40, 30)) + 5
    settled = small_flow().resolve(X)
    assert settled.shift == pytest.approx(X.mean(), abs=0.01)
    assert settled.scale == pytest.approx(max(X.std(), np.abs(X - X.mean()).max() / 4), rel=0.01)


@pytest.mark.slow
def test_columns_that_never_vary_are_left_out():
    X = np.insert(normal(), 1, 7.0, axis=1)
    model = small_flow(epochs=20).fit(X)
    assert model.settled_.constants == [[1, 7.0]] and model.constants is None
    np.testing.assert_allclose(model.score_samples(X), small_flow(epochs=20).fit(normal()).score_samples(normal()))
    assert (draw(model, 5, seed=0)[:, 1] == 7).all()
    kept = small_flow(epochs=20, constants=()).fit(X)
    assert np.isfinite(kept.score_samples(X)).all()


@pytest.mark.slow
def test_a_column_that_is_constant_in_one_fold_stays_finite():
    X = normal()
    X[:, 2] = 0
    X[50:, 2] = 1
    settled = small_flow(epochs=60).resolve(X)
    log_p = settled.fit(X[:50]).score_samples(X)
    assert np.isfinite(log_p).all() and log_p[:50].mean() > log_p[50:].mean()


def test_values_far_out_have_a_small_log_p_and_no_nan():
    X = normal() * np.float32([1, 1e-20, 1e20])
    X[0, 0] = 1e6
    log_p = small_flow().fit(X).score_samples(np.float32([[0, 0, 0], [1e38, 0, 0], [0, 1e38, 0], [3e38, 3e38, 3e38]]))
    assert np.isfinite(log_p).all() and (log_p[1:] < -1e4).all() and abs(log_p[0]) < 1e3


def test_pixels_get_the_logit_by_name():
    pixels, reals = (load(np.zeros((4, 2, 2), kind)) for kind in (np.uint8, np.float32))
    assert settle_model("flow", {}, pixels, None).logit == 1e-3
    assert settle_model("flow", {}, reals, None).logit is None
    assert settle_model("flow", {"logit": None}, pixels, None).logit is None


@pytest.mark.parametrize("kind", KINDS)
def test_narrow_networks_see_every_column(kind):
    columns = 40
    torch.manual_seed(0)  # eight units may all be dead for a column
    module = small_flow(kind, hidden=[8, 8], transforms=1).resolve(normal(shape=(columns,))).make_module((columns,))
    jacobian = torch.func.jacrev(lambda u: module.transform()(u))
    seen = torch.func.vmap(jacobian)(torch.randn(64, columns)).abs().amax(0) > 0
    assert seen[-1, :-5].all(), "the last column is transformed given all before its group"
    assert not seen.triu(1).any() and seen.diag().all()


@pytest.mark.parametrize(
    "X", [np.ones((5, 3), np.float32), np.full((4, 2, 2), 3, np.uint8), normal(n=1)], ids=["ones", "pixels", "one row"]
)
def test_every_column_constant_is_an_error(X):
    with pytest.raises(DataError, match="at least one column that varies"):
        small_flow().fit(X)


@pytest.mark.parametrize(
    ("settings", "X", "message"),
    [
        ({"logit": 0.1}, [[0.0], [1.5]], r"\[0, 1\]"),
        ({"logit": 0}, [[0.0], [0.5]], "strictly between"),
        ({"logit": 0.1}, [[0], [255]], r"\[0, 1\]"),
        ({}, [0.0, 1.0], "Reshape"),
        ({}, [[0.0], [np.nan]], "NaN"),
    ],
)
def test_data_that_do_not_suit(settings, X, message):
    with pytest.raises(DataError, match=message):
        small_flow(**settings).fit(np.array(X))


@pytest.mark.parametrize(
    "setting",
    [
        {"kind": "planar"},
        {"kind": ["spline"]},
        {"transforms": 0},
        {"hidden": []},
        {"hidden": "64"},
        {"hidden": [0]},
        {"bins": 1},
        {"passes": 1},
        {"passes": 17},
        {"noise": -0.1},
        {"noise": "much"},
        {"logit": 0.5},
        {"shift": "a"},
        {"shift": [0.0]},
        {"scale": 0},
        {"scale": [1.0, -1.0, 1.0]},
        {"scale": [1.0, 2.0]},
        {"constants": [1, 2]},
        {"constants": [[7, 0.0]]},
        {"epochs": 0},
    ],
)
def test_settings_out_of_range(setting):
    (name,) = setting
    with pytest.raises(ModelError, match=name):
        small_flow(**setting).fit(normal())


def test_state_loads_strictly():
    model = small_flow().fit(normal())
    module = model.settled_.make_module((3,))
    module.load_state_dict(model.module_.state_dict(), strict=True)
    assert isinstance(module, FlowModule)
    x = torch.from_numpy(normal())
    torch.testing.assert_close(module.log_weights(x), model.module_.log_weights(x), atol=0, rtol=0)


@pytest.mark.slow
def test_audit(tmp_path):
    model = Flow(hidden=[16], transforms=1, epochs=3, device="cpu")
    found = genmem.audit("digits", model, out=tmp_path / "run", subset=60, folds=2, repeats=2)
    assert np.isfinite(found.scores.score).all()
