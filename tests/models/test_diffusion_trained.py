"""Samples and the bound of diffusion models whose best denoiser, or whose density, is known."""

import numpy as np
import pytest
import torch
from scipy.stats import ks_2samp, kstest, multivariate_normal, norm
from torch import nn

from genmem.models.diffusion import DiffusionModel
from genmem.models.diffusion_module import make_betas
from genmem.models.diffusion_networks import FREQUENCIES, waves
from genmem.protocols import draw


def mixture(n, seed):
    rng = np.random.default_rng(seed)
    which = rng.random(n) < 0.3
    X = rng.normal(size=(n, 2)) * [0.5, 1.0]
    X[which] = X[which] @ [[0.6, 0.3], [0.0, 0.4]] + [4.0, 1.0]
    return X.astype(np.float32), which


class BestForMixture(nn.Module):
    """The exact mean of x_0 given x_t where x_0 is 0.7 N(-0.7, 0.3^2) + 0.3 N(1.4, 0.16^2)."""

    def __init__(self, shape):
        super().__init__()
        self.nothing = nn.Parameter(torch.zeros(1))
        alpha_bar = np.cumprod(1 - make_betas("squaredcos_cap_v2", 50, with_diffusers=False))
        self.alpha_bar = torch.from_numpy(alpha_bar)

    def forward(self, x, t):
        a, x = self.alpha_bar[t][:, None, None], x.double()[..., None]
        weight, mean, sd = (torch.tensor(v, dtype=torch.float64) for v in ([0.7, 0.3], [-0.7, 1.4], [0.3, 0.16]))
        variance, off = a * sd**2 + 1 - a, x - a.sqrt() * mean
        share = torch.softmax(weight.log() - 0.5 * variance.log() - 0.5 * off**2 / variance, -1)
        return (share * (mean + a.sqrt() * sd**2 / variance * off)).sum(-1).float() + self.nothing


def test_samples_of_the_best_denoiser_are_the_data():
    model = DiffusionModel(
        network=BestForMixture, prediction_type="sample", timesteps=50, beta_schedule="squaredcos_cap_v2"
    )
    torch.manual_seed(0)
    samples = model.make_module((1,)).sample(8000).numpy()[:, 0]
    rng = np.random.default_rng(0)
    right = rng.random(8000) < 0.3
    X = np.where(right, rng.normal(1.4, 0.16, 8000), rng.normal(-0.7, 0.3, 8000))
    assert ks_2samp(samples, X).statistic < 0.03


@pytest.fixture(scope="module")
def trained_on_a_mixture():
    model = DiffusionModel(width=64, depth=2, epochs=40, batch_size=128, learning_rate=3e-3)
    return model.fit(mixture(6000, seed=0)[0])


NARROW = np.array([[0.6, 0.3], [0.0, 0.4]])
MODES = [(0.7, [0.0, 0.0], np.diag([0.25, 1.0])), (0.3, [4.0, 1.0], NARROW.T @ np.diag([0.25, 1.0]) @ NARROW)]


@pytest.mark.slow
def test_samples_of_a_trained_model_have_the_density(trained_on_a_mixture):
    samples = draw(trained_on_a_mixture, 5000, seed=2)
    for angle in np.linspace(0, np.pi, 4, endpoint=False):
        along = np.array([np.cos(angle), np.sin(angle)])

        def distribution(z, along=along):
            parts = [w * norm.cdf(z, along @ mean, (along @ c @ along) ** 0.5) for w, mean, c in MODES]
            return sum(parts)

        assert kstest(samples[:500] @ along, distribution).pvalue > 0.01  # 500 are not told from the density
        assert kstest(samples @ along, distribution).statistic < 0.05
    narrow = samples[:, 0] > 2.2
    assert narrow.mean() == pytest.approx(0.3, abs=0.04)
    for some, (_, _, covariance) in zip((samples[~narrow], samples[narrow]), MODES, strict=True):
        correlation = covariance[0, 1] / np.sqrt(covariance[0, 0] * covariance[1, 1])
        assert np.corrcoef(some.T)[0, 1] == pytest.approx(correlation, abs=0.12)


@pytest.mark.slow
def test_the_bound_of_a_trained_model_is_near_the_density(trained_on_a_mixture):
    other, _ = mixture(3000, seed=1)
    truth = np.logaddexp.reduce([np.log(w) + multivariate_normal(mean, c).logpdf(other) for w, mean, c in MODES])
    gap = truth - trained_on_a_mixture.score_samples(other)
    assert 0 < gap.mean() < 0.16
    assert np.corrcoef(truth, truth - gap)[0, 1] > 0.8


def test_the_network_for_vectors_sees_waves():
    x = torch.randn(5, 3)
    seen = waves(x)
    expected = [x, *(torch.sin(k * x) for k in FREQUENCIES), *(torch.cos(k * x) for k in FREQUENCIES)]
    torch.testing.assert_close(seen, torch.cat(expected, 1))
