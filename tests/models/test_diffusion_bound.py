"""The variational bound of diffusion models: against its definition, closed forms and diffusers' scheduler."""

import math

import numpy as np
import pytest
import torch
from contract import check_normalised
from oracles_diffusion import bound_by_definition, gap_of_gaussian
from scipy.stats import kstest, norm
from torch import nn

from genmem.errors import ModelError
from genmem.models.diffusion import DiffusionModel
from genmem.models.diffusion_module import OWN, _linear_terms, make_betas, make_schedule, positions
from genmem.models.evaluation import DRAWS, log_prob, stream_noise, summarise

PREDICTIONS = ("v_prediction", "epsilon", "sample")


class Wobble(nn.Module):
    """A fixed network that is wrong in its own way at every timestep."""

    def __init__(self, shape):
        super().__init__()
        self.layer = nn.Linear(math.prod(shape), math.prod(shape))

    def forward(self, x, t):
        return torch.tanh(self.layer(x)) * (0.5 + 0.1 * torch.cos(t.to(x.dtype)))[:, None]


class BestForGaussian(nn.Module):
    """The best prediction of the noise where x_0 ~ N(0, v I)."""

    def __init__(self, beta, v):
        super().__init__()
        alpha_bar = torch.as_tensor(np.cumprod(1 - beta))
        self.factor = ((1 - alpha_bar).sqrt() / (alpha_bar * v + 1 - alpha_bar)).float()
        self.nothing = nn.Parameter(torch.zeros(1))

    def forward(self, x, t):
        return self.factor[t][:, None] * x + self.nothing


def a_module(prediction_type="v_prediction", variance="large", constants=(), d=3, **changes):
    settings = {"network": Wobble, "timesteps": 9, "beta_schedule": "linear", "constants": list(constants)}
    settings |= {"shift": [0.5] * d, "scale": [1.0 + i for i in range(d)]} | changes
    model = DiffusionModel(prediction_type=prediction_type, variance=variance, **settings)
    torch.manual_seed(3)
    return model.make_module((d,)).eval()


def some_data(n=5, d=3, seed=0):
    return np.random.default_rng(seed).normal(0.3, 1.5, (n, d)).astype(np.float32)


def many(module, X, draws, seed=0):
    noise = torch.randn(draws, len(X), *module.noise_shape, generator=torch.Generator().manual_seed(seed))
    with torch.no_grad():
        return module.log_weights(torch.as_tensor(X), draws, noise=noise)


@pytest.mark.parametrize("variance", ["large", "small"])
@pytest.mark.parametrize("prediction_type", PREDICTIONS)
def test_bound_equals_its_definition(prediction_type, variance):
    X, constants = some_data(), [[1, 0.25]]
    X[:, 1] = 0.25
    for fixed, varies in (([], [True] * 3), (constants, [True, False, True])):
        module = a_module(prediction_type, variance, fixed, timesteps=24)
        beta = make_betas("linear", 24, with_diffusers=False)
        expected, noise = bound_by_definition(
            module.network,
            X,
            beta,
            prediction_type=prediction_type,
            variance=variance,
            shift=module.shift.double(),
            scale=module.scale.double(),
            varies=varies,
            draws=2000,
        )
        rows = many(module, X, 16 * 1600).double().numpy()
        spread = np.sqrt(noise**2 + rows.var(0) / len(rows))
        assert (spread < 0.05 * (1 + np.abs(expected))).all()  # close enough for a mistake to show
        np.testing.assert_array_less(np.abs(rows.mean(0) - expected), 4.5 * spread)


def test_an_untrained_network_has_the_log_density_of_a_gaussian():
    # It predicts v = 0, which is right for N(0, I) after scaling: the bound is tight, and without any noise.
    X = some_data(50)
    model = DiffusionModel(timesteps=7, width=8).resolve(X)
    found = log_prob(model.make_module((3,)), torch.from_numpy(X), draws=16, seed=0)
    np.testing.assert_allclose(found.log_prob, norm.logpdf(X, model.shift, model.scale).sum(1), atol=1e-4)
    assert found.variance.max() < 1e-8


def test_noise_that_leaves_much_of_the_example_is_accounted_for():
    # Three steps leave half of the signal, so that KL(q(x_T | x_0) || N(0, I)) counts; the bound is still tight.
    schedule = make_schedule(np.full(3, 0.2), "large")
    assert schedule.alpha_bar[-1] > 0.5
    assert _linear_terms(schedule) == pytest.approx((0.5 * math.log(2 * math.pi), 0.5))


@pytest.mark.parametrize("timesteps", [2, 25, 400])
def test_gap_of_a_gaussian_is_the_closed_form(timesteps):
    beta, v, d = make_betas("linear", timesteps, with_diffusers=False), 0.5, 4
    model = DiffusionModel(
        network=lambda shape: BestForGaussian(beta, v),
        prediction_type="epsilon",
        timesteps=timesteps,
        beta_schedule="linear",
    )
    module = model.make_module((d,))
    X = np.full((100, d), v**0.5, np.float32)  # the bound depends on |x|^2 alone, and takes its mean here
    rows = many(module, X, 16 * 60).double()
    gap = norm.logpdf(X, 0, v**0.5).sum(1).mean() - rows.mean().item()
    error = rows.mean(0).std().item() / len(X) ** 0.5
    assert error < 0.02
    assert gap == pytest.approx(d * gap_of_gaussian(beta, v), abs=5 * error)


def test_the_gap_of_a_gaussian_closes():
    gaps = [gap_of_gaussian(make_betas(name, t, with_diffusers=False), 0.5) for t in (10, 100, 1000) for name in OWN]
    assert min(gaps) > 0 and max(gaps[6:]) < 2e-3 < min(gaps[:3])


@pytest.mark.parametrize("objective", ["simple", "bound"])
@pytest.mark.parametrize("d", [1, 2])
def test_bound_integrates_to_at_most_one(d, objective):
    X = np.random.default_rng(0).normal(size=(200, d)).astype(np.float32)
    X[:100] += 3
    model = DiffusionModel(width=16, depth=2, epochs=30, timesteps=25, objective=objective)
    fitted = check_normalised(model, X, low=-8, high=11, points=301 if d == 1 else 100, bound=True)
    assert fitted.score_samples(X).mean() > norm.logpdf(X, X.mean(0), X.std(0)).sum(1).mean()  # and says something


# --- how noisy it is


def test_every_row_is_without_bias():
    module, X = a_module(), np.repeat(some_data(1), 4000, 0)
    rows = many(module, X, DRAWS).double()
    error = rows.std(1) / len(X) ** 0.5
    truth = many(module, X, 160, seed=1).double().mean()
    assert ((rows.mean(1) - truth).abs() < 4.5 * error).all()
    assert (error < 0.05).all()


def test_positions_are_uniform_and_even():
    z = torch.randn(40, 3000, generator=torch.Generator().manual_seed(0))
    found = positions(z)
    assert found.min() >= 0 and found.max() < 1
    assert all(kstest(row, "uniform").pvalue > 1e-4 for row in found.numpy())
    for first, size in ((0, 16), (16, 16), (0, 8), (8, 8), (32, 8), (0, 4), (0, 2)):
        gaps = found[first : first + size].sort(0).values.diff(dim=0)
        torch.testing.assert_close(gaps, torch.full_like(gaps, 1 / size), atol=1e-6, rtol=0)
    shifts = (found[0] - found[16]) % (1 / 16)
    assert kstest(shifts.numpy() * 16, "uniform").pvalue > 1e-4  # another stream, another shift


def test_timesteps_follow_the_proposal():
    module = a_module(timesteps=6)
    t = module._propose(torch.randn(16, 20_000, generator=torch.Generator().manual_seed(0)))
    share = torch.bincount(t.flatten(), minlength=6) / t.numel()
    np.testing.assert_allclose(
        share, make_schedule(make_betas("linear", 6, with_diffusers=False), "large").proposal, atol=0.003
    )


def test_even_timesteps_and_the_linear_denoiser_lower_the_noise():
    module, X = a_module(timesteps=200), torch.from_numpy(some_data(1)).expand(400, 3)
    noise = torch.randn(16, 400, 4, generator=torch.Generator().manual_seed(0))
    y, eps, shared = module._scaled(X), noise[..., :-1], module.shared

    @torch.no_grad()
    def spread(t, cost, linear=True):
        signal, level = module._at("signal", t), module._at("level", t)
        error = shared["to_noise"][t] ** 2 * module._square_error(y, eps, t)
        known = module._squares(signal**2 * eps - signal * level * y)
        return (cost[t] * (error - linear * known)).mean(0).std().item()

    schedule = make_schedule(make_betas("linear", 200, with_diffusers=False), "large")
    weight = 200 * torch.from_numpy(0.5 * schedule.weight)
    uniform = torch.randint(200, (16, 400), generator=torch.Generator().manual_seed(1))
    even, proposed = (positions(noise[..., -1]) * 200).long(), module._propose(noise[..., -1])
    steps = [
        spread(uniform, weight, linear=False),
        spread(even, weight, linear=False),
        spread(proposed, shared["cost"], linear=False),
        spread(proposed, shared["cost"]),
    ]
    assert all(worse > 1.3 * better for worse, better in zip(steps, steps[1:], strict=False)), steps
    with torch.no_grad():
        assert module.log_weights(X, 16, noise=noise).mean(0).std().item() == pytest.approx(steps[-1], rel=1e-3)


@pytest.mark.parametrize("draws", [8, 16, 64])
def test_noise_is_what_it_is_said_to_be(draws):
    module, X = a_module(timesteps=50), torch.from_numpy(some_data(60))
    runs = [log_prob(module, X, draws=draws, seed=s) for s in range(40)]
    true = np.stack([run.log_prob for run in runs]).var(0, ddof=1).mean()
    said = np.mean([run.variance.mean() for run in runs])
    assert true > 1e-3
    assert 0.8 < said / true < 1.6  # halves of one stream say a little too much, never too little


def test_variance_of_a_bound_is_that_of_the_means_of_streams():
    weights = torch.randn(70, 4, dtype=torch.float64)
    means = weights[:64].reshape(4, 16, 4).mean(1).numpy()
    log_p, effective, variance = summarise(weights, bound=True)
    np.testing.assert_allclose(log_p, weights.mean(0))
    np.testing.assert_allclose(variance, means.var(0, ddof=1) / 4)
    assert (effective == 70).all()
    np.testing.assert_array_equal(summarise(weights[:1], bound=True)[2], 0)
    np.testing.assert_allclose(summarise(weights[:2], bound=True)[2], (weights[0] - weights[1]) ** 2 / 4)


def test_rows_may_be_cut_anywhere(monkeypatch):
    module, X = a_module(), torch.from_numpy(some_data(4))
    noise = stream_noise(module.noise_shape, 5, torch.device("cpu"))[:, :4]
    whole = module.log_weights(X, 16, noise=noise)
    monkeypatch.setattr("genmem.models.diffusion_module.VALUES_AT_ONCE", 40)
    torch.testing.assert_close(module.log_weights(X, 16, noise=noise), whole)
    assert module.sample(29).shape == (29, 3)


def test_precision():
    module, X = a_module(timesteps=100), torch.from_numpy(some_data(20))
    noise = stream_noise(module.noise_shape, 5, torch.device("cpu"))[:, :20]
    single = module.log_weights(X, 16, noise=noise)
    double = module.double().log_weights(X.double(), 16, noise=noise.double())
    assert double.dtype == torch.float64
    torch.testing.assert_close(single.double(), double, rtol=1e-4, atol=1e-3)


def test_objectives():
    X, noise = torch.from_numpy(some_data(6)), torch.randn(3, 6, 4)
    bound, simple = a_module(objective="bound"), a_module()
    torch.testing.assert_close(bound(X, 3, noise=noise), -bound.log_weights(X, 3, noise=noise).mean(0))
    y = (X - simple.shift) / simple.scale
    t = (positions(noise[..., -1]) * 9).long()
    alpha_bar = torch.from_numpy(np.cumprod(1 - make_betas("linear", 9, with_diffusers=False))).float()[t][..., None]
    x_t = alpha_bar.sqrt() * y + (1 - alpha_bar).sqrt() * noise[..., :-1]
    v = alpha_bar.sqrt() * noise[..., :-1] - (1 - alpha_bar).sqrt() * y
    answer = simple.network(x_t.flatten(0, 1), t.flatten()).view_as(v)
    torch.testing.assert_close(simple(X, 3, noise=noise), (answer - v).square().mean(-1).mean(0))


# --- against diffusers


@pytest.mark.parametrize("timesteps", [20, 1000])
@pytest.mark.parametrize("name", OWN)
def test_schedule_is_that_of_diffusers(name, timesteps):
    scheduler = pytest.importorskip("diffusers", reason="compares with diffusers").DDPMScheduler(
        num_train_timesteps=timesteps,
        beta_start=0.1 / timesteps,
        beta_end=min(20 / timesteps, 0.999),
        beta_schedule=name,
    )
    own = make_betas(name, timesteps, with_diffusers=False)
    np.testing.assert_allclose(np.cumprod(1 - own), scheduler.alphas_cumprod.numpy(), rtol=2e-4, atol=1e-7)
    np.testing.assert_allclose(make_betas(name, timesteps, with_diffusers=True), own, rtol=2e-3)
    if timesteps == 1000 and name == "linear":
        assert (own[0], own[-1]) == pytest.approx((1e-4, 0.02))


@pytest.mark.parametrize("variance", ["large", "small"])
@pytest.mark.parametrize("prediction_type", PREDICTIONS)
def test_reverse_step_is_that_of_diffusers(prediction_type, variance):
    diffusers = pytest.importorskip("diffusers", reason="compares with diffusers")
    module = a_module(prediction_type, variance, timesteps=30)
    scheduler = diffusers.DDPMScheduler(
        num_train_timesteps=30,
        beta_start=0.1 / 30,
        beta_end=20 / 30,
        prediction_type=prediction_type,
        variance_type=f"fixed_{variance}",
        clip_sample=False,
    )
    x = torch.randn(4000, 3, generator=torch.Generator().manual_seed(0))
    for step in (29, 17, 5, 1):
        t = torch.full((len(x),), step)
        with torch.no_grad():
            output, mean = module.network(x, t), module.reverse_mean(x, t)
        theirs = scheduler.step(output, step, x, generator=torch.Generator().manual_seed(1)).prev_sample
        noise = torch.randn(x.shape, generator=torch.Generator().manual_seed(1))
        torch.testing.assert_close(mean + module._at("spread", t) * noise, theirs, rtol=1e-3, atol=1e-4)


def test_other_schedules_come_from_diffusers():
    pytest.importorskip("diffusers", reason="compares with diffusers")
    assert make_betas("sigmoid", 10, with_diffusers=False).shape == (10,)
    with pytest.raises(ModelError, match="squaredcos_cap_v2"):
        make_betas("straight", 10, with_diffusers=False)
